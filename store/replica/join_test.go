package replica_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"dkv/internal/testcluster"
	"dkv/store"
	"dkv/store/replica"
)

// growing is a group that members join and leave.
type growing struct {
	movers
}

// newGrowing has a group that node a has founded alone.
func newGrowing(t *testing.T) *growing {
	t.Helper()
	testcluster.Guard(t)
	g := &growing{movers{t: t, opts: make(map[string]replica.Options), stores: make(map[string]*replica.Store)}}
	g.opts["a"] = replica.Options{Dir: t.TempDir(), Node: "a", Members: map[string]string{"a": testcluster.FreeAddress(t)}}
	g.open("a")
	t.Cleanup(func() { g.close(slices.Sorted(maps.Keys(g.opts))...) })
	return g
}

// newThree has a group of a, b and c, of which a has founded it.
func newThree(t *testing.T) *growing {
	t.Helper()
	g := newGrowing(t)
	g.join("b", "a")
	g.join("c", "b")
	g.work("three", "a", "b", "c")
	return g
}

func (g *growing) address(node string) string {
	o := g.opts[node]
	if o.Address != "" {
		return o.Address
	}
	return o.Members[node]
}

// joiner has options for a new node that joins by way of others.
func (g *growing) joiner(node string, by ...string) {
	o := replica.Options{Dir: g.t.TempDir(), Node: node, Address: testcluster.FreeAddress(g.t)}
	for _, other := range by {
		o.Join = append(o.Join, g.address(other))
	}
	g.opts[node] = o
}

// join has a node join and waits until it is a member.
func (g *growing) join(node string, by ...string) {
	g.t.Helper()
	g.joiner(node, by...)
	g.open(node)
	g.ready(node)
}

func (g *growing) ready(nodes ...string) {
	g.t.Helper()
	for _, node := range nodes {
		if err := g.stores[node].Ready(within(g.t, 30*time.Second)); err != nil {
			g.t.Fatalf("%s: %v", node, err)
		}
	}
}

// are checks who the members are, as each of them says.
func (g *growing) are(want ...string) {
	g.t.Helper()
	for _, node := range want {
		node, _, _ = strings.Cut(node, " ")
		all, err := g.stores[node].Members(within(g.t, 20*time.Second))
		if err != nil {
			g.t.Fatalf("%s: %v", node, err)
		}
		var got []string
		leaders := 0
		for _, m := range all {
			name := m.Name
			if m.Learner {
				name += " learns"
			}
			if m.Witness {
				name += " witnesses"
			}
			if m.Leads {
				leaders++
			}
			got = append(got, name)
			if m.Address != g.address(m.Name) {
				g.t.Errorf("%s says that %s is at %q", node, m.Name, m.Address)
			}
		}
		if !slices.Equal(got, want) {
			g.t.Fatalf("%s has the members %v, want %v", node, got, want)
		}
		if leaders > 1 {
			g.t.Errorf("%s knows %d leaders", node, leaders)
		}
	}
}

func (g *growing) remove(node, by string) {
	g.t.Helper()
	if err := g.stores[by].RemoveMember(within(g.t, 20*time.Second), node); err != nil {
		g.t.Fatalf("%s is not removed: %v", node, err)
	}
}

func TestGroupGrowsFromOneToFiveAndBack(t *testing.T) {
	t.Parallel()
	g := newGrowing(t)
	g.work("alone", "a")
	all := []string{"a"}
	for _, node := range []string{"b", "c", "d", "e"} {
		g.join(node, all...)
		all = append(all, node)
		g.are(all...)
		g.work("with "+node, all...)
	}
	// All remember what they are, and where the others are.
	g.close(all...)
	for _, node := range all[1:] {
		o := g.opts[node]
		o.Join = nil
		g.opts[node] = o
	}
	g.open(all...)
	g.work("again", all...)
	g.are(all...)
	for len(all) > 1 {
		node := all[0] // the founder first
		all = all[1:]
		g.remove(node, all[0])
		gone := g.stores[node]
		eventually(t, 10*time.Second, node+" has ended", func() bool {
			return errors.Is(gone.Set(within(t, time.Second), "k", nil), store.ErrRemoved)
		})
		if err := gone.Live(); !errors.Is(err, store.ErrRemoved) || !errors.Is(err, store.ErrClosed) {
			t.Errorf("live: %v", err)
		}
		g.close(node)
		if s, err := replica.Open(g.opts[node]); !errors.Is(err, store.ErrRemoved) || !errors.Is(err, store.ErrBadOptions) {
			t.Errorf("opened again: %v", err)
			if err == nil {
				s.Close()
			}
		}
		g.are(all...)
		g.work("without "+node, all...)
	}
	if err := g.stores["e"].RemoveMember(within(t, 10*time.Second), "e"); !errors.Is(err, store.ErrMembers) {
		t.Errorf("the last is removed: %v", err)
	}
}

func TestLearnerReadsAndWritesAndDoesNotVote(t *testing.T) {
	t.Parallel()
	g := newGrowing(t)
	g.joiner("b", "a")
	o := g.opts["b"]
	o.Learner = true
	g.opts["b"] = o
	g.open("b")
	g.ready("b")
	g.are("a", "b learns")
	g.work("both", "a", "b")
	g.close("b")
	g.work("the voter alone", "a")
	g.open("b")
	g.work("both again", "a", "b")
	g.are("a", "b learns")
	g.close("b")
	o.Learner = false // it is to vote from now on
	g.opts["b"] = o
	g.open("b")
	g.ready("b")
	g.are("a", "b")
	g.work("two voters", "a", "b")
}

// TestMemberThatWasRemovedWhileAwayIsTold removes one that does not run.
func TestMemberThatWasRemovedWhileAwayIsTold(t *testing.T) {
	t.Parallel()
	g := newThree(t)
	g.close("c")
	g.remove("c", "b")
	g.work("two", "a", "b")
	g.open("c")
	s := g.stores["c"]
	eventually(t, 20*time.Second, "it has been told", func() bool {
		return errors.Is(s.Set(within(t, time.Second), "k", nil), store.ErrRemoved)
	})
	g.close("c")
	// A new directory may have its name.
	g.join("c", "a", "b")
	g.are("a", "b", "c")
	g.work("three again", "a", "b", "c")
}

func TestDeadMemberIsReplaced(t *testing.T) {
	t.Parallel()
	g := newThree(t)
	g.close("c")
	if err := os.RemoveAll(g.opts["c"].Dir); err != nil {
		t.Fatal(err)
	}
	// Under its name another directory is not taken in while it is a member.
	g.joiner("c", "a")
	g.open("c")
	if err := g.stores["c"].Ready(within(t, 20*time.Second)); !errors.Is(err, store.ErrBadOptions) {
		t.Errorf("a second directory of a member: %v", err)
	}
	g.close("c")
	o := g.opts["c"]
	o.Dir, o.Join = t.TempDir(), nil // it waits
	g.opts["c"] = o
	g.open("c")
	if err := g.stores["a"].ReplaceMember(within(t, 30*time.Second), "c", o.Address); err != nil {
		t.Fatal(err)
	}
	g.ready("c")
	g.are("a", "b", "c")
	g.close("b")
	g.work("without b", "a", "c")
}

func TestNodeWaitsUntilItIsAdded(t *testing.T) {
	t.Parallel()
	g := newGrowing(t)
	g.joiner("b")
	g.open("b")
	ctx := within(t, 30*time.Second)
	brief, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	if err := g.stores["b"].Ready(brief); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("before it is added: %v", err)
	}
	if err := g.stores["b"].Live(); err != nil || g.stores["b"].Leads() {
		t.Errorf("before it is added it is not live, or leads: %v", err)
	}
	a := g.stores["a"]
	if err := a.AddMember(ctx, "c", g.address("b")); !errors.Is(err, store.ErrMembers) {
		t.Errorf("under another name: %v", err)
	}
	if err := a.AddMember(ctx, "b", testcluster.FreeAddress(t)); !errors.Is(err, store.ErrMembers) {
		t.Errorf("where nobody is: %v", err)
	}
	if err := a.AddMember(ctx, "b", g.address("b")); err != nil {
		t.Fatal(err)
	}
	g.are("a", "b")
	g.work("both", "a", "b")
	if err := a.AddMember(ctx, "b", g.address("b")); !errors.Is(err, store.ErrMembers) {
		t.Errorf("once more: %v", err)
	}
	if err := a.TransferLeadership(ctx, "b"); err != nil || !g.stores["b"].Leads() {
		t.Errorf("b does not lead: %v", err)
	}
	if err := a.TransferLeadership(ctx, "x"); !errors.Is(err, store.ErrMembers) {
		t.Errorf("x is to lead: %v", err)
	}
	if err := a.RemoveMember(ctx, "x"); !errors.Is(err, store.ErrMembers) {
		t.Errorf("x is removed: %v", err)
	}
}

// TestNoGroupIsFoundedTwice has a founding member lose its directory.
func TestNoGroupIsFoundedTwice(t *testing.T) {
	t.Parallel()
	m := newMovers(t, nil)
	m.work("before", "a", "b", "c")
	for node, s := range m.stores {
		eventually(t, 10*time.Second, node+" has met the others", s.Acquainted)
	}
	m.close("c")
	o := m.opts["c"]
	if err := os.RemoveAll(o.Dir); err != nil {
		t.Fatal(err)
	}
	if s, err := replica.Open(o); !errors.Is(err, store.ErrBadOptions) || !strings.Contains(fmt.Sprint(err), "another directory") {
		t.Errorf("it begins anew: %v", err)
		if err == nil {
			s.Close()
		}
	}
	// Nor does one that finds the others later: they do not listen to it.
	m.close("a", "b")
	m.open("c")
	m.open("a")
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if err := m.stores["a"].Ready(ctx); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("it is a quorum with one that has forgotten: %v", err)
	}
	m.open("b")
	m.work("after", "a", "b")
	if err := m.stores["a"].RemoveMember(within(t, 20*time.Second), "c"); err != nil {
		t.Fatal(err)
	}
	m.work("without it", "a", "b")
}

// TestQuorumIsNotGivenAway removes one where the others would not be enough.
func TestQuorumIsNotGivenAway(t *testing.T) {
	m := newMovers(t, nil)
	m.work("before", "a", "b", "c")
	m.close("c")
	ctx := within(t, 20*time.Second)
	if err := m.stores["a"].RemoveMember(ctx, "b"); !errors.Is(err, store.ErrMembers) {
		t.Errorf("a alone would be left: %v", err)
	}
	m.work("after", "a", "b")
	if err := m.stores["a"].RemoveMember(ctx, "c"); err != nil {
		t.Error(err)
	}
}

// TestManyJoinAtOnce has changes of the members cross each other.
func TestManyJoinAtOnce(t *testing.T) {
	t.Parallel()
	g := newGrowing(t)
	names := []string{"b", "c", "d", "e", "f"}
	for _, node := range names {
		g.joiner(node, "a")
	}
	g.open(names...)
	g.ready(names...)
	all := append([]string{"a"}, names...)
	g.are(all...)
	g.work("six", all...)
	var removing sync.WaitGroup
	for i, node := range names[:2] {
		removing.Go(func() {
			if err := g.stores[names[3+i]].RemoveMember(within(t, 20*time.Second), node); err != nil {
				t.Errorf("%s: %v", node, err)
			}
		})
	}
	removing.Wait()
	left := []string{"a", "d", "e", "f"}
	g.are(left...)
	g.work("four", left...)
}

// TestJoinIsGoneOnWith closes a node in the middle of joining, at any moment.
func TestJoinIsGoneOnWith(t *testing.T) {
	t.Parallel()
	g := newGrowing(t)
	for i := range 5000 {
		if err := g.stores["a"].Set(within(t, 10*time.Second), fmt.Sprint("key", i), make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
	}
	g.joiner("b", "a")
	wait, cut := time.Millisecond, 0
	for ; ; wait = wait * 3 / 2 {
		g.open("b")
		ctx, cancel := context.WithTimeout(t.Context(), wait)
		err := g.stores["b"].Ready(ctx)
		cancel()
		if err == nil {
			break
		}
		if !errors.Is(err, store.ErrUnavailable) {
			t.Fatal(err)
		}
		cut++
		g.close("b")
	}
	if cut < 3 {
		t.Errorf("it was closed %d times while it joined", cut)
	}
	g.are("a", "b")
	g.work("both", "a", "b")
	if v, ok, err := g.stores["b"].Get(within(t, 10*time.Second), "key4999"); !ok || err != nil || len(v) != 100 {
		t.Error(len(v), ok, err)
	}
}

// TestMemberThatWasAwayWhileAllOthersWereReplacedIsFound has it know nobody who is still a
// member.
func TestMemberThatWasAwayWhileAllOthersWereReplacedIsFound(t *testing.T) {
	t.Parallel()
	g := newThree(t)
	g.close("c")
	g.join("d", "b")
	g.remove("a", "b")
	g.close("a")
	g.join("e", "d")
	g.remove("b", "e")
	g.close("b")
	g.work("two of three", "d", "e")
	g.open("c")
	g.work("three again", "c", "d", "e")
	g.are("c", "d", "e")
	g.close("e")
	g.work("without e", "c", "d")
}

// TestOlderCopyOfADirectoryIsNotHeard has a disk set back, in effect.
func TestOlderCopyOfADirectoryIsNotHeard(t *testing.T) {
	t.Parallel()
	g := newThree(t)
	g.close("c")
	older := g.opts["c"]
	older.Dir = t.TempDir()
	if err := os.CopyFS(older.Dir, os.DirFS(g.opts["c"].Dir)); err != nil {
		t.Fatal(err)
	}
	g.open("c")
	g.work("three again", "a", "b", "c")
	g.close("c")
	g.opts["older"] = older
	g.open("older")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if err := g.stores["older"].Ready(ctx); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("it is a member: %v", err)
	}
	g.work("without it", "a", "b")
	g.close("older")
	g.open("c")
	g.work("three as before", "a", "b", "c")
}

// TestStoreThatIsAloneJoinsNoGroup has a directory that was opened without a network.
func TestStoreThatIsAloneJoinsNoGroup(t *testing.T) {
	dir := t.TempDir()
	s := opened(t, replica.Options{Dir: dir})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	refused(t, replica.Options{Dir: dir, Node: "b", Address: testcluster.FreeAddress(t), Join: []string{"127.0.0.1:1"}}, "alone")
}

// TestMemberOpensAfterItsRemovalWasOnlyInTheLog has the log tell it while it is opened.
func TestMemberOpensAfterItsRemovalWasOnlyInTheLog(t *testing.T) {
	t.Parallel()
	g := newGrowing(t)
	g.join("b", "a")
	g.work("two", "a", "b")
	if err := g.stores["b"].RemoveMember(within(t, 20*time.Second), "b"); err != nil {
		t.Fatal(err)
	}
	g.close("b")
	// As if it had been killed before it wrote that down.
	path := filepath.Join(g.opts["b"].Dir, "IDENTITY.json")
	identity, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, bytes.Replace(identity, []byte(`"removed": true`), []byte(`"removed": false`), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		s, err := replica.Open(g.opts["b"])
		if err != nil {
			if !errors.Is(err, store.ErrRemoved) {
				t.Fatal(err)
			}
			break
		}
		eventually(t, 10*time.Second, "it has ended", func() bool { return errors.Is(s.Live(), store.ErrRemoved) })
		s.Close()
	}
	g.work("one", "a")
}

// TestRemovalIsOnTheDiskWhenItReturns has a member be killed then, in effect: what is left
// needs no vote of the one that was removed.
func TestRemovalIsOnTheDiskWhenItReturns(t *testing.T) {
	t.Parallel()
	g := newGrowing(t)
	g.join("b", "a")
	g.work("two", "a", "b")
	g.remove("a", "b")
	left := g.opts["b"]
	for {
		left.Dir = t.TempDir()
		err := os.CopyFS(left.Dir, os.DirFS(g.opts["b"].Dir))
		if err == nil {
			break
		}
		if !errors.Is(err, os.ErrNotExist) { // a file was replaced just then
			t.Fatal(err)
		}
	}
	g.close("a", "b")
	g.opts["left"] = left
	g.open("left")
	g.work("one", "left")
	// One that removes itself has it made sure of by the others.
	g.close("left")
	g.open("b")
	g.join("c", "b")
	g.work("two again", "b", "c")
	g.remove("b", "b")
	g.work("c alone", "c")
	g.close("b", "c")
	g.open("c")
	g.work("c again", "c")
}

// TestNodeThatJoinsGetsASnapshotOfNow has more be in the log than a node is to be sent
// after the last snapshot, and less than that one is made for. The node asks a member
// that does not lead.
func TestNodeThatJoinsGetsASnapshotOfNow(t *testing.T) {
	t.Parallel()
	g := newGrowing(t)
	a := g.opts["a"]
	g.close("a")
	a.SnapshotBytes = 1 << 20
	g.opts["a"] = a
	g.open("a")
	g.join("b", "a")
	if n := len(testcluster.Snapshots(t, a.Dir)); n != 0 {
		t.Fatalf("%d snapshots of an empty store", n)
	}
	ctx := within(t, 30*time.Second)
	for i := range 40 {
		if err := g.stores["a"].Set(ctx, fmt.Sprint("k", i), make([]byte, 10<<10)); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.stores["a"].TransferLeadership(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "b knows who leads", func() bool {
		info, err := g.stores["b"].Info(ctx)
		return err == nil && info.Leader == "a"
	})
	g.join("c", "b")
	if n := len(testcluster.Snapshots(t, a.Dir)); n != 1 {
		t.Errorf("%d snapshots of the leader's", n)
	}
	if n := len(testcluster.Snapshots(t, g.opts["c"].Dir)); n != 1 {
		t.Errorf("the node has received %d snapshots", n)
	}
	if v, ok, err := g.stores["c"].Get(ctx, "k39"); len(v) != 10<<10 || !ok || err != nil {
		t.Errorf("%d bytes, %v, %v", len(v), ok, err)
	}
}
