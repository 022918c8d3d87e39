package testcluster

import (
	"context"
	"io/fs"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"testing"
	"time"

	"dkv/lock"
	"dkv/store/replica"
)

const (
	// closeLimit is how long Close may take at most, whatever state the group
	// is in.
	closeLimit = 5 * time.Second
	// settleLimit is how long members may take to elect a leader, or to catch
	// up with each other.
	settleLimit = 20 * time.Second
)

// Options says what a Cluster is. The zero value is three members.
type Options struct {
	// Members is how many there are; 1 is a durable store without peers.
	Members int
	// Change, if set, may change the options that member i is opened with.
	Change func(i int, o *replica.Options)
	// Unequal keeps the cleanup from comparing the members.
	Unequal bool
}

// Cluster is a group whose members run in this process.
type Cluster struct {
	t    testing.TB
	opts Options
	layout

	mu     sync.Mutex
	stores []*replica.Store // nil: not running
}

// New starts a group. It does not wait for a leader; see [Cluster.Ready].
func New(t testing.TB, opts Options) *Cluster {
	t.Helper()
	if opts.Members == 0 {
		opts.Members = 3
	}
	Guard(t)
	c := &Cluster{
		t:      t,
		opts:   opts,
		layout: newLayout(t, opts.Members),
		stores: make([]*replica.Store, opts.Members),
	}
	t.Cleanup(c.cleanup)
	for i := range c.stores {
		c.Start(i)
	}
	return c
}

func (c *Cluster) cleanup() {
	running := c.Running()
	if !c.t.Failed() && !c.opts.Unequal && len(running) > len(c.stores)/2 {
		c.WaitEqual()
	}
	var wg sync.WaitGroup
	for _, i := range running {
		wg.Go(func() { c.stop(i) })
	}
	wg.Wait()
}

// Options are what member i is opened with.
func (c *Cluster) Options(i int) replica.Options {
	o := replica.Options{Dir: c.dirs[i], Node: c.nodes[i], Members: maps.Clone(c.members)}
	if c.opts.Change != nil {
		c.opts.Change(i, &o)
	}
	return o
}

// Start opens member i.
func (c *Cluster) Start(i int) *replica.Store {
	c.t.Helper()
	s, err := replica.Open(c.Options(i))
	if err != nil {
		c.t.Fatalf("open member %d: %v", i, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stores[i] != nil {
		c.t.Fatalf("member %d runs already", i)
	}
	c.stores[i] = s
	return s
}

// Stop closes member i, which must take no longer than it may.
func (c *Cluster) Stop(i int) {
	c.t.Helper()
	c.stop(i)
}

func (c *Cluster) stop(i int) {
	c.mu.Lock()
	s := c.stores[i]
	c.stores[i] = nil
	c.mu.Unlock()
	began := time.Now()
	err := s.Close()
	if took := time.Since(began); err != nil || took > closeLimit {
		c.t.Errorf("close of member %d took %v: %v", i, took, err)
	}
}

// Restart closes and opens member i.
func (c *Cluster) Restart(i int) *replica.Store {
	c.t.Helper()
	c.Stop(i)
	return c.Start(i)
}

// Store is member i, nil if it does not run.
func (c *Cluster) Store(i int) *replica.Store {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stores[i]
}

// Locker gives out locks by way of member i.
func (c *Cluster) Locker(i int) *lock.Locker { return lock.New(c.Store(i)) }

// Dir is the data directory of member i.
func (c *Cluster) Dir(i int) string { return c.dirs[i] }

// Running are the members that run.
func (c *Cluster) Running() []int {
	c.mu.Lock()
	defer c.mu.Unlock()
	var running []int
	for i, s := range c.stores {
		if s != nil {
			running = append(running, i)
		}
	}
	return running
}

// Ready waits until every running member answers reads.
func (c *Cluster) Ready() {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), settleLimit)
	defer cancel()
	for _, i := range c.Running() {
		if err := c.Store(i).Ready(ctx); err != nil {
			c.t.Fatalf("member %d is not ready: %v", i, err)
		}
	}
}

// Leader waits until a running member leads and all of them know it.
func (c *Cluster) Leader() int {
	c.t.Helper()
	for deadline := time.Now().Add(settleLimit); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		running := c.Running()
		leader := -1
		for _, i := range running {
			if c.Store(i).Leads() {
				leader = i
			}
		}
		if leader < 0 {
			continue
		}
		agreed := !slices.ContainsFunc(running, func(i int) bool {
			info, err := c.Store(i).Info(context.Background())
			return err != nil || info.Leader != c.nodes[leader]
		})
		if agreed {
			return leader
		}
	}
	c.t.Fatal("no leader")
	return -1
}

// Follower is a running member that does not lead.
func (c *Cluster) Follower() int {
	c.t.Helper()
	leader := c.Leader()
	for _, i := range c.Running() {
		if i != leader {
			return i
		}
	}
	c.t.Fatal("no follower")
	return -1
}

// WaitEqual waits until all running members have applied the same entries, and
// fails if their states differ then.
func (c *Cluster) WaitEqual() replica.Checksum {
	c.t.Helper()
	return waitEqual(c.t, c.Running(), func(i int) (replica.Checksum, error) { return c.Store(i).Checksum(), nil })
}

// waitEqual asks members for their checksums until they are the same. Two that
// are of one index and differ will never agree. A tick of the clock may come
// between the answers, so they are asked again.
func waitEqual(t testing.TB, members []int, ask func(i int) (replica.Checksum, error)) replica.Checksum {
	t.Helper()
	var sums map[int]replica.Checksum
	var err error
	for deadline := time.Now().Add(settleLimit); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		sums = make(map[int]replica.Checksum)
		byIndex := make(map[uint64]uint64)
		for _, i := range members {
			var sum replica.Checksum
			if sum, err = ask(i); err != nil {
				break
			}
			if other, ok := byIndex[sum.Index]; ok && other != sum.Sum {
				t.Fatalf("members differ after the same log entry: %v, member %d %v", sums, i, sum)
			}
			byIndex[sum.Index] = sum.Sum
			sums[i] = sum
		}
		if err == nil && len(byIndex) == 1 {
			return sums[members[0]]
		}
	}
	t.Fatalf("members do not catch up with each other: %v, %v", sums, err)
	return replica.Checksum{}
}

var completeSnapshot = regexp.MustCompile(`^snapshot-[0-9A-F]{16}$`)

// IsSnapshot tells whether a directory of that name is a complete snapshot.
func IsSnapshot(name string) bool { return completeSnapshot.MatchString(name) }

// Snapshots are the names of the complete snapshots in a member's directory.
func Snapshots(t testing.TB, dir string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && IsSnapshot(d.Name()) {
			names = append(names, d.Name())
		}
		return nil // what is removed meanwhile is no fault
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}
