package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dkv/internal/clock"
	"dkv/internal/once"
	"dkv/lock"
	"dkv/store"
	"dkv/store/engine"
	"dkv/store/local"
)

// lossy passes a client's bytes on to a server, and what the server answers only
// now and then: it hangs up instead.
func lossy(t *testing.T, server string, cuts *atomic.Int64) (endpoint string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	work.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			work.Go(func() {
				defer client.Close()
				conn, err := net.Dial("tcp", server)
				if err != nil {
					return
				}
				defer conn.Close()
				work.Go(func() {
					io.Copy(conn, client)
					conn.Close()
				})
				buf := make([]byte, 4<<10)
				for answers := 0; ; answers++ {
					n, err := conn.Read(buf)
					if err != nil {
						return
					}
					if answers > 3 && rand.IntN(20) == 0 {
						cuts.Add(1) // after the server has done what it answers
						return
					}
					if _, err := client.Write(buf[:n]); err != nil {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		work.Wait()
	})
	return "tcp://" + l.Addr().String()
}

// TestWritesWhoseAnswersAreLostAreDoneOnce has a write that is done twice show
// itself: the second attempt would find the key set.
func TestWritesWhoseAnswersAreLostAreDoneOnce(t *testing.T) {
	s := local.Open(local.Options{})
	defer s.Close()
	var cuts atomic.Int64
	var endpoints []string
	for range 2 {
		server := newServer(s)
		l, err := Listen("tcp://127.0.0.1:0", ListenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		server.Start(l)
		defer server.Close()
		endpoints = append(endpoints, lossy(t, l.Addr().String(), &cuts))
	}
	c := connect(t, endpoints...)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	const callers = 8
	writes := 200
	if testing.Short() {
		writes = 50
	}
	var wg sync.WaitGroup
	for n := range callers {
		wg.Go(func() {
			for i := range writes {
				key := fmt.Sprint(n, "/", i)
				if set, err := c.SetEIfUnset(ctx, key, nil, 0, 0); err != nil || !set {
					t.Errorf("%s: %t, %v", key, set, err)
				}
			}
		})
	}
	wg.Wait()
	info, err := s.Info(ctx)
	if err != nil || info.Keys != int64(callers*writes) || info.Revision != store.Revision(callers*writes) {
		t.Errorf("%+v, %v; want %d keys, each written once", info, err, callers*writes)
	}
	if cuts.Load() == 0 {
		t.Error("no answer was lost")
	}
}

func TestClientThatWasForgottenEnrolsAgain(t *testing.T) {
	var now clock.Fake
	s := local.Open(local.Options{Clock: &now})
	defer s.Close()
	server := newServer(s)
	defer server.Close()
	l, err := Listen("tcp://127.0.0.1:0", ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	server.Start(l)
	c := connect(t, "tcp://"+l.Addr().String())
	ctx := background(t)
	if err := c.Set(ctx, "a", nil); err != nil {
		t.Fatal(err)
	}
	first := c.enrolment.Load()
	now.Advance(once.Window)
	if err := c.Set(ctx, "b", nil); err != nil {
		t.Fatal(err)
	}
	if again := c.enrolment.Load(); again == first || again.client == first.client {
		t.Error("the client has not enrolled again")
	}
	// What is still on its way from before finds nobody.
	late := once.ID{Client: first.client, Nonce: first.nonce, Seq: 2, Low: 1}
	res, err := c.DoOnce(ctx, engine.Op{Kind: engine.Set, Key: "late"}, late)
	if err != nil || res.Refusal != engine.Forgotten {
		t.Errorf("%+v, %v", res, err)
	}
	if ok, err := c.Has(ctx, "late"); ok || err != nil {
		t.Errorf("%t, %v", ok, err)
	}
}

func TestNumbersOfWritesAreBounded(t *testing.T) {
	e := &enrolment{client: 1, nonce: 1, next: 1, low: 1}
	ctx := context.Background()
	var ids []once.ID
	for range once.MaxPending {
		id, err := e.begin(ctx)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	short, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
	defer cancel()
	if _, err := e.begin(short); !errors.Is(err, store.ErrBusy) {
		t.Fatalf("one too many: %v", err)
	}
	for _, id := range ids[1:] {
		e.end(id)
	}
	began := make(chan once.ID)
	go func() {
		id, _ := e.begin(ctx)
		began <- id
	}()
	select {
	case id := <-began:
		t.Fatalf("%v has begun while %v is under way", id, ids[0])
	case <-time.After(10 * time.Millisecond):
	}
	e.end(ids[0])
	if id := <-began; id.Seq != once.MaxPending+1 || id.Low != id.Seq {
		t.Fatalf("%v", id)
	}
}

// held is a store to which operations come late, as over a network that has kept them.
type held struct {
	Backend
	first   atomic.Int64 // so many are kept
	goOn    chan struct{}
	arrived sync.WaitGroup
}

func (*held) Prompt() bool { return false }

func (h *held) DoOnce(ctx context.Context, op engine.Op, id once.ID) (engine.Result, error) {
	if op.Kind != engine.Void && h.first.Add(-1) >= 0 {
		defer h.arrived.Done()
		<-h.goOn
		ctx = context.Background()
	}
	return h.Backend.DoOnce(ctx, op, id)
}

// TestWriteThatWasGivenUpHasNoEffectAfterALaterOne, though the client still waits for
// one that is older than both.
func TestWriteThatWasGivenUpHasNoEffectAfterALaterOne(t *testing.T) {
	ctx := background(t)
	s := local.Open(local.Options{})
	defer s.Close()
	h := &held{Backend: s, goOn: make(chan struct{})}
	h.first.Store(2)
	h.arrived.Add(2)
	server := newServer(h)
	l, err := Listen("tcp://127.0.0.1:0", ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	server.Start(l)
	defer server.Close()
	c := connect(t, "tcp://"+l.Addr().String())
	locks := lock.New(c)
	var waiting sync.WaitGroup
	waiting.Go(func() {
		if err := c.Set(ctx, "k", nil); err != nil {
			t.Error(err)
		}
	})
	for h.first.Load() == 2 {
		time.Sleep(time.Millisecond)
	}
	given, giveUp := context.WithCancel(ctx)
	waiting.Go(func() {
		defer giveUp()
		for h.first.Load() > 0 && ctx.Err() == nil {
			time.Sleep(time.Millisecond)
		}
	})
	owner, _, err := locks.Acquire(given, "x", lock.Forever)
	if !errors.Is(err, store.ErrUnknown) {
		t.Fatal(err)
	}
	if ok, err := locks.Release(ctx, "x", owner); ok || err != nil {
		t.Fatal(ok, err)
	}
	close(h.goOn)
	h.arrived.Wait()
	waiting.Wait()
	info, err := s.Info(ctx)
	if err != nil || info.Locks != 0 || info.Keys != 1 {
		t.Fatalf("%+v, %v; want no lock and one key", info, err)
	}
}
