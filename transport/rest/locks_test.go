package rest

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"sync"
	"testing"
	"time"

	"dkv/internal/clock"
	"dkv/lock"
	"dkv/store"
	"dkv/store/local"
)

const lockPath = "/v1/shards/1/locks/"

type taken struct {
	Owner lock.Owner
	Token store.Revision
}

func (s *site) take(target string) taken {
	s.t.Helper()
	var got taken
	s.want(200, "POST", lockPath+target, "").decode(s.t, &got)
	if got.Token == 0 || got.Owner.Token() != got.Token {
		s.t.Fatalf("%+v", got)
	}
	return got
}

func TestLockIsTakenRenewedAndReleased(t *testing.T) {
	db := memory(t)
	s := open(t, nil, db)
	for _, name := range []string{"l", "a/b", "\xff//"} {
		path := url.PathEscape(name)
		s.want(404, "GET", lockPath+path, "")
		got := s.take(path + "?ttl=1m")
		s.want(409, "POST", lockPath+path+"?ttl=1m", "")
		if r := s.want(200, "GET", lockPath+path, ""); r.body != fmt.Sprintf(`{"token":%d}`+"\n", got.Token) {
			t.Error(r.body)
		}
		if h, ok, err := db.LockHolder(background(t), name); h.Token != got.Token || !ok || err != nil {
			t.Error(h, ok, err)
		}
		owner := "owner=" + got.Owner.String()
		var again taken
		s.want(200, "PUT", lockPath+path+"?ttl=forever&"+owner, "").decode(t, &again)
		if again != got {
			t.Errorf("renewed %v as %v", got, again)
		}
		for _, released := range []bool{true, false} {
			if r := s.want(200, "DELETE", lockPath+path+"?"+owner, ""); r.body != fmt.Sprintf(`{"released":%v}`+"\n", released) {
				t.Error(r.body)
			}
		}
		s.want(409, "PUT", lockPath+path+"?ttl=1m&"+owner, "")
		s.want(404, "GET", lockPath+path, "")
	}
}

func TestLocksAreThoseOfPackageLock(t *testing.T) {
	db := memory(t)
	s := open(t, nil, db)
	ctx := background(t)
	locks := lock.New(db)
	defer locks.Close()
	got := s.take("l?ttl=1m")
	if _, ok, err := locks.Acquire(ctx, "l", time.Minute); ok || err != nil {
		t.Fatal(ok, err)
	}
	if ok, err := locks.Release(ctx, "l", got.Owner); !ok || err != nil {
		t.Fatal(ok, err)
	}
	held, err := locks.Lock(ctx, "l", lock.Value([]byte("me")))
	if err != nil {
		t.Fatal(err)
	}
	if r := s.want(200, "GET", lockPath+"l", ""); r.body != fmt.Sprintf(`{"token":%d,"value":"bWU="}`+"\n", held.Token()) {
		t.Error(r.body)
	}
	s.want(409, "POST", lockPath+"l?ttl=1m", "")
}

func TestLockEndsWithItsTTL(t *testing.T) {
	s := open(t, nil, memory(t))
	first := s.take("l?ttl=50ms")
	if second := s.take("l?ttl=1m&wait=10s"); second.Token <= first.Token {
		t.Error(first, second)
	}
}

func TestWaitersAreServedInTheOrderOfArrival(t *testing.T) {
	db := memory(t)
	s := open(t, nil, db)
	got := s.take("l?ttl=1m")
	const n = 3
	served := make(chan int, n)
	var clients sync.WaitGroup
	defer clients.Wait()
	for i := range n {
		clients.Go(func() {
			r := s.do("POST", lockPath+"l?ttl=1m&wait=20s", "")
			var next taken
			if err := json.Unmarshal([]byte(r.body), &next); err != nil || r.status != 200 {
				t.Error(r, err)
			}
			served <- i
			s.do("DELETE", lockPath+"l?owner="+next.Owner.String(), "")
		})
		waitFor(t, func() bool { return waiters(db) == int64(i+1) })
	}
	s.want(409, "POST", lockPath+"l?ttl=1m", "")
	s.want(200, "DELETE", lockPath+"l?owner="+got.Owner.String(), "")
	for i := range n {
		if next := <-served; next != i {
			t.Errorf("%d was served as number %d", next, i)
		}
	}
	clients.Wait()
	if info, _ := db.Info(background(t)); info.Locks != 0 {
		t.Error("a lock is left")
	}
}

func waiters(db *local.Store) int64 {
	info, _ := db.Info(context.Background())
	return info.Waiters
}

// stepped is a store in which the time that somebody waits for a lock passes when the
// test says so, and at once.
type stepped struct {
	*local.Store
	now  *clock.Fake
	step chan struct{}
}

func (s stepped) AwaitLock(ctx context.Context, key string, owner []byte, at store.LockPlace, wait time.Duration) (store.LockPlace, error) {
	select {
	case <-s.step:
		s.now.Advance(wait)
	case <-ctx.Done():
	}
	return s.Store.AwaitLock(ctx, key, owner, at, time.Nanosecond)
}

func TestPlaceInTheQueueIsRenewed(t *testing.T) {
	now := new(clock.Fake)
	db := local.Open(local.Options{Clock: now})
	defer db.Close()
	step := make(chan struct{})
	s := open(t, nil, stepped{db, now, step})
	got := s.take("l?ttl=1m")
	served := s.start("POST", lockPath+"l?ttl=1s&wait=20s")
	waitFor(t, func() bool { return waiters(db) == 1 })
	for now.Now() < 2500*time.Millisecond {
		before, _ := db.Info(background(t))
		select {
		case step <- struct{}{}:
		case r := <-served:
			t.Fatal("it waits no longer:", r)
		}
		waitFor(t, func() bool { // a renewal is a change, and so is the loss of the place
			info, _ := db.Info(background(t))
			return info.Revision > before.Revision
		})
		if waiters(db) != 1 {
			t.Fatal("the place has been lost")
		}
	}
	s.want(200, "DELETE", lockPath+"l?owner="+got.Owner.String(), "")
	close(step)
	if r := <-served; r.status != 200 {
		t.Error(r)
	}
}

func TestWhoWaitsInVainLeavesTheQueue(t *testing.T) {
	db := memory(t)
	s := open(t, nil, db)
	got := s.take("l?ttl=1m")
	s.want(409, "POST", lockPath+"l?ttl=1m&wait=20ms", "")
	if waiters(db) != 0 {
		t.Error("somebody waits after the time was over")
	}

	ctx, hangUp := context.WithCancel(background(t))
	gone := make(chan error)
	go func() {
		_, err := s.send(ctx, "POST", lockPath+"l?ttl=1m&wait=20s", "")
		gone <- err
	}()
	waitFor(t, func() bool { return waiters(db) == 1 })
	hangUp()
	if err := <-gone; err == nil {
		t.Error("served")
	}
	waitFor(t, func() bool { return waiters(db) == 0 })

	closed := s.start("POST", lockPath+"l?ttl=1m&wait=20s")
	waitFor(t, func() bool { return waiters(db) == 1 })
	s.handler.Close()
	if r := <-closed; r.status != 503 {
		t.Error(r)
	}
	if waiters(db) != 0 {
		t.Error("somebody waits after Close")
	}
	if h, ok, err := db.LockHolder(background(t), "l"); h.Token != got.Token || !ok || err != nil {
		t.Error(h, ok, err)
	}
}

// unsure is a store of which nobody hears whether a lock was taken.
type unsure struct{ *local.Store }

func (s unsure) JoinLock(ctx context.Context, key string, owner []byte, limit int64, ttl time.Duration, wait bool) (store.LockPlace, error) {
	s.Store.JoinLock(ctx, key, owner, limit, ttl, wait)
	return store.LockPlace{}, store.ErrUnknown
}

func TestLockOfUnknownOutcomeCanBeReleased(t *testing.T) {
	db := memory(t)
	s := open(t, nil, unsure{db})
	var p problem
	s.want(504, "POST", lockPath+"l?ttl=1m", "").decode(t, &p)
	if p.Kind != "unknown" || p.Owner == "" {
		t.Fatalf("%+v", p)
	}
	if r := s.want(200, "DELETE", lockPath+"l?owner="+p.Owner, ""); r.body != `{"released":true}`+"\n" {
		t.Error(r.body)
	}
	// Who would have waited gives up what it may have.
	s.want(504, "POST", lockPath+"l?ttl=1m&wait=1s", "")
	if _, held, _ := db.LockHolder(background(t), "l"); held {
		t.Error("held by nobody")
	}
}

func TestBadLockRequestsAreRefused(t *testing.T) {
	s := open(t, nil, memory(t))
	for _, query := range []string{
		"", "ttl=", "ttl=0s", "ttl=-1s", "ttl=never", "ttl=1s&wait=-1s", "ttl=1s&wait=soon", "ttl=500ms&wait=1s", "ttl=forever&wait=1s", "ttl=1s&owner=x",
	} {
		s.want(400, "POST", lockPath+"l?"+query, "")
	}
	owner := "owner=" + (&lockHeld{}).Owner.String()
	for _, query := range []string{"", "ttl=1s", "ttl=1s&owner=x", owner, "ttl=1s&" + owner, "ttl=1s&owner=0123456789abcdef"} {
		s.want(400, "PUT", lockPath+"l?"+query, "")
		s.want(400, "DELETE", lockPath+"l?"+query, "")
	}
}
