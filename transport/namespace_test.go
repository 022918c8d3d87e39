package transport

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"dkv/lock"
	"dkv/store"
	"dkv/store/local"
	"dkv/store/namespace"
)

// TestShardsThatArePartsOfOneStoreNeverMeet has two clients do the same with two parts
// of a store, one after the other: the second finds nothing of the first.
func TestShardsThatArePartsOfOneStoreNeverMeet(t *testing.T) {
	s := local.Open(local.Options{})
	defer s.Close()
	server := NewServer(ServerOptions{})
	defer server.Close()
	for i, b := range []Backend{s, Namespace(s, "one"), Namespace(behindBarrier{waits{s}}, "two")} {
		server.Handle(uint64(i), b)
	}
	l, err := Listen("tcp://127.0.0.1:0", ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	server.Start(l)
	ctx := background(t)
	for shard := uint64(1); shard <= 2; shard++ {
		c, err := NewClient(ClientOptions{Endpoints: []string{"tcp://" + l.Addr().String()}, Shard: shard})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		events, err := c.Watch(ctx, store.Watch{})
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range []string{"k", "\x00one\x00k", "\x00two\x00k"} {
			if set, err := c.SetEIfUnset(ctx, key, []byte("v"), 0, time.Hour); err != nil || !set {
				t.Errorf("shard %d: %q: %t, %v", shard, key, set, err)
			}
		}
		owner, ok, err := lock.New(c).Acquire(ctx, "k", time.Hour)
		if err != nil || !ok {
			t.Errorf("shard %d: the lock: %t, %v", shard, ok, err)
		}
		res, err := c.Txn(ctx, store.Txn{
			If:   []store.Cond{store.IfExists("k"), store.IfLock("k", owner.Token())},
			Then: []store.Op{store.OpGet("k"), store.OpAdd("n", 1)},
			Else: []store.Op{store.OpGet("\x00two\x00k")},
		})
		if err != nil || !res.Held || string(res.Results[0].Value) != "v" || res.Results[1].Number != 1 {
			t.Errorf("shard %d: Txn: %+v, %v", shard, res, err)
		}
		if v, ok, err := c.Get(ctx, "k"); string(v) != "v" || !ok || err != nil {
			t.Errorf("shard %d: Get: %q, %t, %v", shard, v, ok, err)
		}
		var seen []string
		for e, err := range events {
			if err != nil {
				t.Fatal(err)
			}
			if seen = append(seen, e.Key); len(seen) == 4 {
				break
			}
		}
		var there []string
		for e, err := range c.Scan(ctx, store.Range{}) {
			if err != nil {
				t.Fatal(err)
			}
			there = append(there, e.Key)
		}
		if got, want := fmt.Sprintf("%q %q", seen, there), `["k" "\x00one\x00k" "\x00two\x00k" "n"] ["\x00one\x00k" "\x00two\x00k" "k" "n"]`; got != want {
			t.Errorf("shard %d: %s, want %s", shard, got, want)
		}
		// A place in a queue is waited for, and a lock can be given up, in the part.
		waiter, err := c.JoinLock(ctx, "k", []byte("a waiter"), 0, time.Hour, true)
		if err != nil || !waiter.Waiting {
			t.Errorf("shard %d: %+v, %v", shard, waiter, err)
		}
		if ok, err := lock.New(c).Release(ctx, "k", owner); !ok || err != nil {
			t.Errorf("shard %d: Release: %t, %v", shard, ok, err)
		}
		if place, err := c.AwaitLock(ctx, "k", []byte("a waiter"), waiter, time.Second); err != nil || !place.Held {
			t.Errorf("shard %d: %+v, %v", shard, place, err)
		}
		longest := strings.Repeat("k", store.MaxKeySize-len(namespace.Prefix("one")))
		if err := c.Set(ctx, longest, nil); err != nil {
			t.Error(err)
		}
		if err := c.Set(ctx, longest+"k", nil); !errors.Is(err, store.ErrKeyTooLarge) {
			t.Error(err)
		}
	}
	if _, ok, err := s.Get(ctx, "k"); ok || err != nil {
		t.Error("a part's key is in the whole:", err)
	}
}

func TestShardThatIsNotThereIsNamedAtOnce(t *testing.T) {
	server := NewServer(ServerOptions{})
	defer server.Close()
	s := local.Open(local.Options{})
	defer s.Close()
	server.Handle(100, s)
	l, err := Listen("tcp://127.0.0.1:0", ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	server.Start(l)
	c, err := NewClient(ClientOptions{Endpoints: []string{"tcp://" + l.Addr().String()}, Shard: 200})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	err = c.Set(background(t), "k", nil)
	if !errors.Is(err, store.ErrNoShard) || !strings.Contains(err.Error(), "200") || !strings.Contains(err.Error(), "100") {
		t.Fatal(err)
	}
	if _, _, err := c.Get(background(t), "k"); !errors.Is(err, store.ErrNoShard) {
		t.Fatal(err)
	}
}
