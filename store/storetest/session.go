package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"dkv/store"
)

// A session is one check at work. Its operations go to the members in turn and
// end the check when they fail; they belong to the check's own goroutine.
type session struct {
	tb
	ctx    context.Context
	stores []store.Store
	late   time.Duration // how late a deadline may be
	prefix string        // of the check's keys
	turn   *atomic.Uint64
}

func newSession(ctx context.Context, t tb, stores []store.Store, name string, late time.Duration) *session {
	return &session{tb: t, ctx: ctx, stores: stores, late: late, prefix: name + "/", turn: new(atomic.Uint64)}
}

// key returns a key that no other check uses.
func (s *session) key(format string, args ...any) string {
	return s.prefix + fmt.Sprintf(format, args...)
}

// next returns the member whose turn it is. It may be called concurrently.
func (s *session) next() store.Store {
	return s.stores[(s.turn.Add(1)-1)%uint64(len(s.stores))]
}

// on returns a session whose operations all go to member i.
func (s *session) on(i int) *session {
	one := *s
	one.stores = s.stores[i : i+1]
	return &one
}

// together calls f(0) to f(n-1) in goroutines of their own, waits for all and
// ends the check if one fails.
func (s *session) together(n int, f func(i int) error) {
	s.Helper()
	errs := make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { errs[i] = f(i) })
	}
	all.Wait()
	s.must(errors.Join(errs...))
}

func (s *session) must(err error) {
	if err != nil {
		s.Helper()
		s.Fatalf("%v", err)
	}
}

func (s *session) did(err error, op, key string) {
	if err != nil {
		s.Helper()
		s.Fatalf("%s(%s): %v (kind: %v)", op, show(key), err, store.KindOf(err))
	}
}

func (s *session) get(key string) ([]byte, bool) {
	s.Helper()
	value, ok, err := s.next().Get(s.ctx, key)
	s.did(err, "Get", key)
	if !ok && len(value) != 0 {
		s.Fatalf("Get(%s) finds nothing but returns %s", show(key), show(string(value)))
	}
	return value, ok
}

// stale is get without asking other members.
func (s *session) stale(key string) ([]byte, bool) {
	s.Helper()
	value, ok, err := s.next().GetStale(s.ctx, key)
	s.did(err, "GetStale", key)
	if !ok && len(value) != 0 {
		s.Fatalf("GetStale(%s) finds nothing but returns %s", show(key), show(string(value)))
	}
	return value, ok
}

func (s *session) entry(key string) (store.Entry, bool) {
	s.Helper()
	e, ok, err := s.next().GetEntry(s.ctx, key)
	s.did(err, "GetEntry", key)
	s.must(checkEntry(key, e, ok))
	return e, ok
}

// checkEntry returns what is wrong with the entry that was found for a key,
// whatever is stored.
func checkEntry(key string, e store.Entry, ok bool) error {
	switch {
	case !ok && (len(e.Value) != 0 || e.Revision != 0):
		return fmt.Errorf("nothing is found for %s but %+v returned", show(key), e)
	case !ok:
		return nil
	case e.Key != key:
		return fmt.Errorf("the entry found for %s has the key %s", show(key), show(e.Key))
	case e.Revision == 0:
		return fmt.Errorf("the entry of %s has no revision", show(key))
	case e.Expired && len(e.Value) != 0:
		return fmt.Errorf("the entry of %s is expired and has the value %s", show(key), show(string(e.Value)))
	case e.Expired && e.ExpireIn != 0:
		return fmt.Errorf("the entry of %s is expired and expires in %v", show(key), e.ExpireIn)
	case e.ExpireIn < 0 || e.DeleteIn < 0:
		return fmt.Errorf("the entry of %s has negative times left: %v, %v", show(key), e.ExpireIn, e.DeleteIn)
	}
	return nil
}

// revision returns the revision of a key that is there.
func (s *session) revision(key string) store.Revision {
	s.Helper()
	e, ok := s.entry(key)
	if !ok {
		s.Fatalf("GetEntry(%s) finds nothing", show(key))
	}
	return e.Revision
}

func (s *session) has(key string) bool {
	s.Helper()
	ok, err := s.next().Has(s.ctx, key)
	s.did(err, "Has", key)
	return ok
}

func (s *session) set(key, value string) {
	s.Helper()
	s.did(s.next().Set(s.ctx, key, []byte(value)), "Set", key)
}

func (s *session) setE(key, value string, expireIn, deleteIn time.Duration) {
	s.Helper()
	s.did(s.next().SetE(s.ctx, key, []byte(value), expireIn, deleteIn), "SetE", key)
}

func (s *session) setEIfUnset(key, value string, expireIn, deleteIn time.Duration) bool {
	s.Helper()
	set, err := s.next().SetEIfUnset(s.ctx, key, []byte(value), expireIn, deleteIn)
	s.did(err, "SetEIfUnset", key)
	return set
}

func (s *session) expire(key string) {
	s.Helper()
	s.did(s.next().Expire(s.ctx, key), "Expire", key)
}

func (s *session) delete(key string) {
	s.Helper()
	s.did(s.next().Delete(s.ctx, key), "Delete", key)
}

// scan returns what a scan of r yields, and the revision of its state.
func (s *session) scan(r store.Range) ([]store.Entry, store.Revision) {
	s.Helper()
	all, at, err := collect(s.ctx, s.next(), r, nil)
	s.must(err)
	return all, at
}

// scanned is entry by way of a scan.
func (s *session) scanned(key string) (store.Entry, bool) {
	s.Helper()
	e, ok, err := scanOne(s.ctx, s.next(), key)
	s.must(err)
	return e, ok
}

func (s *session) info() store.Info {
	s.Helper()
	info, err := s.next().Info(s.ctx)
	s.did(err, "Info", "")
	return info
}

// live ends the check unless every member finds key with that value by every
// way of reading, and all agree on its revision, which it returns.
func (s *session) live(key, value string) (last store.Entry) {
	s.Helper()
	for i := range s.stores {
		m := s.on(i)
		if v, ok := m.get(key); !ok || string(v) != value {
			s.Fatalf("member %d: Get(%s) = %s, %v; want %s", i, show(key), show(string(v)), ok, show(value))
		}
		if v, ok := m.stale(key); !ok || string(v) != value {
			s.Fatalf("member %d: GetStale(%s) = %s, %v after Get; want %s", i, show(key), show(string(v)), ok, show(value))
		}
		if !m.has(key) {
			s.Fatalf("member %d: Get finds %s, Has does not", i, show(key))
		}
		e, ok := m.entry(key)
		if !ok || e.Expired || string(e.Value) != value {
			s.Fatalf("member %d: GetEntry(%s) = %s, %v (expired: %v); want %s", i, show(key), show(string(e.Value)), ok, e.Expired, show(value))
		}
		if scanned, ok := m.scanned(key); !ok || !sameEntry(scanned, e) {
			s.Fatalf("member %d: Scan yields %s, %v; GetEntry returns %s", i, showEntry(scanned), ok, showEntry(e))
		}
		if i > 0 && e.Revision != last.Revision {
			s.Fatalf("member %d has %s at revision %d, another at %d", i, show(key), e.Revision, last.Revision)
		}
		last = e
	}
	return last
}

// expired ends the check unless every member finds key without a value.
func (s *session) expired(key string) (last store.Entry) {
	s.Helper()
	for i := range s.stores {
		m := s.on(i)
		if v, ok := m.get(key); ok {
			s.Fatalf("member %d: Get finds %s, which has expired, with %s", i, show(key), show(string(v)))
		}
		if v, ok := m.stale(key); ok {
			s.Fatalf("member %d: GetStale finds %s, which has expired, with %s", i, show(key), show(string(v)))
		}
		if !m.has(key) {
			s.Fatalf("member %d: Has does not find %s, which is expired and not deleted", i, show(key))
		}
		e, ok := m.entry(key)
		if !ok || !e.Expired {
			s.Fatalf("member %d: GetEntry(%s) = %+v, %v; want it found and expired", i, show(key), e, ok)
		}
		if scanned, ok := m.scanned(key); !ok || !sameEntry(scanned, e) {
			s.Fatalf("member %d: Scan yields %s, %v; GetEntry returns %s", i, showEntry(scanned), ok, showEntry(e))
		}
		if i > 0 && e.Revision != last.Revision {
			s.Fatalf("member %d has %s at revision %d, another at %d", i, show(key), e.Revision, last.Revision)
		}
		last = e
	}
	return last
}

// unset ends the check if a member finds key by any way of reading.
func (s *session) unset(key string) {
	s.Helper()
	for i := range s.stores {
		m := s.on(i)
		if v, ok := m.get(key); ok {
			s.Fatalf("member %d: Get(%s) = %s; want nothing", i, show(key), show(string(v)))
		}
		if v, ok := m.stale(key); ok {
			s.Fatalf("member %d: GetStale(%s) = %s after Get; want nothing", i, show(key), show(string(v)))
		}
		if m.has(key) {
			s.Fatalf("member %d: Has(%s); want nothing", i, show(key))
		}
		if e, ok := m.entry(key); ok {
			s.Fatalf("member %d: GetEntry(%s) = %+v; want nothing", i, show(key), e)
		}
		if e, ok := m.scanned(key); ok {
			s.Fatalf("member %d: Scan yields %s; want nothing", i, showEntry(e))
		}
	}
}

// eventually calls done until it returns true and ends the check if it does
// not in time. what says what is waited for.
func (s *session) eventually(what string, done func() bool) {
	s.Helper()
	for begin := time.Now(); !done(); time.Sleep(pause) {
		if time.Since(begin) > s.late {
			s.Fatalf("after %v still not: %s", s.late, what)
		}
	}
}

// pause is the time between two looks at something that is waited for.
const pause = 2 * time.Millisecond

// show quotes text and leaves most of it out if it is long.
func show(text string) string {
	if len(text) <= 48 {
		return fmt.Sprintf("%q", text)
	}
	return fmt.Sprintf("%q... (%d bytes)", text[:32], len(text))
}

// showEntry is show for an entry.
func showEntry(e store.Entry) string {
	return fmt.Sprintf("%s: %s (revision %d, expired %v, times left %v and %v)",
		show(e.Key), show(string(e.Value)), e.Revision, e.Expired, e.ExpireIn, e.DeleteIn)
}
