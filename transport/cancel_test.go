package transport

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dkv/internal/command"
	"dkv/internal/once"
	"dkv/internal/ops"
	"dkv/store"
	"dkv/store/engine"
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

// atOnce is the most that an answer takes which waits for nothing. That it comes is not
// enough: a client goes on by another connection when one takes nothing more.
const atOnce = 3 * time.Second

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
		"Get by itself, not long": {false, soon, func(ctx context.Context, c *Client) { c.Get(ctx, "k") }},
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
			short, stop := context.WithTimeout(bg, atOnce)
			defer stop()
			if _, err := client.Info(short); err != nil {
				t.Fatal("nobody waits for a read, and the connection takes nothing:", err)
			}
			if client.current() != conn {
				t.Error("the connection has been left")
			}
			until(t, "nothing is waited for", func() bool { return s.waiting.Load() == 0 })
		})
	}
}

// gated is a store whose barriers, and whose writes that have come together, wait for a
// word.
type gated struct {
	behindBarrier
	goOn   chan struct{}
	writes chan int // receives how many have come together
}

func (s gated) Barrier(ctx context.Context) error {
	select {
	case <-s.goOn:
		return nil
	case <-ctx.Done():
		return store.ErrUnavailable
	}
}

func (s gated) DoTogether(ctx context.Context, writes []ops.Write) {
	s.writes <- len(writes)
	if err := s.Barrier(ctx); err != nil {
		for i := range writes {
			writes[i].Err = err
		}
		return
	}
	s.behindBarrier.DoTogether(ctx, writes)
}

func newGated(s *local.Store) gated {
	return gated{behindBarrier{waits{s}}, make(chan struct{}), make(chan int, 100)}
}

// said is a connection that says what it is told.
type said struct {
	net.Conn
	r *bufio.Reader
	w *bufio.Writer
}

// answered waits until all the requests that want has are answered, without an error, and
// fails if another is.
func answered(t *testing.T, conn said, want map[uint64]bool) {
	t.Helper()
	for len(want) > 0 {
		resp := conn.response(t)
		if resp.code != 0 {
			t.Fatal(resp.err(store.ErrUnavailable))
		}
		if !want[resp.id] {
			t.Fatalf("%d was answered", resp.id)
		}
		delete(want, resp.id)
	}
}

// say connects to an endpoint, whose hello it has read.
func say(t *testing.T, endpoint string) said {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(endpoint, "tcp://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	c := said{conn, bufio.NewReader(conn), bufio.NewWriter(conn)}
	c.w.Write(hello)
	c.w.Flush()
	if _, err := readServerHello(c.r); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c said) request(req request) { writeFrame(c.w, req.append(nil)) }

func (c said) response(t *testing.T) response {
	t.Helper()
	body, err := readFrame(c.r)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := parseResponse(body)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// setting is the argument of a write.
func setting(key, value string) []byte {
	return command.AppendOp(nil, &engine.Op{Kind: engine.Set, Key: key, Value: []byte(value)}, once.ID{})
}

// TestWhatSharesAWaitIsCancelledOneByOne cancels some before the wait begins, and some
// later.
func TestWhatSharesAWaitIsCancelledOneByOne(t *testing.T) {
	s := local.Open(local.Options{})
	defer s.Close()
	if err := s.Set(background(t), "k", []byte("v")); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ asked, atOnce, later []uint64 }{
		"none":                {[]uint64{1, 2}, nil, nil},
		"one of two at once":  {[]uint64{1, 2}, []uint64{1}, nil},
		"one of two later":    {[]uint64{1, 2}, nil, []uint64{2}},
		"one each of three":   {[]uint64{1, 2, 3}, []uint64{2}, []uint64{1}},
		"twice":               {[]uint64{1, 2, 3}, []uint64{2, 2}, []uint64{2, 2}},
		"all but one of five": {[]uint64{1, 2, 3, 4, 5}, []uint64{2, 4}, []uint64{1, 5}},
		"all":                 {[]uint64{1, 2, 3}, []uint64{2}, []uint64{1, 3}},
	} {
		for of, req := range map[string]request{
			"reads":  {method: methodGet, arg: []byte("k")},
			"writes": {method: methodWrite, arg: setting("k", "v")},
		} {
			t.Run(of+"/"+name, func(t *testing.T) {
				gate := newGated(s)
				conn := say(t, serveBackend(t, "tcp://127.0.0.1:0", gate))
				want := make(map[uint64]bool)
				for _, req.id = range c.asked {
					conn.request(req)
					want[req.id] = true
				}
				last := uint64(100)
				cancel := func(ids []uint64) {
					for _, id := range ids {
						last++
						conn.request(request{id: last, method: methodCancel, arg: []byte{byte(id)}})
						delete(want, id)
					}
					conn.w.Flush()
				}
				cancel(c.atOnce)
				time.Sleep(20 * time.Millisecond)
				cancel(c.later)
				time.Sleep(20 * time.Millisecond)
				close(gate.goOn)
				conn.request(request{id: last + 1, method: methodInfo}) // is answered in any case
				conn.w.Flush()
				want[last+1] = true
				answered(t, conn, want)
			})
		}
	}
}

// TestWritesThatComeTogetherFailOneByOne has one among them that cannot be read, one that
// is refused, and some whose time is much shorter than that of the others.
func TestWritesThatComeTogetherFailOneByOne(t *testing.T) {
	s := local.Open(local.Options{})
	defer s.Close()
	if err := s.Set(background(t), "word", []byte("abc")); err != nil {
		t.Fatal(err)
	}
	gate := newGated(s)
	conn := say(t, serveBackend(t, "tcp://127.0.0.1:0", gate))
	for i, req := range []request{
		{timeout: time.Minute, arg: setting("a", "1")},
		{timeout: time.Minute, arg: []byte{200}},
		{timeout: 2 * time.Minute, arg: command.AppendOp(nil, &engine.Op{Kind: engine.Add, Key: "word", Delta: 1}, once.ID{})},
		{timeout: time.Minute, arg: setting("b", "2")},
		{timeout: 20 * time.Millisecond, arg: setting("c", "3")},
		{timeout: 30 * time.Millisecond, arg: setting("d", "4")},
		{arg: setting("e", "5")},
	} {
		req.id, req.method = uint64(i+1), methodWrite
		conn.request(req)
	}
	conn.w.Flush()
	for range 2 { // none of the others have to wait for those that are short
		if resp := conn.response(t); resp.id != 5 && resp.id != 6 || store.KindOf(resp.err(store.ErrUnavailable)) != store.KindNotApplied {
			t.Fatalf("%d is answered: %v", resp.id, resp.err(store.ErrUnavailable))
		}
	}
	close(gate.goOn)
	for range 5 {
		resp := conn.response(t)
		err := resp.err(store.ErrUnavailable)
		switch resp.id {
		case 2:
			if resp.code == 0 || errors.Is(err, store.ErrUnavailable) {
				t.Error("malformed:", err)
			}
		case 3:
			if !errors.Is(err, store.ErrNotNumber) {
				t.Error("refused:", err)
			}
		default:
			if err != nil {
				t.Error(resp.id, err)
			}
		}
	}
	var together []int
	for len(gate.writes) > 0 {
		together = append(together, <-gate.writes)
	}
	if slices.Sort(together); !slices.Equal(together, []int{1, 2, 4}) {
		t.Errorf("%v came together", together)
	}
	info, err := s.Info(background(t))
	if err != nil || info.Keys != 4 {
		t.Errorf("%d keys, %v", info.Keys, err)
	}
}

// heedless is a gated store whose writes do not end when nobody waits for them.
type heedless struct{ gated }

func (s heedless) DoTogether(ctx context.Context, writes []ops.Write) {
	s.gated.DoTogether(context.WithoutCancel(ctx), writes)
}

// TestCancelledWritesThatAreUnderWayCountAsSuch has twice as many writes come as may be under
// way, of which the first half are cancelled.
func TestCancelledWritesThatAreUnderWayCountAsSuch(t *testing.T) {
	s := local.Open(local.Options{})
	defer s.Close()
	gate := heedless{newGated(s)}
	gate.writes = make(chan int, 2*maxInFlight)
	conn := say(t, serveBackend(t, "tcp://127.0.0.1:0", gate))
	began := 0
	count := func() int {
		for len(gate.writes) > 0 {
			began += <-gate.writes
		}
		return began
	}
	write := func(id uint64) { conn.request(request{id: id, method: methodWrite, arg: setting("k", "v")}) }
	for id := range uint64(maxInFlight) {
		write(id + 1)
	}
	conn.w.Flush()
	until(t, "as many as may be are under way", func() bool { return count() == maxInFlight })
	last := uint64(maxInFlight)
	for id := range uint64(maxInFlight) {
		last++
		conn.request(request{id: last, method: methodCancel, arg: binary.AppendUvarint(nil, id+1)})
	}
	want := make(map[uint64]bool)
	for range maxInFlight {
		last++
		write(last)
		want[last] = true
	}
	conn.w.Flush()
	time.Sleep(50 * time.Millisecond)
	if n := count(); n != maxInFlight {
		t.Errorf("%d writes are under way, %d may be", n, maxInFlight)
	}
	close(gate.goOn)
	answered(t, conn, want)
}

// endless has whoever asks for a key wait until its context ends.
type endless struct {
	waits
	asking *atomic.Int64
}

func (s endless) Has(ctx context.Context, _ string) (bool, error) {
	s.asking.Add(1)
	defer s.asking.Add(-1)
	<-ctx.Done()
	return false, store.ErrUnavailable
}

// TestClientThatIsGoneIsNoticedThoughAllItsRequestsWait has one request more come than may be
// under way: the connection is not read until there is room.
func TestClientThatIsGoneIsNoticedThoughAllItsRequestsWait(t *testing.T) {
	t.Parallel()
	s := local.Open(local.Options{})
	defer s.Close()
	var asking atomic.Int64
	conn := say(t, serveBackend(t, "tcp://127.0.0.1:0", endless{waits{s}, &asking}))
	for id := range uint64(maxInFlight + 1) {
		conn.request(request{id: id + 1, method: methodHas, arg: []byte("k")})
	}
	conn.w.Flush()
	until(t, "as many as may be are under way", func() bool { return asking.Load() == maxInFlight })
	conn.Close()
	for end := time.Now().Add(2 * slotPatience); asking.Load() > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d requests of a client that has gone are under way", asking.Load())
		}
	}
}

// TestWhatComesBeforeAMalformedRequestIsAnswered has requests come with one that cannot be
// read, and be under way for a while.
func TestWhatComesBeforeAMalformedRequestIsAnswered(t *testing.T) {
	s := local.Open(local.Options{})
	defer s.Close()
	for name, patient := range map[string]bool{"soon over": true, "not to be waited for": false} {
		t.Run(name, func(t *testing.T) {
			gate := newGated(s)
			conn := say(t, serveBackend(t, "tcp://127.0.0.1:0", gate))
			conn.request(request{id: 1, method: methodWrite, arg: setting("k", "v")})
			conn.request(request{id: 2, method: methodGet, arg: []byte("k")})
			conn.request(request{id: 3, method: methods})
			conn.w.Flush()
			until(t, "the write is under way", func() bool { return len(gate.writes) == 1 })
			if patient {
				time.Sleep(20 * time.Millisecond)
				close(gate.goOn)
			}
			answered := make(map[uint64]bool)
			for range 2 {
				resp := conn.response(t)
				answered[resp.id] = true
				if patient != (resp.code == 0) {
					t.Errorf("%d: %v", resp.id, resp.err(store.ErrUnavailable))
				}
			}
			if !answered[1] || !answered[2] {
				t.Errorf("%v were answered", answered)
			}
			if _, err := readFrame(conn.r); err == nil {
				t.Error("the connection goes on")
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
			long, cancel := context.WithCancel(ctx) // which outlives what must not wait for it
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

			conn := c.current()
			short, stop := context.WithTimeout(ctx, atOnce)
			defer stop()
			if v, ok, err := c.GetStale(short, "k"); string(v) != "v" || !ok || err != nil {
				t.Errorf("GetStale: %q, %t, %v", v, ok, err)
			}
			events, _, err := c.Poll(short, 0, store.Watch{From: next}, time.Second, 1)
			if len(events) != 1 || err != nil {
				t.Errorf("Poll: %v, %v", events, err)
			}
			if c.current() != conn {
				t.Error("the connection has been left")
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
			short, stop := context.WithTimeout(bg, atOnce)
			defer stop()
			if _, err := c.Info(short); err != nil {
				t.Error("nobody waits for most scans, and the connection takes nothing:", err)
			}
			if c.current() != conn {
				t.Error("the connection has been left")
			}
			end()
			staying.Wait()
			until(t, "nothing is waited for", func() bool { return s.waiting.Load() == 0 })
		})
	}
}
