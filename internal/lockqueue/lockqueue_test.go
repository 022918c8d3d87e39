package lockqueue

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"testing"
	"time"

	"dkv/maple"
	"dkv/store"
	"dkv/store/engine"
	"dkv/store/engine/enginetest"

	"pgregory.net/rapid"
)

// twin is what locks are, in few words: holders and waiters in their order.
type twin struct {
	now   time.Duration
	locks map[string]*twinLock
}

type twinLock struct {
	holders, waiters []*owner
}

// owner is one attempt to take a lock.
type owner struct {
	name     string
	id       uint64
	limit    int64
	ttl      time.Duration // 0: for ever
	deadline time.Duration // 0: none
	number   int64         // as it was told
	token    store.Revision
}

func (o *owner) op(kind engine.Kind) *engine.Op {
	value := append(binary.BigEndian.AppendUint64(nil, o.id), fmt.Sprint("of ", o.id)...)
	return &engine.Op{Kind: kind, Space: engine.Locks, Key: o.name, Value: value, DeleteIn: o.ttl, Delta: o.limit, At: uint64(o.number)}
}

func (t *twin) lock(name string) *twinLock {
	if t.locks[name] == nil {
		t.locks[name] = new(twinLock)
	}
	return t.locks[name]
}

func (t *twin) renew(o *owner) {
	if o.deadline = 0; o.ttl > 0 {
		o.deadline = t.now + o.ttl
	}
}

func (l *twinLock) admits(o *owner) bool {
	for _, h := range l.holders {
		if h.limit == 0 || o.limit == 0 {
			return false
		}
	}
	return len(l.holders) == 0 || int64(len(l.holders)) < o.limit
}

// settle ends what is over and grants what is free.
func (t *twin) settle() {
	for _, l := range t.locks {
		over := func(o *owner) bool { return o.deadline != 0 && o.deadline <= t.now }
		l.holders = slices.DeleteFunc(l.holders, over)
		l.waiters = slices.DeleteFunc(l.waiters, over)
		for len(l.waiters) > 0 && l.admits(l.waiters[0]) {
			o := l.waiters[0]
			l.waiters = l.waiters[1:]
			l.holders = append(l.holders, o)
			t.renew(o)
			o.token = 0 // it is told later
		}
	}
}

// walk is a random walk of the queues and their twin.
type walk struct {
	twin
	factory engine.Factory
	engine  engine.Engine
	queues  *Queues
	owners  []*owner
	ids     uint64
	newest  map[string]store.Revision // token of each lock
}

func (w *walk) options() engine.Options {
	return engine.Options{
		Now:     func() time.Duration { return w.now },
		Changed: func(c engine.Change) { w.queues.Changed(c) },
	}
}

func newWalk(f engine.Factory) *walk {
	w := &walk{factory: f, newest: make(map[string]store.Revision)}
	w.locks = make(map[string]*twinLock)
	w.engine = f.New(w.options())
	w.queues = New(w.engine)
	return w
}

func (w *walk) join(t *rapid.T) {
	w.ids++
	o := &owner{
		name:  rapid.SampledFrom([]string{"a", "ab", "a\x00"}).Draw(t, "lock"),
		id:    w.ids,
		limit: rapid.SampledFrom([]int64{0, 0, 1, 2, 3}).Draw(t, "limit"),
		ttl:   time.Duration(rapid.IntRange(0, 5).Draw(t, "ttl")),
	}
	kind := rapid.SampledFrom([]engine.Kind{engine.Join, engine.Join, engine.TryJoin}).Draw(t, "kind")
	l := w.lock(o.name)
	res := w.queues.Apply(o.op(kind), 0)
	free := len(l.waiters) == 0 && l.admits(o)
	switch {
	case free:
		if !res.Done || (res.Number == 0) != (o.limit == 0) {
			t.Fatalf("a free lock: %+v", res)
		}
		w.token(t, o, res)
		l.holders = append(l.holders, o)
	case kind == engine.TryJoin:
		if res.Done || res.Number != 0 {
			t.Fatalf("a lock that is taken: %+v", res)
		}
		return
	default:
		if res.Done || res.Number == 0 {
			t.Fatalf("a lock that is taken: %+v", res)
		}
		l.waiters = append(l.waiters, o)
	}
	o.number = res.Number
	w.renewed(o)
	w.owners = append(w.owners, o)
}

func (w *walk) renewed(o *owner) { w.twin.renew(o) }

// token checks the token of a new holder.
func (w *walk) token(t *rapid.T, o *owner, res engine.Result) {
	token := store.Revision(res.Revision)
	switch {
	case o.token == 0 && o.limit == 0 && token <= w.newest[o.name]:
		t.Fatalf("token %d after %d", token, w.newest[o.name])
	case o.token != 0 && o.token != token:
		t.Fatalf("token %d has become %d", o.token, token)
	}
	o.token = token
	w.newest[o.name] = max(w.newest[o.name], token)
}

func (w *walk) some(t *rapid.T) *owner {
	if len(w.owners) == 0 {
		t.Skip("nobody has joined")
	}
	recent := w.owners[max(0, len(w.owners)-8):]
	return rapid.SampledFrom(recent).Draw(t, "owner")
}

func (w *walk) renew(t *rapid.T) {
	o := w.some(t)
	op := o.op(engine.Renew)
	if rapid.Bool().Draw(t, "number not known") {
		op.At = 0
	}
	res := w.queues.Apply(op, 0)
	l := w.lock(o.name)
	switch {
	case slices.Contains(l.holders, o):
		if !res.Done {
			t.Fatalf("a holder's renewal: %+v", res)
		}
		w.token(t, o, res)
		o.number = res.Number
		w.renewed(o)
	case slices.Contains(l.waiters, o):
		if res.Done || res.Number != o.number {
			t.Fatalf("a renewal while waiting: %+v", res)
		}
		w.renewed(o)
	case res.Done || res.Number != 0:
		t.Fatalf("the renewal of what is over: %+v", res)
	}
}

func (w *walk) leave(t *rapid.T) {
	o := w.some(t)
	op := o.op(engine.Leave)
	if rapid.Bool().Draw(t, "number not known") {
		op.At = 0
	}
	l := w.lock(o.name)
	res := w.queues.Apply(op, 0)
	if there := slices.Contains(l.holders, o) || slices.Contains(l.waiters, o); res.Done != there {
		t.Fatalf("leave: %+v, want %v", res, there)
	}
	same := func(other *owner) bool { return other == o }
	l.holders = slices.DeleteFunc(l.holders, same)
	l.waiters = slices.DeleteFunc(l.waiters, same)
	w.settle()
}

func (w *walk) time(t *rapid.T) {
	w.now += time.Duration(rapid.IntRange(1, 4).Draw(t, "time"))
	for w.engine.Reap(1) > 0 {
		if rapid.Bool().Draw(t, "settle in between") {
			w.queues.Settle()
		}
	}
	w.queues.Settle()
	w.settle()
}

func (w *walk) load(t *rapid.T) {
	view := w.engine.View()
	var b bytes.Buffer
	if err := view.Save(&b); err != nil {
		t.Fatal(err)
	}
	view.Release()
	again, err := w.factory.Load(&b, w.options())
	if err != nil {
		t.Fatal(err)
	}
	w.engine, w.queues = again, New(again)
}

// check compares what the state has with the twin.
func (w *walk) check(t *rapid.T) {
	var info store.Info
	w.engine.Info(&info)
	holders, waiters := 0, 0
	for name, l := range w.locks {
		holders += len(l.holders)
		waiters += len(l.waiters)
		e, ok := w.engine.Entry(engine.Locks, name)
		alone := len(l.holders) == 1 && l.holders[0].limit == 0
		if ok != alone || ok && binary.BigEndian.Uint64(e.Value) != l.holders[0].id {
			t.Fatalf("lock %q is held by %x, %v, want %+v", name, e.Value, ok, l.holders)
		}
		if line := w.queues.lines[name]; line == nil != (len(l.waiters) == 0 && (alone || len(l.holders) == 0)) {
			t.Fatalf("lock %q: %+v is remembered for %d and %d", name, line, len(l.holders), len(l.waiters))
		}
	}
	if info.Locks != int64(holders) || info.Waiters != int64(waiters) {
		t.Fatalf("%d hold, %d wait; want %d, %d", info.Locks, info.Waiters, holders, waiters)
	}
}

func TestQueuesAgreeWithTheirTwin(t *testing.T) {
	for name, f := range map[string]engine.Factory{"maple": maple.Factory, "naive": enginetest.Naive} {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				w := newWalk(f)
				t.Repeat(map[string]func(*rapid.T){
					"join": w.join, "join again": w.join, "renew": w.renew, "leave": w.leave, "time": w.time, "load": w.load, "": w.check,
				})
			})
		})
	}
}

// TestWhoComesBetweenADeadlineAndItsCarryingOutOvertakesNobody: the lock is free by
// the clock before the engine has reaped it.
func TestWhoComesBetweenADeadlineAndItsCarryingOutOvertakesNobody(t *testing.T) {
	w := newWalk(maple.Factory)
	first := &owner{name: "x", id: 1, ttl: 5}
	second := &owner{name: "x", id: 2, ttl: 50}
	third := &owner{name: "x", id: 3, ttl: 50}
	if res := w.queues.Apply(first.op(engine.Join), 0); !res.Done {
		t.Fatal(res)
	}
	res := w.queues.Apply(second.op(engine.Join), 0)
	second.number = res.Number
	w.now = 5
	if res := w.queues.Apply(third.op(engine.TryJoin), 0); res.Done {
		t.Fatal("the third has overtaken the second")
	}
	if res := w.queues.Apply(second.op(engine.Renew), 0); !res.Done {
		t.Fatal("the second has not got what the first has lost")
	}
	if res := w.queues.Apply(first.op(engine.Leave), 0); res.Done {
		t.Fatal("the first has released the second's lock")
	}
}

// TestWhoDidNotRenewInTimeIsNeverGranted re-enacts etcd's issue 11456.
func TestWhoDidNotRenewInTimeIsNeverGranted(t *testing.T) {
	w := newWalk(maple.Factory)
	holder := &owner{name: "x", id: 1, ttl: 100}
	waiter := &owner{name: "x", id: 2, ttl: 5}
	last := &owner{name: "x", id: 3, ttl: 50}
	w.queues.Apply(holder.op(engine.Join), 0)
	for _, o := range []*owner{waiter, last} {
		o.number = w.queues.Apply(o.op(engine.Join), 0).Number
	}
	w.now = 5 // which nobody has carried out when the holder leaves
	if res := w.queues.Apply(holder.op(engine.Leave), 0); !res.Done {
		t.Fatal(res)
	}
	if res := w.queues.Apply(waiter.op(engine.Renew), 0); res.Done || res.Number != 0 {
		t.Fatalf("a waiter whose time is over: %+v", res)
	}
	if res := w.queues.Apply(last.op(engine.Renew), 0); !res.Done {
		t.Fatalf("the next has not got the lock: %+v", res)
	}
}
