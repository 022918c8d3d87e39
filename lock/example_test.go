package lock_test

import (
	"context"
	"fmt"
	"time"

	"dkv/lock"
	"dkv/store"
	"dkv/store/local"
)

func ExampleLocker_Lock() {
	s := local.Open(local.Options{})
	defer s.Close()
	locks := lock.New(s)
	defer locks.Close()
	ctx := context.Background()

	held, err := locks.Lock(ctx, "report", lock.TTL(30*time.Second))
	if err != nil {
		fmt.Println(err)
		return
	}
	// Work under held.Context() ends when the lock can no longer be trusted.
	fmt.Println("token", held.Token(), held.Context().Err())
	fmt.Println("unlocked", held.Unlock(ctx))
	fmt.Println("again:", held.Unlock(ctx))
	// Output:
	// token 1 <nil>
	// unlocked <nil>
	// again: dkv: lock not held
}

// A holder that has lost its lock, and does not know it yet, writes nothing.
func ExampleLock_Token() {
	s := local.Open(local.Options{})
	defer s.Close()
	locks := lock.New(s)
	defer locks.Close()
	ctx := context.Background()

	write := func(who string, token store.Revision) {
		res, err := s.Txn(ctx, store.Txn{
			If:   []store.Cond{store.IfLock("config", token)},
			Then: []store.Op{store.OpSet("config", []byte(who))},
		})
		fmt.Println(who, res.Held, err)
	}
	first, _ := locks.Lock(ctx, "config")
	write("first", first.Token())
	first.Unlock(ctx)
	second, _ := locks.Lock(ctx, "config")
	write("first, late", first.Token())
	write("second", second.Token())
	second.Unlock(ctx)
	// Output:
	// first true <nil>
	// first, late false <nil>
	// second true <nil>
}

// resource is something outside dkv, a file server for one. It remembers the highest
// token that it has seen, and turns lower ones away.
type resource struct {
	highest store.Revision
	data    string
}

func (r *resource) write(data string, token store.Revision) bool {
	if token < r.highest {
		return false
	}
	r.highest, r.data = token, data
	return true
}

// What is outside dkv is protected by comparing tokens where it is.
func ExampleLock_Token_outside() {
	s := local.Open(local.Options{})
	defer s.Close()
	locks := lock.New(s)
	defer locks.Close()
	ctx := context.Background()

	var file resource
	paused, _ := locks.Lock(ctx, "file")
	paused.Unlock(ctx) // as if its time to live had passed while it was paused
	other, _ := locks.Lock(ctx, "file")
	fmt.Println("other:", file.write("new", other.Token()))
	fmt.Println("paused:", file.write("old", paused.Token()))
	fmt.Println(file.data)
	// Output:
	// other: true
	// paused: false
	// new
}

func ExampleElection() {
	s := local.Open(local.Options{})
	defer s.Close()
	locks := lock.New(s)
	defer locks.Close()
	ctx := context.Background()

	scheduler := locks.Election("scheduler")
	leads, err := scheduler.Campaign(ctx, []byte("10.0.0.1:8080"))
	if err != nil {
		fmt.Println(err)
		return
	}
	leader, ok, err := scheduler.Leader(ctx)
	fmt.Printf("%s %v %v\n", leader.Value, ok, err)
	leads.Unlock(ctx) // resigns
	_, ok, err = scheduler.Leader(ctx)
	fmt.Println(ok, err)
	// Output:
	// 10.0.0.1:8080 true <nil>
	// false <nil>
}

func ExampleSemaphore() {
	s := local.Open(local.Options{})
	defer s.Close()
	locks := lock.New(s)
	defer locks.Close()
	ctx := context.Background()

	uploads := locks.Semaphore("uploads", 2)
	one, _ := uploads.Acquire(ctx)
	two, _ := uploads.Acquire(ctx)
	_, ok, _ := uploads.TryAcquire(ctx)
	fmt.Println("a third:", ok)
	one.Unlock(ctx)
	three, ok, _ := uploads.TryAcquire(ctx)
	fmt.Println("when one is back:", ok)
	two.Unlock(ctx)
	three.Unlock(ctx)
	// Output:
	// a third: false
	// when one is back: true
}

func ExampleRWLock() {
	s := local.Open(local.Options{})
	defer s.Close()
	locks := lock.New(s)
	defer locks.Close()
	ctx := context.Background()

	index := locks.RWLock("index")
	one, _ := index.RLock(ctx)
	two, _ := index.RLock(ctx)
	_, ok, _ := locks.TryLock(ctx, "index")
	fmt.Println("a writer beside two readers:", ok)
	one.Unlock(ctx)
	two.Unlock(ctx)
	alone, _ := index.Lock(ctx)
	fmt.Println("a writer alone:", alone.Err() == nil)
	alone.Unlock(ctx)
	// Output:
	// a writer beside two readers: false
	// a writer alone: true
}
