package enginetest

import (
	"cmp"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"dkv/store"
	"dkv/store/engine"
)

var operationBugs = []bug{
	{name: "SetIfUnsetSetsOverExpiredKeys", caughtBy: []string{byAnyWalk, "HistoryOfConcurrentCalls"}, plant: func(b *broken) {
		b.apply = func(op *engine.Op, limit int64) engine.Result {
			op2 := *op
			if e, ok := b.Entry(op.Space, op.Key); ok && e.Expired && op.Kind == engine.SetIfUnset {
				op2.Kind = engine.Set
			}
			return b.naive.Apply(&op2, limit)
		}
	}},
	{name: "DeleteIfValueDeletesWhatBeginsSo", caughtBy: []string{byAnyWalk}, plant: func(b *broken) {
		b.apply = func(op *engine.Op, limit int64) engine.Result {
			op2 := *op
			if v, ok := b.Get(op.Space, op.Key); ok && op.Kind == engine.DeleteIfValue && len(v) > 0 && len(op.Value) > 0 && v[0] == op.Value[0] {
				op2.Value = v
			}
			return b.naive.Apply(&op2, limit)
		}
	}},
	{name: "ExpireForgetsWhenToDelete", caughtBy: []string{byAnyWalk}, plant: func(b *broken) {
		b.apply = func(op *engine.Op, limit int64) engine.Result {
			res := b.naive.Apply(op, limit)
			if op.Kind == engine.Expire && res.Done {
				b.onState(func(s *state) {
					p := place{op.Space, string([]byte(op.Key))}
					r := s.records[p]
					r.delete, r.waits = never, 0
					s.records[p] = r
				})
			}
			return res
		}
	}},
	{name: "DeleteHasNoRevision", caughtBy: []string{byAnyWalk, "ViewShowsExactly"}, plant: func(b *broken) {
		b.apply = func(op *engine.Op, limit int64) engine.Result {
			res := b.naive.Apply(op, limit)
			if op.Kind == engine.Delete && res.Done {
				b.onState(func(s *state) { s.revision-- })
			}
			return res
		}
	}},
	{name: "SkipLeavesOneRevisionOutAtMost", caughtBy: []string{byAnyWalk}, plant: func(b *broken) {
		b.skip = func(n uint64) { b.naive.Skip(min(n, 1)) }
	}},
	{name: "ValueIsNotCopied", caughtBy: []string{byAnyWalk}, plant: func(b *broken) {
		b.apply = func(op *engine.Op, limit int64) engine.Result {
			res := b.naive.Apply(op, limit)
			if op.Kind.HasDeadlines() && res.Done {
				b.onState(func(s *state) {
					p := place{op.Space, string([]byte(op.Key))}
					r := s.records[p]
					r.value = op.Value[:len(op.Value):len(op.Value)]
					s.records[p] = r
				})
			}
			return res
		}
	}},
	{name: "LimitIsIgnored", caughtBy: []string{byAnyWalk}, plant: func(b *broken) {
		b.apply = func(op *engine.Op, _ int64) engine.Result { return b.naive.Apply(op, 0) }
	}},
	{name: "LimitIsOneByteLess", caughtBy: []string{byAnyWalk}, plant: func(b *broken) {
		b.apply = func(op *engine.Op, limit int64) engine.Result {
			if limit > 1 {
				limit--
			}
			return b.naive.Apply(op, limit)
		}
	}},
	{name: "FullStateCannotShrink", caughtBy: []string{byAnyWalk}, plant: func(b *broken) {
		b.apply = func(op *engine.Op, limit int64) engine.Result {
			if limit > 0 && infoOf(b).Size > limit {
				return engine.Result{Refusal: engine.Full}
			}
			return b.naive.Apply(op, limit)
		}
	}},
	{name: "LimitForgetsThatWhatIsOverdueCounts", caughtBy: []string{byAnyWalk}, plant: func(b *broken) {
		b.apply = func(op *engine.Op, limit int64) engine.Result {
			if limit > 0 && op.Kind.HasDeadlines() && !b.Has(op.Space, op.Key) && infoOf(b).Size+entrySize+int64(len(op.Key)+len(op.Value)) > limit {
				return engine.Result{Refusal: engine.Full}
			}
			return b.naive.Apply(op, limit)
		}
	}},
	{name: "WhatIsTurnedAwayHasARevision", caughtBy: []string{byAnyWalk}, plant: func(b *broken) {
		b.apply = func(op *engine.Op, limit int64) engine.Result {
			res := b.naive.Apply(op, limit)
			if res.Refusal == engine.Full {
				b.onState(func(s *state) { s.revision++ })
			}
			return res
		}
	}},
	{name: "LocksHaveNoSize", caughtBy: []string{byAnyWalk}, plant: func(b *broken) {
		b.info = func(info *store.Info) {
			b.naive.Info(info)
			b.onState(func(s *state) {
				for p, r := range s.records {
					if p.space == engine.Locks {
						info.Size -= r.size(p.key)
					}
				}
			})
		}
	}},
	{name: "SizeCountsEachWrite", caughtBy: []string{byAnyWalk, "ViewHoldsWhileTheState"}, plant: func(b *broken) {
		writes := int64(0)
		b.apply = func(op *engine.Op, limit int64) engine.Result {
			res := b.naive.Apply(op, limit)
			if op.Kind == engine.Set && res.Done {
				writes++
			}
			return res
		}
		b.info = func(info *store.Info) {
			b.naive.Info(info)
			info.Size += writes
		}
	}},
	{name: "LocksCountInBytes", caughtBy: []string{byAnyWalk}, plant: func(b *broken) {
		b.info = func(info *store.Info) {
			b.naive.Info(info)
			info.Bytes += info.Locks
		}
	}},
	{name: "EachWriteLeavesAReminder", caughtBy: []string{"RenewingOneKey"}, plant: func(b *broken) {
		var reminders [][]byte
		b.apply = func(op *engine.Op, limit int64) engine.Result {
			reminders = append(reminders, make([]byte, 32))
			return b.naive.Apply(op, limit)
		}
	}},
}

var timeBugs = []bug{
	{name: "ReapsByRevision", caughtBy: []string{byAnyWalk, "DeadlinesOfManyKeys"}, plant: func(b *broken) {
		b.reap = func(limit int) int {
			return b.reapInOrder(limit, func(a, b record) int { return cmp.Compare(a.revision, b.revision) })
		}
	}},
	{name: "ReapsEqualDeadlinesByTheCall", caughtBy: []string{"DeadlinesOfManyKeys"}, plant: func(b *broken) {
		b.reap = func(limit int) int {
			return b.reapInOrder(limit, func(a, b record) int {
				return cmp.Or(cmp.Compare(a.next(), b.next()), -cmp.Compare(a.written, b.written))
			})
		}
	}},
	{name: "DeadlineGivesTheEntryItsRevision", caughtBy: []string{byAnyWalk}, plant: func(b *broken) {
		b.reap = func(limit int) int {
			n := b.naive.Reap(limit)
			b.onState(func(s *state) {
				for p, r := range s.records {
					r.written = r.revision
					s.records[p] = r
				}
			})
			return n
		}
	}},
	{name: "ReapDoesOneTooMany", caughtBy: []string{byAnyWalk}, plant: func(b *broken) {
		b.reap = func(limit int) int { return b.naive.Reap(limit + 1) }
	}},
	{name: "ReapGivesUpAfterAHundred", caughtBy: []string{"NoDeadlineIsForgotten"}, plant: func(b *broken) {
		var done atomic.Int64
		b.reap = func(limit int) int {
			n := b.naive.Reap(min(limit, 100-int(done.Load())))
			done.Add(int64(n))
			return n
		}
	}},
	{name: "NextDeadlineIsTheLastStage", caughtBy: []string{byAnyWalk}, plant: func(b *broken) {
		b.next = func() (at time.Duration, ok bool) {
			b.onState(func(s *state) {
				p, found := s.first()
				if r := s.records[p]; found && r.delete != never {
					at, ok = r.delete, true
				} else if found {
					at, ok = r.expire, true
				}
			})
			return at, ok
		}
	}},
	{name: "NextDeadlineStaysWhenItHasCome", caughtBy: []string{byAnyWalk, "NoDeadlineIsForgotten", "LoadWithAClock"}, plant: func(b *broken) {
		b.next = func() (time.Duration, bool) { return 0, true }
	}},
	{name: "DeadlinesSettleAtTheNextTick", caughtBy: []string{byTickWalks}, plant: func(b *broken) {
		b.tick = func(elapsed, lag time.Duration) {
			b.onState(func(s *state) {
				for p, r := range s.records {
					r.waits = min(r.waits, 1)
					s.records[p] = r
				}
			})
			b.naive.Tick(elapsed, lag)
		}
	}},
	{name: "LagIsIgnored", caughtBy: []string{byTickWalks, "ChecksumTells"}, plant: func(b *broken) {
		b.tick = func(elapsed, _ time.Duration) { b.naive.Tick(elapsed, 0) }
	}},
	{name: "DeadlinesCountFromTheTickItself", caughtBy: []string{byTickWalks}, plant: func(b *broken) {
		b.tick = func(elapsed, _ time.Duration) { b.naive.Tick(elapsed, elapsed) }
	}},
	{name: "UnsettledForgetsWhatIsOpen", caughtBy: []string{byTickWalks}, plant: func(b *broken) {
		b.unsettled = func() (bool, time.Duration, bool) {
			_, settling, ok := b.naive.Unsettled()
			return false, settling, ok
		}
	}},
	{name: "UnsettledTellsTheLongest", caughtBy: []string{byTickWalks}, plant: func(b *broken) {
		b.unsettled = func() (open bool, settling time.Duration, ok bool) {
			open, settling, ok = b.naive.Unsettled()
			b.onState(func(s *state) {
				for _, r := range s.records {
					if r.waits == 1 {
						settling = max(settling, r.next())
					}
				}
			})
			return open, settling, ok
		}
	}},
	{name: "UnsettledForEver", caughtBy: []string{byTickWalks}, plant: func(b *broken) {
		open := false
		b.unsettled = func() (bool, time.Duration, bool) {
			now, settling, ok := b.naive.Unsettled()
			open = open || now
			return open, settling, ok
		}
	}},
	{name: "LongDurationsOverflow", caughtBy: []string{"LongestDurations"}, plant: func(b *broken) {
		b.apply = func(op *engine.Op, limit int64) engine.Result {
			res := b.naive.Apply(op, limit)
			b.onState(func(s *state) {
				p := place{op.Space, op.Key}
				if r := s.records[p]; op.ExpireIn != 0 && r.waits == 0 {
					r.expire = s.now + op.ExpireIn
					s.records[p] = r
				}
			})
			return res
		}
	}},
}

// reapInOrder reaps what is due in an order of its own.
func (b *broken) reapInOrder(limit int, order func(a, b record) int) (n int) {
	b.onState(func(s *state) {
		for ; n < limit; n++ {
			due := slices.DeleteFunc(slices.Collect(maps.Keys(s.records)), func(p place) bool {
				return !s.passed(s.records[p], s.records[p].next())
			})
			if len(due) == 0 {
				return
			}
			p := slices.MinFunc(due, func(a, b place) int { return order(s.records[a], s.records[b]) })
			r := s.records[p]
			rest := maps.Clone(s.records)
			s.records = map[place]record{p: r}
			s.reap(1)
			for q, r := range s.records {
				rest[q] = r
			}
			if len(s.records) == 0 {
				delete(rest, p)
			}
			s.records = rest
		}
	})
	return n
}
