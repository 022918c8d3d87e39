package replica_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"dkv/internal/testcluster"
)

func faultTime(t *testing.T) time.Duration {
	if s := os.Getenv("DKV_FAULT_TIME"); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	if testing.Short() {
		return 4 * time.Second
	}
	return time.Minute
}

// nemesis does harm to the members of a group, each of which is a process, and to the
// network between them. That a fault has happened is proven: the system has told of the
// signal's effect, or the network of what it has lost.
type nemesis struct {
	t      *testing.T
	c      *testcluster.Processes
	done   func() int // how many operations have succeeded
	start  time.Time
	faults map[string]int

	// timeline is logged if the test fails: when there was which fault, and how
	// much had been done by then.
	timeline string
}

func newNemesis(t *testing.T, c *testcluster.Processes, done func() int) *nemesis {
	return &nemesis{t: t, c: c, done: done, start: time.Now(), faults: make(map[string]int)}
}

func (n *nemesis) note(what string) {
	n.timeline += fmt.Sprintf("\n%6d ms, %d done: %s", time.Since(n.start).Milliseconds(), n.done(), what)
}

func (n *nemesis) kill(what string, members ...int) {
	n.note(fmt.Sprint(what, " ", members))
	defer n.note("restarted")
	for _, i := range members {
		if !n.c.Process(i).Kill() {
			n.t.Errorf("member %d did not die from SIGKILL", i)
		}
	}
	n.faults[what]++
	time.Sleep(time.Duration(rand.IntN(700)) * time.Millisecond)
	for _, i := range members {
		n.c.Start(i)
	}
}

func (n *nemesis) pause(what string, i int, meanwhile func()) {
	n.note(fmt.Sprint(what, " ", i))
	defer n.note("resumed")
	p := n.c.Process(i)
	if !p.Pause() {
		n.t.Errorf("member %d was not stopped", i)
	}
	n.faults[what]++
	meanwhile()
	p.Resume()
}

func (n *nemesis) kinds() []func() {
	someone := func() int { return rand.IntN(3) }
	wait := func() { time.Sleep(time.Duration(100+rand.IntN(1900)) * time.Millisecond) }
	partitions := n.partitions()
	kinds := []func(){
		func() { n.kill("leader killed", n.c.Leader()) },
		func() { n.kill("member killed", someone()) },
		func() { n.pause("leader paused", n.c.Leader(), wait) },
		func() { n.pause("member paused", someone(), wait) },
		func() { i := someone(); n.kill("majority killed", i, (i+1)%3) },
		func() {
			paused := n.c.Leader()
			n.pause("leader paused", paused, func() { n.kill("killed while the leader was paused", (paused+1)%3) })
		},
		func() { n.part("follower cut off", partitions["follower cut off"], n.killCutOff) },
	}
	for what, kind := range partitions {
		kinds = append(kinds, func() { n.part(what, kind, func(partition) { wait() }) })
	}
	return kinds
}

// torment does one harm after the other for a time, and each kind once if the test is
// not a short one.
func (n *nemesis) torment(d time.Duration) {
	defer func() {
		if n.t.Failed() {
			n.t.Log(n.timeline)
		}
	}()
	kinds := n.kinds()
	until := time.Now().Add(d)
	for i := 0; i < len(kinds) || time.Now().Before(until); {
		for _, kind := range rand.Perm(len(kinds)) {
			if i >= len(kinds) && time.Now().After(until) {
				return
			}
			time.Sleep(time.Duration(rand.IntN(200)) * time.Millisecond)
			kinds[kind]()
			i++
			// The group has to recover before the next one, or the history
			// would be of little but operations that failed.
			before := n.done()
			eventually(n.t, 20*time.Second, "operations succeed again", func() bool { return n.done() >= before+30 })
			if testing.Short() && time.Now().After(until) {
				i = len(kinds)
			}
		}
	}
}

// check fails if there was not enough of it.
func (n *nemesis) check() {
	if len(n.faults) == 0 {
		n.t.Error("no fault has happened")
	}
	if !testing.Short() && len(n.faults) < len(n.kinds()) {
		n.t.Errorf("not all kinds of faults: %v", n.faults)
	}
}
