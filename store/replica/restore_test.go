package replica_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dkv/internal/backup"
	"dkv/internal/powerdisk"
	"dkv/internal/testcluster"
	"dkv/lock"
	"dkv/store"
	"dkv/store/engine/enginetest"
	"dkv/store/local"
	"dkv/store/replica"
)

// origin is a store that a backup was made of.
type origin struct {
	path  string // of the backup
	told  store.Backup
	owner lock.Owner // of the lock "held"
	token store.Revision
}

// newOrigin makes a backup of a store in memory with 100 keys and a lock that is held.
// More has more keys set.
func newOrigin(t *testing.T, more ...string) origin {
	t.Helper()
	ctx := within(t, 10*time.Second)
	s := local.Open(local.Options{})
	defer s.Close()
	for i := range 100 {
		if err := s.SetE(ctx, fmt.Sprint("old", i), []byte(fmt.Sprint("value", i)), 0, time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	for _, key := range more {
		if err := s.Set(ctx, key, nil); err != nil {
			t.Fatal(err)
		}
	}
	owner, ok, err := lock.New(s).Acquire(ctx, "held", time.Hour)
	if !ok || err != nil {
		t.Fatal(ok, err)
	}
	o := origin{path: filepath.Join(t.TempDir(), "app.backup"), owner: owner}
	var out bytes.Buffer
	if o.told, err = s.Backup(ctx, &out); err != nil {
		t.Fatal(err)
	}
	o.token = o.told.Revision // that of the last change
	if err := os.WriteFile(o.path, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return o
}

// check looks whether s has what was in the backup.
func (o origin) check(t *testing.T, s store.Store) {
	t.Helper()
	ctx := within(t, 20*time.Second)
	for i := range 100 {
		key := fmt.Sprint("old", i)
		e, ok, err := s.GetEntry(ctx, key)
		if !ok || err != nil || string(e.Value) != fmt.Sprint("value", i) || e.Revision == 0 || e.Revision > o.told.Revision {
			t.Fatalf("%s: %+v, %t, %v", key, e, ok, err)
		}
		if e.DeleteIn > time.Hour || e.DeleteIn < 59*time.Minute {
			t.Fatalf("%s has %v left", key, e.DeleteIn)
		}
	}
}

// hasBackup tells whether a directory has its copy.
func hasBackup(t *testing.T, dir string) bool {
	t.Helper()
	_, err := os.Stat(filepath.Join(dir, "BACKUP"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return err == nil
}

func TestGroupBeginsWithABackupAndGoesOnFromIt(t *testing.T) {
	t.Parallel()
	for _, members := range []int{1, 3} {
		o := newOrigin(t)
		var snapshots atomic.Bool
		c := testcluster.New(t, testcluster.Options{Members: members, Change: func(i int, opts *replica.Options) {
			if !snapshots.Load() {
				opts.NoSnapshots()
				opts.Restore = o.path
			}
		}})
		c.Ready()
		for i := range members {
			o.check(t, c.Store(i))
		}
		ctx := within(t, 60*time.Second)
		s := c.Store(members - 1)

		// Revisions and tokens go on; what was held is held; watches do not go back.
		rev, ok, err := s.CompareAndSet(ctx, "new", 0, []byte("1"), 0, 0)
		if !ok || err != nil || rev <= o.told.Revision+backup.Gap {
			t.Fatalf("revision %d behind %d: %t, %v", rev, o.told.Revision, ok, err)
		}
		if _, ok, err := lock.New(s).Acquire(ctx, "held", time.Hour); ok || err != nil {
			t.Fatalf("a lock that is held is given: %v", err)
		}
		h, ok, err := s.LockHolder(ctx, "held")
		if !ok || err != nil || h.Token != o.token {
			t.Fatalf("the holder has %+v, not token %d: %v", h, o.token, err)
		}
		if ok, err := lock.New(s).Release(ctx, "held", o.owner); !ok || err != nil {
			t.Fatalf("not released: %v", err)
		}
		if _, ok, err := lock.New(s).Acquire(ctx, "held", time.Hour); !ok || err != nil {
			t.Fatal(ok, err)
		}
		if h, ok, err = s.LockHolder(ctx, "held"); !ok || err != nil || h.Token <= rev {
			t.Fatalf("token %d after revision %d: %v", h.Token, rev, err)
		}
		for _, from := range []store.Revision{o.told.Revision, o.told.Revision + 1, o.told.Revision + backup.Gap} {
			if _, err := s.Watch(ctx, store.Watch{From: from}); !errors.Is(err, store.ErrCompacted) {
				t.Fatalf("a watch of the old store from %d: %v", from, err)
			}
		}
		if events, err := s.Watch(ctx, store.Watch{From: o.told.Revision + backup.Gap + 1}); err != nil {
			t.Fatal(err)
		} else {
			for e, err := range events {
				if e.Revision != rev || err != nil {
					t.Fatalf("%+v, %v", e, err)
				}
				break
			}
		}

		// Before the first snapshot, all at once; without the file that it was.
		for i := range members {
			c.Stop(i)
		}
		for i := range members {
			if !hasBackup(t, c.Dir(i)) {
				t.Fatal("no copy in the directory")
			}
		}
		if err := os.Remove(o.path); err != nil {
			t.Fatal(err)
		}
		for i := range members {
			c.Start(i)
		}
		c.Ready()
		for i := range members {
			o.check(t, c.Store(i))
			if value, _, err := c.Store(i).Get(ctx, "new"); string(value) != "1" || err != nil {
				t.Fatalf("%q, %v", value, err)
			}
		}
		sum := c.WaitEqual()

		// From the first snapshot on there is no copy, and Restore need not be set.
		snapshots.Store(true)
		for i := range members {
			c.Restart(i)
		}
		c.Ready()
		if err := c.Store(0).Set(ctx, "new", []byte("2")); err != nil {
			t.Fatal(err)
		}
		for i := range members {
			eventually(t, 20*time.Second, "a snapshot is made", func() bool { return !hasBackup(t, c.Dir(i)) })
		}
		for i := range members {
			c.Restart(i)
		}
		c.Ready()
		for i := range members {
			o.check(t, c.Store(i))
			if value, _, err := c.Store(i).Get(ctx, "new"); string(value) != "2" || err != nil {
				t.Fatalf("%q, %v", value, err)
			}
		}
		if again := c.WaitEqual(); again.Index <= sum.Index {
			t.Fatalf("index %d after %d", again.Index, sum.Index)
		}
	}
}

func TestMemberThatIsLateGetsTheStateFromASnapshot(t *testing.T) {
	t.Parallel()
	o := newOrigin(t)
	c := testcluster.New(t, testcluster.Options{Change: func(_ int, opts *replica.Options) { opts.Restore = o.path }})
	late := c.Follower()
	c.Stop(late)
	ctx := within(t, 60*time.Second)
	for n := range 20 {
		for _, i := range c.Running() {
			if err := c.Store(i).Set(ctx, fmt.Sprint("n", n), []byte(fmt.Sprint(i))); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, i := range c.Running() {
		eventually(t, 20*time.Second, "a snapshot is made", func() bool { return !hasBackup(t, c.Dir(i)) })
	}
	c.Start(late)
	c.WaitEqual()
	o.check(t, c.Store(late))
}

func TestMembersThatBeginWithDifferentBackupsDoNotListenToEachOther(t *testing.T) {
	t.Parallel()
	paths := []string{newOrigin(t).path, newOrigin(t, "another").path, ""}
	c := testcluster.New(t, testcluster.Options{Unequal: true, Change: func(i int, opts *replica.Options) { opts.Restore = paths[i] }})
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for i := range paths {
		wg.Go(func() {
			if err := c.Store(i).Ready(ctx); !errors.Is(err, store.ErrUnavailable) {
				t.Errorf("member %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	seen := make(map[uint64]bool)
	for i := range paths {
		seen[c.Store(i).Identity()] = true
	}
	if len(seen) != len(paths) {
		t.Errorf("%d groups of %d members", len(seen), len(paths))
	}
}

func TestRestoreOfWhatCannotBeIsRefusedAndLeavesNothing(t *testing.T) {
	t.Parallel()
	testcluster.Guard(t)
	o := newOrigin(t)
	good, err := os.ReadFile(o.path)
	if err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(t.TempDir(), "bad")
	dir := filepath.Join(t.TempDir(), "data")
	for _, stream := range [][]byte{nil, good[:len(good)-1], append(bytes.Clone(good), 0), bytes.Replace(good, []byte("value7"), []byte("value8"), 1)} {
		if err := os.WriteFile(bad, stream, 0o600); err != nil {
			t.Fatal(err)
		}
		opts := replica.Options{Dir: dir, Restore: bad}
		refused(t, opts, "Restore", bad)
		if _, err := replica.Open(opts); !errors.Is(err, store.ErrBackupDamaged) {
			t.Errorf("%v", err)
		}
	}
	refused(t, replica.Options{Dir: dir, Restore: filepath.Join(dir, "none")}, "Restore", "none")
	files, err := os.ReadDir(dir)
	if err != nil || len(files) > 1 || len(files) == 1 && files[0].Name() != "LOCK" {
		t.Errorf("left behind: %v, %v", files, err)
	}

	// What was refused may be right the next time.
	opens(t, replica.Options{Dir: dir, Restore: o.path}, "old99")
	opens(t, replica.Options{Dir: dir}, "old99")
	opens(t, replica.Options{Dir: dir, Restore: filepath.Join(dir, "none")}, "old99")

	empty := filepath.Join(t.TempDir(), "data")
	opens(t, replica.Options{Dir: empty}, "")
	refused(t, replica.Options{Dir: empty, Restore: o.path}, "Restore", "did not begin")
	opens(t, replica.Options{Dir: empty}, "")
}

func TestCopyOfABackupThatIsStillNeededIsWatchedOver(t *testing.T) {
	t.Parallel()
	testcluster.Guard(t)
	o, other := newOrigin(t), newOrigin(t, "another")
	opts := replica.Options{Dir: filepath.Join(t.TempDir(), "data"), Restore: o.path}
	opts.NoSnapshots()
	opens(t, opts, "old0")
	name := filepath.Join(opts.Dir, "BACKUP")
	good, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	put := func(b []byte) {
		t.Helper()
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put(good[:len(good)/2])
	refused(t, opts, "BACKUP", "damaged")
	another, err := os.ReadFile(other.path)
	if err != nil {
		t.Fatal(err)
	}
	put(another)
	refused(t, opts, "BACKUP", "not the one")
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	refused(t, opts, "BACKUP")
	put(good)
	opens(t, opts, "old0")
}

// TestCopyLeftByAnOpenThatWasCutShortIsNotTaken has a directory with a copy and no
// identity, as a crash may leave it.
func TestCopyLeftByAnOpenThatWasCutShortIsNotTaken(t *testing.T) {
	testcluster.Guard(t)
	o := newOrigin(t)
	b, err := os.ReadFile(o.path)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "BACKUP"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := replica.Open(replica.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx := within(t, 10*time.Second)
	if _, ok, err := s.Get(ctx, "old0"); ok || err != nil {
		t.Errorf("%t, %v", ok, err)
	}
	if hasBackup(t, dir) {
		t.Errorf("it is still there")
	}
}

func TestGroupThatWasKilledAfterItBeganWithABackupHasAll(t *testing.T) {
	t.Parallel()
	testcluster.Guard(t)
	o := newOrigin(t)
	members := map[string]string{"a": testcluster.FreeAddress(t), "b": testcluster.FreeAddress(t), "c": testcluster.FreeAddress(t)}
	base := t.TempDir()
	procs := make(map[string]*testcluster.Process)
	ctx := within(t, 2*time.Minute)
	written := 0
	for round := range rounds(6, 3) {
		for name := range members {
			p, err := testcluster.StartProcess(t, testcluster.ProcessOptions{
				Dir: filepath.Join(base, name), Node: name, Members: maps.Clone(members), Restore: o.path, SnapshotBytes: 4 << 10,
			})
			if err != nil {
				t.Fatal(err)
			}
			procs[name] = p
		}
		// In the first round they are killed when they may have made no snapshot yet.
		for range 1 + 40*round {
			if err := procs["a"].Set(ctx, fmt.Sprint("new", written), bytes.Repeat([]byte("x"), 200)); err != nil {
				t.Fatal(err)
			}
			written++
		}
		for _, p := range procs {
			p.Kill()
		}
	}
	for name := range members {
		p, err := testcluster.StartProcess(t, testcluster.ProcessOptions{Dir: filepath.Join(base, name), Node: name, Members: maps.Clone(members)})
		if err != nil {
			t.Fatal(err)
		}
		procs[name] = p
	}
	for _, p := range procs {
		o.check(t, p)
		for i := range written {
			if ok, err := p.Has(ctx, fmt.Sprint("new", i)); !ok || err != nil {
				t.Fatalf("new%d: %t, %v", i, ok, err)
			}
		}
	}
}

// TestPowerLossOfAStoreThatBeganWithABackupLosesNothing cuts the power at moments
// around the first snapshot and the end of the copy.
func TestPowerLossOfAStoreThatBeganWithABackupLosesNothing(t *testing.T) {
	t.Parallel()
	o := newOrigin(t)
	for round := range rounds(20, 5) {
		disk := powerdisk.New()
		c := testcluster.New(t, testcluster.Options{Members: 1, Change: func(_ int, opts *replica.Options) {
			if err := disk.MkdirAll(opts.Dir, 0o700); err != nil {
				t.Fatal(err)
			}
			syncAncestors(t, disk, opts.Dir)
			opts.SetFS(disk)
			opts.Restore = o.path
		}})
		ctx := within(t, 20*time.Second)
		for again := range 3 {
			s := c.Store(0)
			if err := s.Set(ctx, fmt.Sprint("new", again), nil); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Duration(round) * 2 * time.Millisecond)
			disk.Cut()
			c.Stop(0)
			disk.Restore(func() bool { return round%2 == 0 })
			s = c.Start(0)
			o.check(t, s)
			for n := range again + 1 {
				if ok, err := s.Has(ctx, fmt.Sprint("new", n)); !ok || err != nil {
					t.Fatalf("new%d is gone: %v", n, err)
				}
			}
		}
	}
}

func TestBackupOfAMemberHasAllThatWasAcknowledgedBefore(t *testing.T) {
	t.Parallel()
	c := testcluster.New(t, testcluster.Options{})
	c.Ready()
	ctx := within(t, 60*time.Second)
	for n := range 50 {
		key := fmt.Sprint("key", n)
		if err := c.Store(n%3).Set(ctx, key, nil); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if _, err := c.Store((n+1)%3).Backup(ctx, &out); err != nil {
			t.Fatal(err)
		}
		s, err := local.Restore(local.Options{}, &out)
		if err != nil {
			t.Fatal(err)
		}
		if ok, err := s.Has(ctx, key); !ok || err != nil {
			t.Fatalf("%s was acknowledged and is not in the backup", key)
		}
		s.Close()
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := c.Store(0).Backup(ended, new(bytes.Buffer)); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("%v", err)
	}
}

// TestBackupBesideWritesIsOfOneMoment has pairs of keys that are set together, and
// counts that only grow, while backups are made.
func TestBackupBesideWritesIsOfOneMoment(t *testing.T) {
	t.Parallel()
	for _, members := range []int{1, 3} {
		c := testcluster.New(t, testcluster.Options{Members: members})
		c.Ready()
		ctx := within(t, 60*time.Second)
		stop := make(chan struct{})
		var writers sync.WaitGroup
		for w := range 6 {
			s := c.Store(w % members)
			writers.Go(func() {
				for n := 0; ; n++ {
					select {
					case <-stop:
						return
					default:
					}
					value := []byte(fmt.Sprint(n))
					txn := store.Txn{Then: []store.Op{store.OpSet(fmt.Sprint("left", w), value), store.OpSet(fmt.Sprint("right", w), value)}}
					if _, err := s.Txn(ctx, txn); err != nil {
						t.Errorf("txn: %v", err)
						return
					}
				}
			})
		}
		last := store.Revision(0)
		for n := range rounds(60, 20) {
			var out bytes.Buffer
			b, err := c.Store(n%members).Backup(ctx, &out)
			if err != nil {
				t.Fatal(err)
			}
			if b.Revision < last {
				t.Fatalf("revision %d after %d", b.Revision, last)
			}
			last = b.Revision
			s, err := local.Restore(local.Options{}, &out)
			if err != nil {
				t.Fatal(err)
			}
			for w := range 6 {
				left, _, _ := s.GetEntry(ctx, fmt.Sprint("left", w))
				right, _, _ := s.GetEntry(ctx, fmt.Sprint("right", w))
				if !bytes.Equal(left.Value, right.Value) || left.Revision != 0 && right.Revision != left.Revision+1 {
					t.Fatalf("%q at %d beside %q at %d", left.Value, left.Revision, right.Value, right.Revision)
				}
			}
			s.Close()
		}
		close(stop)
		writers.Wait()
		if last == 0 {
			t.Error("nothing was written")
		}
	}
}

func TestTimeToLiveOfABackupIsNeverCutShort(t *testing.T) {
	t.Parallel()
	ctx := within(t, 60*time.Second)
	const ttl = 2 * time.Second
	from := testcluster.New(t, testcluster.Options{Members: 1})
	from.Ready()
	var out bytes.Buffer
	began := time.Now()
	if err := from.Store(0).SetE(ctx, "k", []byte("v"), ttl/2, ttl); err != nil {
		t.Fatal(err)
	}
	if _, err := from.Store(0).Backup(ctx, &out); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "backup")
	if err := os.WriteFile(path, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	to := testcluster.New(t, testcluster.Options{Change: func(_ int, o *replica.Options) { o.Restore = path }})
	to.Ready()
	for {
		_, ok, err := to.Store(0).Get(ctx, "k")
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			if took := time.Since(began); took < ttl/2 {
				t.Fatalf("the value of %v went after %v", ttl/2, took)
			}
			break
		}
	}
	eventually(t, 20*time.Second, "the key goes", func() bool {
		ok, err := to.Store(1).Has(ctx, "k")
		return !ok && err == nil
	})
	if took := time.Since(began); took < ttl {
		t.Fatalf("the key of %v went after %v", ttl, took)
	}
}

func TestBackupOfAnotherEngineIsRefusedAndLeavesNothing(t *testing.T) {
	testcluster.Guard(t)
	o := newOrigin(t)
	dir := filepath.Join(t.TempDir(), "data")
	refused(t, replica.Options{Dir: dir, Restore: o.path, Engine: enginetest.Naive}, "BACKUP", "another engine")
	if hasBackup(t, dir) {
		t.Error("the copy is still there")
	}
	opens(t, replica.Options{Dir: dir, Restore: o.path}, "old0")
}
