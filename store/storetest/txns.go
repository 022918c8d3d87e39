package storetest

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"dkv/lock"
	"dkv/store"
)

// txnChecks are about transactions on keys of their own.
var txnChecks = []check{
	{"TransactionWithoutConditionsDoesThen", func(s *session) {
		a, b, c := s.key("a"), s.key("b"), s.key("c")
		res := s.txn(store.Txn{Then: []store.Op{store.OpSet(a, []byte("one")), store.OpSet(b, []byte("two"))}, Else: []store.Op{store.OpSet(c, nil)}})
		if ea, eb := s.live(a, "one"), s.live(b, "two"); !res.Held || ea.Revision != res.Results[0].Revision || eb.Revision != res.Results[1].Revision {
			s.Fatalf("a transaction returns %+v; found are %s and %s", res, showEntry(ea), showEntry(eb))
		}
		s.unset(c)
		if res := s.txn(store.Txn{}); !res.Held || res.Revision == 0 {
			s.Fatalf("an empty transaction returns %+v", res)
		}
		if res := s.txn(store.Txn{Else: []store.Op{store.OpDelete(a)}}); !res.Held {
			s.Fatalf("a transaction of nothing but Else returns %+v", res)
		}
		s.live(a, "one")
	}},
	{"EachConditionHoldsWhenItShould", func(s *session) {
		live, empty, expired, deleted, missing := s.key("live"), s.key("empty"), s.key("expired"), s.key("deleted"), s.key("missing")
		s.set(live, "zero")
		old := s.revision(live)
		s.set(live, "one")
		s.set(empty, "")
		s.set(expired, "one")
		s.expire(expired)
		s.set(deleted, "one")
		was := s.revision(deleted)
		s.delete(deleted)
		r, x := s.revision(live), s.revision(expired)
		for _, c := range []struct {
			cond store.Cond
			want bool
		}{
			{store.IfRevision(live, r), true}, {store.IfRevision(live, r-1), false}, {store.IfRevision(live, r+1), false},
			{store.IfRevision(live, old), false}, {store.IfRevision(live, 0), false}, {store.IfRevision(live, x), false},
			{store.IfRevision(expired, x), true}, {store.IfRevision(expired, 0), false}, {store.IfRevision(expired, x+1), false},
			{store.IfRevision(deleted, 0), true}, {store.IfRevision(deleted, was), false}, {store.IfRevision(missing, 0), true}, {store.IfRevision(missing, 1), false},
			{store.IfMissing(live), false}, {store.IfMissing(expired), false}, {store.IfMissing(deleted), true}, {store.IfMissing(missing), true},
			{store.IfExists(live), true}, {store.IfExists(empty), true}, {store.IfExists(expired), true}, {store.IfExists(deleted), false}, {store.IfExists(missing), false},
			{store.IfValue(live, []byte("one")), true}, {store.IfValue(live, []byte("zero")), false}, {store.IfValue(live, []byte("on")), false},
			{store.IfValue(live, []byte("one\x00")), false}, {store.IfValue(live, nil), false},
			{store.IfValue(empty, nil), true}, {store.IfValue(empty, []byte{}), true}, {store.IfValue(empty, []byte("one")), false},
			{store.IfValue(expired, []byte("one")), false}, {store.IfValue(expired, nil), false},
			{store.IfValue(deleted, []byte("one")), false}, {store.IfValue(deleted, nil), false}, {store.IfValue(missing, nil), false},
		} {
			s.condition(c.want, c.cond)
		}
	}},
	{"DeadlinesLeaveTheRevisionOfACondition", func(s *session) {
		a, b := s.key("a"), s.key("b")
		r := s.seenAlive(func(d time.Duration) { s.setE(a, "one", d, time.Hour) }, a)
		q := s.seenAlive(func(d time.Duration) { s.setE(b, "one", 0, d) }, b)
		s.eventually("the deadline expires the key", func() bool { _, ok := s.get(a); return !ok })
		s.eventually("the deadline deletes the key", func() bool { return !s.has(b) })
		s.condition(true, store.IfRevision(a, r), store.IfExists(a))
		s.condition(false, store.IfValue(a, []byte("one")))
		s.condition(false, store.IfValue(a, nil))
		s.condition(false, store.IfMissing(a))
		s.condition(false, store.IfRevision(b, q))
		s.condition(false, store.IfExists(b))
		s.condition(true, store.IfMissing(b))
	}},
	{"AllConditionsHaveToHold", func(s *session) {
		a, b := s.key("a"), s.key("b")
		s.set(a, "one")
		s.set(b, "two")
		right := []store.Cond{
			store.IfRevision(a, s.revision(a)), store.IfValue(b, []byte("two")), store.IfMissing(s.key("missing")), store.IfExists(a), store.IfValue(a, []byte("one")),
		}
		wrong := []store.Cond{
			store.IfRevision(a, s.revision(b)), store.IfValue(b, []byte("one")), store.IfMissing(a), store.IfExists(s.key("missing")), store.IfValue(a, []byte("two")),
		}
		s.condition(true, right...)
		for i := range right {
			conds := slices.Clone(right)
			conds[i] = wrong[i]
			s.condition(false, conds...)
			conds = slices.Clone(wrong)
			conds[i] = right[i]
			s.condition(false, conds...)
		}
		s.condition(false, wrong...)
	}},
	{"LockConditionHoldsForTheTokenOfTheOwner", func(s *session) {
		for i, st := range s.stores {
			backend, ok := st.(lock.Backend)
			if !ok {
				s.Logf("a %T has no locks", st)
				continue
			}
			key, locks := s.key("lock-%d", i), lock.New(backend)
			s.set(key, "of the lock's name")
			s.condition(false, store.IfLock(key, s.revision(key))) // a key is no lock
			acquire := func(key string) lock.Owner {
				s.Helper()
				owner, ok, err := locks.Acquire(s.ctx, key, time.Hour)
				if !ok || err != nil {
					s.Fatalf("member %d: Acquire(%s) = %v, %v", i, show(key), ok, err)
				}
				return owner
			}
			release := func(key string, owner lock.Owner) {
				s.Helper()
				if ok, err := locks.Release(s.ctx, key, owner); !ok || err != nil {
					s.Fatalf("member %d: Release(%s) = %v, %v", i, show(key), ok, err)
				}
			}
			first, other := acquire(key), acquire(key+"-other")
			s.condition(true, store.IfLock(key, first.Token()))
			s.condition(true, store.IfLock(key+"-other", other.Token()), store.IfLock(key, first.Token()), store.IfExists(key))
			s.condition(true, store.IfMissing(key+"-other")) // a lock is no key
			s.condition(false, store.IfLock(key, first.Token()-1))
			s.condition(false, store.IfLock(key, first.Token()+1))
			s.condition(false, store.IfLock(key, other.Token()))
			s.condition(false, store.IfLock(key, 0))
			s.condition(false, store.IfLock(key+"-none", first.Token()))
			s.condition(false, store.IfLock(key+"-none", 0)) // nobody holds it
			release(key, first)
			s.condition(false, store.IfLock(key, first.Token()))
			second := acquire(key)
			s.condition(false, store.IfLock(key, first.Token()))
			s.condition(true, store.IfLock(key, second.Token()))
			release(key, second)
			release(key+"-other", other)

			brief, ok, err := locks.Acquire(s.ctx, key, 50*time.Millisecond)
			if !ok || err != nil {
				s.Fatalf("member %d: Acquire(%s) = %v, %v", i, show(key), ok, err)
			}
			s.eventually("the lock's condition ends with its time to live", func() bool {
				return !s.txn(store.Txn{If: []store.Cond{store.IfLock(key, brief.Token())}}).Held
			})
		}
	}},
	{"EachOperationOfATransactionDoesItsOwn", func(s *session) {
		for i := range s.stores {
			one := *s.on(i)
			one.prefix = s.key("then%d-", i)
			one.every(true)
			one.prefix = s.key("else%d-", i)
			one.every(false)
		}
	}},
	{"TransactionReadsTheStateBeforeIt", func(s *session) {
		a, b, c := s.key("a"), s.key("b"), s.key("c")
		s.set(a, "1")
		s.setE(c, "one", time.Hour, 2*time.Hour)
		r := s.revision(a)
		res := s.txn(store.Txn{Then: []store.Op{
			store.OpGet(a), store.OpGet(b), store.OpAdd(a, 1), store.OpSet(b, []byte("new")), store.OpGet(a), store.OpGet(b),
			store.OpDelete(c), store.OpGet(c),
		}})
		for _, n := range []int{0, 4} {
			if got := res.Results[n]; !got.Done || string(got.Value) != "1" || got.Revision != r {
				s.Fatalf("a Get of what the same transaction changes returns %+v; want 1 at revision %d", got, r)
			}
		}
		for _, n := range []int{1, 5} {
			if got := res.Results[n]; got.Done {
				s.Fatalf("a Get of what the same transaction makes returns %+v; want nothing", got)
			}
		}
		if got := res.Results[7]; !got.Done || string(got.Value) != "one" || got.DeleteIn <= 0 {
			s.Fatalf("a Get of what the same transaction deletes returns %+v", got)
		}
		s.live(a, "2")
		s.live(b, "new")
		s.unset(c)
	}},
	{"TransactionSetsDeadlines", func(s *session) {
		s.together(2, func(i int) error {
			one := *s
			one.prefix = s.key("%d-", i)
			_, err := one.lifecycle(func(d time.Duration) span { return span{d, 3 * d} }, func(key string, d span) error {
				op := store.OpSetE(key, []byte("value"), d.expireIn, d.deleteIn)
				if i == 1 {
					op = store.OpSetEIfUnset(key, []byte("value"), d.expireIn, d.deleteIn)
				}
				_, err := s.next().Txn(s.ctx, store.Txn{Then: []store.Op{op, store.OpGet(key)}})
				return err
			}, deleted, alive, expired)
			return err
		})
		a, b, c := s.key("a"), s.key("b"), s.key("c")
		for _, key := range []string{a, b, c} {
			s.setE(key, "1", time.Hour, 2*time.Hour)
		}
		s.txn(store.Txn{Then: []store.Op{store.OpSet(a, []byte("2")), store.OpAdd(b, 1), store.OpExpire(c)}})
		if e := s.live(a, "2"); e.ExpireIn != 0 || e.DeleteIn != 0 {
			s.Fatalf("a transaction's Set leaves the times left %v and %v", e.ExpireIn, e.DeleteIn)
		}
		if e := s.live(b, "2"); e.ExpireIn <= 0 || e.ExpireIn > time.Hour || e.DeleteIn <= time.Hour {
			s.Fatalf("a transaction's Add leaves the times left %v and %v; want about 1h and 2h", e.ExpireIn, e.DeleteIn)
		}
		if e := s.expired(c); e.DeleteIn <= time.Hour {
			s.Fatalf("a transaction's Expire leaves %v to the deletion; want about 2h", e.DeleteIn)
		}
	}},
	{"ArgumentsOfATransactionAreCopied", func(s *session) {
		for i, value := range []string{"kept", strings.Repeat("kept", 5000)} {
			a, b, c := s.key("a%d", i), s.key("b%d", i), s.key("c%d", i)
			s.set(a, value)
			buffer := []byte(value)
			t := store.Txn{
				If:   []store.Cond{store.IfValue(a, buffer)},
				Then: []store.Op{store.OpSet(b, buffer), store.OpSetEIfUnset(c, buffer, time.Hour, time.Hour)},
			}
			if res := s.txn(t); !res.Held {
				s.Fatalf("the condition %s does not hold", show(value))
			}
			scribble(buffer)
			clear(t.If)
			clear(t.Then)
			for _, key := range []string{a, b, c} {
				s.live(key, value)
			}
		}
	}},
	{"ResultsOfATransactionBelongToTheCaller", func(s *session) {
		for n, value := range []string{"short", strings.Repeat("long", 2000)} {
			a, b, c := s.key("a%d", n), s.key("b%d", n), s.key("c%d", n)
			s.set(a, value)
			for i := range s.stores {
				get := store.Txn{Then: []store.Op{store.OpGet(a), store.OpGet(a), store.OpSet(b, []byte(value)), store.OpGet(c)}}
				first, second := s.on(i).txn(get), s.on(i).txn(get)
				for j := range first.Results {
					scribble(first.Results[j].Value)
					first.Results[j].Done = false
					if j == 1 && string(second.Results[j].Value) != value {
						s.Fatalf("member %d: two transactions returned the same memory", i)
					}
				}
				scribble(second.Results[0].Value)
				if string(second.Results[1].Value) != value {
					s.Fatalf("member %d: two operations of a transaction returned the same memory", i)
				}
				s.live(a, value)
				s.live(b, value)
			}
		}
		empty := s.key("empty")
		s.set(empty, "")
		for i := range s.stores {
			if got := s.on(i).txn(store.Txn{Then: []store.Op{store.OpGet(empty)}}).Results[0]; !got.Done || got.Value == nil || len(got.Value) != 0 {
				s.Fatalf("member %d: a transaction reads an empty value as %+v; want an empty slice", i, got)
			}
		}
	}},
}

// txn carries out a transaction, which shall succeed.
func (s *session) txn(t store.Txn) store.TxnResult {
	s.Helper()
	res, err := s.next().Txn(s.ctx, t)
	if err != nil {
		s.Fatalf("Txn(%s): %v (kind: %v)", showTxn(t), err, store.KindOf(err))
	}
	s.must(checkTxn(t, res))
	return res
}

// checkTxn returns what is wrong with the result of a transaction, whatever is
// stored.
func checkTxn(t store.Txn, res store.TxnResult) error {
	branch := t.Else
	if res.Held {
		branch = t.Then
	}
	if len(res.Results) != len(branch) {
		return fmt.Errorf("Txn(%s) returns %d results for %d operations", showTxn(t), len(res.Results), len(branch))
	}
	var last store.Revision // of a change
	for i, r := range res.Results {
		op := branch[i]
		bad := func(what string) error {
			return fmt.Errorf("%s: operation %d of Txn(%s) returns %+v, the transaction revision %d", what, i, showTxn(t), r, res.Revision)
		}
		switch {
		case !r.Done:
			if r.Revision != 0 || r.Number != 0 || len(r.Value) != 0 || r.Expired || r.ExpireIn != 0 || r.DeleteIn != 0 {
				return bad("what is not done has a result")
			}
		case op.Writes():
			if last != 0 && r.Revision != last+1 {
				return bad("the revisions of changes do not follow each other")
			}
			if last = r.Revision; last == 0 {
				return bad("a change has no revision")
			}
			if len(r.Value) != 0 || r.Expired || r.ExpireIn != 0 || r.DeleteIn != 0 || r.Number != 0 && op.Kind != store.OpKindAdd {
				return bad("a write has the result of another kind")
			}
		default:
			e := store.Entry{Key: op.Key, Value: r.Value, Revision: r.Revision, Expired: r.Expired, ExpireIn: r.ExpireIn, DeleteIn: r.DeleteIn}
			if err := checkEntry(op.Key, e, true); err != nil {
				return bad(err.Error())
			}
			if r.Number != 0 || r.Revision > res.Revision {
				return bad("what is read does not fit")
			}
		}
	}
	if last != 0 && res.Revision != last {
		return fmt.Errorf("Txn(%s) returns revision %d; its last change has %d", showTxn(t), res.Revision, last)
	}
	return nil
}

// condition ends the check unless every member finds that all the conditions
// hold, or that they do not, and does one branch alone.
func (s *session) condition(want bool, conds ...store.Cond) {
	s.Helper()
	mark := s.key("condition")
	for i := range s.stores {
		t := store.Txn{If: conds, Then: []store.Op{store.OpSet(mark+"-then", nil)}, Else: []store.Op{store.OpSet(mark+"-else", nil)}}
		if res := s.on(i).txn(t); res.Held != want {
			s.Fatalf("member %d: the conditions of Txn(%s) hold: %v; want %v", i, showTxn(t), res.Held, want)
		}
		if s.has(mark+"-then") != want || s.has(mark+"-else") == want {
			s.Fatalf("member %d: Txn(%s), whose conditions hold: %v, does the other branch", i, showTxn(t), want)
		}
		s.delete(mark + "-then")
		s.delete(mark + "-else")
	}
}

// every carries out a transaction that does everything in one of its branches,
// and ends the check unless each operation does and says what it should.
func (s *session) every(held bool) {
	s.Helper()
	for _, name := range []string{"read", "expires", "unset live", "expire live", "delete live"} {
		s.setE(s.key("%s", name), "one", time.Hour, 2*time.Hour)
	}
	for _, name := range []string{"gone", "unset gone", "delete gone", "add gone"} {
		s.setE(s.key("%s", name), "one", 0, 2*time.Hour)
		s.expire(s.key("%s", name))
	}
	s.set(s.key("add"), "40")
	one := []byte("1")
	type after uint8
	const (
		unset after = iota
		live
		gone
		same // as before
	)
	all := []struct {
		op     store.Op
		done   bool
		number int64
		after  after
	}{
		{op: store.OpGet(s.key("read")), done: true, after: same},
		{op: store.OpGet(s.key("gone")), done: true, after: same},
		{op: store.OpGet(s.key("none"))},
		{op: store.OpSet(s.key("set"), one), done: true, after: live},
		{op: store.OpSetE(s.key("expires"), one, 3*time.Hour, 4*time.Hour), done: true, after: live},
		{op: store.OpSetEIfUnset(s.key("unset none"), one, time.Hour, time.Hour), done: true, after: live},
		{op: store.OpSetEIfUnset(s.key("unset live"), one, 0, 0), after: same},
		{op: store.OpSetEIfUnset(s.key("unset gone"), one, 0, 0), after: same},
		{op: store.OpExpire(s.key("expire live")), done: true, after: gone},
		{op: store.OpExpire(s.key("expire none"))},
		{op: store.OpDelete(s.key("delete live")), done: true},
		{op: store.OpDelete(s.key("delete gone")), done: true},
		{op: store.OpDelete(s.key("delete none"))},
		{op: store.OpAdd(s.key("add"), 2), done: true, number: 42, after: same},
		{op: store.OpAdd(s.key("add none"), 1), done: true, number: 1, after: live},
		{op: store.OpAdd(s.key("add gone"), 1), done: true, number: 1, after: live},
	}
	t, found := store.Txn{}, make([]store.Entry, len(all))
	for i, c := range all {
		found[i], _ = s.entry(c.op.Key)
		t.Then = append(t.Then, c.op)
	}
	if !held {
		t = store.Txn{If: []store.Cond{store.IfExists(s.key("none"))}, Then: []store.Op{store.OpSet(s.key("other branch"), nil)}, Else: t.Then}
	}
	res := s.txn(t)
	if res.Held != held {
		s.Fatalf("the conditions hold: %v; want %v", res.Held, held)
	}
	s.unset(s.key("other branch"))
	for i, c := range all {
		r, before := res.Results[i], found[i]
		if r.Done != c.done || r.Number != c.number {
			s.Fatalf("%s in a transaction returns %+v; want it done: %v, and the number %d", showOp(c.op), r, c.done, c.number)
		}
		if !c.op.Writes() {
			e := store.Entry{Key: before.Key, Value: r.Value, Revision: r.Revision, Expired: r.Expired, ExpireIn: r.ExpireIn, DeleteIn: r.DeleteIn}
			if !sameEntry(e, before) || e.ExpireIn > before.ExpireIn+time.Minute || e.DeleteIn > before.DeleteIn+time.Minute || (e.DeleteIn == 0) != (before.DeleteIn == 0) {
				s.Fatalf("%s in a transaction returns %s; GetEntry %s", showOp(c.op), showEntry(e), showEntry(before))
			}
		}
		var e store.Entry
		switch c.after {
		case unset:
			s.unset(c.op.Key)
			continue
		case live:
			e = s.live(c.op.Key, "1")
		case gone:
			e = s.expired(c.op.Key)
		case same:
			if c.op.Kind != store.OpKindAdd {
				s.untouched(showOp(c.op), before)
				continue
			}
			e = s.live(c.op.Key, "42")
		}
		if e.Revision != r.Revision || e.Revision <= before.Revision {
			s.Fatalf("%s in a transaction returns revision %d; found is %s", showOp(c.op), r.Revision, showEntry(e))
		}
		if (c.op.ExpireIn > 0) != (e.ExpireIn > 0) && c.op.Kind != store.OpKindAdd || e.ExpireIn < c.op.ExpireIn-time.Minute || e.DeleteIn < c.op.DeleteIn-time.Minute {
			s.Fatalf("%s in a transaction leaves %s", showOp(c.op), showEntry(e))
		}
	}
}

// showValue is show without a copy of a long value: calls are shown before it is
// known whether they fail.
func showValue(value []byte) string {
	if len(value) <= 48 {
		return show(string(value))
	}
	return fmt.Sprintf("%q... (%d bytes)", value[:32], len(value))
}

func showOp(op store.Op) string {
	name := "an operation of no kind"
	if k := int(op.Kind); k > 0 && k <= int(store.OpKindAdd) {
		name = [...]string{"", "Get", "Set", "SetEIfUnset", "Expire", "Delete", "Add"}[k]
	}
	return fmt.Sprintf("%s(%s, %s, %v, %v, %d)", name, show(op.Key), showValue(op.Value), op.ExpireIn, op.DeleteIn, op.Delta)
}

func showTxn(t store.Txn) string {
	var b strings.Builder
	for i, c := range t.If[:min(len(t.If), 6)] {
		if i > 0 {
			b.WriteString(" and ")
		}
		name := [...]string{"no kind", "revision", "exists", "value", "lock"}[min(int(c.Kind), 4)]
		fmt.Fprintf(&b, "%s of %s: %d %s", name, show(c.Key), c.Revision, showValue(c.Value))
	}
	for i, branch := range [][]store.Op{t.Then, t.Else} {
		b.WriteString([]string{"; then", "; else"}[i])
		for _, op := range branch[:min(len(branch), 6)] {
			b.WriteString(" " + showOp(op))
		}
		if len(branch) > 6 {
			fmt.Fprintf(&b, " and %d more", len(branch)-6)
		}
	}
	return b.String()
}
