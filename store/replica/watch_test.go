package replica

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"testing"

	"dkv/internal/command"
	"dkv/internal/once"
	"dkv/store"
	"dkv/store/engine"

	sm "github.com/lni/dragonboat/v4/statemachine"
)

// appliedLog is what some members apply.
type appliedLog struct {
	t       *testing.T
	entries []sm.Entry
	seq     uint64
}

func (l *appliedLog) append(ops ...engine.Op) {
	l.seq++
	b := command.AppendBatchHeader(nil, command.Batch{Member: 1, Incarnation: 1, Seq: l.seq}, len(ops))
	for i := range ops {
		b = command.AppendOp(b, &ops[i], once.ID{})
	}
	l.entries = append(l.entries, sm.Entry{Index: uint64(len(l.entries) + 1), Cmd: b})
}

// apply has a member apply the entries from one up to another.
func (l *appliedLog) apply(m *simMember, from, to int) {
	l.t.Helper()
	if _, err := m.machine.Update(append([]sm.Entry(nil), l.entries[from:to]...)); err != nil {
		l.t.Fatal(err)
	}
}

// recovered has one member recover what another has saved.
func recovered(t *testing.T, from, to *simMember) {
	t.Helper()
	var b bytes.Buffer
	frozen, err := from.machine.PrepareSnapshot()
	if err == nil {
		err = from.machine.SaveSnapshot(frozen, &b, nil, nil)
	}
	if err == nil {
		err = to.machine.RecoverFromSnapshot(&b, nil, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func set(key, value string) engine.Op {
	return engine.Op{Kind: engine.Set, Key: key, Value: []byte(value)}
}

func onLock(kind engine.Kind, owner string, at int64) engine.Op {
	return engine.Op{Kind: kind, Space: engine.Locks, Key: "lock", Value: []byte(owner), At: uint64(at)}
}

// TestWatchIsToldOfASnapshotThatIsInstalledUnderneath: what lies between is not
// known, and is not passed over in silence.
func TestWatchIsToldOfASnapshotThatIsInstalledUnderneath(t *testing.T) {
	sim := new(simulated)
	ahead, behind := sim.start(0), sim.start(0)
	l := &appliedLog{t: t}
	for i := range 10 {
		l.append(set(fmt.Sprint("k", i), "v"))
	}
	l.apply(ahead, 0, 10)
	l.apply(behind, 0, 4)
	watcher, err := behind.machine.feed.Watch(engine.Keys, store.Watch{From: 3})
	if err != nil {
		t.Fatal(err)
	}
	defer watcher.Close()
	recovered(t, ahead, behind)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	changes, err := watcher.Next(ctx)
	if err == nil {
		for _, c := range changes {
			if c.Revision > 4 {
				t.Fatalf("%+v is of what this member has not applied", c)
			}
		}
		_, err = watcher.Next(ctx)
	}
	if !errors.Is(err, store.ErrCompacted) {
		t.Fatal(err)
	}
	if _, err := behind.machine.feed.Watch(engine.Keys, store.Watch{From: 10}); !errors.Is(err, store.ErrCompacted) {
		t.Fatal(err)
	}
	next, err := behind.machine.feed.Watch(engine.Keys, store.Watch{From: 11})
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	l.append(set("last", "v"))
	l.apply(behind, 10, 11)
	if changes, err := next.Next(context.Background()); err != nil || len(changes) != 1 || changes[0].Key != "last" || changes[0].Revision != 11 {
		t.Fatal(changes, err)
	}
}

// TestQueuesAreTheSameOnAMemberThatHasRecoveredASnapshot: they are not saved, but found
// again.
func TestQueuesAreTheSameOnAMemberThatHasRecoveredASnapshot(t *testing.T) {
	sim := new(simulated)
	ahead, behind := sim.start(0), sim.start(0)
	l := &appliedLog{t: t}
	l.append(onLock(engine.Join, "holder--", 0))
	l.append(onLock(engine.Join, "first---", 0), onLock(engine.Join, "second--", 0))
	l.apply(ahead, 0, 2)
	recovered(t, ahead, behind)
	l.append(onLock(engine.Leave, "holder--", 0))
	l.append(onLock(engine.Leave, "first---", 0), set("k", "v"))
	for _, m := range []*simMember{ahead, behind} {
		l.apply(m, 2, 4)
		if e, ok := m.machine.db.Load().Entry(engine.Locks, "lock"); !ok || string(e.Value) != "second--" {
			t.Errorf("%q, %v", e.Value, ok)
		}
	}
	if a, b := ahead.Checksum(), behind.Checksum(); a.Sum != b.Sum {
		t.Errorf("the states differ: %v, %v", a, b)
	}
}

// TestResultsOfReadsSurviveASnapshot: they are part of the state, and of as many
// sessions as there are members.
func TestResultsOfReadsSurviveASnapshot(t *testing.T) {
	sim := new(simulated)
	ahead, behind := sim.start(0), sim.start(0)
	read := engine.Op{Kind: engine.Transact, Txn: &engine.Txn{Then: []engine.Op{{Kind: engine.Get, Key: "k"}, {Kind: engine.Get, Key: "k"}}}}
	for member := range uint64(3) {
		b := command.AppendBatchHeader(nil, command.Batch{Member: member + 1, Incarnation: 1, Seq: 1}, 3)
		for _, op := range []engine.Op{set("k", fmt.Sprint("the value that member ", member, " has read")), read, read} {
			b = command.AppendOp(b, &op, once.ID{})
		}
		ahead.machine.Update([]sm.Entry{{Index: member + 1, Cmd: b}})
	}
	recovered(t, ahead, behind)
	for member, ses := range ahead.machine.sessions {
		if want, got := ses.slots[0].results, behind.machine.sessions[member].slots[0].results; !reflect.DeepEqual(got, want) {
			t.Errorf("member %d: %+v, want %+v", member, got[1].Txn, want[1].Txn)
		}
	}
	if a, b := ahead.Checksum(), behind.Checksum(); a != b {
		t.Errorf("the states differ: %v, %v", a, b)
	}
}

// TestLargeResultsAreNotKept, or a snapshot could not be written; the first who asks
// gets them.
func TestLargeResultsAreNotKept(t *testing.T) {
	sim := new(simulated)
	m := sim.start(0)
	value := string(make([]byte, store.MaxTxnRead))
	batch := command.Batch{Member: 1, Incarnation: 1, Seq: 1, Ops: []engine.Op{set("k", value)}}
	for range 40 {
		batch.Ops = append(batch.Ops, engine.Op{Kind: engine.Transact, Txn: &engine.Txn{Then: []engine.Op{{Kind: engine.Get, Key: "k"}}}})
	}
	db := m.machine.db.Load()
	apply := func(i int) engine.Result { return db.Apply(&batch.Ops[i], 0) }
	first, ok := m.machine.sessions.apply(&batch, apply)
	if !ok || first[40].Txn == nil || len(first[40].Txn.Results[0].Value) != store.MaxTxnRead {
		t.Fatal(ok)
	}
	again, ok := m.machine.sessions.apply(&batch, func(int) engine.Result { panic("applied twice") })
	if !ok || again[0] != first[0] || again[1].Refusal != engine.Unkept {
		t.Fatal(ok, again[0], again[1])
	}
	recovered(t, m, sim.start(0))
}
