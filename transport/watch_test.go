package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"dkv/internal/clock"
	"dkv/lock"
	"dkv/store"
	"dkv/store/local"
)

// serversOf has several servers of one store.
func serversOf(t *testing.T, s *local.Store, n int) (all []*Server, endpoints []string) {
	t.Helper()
	for range n {
		l, err := Listen("tcp://127.0.0.1:0", ListenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		server := newServer(s)
		server.Start(l)
		t.Cleanup(func() { server.Close() })
		all = append(all, server)
		endpoints = append(endpoints, "tcp://"+l.Addr().String())
	}
	return all, endpoints
}

func TestWatchGoesOnAtTheNextEndpoint(t *testing.T) {
	ctx := background(t)
	s := local.Open(local.Options{})
	defer s.Close()
	all, endpoints := serversOf(t, s, 3)
	c := connect(t, endpoints...)
	events, err := c.Watch(ctx, store.Watch{Prefix: "k"})
	if err != nil {
		t.Fatal(err)
	}
	const n = 3000
	go func() {
		for i := range n {
			if i%(n/3) == n/6 && i < 2*n/3 {
				all[i/(n/3)].Close()
			}
			s.Set(ctx, "k", fmt.Append(nil, i))
			s.Set(ctx, "other", nil)
		}
	}()
	next := 0
	for e, err := range events {
		if err != nil {
			t.Fatal(err)
		}
		if string(e.Value) != fmt.Sprint(next) || e.Revision != store.Revision(2*next+1) {
			t.Fatalf("%+v, want number %d", e, next)
		}
		if next++; next == n {
			break
		}
	}
}

// TestIdleWatchKnowsHowFarItHasLooked: a watch that sees nothing knows how far it has looked.
func TestIdleWatchKnowsHowFarItHasLooked(t *testing.T) {
	ctx := background(t)
	s := local.Open(local.Options{})
	defer s.Close()
	_, endpoints := serversOf(t, s, 1)
	c := connect(t, endpoints...)
	_, next, err := c.Poll(ctx, 0, store.Watch{Key: "k"}, 0, 1)
	if err != nil || next != 1 {
		t.Fatal(next, err)
	}
	for range 100 {
		s.Set(ctx, "other", nil)
	}
	events, next, err := c.Poll(ctx, 0, store.Watch{Key: "k", From: next}, time.Millisecond, 1)
	if len(events) > 0 || next != 101 || err != nil {
		t.Fatal(events, next, err)
	}
	if _, _, err := c.Poll(ctx, 0, store.Watch{Key: "k", From: 103}, time.Millisecond, 1); !errors.Is(err, store.ErrFutureRevision) {
		t.Fatal(err)
	}
}

func TestServerThatClosesDoesNotWaitForWatches(t *testing.T) {
	ctx := background(t)
	s := local.Open(local.Options{})
	defer s.Close()
	all, endpoints := serversOf(t, s, 1)
	c := connect(t, endpoints...)
	watching, cancel := context.WithCancel(ctx)
	defer cancel()
	var loops sync.WaitGroup
	for range 10 {
		events, err := c.Watch(watching, store.Watch{})
		if err != nil {
			t.Fatal(err)
		}
		loops.Go(func() {
			for _, err := range events {
				if !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			}
		})
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if info, _ := s.Info(ctx); info.Watches == 10 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("no watches")
		}
	}
	began := time.Now()
	all[0].Close()
	if took := time.Since(began); took >= drainTimeout {
		t.Errorf("Close took %v", took)
	}
	cancel()
	loops.Wait()
}

// awake waits for a lock only a moment at a time, so that it sees that a clock has been
// moved.
type awake struct{ *Client }

func (c awake) AwaitLock(ctx context.Context, key string, owner []byte, at store.LockPlace, wait time.Duration) (store.LockPlace, error) {
	return c.Client.AwaitLock(ctx, key, owner, at, min(wait, 50*time.Millisecond))
}

// TestLockSurvivesTheServerItWasTakenThrough has the holder's and the waiter's server
// close.
func TestLockSurvivesTheServerItWasTakenThrough(t *testing.T) {
	ctx := background(t)
	now := new(clock.Fake)
	s := local.Open(local.Options{Clock: now})
	defer s.Close()
	all, endpoints := serversOf(t, s, 2)
	holder := lock.NewWithClock(connect(t, endpoints...), now)
	waiter := lock.NewWithClock(awake{connect(t, endpoints...)}, now)
	defer holder.Close()
	defer waiter.Close()
	const ttl = time.Minute
	h, err := holder.Lock(ctx, "x", lock.TTL(ttl))
	if err != nil {
		t.Fatal(err)
	}
	granted := make(chan *lock.Lock)
	go func() {
		w, err := waiter.Lock(ctx, "x", lock.TTL(ttl))
		if err != nil {
			t.Error(err)
		}
		granted <- w
	}()
	info := func() store.Info {
		info, err := s.Info(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	until(t, "it waits", func() bool { return info().Waiters == 1 })
	all[0].Close()
	for range 4 {
		before := info().Revision
		now.Advance(ttl / 3)
		until(t, "both are renewed by way of the other server", func() bool { return info().Revision == before+2 })
		if h.Err() != nil || info().Waiters != 1 {
			t.Fatal(h.Err(), info().Waiters)
		}
	}
	if err := h.Unlock(ctx); err != nil {
		t.Fatal(err)
	}
	w := <-granted
	if w.Token() <= h.Token() || w.Err() != nil {
		t.Fatal(w.Token(), h.Token(), w.Err())
	}
	if err := w.Unlock(ctx); err != nil {
		t.Fatal(err)
	}
}

// TestWatchDoesNotGoOnInAnotherHistory has a store in memory be opened anew behind the
// same endpoint.
func TestWatchDoesNotGoOnInAnotherHistory(t *testing.T) {
	for name, changes := range map[string]int{"longer": 3, "shorter": 0} {
		t.Run(name, func(t *testing.T) { watchAnother(t, changes) })
	}
}

// watchAnother has the second store have so many changes.
func watchAnother(t *testing.T, changes int) {
	ctx := background(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	open := func(l net.Listener) (s *local.Store, closeAll func()) {
		s = local.Open(local.Options{})
		server := newServer(s)
		server.Start(l)
		return s, func() {
			server.Close()
			s.Close()
		}
	}
	s, closeFirst := open(l)
	c := connect(t, "tcp://"+addr)
	events, err := c.Watch(ctx, store.Watch{})
	if err != nil {
		t.Fatal(err)
	}
	s.Set(ctx, "k", nil)
	seen := 0
	for e, err := range events {
		if seen++; seen == 1 {
			if err != nil || e.Revision != 1 {
				t.Fatal(e, err)
			}
			closeFirst()
			again, err := net.Listen("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			second, closeSecond := open(again)
			defer closeSecond()
			for range changes {
				second.Set(ctx, "k", nil)
			}
			continue
		}
		if !errors.Is(err, store.ErrCompacted) {
			t.Fatalf("%+v, %v", e, err)
		}
	}
	if seen != 2 {
		t.Errorf("%d events and errors", seen)
	}
}
