package storetest

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strconv"
	"time"

	"dkv/store"
)

// put has the twin do what a write of key does that always changes it.
func (t *twin) put(key string, e twinEntry) {
	t.revision++
	e.revision = t.revision
	t.keys[key] = e
}

// remove has the twin do what Delete does.
func (t *twin) remove(key string) {
	if _, there := t.keys[key]; there {
		t.revision++
		delete(t.keys, key)
	}
}

// add has the twin do what Add does.
func (t *twin) add(key string, delta int64) (sum int64, err error) {
	old, there := t.keys[key]
	if there && !old.expired {
		if sum, err = strconv.ParseInt(old.value, 10, 64); err != nil {
			return 0, store.ErrNotNumber
		}
	}
	sum += delta // small enough
	t.put(key, twinEntry{value: strconv.FormatInt(sum, 10), expires: old.expires, deletes: old.deletes})
	return sum, nil
}

// compare has the store and the twin do one of the operations that depend on
// what is there. It returns what that was, and what is wrong with what the
// store returned.
func (t *twin) compare(s *session, random *rand.Rand, key, value string, d span) (did, wrong string) {
	s.Helper()
	old, there := t.keys[key]
	rev := old.revision
	if random.IntN(3) == 0 {
		rev = store.Revision(random.Uint64N(uint64(t.revision)+2) * random.Uint64N(2))
	}
	holds := rev == old.revision
	switch random.IntN(3) {
	case 0:
		did = fmt.Sprintf("CompareAndSet(%s, %d, %q, %v, %v)", key, rev, value, d.expireIn, d.deleteIn)
		now, ok := s.compareAndSet(key, rev, value, d.expireIn, d.deleteIn)
		if holds {
			t.put(key, twinEntry{value: value, expires: d.expireIn > 0, deletes: d.deleteIn > 0})
		}
		if ok != holds || now != t.keys[key].revision {
			wrong = fmt.Sprintf("it returned %d, %v; want %d, %v", now, ok, t.keys[key].revision, holds)
		}
	case 1:
		did = fmt.Sprintf("CompareAndDelete(%s, %d)", key, rev)
		now, ok := s.compareAndDelete(key, rev)
		want := old.revision
		if holds = holds && there; holds {
			t.remove(key)
			want = t.revision
		}
		if ok != holds || now != want {
			wrong = fmt.Sprintf("it returned %d, %v; want %d, %v", now, ok, want, holds)
		}
	case 2:
		delta := random.Int64N(200) - 100
		did = fmt.Sprintf("Add(%s, %d)", key, delta)
		sum, rev, err := s.next().Add(s.ctx, key, delta)
		want, wantErr := t.add(key, delta)
		at := t.keys[key].revision
		if wantErr != nil {
			at = 0
		}
		if !errors.Is(err, wantErr) || sum != want || rev != at {
			wrong = fmt.Sprintf("it returned %d, %d, %v; want %d, %d, %v", sum, rev, err, want, at, wantErr)
		}
	}
	return did, wrong
}

// randomTxn returns a transaction on some keys. Its conditions hold about half
// of the time.
func randomTxn(random *rand.Rand, key func() string, now *twin) (t store.Txn) {
	for range random.IntN(3) {
		key := key()
		e := now.keys[key]
		other := random.IntN(4) == 0
		if other {
			e.revision += store.Revision(random.IntN(3))
			e.value += "+"
		}
		switch random.IntN(4) {
		case 0:
			t.If = append(t.If, store.IfRevision(key, e.revision))
		case 1:
			t.If = append(t.If, store.IfValue(key, []byte(e.value)))
		case 2:
			t.If = append(t.If, store.IfExists(key))
		case 3:
			t.If = append(t.If, store.IfMissing(key))
		}
	}
	for _, branch := range []*[]store.Op{&t.Then, &t.Else} {
		written := make(map[string]bool)
		for range random.IntN(5) {
			key, value := key(), []byte(strconv.Itoa(random.IntN(100)))
			op := store.OpGet(key)
			switch e := now.keys[key]; random.IntN(7) {
			case 1:
				op = store.OpSet(key, value)
			case 2:
				op = store.OpSetE(key, value, time.Hour, 2*time.Hour)
			case 3:
				op = store.OpSetEIfUnset(key, value, time.Hour, 0)
			case 4:
				if !e.expired { // whether that is a change, the vocabulary leaves open
					op = store.OpExpire(key)
				}
			case 5:
				op = store.OpDelete(key)
			case 6:
				op = store.OpAdd(key, random.Int64N(200)-100)
			}
			if op.Writes() && written[key] {
				continue
			}
			written[key] = written[key] || op.Writes()
			*branch = append(*branch, op)
		}
	}
	return t
}

// txn has the store and the twin carry out a transaction, and returns what is
// wrong with what the store returned.
func (t *twin) txn(s *session, x store.Txn) string {
	s.Helper()
	before, revision := maps.Clone(t.keys), t.revision
	held := true
	for _, c := range x.If {
		e, there := before[c.Key]
		switch c.Kind {
		case store.CondRevision:
			held = held && e.revision == c.Revision
		case store.CondExists:
			held = held && there
		case store.CondValue:
			held = held && there && !e.expired && e.value == string(c.Value)
		}
	}
	branch := x.Then
	if !held {
		branch = x.Else
	}
	var refused error
	results := make([]store.OpResult, len(branch))
	for i, op := range branch {
		old, there := before[op.Key]
		last := t.revision
		switch op.Kind {
		case store.OpKindGet:
			results[i] = store.OpResult{Done: there, Revision: old.revision, Value: []byte(old.value), Expired: old.expired}
		case store.OpKindSet, store.OpKindSetIfUnset:
			if !there || op.Kind == store.OpKindSet {
				t.put(op.Key, twinEntry{value: string(op.Value), expires: op.ExpireIn > 0, deletes: op.DeleteIn > 0})
			}
		case store.OpKindExpire:
			if there {
				t.put(op.Key, twinEntry{expired: true, deletes: old.deletes})
			}
		case store.OpKindDelete:
			t.remove(op.Key)
		case store.OpKindAdd:
			var err error
			results[i].Number, err = t.add(op.Key, op.Delta)
			refused = errors.Join(refused, err)
		}
		if t.revision > last {
			results[i].Done, results[i].Revision = true, t.revision
		}
	}
	res, err := s.next().Txn(s.ctx, x)
	if refused != nil {
		t.keys, t.revision = before, revision
		if !errors.Is(err, store.ErrNotNumber) {
			return fmt.Sprintf("it returned %v; want %v", err, store.ErrNotNumber)
		}
		return ""
	}
	s.must(err)
	if res.Held != held || res.Revision != t.revision {
		return fmt.Sprintf("it returned %+v; want %v at revision %d", res, held, t.revision)
	}
	s.must(checkTxn(x, res))
	for i, want := range results {
		got := res.Results[i]
		if got.Done != want.Done || got.Revision != want.Revision || got.Number != want.Number || string(got.Value) != string(want.Value) || got.Expired != want.Expired {
			return fmt.Sprintf("operation %d returned %+v; want %+v", i, got, want)
		}
	}
	return ""
}
