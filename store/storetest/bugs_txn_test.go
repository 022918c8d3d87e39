package storetest

import (
	"bytes"
	"context"
	"errors"
	"runtime"
	"slices"
	"time"

	"dkv/store"
)

// txnBugs are in what transactions do.
var txnBugs = []bug{
	{
		name:     "OperationsOfATransactionAreDoneOneByOne",
		caughtBy: []string{"TransfersBetweenAccountsNeverChangeTheSum", "TransactionThatIsRefusedInPartChangesNothing", "TransactionReadsTheStateBeforeIt"},
		plant:    func(b *broken) { b.txn = b.oneByOne },
	},
	{
		name:     "ConditionsAreLookedAtBefore",
		caughtBy: []string{"TransfersByRevisionNeverChangeTheSum", "AmongManyTransactionsOfOneConditionExactlyOneHolds"},
		plant: func(b *broken) {
			b.txn = func(ctx context.Context, t store.Txn) (store.TxnResult, error) {
				res, err := b.member.Txn(ctx, store.Txn{If: t.If})
				if err != nil || t.Check() != nil {
					return b.member.Txn(ctx, t)
				}
				runtime.Gosched()
				held := res.Held
				if t.If = nil; !held {
					t.Then = t.Else
				}
				res, err = b.member.Txn(ctx, t)
				res.Held = held
				return res, err
			}
		},
	},
	{
		name:     "OneConditionSuffices",
		caughtBy: []string{"AllConditionsHaveToHold", "TransfersByRevisionNeverChangeTheSum", "RandomWalkAgreesWithAMap"},
		plant: func(b *broken) {
			m := b.member
			b.txn = func(ctx context.Context, t store.Txn) (store.TxnResult, error) {
				for _, c := range t.If {
					one := store.Txn{If: []store.Cond{c}}
					if res, err := m.Txn(ctx, one); err == nil && res.Held && t.Check() == nil {
						t.If = nil
						break
					}
				}
				return m.Txn(ctx, t)
			}
		},
	},
	{
		name:     "OnlyTheFirstConditionCounts",
		caughtBy: []string{"AllConditionsHaveToHold"},
		plant:    func(b *broken) { b.onTxn(func(t *store.Txn) { t.If = t.If[:min(1, len(t.If))] }) },
	},
	{
		name:     "ConditionsAreAllOnTheFirstKey",
		caughtBy: []string{"AllConditionsHaveToHold"},
		plant: func(b *broken) {
			b.onTxn(func(t *store.Txn) {
				for i := range t.If {
					t.If[i].Key = t.If[0].Key
				}
			})
		},
	},
	{
		name:     "ThenIsDoneWhateverTheConditions",
		caughtBy: []string{"EachConditionHoldsWhenItShould", "HistoryOfConditionalWritesIsLinearizable", "AmongManyTransactionsOfOneConditionExactlyOneHolds"},
		plant:    func(b *broken) { b.onTxn(func(t *store.Txn) { t.If = nil }) },
	},
	{
		name:     "ElseIsIgnored",
		caughtBy: []string{"EachConditionHoldsWhenItShould", "EachOperationOfATransactionDoesItsOwn"},
		plant:    func(b *broken) { b.onTxn(func(t *store.Txn) { t.Else = nil }) },
	},
	{
		name:     "TransactionWithoutConditionsDoesElse",
		caughtBy: []string{"TransactionWithoutConditionsDoesThen"},
		plant: func(b *broken) {
			b.onTxn(func(t *store.Txn) {
				if len(t.If) == 0 {
					t.Then, t.Else = t.Else, t.Then
				}
			})
		},
	},
	{
		name:     "ConditionOfRevisionZeroHoldsForAnything",
		caughtBy: []string{"EachConditionHoldsWhenItShould", "DeadlinesLeaveTheRevisionOfACondition"},
		plant: func(b *broken) {
			b.onTxn(func(t *store.Txn) {
				t.If = slices.DeleteFunc(t.If, func(c store.Cond) bool { return c.Kind == store.CondRevision && c.Revision == 0 })
			})
		},
	},
	{
		name:     "ExpiredKeyDoesNotExistForACondition",
		caughtBy: []string{"EachConditionHoldsWhenItShould", "DeadlinesLeaveTheRevisionOfACondition"},
		plant: func(b *broken) {
			b.onConds(func(c *store.Cond) {
				if e, _, _ := b.member.GetEntry(context.Background(), c.Key); c.Kind == store.CondExists && e.Expired {
					c.Kind, c.Revision = store.CondRevision, 0
				}
			})
		},
	},
	{
		name:     "ExpiredKeyHasAnEmptyValueForACondition",
		caughtBy: []string{"EachConditionHoldsWhenItShould", "DeadlinesLeaveTheRevisionOfACondition"},
		plant: func(b *broken) {
			b.onConds(func(c *store.Cond) {
				if e, _, _ := b.member.GetEntry(context.Background(), c.Key); c.Kind == store.CondValue && e.Expired && len(c.Value) == 0 {
					c.Kind = store.CondExists
				}
			})
		},
	},
	{
		name:     "ValueConditionComparesAPrefix",
		caughtBy: []string{"EachConditionHoldsWhenItShould"},
		plant: func(b *broken) {
			b.onConds(func(c *store.Cond) {
				if v, ok, _ := b.member.Get(context.Background(), c.Key); c.Kind == store.CondValue && ok && bytes.HasPrefix(v, c.Value) {
					c.Value = v
				}
			})
		},
	},
	{
		name:     "LockConditionIgnoresTheToken",
		caughtBy: []string{"LockConditionHoldsForTheTokenOfTheOwner"},
		plant: func(b *broken) {
			b.onConds(func(c *store.Cond) {
				b.naive.mu.Lock()
				defer b.naive.mu.Unlock()
				if p := b.naive.mu.locks[c.Key].alone(); c.Kind == store.CondLock && p != nil {
					c.Revision = p.token
				}
			})
		},
	},
	{
		name:     "LockConditionLooksAtKeys",
		caughtBy: []string{"LockConditionHoldsForTheTokenOfTheOwner"},
		plant: func(b *broken) {
			b.onConds(func(c *store.Cond) {
				if c.Kind == store.CondLock {
					c.Kind = store.CondRevision
				}
			})
		},
	},
	{
		name:     "TransactionReadsWhatItWrites",
		caughtBy: []string{"TransactionReadsTheStateBeforeIt"},
		plant: func(b *broken) {
			b.onResult(func(branch []store.Op, res *store.TxnResult) {
				for i, op := range branch {
					if op.Kind == store.OpKindGet {
						e, ok, _ := b.member.GetEntry(context.Background(), op.Key)
						e.Revision = min(e.Revision, res.Revision)
						res.Results[i] = store.OpResult{Done: ok, Revision: e.Revision, Value: e.Value, Expired: e.Expired, ExpireIn: e.ExpireIn, DeleteIn: e.DeleteIn}
					}
				}
			})
		},
	},
	{
		name:     "TransactionAddsWithoutTheSign",
		caughtBy: []string{"TransfersBetweenAccountsNeverChangeTheSum", "RandomWalkAgreesWithAMap"},
		plant: func(b *broken) {
			b.onTxn(func(t *store.Txn) {
				for i := range t.Then {
					t.Then[i].Delta = max(t.Then[i].Delta, -t.Then[i].Delta)
				}
			})
		},
	},
	{
		name:     "TransactionSetsWithoutDeadlines",
		caughtBy: []string{"TransactionSetsDeadlines", "EachOperationOfATransactionDoesItsOwn"},
		plant: func(b *broken) {
			b.onTxn(func(t *store.Txn) {
				for _, branch := range [][]store.Op{t.Then, t.Else} {
					for i := range branch {
						branch[i].ExpireIn, branch[i].DeleteIn = 0, 0
					}
				}
			})
		},
	},
	{
		name:     "TransactionSetsIfUnsetAlways",
		caughtBy: []string{"EachOperationOfATransactionDoesItsOwn", "ConditionalWritesTakeOneRevisionForEachChange"},
		plant: func(b *broken) {
			b.onTxn(func(t *store.Txn) {
				for _, branch := range [][]store.Op{t.Then, t.Else} {
					for i := range branch {
						if branch[i].Kind == store.OpKindSetIfUnset {
							branch[i].Kind = store.OpKindSet
						}
					}
				}
			})
		},
	},
	{
		name:     "TransactionSaysThatAllWasDone",
		caughtBy: []string{"EachOperationOfATransactionDoesItsOwn", "ConditionalWritesTakeOneRevisionForEachChange"},
		plant: func(b *broken) {
			b.onResult(func(_ []store.Op, res *store.TxnResult) {
				for i := range res.Results {
					res.Results[i].Done = true
				}
			})
		},
	},
	{
		name:     "ChangesOfATransactionShareARevision",
		caughtBy: []string{"TransactionWithoutConditionsDoesThen", "EachOperationOfATransactionDoesItsOwn"},
		plant: func(b *broken) {
			b.onResult(func(branch []store.Op, res *store.TxnResult) {
				for i := range branch {
					if branch[i].Writes() && res.Results[i].Done {
						res.Results[i].Revision = res.Revision
					}
				}
			})
		},
	},
	{
		name:     "TransactionThatChangesNothingTakesARevision",
		caughtBy: []string{"ConditionalWritesTakeOneRevisionForEachChange", "RandomWalkAgreesWithAMap"},
		plant: func(b *broken) {
			b.onResult(func(_ []store.Op, res *store.TxnResult) {
				b.naive.do(func(db *naive, _ time.Time) {
					if !slices.ContainsFunc(res.Results, func(r store.OpResult) bool { return r.Done }) {
						db.mu.revision++
						res.Revision = db.mu.revision
					}
				})
			})
		},
	},
	{
		name:     "TransactionIsDoneAfterItHasReturned",
		caughtBy: []string{"TransactionThatHasReturnedIsSeenWholeByEveryMember"},
		plant: func(b *broken) {
			b.txn = func(ctx context.Context, t store.Txn) (store.TxnResult, error) {
				if len(t.If) > 0 || t.Check() != nil || len(t.Then) < 2 {
					return b.member.Txn(ctx, t)
				}
				last := t.Then[len(t.Then)-1]
				t.Then = t.Then[:len(t.Then)-1]
				res, err := b.member.Txn(ctx, t)
				if err == nil {
					res.Revision++
					res.Results = append(res.Results, store.OpResult{Done: true, Revision: res.Revision})
					time.AfterFunc(time.Millisecond, func() { b.member.Txn(context.Background(), store.Txn{Then: []store.Op{last}}) })
				}
				return res, err
			}
		},
	},
	{
		name:     "MemoryOfATransactionIsKept",
		caughtBy: []string{"ArgumentsOfATransactionAreCopied"},
		plant: func(b *broken) {
			b.txn = func(ctx context.Context, t store.Txn) (store.TxnResult, error) {
				res, err := b.member.Txn(ctx, t)
				if err == nil && res.Held {
					b.naive.do(func(db *naive, _ time.Time) {
						for i, op := range t.Then {
							if it := db.mu.items[op.Key]; it != nil && it.revision == res.Results[i].Revision && op.Kind == store.OpKindSet {
								it.value = op.Value
							}
						}
					})
				}
				return res, err
			}
		},
	},
	{
		name:     "MemoryOfTheStoreIsReadByATransaction",
		caughtBy: []string{"ResultsOfATransactionBelongToTheCaller"},
		plant: func(b *broken) {
			b.onResult(func(branch []store.Op, res *store.TxnResult) {
				b.naive.do(func(db *naive, _ time.Time) {
					for i, op := range branch {
						if it := db.mu.items[op.Key]; op.Kind == store.OpKindGet && it != nil && it.revision == res.Results[i].Revision && !it.expired {
							res.Results[i].Value = it.value
						}
					}
				})
			})
		},
	},
	{
		name:     "EmptyValuesAreReadAsNilByATransaction",
		caughtBy: []string{"ResultsOfATransactionBelongToTheCaller"},
		plant: func(b *broken) {
			b.onResult(func(_ []store.Op, res *store.TxnResult) {
				for i := range res.Results {
					res.Results[i].Value = append([]byte(nil), res.Results[i].Value...)
				}
			})
		},
	},
	{
		name:     "OperationsOfATransactionShareMemory",
		caughtBy: []string{"ResultsOfATransactionBelongToTheCaller"},
		plant: func(b *broken) {
			b.onResult(func(branch []store.Op, res *store.TxnResult) {
				for i := range branch {
					if i > 0 && branch[i].Kind == store.OpKindGet && branch[i].Key == branch[0].Key {
						res.Results[i].Value = res.Results[0].Value
					}
				}
			})
		},
	},
	{
		name:     "TransactionsDoNotCountBytes",
		caughtBy: []string{"ConditionalWritesCountInInfo"},
		plant: func(b *broken) {
			var grown int64
			b.onResult(func(branch []store.Op, _ *store.TxnResult) {
				for _, op := range branch {
					grown += int64(len(op.Value))
				}
			})
			b.info = func(ctx context.Context) (store.Info, error) {
				info, err := b.member.Info(ctx)
				info.Bytes -= grown
				return info, err
			}
		},
	},
}

// txnRefusalBugs are in what transactions are refused, and how.
var txnRefusalBugs = []bug{
	{
		name:     "RefusedTransactionIsHalfDone",
		caughtBy: []string{"TransactionThatIsRefusedInPartChangesNothing", "ConditionalWritesTakeOneRevisionForEachChange"},
		plant: func(b *broken) {
			b.txn = func(ctx context.Context, t store.Txn) (store.TxnResult, error) {
				res, err := b.member.Txn(ctx, t)
				if errors.Is(err, store.ErrNotNumber) {
					b.oneByOne(ctx, t)
				}
				return res, err
			}
		},
	},
	{
		name:     "TransactionLeavesOutWhatIsRefused",
		caughtBy: []string{"TransactionThatIsRefusedInPartChangesNothing", "ConditionalWritesTakeOneRevisionForEachChange"},
		plant: func(b *broken) {
			b.txn = func(ctx context.Context, t store.Txn) (store.TxnResult, error) {
				res, err := b.member.Txn(ctx, t)
				if errors.Is(err, store.ErrNotNumber) {
					return store.TxnResult{Held: true, Results: make([]store.OpResult, len(t.Then))}, nil
				}
				return res, err
			}
		},
	},
	{
		name:     "TransactionReadsAsMuchAsItLikes",
		caughtBy: []string{"TransactionThatIsRefusedInPartChangesNothing"},
		plant: func(b *broken) {
			b.txn = func(ctx context.Context, t store.Txn) (store.TxnResult, error) {
				res, err := b.member.Txn(ctx, t)
				if errors.Is(err, store.ErrBadTxn) && t.Check() == nil {
					return b.oneByOne(ctx, t)
				}
				return res, err
			}
		},
	},
	{
		name:     "LastWriteOfAKeyWinsInATransaction",
		caughtBy: []string{"BadTransactionsAreRefusedAndChangeNothing"},
		plant: func(b *broken) {
			b.txn = func(ctx context.Context, t store.Txn) (store.TxnResult, error) {
				unique := func(ops []store.Op) (left []store.Op) {
					for i, op := range ops {
						if !slices.ContainsFunc(ops[i+1:], func(o store.Op) bool { return o.Key == op.Key && o.Writes() }) {
							left = append(left, op)
						}
					}
					return left
				}
				if len(t.Then) < 10 && t.Check() != nil {
					t.Then = unique(t.Then)
				}
				return b.member.Txn(ctx, t)
			}
		},
	},
	{
		name:     "BranchThatIsNotDoneIsNotChecked",
		caughtBy: []string{"BadTransactionsAreRefusedAndChangeNothing", "CancelledContextKeepsEveryOperationFromBeginning"},
		plant: func(b *broken) {
			b.txn = func(ctx context.Context, t store.Txn) (store.TxnResult, error) {
				if len(t.If) == 0 {
					t.Else = nil
				}
				return b.member.Txn(context.WithoutCancel(ctx), t)
			}
		},
	},
	{
		name:     "ConditionsOfNoKindHold",
		caughtBy: []string{"BadTransactionsAreRefusedAndChangeNothing"},
		plant: func(b *broken) {
			b.txn = func(ctx context.Context, t store.Txn) (store.TxnResult, error) {
				t.If = slices.DeleteFunc(slices.Clone(t.If), func(c store.Cond) bool { return c.Kind > store.CondLock })
				return b.member.Txn(ctx, t)
			}
		},
	},
	{
		name:     "RefusalsOfATransactionAreAllTheSame",
		caughtBy: []string{"BadTransactionsAreRefusedAndChangeNothing", "BadInputIsRefusedByEveryOperationAndChangesNothing"},
		plant: func(b *broken) {
			b.txn = func(ctx context.Context, t store.Txn) (store.TxnResult, error) {
				res, err := b.member.Txn(ctx, t)
				if store.KindOf(err) == store.KindFinal {
					err = store.ErrBadTxn
				}
				return res, err
			}
		},
	},
	{
		name:     "TransactionsMayBeOfOneOperationMore",
		caughtBy: []string{"TransactionOfAsManyOperationsAsAllowedIsTaken"},
		plant: func(b *broken) {
			b.txn = func(ctx context.Context, t store.Txn) (store.TxnResult, error) {
				if len(t.If)+len(t.Then)+len(t.Else) == store.MaxTxnOps+1 {
					t.If = t.If[:len(t.If)-1]
				}
				return b.member.Txn(ctx, t)
			}
		},
	},
	{
		name:     "TransactionsAreOfOneOperationLess",
		caughtBy: []string{"TransactionOfAsManyOperationsAsAllowedIsTaken"},
		plant: func(b *broken) {
			b.txn = func(ctx context.Context, t store.Txn) (store.TxnResult, error) {
				if len(t.If)+len(t.Then)+len(t.Else) == store.MaxTxnOps {
					return store.TxnResult{}, store.ErrBadTxn
				}
				return b.member.Txn(ctx, t)
			}
		},
	},
	{
		name:     "BytesOfConditionsDoNotCount",
		caughtBy: []string{"TransactionOfAsManyBytesAsAllowedIsTaken"},
		plant: func(b *broken) {
			b.txn = func(ctx context.Context, t store.Txn) (store.TxnResult, error) {
				if res, err := b.member.Txn(ctx, store.Txn{If: t.If}); err == nil && !res.Held && t.Check() != nil {
					t.If = []store.Cond{{Kind: store.CondLock, Key: "-", Revision: 1}}
				}
				return b.member.Txn(ctx, t)
			}
		},
	},
	{
		name:     "TransactionsAreOfOneByteLess",
		caughtBy: []string{"TransactionOfAsManyBytesAsAllowedIsTaken"},
		plant: func(b *broken) {
			b.txn = func(ctx context.Context, t store.Txn) (store.TxnResult, error) {
				if t.Check() == nil {
					more := t
					more.If = append(slices.Clone(t.If), store.IfMissing("+"))
					if err := more.Check(); errors.Is(err, store.ErrBadTxn) && len(t.Then) < 10 {
						return store.TxnResult{}, err
					}
				}
				return b.member.Txn(ctx, t)
			}
		},
	},
}

// oneByOne carries out a transaction, if its arguments are not bad, in as many
// steps as it has operations. What it returns is nearly right.
func (b *broken) oneByOne(ctx context.Context, t store.Txn) (store.TxnResult, error) {
	if err := t.Check(); err != nil {
		return store.TxnResult{}, err
	}
	all, err := b.member.Txn(ctx, store.Txn{If: t.If})
	if err != nil {
		return all, err
	}
	branch := t.Then
	if !all.Held {
		branch = t.Else
	}
	for _, op := range branch {
		res, err := b.member.Txn(ctx, store.Txn{Then: []store.Op{op}})
		if err != nil {
			return store.TxnResult{}, err
		}
		runtime.Gosched()
		r := res.Results[0]
		if op.Writes() && r.Done {
			if all.Revision = max(all.Revision, r.Revision); len(all.Results) > 0 {
				r.Revision = all.Revision
			}
		}
		all.Results = append(all.Results, r)
	}
	return all, nil
}
