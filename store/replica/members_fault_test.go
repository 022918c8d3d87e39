package replica_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dkv/internal/testcluster"
	"dkv/store"
)

// guest is a node that joins a group and is removed from it, again and again, each time
// with a new directory.
type guest struct {
	t       *testing.T
	c       *testcluster.Processes
	node    string
	current atomic.Pointer[testcluster.Process] // nil while it is no member

	joined, killed, removed, told, led int
}

// start starts its process. The founding members may be killed or cut off, and it asks
// them all.
func (g *guest) start(opts testcluster.ProcessOptions) *testcluster.Process {
	p, err := testcluster.StartProcess(g.t, opts)
	if err != nil {
		g.t.Errorf("%s: %v", g.node, err)
		return nil
	}
	return p
}

// visit has it join, work and be removed once. It is false if that is not to go on.
func (g *guest) visit() bool {
	opts := testcluster.ProcessOptions{
		Dir: g.t.TempDir(), Node: g.node, Address: testcluster.FreeAddress(g.t), SnapshotBytes: 128 << 10,
		Join: []string{g.c.Address(0), g.c.Address(1), g.c.Address(2)},
	}
	p := g.start(opts)
	if p == nil {
		return false
	}
	// It is killed in the middle of joining, or just after.
	for range rand.IntN(3) {
		time.Sleep(time.Duration(rand.IntN(600)) * time.Millisecond)
		if !p.Kill() {
			g.t.Errorf("%s did not die from SIGKILL", g.node)
		}
		g.killed++
		if p = g.start(opts); p == nil {
			return false
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	if err := p.Ready(ctx); err != nil {
		g.t.Errorf("%s does not become a member: %v", g.node, err)
		return false
	}
	g.joined++
	g.current.Store(p)
	if rand.IntN(2) == 0 {
		brief, cancel := context.WithTimeout(ctx, 2*time.Second)
		if p.TransferLeadership(brief, g.node) == nil {
			g.led++
		}
		cancel()
	}
	time.Sleep(time.Duration(rand.IntN(500)) * time.Millisecond)
	away := rand.IntN(3) == 0
	if away {
		if !p.Kill() {
			g.t.Errorf("%s did not die from SIGKILL", g.node)
		}
		g.killed++
	}
	g.current.Store(nil)
	if !g.remove(ctx) {
		return false
	}
	g.removed++
	if away {
		if p, _ = testcluster.StartProcess(g.t, opts); !p.Running() {
			return true // it knew that already
		}
	}
	for {
		brief, cancel := context.WithTimeout(ctx, time.Second)
		err := p.Set(brief, "removed", nil)
		cancel()
		if errors.Is(err, store.ErrRemoved) {
			g.told++
			p.Exit()
			return true
		}
		if ctx.Err() != nil {
			g.t.Errorf("%s is not told that it was removed: %v", g.node, err)
			return false
		}
	}
}

// remove has any founding member remove it, until it is one no longer.
func (g *guest) remove(ctx context.Context) bool {
	for ctx.Err() == nil {
		by := g.c.Process(rand.IntN(3))
		brief, cancel := context.WithTimeout(ctx, 3*time.Second)
		err := by.RemoveMember(brief, g.node)
		if err == nil {
			cancel()
			return true
		}
		all, err := by.Members(brief)
		cancel()
		if err == nil && !slices.ContainsFunc(all, func(m store.Member) bool { return m.Name == g.node }) {
			return true // an attempt that was lost has removed it
		}
	}
	g.t.Errorf("%s is not removed", g.node)
	return false
}

// TestMembersComeAndGoUnderFaults takes as long as DKV_FAULT_TIME says. Two nodes join and
// are removed, again and again, while founding members are killed, stopped and cut off.
func TestMembersComeAndGoUnderFaults(t *testing.T) {
	t.Parallel()
	c := testcluster.NewProcesses(t, 3, 128<<10)
	c.Ready()
	h := &history{start: time.Now(), kinds: make(map[store.Kind]int), keys: make(map[string]bool)}
	guests := []*guest{{t: t, c: c, node: "d"}, {t: t, c: c, node: "e"}}
	stop := make(chan struct{})
	stopped := func() bool {
		select {
		case <-stop:
			return true
		default:
			return false
		}
	}
	var working, visiting sync.WaitGroup
	for client := range 6 {
		working.Go(func() {
			for n := 0; !stopped(); n++ {
				p := c.Process(rand.IntN(3))
				if g := guests[n%2].current.Load(); g != nil && rand.IntN(2) == 0 {
					p = g
				}
				in := registerInput{
					op:    []string{"set", "set", "get", "get", "get", "setifunset", "delete"}[rand.IntN(7)],
					key:   fmt.Sprint("key", rand.IntN(4), ".", n/40),
					value: fmt.Sprint(client, ".", n),
				}
				h.do(client, p, in, time.Duration(50+rand.IntN(950))*time.Millisecond)
				time.Sleep(time.Duration(rand.IntN(8)) * time.Millisecond)
			}
		})
	}
	until := time.Now().Add(faultTime(t))
	for _, g := range guests {
		visiting.Go(func() {
			for g.visit() && time.Now().Before(until) {
			}
		})
	}
	n := newNemesis(t, c, func() int {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.kinds[store.KindNone]
	})
	lost := 0
	for time.Now().Before(until) && !t.Failed() {
		i := rand.IntN(3)
		switch rand.IntN(4) {
		case 0:
			n.kill("member killed", i)
		case 1:
			n.pause("member paused", i, func() { time.Sleep(time.Duration(rand.IntN(1500)) * time.Millisecond) })
		default:
			// Guests are a way around, which Raft does not take.
			out, in := testcluster.Apart([]int{i}, c.Others(i))
			before := c.Dropped(out...).Messages
			c.Cut(append(out, in...)...)
			time.Sleep(time.Duration(500+rand.IntN(1500)) * time.Millisecond)
			lost += c.Dropped(out...).Messages - before
			c.Cut()
			n.faults["member cut off"]++
		}
		before := n.done()
		eventually(t, 30*time.Second, "operations succeed again", func() bool { return n.done() >= before+20 })
	}
	visiting.Wait()
	close(stop)
	working.Wait()
	c.Ready()
	for key := range h.keys {
		h.do(100, c.Process(rand.IntN(3)), registerInput{op: "get", key: key}, 20*time.Second)
	}
	for i := range 3 {
		all, err := c.Process(i).Members(within(t, 20*time.Second))
		if err != nil || len(all) != 3 {
			t.Errorf("member %d has the members %v, %v in the end", i, all, err)
		}
	}
	sum := c.WaitEqual()
	h.check(t)
	visits := guest{}
	for _, g := range guests {
		visits.joined += g.joined
		visits.killed += g.killed
		visits.removed += g.removed
		visits.told += g.told
		visits.led += g.led
	}
	t.Logf("%d operations, by kind of error %v; faults %v, %d messages lost; joined %d, killed %d, led %d, removed %d, told %d; %v",
		len(h.ops), h.kinds, n.faults, lost, visits.joined, visits.killed, visits.led, visits.removed, visits.told, sum)
	if visits.joined < 2 || visits.removed < 2 || h.kinds[store.KindNone] < 100 {
		t.Error("that was no test")
	}
	if !testing.Short() && (lost == 0 || visits.killed == 0 || len(n.faults) < 3) {
		t.Error("not all faults have happened")
	}
	if h.kinds[store.KindFinal] > 0 {
		t.Errorf("errors of kinds that no fault leads to: %v", h.kinds)
	}
	if t.Failed() {
		t.Log(n.timeline)
	}
}
