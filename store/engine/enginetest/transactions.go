package enginetest

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"sync/atomic"

	"dkv/store"
	"dkv/store/engine"

	"pgregory.net/rapid"
)

var transactionChecks = []check{
	{"TransactionsAreSeenWholeOrNotAtAll", func(t rapid.TB, f engine.Factory) {
		for range rounds(20, 5) {
			transfers(t, f)
		}
	}},
	{"EachConcurrentChangeIsToldOfOnce", func(t rapid.TB, f engine.Factory) {
		const writers, changes = 4, 300
		var told [writers*changes*2 + 1]atomic.Pointer[engine.Change]
		opts := standing()
		opts.Changed = func(c engine.Change) {
			if c.Revision == 0 || c.Revision >= uint64(len(told)) || !told[c.Revision].CompareAndSwap(nil, &c) {
				t.Errorf("a change is told of for the second time, or that was none: %+v", c)
			}
		}
		e := f.New(opts)
		together(writers, func(w int) {
			for i := range changes {
				key := fmt.Sprint(i % 10)
				set(e, key, fmt.Sprint(w, " ", i), 0, 0)
				if c := told[set(e, key, "last", 0, 0).Revision].Load(); c == nil || c.Key != key || string(c.Value) != "last" {
					t.Errorf("when Set has returned, its change has been told of as %+v", c)
				}
			}
		})
		for rev := range told[1:] {
			if told[rev+1].Load() == nil {
				t.Errorf("change %d is not told of", rev+1)
			}
		}
	}},
	{"SumThatDoesNotFitChangesNothing", func(t rapid.TB, f engine.Factory) {
		for _, c := range []struct {
			value string
			delta int64
			why   engine.Refusal
		}{
			{"9223372036854775807", 1, engine.OutOfRange},
			{"9223372036854775800", math.MaxInt64, engine.OutOfRange},
			{"-9223372036854775808", -1, engine.OutOfRange},
			{"-1", math.MinInt64, engine.OutOfRange},
			{"9223372036854775808", -1, engine.NotNumber},
			{"1.5", 1, engine.NotNumber},
			{"", 1, engine.NotNumber},
			{"9223372036854775806", 1, engine.NotRefused},
			{"0", math.MinInt64, engine.NotRefused},
		} {
			e := f.New(standing())
			set(e, "k", c.value, 0, 0)
			res := e.Apply(&engine.Op{Kind: engine.Add, Key: "k", Delta: c.delta}, 0)
			value, _ := e.Get(engine.Keys, "k")
			if res.Refusal != c.why || res.Done != (c.why == engine.NotRefused) {
				t.Errorf("%q and %d: %+v, want %d", c.value, c.delta, res, c.why)
			}
			if changed := string(value) != c.value || e.Revision() != 1; changed != res.Done {
				t.Errorf("%q and %d: %+v leaves %q", c.value, c.delta, res, value)
			}
		}
	}},
	{"NoConcurrentChangeIsLost", func(t rapid.TB, f engine.Factory) {
		const writers, changes = 4, 300
		e := f.New(standing())
		set(e, "compared", "0", 0, 0)
		together(writers, func(w int) {
			for range changes {
				e.Apply(&engine.Op{Kind: engine.Add, Key: "added", Delta: 1}, 0)
				for {
					seen, _ := e.Entry(engine.Keys, "compared")
					op := engine.Op{
						Kind: engine.SetIfRevision, Key: "compared", At: uint64(seen.Revision),
						Value: strconv.AppendInt(nil, number(seen.Value)+1, 10),
					}
					if e.Apply(&op, 0).Done {
						break
					}
				}
			}
		})
		for _, key := range []string{"added", "compared"} {
			if value, _ := e.Get(engine.Keys, key); number(value) != writers*changes {
				t.Errorf("after %d changes by one, %q is %s", writers*changes, key, value)
			}
		}
		checkInvariants(t, e)
	}},
}

// number is what a value says, 0 if it says nothing.
func number(value []byte) int64 {
	n, _ := strconv.ParseInt(string(value), 10, 64)
	return n
}

const accounts = 5

// transfers has some move amounts between accounts, and others look on.
func transfers(t rapid.TB, f engine.Factory) {
	const writers, readers, moves = 3, 2, 150
	e := f.New(standing())
	var left atomic.Int32
	left.Store(writers)
	together(writers+readers, func(i int) {
		switch {
		case i < writers:
			defer left.Add(-1)
			for n := range moves {
				transfer(t, e, fmt.Sprint(i, "-", n))
			}
		case i == writers:
			for left.Load() > 0 {
				watchPair(t, e)
			}
		default:
			for left.Load() > 0 {
				v := e.View()
				balance(t, v)
				v.Release()
			}
		}
	})
	v := e.View()
	balance(t, v)
	v.Release()
	checkInvariants(t, e)
}

// transfer moves an amount from one account to another, counts it in a pair of
// keys, and has a mark come or go in both spaces.
func transfer(t rapid.TB, e engine.Engine, mark string) {
	from, amount := rand.IntN(accounts), rand.Int64N(100)
	to := (from + 1 + rand.IntN(accounts-1)) % accounts
	op := engine.Op{Kind: engine.Transact, Txn: &engine.Txn{
		If: []engine.Cond{{Kind: engine.Exists, Key: "mark"}},
		Then: []engine.Op{
			{Kind: engine.Delete, Key: "mark"},
			{Kind: engine.Delete, Space: engine.Locks, Key: "mark"},
		},
		Else: []engine.Op{
			{Kind: engine.Set, Key: "mark", Value: []byte(mark)},
			{Kind: engine.Set, Space: engine.Locks, Key: "mark", Value: []byte(mark)},
		},
	}}
	for _, branch := range []*[]engine.Op{&op.Txn.Then, &op.Txn.Else} {
		*branch = append(*branch,
			engine.Op{Kind: engine.Add, Key: fmt.Sprint("account ", from), Delta: -amount},
			engine.Op{Kind: engine.Add, Key: fmt.Sprint("account ", to), Delta: amount},
			engine.Op{Kind: engine.Add, Key: "second", Delta: 1},
			engine.Op{Kind: engine.Add, Key: "first", Delta: 1},
		)
	}
	res := e.Apply(&op, 0)
	if res.Txn == nil || !res.Done {
		t.Errorf("a transaction comes to %s", showResult(res))
		return
	}
	last := uint64(res.Txn.Revision)
	for i, r := range res.Txn.Results {
		if want := store.Revision(last) - store.Revision(len(res.Txn.Results)-1-i); !r.Done || r.Revision != want {
			t.Errorf("operation %d of a transaction that ends at %d: %+v", i, last, r)
		}
	}
}

// watchPair reads two keys of which the second is never behind the first.
func watchPair(t rapid.TB, e engine.Engine) {
	first, _ := e.Get(engine.Keys, "first")
	second, _ := e.Get(engine.Keys, "second")
	if number(second) < number(first) {
		t.Errorf("the first key was %s, and then the second %s", first, second)
	}
}

// balance looks at all that transactions leave alike.
func balance(t rapid.TB, v engine.View) {
	sum := int64(0)
	for i := range accounts {
		e, _ := v.Entry(engine.Keys, fmt.Sprint("account ", i))
		sum += number(e.Value)
	}
	if sum != 0 {
		t.Errorf("%d is missing in a view of revision %d", -sum, v.Revision())
	}
	a, okA := v.Entry(engine.Keys, "mark")
	b, okB := v.Entry(engine.Locks, "mark")
	if okA != okB || string(a.Value) != string(b.Value) {
		t.Errorf("a view of revision %d has marks %q and %q", v.Revision(), a.Value, b.Value)
	}
}
