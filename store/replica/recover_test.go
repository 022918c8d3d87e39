package replica_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"dkv/internal/testcluster"
	"dkv/lock"
	"dkv/store"
	"dkv/store/local"
	"dkv/store/replica"
)

// contents are the files of a directory, by path, and links by where they lead.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil || d.IsDir():
			return err
		case d.Type() == fs.ModeSymlink:
			files[path], err = os.Readlink(path)
			return err
		}
		b, err := os.ReadFile(path)
		files[path] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// recovered recovers from a directory, which must be the same afterwards, and returns
// the path of the backup.
func recovered(t *testing.T, dir string) (string, store.Backup, replica.Loss) {
	t.Helper()
	before := contents(t, dir)
	var out bytes.Buffer
	b, loss, err := replica.Recover(within(t, 30*time.Second), dir, &out)
	if err != nil {
		t.Fatalf("recover: %v", err)
	}
	after := contents(t, dir)
	for path := range before {
		if before[path] != after[path] {
			t.Errorf("%s was changed", path)
		}
	}
	if len(before) != len(after) {
		t.Errorf("there were %d files, and are %d", len(before), len(after))
	}
	if loss.Revision != b.Revision || loss.CommittedRevision > loss.Revision || loss.Uncommitted > loss.Index || loss.Term == 0 {
		t.Errorf("%+v of %+v", loss, b)
	}
	path := filepath.Join(t.TempDir(), "recovered.backup")
	if err := os.WriteFile(path, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path, b, loss
}

// loaded is a store in memory that begins with a backup.
func loaded(t *testing.T, path string) *local.Store {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s, err := local.Restore(local.Options{}, f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// TestNewGroupHasAllThatTheSurvivorOfAMajorityHad has two of three members killed, and
// their directories lost, while writes go on by way of the leader, which then is killed
// too.
func TestNewGroupHasAllThatTheSurvivorOfAMajorityHad(t *testing.T) {
	t.Parallel()
	for _, snapshotBytes := range []int64{0, 4 << 10} {
		old := testcluster.NewProcesses(t, 3, snapshotBytes)
		old.Ready()
		survivor := old.Leader()
		ledger, stop := newLedger(), make(chan struct{})
		var writers sync.WaitGroup
		for w := range 8 {
			writers.Go(func() {
				ledger.write(t, stop, fmt.Sprint("w", w), func() store.Store { return old.Process(survivor) })
			})
		}
		eventually(t, 30*time.Second, "writes are acknowledged", func() bool { return ledger.count.Load() > 500 })
		for i := range 3 {
			if i != survivor {
				old.Process(i).Kill()
				if err := os.RemoveAll(old.Dir(i)); err != nil {
					t.Fatal(err)
				}
			}
		}
		// What comes to stand in the survivor's log now is not acknowledged.
		for count := int64(-1); count != ledger.count.Load(); time.Sleep(100 * time.Millisecond) {
			count = ledger.count.Load()
		}
		close(stop)
		old.Process(survivor).Kill()
		writers.Wait()

		path, b, loss := recovered(t, old.Dir(survivor))
		if loss.Uncommitted == 0 || loss.CommittedRevision == 0 {
			t.Errorf("what was not acknowledged is not told of: %+v", loss)
		}
		c := testcluster.New(t, testcluster.Options{Change: func(_ int, o *replica.Options) { o.Restore = path }})
		c.Ready()
		ctx := within(t, 60*time.Second)
		for i := range 3 {
			s, more := c.Store(i), 0
			for key, tried := range ledger.tried {
				value, ok, err := s.Get(ctx, key)
				var n int
				fmt.Sscan(string(value), &n)
				if err != nil || n < ledger.acked[key] || n > tried {
					t.Errorf("%s: %q, %t, %v; %d was acknowledged, %d tried", key, value, ok, err, ledger.acked[key], tried)
				}
				if n > ledger.acked[key] {
					more++
				}
			}
			if more == 0 {
				t.Error("what was in the log, and not committed, is not there")
			}
		}
		if rev, ok, err := c.Store(0).CompareAndSet(ctx, "new", 0, nil, 0, 0); !ok || err != nil || rev <= b.Revision {
			t.Errorf("revision %d after %d: %t, %v", rev, b.Revision, ok, err)
		}
	}
}

// TestRecoveryOfAMemberThatLagsBehindSaysSo compares what members tell that stopped at
// different moments.
func TestRecoveryOfAMemberThatLagsBehindSaysSo(t *testing.T) {
	t.Parallel()
	c := testcluster.New(t, testcluster.Options{})
	c.Ready()
	ctx := within(t, 60*time.Second)
	set := func(key string) {
		t.Helper()
		if err := c.Store(c.Running()[0]).Set(ctx, key, nil); err != nil {
			t.Fatal(err)
		}
	}
	set("first")
	c.WaitEqual()
	behind := c.Follower()
	c.Stop(behind)
	set("second")
	c.WaitEqual()
	ahead := c.Follower()
	for _, i := range c.Running() {
		c.Stop(i)
	}
	pathBehind, _, lossBehind := recovered(t, c.Dir(behind))
	pathAhead, _, lossAhead := recovered(t, c.Dir(ahead))
	if lossAhead.Index <= lossBehind.Index || lossAhead.Term < lossBehind.Term || lossAhead.Revision <= lossBehind.Revision {
		t.Errorf("%+v of one that has more than %+v", lossAhead, lossBehind)
	}
	for path, want := range map[string][2]bool{pathBehind: {true, false}, pathAhead: {true, true}} {
		s := loaded(t, path)
		for i, key := range []string{"first", "second"} {
			if ok, err := s.Has(ctx, key); ok != want[i] || err != nil {
				t.Errorf("%s: %t, %v", key, ok, err)
			}
		}
	}
	// It was only read: the group can go on.
	for i := range 3 {
		c.Start(i)
	}
	c.Ready()
	c.WaitEqual()
}

func TestRecoveryHasKeysLocksAndTimesWhateverTheyStandIn(t *testing.T) {
	t.Parallel()
	testcluster.Guard(t)
	for _, snapshots := range []bool{false, true} {
		for _, restored := range []bool{false, true} {
			name := fmt.Sprintf("snapshots %t, began with a backup %t", snapshots, restored)
			opts := replica.Options{Dir: filepath.Join(t.TempDir(), "data"), SnapshotBytes: 8 << 10}
			if !snapshots {
				opts.NoSnapshots()
			}
			var o origin
			if restored {
				o = newOrigin(t)
				opts.Restore = o.path
			}
			s, err := replica.Open(opts)
			if err != nil {
				t.Fatal(err)
			}
			ctx := within(t, 30*time.Second)
			value := bytes.Repeat([]byte("x"), 50_000) // so that a snapshot has many blocks
			for i := range 100 {
				if err := s.SetE(ctx, fmt.Sprint("k", i), value, 0, time.Hour); err != nil {
					t.Fatal(err)
				}
			}
			owner, ok, err := lock.New(s).Acquire(ctx, "l", time.Hour)
			if !ok || err != nil {
				t.Fatal(ok, err)
			}
			holder, _, err := s.LockHolder(ctx, "l")
			if err != nil {
				t.Fatal(err)
			}
			if snapshots {
				eventually(t, 20*time.Second, "a snapshot is made", func() bool { return len(testcluster.Snapshots(t, opts.Dir)) > 0 && !hasBackup(t, opts.Dir) })
				s.Set(ctx, "behind", nil)
			}
			info, err := s.Info(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			path, b, loss := recovered(t, opts.Dir)
			if loss.Uncommitted > 0 || loss.Index < info.Applied || b.Revision < info.Revision || b.Keys != info.Keys {
				t.Errorf("%s: %+v, %+v of %+v", name, b, loss, info)
			}
			r := loaded(t, path)
			if restored {
				o.check(t, r)
			}
			for i := range 100 {
				e, ok, err := r.GetEntry(ctx, fmt.Sprint("k", i))
				if !ok || err != nil || !bytes.Equal(e.Value, value) || e.DeleteIn > time.Hour || e.DeleteIn < 59*time.Minute {
					t.Fatalf("%s: %d bytes, %v left, %t, %v", name, len(e.Value), e.DeleteIn, ok, err)
				}
			}
			if h, ok, err := r.LockHolder(ctx, "l"); !ok || err != nil || h.Token != holder.Token {
				t.Errorf("%s: the lock has %+v, not %+v, %v", name, h, holder, err)
			}
			if ok, err := lock.New(r).Release(ctx, "l", owner); !ok || err != nil {
				t.Errorf("%s: not released: %v", name, err)
			}
		}
	}
}

// unrecoverable checks that a directory is refused with an error that has some words.
func unrecoverable(t *testing.T, dir string, words ...string) {
	t.Helper()
	var out bytes.Buffer
	b, loss, err := replica.Recover(context.Background(), dir, &out)
	if !errors.Is(err, store.ErrBadOptions) || b != (store.Backup{}) || loss != (replica.Loss{}) || out.Len() > 0 {
		t.Fatalf("%+v, %+v, %d bytes, %v", b, loss, out.Len(), err)
	}
	for _, word := range append(words, dir) {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%q is not in: %v", word, err)
		}
	}
}

func TestRecoveryOfWhatIsInUseOrNoMemberIsRefused(t *testing.T) {
	t.Parallel()
	testcluster.Guard(t)
	empty := t.TempDir()
	unrecoverable(t, empty, "IDENTITY.json")
	if left := contents(t, empty); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	unrecoverable(t, filepath.Join(empty, "none"), "IDENTITY.json")

	dir := filepath.Join(t.TempDir(), "data")
	s, err := replica.Open(replica.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	unrecoverable(t, dir, "in use")
	if err := s.Set(within(t, 10*time.Second), "k", nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if _, _, err := replica.Recover(ended, dir, io.Discard); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("%v", err)
	}
	broken := errors.New("broken")
	if _, _, err := replica.Recover(context.Background(), dir, failing{broken}); err != broken {
		t.Errorf("%v", err)
	}
	opens(t, replica.Options{Dir: dir}, "k") // the directory is free again
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

func TestRecoveryOfWhatIsDamagedIsRefused(t *testing.T) {
	testcluster.Guard(t)
	dir := filepath.Join(t.TempDir(), "data")
	s, err := replica.Open(replica.Options{Dir: dir, SnapshotBytes: 8 << 10})
	if err != nil {
		t.Fatal(err)
	}
	ctx := within(t, 30*time.Second)
	for i := 0; i < 10 || len(testcluster.Snapshots(t, dir)) == 0; i++ {
		if err := s.Set(ctx, fmt.Sprint("k", i), bytes.Repeat([]byte("x"), 1000)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	recovered(t, dir)
	damaged := 0
	for path, good := range contents(t, dir) {
		name := filepath.Base(path)
		put := func(bad string) {
			t.Helper()
			if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		flipped := func(at int) string {
			b := []byte(good)
			b[at] ^= 1
			return string(b)
		}
		switch filepath.Ext(name) {
		case ".json":
			put("{")
			unrecoverable(t, dir, name)
			put("{}")
			unrecoverable(t, dir, name)
		case ".log":
			put(flipped(20)) // of the first record
			unrecoverable(t, dir, name)
			put("")
			unrecoverable(t, dir, "log")
		case ".gbsnap":
			for _, bad := range []string{"", good[:100], good[:len(good)-1], good + "x", flipped(0), flipped(20), flipped(1030), flipped(len(good) / 2), flipped(len(good) - 20), flipped(len(good) - 1)} {
				put(bad)
				unrecoverable(t, dir, name, "damaged")
			}
		default:
			continue
		}
		damaged++
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		unrecoverable(t, dir)
		put(good)
	}
	if damaged < 3 {
		t.Errorf("only %d files were damaged", damaged)
	}
	recovered(t, dir)
}

// TestRecoveryOfAMemberThatGotItsStateFromAnother has one be away until the log that it
// lacks is gone.
func TestRecoveryOfAMemberThatGotItsStateFromAnother(t *testing.T) {
	t.Parallel()
	c := testcluster.New(t, testcluster.Options{Change: func(_ int, o *replica.Options) { o.SnapshotBytes = 16 << 10 }})
	c.Ready()
	ctx := within(t, 60*time.Second)
	late := c.Follower()
	c.Stop(late)
	value := bytes.Repeat([]byte("x"), 30_000)
	for n := range 100 {
		if err := c.Store(c.Running()[0]).Set(ctx, fmt.Sprint("k", n), value); err != nil {
			t.Fatal(err)
		}
	}
	c.Start(late)
	sum := c.WaitEqual()
	for _, i := range c.Running() {
		c.Stop(i)
	}
	if len(testcluster.Snapshots(t, c.Dir(late))) == 0 {
		t.Fatal("it has got no snapshot")
	}
	path, b, loss := recovered(t, c.Dir(late))
	if b.Keys != 100 || loss.Index < sum.Index {
		t.Errorf("%+v, %+v, not up to %d", b, loss, sum.Index)
	}
	s := loaded(t, path)
	for n := range 100 {
		if got, ok, err := s.Get(ctx, fmt.Sprint("k", n)); !ok || err != nil || !bytes.Equal(got, value) {
			t.Fatalf("k%d: %d bytes, %t, %v", n, len(got), ok, err)
		}
	}
}
