package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"dkv/store"
)

// txnRefusalChecks are about transactions that are refused as a whole.
var txnRefusalChecks = []check{
	{"TransactionThatIsRefusedInPartChangesNothing", func(s *session) {
		s.set(s.key("text"), "no number")
		s.set(s.key("most"), fmt.Sprint(math.MaxInt64))
		s.set(s.key("least"), fmt.Sprint(math.MinInt64))
		half := strings.Repeat("h", store.MaxTxnRead/2)
		s.set(s.key("half"), half)
		s.set(s.key("more"), half+"+")
		for _, c := range []struct {
			name string
			ops  []store.Op
			want error
		}{
			{"an Add to what is not a number", []store.Op{store.OpAdd(s.key("text"), 1)}, store.ErrNotNumber},
			{"an Add beyond the greatest number", []store.Op{store.OpAdd(s.key("most"), 1)}, store.ErrOutOfRange},
			{"an Add beyond the least number", []store.Op{store.OpAdd(s.key("least"), -1)}, store.ErrOutOfRange},
			{"reading a byte too many", []store.Op{store.OpGet(s.key("half")), store.OpGet(s.key("more"))}, store.ErrBadTxn},
			{"reading a key too often", []store.Op{store.OpGet(s.key("half")), store.OpGet(s.key("half")), store.OpGet(s.key("text"))}, store.ErrBadTxn},
		} {
			s.refusesBranch(c.name, c.ops, c.want)
		}
		// What is not carried out is no reason to refuse.
		t := store.Txn{Then: []store.Op{store.OpGet(s.key("half")), store.OpGet(s.key("half"))}}
		t.Else = append(t.Then, store.OpAdd(s.key("text"), 1))
		if got := s.txn(t).Results[1]; !got.Done || string(got.Value) != half {
			s.Fatalf("of two values of half the limit each the second is %s, %v", show(string(got.Value)), got.Done)
		}
		// A condition is not what an operation reads.
		t = store.Txn{If: []store.Cond{store.IfValue(s.key("half"), []byte(half)), store.IfValue(s.key("more"), []byte(half+"+"))}, Then: t.Then}
		if res := s.txn(t); !res.Held {
			s.Fatalf("conditions on long values do not hold")
		}
	}},
	{"BadTransactionsAreRefusedAndChangeNothing", func(s *session) {
		k, v := s.key("k"), []byte("value")
		long := strings.Repeat("k", store.MaxKeySize+1)
		for _, c := range []struct {
			name string
			ops  []store.Op
			want error
		}{
			{"an operation of kind 0", []store.Op{{Key: k}}, store.ErrBadTxn},
			{"an operation of the kind after the last", []store.Op{{Kind: store.OpKindAdd + 1, Key: k}}, store.ErrBadTxn},
			{"an operation of kind 255", []store.Op{{Kind: 255, Key: k}}, store.ErrBadTxn},
			{"two Sets of a key", []store.Op{store.OpSet(k, v), store.OpSet(k, v)}, store.ErrBadTxn},
			{"a Set and a Delete of a key", []store.Op{store.OpSet(k, v), store.OpGet(s.key("l")), store.OpDelete(k)}, store.ErrBadTxn},
			{"an Add and an Expire of a key", []store.Op{store.OpAdd(k, 1), store.OpExpire(k)}, store.ErrBadTxn},
			{"two SetEIfUnset of a key", []store.Op{store.OpSetEIfUnset(k, v, 0, 0), store.OpSetEIfUnset(k, v, 0, 0)}, store.ErrBadTxn},
			{"a Set of an empty key", []store.Op{store.OpSet("", v)}, store.ErrEmptyKey},
			{"a Get of an empty key", []store.Op{store.OpGet("")}, store.ErrEmptyKey},
			{"an Add to a key that is too long", []store.Op{store.OpAdd(long, 1)}, store.ErrKeyTooLarge},
			{"a Delete of a key that is too long", []store.Op{store.OpDelete(long)}, store.ErrKeyTooLarge},
			{"an Expire of an empty key", []store.Op{store.OpExpire("")}, store.ErrEmptyKey},
			{"a Set of a value that is too long", []store.Op{store.OpSet(k, tooLarge)}, store.ErrValueTooLarge},
			{"a negative expireIn", []store.Op{store.OpSetE(k, v, negative, 0)}, store.ErrBadDuration},
			{"a negative deleteIn", []store.Op{store.OpSetE(k, v, time.Hour, math.MinInt64)}, store.ErrBadDuration},
			{"a negative expireIn if unset", []store.Op{store.OpSetEIfUnset(k, v, negative, time.Hour)}, store.ErrBadDuration},
			{"a negative deleteIn if unset", []store.Op{store.OpSetEIfUnset(k, v, 0, negative)}, store.ErrBadDuration},
			{"too many operations", tooMany(k, store.MaxTxnOps), store.ErrBadTxn},
		} {
			s.refusesBranch(c.name, c.ops, c.want)
			// The branch that is not carried out counts, too.
			s.refusesTxn(c.name+" in Else", store.Txn{Then: []store.Op{store.OpSet(s.key("done"), v)}, Else: c.ops}, c.want)
		}
		for _, c := range []struct {
			name string
			cond store.Cond
			want error
		}{
			{"a condition of kind 0", store.Cond{Key: k}, store.ErrBadTxn},
			{"a condition of the kind after the last", store.Cond{Kind: store.CondLock + 1, Key: k}, store.ErrBadTxn},
			{"a condition of kind 255", store.Cond{Kind: 255, Key: k}, store.ErrBadTxn},
			{"a condition on an empty key", store.IfMissing(""), store.ErrEmptyKey},
			{"a condition on an empty lock", store.IfLock("", 1), store.ErrEmptyKey},
			{"a condition on a key that is too long", store.IfExists(long), store.ErrKeyTooLarge},
			{"a condition on a value that is too long", store.IfValue(k, tooLarge), store.ErrValueTooLarge},
		} {
			done := []store.Op{store.OpSet(s.key("done"), v)}
			s.refusesTxn(c.name, store.Txn{If: []store.Cond{c.cond}, Then: done, Else: done}, c.want)
			s.refusesTxn(c.name+" after another", store.Txn{If: []store.Cond{store.IfMissing(k), c.cond}, Then: done, Else: done}, c.want)
			s.refusesTxn(c.name+" after one that does not hold", store.Txn{If: []store.Cond{store.IfExists(k), c.cond}, Then: done, Else: done}, c.want)
		}
		// The branches may write the same key, and one may read what it writes.
		t := store.Txn{Then: []store.Op{store.OpSet(k, v), store.OpGet(k), store.OpGet(k)}, Else: []store.Op{store.OpDelete(k)}}
		s.txn(t)
		s.live(k, "value")
	}},
}

// tooMany returns n operations that read a key and one that writes another.
func tooMany(key string, n int) []store.Op {
	ops := make([]store.Op, n+1)
	for i := range ops {
		ops[i] = store.OpGet(key)
	}
	ops[n/2] = store.OpSet(key+"-written", nil)
	return ops
}

// refusesBranch ends the check unless operations are refused in either branch,
// together with others before and after them, which are not done.
func (s *session) refusesBranch(name string, ops []store.Op, want error) {
	s.Helper()
	first, last := store.OpSet(s.key("done"), []byte("first")), store.OpAdd(s.key("done too"), 1)
	branch := append([]store.Op{first}, ops...)
	s.refusesTxn(name, store.Txn{Then: append(branch, last)}, want)
	s.refusesTxn(name+" if a condition does not hold", store.Txn{If: []store.Cond{store.IfExists(s.key("done"))}, Else: append(branch, last)}, want)
	s.refusesTxn(name+" and nothing else", store.Txn{Then: ops}, want)
}

// refusesTxn ends the check unless every member refuses the transaction and
// nothing has changed.
func (s *session) refusesTxn(name string, t store.Txn, want error) {
	s.Helper()
	before, _ := s.scan(store.Range{Prefix: s.prefix})
	for i, st := range s.stores {
		res, err := st.Txn(s.ctx, t)
		if !errors.Is(err, want) || store.KindOf(err) != store.KindFinal {
			s.Fatalf("member %d: a transaction with %s returns %v (kind: %v); want %v", i, name, err, store.KindOf(err), want)
		}
		if res.Held || res.Revision != 0 || len(res.Results) != 0 {
			s.Fatalf("member %d: a transaction with %s returns %+v with the error %v", i, name, res, err)
		}
	}
	after, _ := s.scan(store.Range{Prefix: s.prefix})
	s.sameKeys("a scan after a transaction with "+name, keysOf(after), keysOf(before))
	for i := range after {
		if !sameEntry(after[i], before[i]) {
			s.Fatalf("a refused transaction with %s changed %s to %s", name, showEntry(before[i]), showEntry(after[i]))
		}
	}
}

// txnLimitChecks count revisions or take much memory, and so need the store to
// themselves.
var txnLimitChecks = []check{
	{"TransactionOfAsManyOperationsAsAllowedIsTaken", func(s *session) {
		keys := s.numbered(store.MaxTxnOps)
		const conds, then = 100, 800
		t := store.Txn{}
		for i, key := range keys {
			switch {
			case i < conds:
				t.If = append(t.If, store.IfMissing(key))
			case i < conds+then:
				t.Then = append(t.Then, store.OpSet(key, []byte("value")))
			default:
				t.Else = append(t.Else, store.OpGet(key))
			}
		}
		more := t
		more.Else = append(t.Else, store.OpGet(keys[0]))
		s.refusesTxn("one operation too many", more, store.ErrBadTxn)
		more = t
		more.If = append(t.If, store.IfMissing(keys[0]))
		s.refusesTxn("one condition too many", more, store.ErrBadTxn)
		s.txn(t)
		all, _ := s.scan(store.Range{Prefix: s.prefix})
		s.sameKeys("a scan after a large transaction", keysOf(all), keys[conds:conds+then])

		t = store.Txn{}
		for _, key := range keys {
			t.Then = append(t.Then, store.OpDelete(key))
		}
		s.txn(t)
		all, _ = s.scan(store.Range{Prefix: s.prefix})
		s.sameKeys("a scan after all is deleted by one transaction", keysOf(all), nil)
	}},
	{"TransactionOfAsManyBytesAsAllowedIsTaken", func(s *session) {
		a, b, c := s.key("a"), s.key("b"), s.key("c") // of one length
		value := bytes.Repeat([]byte("12345678"), store.MaxTxnSize/8)
		whole := value[:store.MaxTxnSize-len(a)]
		s.refusesTxn("a byte too many", store.Txn{Then: []store.Op{store.OpSet(a, value[:len(whole)+1])}}, store.ErrBadTxn)
		s.txn(store.Txn{Then: []store.Op{store.OpSet(a, whole)}})
		if v, ok := s.get(a); !ok || !bytes.Equal(v, whole) {
			s.Fatalf("Get(%s) after the longest transaction = %s, %v", show(a), showValue(v), ok)
		}

		// All parts count: conditions, both branches, and keys.
		third := value[:store.MaxTxnSize/3]
		rest := value[:store.MaxTxnSize-4*len(a)-2*len(third)]
		t := store.Txn{
			If:   []store.Cond{store.IfValue(a, third), store.IfMissing(b)},
			Then: []store.Op{store.OpSet(b, third)},
			Else: []store.Op{store.OpSet(c, rest)},
		}
		if res := s.txn(t); res.Held {
			s.Fatalf("a condition holds for a value of which it has a part")
		}
		if v, ok := s.get(c); !ok || !bytes.Equal(v, rest) {
			s.Fatalf("Get(%s) after the longest transaction = %s, %v", show(c), showValue(v), ok)
		}
		s.unset(b)
		t.If[1].Key += "+"
		s.refusesTxn("a byte too many in its conditions", t, store.ErrBadTxn)
		t.If[1].Key, t.Then[0].Key = b, b+"+"
		s.refusesTxn("a byte too many in the other branch", t, store.ErrBadTxn)
		t.Then[0].Key, t.Else[0].Value = b, value[:len(rest)+1]
		s.refusesTxn("a byte too many in its branch", t, store.ErrBadTxn)
		s.delete(a)
		s.delete(c)
	}},
	{"ConditionalWritesTakeOneRevisionForEachChange", func(s *session) {
		a, b, n := s.key("a"), s.key("b"), s.key("n")
		s.set(a, "one")
		r := s.revision(a)
		step := func(what string, got, changes store.Revision) {
			s.Helper()
			if r += changes; got != r {
				s.Fatalf("%s returns revision %d; want %d, for %d changes", what, got, r, changes)
			}
		}
		is := func(now store.Revision, ok bool) store.Revision {
			s.Helper()
			if !ok {
				s.Fatalf("a condition does not hold at revision %d", now)
			}
			return now
		}
		step("CompareAndSet", is(s.compareAndSet(a, r, "two", 0, 0)), 1)
		s.compareAndSet(a, r-1, "three", 0, 0)
		s.compareAndSet(b, r, "three", 0, 0)
		step("CompareAndSet after two that set nothing", is(s.compareAndSet(b, 0, "three", 0, 0)), 1)
		s.compareAndDelete(b, r-1)
		s.compareAndDelete(b, 0)
		s.compareAndDelete(n, r)
		step("CompareAndDelete after three that delete nothing", is(s.compareAndDelete(b, r)), 1)
		_, rev := s.add(n, 5)
		step("Add", rev, 1)
		_, rev = s.add(n, 0)
		step("Add of nothing", rev, 1)
		s.addsNothing(s.live(a, "two"), store.ErrNotNumber, 1)
		_, rev = s.add(n, 5)
		step("Add after one that is refused", rev, 1)
		step("a transaction", s.txn(store.Txn{Then: []store.Op{store.OpSet(a, nil), store.OpAdd(n, 1), store.OpSet(b, nil)}}).Revision, 3)
		step("a transaction that reads", s.txn(store.Txn{Then: []store.Op{store.OpGet(a), store.OpGet(b)}}).Revision, 0)
		step("an empty transaction", s.txn(store.Txn{}).Revision, 0)
		step("a transaction that finds nothing to do", s.txn(store.Txn{If: []store.Cond{store.IfMissing(a)}, Then: []store.Op{store.OpDelete(a)}, Else: []store.Op{
			store.OpSetEIfUnset(a, nil, 0, 0), store.OpDelete(s.key("none")), store.OpExpire(s.key("no other")),
		}}).Revision, 0)
		s.refusesTxn("a part that is refused", store.Txn{Then: []store.Op{store.OpSet(b, nil), store.OpAdd(a, 1)}}, store.ErrNotNumber)
		step("a transaction after one that is refused", s.txn(store.Txn{Then: []store.Op{store.OpSetEIfUnset(a, nil, 0, 0), store.OpExpire(b), store.OpDelete(n)}}).Revision, 2)
		step("a transaction that deletes", s.txn(store.Txn{Then: []store.Op{store.OpDelete(a), store.OpDelete(b)}}).Revision, 2)
	}},
	{"ConditionalWritesCountInInfo", func(s *session) {
		a, b := s.key("a"), s.key("b")
		n := int64(len(a)) // and len(b)
		s.holds(0, 0)
		r := s.swaps(a, 0, "12345")
		s.holds(1, n+5)
		r = s.swaps(a, r, "123")
		s.holds(1, n+3)
		s.compareAndSet(a, r+1, "1234567", 0, 0)
		s.compareAndDelete(a, r+1)
		s.holds(1, n+3)
		s.adds(b, -10, -10)
		s.holds(2, 2*n+6)
		s.adds(b, 9, -1)
		s.holds(2, 2*n+5)
		s.compareAndDelete(a, r)
		s.holds(1, n+2)
		s.txn(store.Txn{Then: []store.Op{store.OpSet(a, []byte("1234")), store.OpAdd(b, 100)}})
		s.holds(2, 2*n+6)
		s.txn(store.Txn{Then: []store.Op{store.OpExpire(a), store.OpDelete(b)}})
		s.holds(1, n)
		s.txn(store.Txn{Then: []store.Op{store.OpDelete(a), store.OpDelete(b)}})
		s.holds(0, 0)
	}},
}
