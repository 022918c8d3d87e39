package storetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"dkv/store"
)

// closing is how long Close, and an operation that it ends, may take.
const closing = time.Minute

// closeChecks close the stores, all but the first thus again, and depend on
// nothing but that.
var closeChecks = []check{
	{"CloseEndsOperationsUnderWay", func(s *session) {
		scanned := []string{s.key("scan-1"), s.key("scan-2"), s.key("scan-3")}
		s.fill(scanned)
		const callers = 4 // on each member
		var all sync.WaitGroup
		var rounds atomic.Int64
		errs := make([]error, callers*len(s.stores))
		for n := range errs {
			all.Go(func() {
				st := s.stores[n%len(s.stores)]
				for ; errs[n] == nil; rounds.Add(1) {
					ended, err := untilClosed(s.ctx, st, s.key("%d", n))
					if ended {
						return
					}
					errs[n] = err
				}
			})
		}
		s.eventually("all callers are under way", func() bool { return rounds.Load() > int64(3*len(errs)) })
		// One after the other: the last one closes without a quorum. Loops over
		// scans are their callers', and Close does not wait for them.
		closed := false
		lists, scans := s.everywhere(store.Range{Prefix: s.key("scan")}, func() {
			closed = true
			s.close()
		})
		if !closed { // no scan has yielded anything
			s.close()
		}
		s.within("operations under way", all.Wait)
		s.must(errors.Join(errs...))
		for i, all := range lists {
			what := fmt.Sprintf("member %d: a scan while Close is called", i)
			if err := scans[i]; err == nil {
				s.sameKeys(what, keysOf(all), scanned)
			} else if !closed || store.KindOf(err) != store.KindClosed {
				s.Fatalf("%s: %v", what, err)
			}
		}
	}},
	{"ClosedStoreRefusesEveryOperation", func(s *session) {
		s.close()
		s.refuse(s.ctx, calls(s.key("a"), []byte("value"), time.Hour, time.Hour), store.ErrClosed, store.KindClosed)
		s.refuse(s.ctx, []call{info(), scan(store.Range{}), scan(store.Range{Prefix: s.key("a"), Limit: 1})}, store.ErrClosed, store.KindClosed)
		s.refuse(context.Background(), calls(s.key("a"), nil, 0, 0), store.ErrClosed, store.KindClosed)
	}},
	{"CloseMayBeCalledAgain", func(s *session) {
		s.close()
		s.close()
		s.together(8, func(i int) error { return s.stores[i%len(s.stores)].(io.Closer).Close() })
	}},
}

// untilClosed calls every operation once and tells whether Close ended one. A
// write may then be of unknown outcome, a read has none.
func untilClosed(ctx context.Context, st store.Store, key string) (ended bool, err error) {
	write := writes(key, []byte("value"), time.Hour, 0)
	all := append(slices.Clone(write), reads(key)...)
	all = append(all, call{"Scan", func(ctx context.Context, st store.Store) error {
		_, _, err := collect(ctx, st, store.Range{Prefix: key}, nil)
		return err
	}})
	for i, c := range all {
		err := c.do(ctx, st)
		kind := store.KindOf(err)
		switch {
		case err == nil:
		case kind == store.KindClosed, kind == store.KindUnknown && i < len(write):
			return true, nil
		default:
			return false, fmt.Errorf("%s while Close is called: %w (kind: %v)", c.name, err, kind)
		}
	}
	return false, nil
}

// close closes all members and waits until that is done.
func (s *session) close() {
	s.Helper()
	for i, st := range s.stores {
		c, ok := st.(io.Closer)
		if !ok {
			s.Fatalf("a %T is no io.Closer", st)
		}
		var err error
		s.within(fmt.Sprintf("Close of member %d", i), func() { err = c.Close() })
		if err != nil {
			s.Fatalf("member %d: Close: %v", i, err)
		}
	}
}

// within ends the check if f does not return in time.
func (s *session) within(what string, f func()) {
	s.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(closing):
		s.Fatalf("%s: not ended after %v", what, closing)
	}
}
