package replica_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dkv/internal/testcluster"
	"dkv/store/replica"

	"github.com/lni/vfs"
)

// moments is a file system that has keep called after each change of it, before the next.
type moments struct {
	vfs.FS
	mu   sync.Mutex
	keep func()
}

func (m *moments) change(f func() error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	err := f()
	if m.keep != nil {
		m.keep()
	}
	return err
}

func (m *moments) file(open func() (vfs.File, error)) (vfs.File, error) {
	var f vfs.File
	err := m.change(func() (err error) {
		f, err = open()
		return err
	})
	if err != nil {
		return nil, err
	}
	return momentsFile{f, m}, nil
}

func (m *moments) Create(name string) (vfs.File, error) {
	return m.file(func() (vfs.File, error) { return m.FS.Create(name) })
}

func (m *moments) OpenForAppend(name string) (vfs.File, error) {
	return m.file(func() (vfs.File, error) { return m.FS.OpenForAppend(name) })
}

func (m *moments) ReuseForWrite(oldname, newname string) (vfs.File, error) {
	return m.file(func() (vfs.File, error) { return m.FS.ReuseForWrite(oldname, newname) })
}

func (m *moments) MkdirAll(name string, mode os.FileMode) error {
	return m.change(func() error { return m.FS.MkdirAll(name, mode) })
}

func (m *moments) Link(oldname, newname string) error {
	return m.change(func() error { return m.FS.Link(oldname, newname) })
}

func (m *moments) Remove(name string) error {
	return m.change(func() error { return m.FS.Remove(name) })
}

func (m *moments) RemoveAll(name string) error {
	return m.change(func() error { return m.FS.RemoveAll(name) })
}

func (m *moments) Rename(oldname, newname string) error {
	return m.change(func() error { return m.FS.Rename(oldname, newname) })
}

type momentsFile struct {
	vfs.File
	fs *moments
}

func (f momentsFile) Write(b []byte) (n int, err error) {
	f.fs.change(func() error { n, err = f.File.Write(b); return err })
	return n, err
}

func (f momentsFile) WriteAt(b []byte, at int64) (n int, err error) {
	f.fs.change(func() error { n, err = f.File.WriteAt(b, at); return err })
	return n, err
}

// fingerprint is what is in a directory.
func fingerprint(t *testing.T, dir string) []byte {
	t.Helper()
	var all bytes.Buffer
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fmt.Fprintf(&all, "%q %v\n", path, d.Type())
		if !d.Type().IsRegular() {
			return nil
		}
		b, err := os.ReadFile(path)
		all.Write(b)
		return err
	})
	if err != nil {
		t.Error(err)
	}
	return all.Bytes()
}

// TestKilledAtAnyMomentItStartsAgain opens what a kill would leave of a directory after each
// change of the files in it, from the first on.
func TestKilledAtAnyMomentItStartsAgain(t *testing.T) {
	t.Parallel()
	testcluster.Guard(t)
	dir := filepath.Join(t.TempDir(), "data")
	type moment struct {
		dir   string
		acked int64 // writes that had been acknowledged
	}
	var left []moment
	var acked atomic.Int64
	var last []byte
	m := &moments{FS: vfs.Default}
	m.keep = func() {
		now := fingerprint(t, dir)
		if bytes.Equal(now, last) {
			return
		}
		last = now
		left = append(left, moment{filepath.Join(t.TempDir(), "data"), acked.Load()})
		if err := os.CopyFS(left[len(left)-1].dir, os.DirFS(dir)); err != nil {
			t.Error(err)
		}
	}
	// The second time it is started is a restart. A snapshot is made each time.
	var starts [3]int
	for i := range starts {
		opts := replica.Options{Dir: dir, SnapshotBytes: 1}
		opts.SetFS(m)
		s, err := replica.Open(opts)
		if err != nil {
			t.Fatal(err)
		}
		before := testcluster.Snapshots(t, dir)
		ctx := within(t, 20*time.Second)
		for range 3 {
			key := fmt.Sprint("key", acked.Load()+1)
			if err := s.Set(ctx, key, []byte(key)); err != nil {
				t.Error(err)
			}
			acked.Add(1)
		}
		eventually(t, 20*time.Second, "a snapshot is made", func() bool {
			return !slices.Equal(testcluster.Snapshots(t, dir), before)
		})
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		starts[i] = len(left)
	}
	if t.Logf("%d moments; by start %v", len(left), starts); len(left) < 60 {
		t.Error("that was no test")
	}
	var opening sync.WaitGroup
	at := make(chan int)
	for range 8 { // each waits for the disk most of the time
		opening.Go(func() {
			for i := range at {
				if err := hasWrites(t, left[i].dir, left[i].acked); err != nil {
					t.Errorf("moment %d: %v", i, err)
				}
			}
		})
	}
	for i := range left {
		at <- i
	}
	close(at)
	opening.Wait()
}

// hasWrites opens a directory and looks for so many writes.
func hasWrites(t *testing.T, dir string, writes int64) error {
	s, err := replica.Open(replica.Options{Dir: dir})
	if err != nil {
		return err
	}
	defer s.Close()
	ctx := within(t, 20*time.Second)
	if err := s.Ready(ctx); err != nil {
		return err
	}
	for n := range writes {
		key := fmt.Sprint("key", n+1)
		if v, ok, err := s.Get(ctx, key); err != nil || !ok || string(v) != key {
			return fmt.Errorf("%s is %q, %v, %v", key, v, ok, err)
		}
	}
	return s.Set(ctx, "another", nil)
}

// TestFileThatNamesTheNodeHostIsMadeAgain has it be what earlier versions left when they were
// killed at their first start.
func TestFileThatNamesTheNodeHostIsMadeAgain(t *testing.T) {
	t.Parallel()
	testcluster.Guard(t)
	dir := filepath.Join(t.TempDir(), "data")
	if err := hasWrites(t, dir, 0); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "raft", "NODEHOST.ID")
	whole, err := os.ReadFile(name)
	if err != nil || len(whole) != 24 {
		t.Fatalf("%x, %v", whole, err)
	}
	for _, b := range [][]byte{nil, whole[:8], append(bytes.Clone(whole[:23]), whole[23]^1)} {
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := hasWrites(t, dir, 0); err != nil {
			t.Errorf("with %x: %v", b, err)
		}
	}
	if err := os.WriteFile(name, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := hasWrites(t, dir, 0); err != nil {
		t.Error(err)
	}
	if now, err := os.ReadFile(name); err != nil || !bytes.Equal(now, whole) {
		t.Errorf("one that is whole is changed: %x, %v", now, err)
	}
}
