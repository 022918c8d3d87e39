package replica_test

import (
	"maps"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"dkv/internal/powerdisk"
	"dkv/internal/testcluster"
	"dkv/store"
	"dkv/store/replica"
)

// TestPowerLossLosesNothingThatWasAcknowledged cuts the power of some or all
// members in the middle of writes and snapshots, again and again. What was not
// synced is then gone from their disks, but for random sectors of it.
func TestPowerLossLosesNothingThatWasAcknowledged(t *testing.T) {
	t.Parallel()
	snapshots, sectors := 0, 0
	for _, members := range []int{1, 3} {
		disks := make([]*powerdisk.Disk, members)
		for i := range disks {
			disks[i] = powerdisk.New()
			disks[i].SyncTime = 500 * time.Microsecond
		}
		var net wires
		mouths := make([]*wire, members)
		c := testcluster.New(t, testcluster.Options{Members: members, Change: func(i int, o *replica.Options) {
			if err := disks[i].MkdirAll(o.Dir, 0o700); err != nil {
				t.Fatal(err)
			}
			syncAncestors(t, disks[i], o.Dir)
			o.SetFS(disks[i])
			mouths[i] = net.connect()
			o.SetTransport(mouths[i])
			o.SnapshotBytes = 2 << 10
		}})
		c.Ready()
		ledger := newLedger()
		for range rounds(12, 3) {
			before := ledger.count.Load()
			stop := make(chan struct{})
			var writers sync.WaitGroup
			for i := range members {
				s := c.Store(i)
				for w := range 4 {
					name := string(rune('a'+i)) + string(rune('a'+w))
					writers.Go(func() { ledger.write(t, stop, name, func() store.Store { return s }) })
				}
			}
			eventually(t, 20*time.Second, "writes go on", func() bool {
				return ledger.count.Load() > before+int64(300+rand.IntN(300))
			})
			cut := rand.Perm(members)[:1+rand.IntN(members)]
			ledger.mu.Lock()
			for _, i := range cut {
				mouths[i].silence() // else it would say that it has what it has not
				for end := time.Now().Add(5 * time.Millisecond); !disks[i].Unsynced() && time.Now().Before(end); {
					time.Sleep(20 * time.Microsecond)
				}
				disks[i].Cut()
			}
			// Copied afterwards: it takes so long that all writers would wait for the
			// ledger, and the disks be idle when their power goes.
			acked := maps.Clone(ledger.acked)
			ledger.mu.Unlock()
			close(stop)
			var closing sync.WaitGroup
			for _, i := range cut {
				closing.Go(func() { c.Stop(i) })
			}
			closing.Wait()
			writers.Wait()
			ledger.acked = acked
			for _, i := range cut {
				disks[i].Restore(func() bool {
					sectors++
					return rand.IntN(2) == 0
				})
				c.Start(i)
			}
			c.Ready()
			for i := range members {
				ledger.check(t, c.Store(i))
			}
			for i := range members {
				snapshots += snapshotsOn(t, disks[i], c.Dir(i))
			}
			if t.Failed() {
				return
			}
		}
	}
	if snapshots == 0 || sectors == 0 {
		t.Errorf("%d snapshots, %d sectors that were not synced: not what was to be tested", snapshots, sectors)
	}
}

// syncAncestors has a directory be on the disk.
func syncAncestors(t *testing.T, d *powerdisk.Disk, path string) {
	t.Helper()
	for path != "/" {
		path = d.PathDir(path)
		dir, err := d.OpenDir(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := dir.Sync(); err != nil {
			t.Fatal(err)
		}
		dir.Close()
	}
}

// snapshotsOn counts the snapshots in a directory.
func snapshotsOn(t *testing.T, d *powerdisk.Disk, dir string) int {
	t.Helper()
	names, err := d.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, name := range names {
		path := d.PathJoin(dir, name)
		switch info, err := d.Stat(path); {
		case err != nil || !info.IsDir():
		case testcluster.IsSnapshot(name):
			n++
		default:
			n += snapshotsOn(t, d, path)
		}
	}
	return n
}
