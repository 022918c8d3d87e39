package storetest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"dkv/store"
)

// A call is one operation with its arguments, all but the context.
type call struct {
	name string
	do   func(ctx context.Context, st store.Store) error
}

// calls returns every operation on key, with that value and those durations
// where it takes some.
func calls(key string, value []byte, expireIn, deleteIn time.Duration) []call {
	return append(writes(key, value, expireIn, deleteIn), reads(key)...)
}

// writes returns the writes in an order in which none is refused if the key is
// not there before: what is added to has expired, for it is no number.
func writes(key string, value []byte, expireIn, deleteIn time.Duration) []call {
	all := append(timedWrites(key, value, expireIn, deleteIn),
		set(key, value),
		call{"Expire", func(ctx context.Context, st store.Store) error { return st.Expire(ctx, key) }},
		call{"Add", func(ctx context.Context, st store.Store) error {
			sum, rev, err := st.Add(ctx, key, 1)
			return nothingWith(err, sum == 0 && rev == 0)
		}},
		call{"CompareAndDelete", func(ctx context.Context, st store.Store) error {
			now, ok, err := st.CompareAndDelete(ctx, key, 1)
			return nothingWith(err, now == 0 && !ok)
		}},
		call{"Delete", func(ctx context.Context, st store.Store) error { return st.Delete(ctx, key) }},
	)
	all = append(all, timedTxns(key, value, expireIn, deleteIn)...)
	all = append(all, valueTxns(key, value)...)
	for _, op := range []store.Op{store.OpExpire(key), store.OpAdd(key, 1), store.OpGet(key), store.OpDelete(key)} {
		all = append(all, txn(store.Txn{Then: []store.Op{op}}), txn(store.Txn{Else: []store.Op{op}}))
	}
	return append(all, txn(store.Txn{If: []store.Cond{store.IfExists(key)}}), txn(store.Txn{If: []store.Cond{store.IfLock(key, 1)}}))
}

func set(key string, value []byte) call {
	return call{"Set", func(ctx context.Context, st store.Store) error { return st.Set(ctx, key, value) }}
}

func timedWrites(key string, value []byte, expireIn, deleteIn time.Duration) []call {
	return []call{
		{"SetE", func(ctx context.Context, st store.Store) error { return st.SetE(ctx, key, value, expireIn, deleteIn) }},
		{"SetEIfUnset", func(ctx context.Context, st store.Store) error {
			set, err := st.SetEIfUnset(ctx, key, value, expireIn, deleteIn)
			return nothingWith(err, !set)
		}},
		{"CompareAndSet", func(ctx context.Context, st store.Store) error {
			now, ok, err := st.CompareAndSet(ctx, key, 0, value, expireIn, deleteIn)
			return nothingWith(err, now == 0 && !ok)
		}},
	}
}

func timedTxns(key string, value []byte, expireIn, deleteIn time.Duration) []call {
	return []call{
		txn(store.Txn{Then: []store.Op{store.OpSetE(key, value, expireIn, deleteIn)}}),
		txn(store.Txn{Then: []store.Op{store.OpSetEIfUnset(key, value, expireIn, deleteIn)}}),
	}
}

func valueTxns(key string, value []byte) []call {
	return []call{
		txn(store.Txn{Then: []store.Op{store.OpSet(key, value)}}),
		txn(store.Txn{If: []store.Cond{store.IfValue(key, value)}}),
	}
}

func txn(t store.Txn) call {
	return call{"Txn of " + showTxn(t), func(ctx context.Context, st store.Store) error {
		res, err := st.Txn(ctx, t)
		return nothingWith(err, !res.Held && res.Revision == 0 && len(res.Results) == 0)
	}}
}

// nothingWith returns err, or, if more than that is returned with it, an error
// that is of no kind.
func nothingWith(err error, nothing bool) error {
	if err != nil && !nothing {
		return fmt.Errorf("the call returns a result with the error %v", err)
	}
	return err
}

func reads(key string) []call {
	return []call{
		{"Get", func(ctx context.Context, st store.Store) error {
			v, ok, err := st.Get(ctx, key)
			if err != nil && (ok || len(v) != 0) {
				return fmt.Errorf("the call returns %s, %v with the error %v", show(string(v)), ok, err)
			}
			return err
		}},
		{"GetStale", func(ctx context.Context, st store.Store) error {
			v, ok, err := st.GetStale(ctx, key)
			if err != nil && (ok || len(v) != 0) {
				return fmt.Errorf("the call returns %s, %v with the error %v", show(string(v)), ok, err)
			}
			return err
		}},
		{"GetEntry", func(ctx context.Context, st store.Store) error {
			e, ok, err := st.GetEntry(ctx, key)
			if err != nil && (ok || len(e.Value) != 0) {
				return fmt.Errorf("the call returns %+v, %v with the error %v", e, ok, err)
			}
			return err
		}},
		{"Has", func(ctx context.Context, st store.Store) error {
			ok, err := st.Has(ctx, key)
			if err != nil && ok {
				return fmt.Errorf("the call returns true with the error %v", err)
			}
			return err
		}},
	}
}

func info() call {
	return call{"Info", func(ctx context.Context, st store.Store) error {
		_, err := st.Info(ctx)
		return err
	}}
}

// scan returns the scan of a range, which is to yield nothing if it fails.
func scan(r store.Range) call {
	return call{showRange(r), func(ctx context.Context, st store.Store) error {
		all, _, err := collect(ctx, st, r, nil)
		if err != nil && len(all) > 0 {
			return fmt.Errorf("it yields %d entries before the error %v", len(all), err)
		}
		return err
	}}
}

// refuse ends the check unless every member fails each of the calls with an
// error that is want and of that kind.
func (s *session) refuse(ctx context.Context, calls []call, want error, kind store.Kind) {
	s.Helper()
	for i, st := range s.stores {
		for _, c := range calls {
			err := c.do(ctx, st)
			if !errors.Is(err, want) || store.KindOf(err) != kind {
				s.Fatalf("member %d: %s = %v (kind: %v); want %v (kind: %v)", i, c.name, err, store.KindOf(err), want, kind)
			}
		}
	}
}

var tooLarge = make([]byte, store.MaxValueSize+1)

const negative = -1 * time.Nanosecond

// refusals calls f with every way of bad input. exists is a key that is there,
// missing one that is not.
func refusals(exists, missing string, f func(name string, calls []call, want error)) {
	v := []byte("refused")
	long := strings.Repeat("k", store.MaxKeySize+1)
	f("an empty key", calls("", v, 0, 0), store.ErrEmptyKey)
	f("a key of one byte too many", calls(long, v, 0, 0), store.ErrKeyTooLarge)
	f("a key of far too many bytes", calls(strings.Repeat(long, 30), v, 0, 0), store.ErrKeyTooLarge)
	for _, key := range []string{exists, missing} {
		f("a value of one byte too many", slices.Concat(timedWrites(key, tooLarge, 0, 0), timedTxns(key, tooLarge, 0, 0), valueTxns(key, tooLarge), []call{set(key, tooLarge)}), store.ErrValueTooLarge)
		for _, d := range []struct{ expireIn, deleteIn time.Duration }{
			{negative, 0}, {0, negative}, {negative, time.Hour}, {time.Hour, negative}, {negative, negative},
			{math.MinInt64, 0}, {0, math.MinInt64}, {math.MaxInt64, math.MinInt64},
		} {
			f(fmt.Sprintf("the durations %v and %v", d.expireIn, d.deleteIn), append(timedWrites(key, v, d.expireIn, d.deleteIn), timedTxns(key, v, d.expireIn, d.deleteIn)...), store.ErrBadDuration)
		}
	}
}

var refusalChecks = []check{
	{"BadInputIsRefusedByEveryOperationAndChangesNothing", func(s *session) {
		plain, timed, missing := s.key("plain"), s.key("timed"), s.key("missing")
		s.set(plain, "as it was")
		s.setE(timed, "as it was", time.Hour, 2*time.Hour)
		for _, exists := range []string{plain, timed} {
			before := s.live(exists, "as it was")
			refusals(exists, missing, func(name string, calls []call, want error) {
				s.Helper()
				s.refuse(s.ctx, calls, want, store.KindFinal)
				after := s.live(exists, "as it was")
				if after.Revision != before.Revision || (after.ExpireIn == 0) != (before.ExpireIn == 0) || (after.DeleteIn == 0) != (before.DeleteIn == 0) {
					s.Fatalf("%s changed %+v to %+v", name, before, after)
				}
				s.unset(missing)
			})
		}
	}},
	{"RefusedSetEIfUnsetIsRefusedForASetKeyToo", func(s *session) {
		// Nothing would be set, yet the input is as bad.
		s.set(s.key("a"), "one")
		s.expire(s.key("a"))
		s.refuse(s.ctx, timedWrites(s.key("a"), nil, negative, 0)[1:], store.ErrBadDuration, store.KindFinal)
		s.refuse(s.ctx, timedWrites(s.key("a"), tooLarge, 0, 0)[1:], store.ErrValueTooLarge, store.KindFinal)
		s.expired(s.key("a"))
	}},
	{"CancelledContextKeepsEveryOperationFromBeginning", func(s *session) {
		ctx, cancel := context.WithCancel(s.ctx)
		cancel()
		s.notBegun(ctx, context.Canceled)
	}},
	{"PassedDeadlineKeepsEveryOperationFromBeginning", func(s *session) {
		ctx, cancel := context.WithDeadline(s.ctx, time.Now().Add(-time.Second))
		defer cancel()
		s.notBegun(ctx, context.DeadlineExceeded)
	}},
}

// notBegun ends the check unless under ctx, which has ended, every operation
// fails with cause, was not applied and changes nothing.
func (s *session) notBegun(ctx context.Context, cause error) {
	s.Helper()
	s.set(s.key("live"), "as it was")
	s.set(s.key("expired"), "as it was")
	s.expire(s.key("expired"))
	live, expired := s.live(s.key("live"), "as it was"), s.expired(s.key("expired"))
	for range 10 {
		for _, key := range []string{s.key("live"), s.key("expired"), s.key("missing")} {
			s.refuse(ctx, calls(key, []byte("too late"), time.Hour, time.Hour), cause, store.KindNotApplied)
		}
		s.refuse(ctx, []call{info(), scan(store.Range{Prefix: s.prefix}), scan(store.Range{Prefix: s.key("missing")})}, cause, store.KindNotApplied)
	}
	if e := s.live(s.key("live"), "as it was"); e.Revision != live.Revision || e.ExpireIn != 0 || e.DeleteIn != 0 {
		s.Fatalf("operations that were not applied changed %+v to %+v", live, e)
	}
	if e := s.expired(s.key("expired")); e.Revision != expired.Revision {
		s.Fatalf("operations that were not applied changed revision %d to %d", expired.Revision, e.Revision)
	}
	s.unset(s.key("missing"))
}

var limitChecks = []check{
	{"KeysAndValuesAtTheirLimitsAreTaken", func(s *session) {
		key := strings.Repeat("k", store.MaxKeySize)
		value := make([]byte, store.MaxValueSize)
		for i := range value {
			value[i] = byte(i % 251)
		}
		for i, c := range append(timedWrites(key, value, 0, 0), set(key, value)) {
			if err := c.do(s.ctx, s.next()); err != nil {
				s.Fatalf("%s of the longest key and value: %v", c.name, err)
			}
			s.live(key, string(value))
			value[i] = '#' // each write has a value of its own
			if c.name != "Set" {
				s.delete(key)
			}
		}
		s.expire(key)
		s.expired(key)
		s.delete(key)
		s.unset(key)
	}},
}
