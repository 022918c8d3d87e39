package transport

import (
	"bufio"
	"context"
	"fmt"
	"iter"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dkv/store"
	"dkv/store/local"
)

// until waits until it is so.
func until(t *testing.T, what string, so func() bool) {
	t.Helper()
	eventually(t, func() error {
		if !so() {
			return fmt.Errorf("never: %s", what)
		}
		return nil
	})
}

// withoutMajority is a replica whose reads wait for a barrier that does not come, or,
// if a server does not know of the barrier, for as long.
type withoutMajority struct {
	waits
	waiting *atomic.Int64
}

func newWithoutMajority(t *testing.T) withoutMajority {
	t.Helper()
	s := local.Open(local.Options{})
	t.Cleanup(func() { s.Close() })
	return withoutMajority{waits{s}, new(atomic.Int64)}
}

func (s withoutMajority) Barrier(ctx context.Context) error {
	s.waiting.Add(1)
	defer s.waiting.Add(-1)
	<-ctx.Done()
	return store.ErrUnavailable
}

func (s withoutMajority) GetEntryStale(ctx context.Context, key string) (store.Entry, bool, error) {
	return s.waits.GetEntry(ctx, key)
}

func (s withoutMajority) Get(ctx context.Context, _ string) ([]byte, bool, error) {
	return nil, false, s.Barrier(ctx)
}

func (s withoutMajority) GetEntry(ctx context.Context, _ string) (store.Entry, bool, error) {
	return store.Entry{}, false, s.Barrier(ctx)
}

func (s withoutMajority) Has(ctx context.Context, _ string) (bool, error) {
	return false, s.Barrier(ctx)
}

func (s withoutMajority) Scan(ctx context.Context, _ store.Range) iter.Seq2[store.Entry, error] {
	return func(yield func(store.Entry, error) bool) { yield(store.Entry{}, s.Barrier(ctx)) }
}

// unbarred hides the barrier of a store.
type unbarred struct{ Backend }

func TestCancelledReadsMakeRoomForOthers(t *testing.T) {
	for name, c := range map[string]struct {
		barrier bool
		timeout time.Duration // 0: none
		read    func(context.Context, *Client)
	}{
		"Get":                     {true, 0, func(ctx context.Context, c *Client) { c.Get(ctx, "k") }},
		"Get, long":               {true, time.Minute, func(ctx context.Context, c *Client) { c.Get(ctx, "k") }},
		"GetEntry":                {true, 0, func(ctx context.Context, c *Client) { c.GetEntry(ctx, "k") }},
		"Has":                     {true, 0, func(ctx context.Context, c *Client) { c.Has(ctx, "k") }},
		"GetEntry by itself":      {false, 0, func(ctx context.Context, c *Client) { c.GetEntry(ctx, "k") }},
		"Get by itself, not long": {false, 9 * time.Second, func(ctx context.Context, c *Client) { c.Get(ctx, "k") }},
	} {
		t.Run(name, func(t *testing.T) {
			s := newWithoutMajority(t)
			backend := Backend(s)
			if !c.barrier {
				backend = unbarred{s}
			}
			client := connect(t, serveBackend(t, "tcp://127.0.0.1:0", backend))
			bg := background(t)
			if err := client.Ready(bg); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			if c.timeout > 0 {
				ctx, cancel = context.WithTimeout(context.Background(), c.timeout)
			}
			defer cancel()
			var wg sync.WaitGroup
			for range maxInFlight {
				wg.Go(func() { c.read(ctx, client) })
			}
			conn := client.current()
			until(t, "all wait", func() bool {
				conn.mu.Lock()
				defer conn.mu.Unlock()
				return len(conn.mu.wait) == maxInFlight && s.waiting.Load() > 0
			})
			cancel()
			wg.Wait()
			short, stop := context.WithTimeout(bg, 3*time.Second)
			defer stop()
			if _, err := client.Info(short); err != nil {
				t.Fatal("nobody waits for a read, and the connection takes nothing:", err)
			}
			until(t, "nothing is waited for", func() bool { return s.waiting.Load() == 0 })
		})
	}
}

// gated is a store whose barriers wait for a word.
type gated struct {
	behindBarrier
	goOn chan struct{}
}

func (s gated) Barrier(ctx context.Context) error {
	select {
	case <-s.goOn:
		return nil
	case <-ctx.Done():
		return store.ErrUnavailable
	}
}

// TestReadsThatShareABarrierAreCancelledOneByOne cancels some before the barrier is
// asked for, and some later.
func TestReadsThatShareABarrierAreCancelledOneByOne(t *testing.T) {
	s := local.Open(local.Options{})
	defer s.Close()
	if err := s.Set(background(t), "k", []byte("v")); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ reads, atOnce, later []uint64 }{
		"none":                {[]uint64{1, 2}, nil, nil},
		"one of two at once":  {[]uint64{1, 2}, []uint64{1}, nil},
		"one of two later":    {[]uint64{1, 2}, nil, []uint64{2}},
		"one each of three":   {[]uint64{1, 2, 3}, []uint64{2}, []uint64{1}},
		"twice":               {[]uint64{1, 2, 3}, []uint64{2, 2}, []uint64{2, 2}},
		"all but one of five": {[]uint64{1, 2, 3, 4, 5}, []uint64{2, 4}, []uint64{1, 5}},
	} {
		t.Run(name, func(t *testing.T) {
			gate := gated{behindBarrier{waits{s}}, make(chan struct{})}
			endpoint := serveBackend(t, "tcp://127.0.0.1:0", gate)
			conn, err := net.Dial("tcp", strings.TrimPrefix(endpoint, "tcp://"))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(10 * time.Second))
			r, w := bufio.NewReader(conn), bufio.NewWriter(conn)
			w.Write(hello)
			w.Flush()
			if _, err := readServerHello(r); err != nil {
				t.Fatal(err)
			}
			want := make(map[uint64]bool)
			for _, id := range c.reads {
				writeFrame(w, request{id: id, method: methodGet, arg: []byte("k")}.append(nil))
				want[id] = true
			}
			last := uint64(100)
			cancel := func(ids []uint64) {
				for _, id := range ids {
					last++
					writeFrame(w, request{id: last, method: methodCancel, arg: []byte{byte(id)}}.append(nil))
					delete(want, id)
				}
				w.Flush()
			}
			cancel(c.atOnce)
			time.Sleep(20 * time.Millisecond)
			cancel(c.later)
			time.Sleep(20 * time.Millisecond)
			close(gate.goOn)
			for len(want) > 0 {
				body, err := readFrame(r)
				if err != nil {
					t.Fatal(err, want)
				}
				resp, err := parseResponse(body)
				if err != nil || resp.code != 0 {
					t.Fatal(resp.err(store.ErrUnavailable), err)
				}
				if !want[resp.id] {
					t.Fatalf("%d was answered", resp.id)
				}
				delete(want, resp.id)
			}
		})
	}
}

// TestReadsThatWaitDoNotKeepOthersWaiting has more reads wait for a majority than there
// may be large responses.
func TestReadsThatWaitDoNotKeepOthersWaiting(t *testing.T) {
	const n = 2 * maxScanned
	for name, read := range map[string]func(context.Context, *Client){
		"GetEntry": func(ctx context.Context, c *Client) { c.GetEntry(ctx, "k") },
		"scans": func(ctx context.Context, c *Client) {
			for range c.Scan(ctx, store.Range{}) {
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newWithoutMajority(t)
			c := connect(t, serveBackend(t, "tcp://127.0.0.1:0", unbarred{s}))
			ctx := background(t)
			_, next, err := c.Poll(ctx, 0, store.Watch{}, 0, 1)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Set(ctx, "k", []byte("v")); err != nil {
				t.Fatal(err)
			}
			long, cancel := context.WithTimeout(ctx, 10*time.Second)
			var wg sync.WaitGroup
			defer func() {
				cancel()
				wg.Wait()
				until(t, "nothing is waited for", func() bool { return s.waiting.Load() == 0 })
			}()
			for range n {
				wg.Go(func() { read(long, c) })
			}
			until(t, "they wait", func() bool { return s.waiting.Load() >= maxScanned })

			short, stop := context.WithTimeout(ctx, 3*time.Second)
			defer stop()
			if v, ok, err := c.GetStale(short, "k"); string(v) != "v" || !ok || err != nil {
				t.Errorf("GetStale: %q, %t, %v", v, ok, err)
			}
			events, _, err := c.Poll(short, 0, store.Watch{From: next}, time.Second, 1)
			if len(events) != 1 || err != nil {
				t.Errorf("Poll: %v, %v", events, err)
			}
		})
	}
}

// TestScansThatAreCancelledAreLetGo has scans wait for a majority, and more of them
// until these are over: their pages may be large.
func TestScansThatAreCancelledAreLetGo(t *testing.T) {
	for name, some := range map[string]int{"all": 0, "those that wait for their turn": maxScanned} {
		t.Run(name, func(t *testing.T) {
			s := newWithoutMajority(t)
			c := connect(t, serveBackend(t, "tcp://127.0.0.1:0", s))
			bg := background(t)
			if err := c.Ready(bg); err != nil {
				t.Fatal(err)
			}
			scan := func(ctx context.Context) {
				for range c.Scan(ctx, store.Range{}) {
				}
			}
			stay, end := context.WithCancel(context.Background())
			leave, cancel := context.WithCancel(context.Background())
			defer end()
			defer cancel()
			var staying, leaving sync.WaitGroup
			for range some {
				staying.Go(func() { scan(stay) })
			}
			until(t, "some wait", func() bool { return s.waiting.Load() == int64(some) })
			for range maxInFlight - some {
				leaving.Go(func() { scan(leave) })
			}
			conn := c.current()
			until(t, "all wait", func() bool {
				conn.mu.Lock()
				defer conn.mu.Unlock()
				return len(conn.mu.wait) == maxInFlight && s.waiting.Load() == maxScanned
			})
			cancel()
			leaving.Wait()
			short, stop := context.WithTimeout(bg, 3*time.Second)
			defer stop()
			if _, err := c.Info(short); err != nil {
				t.Error("nobody waits for most scans, and the connection takes nothing:", err)
			}
			end()
			staying.Wait()
			until(t, "nothing is waited for", func() bool { return s.waiting.Load() == 0 })
		})
	}
}
