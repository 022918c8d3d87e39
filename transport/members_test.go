package transport_test

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dkv"
)

// TestClientGoesOnWhileMembersComeAndGo has clients count through three members while
// one after the other is closed, the leader first, and opened again: no error, and
// every addition once.
func TestClientGoesOnWhileMembersComeAndGo(t *testing.T) {
	const n = 3
	address := func() string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		return l.Addr().String()
	}
	options := make(map[string]dkv.Options)
	raft := make(map[string]string)
	var endpoints []string
	for i := range n {
		raft[fmt.Sprint("node", i)] = address()
	}
	for i := range n {
		name := fmt.Sprint("node", i)
		endpoint := "tcp://" + address()
		endpoints = append(endpoints, endpoint)
		options[name] = dkv.Options{Dir: t.TempDir(), Node: name, Members: raft, Listen: []string{endpoint}}
	}
	members := make(map[string]*dkv.DB)
	open := func(name string) {
		db, err := dkv.Open(options[name])
		if err != nil {
			t.Fatal(err)
		}
		members[name] = db
	}
	for name := range options {
		open(name)
	}
	defer func() {
		for _, db := range members {
			db.Close()
		}
	}()

	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	counting, stop := context.WithCancel(ctx)
	var counters sync.WaitGroup
	var done [4]atomic.Int64
	for i := range done {
		c, err := dkv.Open(dkv.Options{Connect: endpoints})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		counters.Go(func() {
			key := fmt.Sprint("counter", i)
			for counting.Err() == nil {
				sum, _, err := c.Add(ctx, key, 1)
				if err != nil || sum != done[i].Load()+1 {
					t.Errorf("%s is %d after %d additions: %v", key, sum, done[i].Load(), err)
					return
				}
				done[i].Add(1)
				if value, ok, err := c.Get(ctx, key); err != nil || !ok || string(value) != fmt.Sprint(sum) {
					t.Errorf("%s is read as %q, %t, %v, want %d", key, value, ok, err, sum)
					return
				}
			}
		})
	}
	progress := func() {
		t.Helper()
		for i := range done {
			for from := done[i].Load(); done[i].Load() < from+20; time.Sleep(time.Millisecond) {
				if ctx.Err() != nil || t.Failed() {
					t.Fatalf("no progress: %v", ctx.Err())
				}
			}
		}
	}
	progress()
	rounds := 4
	if testing.Short() {
		rounds = 1
	}
	for range rounds {
		leader := ""
		for leader == "" {
			for name, db := range members {
				if info, err := db.Info(ctx); err == nil && info.Leader == name {
					leader = name
				}
			}
			time.Sleep(time.Millisecond)
		}
		if err := members[leader].Close(); err != nil {
			t.Fatal(err)
		}
		progress()
		open(leader)
		progress()
	}
	for name := range options {
		members[name].Close()
		progress()
		open(name)
		progress()
	}
	stop()
	counters.Wait()
}
