package replica_test

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"dkv/internal/testcluster"
	"dkv/store/replica"

	"github.com/lni/vfs"
)

// scarceFS opens no files while there are none left.
type scarceFS struct {
	vfs.FS
	none    atomic.Bool
	refused atomic.Int64
}

func (s *scarceFS) try(open func() (vfs.File, error)) (vfs.File, error) {
	if s.none.Load() {
		s.refused.Add(1)
		return nil, syscall.EMFILE
	}
	return open()
}

func (s *scarceFS) Create(name string) (vfs.File, error) {
	return s.try(func() (vfs.File, error) { return s.FS.Create(name) })
}

func (s *scarceFS) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	return s.try(func() (vfs.File, error) { return s.FS.Open(name, opts...) })
}

func (s *scarceFS) OpenDir(name string) (vfs.File, error) {
	return s.try(func() (vfs.File, error) { return s.FS.OpenDir(name) })
}

// ReuseForWrite has given the file its new name when it is not opened.
func (s *scarceFS) ReuseForWrite(oldname, newname string) (vfs.File, error) {
	if s.none.Load() && oldname != newname {
		if err := s.FS.Rename(oldname, newname); err != nil {
			return nil, err
		}
	}
	return s.try(func() (vfs.File, error) { return s.FS.ReuseForWrite(oldname, newname) })
}

// TestReplicaWaitsWhileNoFilesCanBeOpened has a snapshot be due, again and again, while the
// process has as many files open as it may: it is written as soon as that is over, and
// until then the host program lives.
func TestReplicaWaitsWhileNoFilesCanBeOpened(t *testing.T) {
	t.Parallel()
	fs := &scarceFS{FS: vfs.Default}
	c := testcluster.New(t, testcluster.Options{Members: 1, Change: func(_ int, o *replica.Options) {
		o.SnapshotBytes = 16 << 10
		o.SetFS(fs)
	}})
	c.Ready()
	s := c.Store(0)
	ctx, cancel := context.WithCancel(within(t, time.Minute))
	var writing sync.WaitGroup
	defer writing.Wait()
	defer cancel()
	writing.Go(func() { // which waits, too, when the log needs a file
		for i := 0; ctx.Err() == nil; i++ {
			if err := s.Set(ctx, fmt.Sprint("key", i%10), make([]byte, 500)); err != nil && ctx.Err() == nil {
				t.Error(err)
				return
			}
		}
	})
	for range 3 {
		before := fmt.Sprint(testcluster.Snapshots(t, c.Dir(0)))
		refused := fs.refused.Load()
		fs.none.Store(true)
		eventually(t, 10*time.Second, "files are missed", func() bool { return fs.refused.Load() >= refused+10 })
		fs.none.Store(false)
		eventually(t, 10*time.Second, "a snapshot is written", func() bool { return fmt.Sprint(testcluster.Snapshots(t, c.Dir(0))) != before })
	}
	if err := s.Live(); err != nil {
		t.Error(err)
	}
}

// TestStartWithoutFilesFails does not wait.
func TestStartWithoutFilesFails(t *testing.T) {
	t.Parallel()
	testcluster.Guard(t)
	fs := &scarceFS{FS: vfs.Default}
	opts := replica.Options{Dir: filepath.Join(t.TempDir(), "data")}
	opts.SetFS(fs)
	fs.none.Store(true)
	if s, err := replica.Open(opts); err == nil {
		s.Close()
		t.Fatal("it starts")
	}
	fs.none.Store(false)
	s, err := replica.Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
