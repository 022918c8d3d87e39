package replica_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"dkv/internal/testcluster"
	"dkv/store"
)

// partition is a fault of the network between members.
type partition struct {
	// cut is what is lost. Of each part of it something must have been.
	cut [][]testcluster.Link

	// connected are members each of which hears a majority and is heard by it,
	// whoever leads.
	connected []int

	// alone, if not negative, is a member that must not succeed with anything, as
	// it does not hear a leader or is not heard.
	alone int

	// moves is set if one who is not connected leads, so that another has to.
	moves bool
}

// isolate is the partition that has member i hear nobody, and nobody hear it.
func (n *nemesis) isolate(i int) partition {
	others := n.c.Others(i)
	out, in := testcluster.Apart([]int{i}, others)
	return partition{cut: [][]testcluster.Link{out, in}, connected: others, alone: i}
}

// partitions are the kinds of partition. Each returns one of its kind for the leader
// there is.
func (n *nemesis) partitions() map[string]func(leader int) partition {
	// follower is one of the followers, and the other one.
	follower := func(leader int) (int, int) {
		f := n.c.Others(leader)
		i := rand.IntN(2)
		return f[i], f[1-i]
	}
	return map[string]func(leader int) partition{
		"leader cut off": func(leader int) partition {
			p := n.isolate(leader)
			p.moves = true
			return p
		},
		"follower cut off": func(leader int) partition {
			f, _ := follower(leader)
			return n.isolate(f)
		},
		"leader unheard by one": func(leader int) partition {
			// The other one hears all, so it stays with the leader, or votes.
			f, other := follower(leader)
			out, _ := testcluster.Apart([]int{leader}, []int{f})
			return partition{cut: [][]testcluster.Link{out}, connected: []int{other}, alone: -1}
		},
		"leader unheard by both": func(leader int) partition {
			others := n.c.Others(leader)
			out, _ := testcluster.Apart([]int{leader}, others)
			return partition{cut: [][]testcluster.Link{out[:1], out[1:]}, connected: others, alone: leader, moves: true}
		},
		"bridge": func(leader int) partition {
			// If the leader were the bridge, nothing would be lost: followers
			// have little to say to each other.
			f, bridge := follower(leader)
			out, in := testcluster.Apart([]int{leader}, []int{f})
			return partition{cut: [][]testcluster.Link{out, in}, connected: []int{bridge}, alone: -1}
		},
	}
}

// part has a partition of a kind, proves that there was one and that the members go on
// that can, and heals it when meanwhile has returned.
func (n *nemesis) part(what string, kind func(leader int) partition, meanwhile func(partition)) {
	for range 5 {
		leader := n.c.Leader()
		if p := kind(leader); n.cut(fmt.Sprint(what, ", leader ", leader, ": ", p.cut), p, func() {
			n.faults[what]++
			meanwhile(p)
		}) {
			return
		}
		// It was for a leader that led no longer.
	}
	n.t.Errorf("%s: nothing was lost", what)
}

// cut has a partition until meanwhile has returned. It returns false, and calls nothing, if
// within 3 s not every part of it has lost something.
func (n *nemesis) cut(what string, p partition, meanwhile func()) bool {
	n.t.Helper()
	lost := func() (messages []int) {
		for _, links := range p.cut {
			messages = append(messages, n.c.Dropped(links...).Messages)
		}
		return messages
	}
	n.note(what)
	defer n.note("healed")
	before := lost()
	n.c.Cut(slices.Concat(p.cut...)...)
	defer n.c.Cut()
	happened := func() bool {
		for i, messages := range lost() {
			if messages <= before[i] {
				return false
			}
		}
		return true
	}
	for until := time.Now().Add(3 * time.Second); !happened(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(until) {
			return false
		}
	}
	n.goesOn(p)
	meanwhile()
	n.note(fmt.Sprint("lost: ", before, " before, ", lost(), " now"))
	return true
}

// killCutOff kills and restarts the one that is alone, which stays so.
func (n *nemesis) killCutOff(p partition) {
	n.t.Helper()
	n.kill("killed while cut off", p.alone)
	eventually(n.t, 20*time.Second, "what the restarted member says is lost", func() bool {
		return n.c.Dropped(p.cut[0]...).Messages > 0
	})
}

// goesOn proves that the partition keeps those that are connected from nothing, and one
// that is alone from all.
func (n *nemesis) goesOn(p partition) {
	n.t.Helper()
	if p.moves {
		eventually(n.t, 20*time.Second, "another one leads", func() bool {
			info, err := n.c.Process(p.connected[0]).Info(context.Background())
			return err == nil && slices.ContainsFunc(p.connected, func(i int) bool { return n.c.Node(i) == info.Leader })
		})
		n.note("another one leads")
	}
	set := func(i int, timeout time.Duration) error {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		return n.c.Process(i).Set(ctx, "partition", fmt.Append(nil, n.done()))
	}
	for _, i := range p.connected {
		eventually(n.t, 20*time.Second, fmt.Sprintf("member %d writes in spite of the partition", i), func() bool {
			return set(i, time.Second) == nil
		})
	}
	if p.alone >= 0 {
		const timeout = 200 * time.Millisecond
		inTime(n.t, fmt.Sprintf("a write of member %d, which is alone,", p.alone), timeout, time.Second, func() {
			err := set(p.alone, timeout)
			if kind := store.KindOf(err); kind != store.KindUnknown && kind != store.KindNotApplied {
				n.t.Errorf("a write of member %d, which is alone: %v", p.alone, err)
			}
		})
	}
	// That was the nemesis; the clients go on as well.
	before := n.done()
	eventually(n.t, 20*time.Second, "operations succeed in spite of the partition", func() bool { return n.done() >= before+5 })
	n.note("the majority goes on")
}

// TestSnapshotThatIsLostIsSentAgain has a member come back that needs a snapshot, which
// the network loses while all else arrives.
func TestSnapshotThatIsLostIsSentAgain(t *testing.T) {
	t.Parallel()
	c := testcluster.NewProcesses(t, 3, 16<<10)
	c.Ready()
	leader := c.Leader()
	behind := c.Others(leader)[0]
	if !c.Process(behind).Kill() {
		t.Fatal("it did not die")
	}
	ctx := within(t, 60*time.Second)
	value := make([]byte, 1<<10)
	write := func(n int) {
		for i := range n {
			if err := c.Process(leader).Set(ctx, fmt.Sprint("key", i%10), value); err != nil {
				t.Fatal(err)
			}
		}
	}
	write(200)
	eventually(t, 20*time.Second, "the log is cut short", func() bool {
		write(1)
		return len(testcluster.Snapshots(t, c.Dir(leader))) > 0
	})
	there, _ := testcluster.Apart([]int{0, 1, 2}, []int{behind})
	there = slices.DeleteFunc(there, func(l testcluster.Link) bool { return l.From == l.To })
	for i := range there {
		there[i].OnlySnapshots = true
	}
	c.Cut(there...)
	c.Start(behind)
	eventually(t, 20*time.Second, "a snapshot is lost", func() bool { return c.Dropped(there...).Chunks > 0 })
	write(10)
	if d := c.Dropped(there...); d.Messages > 0 {
		t.Error("more is lost than snapshots: ", d)
	}
	c.Cut()
	began := time.Now()
	c.Ready()
	t.Log("after ", time.Since(began), " all are ready; lost: ", c.Dropped(there...))
	c.WaitEqual()
}
