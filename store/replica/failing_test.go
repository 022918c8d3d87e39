package replica_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"dkv/internal/testcluster"
	"dkv/store"
	"dkv/store/replica"

	"github.com/lni/vfs"
)

// failingFS is a file system of which a test has calls fail.
type failingFS struct {
	vfs.FS
	mu   sync.Mutex
	fail func(call, name string) error // or nil
}

func newFailing(fail func(call, name string) error) *failingFS {
	return &failingFS{FS: vfs.Default, fail: fail}
}

func (f *failingFS) set(fail func(call, name string) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = fail
}

func (f *failingFS) check(call, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail == nil {
		return nil
	}
	return f.fail(call, name)
}

func (f *failingFS) MkdirAll(name string, mode os.FileMode) error {
	if err := f.check("mkdir", name); err != nil {
		return err
	}
	return f.FS.MkdirAll(name, mode)
}

func (f *failingFS) RemoveAll(name string) error {
	if err := f.check("removeall", name); err != nil {
		return err
	}
	return f.FS.RemoveAll(name)
}

func (f *failingFS) Lock(name string) (io.Closer, error) {
	if err := f.check("lock", name); err != nil {
		return nil, err
	}
	return f.FS.Lock(name)
}

func (f *failingFS) Create(name string) (vfs.File, error) {
	if err := f.check("create", name); err != nil {
		return nil, err
	}
	file, err := f.FS.Create(name)
	if err != nil {
		return nil, err
	}
	return failingFile{file, f, name}, nil
}

type failingFile struct {
	vfs.File
	fs   *failingFS
	name string
}

func (f failingFile) Write(b []byte) (int, error) {
	if err := f.fs.check("write", f.name); err != nil {
		return 0, err
	}
	return f.File.Write(b)
}

func (f failingFile) WriteAt(b []byte, at int64) (int, error) {
	if err := f.fs.check("write", f.name); err != nil {
		return 0, err
	}
	return f.File.WriteAt(b, at)
}

func (f failingFile) Sync() error {
	if err := f.fs.check("sync", f.name); err != nil {
		return err
	}
	return f.File.Sync()
}

// TestSnapshotThatHasNoRoomIsGivenUp has the disk be full for each call in turn that
// Dragonboat makes to write a snapshot, and for those after it.
func TestSnapshotThatHasNoRoomIsGivenUp(t *testing.T) {
	t.Parallel()
	testcluster.Guard(t)
	files := newFailing(nil)
	opts := replica.Options{Dir: filepath.Join(t.TempDir(), "data"), SnapshotBytes: 1}
	opts.SetFS(files)
	s, err := replica.Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx := within(t, time.Minute)
	n := 0
	set := func() {
		t.Helper()
		n++
		if err := s.Set(ctx, "k", fmt.Append(nil, n)); err != nil {
			t.Fatal(err)
		}
	}
	snapshot := func() string { return fmt.Sprint(testcluster.Snapshots(t, opts.Dir)) }
	set()
	eventually(t, 10*time.Second, "there is a snapshot", func() bool { return snapshot() != "[]" })
	var failed []string
	for first := 0; ; first++ {
		calls, before := 0, ""
		var tries, refused atomic.Int64
		what := ""
		files.set(func(call, name string) error {
			if !strings.Contains(name, ".generating") || call == "removeall" { // which needs no room
				return nil
			}
			if call == "mkdir" {
				calls = 0
				tries.Add(1)
			}
			if calls++; calls <= first || tries.Load() == 0 {
				return nil
			}
			if refused.Add(1) == 1 {
				what = call
			}
			return fmt.Errorf("%s: %w", name, []error{syscall.ENOSPC, syscall.EDQUOT}[first%2])
		})
		eventually(t, 10*time.Second, "a snapshot is tried", func() bool {
			set()
			return refused.Load() > 0 || tries.Load() > 1
		})
		before = snapshot()
		files.set(nil)
		if refused.Load() == 0 {
			break // it takes no more calls than that
		}
		failed = append(failed, what)
		set()
		eventually(t, 10*time.Second, "a snapshot is made when there is room", func() bool { return snapshot() != before })
	}
	for _, call := range []string{"mkdir", "create", "write", "sync"} {
		if !slices.Contains(failed, call) {
			t.Errorf("no %s has failed first: %v", call, failed)
		}
	}
	eventually(t, 5*time.Second, "views are released", func() bool {
		info, err := s.Info(ctx)
		return err == nil && info.Views == 0
	})
	if err := s.Live(); err != nil {
		t.Error(err)
	}
}

// TestSnapshotIsSentFromWhereTheDirectoryIsNow has a member's directory be moved, and the
// snapshot that was made before be sent to a new member.
func TestSnapshotIsSentFromWhereTheDirectoryIsNow(t *testing.T) {
	t.Parallel()
	g := newGrowing(t)
	g.close("a")
	o := g.opts["a"]
	o.SnapshotBytes = 4 << 10
	g.opts["a"] = o
	g.open("a")
	ctx := within(t, 30*time.Second)
	for i := range 50 {
		if err := g.stores["a"].Set(ctx, fmt.Sprint("key", i), make([]byte, 500)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, 10*time.Second, "there is a snapshot", func() bool { return len(testcluster.Snapshots(t, o.Dir)) > 0 })
	g.close("a")
	made := testcluster.Snapshots(t, o.Dir)

	moved := filepath.Join(t.TempDir(), "elsewhere", "data")
	if err := os.MkdirAll(filepath.Dir(moved), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(o.Dir, moved); err != nil {
		t.Fatal(err)
	}
	o.Dir = moved
	o.NoSnapshots()
	g.opts["a"] = o
	g.open("a")
	g.join("b", "a")
	g.work("both", "a", "b")
	if _, ok, err := g.stores["b"].GetStale(ctx, "key0"); !ok || err != nil {
		t.Error(ok, err)
	}
	if now := testcluster.Snapshots(t, moved); !slices.Equal(now, made) {
		t.Errorf("snapshots were %v and are %v: not what was to be tested", made, now)
	}
	if len(testcluster.Snapshots(t, g.opts["b"].Dir)) == 0 {
		t.Error("no snapshot was sent: not what was to be tested")
	}
}

// number is that of a directory, 0 if it has none.
func number(t *testing.T, dir string) uint64 {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "IDENTITY.json"))
	if errors.Is(err, os.ErrNotExist) {
		return 0
	}
	var id struct{ Directory uint64 }
	if err = errors.Join(err, json.Unmarshal(b, &id)); err != nil {
		t.Fatal(err)
	}
	return id.Directory
}

// TestFirstOpenThatFailsCanBeRepeated has it fail where it leaves something behind.
func TestFirstOpenThatFailsCanBeRepeated(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		fails func(call, name string) bool
		kept  bool // what it has made, by which others may have met it
	}{
		"nothing is left":      {func(call, _ string) bool { return call == "lock" }, false},
		"it cannot be removed": {func(call, _ string) bool { return call == "lock" || call == "removeall" }, true},
		"the port was open":    {func(call, name string) bool { return call == "mkdir" && strings.Contains(name, "snapshot-part") }, true},
	} {
		t.Run(name, func(t *testing.T) {
			testcluster.Guard(t)
			files := newFailing(func(call, name string) error {
				if test.fails(call, name) {
					return syscall.EMFILE
				}
				return nil
			})
			opts := replica.Options{
				Dir: filepath.Join(t.TempDir(), "data"), Node: "a", Members: map[string]string{"a": testcluster.FreeAddress(t)},
			}
			bad := opts
			bad.SetFS(files)
			if s, err := replica.Open(bad); err == nil {
				s.Close()
				t.Fatal("it does not fail: not what was to be tested")
			}
			before := number(t, opts.Dir)
			if test.kept != (before != 0) {
				t.Errorf("the directory has the number %d", before)
			}
			s, err := replica.Open(opts)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if err := s.Set(within(t, 20*time.Second), "k", nil); err != nil {
				t.Error(err)
			}
			if after := number(t, opts.Dir); test.kept && after != before {
				t.Errorf("the directory had the number %d and has %d", before, after)
			}
		})
	}
}

func TestCloseAfterItsListenerWasClosed(t *testing.T) {
	t.Parallel()
	testcluster.Guard(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, err := replica.Open(replica.Options{
		Dir: t.TempDir(), Node: "a", Members: map[string]string{"a": l.Addr().String()}, PeerListener: l,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Ready(within(t, 20*time.Second)); err != nil {
		t.Error(err)
	}
	l.Close()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// TestNodeIsInvitedAgain has a node be closed when the group has taken it in and it could not
// write that down: as if it had been killed in that moment.
func TestNodeIsInvitedAgain(t *testing.T) {
	t.Parallel()
	for _, witness := range []bool{false, true} {
		t.Run(fmt.Sprint("witness ", witness), func(t *testing.T) {
			g := newGrowing(t)
			g.join("b", "a")
			g.joiner("x")
			good := g.opts["x"]
			good.Witness = witness
			files := newFailing(nil)
			bad := good
			bad.SetFS(files)
			g.opts["x"] = bad
			g.open("x")
			var refused atomic.Int64
			files.set(func(call, name string) error {
				if call == "create" && strings.Contains(name, "IDENTITY.json") {
					refused.Add(1)
					return syscall.ENOSPC
				}
				return nil
			})
			ctx := within(t, 60*time.Second)
			added := make(chan error, 1)
			go func() { added <- g.stores["a"].AddMember(within(t, 10*time.Second), "x", g.address("x")) }()
			eventually(t, 10*time.Second, "it is taken in, and cannot write that down", func() bool { return refused.Load() > 0 })
			g.close("x")
			if err := <-added; err == nil && !witness || err != nil && store.KindOf(err) != store.KindUnknown {
				t.Errorf("first: %v", err)
			}
			g.opts["x"] = good
			g.open("x")
			if err := g.stores["a"].AddMember(ctx, "x", g.address("x")); err != nil {
				t.Fatalf("again: %v", err)
			}
			g.ready("x")
			if witness {
				g.are("a", "b", "x witnesses")
			} else {
				g.are("a", "b", "x")
				g.work("all", "a", "b", "x")
			}
		})
	}
}

// TestOnlyTheSameNodeIsInvitedAgain has another one have the name of a learner, and of a
// witness: it is spared, and waits.
func TestOnlyTheSameNodeIsInvitedAgain(t *testing.T) {
	t.Parallel()
	for _, witness := range []bool{false, true} {
		t.Run(fmt.Sprint("witness ", witness), func(t *testing.T) {
			g := newGrowing(t)
			g.join("b", "a")
			as := func(by ...string) {
				g.joiner("x", by...)
				o := g.opts["x"]
				o.Learner, o.Witness = !witness, witness
				g.opts["x"] = o
				g.open("x")
			}
			as("a")
			g.ready("x")
			g.close("x")
			as()
			ctx := within(t, 30*time.Second)
			if err := g.stores["a"].AddMember(ctx, "x", g.address("x")); !errors.Is(err, store.ErrMembers) {
				t.Errorf("another node of that name: %v", err)
			}
			g.remove("x", "a")
			if err := g.stores["a"].AddMember(ctx, "x", g.address("x")); err != nil {
				t.Error(err)
			}
			g.ready("x")
		})
	}
}

// TestBackupIsDroppedAsSoonAsThatCanBeWritten has the disk be full then: nobody can join
// before, and there may be no other snapshot for long.
func TestBackupIsDroppedAsSoonAsThatCanBeWritten(t *testing.T) {
	t.Parallel()
	testcluster.Guard(t)
	origin := newOrigin(t)
	var refused atomic.Int64
	snapshots := atomic.Bool{}
	files := newFailing(func(call, name string) error {
		switch {
		case call == "create" && strings.HasSuffix(name, ".gbsnap"):
			snapshots.Store(true)
		case call == "create" && strings.Contains(name, "IDENTITY.json") && snapshots.Load():
			refused.Add(1)
			return syscall.ENOSPC
		}
		return nil
	})
	opts := replica.Options{Dir: filepath.Join(t.TempDir(), "data"), Restore: origin.path}
	opts.SetFS(files)
	s, err := replica.Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Set(within(t, 20*time.Second), "k", nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "it is tried again", func() bool { return refused.Load() > 1 })
	files.set(nil)
	eventually(t, 10*time.Second, "the backup is gone", func() bool {
		_, err := os.Stat(filepath.Join(opts.Dir, "BACKUP"))
		return errors.Is(err, os.ErrNotExist)
	})
	origin.check(t, s)
}
