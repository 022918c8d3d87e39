package enginetest

import (
	"runtime"
	"strconv"
	"sync"

	"dkv/store"
	"dkv/store/engine"
)

// onKind replaces what a naive engine does with operations of one kind.
func onKind(kind engine.Kind, change func(b *broken, op *engine.Op)) func(b *broken) {
	return func(b *broken) {
		b.apply = func(op *engine.Op, limit int64) engine.Result {
			op2 := *op
			if op.Kind == kind {
				change(b, &op2)
			}
			return b.naive.Apply(&op2, limit)
		}
	}
}

// onTxn replaces transactions.
func onTxn(change func(t *engine.Txn)) func(b *broken) {
	return onKind(engine.Transact, func(_ *broken, op *engine.Op) {
		t := *op.Txn
		change(&t)
		op.Txn = &t
	})
}

// onTold replaces what a naive engine tells.
func onTold(change func(tell func(engine.Change), c engine.Change)) func(b *broken) {
	return func(b *broken) {
		tell := b.changed
		if tell == nil {
			return
		}
		b.changed = func(c engine.Change) { change(tell, c) }
	}
}

var changeBugs = []bug{
	{name: "ExpiryIsNotToldOf", caughtBy: []string{byAnyWalk}, plant: onTold(func(tell func(engine.Change), c engine.Change) {
		if c.Type != store.EventExpired || !c.ByDeadline {
			tell(c)
		}
	})},
	{name: "DeadlinesAreToldOfAsCalls", caughtBy: []string{byAnyWalk}, plant: onTold(func(tell func(engine.Change), c engine.Change) {
		c.ByDeadline = false
		tell(c)
	})},
	{name: "LocksAreToldOfAsKeys", caughtBy: []string{byAnyWalk}, plant: onTold(func(tell func(engine.Change), c engine.Change) {
		c.Space = engine.Keys
		tell(c)
	})},
	{name: "ChangesAreToldOfTwice", caughtBy: []string{byAnyWalk, "EachConcurrentChange"}, plant: onTold(func(tell func(engine.Change), c engine.Change) {
		tell(c)
		tell(c)
	})},
	{name: "ChangesAreToldOfLater", caughtBy: []string{"EachConcurrentChange"}, plant: func() func(b *broken) {
		var mu sync.Mutex
		var last *engine.Change
		return onTold(func(tell func(engine.Change), c engine.Change) {
			mu.Lock()
			defer mu.Unlock()
			if last != nil {
				tell(*last)
			}
			last = &c
		})
	}()},
}

var transactionBugs = []bug{
	{name: "SetIfRevisionLooksAndThenSets", caughtBy: []string{"NoConcurrentChange"}, plant: onKind(engine.SetIfRevision, func(b *broken, op *engine.Op) {
		if e, _ := b.Entry(op.Space, op.Key); uint64(e.Revision) == op.At {
			runtime.Gosched()
			op.Kind = engine.Set
		}
	})},
	{name: "AddLooksAndThenSets", caughtBy: []string{"NoConcurrentChange"}, plant: func(b *broken) {
		b.apply = func(op *engine.Op, limit int64) engine.Result {
			if op.Kind != engine.Add {
				return b.naive.Apply(op, limit)
			}
			value, _ := b.Get(op.Space, op.Key)
			runtime.Gosched()
			return set(b.naive, op.Key, strconv.FormatInt(number(value)+op.Delta, 10), 0, 0)
		}
	}},
	{name: "SetIfRevisionTakesZeroForAnything", caughtBy: []string{byAnyWalk}, plant: onKind(engine.SetIfRevision, func(_ *broken, op *engine.Op) {
		if op.At == 0 {
			op.Kind = engine.Set
		}
	})},
	{name: "SetIfRevisionTellsNoRevision", caughtBy: []string{byAnyWalk}, plant: func(b *broken) {
		b.apply = func(op *engine.Op, limit int64) engine.Result {
			res := b.naive.Apply(op, limit)
			if !res.Done {
				res.Revision = 0
			}
			return res
		}
	}},
	{name: "DeleteIfRevisionDeletesLaterOnes", caughtBy: []string{byAnyWalk}, plant: onKind(engine.DeleteIfRevision, func(b *broken, op *engine.Op) {
		if e, ok := b.Entry(op.Space, op.Key); ok && uint64(e.Revision) > op.At {
			op.At = uint64(e.Revision)
		}
	})},
	{name: "RenewalGivesTheEntryARevision", caughtBy: []string{byAnyWalk}, plant: func(b *broken) {
		b.apply = func(op *engine.Op, limit int64) engine.Result {
			res := b.naive.Apply(op, limit)
			if op.Kind == engine.RenewIfValue && res.Done {
				b.onState(func(s *state) {
					p := place{op.Space, string([]byte(op.Key))}
					r := s.records[p]
					r.written = r.revision
					s.records[p] = r
				})
			}
			return res
		}
	}},
	{name: "RenewalIsNoChange", caughtBy: []string{byAnyWalk}, plant: func(b *broken) {
		b.apply = func(op *engine.Op, limit int64) engine.Result {
			res := b.naive.Apply(op, limit)
			if op.Kind == engine.RenewIfValue && res.Done {
				b.onState(func(s *state) { s.revision-- })
			}
			return res
		}
	}},
	{name: "AddForgetsDeadlines", caughtBy: []string{byAnyWalk}, plant: func(b *broken) {
		b.apply = func(op *engine.Op, limit int64) engine.Result {
			res := b.naive.Apply(op, limit)
			if op.Kind == engine.Add && res.Done {
				b.onState(func(s *state) {
					p := place{op.Space, string([]byte(op.Key))}
					r := s.records[p]
					r.expire, r.delete, r.waits = never, never, 0
					s.records[p] = r
				})
			}
			return res
		}
	}},
	{name: "AddHasDeadlinesBeginAgain", caughtBy: []string{byTickWalks}, plant: func(b *broken) {
		b.apply = func(op *engine.Op, limit int64) engine.Result {
			res := b.naive.Apply(op, limit)
			if op.Kind == engine.Add && res.Done {
				b.onState(func(s *state) {
					p := place{op.Space, string([]byte(op.Key))}
					if r := s.records[p]; r.waits == 1 {
						r.waits = 2
						s.records[p] = r
					}
				})
			}
			return res
		}
	}},
	{name: "AddWraps", caughtBy: []string{"SumThatDoesNotFit"}, plant: func(b *broken) {
		b.apply = func(op *engine.Op, limit int64) engine.Result {
			res := b.naive.Apply(op, limit)
			if value, ok := b.Get(op.Space, op.Key); ok && res.Refusal == engine.OutOfRange && op.Kind == engine.Add {
				return set(b.naive, op.Key, strconv.FormatInt(number(value)+op.Delta, 10), 0, 0)
			}
			return res
		}
	}},
	{name: "TransactionIsDoneInSteps", caughtBy: []string{"TransactionsAreSeen"}, plant: func(b *broken) {
		b.apply = func(op *engine.Op, limit int64) engine.Result {
			if op.Kind != engine.Transact || len(op.Txn.If) == 0 {
				return b.naive.Apply(op, limit)
			}
			c := &op.Txn.If[0]
			e, there := b.Entry(c.Space, c.Key)
			res := engine.Result{Done: true, Txn: &store.TxnResult{Held: c.Holds(&e, there)}}
			branch := op.Txn.Branch(res.Txn.Held)
			for i := range branch {
				did := b.naive.Apply(&branch[i], limit)
				res.Txn.Results = append(res.Txn.Results, store.OpResult{Done: did.Done, Revision: store.Revision(did.Revision)})
				res.Txn.Revision = store.Revision(did.Revision)
				runtime.Gosched()
			}
			return res
		}
	}},
	{name: "OneConditionIsEnough", caughtBy: []string{byAnyWalk}, plant: onTxn(func(t *engine.Txn) { t.If = t.If[:min(1, len(t.If))] })},
	{name: "ThereIsNoElse", caughtBy: []string{byAnyWalk}, plant: onTxn(func(t *engine.Txn) { t.Else = nil })},
	{name: "ConditionsLookAtKeysAlone", caughtBy: []string{byAnyWalk}, plant: onTxn(func(t *engine.Txn) {
		t.If = append([]engine.Cond(nil), t.If...)
		for i := range t.If {
			t.If[i].Space = engine.Keys
		}
	})},
	{name: "GetSeesWhatTheTransactionWrites", caughtBy: []string{byAnyWalk}, plant: func(b *broken) {
		b.apply = func(op *engine.Op, limit int64) engine.Result {
			res := b.naive.Apply(op, limit)
			if res.Txn == nil {
				return res
			}
			branch := op.Txn.Branch(res.Txn.Held)
			for i := range branch {
				if branch[i].Kind == engine.Get {
					e, ok := b.Entry(branch[i].Space, branch[i].Key)
					res.Txn.Results[i].Done, res.Txn.Results[i].Revision = ok, e.Revision
				}
			}
			return res
		}
	}},
	{name: "HalfATransactionIsLeftWhenOneIsRefused", caughtBy: []string{byAnyWalk}, plant: func(b *broken) {
		b.apply = func(op *engine.Op, limit int64) engine.Result {
			res := b.naive.Apply(op, limit)
			if op.Kind == engine.Transact && res.Refusal == engine.NotNumber {
				for _, branch := range [][]engine.Op{op.Txn.Then, op.Txn.Else} {
					for i := range branch {
						if branch[i].Kind == engine.Set || branch[i].Kind == engine.Delete {
							b.naive.Apply(&branch[i], 0)
						}
					}
				}
			}
			return res
		}
	}},
}
