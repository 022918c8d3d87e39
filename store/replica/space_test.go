package replica_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"dkv/internal/powerdisk"
	"dkv/internal/testcluster"
	"dkv/store"
	"dkv/store/replica"
)

// onDisks starts three members on disks of their own in memory.
func onDisks(t *testing.T) (*testcluster.Cluster, []*powerdisk.Disk) {
	t.Helper()
	disks := []*powerdisk.Disk{powerdisk.New(), powerdisk.New(), powerdisk.New()}
	var net wires
	c := testcluster.New(t, testcluster.Options{Change: func(i int, o *replica.Options) {
		if err := disks[i].MkdirAll(o.Dir, 0o700); err != nil {
			t.Fatal(err)
		}
		o.SetFS(disks[i])
		o.SetTransport(net.connect())
	}})
	c.Ready()
	return c, disks
}

func TestWritesAreTurnedAwayBeforeTheDiskIsFull(t *testing.T) {
	t.Parallel()
	c, disks := onDisks(t)
	ctx := within(t, time.Minute)
	member := c.Leader()
	s := c.Store(member)
	owner, ok, err := c.Locker(member).Acquire(ctx, "lock", time.Hour)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	disks[member].SetFree(65 << 20) // 64 MiB, and a snapshot of nearly nothing
	if err := s.Set(ctx, "k", make([]byte, 2<<20)); err != nil {
		t.Fatal(err)
	}
	// The state is now larger than what is free beyond 64 MiB.
	eventually(t, 5*time.Second, "a write is turned away", func() bool {
		err = s.Set(ctx, "k2", nil)
		return err != nil
	})
	if !errors.Is(err, store.ErrDiskFull) || store.KindOf(err) != store.KindNotApplied {
		t.Fatalf("set on a disk that is nearly full: %v", err)
	}
	if ok, err := s.SetEIfUnset(ctx, "k3", nil, 0, 0); ok || !errors.Is(err, store.ErrDiskFull) {
		t.Error(ok, err)
	}
	if _, ok, err := c.Locker(member).Acquire(ctx, "lock2", time.Hour); ok || !errors.Is(err, store.ErrDiskFull) {
		t.Error(ok, err)
	}
	// The others have room.
	for i := range 3 {
		if i != member {
			if err := c.Store(i).Set(ctx, fmt.Sprint("by ", i), nil); err != nil {
				t.Error(err)
			}
		}
	}
	if ok, err := c.Locker(member).Release(ctx, "lock", owner); err != nil || !ok {
		t.Error(ok, err)
	}
	if v, ok, err := s.Get(ctx, "k"); err != nil || !ok || len(v) != 2<<20 {
		t.Error(len(v), ok, err)
	}
	// With less to be saved there is room again.
	if err := s.Delete(ctx, "k"); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "writes are let in again", func() bool { return s.Set(ctx, "k3", nil) == nil })
}

// TestMemberWhoseDiskIsFullStandsStillAndGoesOn has something else fill the disk
// of each member in turn.
func TestMemberWhoseDiskIsFullStandsStillAndGoesOn(t *testing.T) {
	t.Parallel()
	c, disks := onDisks(t)
	ctx := within(t, time.Minute)
	for full := range 3 {
		disks[full].SetFull(true)
		other := c.Store((full + 1) % 3)
		// More than its log has set aside. If it leads, another one comes to.
		for n := range 5 {
			if err := other.Set(ctx, fmt.Sprint("key ", n), make([]byte, 1<<20)); err != nil {
				t.Fatalf("member %d is full, set %d by way of another: %v", full, n, err)
			}
		}
		applied := func(i int) uint64 {
			info, err := c.Store(i).Info(ctx)
			if err != nil {
				t.Fatal(err)
			}
			return info.Applied
		}
		time.Sleep(300 * time.Millisecond)
		if behind, ahead := applied(full), applied((full+1)%3); behind >= ahead {
			t.Errorf("member %d has applied %d entries, as if its disk were not full; another %d", full, behind, ahead)
		}
		if err := c.Store(full).Set(ctx, "k", nil); !errors.Is(err, store.ErrDiskFull) {
			t.Errorf("set by way of member %d: %v", full, err)
		}
		disks[full].SetFull(false)
		c.WaitEqual()
	}
}
