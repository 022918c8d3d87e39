package lock_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dkv/internal/clock"
	"dkv/lock"
	"dkv/store"
	"dkv/store/local"
)

func open(t *testing.T) (*lock.Locker, *clock.Fake) {
	t.Helper()
	c := new(clock.Fake)
	s := local.Open(local.Options{Clock: c})
	t.Cleanup(func() { s.Close() })
	return lock.New(s), c
}

func TestLockEndsWithItsTimeToLiveAndNotBefore(t *testing.T) {
	locks, c := open(t)
	ctx := context.Background()
	first, ok, err := locks.Acquire(ctx, "x", time.Minute)
	if !ok || err != nil {
		t.Fatal(ok, err)
	}
	c.Advance(time.Minute - 1)
	if _, ok, _ := locks.Acquire(ctx, "x", time.Minute); ok {
		t.Fatal("acquired while another holds it")
	}
	c.Advance(1)
	second, ok, err := locks.Acquire(ctx, "x", time.Minute)
	if !ok || err != nil {
		t.Fatal("not acquired after its end:", err)
	}
	if second.Token() <= first.Token() {
		t.Fatalf("token %d after %d", second.Token(), first.Token())
	}
	if ok, err := locks.Release(ctx, "x", first); ok || err != nil {
		t.Fatal("the former owner released it:", ok, err)
	}
	if ok, err := locks.Release(ctx, "x", second); !ok || err != nil {
		t.Fatal(ok, err)
	}
}

func TestLockForeverEndsOnlyWithRelease(t *testing.T) {
	locks, c := open(t)
	ctx := context.Background()
	owner, ok, err := locks.Acquire(ctx, "x", lock.Forever)
	if !ok || err != nil {
		t.Fatal(ok, err)
	}
	c.Advance(1 << 62)
	if _, ok, _ := locks.Acquire(ctx, "x", time.Minute); ok {
		t.Fatal("acquired while another holds it")
	}
	if ok, _ := locks.Release(ctx, "x", owner); !ok {
		t.Fatal("not released")
	}
}

func TestBadInputChangesNothing(t *testing.T) {
	locks, _ := open(t)
	ctx := context.Background()
	for _, ttl := range []time.Duration{0, -1} {
		if _, ok, err := locks.Acquire(ctx, "x", ttl); ok || !errors.Is(err, store.ErrBadDuration) {
			t.Errorf("time to live %v: %v, %v", ttl, ok, err)
		}
	}
	if _, ok, err := locks.Acquire(ctx, "", time.Minute); ok || !errors.Is(err, store.ErrEmptyKey) {
		t.Error(ok, err)
	}
	if _, err := locks.Release(ctx, "x", lock.Owner{}); !errors.Is(err, store.ErrBadOwner) {
		t.Error(err)
	}
	if owner, ok, err := locks.Acquire(ctx, "x", time.Minute); !ok || err != nil || owner.Token() != 1 {
		t.Error("something has changed:", owner, ok, err)
	}
}

func TestOfManyAtOnceOneAcquires(t *testing.T) {
	locks, _ := open(t)
	ctx := context.Background()
	var inside, entered atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 500 {
				owner, ok, err := locks.Acquire(ctx, "x", time.Minute)
				if err != nil {
					t.Error(err)
					return
				}
				if !ok {
					continue
				}
				entered.Add(1)
				if n := inside.Add(1); n != 1 {
					t.Errorf("%d hold the lock", n)
				}
				inside.Add(-1)
				if ok, err := locks.Release(ctx, "x", owner); !ok || err != nil {
					t.Error(ok, err)
				}
			}
		})
	}
	wg.Wait()
	if entered.Load() == 0 {
		t.Error("nobody ever held it")
	}
}

// lost is a backend that does what it is told and then loses the answer.
type lost struct{ *local.Store }

func (l lost) JoinLock(ctx context.Context, key string, owner []byte, limit int64, ttl time.Duration, wait bool) (store.LockPlace, error) {
	l.Store.JoinLock(ctx, key, owner, limit, ttl, wait)
	return store.LockPlace{}, store.ErrUnknown
}

func TestOwnerOfAnUnknownAcquireCanReleaseIt(t *testing.T) {
	s := local.Open(local.Options{})
	defer s.Close()
	ctx := context.Background()
	owner, ok, err := lock.New(lost{s}).Acquire(ctx, "x", time.Minute)
	if ok || store.KindOf(err) != store.KindUnknown || owner == (lock.Owner{}) || owner.Token() != 0 {
		t.Fatal(owner, ok, err)
	}
	if ok, err := lock.New(s).Release(ctx, "x", owner); !ok || err != nil {
		t.Fatal("it was taken and could not be released:", ok, err)
	}
}

func TestOwnersAreReadAsTheyWereWritten(t *testing.T) {
	locks, _ := open(t)
	owner, _, _ := locks.Acquire(context.Background(), "x", time.Minute)
	if again, err := lock.ParseOwner(owner.String()); err != nil || again != owner {
		t.Fatal(again, err)
	}
	text, err := json.Marshal(owner)
	if err != nil {
		t.Fatal(err)
	}
	var again lock.Owner
	if err := json.Unmarshal(text, &again); err != nil || again != owner {
		t.Fatal(again, err)
	}
	for _, bad := range []string{
		"", "-", "0-0", "0000000000000000-0", "0123456789abcdef", "0123456789abcdef-",
		"0123456789ABCDEF-1", "0123456789abcdef-01", "0123456789abcde-1", "0123456789abcdef--1",
		"0123456789abcdef-18446744073709551616", " 0123456789abcdef-1", "g123456789abcdef-1",
	} {
		if o, err := lock.ParseOwner(bad); !errors.Is(err, store.ErrBadOwner) || o != (lock.Owner{}) {
			t.Errorf("%q is read as %v, %v", bad, o, err)
		}
	}
}

func ExampleLocker_Acquire() {
	s := local.Open(local.Options{})
	defer s.Close()
	locks := lock.New(s)
	ctx := context.Background()

	owner, ok, err := locks.Acquire(ctx, "report", 30*time.Second)
	if err != nil || !ok {
		fmt.Println("somebody else is at it", err)
		return
	}
	fmt.Println("token", owner.Token())
	ok, err = locks.Release(ctx, "report", owner)
	fmt.Println("released", ok, err)
	// Output:
	// token 1
	// released true <nil>
}
