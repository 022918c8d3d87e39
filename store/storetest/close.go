package storetest

import (
	"context"
	"errors"
	"fmt"
	"io"
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
		// One after the other: the last one closes without a quorum.
		s.close()
		s.within("operations under way", all.Wait)
		s.must(errors.Join(errs...))
	}},
	{"ClosedStoreRefusesEveryOperation", func(s *session) {
		s.close()
		s.refuse(s.ctx, calls(s.key("a"), []byte("value"), time.Hour, time.Hour), store.ErrClosed, store.KindClosed)
		s.refuse(s.ctx, []call{info()}, store.ErrClosed, store.KindClosed)
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
	all := calls(key, []byte("value"), time.Hour, 0)
	for i, c := range all {
		err := c.do(ctx, st)
		kind := store.KindOf(err)
		write := i < len(all)-len(reads(key))
		switch {
		case err == nil:
		case kind == store.KindClosed, kind == store.KindUnknown && write:
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
