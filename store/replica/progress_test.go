package replica_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"dkv/internal/testcluster"
	"dkv/store/replica"
)

func TestProgressOfAMemberIsThatOfItsLastBatch(t *testing.T) {
	t.Parallel()
	c := testcluster.New(t, testcluster.Options{})
	c.Ready()
	ctx := within(t, time.Minute)
	names := []string{"a", "b", "c"}
	progress := func(of, by int) uint64 {
		t.Helper()
		info, err := c.Store(by).Info(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return info.Progress[names[of]]
	}
	applied := func(of int) uint64 { return progress(of, of) }
	write := func(by, n int) {
		t.Helper()
		for range n {
			if err := c.Store(by).Set(ctx, "k", nil); err != nil {
				t.Fatal(err)
			}
		}
	}

	// Each tells what it had applied when it wrote, and no more.
	for i := range 3 {
		before := applied(i)
		write(i, 2)
		after := applied(i)
		for j := range 3 {
			eventually(t, 10*time.Second, fmt.Sprintf("%s knows of %s", names[j], names[i]), func() bool {
				p := progress(i, j)
				return p > before && (i == j || p < after)
			})
		}
	}

	// Who writes nothing seems to stand still, and does not.
	quiet, other := c.Follower(), c.Leader()
	c.WaitEqual()
	told := progress(quiet, other)
	write(other, 20)
	if p := progress(quiet, other); p != told {
		t.Errorf("%s has told nothing since it was at %d, and is shown at %d", names[quiet], told, p)
	}
	eventually(t, 10*time.Second, "the quiet member applies all the same", func() bool { return applied(quiet) >= told+20 })

	// A restart begins anew, and writes tell again.
	c.Restart(quiet)
	c.Ready()
	write(quiet, 1)
	want := applied(quiet)
	write(quiet, 1)
	eventually(t, 10*time.Second, "the restarted member tells again", func() bool {
		return progress(quiet, other) >= want
	})
	for _, i := range c.Running() {
		info, err := c.Store(i).Info(ctx)
		if err != nil || info.Progress[info.Node] != info.Applied {
			t.Errorf("%+v, %v", info, err)
		}
	}
}

// TestMembersAreEqualWhateverTheyKnowOfEachOther has one come back by a snapshot,
// which says nothing of how far the others are; WaitEqual compares checksums.
func TestMembersAreEqualWhateverTheyKnowOfEachOther(t *testing.T) {
	t.Parallel()
	c := testcluster.New(t, testcluster.Options{Change: func(_ int, o *replica.Options) { o.SnapshotBytes = 8 << 10 }})
	c.Ready()
	ctx := within(t, time.Minute)
	for i := range 3 {
		for n := range 40 {
			if err := c.Store(i).Set(ctx, fmt.Sprint(i, n), make([]byte, 500)); err != nil {
				t.Fatal(err)
			}
		}
	}
	eventually(t, 20*time.Second, "a snapshot is written", func() bool { return len(testcluster.Snapshots(t, c.Dir(0))) > 0 })
	s := c.Restart(0)
	if err := s.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	c.WaitEqual()
	info, err := s.Info(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for name, p := range info.Progress {
		if !slices.Contains(info.Members, name) || p == 0 || p > info.Applied {
			t.Errorf("%s is shown at %d: %+v", name, p, info)
		}
	}
}
