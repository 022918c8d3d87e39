package storetest

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"

	"dkv/store"
)

// collect returns what a scan yields and the revision of its state. during, if
// it is not nil, is called after each entry with the number of those before. An
// error that is not the scan's own says what is wrong with it, whatever is
// stored.
func collect(ctx context.Context, st store.Store, r store.Range, during func(n int)) (all []store.Entry, at store.Revision, err error) {
	at = unset
	r.At = &at
	for e, failure := range st.Scan(ctx, r) {
		switch {
		case err != nil:
			return all, at, fmt.Errorf("%s goes on after the error %v", showRange(r), err)
		case failure != nil:
			if e.Key != "" || len(e.Value) != 0 || e.Revision != 0 {
				return all, at, fmt.Errorf("%s yields the error %v with %s", showRange(r), failure, showEntry(e))
			}
			err = fmt.Errorf("%s: %w (kind: %v)", showRange(r), failure, store.KindOf(failure))
			continue
		}
		if wrong := checkYielded(r, all, e); wrong != nil {
			return all, at, fmt.Errorf("%s: %w", showRange(r), wrong)
		}
		all = append(all, e)
		if during != nil {
			during(len(all) - 1)
		}
	}
	if err == nil && at == unset {
		err = fmt.Errorf("%s has ended and has not set At", showRange(r))
	}
	return all, at, err
}

// unset is what At of a range points to before a scan sets it.
const unset store.Revision = math.MaxUint64

// checkYielded returns what is wrong with an entry that a scan of r yields after
// those before, whatever is stored.
func checkYielded(r store.Range, before []store.Entry, e store.Entry) error {
	switch {
	case *r.At == unset:
		return fmt.Errorf("the revision At is not set when %s is yielded", showEntry(e))
	case e.Revision > *r.At:
		return fmt.Errorf("the revision At is %d and the scan yields %s", *r.At, showEntry(e))
	case !within(r, e.Key):
		return fmt.Errorf("%s is not in the range", showEntry(e))
	case r.Limit > 0 && len(before) == r.Limit:
		return fmt.Errorf("%s is one more than the limit", showEntry(e))
	case r.KeysOnly && len(e.Value) != 0:
		return fmt.Errorf("%s has a value", showEntry(e))
	}
	if len(before) > 0 {
		if last := before[len(before)-1].Key; e.Key == last || e.Key < last != r.Reverse {
			return fmt.Errorf("%s comes after %s", show(e.Key), show(last))
		}
	}
	return checkEntry(e.Key, e, true)
}

// within tells whether key is in the range, as the comment of Range has it.
func within(r store.Range, key string) bool {
	switch {
	case !strings.HasPrefix(key, r.Prefix), key < r.From, r.To != "" && key >= r.To:
		return false
	case r.After == "":
		return true
	case r.Reverse:
		return key < r.After
	}
	return key > r.After
}

// pick returns those of the sorted keys that a scan yields, in its order.
func pick(r store.Range, keys []string) (picked []string) {
	for _, key := range keys {
		if within(r, key) {
			picked = append(picked, key)
		}
	}
	if r.Reverse {
		slices.Reverse(picked)
	}
	if r.Limit > 0 {
		picked = picked[:min(r.Limit, len(picked))]
	}
	return picked
}

// scanOne is GetEntry by way of a scan.
func scanOne(ctx context.Context, st store.Store, key string) (store.Entry, bool, error) {
	all, _, err := collect(ctx, st, store.Range{Prefix: key, Limit: 1}, nil)
	if err != nil || len(all) == 0 || all[0].Key != key {
		return store.Entry{}, false, err
	}
	return all[0], true, nil
}

// everywhere collects a range on every member at one time, and calls during once
// each has yielded its first entry.
func (s *session) everywhere(r store.Range, during func()) (lists [][]store.Entry, errs []error) {
	lists, errs = make([][]store.Entry, len(s.stores)), make([]error, len(s.stores))
	var begin func(i int)
	begin = func(i int) {
		if i == len(s.stores) {
			during()
			return
		}
		lists[i], _, errs[i] = collect(s.ctx, s.stores[i], r, func(n int) {
			if n == 0 {
				begin(i + 1)
			}
		})
	}
	begin(0)
	return lists, errs
}

// yields ends the check unless a scan of r yields these keys, and returns their
// entries.
func (s *session) yields(r store.Range, want []string) []store.Entry {
	s.Helper()
	all, _ := s.scan(r)
	s.sameKeys(showRange(r), keysOf(all), want)
	return all
}

func (s *session) sameKeys(what string, got, want []string) {
	s.Helper()
	if slices.Equal(got, want) {
		return
	}
	at := func(keys []string, n int) string {
		if n < len(keys) {
			return show(keys[n])
		}
		return "nothing"
	}
	n := 0
	for n < min(len(got), len(want)) && got[n] == want[n] {
		n++
	}
	s.Fatalf("%s yields %d keys; want %d; at %d it yields %s; want %s", what, len(got), len(want), n, at(got, n), at(want, n))
}

func keysOf(all []store.Entry) []string {
	keys := make([]string, len(all))
	for i, e := range all {
		keys[i] = e.Key
	}
	return keys
}

// sameEntry compares all but the times left, which go by.
func sameEntry(a, b store.Entry) bool {
	return a.Key == b.Key && bytes.Equal(a.Value, b.Value) && a.Revision == b.Revision && a.Expired == b.Expired
}

// fill sets keys to values of their own.
func (s *session) fill(keys []string) {
	s.Helper()
	s.forEach(keys, func(key string) error { return s.next().Set(s.ctx, key, []byte("value of "+key)) })
}

// empty deletes keys.
func (s *session) empty(keys []string) {
	s.Helper()
	s.forEach(keys, func(key string) error { return s.next().Delete(s.ctx, key) })
}

// forEach calls f with each key, some at a time.
func (s *session) forEach(keys []string, f func(key string) error) {
	s.Helper()
	const callers = 16
	s.together(callers, func(i int) error {
		for ; i < len(keys); i += callers {
			if err := f(keys[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

// numbered returns n sorted keys.
func (s *session) numbered(n int) []string {
	keys := make([]string, n)
	for i := range keys {
		keys[i] = s.key("%04d", i)
	}
	return keys
}

// awkwardKeys returns keys of the check whose order some encoding or comparison
// may get wrong, in no order.
func (s *session) awkwardKeys() []string {
	keys := []string{
		"", "\x00", "\x00\x00", "\x00a", "\x01", " ", "\n", "/", "0", "10", "9", "A", "B", "a", "a\x00", "a\x00b", "a\x01", "a ", "a/", "aa", "aaaaaaaaaaaaaaaaa", "aaaaaaaaaaaaaaaab",
		"ab", "a\x7f", "a\x80", "a\xff", "b", "prefix", "prefix\x00", "prefixed", "\u00e9", "e\u0301", "\ufffd", "\xc3\x28", "\xed\xa0\x80", "\x7f", "\x80", "\xfe", "\xfe\xff", "\xff", "\xff\x00",
		"\xff\xff", "\xff\xffa", "\xff\xff\xff",
	}
	for i := range keys {
		keys[i] = s.prefix + keys[i]
	}
	rand.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	return keys
}

func showRange(r store.Range) string {
	return fmt.Sprintf("Scan(prefix %s, from %s, to %s, after %s, reverse %v, limit %d, keys only %v)",
		show(r.Prefix), show(r.From), show(r.To), show(r.After), r.Reverse, r.Limit, r.KeysOnly)
}
