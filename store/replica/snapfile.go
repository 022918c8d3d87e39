package replica

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"

	"github.com/lni/dragonboat/v4/raftpb"
	"github.com/lni/vfs"
)

// The file of a snapshot, which Dragonboat writes around what machine.SaveSnapshot
// does (version 2 of its format), is
//
//	header   1,024 bytes: a length, 8 bytes, and a raftpb.SnapshotHeader of that length
//	blocks   2 MiB of the payload each, the last one less, each with its CRC32
//	tail     the length of the blocks, 8 bytes, and 8 bytes that are always the same
//
// and the payload is what there is of Dragonboat's own sessions, of which a replica
// has none, and then the state machine's. Its numbers are little-endian, and its
// CRC32s are of the IEEE's polynomial, big-endian.
const (
	snapshotFileVersion = 2

	snapshotHeaderSize = 1024
	snapshotBlockSize  = 2 << 20
	snapshotTailSize   = 16
	noSessionsSize     = 16
)

var snapshotTailMagic = []byte{0x3F, 0x5B, 0xCB, 0xF1, 0xFA, 0xBA, 0x81, 0x9F}

var errSnapshotFile = errors.New("the snapshot is damaged")

// snapshotFile reads what machine.SaveSnapshot has written out of the file of a
// snapshot, without a NodeHost. It comes to the end only if the file is whole.
type snapshotFile struct {
	f      vfs.File
	left   int64     // of the blocks, in bytes
	sum    []byte    // of the blocks' CRC32s, as the header has it
	sums   hash.Hash // of those that have been read
	block  []byte    // the memory of one
	unread []byte    // the part of it
}

// openSnapshotFile opens one whose blocks are yet to be looked at. Its errors are of
// the file system, or wrap errSnapshotFile.
func openSnapshotFile(fs vfs.FS, path string) (*snapshotFile, error) {
	f, err := fs.Open(path)
	if err != nil {
		return nil, err
	}
	s := &snapshotFile{f: f, sums: crc32.NewIEEE()}
	if err := s.begin(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return s, nil
}

func (s *snapshotFile) close() error { return s.f.Close() }

// begin reads the header, the tail and the sessions.
func (s *snapshotFile) begin() error {
	info, err := s.f.Stat()
	if err != nil {
		return err
	}
	s.left = info.Size() - snapshotHeaderSize - snapshotTailSize
	if s.left < noSessionsSize {
		return fmt.Errorf("%w: it is too short", errSnapshotFile)
	}
	var head [snapshotHeaderSize]byte
	if _, err := io.ReadFull(s.f, head[:]); err != nil {
		return err
	}
	size := binary.LittleEndian.Uint64(head[:])
	if size > snapshotHeaderSize-8 {
		return fmt.Errorf("%w: it has no header", errSnapshotFile)
	}
	h, err := parseSnapshotHeader(head[8 : 8+size])
	if err != nil {
		return err
	}
	s.sum = h.PayloadChecksum

	var tail [snapshotTailSize]byte
	if _, err := s.f.ReadAt(tail[:], info.Size()-snapshotTailSize); err != nil {
		return err
	}
	if binary.LittleEndian.Uint64(tail[:]) != uint64(s.left) || !bytes.Equal(tail[8:], snapshotTailMagic) {
		return fmt.Errorf("%w: it has no end", errSnapshotFile)
	}
	var sessions [noSessionsSize]byte
	if _, err := io.ReadFull(s, sessions[:]); err != nil {
		return err
	}
	if binary.LittleEndian.Uint64(sessions[8:]) != 0 {
		return fmt.Errorf("%w: it has sessions of another program", errSnapshotFile)
	}
	return nil
}

// parseSnapshotHeader reads a header that nothing vouches for.
func parseSnapshotHeader(b []byte) (h raftpb.SnapshotHeader, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: malformed header", errSnapshotFile)
		}
	}()
	switch err := h.Unmarshal(b); {
	case err != nil:
		return h, fmt.Errorf("%w: malformed header: %w", errSnapshotFile, err)
	case h.Version != snapshotFileVersion || h.ChecksumType != raftpb.CRC32IEEE || h.CompressionType != raftpb.NoCompression:
		return h, fmt.Errorf("%w: it has version %d, checksum type %v and %v, which this version of dkv does not write", errSnapshotFile, h.Version, h.ChecksumType, h.CompressionType)
	}
	sum := h.HeaderChecksum // of the header without it
	h.HeaderChecksum = nil
	if b, err = h.Marshal(); err != nil || len(sum) != crc32.Size || binary.BigEndian.Uint32(sum) != crc32.ChecksumIEEE(b) {
		return h, fmt.Errorf("%w: wrong checksum of the header", errSnapshotFile)
	}
	return h, nil
}

// Read implements io.Reader.
func (s *snapshotFile) Read(p []byte) (n int, err error) {
	if len(s.unread) == 0 {
		if err := s.next(); err != nil {
			return 0, err
		}
	}
	n = copy(p, s.unread)
	s.unread = s.unread[n:]
	return n, nil
}

// next reads a block. It returns io.EOF behind the last one, if all are those that
// were written.
func (s *snapshotFile) next() error {
	if s.left == 0 {
		if !bytes.Equal(s.sums.Sum(nil), s.sum) {
			return fmt.Errorf("%w: wrong checksum", errSnapshotFile)
		}
		return io.EOF
	}
	if s.block == nil {
		s.block = make([]byte, min(s.left, snapshotBlockSize+crc32.Size))
	}
	b := s.block[:min(s.left, int64(len(s.block)))]
	if len(b) <= crc32.Size {
		return fmt.Errorf("%w: malformed", errSnapshotFile)
	}
	if _, err := io.ReadFull(s.f, b); err != nil {
		return err
	}
	s.left -= int64(len(b))
	data, sum := b[:len(b)-crc32.Size], b[len(b)-crc32.Size:]
	if binary.BigEndian.Uint32(sum) != crc32.ChecksumIEEE(data) {
		return fmt.Errorf("%w: wrong checksum of a block", errSnapshotFile)
	}
	s.sums.Write(sum)
	s.unread = data
	return nil
}
