package backup

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"testing"
	"testing/iotest"
	"time"

	"dkv/internal/block"
	"dkv/maple"
	"dkv/store"
	"dkv/store/engine"
	"dkv/store/engine/enginetest"
)

// filled is an engine with n keys, a lock and one that is shared.
func filled(t testing.TB, f engine.Factory, n int) engine.Engine {
	t.Helper()
	db := f.New(engine.Options{})
	set := func(space engine.Space, key string, value []byte) {
		if !db.Apply(&engine.Op{Kind: engine.Set, Space: space, Key: key, Value: value, DeleteIn: time.Hour}, 0).Done {
			t.Fatalf("%q not set", key)
		}
	}
	for i := range n {
		set(engine.Keys, fmt.Sprintf("key%06d", i), []byte(fmt.Sprint("value ", i)))
	}
	set(engine.Locks, "lock", make([]byte, store.OwnerSize))
	set(engine.Shared, "shared\x00\x00\x00\x00\x00\x00\x00\x01", make([]byte, store.OwnerSize))
	return db
}

func write(t testing.TB, db engine.Engine) ([]byte, store.Backup) {
	t.Helper()
	view := db.View()
	defer view.Release()
	var out bytes.Buffer
	b, err := Write(context.Background(), &out, view)
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes(), b
}

func checksum(db engine.Engine) uint64 {
	view := db.View()
	defer view.Release()
	return view.Checksum()
}

func TestWhatIsLoadedIsWhatWasSaved(t *testing.T) {
	for name, f := range map[string]engine.Factory{"maple": maple.Factory, "naive": enginetest.Naive} {
		for _, n := range []int{0, 1, 20_000} {
			db := filled(t, f, n)
			stream, wrote := write(t, db)
			want := store.Backup{
				Revision: store.Revision(db.Revision()), Keys: int64(n), Locks: 2,
				Bytes: int64(len(stream)), Checksum: wrote.Checksum,
			}
			if wrote != want || len(wrote.Checksum) != 2*sha256.Size {
				t.Errorf("%s: wrote %+v, not %+v", name, wrote, want)
			}
			if told, err := Verify(iotest.OneByteReader(bytes.NewReader(stream))); err != nil || told != wrote {
				t.Errorf("%s: verified %+v, %v; not %+v", name, told, err, wrote)
			}
			loaded, told, err := Load(bytes.NewReader(stream), f, engine.Options{})
			if err != nil || told != wrote {
				t.Fatalf("%s: loaded %+v, %v; not %+v", name, told, err, wrote)
			}
			if checksum(loaded) != checksum(db) {
				t.Errorf("%s: the state of %d keys is another once it is loaded", name, n)
			}
		}
	}
}

func TestWhatIsRestoredGoesOnBeyondAllThatTheOldStoreMayHaveGiven(t *testing.T) {
	for name, f := range map[string]engine.Factory{"maple": maple.Factory, "naive": enginetest.Naive} {
		db := filled(t, f, 3)
		stream, wrote := write(t, db)
		restored, told, err := Restore(bytes.NewReader(stream), f, engine.Options{})
		if err != nil || told != wrote || restored.Revision() != db.Revision()+Gap {
			t.Fatalf("%s: %+v, %v, revision %d", name, told, err, restored.Revision())
		}
		restored.Skip(math.MaxUint64 - Gap + 1 - restored.Revision())
		stream, _ = write(t, restored)
		if db, _, err := Restore(bytes.NewReader(stream), f, engine.Options{}); err == nil || db != nil {
			t.Errorf("%s: there is no room behind revision %d", name, restored.Revision())
		}
	}
}

// fails checks that a stream is neither verified nor loaded.
func fails(t *testing.T, stream []byte, want error, what string, at int) {
	t.Helper()
	if b, err := Verify(bytes.NewReader(stream)); !errors.Is(err, want) || b != (store.Backup{}) {
		t.Fatalf("%s %d: verified: %+v, %v", what, at, b, err)
	}
	if db, _, err := Load(bytes.NewReader(stream), maple.Factory, engine.Options{}); !errors.Is(err, want) || db != nil {
		t.Fatalf("%s %d: loaded: %v", what, at, err)
	}
	if store.KindOf(want) != store.KindFinal {
		t.Fatalf("%v is not final", want)
	}
}

func TestEachByteThatIsChangedIsNoticed(t *testing.T) {
	stream, _ := write(t, filled(t, maple.Factory, 3))
	for i := range stream {
		bad := bytes.Clone(stream)
		for _, change := range []byte{1, 2, 4, 8, 16, 32, 64, 128, 255} {
			bad[i] = stream[i] ^ change
			if _, err := Verify(bytes.NewReader(bad)); !errors.Is(err, store.ErrBackupDamaged) {
				t.Fatalf("byte %d changed by %x: %v", i, change, err)
			}
			if change == 1<<(i%8) {
				fails(t, bad, store.ErrBackupDamaged, "changed at", i)
			}
		}
	}
}

func TestEachCutIsNoticed(t *testing.T) {
	stream, _ := write(t, filled(t, maple.Factory, 3))
	for i := range stream {
		fails(t, stream[:i], store.ErrBackupDamaged, "cut at", i)
	}
}

func TestWhatIsBehindTheEndIsNoticed(t *testing.T) {
	stream, _ := write(t, filled(t, maple.Factory, 3))
	for _, more := range [][]byte{{0}, make([]byte, 8), stream} {
		fails(t, append(bytes.Clone(stream), more...), store.ErrBackupDamaged, "more", len(more))
	}
}

// blocksOf takes a backup apart.
func blocksOf(t testing.TB, stream []byte) (payloads [][]byte) {
	blocks := block.NewReader(bytes.NewReader(stream))
	for {
		b, err := blocks.Next()
		if err == io.EOF {
			return payloads
		}
		if err != nil {
			t.Fatal(err)
		}
		payloads = append(payloads, bytes.Clone(b))
	}
}

// streamOf is a stream of payloads whose checksums are right; the last gets a right end.
func streamOf(payloads [][]byte, end bool) []byte {
	var out bytes.Buffer
	w := block.NewWriter(&out)
	for _, p := range payloads {
		w.Write(p)
	}
	if end {
		sum := sha256.Sum256(out.Bytes())
		last := binary.AppendUvarint([]byte{endBlock}, uint64(out.Len()))
		w.Write(append(last, sum[:]...))
	}
	return out.Bytes()
}

func TestBlocksThatDoNotBelongTogetherAreNoticed(t *testing.T) {
	stream, _ := write(t, filled(t, maple.Factory, 20_000))
	good := blocksOf(t, stream)
	n := len(good)
	if n < 5 {
		t.Fatalf("%d blocks", n)
	}
	swapped := append([][]byte{good[0], good[2], good[1]}, good[3:]...)
	fails(t, streamOf(swapped, false), store.ErrBackupDamaged, "swapped", 1)
	without := append([][]byte{good[0], good[1]}, good[3:]...)
	fails(t, streamOf(without, false), store.ErrBackupDamaged, "without", 2)
	twice := append([][]byte{good[0], good[1], good[1]}, good[2:]...)
	fails(t, streamOf(twice, false), store.ErrBackupDamaged, "twice", 1)
	fails(t, streamOf(good[1:], false), store.ErrBackupDamaged, "without", 0)

	// One that says of itself another revision than the engine's state has.
	first := append([]byte(magic), version, 1, 0, 0)
	forged := streamOf(append([][]byte{first}, good[1:n-1]...), true)
	if _, err := Verify(bytes.NewReader(forged)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Load(bytes.NewReader(forged), maple.Factory, engine.Options{}); !errors.Is(err, store.ErrBackupDamaged) {
		t.Errorf("another revision: %v", err)
	}
}

func TestOtherVersionIsToldFromDamage(t *testing.T) {
	first := append([]byte(magic), version+1, 7, 7, 7, 7)
	fails(t, streamOf([][]byte{first, []byte("Xyz")}, false), store.ErrBackupVersion, "version", version+1)
}

func TestStateOfAnotherEngineIsRefused(t *testing.T) {
	stream, _ := write(t, filled(t, enginetest.Naive, 3))
	if _, err := Verify(bytes.NewReader(stream)); err != nil {
		t.Errorf("verify: %v", err)
	}
	if db, _, err := Load(bytes.NewReader(stream), maple.Factory, engine.Options{}); err == nil || errors.Is(err, store.ErrBackupDamaged) || db != nil {
		t.Errorf("load: %v", err)
	}
}

// failing takes so many bytes.
type failing struct {
	room int
	err  error
}

func (f *failing) Write(p []byte) (int, error) {
	n := min(len(p), f.room)
	f.room -= n
	if n < len(p) {
		return n, f.err
	}
	return n, nil
}

func TestErrorOfTheWriterComesBack(t *testing.T) {
	db := filled(t, maple.Factory, 50_000)
	stream, _ := write(t, db)
	view := db.View()
	defer view.Release()
	broken := errors.New("no room")
	for _, room := range []int{0, 1, 1 << 16, len(stream) / 2, len(stream) - 1} {
		if b, err := Write(context.Background(), &failing{room, broken}, view); err != broken || b != (store.Backup{}) {
			t.Errorf("after %d bytes: %+v, %v", room, b, err)
		}
	}
	if _, err := Write(context.Background(), &failing{room: 100}, view); err != io.ErrShortWrite {
		t.Errorf("short write: %v", err)
	}
	if _, err := Write(context.Background(), &failing{room: len(stream)}, view); err != nil {
		t.Errorf("just enough: %v", err)
	}
}

type canceling struct {
	writes int
	cancel func()
}

func (c *canceling) Write(p []byte) (int, error) {
	if c.writes--; c.writes == 0 {
		c.cancel()
	}
	return len(p), nil
}

func TestBackupEndsWithItsContext(t *testing.T) {
	view := filled(t, maple.Factory, 50_000).View()
	defer view.Release()
	for _, writes := range []int{0, 1, 2} {
		ctx, cancel := context.WithCancel(context.Background())
		if writes == 0 {
			cancel()
		}
		_, err := Write(ctx, &canceling{writes, cancel}, view)
		if !errors.Is(err, store.ErrUnavailable) || !errors.Is(err, context.Canceled) {
			t.Errorf("after %d writes: %v", writes, err)
		}
		cancel()
	}
}

func TestErrorOfTheReaderIsNotDamage(t *testing.T) {
	stream, _ := write(t, filled(t, maple.Factory, 20_000))
	broken := errors.New("disk on fire")
	for _, n := range []int{0, 10, 100, len(stream) / 2, len(stream)} {
		r := func() io.Reader { return io.MultiReader(bytes.NewReader(stream[:n]), iotest.ErrReader(broken)) }
		if _, err := Verify(r()); !errors.Is(err, broken) || errors.Is(err, store.ErrBackupDamaged) {
			t.Errorf("verify, after %d bytes: %v", n, err)
		}
		if _, _, err := Load(r(), maple.Factory, engine.Options{}); !errors.Is(err, broken) || errors.Is(err, store.ErrBackupDamaged) {
			t.Errorf("load, after %d bytes: %v", n, err)
		}
	}
}

// TestLengthThatIsOnlyClaimedTakesNoMemory has headers of blocks that claim much.
func TestLengthThatIsOnlyClaimedTakesNoMemory(t *testing.T) {
	const most = 1 << 20
	for _, claim := range []uint32{maxPayload, maxPayload + 1, 16 << 20, 1<<32 - 1} {
		head := binary.LittleEndian.AppendUint32(nil, claim)
		head = append(head, 1, 2, 3, 4, 5)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		fails(t, head, store.ErrBackupDamaged, "claimed", int(claim))
		runtime.ReadMemStats(&after)
		if took := after.TotalAlloc - before.TotalAlloc; took > most {
			t.Errorf("%d bytes are claimed and %d taken", claim, took)
		}
	}
}

// FuzzRead takes the payloads of a backup's blocks, so that the checksums do not keep
// the fuzzer out, with a right end if it is told so: what is loaded is the same when it
// is saved and loaded again, and what is loaded has been verified.
func FuzzRead(f *testing.F) {
	for _, n := range []int{0, 3} {
		stream, _ := write(f, filled(f, maple.Factory, n))
		p := blocksOf(f, stream)
		f.Add(p[0], p[1], p[2], false)
		f.Add(p[0], p[1], []byte(nil), true)
		f.Add(p[0], p[1][:len(p[1])/2], append([]byte{dataBlock}, p[1][len(p[1])/2:]...), true)
	}
	f.Fuzz(func(t *testing.T, a, b, c []byte, end bool) {
		var payloads [][]byte
		for _, p := range [][]byte{a, b, c} {
			if len(p) > 0 && len(p) <= block.MaxSize {
				payloads = append(payloads, p)
			}
		}
		stream := streamOf(payloads, end)
		told, bad := Verify(bytes.NewReader(stream))
		db, again, err := Load(bytes.NewReader(stream), maple.Factory, engine.Options{})
		if err != nil {
			return
		}
		if bad != nil || told != again {
			t.Fatalf("loaded %+v, verified %+v, %v", again, told, bad)
		}
		stream, _ = write(t, db)
		loaded, _, err := Load(bytes.NewReader(stream), maple.Factory, engine.Options{})
		if err != nil || checksum(loaded) != checksum(db) {
			t.Fatalf("not the same the second time: %v", err)
		}
	})
}

// FuzzVerify takes a backup as it is.
func FuzzVerify(f *testing.F) {
	stream, _ := write(f, filled(f, maple.Factory, 3))
	f.Add(stream)
	f.Add(stream[:len(stream)-1])
	f.Fuzz(func(t *testing.T, b []byte) {
		if told, err := Verify(bytes.NewReader(b)); err == nil && told.Bytes != int64(len(b)) {
			t.Fatalf("%d bytes: %+v", len(b), told)
		}
	})
}
