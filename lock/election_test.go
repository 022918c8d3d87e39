package lock_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"dkv/lock"
	"dkv/store"
	"dkv/store/engine"
	"dkv/store/local"
)

// reopened is a store in memory behind a server that may be opened anew, by which nobody is
// told of that. Whoever waits for a change waits less than elsewhere.
type reopened struct {
	lock.Backend
	now *atomic.Pointer[local.Store]
}

func (r reopened) LockHolder(ctx context.Context, key string) (store.LockHolder, bool, error) {
	return r.now.Load().LockHolder(ctx, key)
}

func (r reopened) Poll(ctx context.Context, space engine.Space, what store.Watch, wait time.Duration, maxBytes int64) ([]store.Event, store.Revision, error) {
	return r.now.Load().Poll(ctx, space, what, min(wait, 10*time.Millisecond), maxBytes)
}

// TestLeadersOfAStoreThatIsOpenedAnewAreObserved has histories that are shorter and longer
// than the one before, with tokens that are less and greater.
func TestLeadersOfAStoreThatIsOpenedAnewAreObserved(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	// elected is a store in which there were so many writes before somebody was elected, and
	// so many after.
	elected := func(before, after int, name string) *local.Store {
		s := local.Open(local.Options{})
		t.Cleanup(func() { s.Close() })
		write := func(n int) {
			for i := range n {
				if err := s.Set(ctx, fmt.Sprint(i), nil); err != nil {
					t.Fatal(err)
				}
			}
		}
		write(before)
		l := lock.New(s)
		t.Cleanup(func() { l.Close() })
		if _, err := l.Election("x").Campaign(ctx, []byte(name), lock.TTL(time.Minute)); err != nil {
			t.Fatal(err)
		}
		write(after)
		return s
	}
	first := elected(100, 0, "first")
	r := reopened{first, new(atomic.Pointer[local.Store])}
	r.now.Store(first)
	l := lock.New(r)
	defer l.Close()
	then := []struct {
		name          string
		before, after int
	}{{"shorter", 10, 10}, {"longer", 20, 300}, {"with a greater token", 500, 0}}
	n := 0
	want := "first"
	for leader, err := range l.Election("x").Observe(ctx) {
		if err != nil {
			t.Fatalf("%q is not observed: %v", want, err)
		}
		if string(leader.Value) != want {
			t.Errorf("%q leads, want %q", leader.Value, want)
		}
		if n == len(then) {
			break
		}
		want = then[n].name
		r.now.Store(elected(then[n].before, then[n].after, want))
		n++
	}
}
