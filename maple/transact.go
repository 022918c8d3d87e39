package maple

import (
	"math/bits"
	"sync/atomic"

	"dkv/store"
	"dkv/store/engine"
)

// transact does a transaction. The shards of all keys that it names are locked
// meanwhile, in the order of spaces and shards; so two transactions cannot wait for
// each other, and what the conditions have found still holds when the changes are
// made.
//
// As with a single change, the new versions are put where readers find them, and
// only then they get their revisions, all with one addition. Who finds one of them
// before that waits; after it all are there; and a view is of a revision before the
// first or from the last on. So nobody sees a part.
func (db *DB) transact(t *engine.Txn, limit int64) engine.Result {
	var touched touched
	for i := range t.If {
		touched.add(db, t.If[i].Space, t.If[i].Key)
	}
	for _, branch := range [][]engine.Op{t.Then, t.Else} {
		for i := range branch {
			touched.add(db, branch[i].Space, branch[i].Key)
		}
	}
	now := db.now()
	likely := db.hold(t.If, now)
	fresh := db.records(t.Branch(likely), now)

	touched.each(db, func(sh *shard) { sh.lock() })
	defer touched.each(db, func(sh *shard) { sh.mu.Unlock() })
	res := &store.TxnResult{Held: db.hold(t.If, now)}
	if res.Held != likely {
		fresh = nil
	}
	branch := t.Branch(res.Held)
	res.Results = make([]store.OpResult, len(branch))
	steps, why := db.plan(branch, fresh, now, res.Results)
	if why != engine.NotRefused {
		return engine.Result{Refusal: why}
	}
	grows := int64(0)
	for i := range steps {
		grows += steps[i].grows
	}
	if !db.resize(grows, limit) {
		return engine.Result{Refusal: engine.Full}
	}
	res.Revision = store.Revision(db.carryOut(steps))
	for i := range steps {
		steps[i].result.Revision = store.Revision(steps[i].next.rev)
	}
	return engine.Result{Done: true, Revision: uint64(res.Revision), Txn: res}
}

// records makes the versions that a branch sets, before anything is locked: to copy
// their values takes a time. Most often the conditions still hold then, or still do
// not.
func (db *DB) records(branch []engine.Op, now int64) []*record {
	fresh := make([]*record, len(branch))
	for i := range branch {
		switch branch[i].Kind {
		case engine.Set, engine.SetIfUnset, engine.SetIfRevision:
			fresh[i] = db.record(&branch[i], now)
		}
	}
	return fresh
}

// hold tells whether all conditions hold.
func (db *DB) hold(conds []engine.Cond, now int64) bool {
	for i := range conds {
		c := &conds[i]
		var e store.Entry
		there := false
		if r := db.spaces[c.Space].load(c.Key); r != nil {
			e, there = r.entry(now)
		}
		if !c.Holds(&e, there) {
			return false
		}
	}
	return true
}

// step is one change of a transaction.
type step struct {
	change
	op     *engine.Op
	grows  int64
	result *store.OpResult
}

// plan finds out what the operations of a branch come to, and what they change. What
// it sets is fresh, if that is not nil.
func (db *DB) plan(branch []engine.Op, fresh []*record, now int64, results []store.OpResult) (steps []step, why engine.Refusal) {
	steps = make([]step, 0, len(branch))
	read := 0
	for i := range branch {
		op, result := &branch[i], &results[i]
		old := db.spaces[op.Space].load(op.Key)
		if op.Kind == engine.Get {
			if old == nil {
				continue
			}
			if e, ok := old.entry(now); ok {
				result.Done, result.Revision, result.Value = true, e.Revision, e.Value
				result.Expired, result.ExpireIn, result.DeleteIn = e.Expired, e.ExpireIn, e.DeleteIn
			}
			if read += len(result.Value); read > store.MaxTxnRead {
				return nil, engine.ReadsMuch
			}
			continue
		}
		var made *record
		if fresh != nil {
			made = fresh[i]
		}
		next, res := db.become(op, old, made, now)
		switch {
		case res.Refusal != engine.NotRefused:
			return nil, res.Refusal
		case res.Done:
			result.Done, result.Number = true, res.Number
			steps = append(steps, step{change: change{next: next}, op: op, grows: next.size() - old.size(), result: result})
		}
	}
	return steps, engine.NotRefused
}

// carryOut makes the changes and returns the revision of the last.
func (db *DB) carryOut(steps []step) uint64 {
	locate := func(op *engine.Op) locked {
		t := db.spaces[op.Space].table
		p := t.place(op.Key)
		return t.shards[p.shard].locked(p, op.Key)
	}
	for i := range steps {
		s := &steps[i]
		l := locate(s.op)
		s.change = db.put(s.op.Space, &l, s.next)
	}
	n := uint64(len(steps))
	rev := db.revision.Add(n)
	for i := range steps {
		atomic.StoreUint64(&steps[i].next.rev, rev-n+1+uint64(i))
	}
	for i := range steps {
		s := &steps[i]
		l := locate(s.op)
		db.finish(s.op.Space, &l, &s.change)
	}
	return rev
}

// touched are the shards that a transaction locks.
type touched [engine.Spaces][shards / 64]uint64

func (t *touched) add(db *DB, space engine.Space, key string) {
	i := db.spaces[space].table.place(key).shard
	t[space][i/64] |= 1 << (i % 64)
}

// each calls f with each shard, always in the same order.
func (t *touched) each(db *DB, f func(*shard)) {
	for space := range t {
		for i, word := range t[space] {
			for ; word != 0; word &= word - 1 {
				f(&db.spaces[space].table.shards[i*64+bits.TrailingZeros64(word)])
			}
		}
	}
}
