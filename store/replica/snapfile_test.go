package replica

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"testing"

	"github.com/lni/dragonboat/v4/raftpb"
	"github.com/lni/vfs"
)

// snapshotFileOf is the file of a snapshot in which machine.SaveSnapshot has written
// data.
func snapshotFileOf(t testing.TB, data []byte) []byte {
	t.Helper()
	var blocks, sums []byte
	payload := append(make([]byte, noSessionsSize), data...)
	for len(payload) > 0 {
		b := payload[:min(len(payload), snapshotBlockSize)]
		payload = payload[len(b):]
		sum := binary.BigEndian.AppendUint32(nil, crc32.ChecksumIEEE(b))
		blocks = append(append(blocks, b...), sum...)
		sums = append(sums, sum...)
	}
	h := raftpb.SnapshotHeader{
		Version: snapshotFileVersion, ChecksumType: raftpb.CRC32IEEE,
		PayloadChecksum: binary.BigEndian.AppendUint32(nil, crc32.ChecksumIEEE(sums)),
	}
	b, err := h.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	h.HeaderChecksum = binary.BigEndian.AppendUint32(nil, crc32.ChecksumIEEE(b))
	if b, err = h.Marshal(); err != nil {
		t.Fatal(err)
	}
	file := binary.LittleEndian.AppendUint64(nil, uint64(len(b)))
	file = append(file, b...)
	file = append(file, make([]byte, snapshotHeaderSize-len(file))...)
	file = append(file, blocks...)
	file = binary.LittleEndian.AppendUint64(file, uint64(len(blocks)))
	return append(file, snapshotTailMagic...)
}

// readSnapshotFile reads all that machine.SaveSnapshot has written.
func readSnapshotFile(t testing.TB, content []byte) ([]byte, error) {
	t.Helper()
	const path = "snapshot"
	fs := vfs.NewMem()
	f, err := fs.Create(path)
	if err == nil {
		_, err = f.Write(content)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	s, err := openSnapshotFile(fs, path)
	if err != nil {
		return nil, err
	}
	defer s.close()
	return io.ReadAll(s)
}

func TestSnapshotFileIsReadWhateverItsLength(t *testing.T) {
	for _, n := range []int{0, 1, 1000, snapshotBlockSize - noSessionsSize, snapshotBlockSize, 2 * snapshotBlockSize, 2*snapshotBlockSize + 1} {
		data := bytes.Repeat([]byte("x"), n)
		got, err := readSnapshotFile(t, snapshotFileOf(t, data))
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes of %d, %v", len(got), n, err)
		}
	}
}

func TestSnapshotFileThatIsNotAsItWasWrittenIsRefused(t *testing.T) {
	data := []byte("what a state machine has saved")
	good := snapshotFileOf(t, data)
	refused := func(what string, at int, bad []byte) {
		t.Helper()
		if got, err := readSnapshotFile(t, bad); !errors.Is(err, errSnapshotFile) {
			t.Errorf("%s %d: %q, %v", what, at, got, err)
		}
	}
	headerEnd := 8 + int(binary.LittleEndian.Uint64(good))
	for i := range good {
		if headerEnd <= i && i < snapshotHeaderSize {
			continue // nothing is there
		}
		refused("cut at", i, good[:i])
		bad := bytes.Clone(good)
		bad[i] ^= 1
		refused("changed at", i, bad)
	}
	refused("more", 1, append(bytes.Clone(good), 0))
}

// FuzzSnapshotFile reads what nobody vouches for. That it is as it was written is seen
// at the end.
func FuzzSnapshotFile(f *testing.F) {
	f.Add([]byte{})
	f.Add(make([]byte, 2000))
	f.Add(snapshotFileOf(f, []byte("what a state machine has saved")))
	f.Fuzz(func(t *testing.T, content []byte) {
		if got, err := readSnapshotFile(t, content); err == nil && len(got) > len(content) {
			t.Fatalf("%d bytes of %d", len(got), len(content))
		}
	})
}
