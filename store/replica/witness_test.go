package replica_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"dkv/internal/testcluster"
	"dkv/lock"
	"dkv/store"
	"dkv/store/replica"
)

// witness has options for a new node that joins as a witness by way of others.
func (g *growing) witness(node string, by ...string) {
	g.joiner(node, by...)
	o := g.opts[node]
	o.Witness = true
	g.opts[node] = o
}

// newWitnessed has a group of a and b, which have data, and the witness w.
func newWitnessed(t *testing.T) *growing {
	t.Helper()
	g := newGrowing(t)
	g.join("b", "a")
	g.witness("w", "a", "b")
	g.open("w")
	g.ready("w")
	return g
}

func TestWitnessVotesAndHasNoData(t *testing.T) {
	t.Parallel()
	g := newWitnessed(t)
	g.are("a", "b", "w witnesses")
	g.work("all", "a", "b")
	g.ready("a") // it could lead, see TestReadyMemberMayTakeOver
	g.close("b")
	g.work("without b", "a")
	g.open("b")
	g.work("b is back", "a", "b")
	g.ready("b")
	g.close("a")
	g.work("without a", "b")
	g.open("a")
	g.work("a is back", "a", "b")
	g.close("w")
	g.work("without w", "a", "b")
	g.open("w")
	g.ready("w")
	g.are("a", "b", "w witnesses")

	w := g.stores["w"]
	ctx := within(t, 10*time.Second)
	if i, err := w.Info(ctx); err != nil || i.Mode != "witness" {
		t.Errorf("%+v, %v", i, err)
	}
	_, _, get := w.Get(ctx, "k")
	_, _, stale := w.GetStale(ctx, "k")
	_, watch := w.Watch(ctx, store.Watch{Key: "k", From: 1})
	_, backup := w.Backup(ctx, nil)
	_, _, acquire := lock.New(w).Acquire(ctx, "k", time.Second)
	for what, err := range map[string]error{
		"get": get, "stale": stale, "watch": watch, "backup": backup, "lock": acquire, "set": w.Set(ctx, "k", nil),
	} {
		if !errors.Is(err, store.ErrNoData) || store.KindOf(err) != store.KindFinal {
			t.Errorf("%s: %v", what, err)
		}
	}
	for what, err := range map[string]error{
		"add":         w.AddMember(ctx, "x", "127.0.0.1:1"),
		"remove":      w.RemoveMember(ctx, "b"),
		"lead":        w.TransferLeadership(ctx, "b"),
		"lead itself": g.stores["a"].TransferLeadership(ctx, "w"),
	} {
		if !errors.Is(err, store.ErrMembers) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if info, err := w.Info(ctx); err != nil || info.Leader == "" || len(info.Members) != 3 || info.Keys != 0 {
		t.Errorf("info %+v, %v", info, err)
	}
	if err := w.Live(); err != nil {
		t.Error(err)
	}
	g.close("w")
	if err := w.Set(ctx, "k", nil); !errors.Is(err, store.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
	if _, _, err := replica.Recover(context.Background(), g.opts["w"].Dir, nil); !errors.Is(err, store.ErrBadOptions) {
		t.Errorf("recovered: %v", err)
	}
}

func TestWitnessIsForAGroupOfTwoOrMore(t *testing.T) {
	t.Parallel()
	g := newGrowing(t)
	g.witness("w", "a")
	g.open("w")
	ctx := within(t, 30*time.Second)
	brief, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	if err := g.stores["w"].Ready(brief); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("beside one member with data: %v", err)
	}
	g.are("a")
	g.join("b", "w", "a") // the witness takes nobody in, and does no harm
	g.ready("w")
	g.are("a", "b", "w witnesses")

	// A second one is refused, whoever asks.
	g.witness("x", "b")
	g.open("x")
	if err := g.stores["x"].Ready(ctx); !errors.Is(err, store.ErrBadOptions) || !strings.Contains(err.Error(), `has a witness, "w"`) {
		t.Errorf("a second witness joins: %v", err)
	}
	g.close("x")
	g.witness("x")
	g.open("x")
	if err := g.stores["a"].AddMember(ctx, "x", g.address("x")); !errors.Is(err, store.ErrMembers) {
		t.Errorf("a second witness is added: %v", err)
	}
	g.close("x")
	g.are("a", "b", "w witnesses")

	// One that joins by way of the witness alone finds the others by it.
	g.join("c", "w")
	g.are("a", "b", "c", "w witnesses")
	g.work("three and a witness", "a", "b", "c")
}

func TestWitnessDoesNotStayAlone(t *testing.T) {
	t.Parallel()
	g := newWitnessed(t)
	g.work("all", "a", "b")
	ctx := within(t, 30*time.Second)
	g.close("w")
	if err := g.stores["a"].RemoveMember(ctx, "b"); !errors.Is(err, store.ErrMembers) {
		t.Errorf("a and a witness that does not answer would be left: %v", err)
	}
	g.open("w")
	g.ready("w")
	g.remove("b", "b") // which has another lead first, and not the witness
	g.are("a", "w witnesses")
	g.work("a alone", "a")
	for _, node := range []string{"a", "w"} {
		if err := g.stores["a"].RemoveMember(ctx, node); errors.Is(err, store.ErrMembers) != (node == "a") {
			t.Errorf("%s is removed: %v", node, err)
		}
	}
	g.are("a")
	g.work("a is all", "a")
	w := g.stores["w"]
	eventually(t, 20*time.Second, "the witness has been told", func() bool { return errors.Is(w.Live(), store.ErrRemoved) })
	g.close("w")
	if s, err := replica.Open(g.opts["w"]); !errors.Is(err, store.ErrRemoved) {
		t.Errorf("opened again: %v", err)
		if err == nil {
			s.Close()
		}
	}
}

// TestWitnessNeverLeads has the leader close, again and again.
func TestWitnessNeverLeads(t *testing.T) {
	t.Parallel()
	g := newWitnessed(t)
	for range 3 {
		for _, node := range []string{"a", "b"} {
			if err := g.stores[node].TransferLeadership(within(t, 20*time.Second), node); err != nil {
				t.Fatal(err)
			}
			other := map[string]string{"a": "b", "b": "a"}[node]
			g.ready(other)
			g.close(node)
			eventually(t, 10*time.Second, other+" leads", g.stores[other].Leads)
			if info, err := g.stores["w"].Info(t.Context()); err != nil || info.Leader == "w" || g.stores["w"].Leads() {
				t.Errorf("the witness leads, or %q: %v", info.Leader, err)
			}
			g.work(node+" is away", other)
			g.open(node)
			g.ready(node)
		}
	}
}

func TestWitnessThatHasLostItsDirectoryIsReplaced(t *testing.T) {
	t.Parallel()
	g := newWitnessed(t)
	g.work("all", "a", "b")
	g.close("w")
	g.witness("w", "a")
	g.open("w")
	ctx := within(t, 30*time.Second)
	if err := g.stores["w"].Ready(ctx); !errors.Is(err, store.ErrBadOptions) {
		t.Errorf("a second directory of a member: %v", err)
	}
	g.close("w")
	g.witness("w") // it waits
	g.open("w")
	if err := g.stores["b"].ReplaceMember(ctx, "w", g.address("w")); err != nil {
		t.Fatal(err)
	}
	g.ready("w")
	g.are("a", "b", "w witnesses")
	g.ready("b")
	g.close("a")
	g.work("without a", "b")
	g.open("a")
	g.ready("a")
	// And by a member with data, under its name.
	g.remove("w", "a")
	g.close("w")
	g.join("w", "b")
	g.are("a", "b", "w")
	g.work("three with data", "a", "b", "w")
}

func TestDirectoryStaysThatOfAWitness(t *testing.T) {
	t.Parallel()
	g := newWitnessed(t)
	g.ready("a")
	g.close("w", "b")
	for node, want := range map[string]string{"w": "set Witness", "b": "leave Witness out"} {
		o := g.opts[node]
		o.Witness = !o.Witness
		refused(t, o, "Dir", want)
	}
	o := g.opts["a"]
	g.close("a")
	o.Witness = true
	refused(t, o, "leave Witness out")
	o.Dir = t.TempDir()
	refused(t, o, "Witness", "Join")
	refused(t, replica.Options{Dir: t.TempDir(), Witness: true}, "Witness", "Join")
	o = g.opts["w"]
	o.Learner, o.MaxBytes = true, 1
	refused(t, o, "Learner", "MaxBytes")
	o = g.opts["w"] // which remembers the rest
	o.Join = nil
	g.opts["w"] = o
	g.open("a", "w")
	g.ready("w")
	g.work("without b", "a")
}

// fill writes so much that the members that are to have made snapshots.
func (g *growing) fill(by string, megabytes int) {
	g.t.Helper()
	for i := range megabytes * 16 {
		if err := g.stores[by].Set(within(g.t, 20*time.Second), fmt.Sprint("key", i%32), make([]byte, 64<<10)); err != nil {
			g.t.Fatal(err)
		}
	}
}

// TestWitnessIsSentASnapshot has it be away until the leader's log has been cut short.
func TestWitnessIsSentASnapshot(t *testing.T) {
	g := newGrowing(t)
	o := g.opts["a"]
	g.close("a")
	o.SnapshotBytes = 128 << 10
	g.opts["a"] = o
	g.open("a")
	g.joiner("b", "a")
	o = g.opts["b"]
	o.SnapshotBytes = 128 << 10
	g.opts["b"] = o
	g.open("b")
	g.ready("b")
	g.witness("w", "a", "b")
	// There is no place where others have their temporary files.
	t.Setenv("TMPDIR", filepath.Join(t.TempDir(), "missing"))
	g.open("w")
	g.ready("w")
	for round := range 3 {
		g.close("w")
		before := testcluster.Snapshots(t, g.opts["w"].Dir)
		g.fill("a", 3)
		g.open("w")
		g.ready("w")
		w := g.stores["w"]
		eventually(t, 20*time.Second, "it has been sent a snapshot", func() bool {
			return !slices.Equal(testcluster.Snapshots(t, w.Dir()), before)
		})
		away := []string{"a", "b"}[round%2]
		other := []string{"b", "a"}[round%2]
		g.ready(other)
		g.close(away)
		g.work(fmt.Sprint("without ", away, round), other)
		g.close("w")
		g.open("w") // with that snapshot
		g.work(fmt.Sprint("the witness has restarted", round), other)
		g.open(away)
		g.ready(away)
	}
	g.are("a", "b", "w witnesses")
	if _, err := os.Stat(os.TempDir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a directory was made for them: %v", err)
	}
	for _, node := range []string{"a", "b"} {
		if found, err := filepath.Glob(filepath.Join(g.opts[node].Dir, "raft", "dragonboat-witness*")); err != nil || len(found) > 0 {
			t.Errorf("left behind in the directory of %s: %v, %v", node, found, err)
		}
	}
}

// TestWitnessCutsItsLogShort has it be there all the time, so that no snapshot does it.
func TestWitnessCutsItsLogShort(t *testing.T) {
	t.Parallel()
	g := newGrowing(t)
	g.join("b", "a")
	g.witness("w", "a", "b")
	o := g.opts["w"]
	o.SnapshotBytes = 32 << 10
	g.opts["w"] = o
	g.open("w")
	g.ready("w")
	write := func(n int) {
		var writing sync.WaitGroup
		for c := range 4 {
			writing.Go(func() {
				for i := range n / 4 {
					if err := g.stores["a"].Set(within(t, 20*time.Second), fmt.Sprint("key", c, i%10), nil); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		writing.Wait()
	}
	cut := g.stores["w"].LogBegins()
	for range 2 {
		w := g.stores["w"]
		eventually(t, 60*time.Second, "its log is cut", func() bool {
			write(400)
			return w.LogBegins() > cut
		})
		g.close("w")
		cut = w.LogBegins() // which may have been cut once more
		t.Logf("the log begins with entry %d", cut)
		g.open("w") // with what it has
		g.ready("w")
		w = g.stores["w"] // Dragonboat has it begin there once the replica has
		// It may be cut again at once, when more has been applied meanwhile.
		eventually(t, 20*time.Second, "the log begins there, or later, after a restart", func() bool { return w.LogBegins() >= cut })
		cut = w.LogBegins()
		g.are("a", "b", "w witnesses")
		g.ready("a")
		g.close("b")
		g.work("without b", "a")
		g.open("b")
		g.ready("b")
	}
	// A change of the members is behind what is cut, and one is in it.
	g.join("c", "b")
	w := g.stores["w"]
	eventually(t, 60*time.Second, "its log is cut again", func() bool {
		write(400)
		return w.LogBegins() > cut
	})
	g.close("w")
	g.remove("b", "a")
	g.close("b")
	g.open("w")
	g.ready("w")
	g.are("a", "c", "w witnesses")
	g.ready("a")
	g.close("c")
	g.work("without c", "a")
	g.open("c")
	g.ready("c")
	if got := testcluster.Snapshots(t, w.Dir()); len(got) > 0 {
		t.Errorf("it was sent snapshots: %v", got)
	}
}
