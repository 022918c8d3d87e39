package transport

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dkv/internal/once"
	"dkv/internal/ops"
	"dkv/store"
	"dkv/store/engine"
	"dkv/store/local"
)

// startAt starts a server at an address that may have been another's until now.
func startAt(t *testing.T, s *Server, address string, on func(net.Listener) net.Listener) (at string) {
	t.Helper()
	var l net.Listener
	eventually(t, func() (err error) {
		l, err = Listen("tcp://"+address, ListenOptions{})
		return err
	})
	at = l.Addr().String()
	if on != nil {
		l = on(l)
	}
	s.Start(l)
	t.Cleanup(func() { s.Close() })
	return at
}

// connectToAll connects to all endpoints, so that each has its turn.
func connectToAll(t *testing.T, endpoints ...string) *Client {
	t.Helper()
	c := connect(t, endpoints...)
	c.servers.dialAll()
	until(t, "all are connected to", func() bool { return len(c.servers.usual.Load().few.all) == len(endpoints) })
	return c
}

// countDials dials as a client does by itself, and counts.
func countDials(n *atomic.Int64) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		n.Add(1)
		return new(net.Dialer).DialContext(ctx, network, address)
	}
}

// declining is a store on a full disk, with too many scans.
type declining struct{ waits }

func (declining) DoOnce(context.Context, engine.Op, once.ID) (engine.Result, error) {
	return engine.Result{}, store.ErrDiskFull
}

func (declining) Scan(context.Context, store.Range) iter.Seq2[store.Entry, error] {
	return func(yield func(store.Entry, error) bool) { yield(store.Entry{}, store.ErrBusy) }
}

// TestWhatNoServerDoesIsNotAskedForForEver has callers without a deadline of their own.
func TestWhatNoServerDoesIsNotAskedForForEver(t *testing.T) {
	s := local.Open(local.Options{})
	defer s.Close()
	b := declining{waits{s}}
	c := connectToAll(t, serveBackend(t, "tcp://127.0.0.1:0", b), serveBackend(t, "tcp://127.0.0.1:0", b))
	ctx := background(t)
	if err := c.Set(ctx, "k", nil); !errors.Is(err, store.ErrDiskFull) {
		t.Errorf("a full disk: %v", err)
	}
	for _, err := range c.Scan(ctx, store.Range{}) {
		if !errors.Is(err, store.ErrBusy) {
			t.Errorf("too many scans: %v", err)
		}
	}
	if ctx.Err() != nil {
		t.Error("it took as long as the context lets it")
	}
}

func TestCallersWithoutADeadlineLeaveASilentServer(t *testing.T) {
	t.Parallel()
	c := connectToAll(t, deaf(t), serve(t, "tcp://127.0.0.1:0"))
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	defer time.AfterFunc(20*time.Second, cancel).Stop()
	var wg sync.WaitGroup
	for i := range 4 { // half of them come to the silent one
		wg.Go(func() {
			if _, _, err := c.Get(ctx, fmt.Sprint(i)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// TestServerThatIsOnlySlowIsNotLeft: one that answers something, if not the request, is
// there.
func TestServerThatIsOnlySlowIsNotLeft(t *testing.T) {
	t.Parallel()
	s := newWithoutMajority(t)
	c := connect(t, serveBackend(t, "tcp://127.0.0.1:0", s))
	ctx, cancel := context.WithTimeout(context.Background(), 2*silence+time.Second)
	defer cancel()
	if err := c.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	conn := c.current()
	if _, _, err := c.Get(ctx, "k"); store.KindOf(err) != store.KindNotApplied {
		t.Error(err)
	}
	if c.current() != conn {
		t.Error("the connection was given up")
	}
}

// slowly is a connection on which one second passes for each MiB.
type slowly struct{ net.Conn }

func (c slowly) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b[:min(len(b), 32<<10)])
	time.Sleep(time.Duration(n) * time.Second >> 20)
	return n, err
}

func (c slowly) Write(b []byte) (int, error) {
	time.Sleep(time.Duration(len(b)) * time.Second >> 20)
	return c.Conn.Write(b)
}

// TestLargeValuesGetThroughSlowly has a value take longer than a server may be silent.
func TestLargeValuesGetThroughSlowly(t *testing.T) {
	t.Parallel()
	large := make([]byte, 5<<20)
	s := local.Open(local.Options{})
	t.Cleanup(func() { s.Close() })
	if err := s.Set(background(t), "there", large); err != nil {
		t.Fatal(err)
	}
	endpoint := serveBackend(t, "tcp://127.0.0.1:0", s)
	var dials atomic.Int64
	client := func() *Client {
		c, err := NewClient(ClientOptions{
			Endpoints: []string{endpoint},
			Conns:     1, // so that any more is one that was given up
			Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
				dials.Add(1)
				conn, err := new(net.Dialer).DialContext(ctx, network, address)
				if err != nil {
					return nil, err
				}
				return slowly{conn}, nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	ctx := background(t)
	reader, writer := client(), client()
	var wg sync.WaitGroup
	wg.Go(func() {
		if v, ok, err := reader.Get(ctx, "there"); len(v) != len(large) || !ok || err != nil {
			t.Errorf("%d bytes, %t, %v", len(v), ok, err)
		}
	})
	wg.Go(func() {
		if err := writer.Set(ctx, "k", large); err != nil {
			t.Error(err)
		}
	})
	wg.Wait()
	if n := dials.Load(); n != 2 {
		t.Errorf("%d connections for two clients", n)
	}
}

func TestCancelledWatchDoesNotCostTheConnection(t *testing.T) {
	t.Parallel()
	var dials atomic.Int64
	c, err := NewClient(ClientOptions{
		Endpoints: []string{serve(t, "tcp://127.0.0.1:0")},
		Dial:      countDials(&dials),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithCancel(background(t))
	defer cancel()
	events, err := c.Watch(ctx, store.Watch{})
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(silence+200*time.Millisecond, cancel)
	for _, err := range events {
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
	if err := c.Ready(background(t)); err != nil {
		t.Fatal(err)
	}
	if n := dials.Load(); n != 1 {
		t.Errorf("dialled %d times", n)
	}
}

// counted is a store that counts what it is asked for, and may have no majority.
type counted struct {
	*local.Store
	lost          bool
	reads, writes atomic.Int64
}

func (c *counted) GetShared(ctx context.Context, key string) ([]byte, bool, error) {
	if c.reads.Add(1); c.lost {
		return nil, false, store.ErrUnavailable
	}
	return c.Store.GetShared(ctx, key)
}

func (c *counted) DoOnce(ctx context.Context, op engine.Op, id once.ID) (engine.Result, error) {
	if c.writes.Add(1); c.lost {
		return engine.Result{}, store.ErrUnavailable
	}
	return c.Store.DoOnce(ctx, op, id)
}

func TestWhatOneServerHasNotAppliedIsTriedAtAnother(t *testing.T) {
	s := local.Open(local.Options{})
	defer s.Close()
	lost := &counted{Store: s, lost: true}
	at := serveBackend(t, "tcp://127.0.0.1:0", lost)
	c := connectToAll(t, at, serveBackend(t, "tcp://127.0.0.1:0", s))
	ctx := background(t)
	for range 10 {
		if err := c.Set(ctx, "k", []byte("v")); err != nil {
			t.Error(err)
		}
		if v, ok, err := c.Get(ctx, "k"); string(v) != "v" || !ok || err != nil {
			t.Errorf("%q, %t, %v", v, ok, err)
		}
	}
	if lost.reads.Load() == 0 || lost.writes.Load() == 0 {
		t.Error("one of the servers was never asked")
	}
	// If there is no other, its answer is for the caller to know at once.
	began := time.Now()
	if _, _, err := connect(t, at).Get(ctx, "k"); !errors.Is(err, store.ErrUnavailable) || time.Since(began) > 5*time.Second {
		t.Errorf("%v, after %v", err, time.Since(began))
	}
}

// unable is a witness, or a node that its group does not take in.
type unable struct {
	*local.Store
	why   error
	asked *atomic.Int64
}

func (u unable) GetShared(context.Context, string) ([]byte, bool, error) {
	u.asked.Add(1)
	return nil, false, u.why
}

func (u unable) Enrol(context.Context, uint64) (uint64, error) {
	u.asked.Add(1)
	return 0, u.why
}

func (u unable) DoOnce(context.Context, engine.Op, once.ID) (engine.Result, error) {
	u.asked.Add(1)
	return engine.Result{}, u.why
}

func (u unable) DoTogether(_ context.Context, writes []ops.Write) {
	u.asked.Add(1)
	for i := range writes {
		writes[i].Err = u.why
	}
}

func TestWhatAServerCannotDoIsTriedAtAnother(t *testing.T) {
	s := local.Open(local.Options{})
	defer s.Close()
	for _, why := range []error{store.ErrNoData, store.ErrBadOptions} {
		t.Run(why.Error(), func(t *testing.T) {
			var asked atomic.Int64
			at := serveBackend(t, "tcp://127.0.0.1:0", unable{s, why, &asked})
			c := connectToAll(t, at, serveBackend(t, "tcp://127.0.0.1:0", s))
			ctx := background(t)
			for range 20 {
				if err := c.Set(ctx, "k", []byte("v")); err != nil {
					t.Error(err)
				}
				if v, ok, err := c.Get(ctx, "k"); string(v) != "v" || !ok || err != nil {
					t.Errorf("%q, %t, %v", v, ok, err)
				}
			}
			if asked.Load() == 0 {
				t.Error("it was never asked")
			}
			// If there is no other, that is for the caller to know.
			if _, _, err := connect(t, at).Get(ctx, "k"); !errors.Is(err, why) {
				t.Error(err)
			}
		})
	}
}

// TestWhatOneServerDeclinesIsTriedAtAnother has a server on a full disk, to which there are
// more connections than to the other one, or which is the one of the member that leads.
func TestWhatOneServerDeclinesIsTriedAtAnother(t *testing.T) {
	st := local.Open(local.Options{})
	defer st.Close()
	full := serveBackend(t, "tcp://127.0.0.1:0", declining{waits{st}})
	good := serveBackend(t, "tcp://127.0.0.1:0", st)
	for name, leads := range map[string]bool{"more connections": false, "leads": true} {
		t.Run(name, func(t *testing.T) {
			c, err := NewClient(ClientOptions{Endpoints: []string{full, good}, Conns: 3})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			s := &c.servers
			s.look.Store(math.MaxInt64) // nobody looks who leads
			s.dialAll()
			until(t, "all are connected to", func() bool { return len(s.usual.Load().few.all) == 6 })
			s.mu.Lock()
			s.mu.all[0].leads = leads
			others := slices.Clone(s.mu.all[1].conns[1:])
			s.mu.Unlock()
			for _, conn := range others {
				s.retire(conn)
			}
			s.mu.Lock()
			s.mu.all[1].retry = time.Now().Add(time.Hour)
			s.chooseLocked()
			s.mu.Unlock()
			ctx := background(t)
			for range 20 {
				if err := c.Set(ctx, "k", nil); err != nil {
					t.Fatal(err)
				}
			}
			if n := len(s.usual.Load().few.all); n != 4 {
				t.Errorf("there are %d connections now", n)
			}
		})
	}
}

// answers has connections count the answers that are written to them, hellos aside,
// and, if so many are wanted, be cut instead of having more.
type answers struct {
	net.Listener
	written atomic.Int64
	most    int64 // 0: any number
}

func (l *answers) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		conn = &answersConn{Conn: conn, l: l}
	}
	return conn, err
}

type answersConn struct {
	net.Conn
	l       *answers
	greeted atomic.Bool
}

func (c *answersConn) Write(b []byte) (int, error) {
	if !c.greeted.Swap(true) {
		return c.Conn.Write(b)
	}
	if n := c.l.written.Add(1); c.l.most > 0 && n > c.l.most {
		c.Conn.Close()
		return 0, errors.New("cut")
	}
	return c.Conn.Write(b)
}

// TestWriteThatWasAppliedIsNotFinalWhenItIsRefusedLater has a server do a write whose
// answer is lost, and another, in its place, which refuses the repetition.
func TestWriteThatWasAppliedIsNotFinalWhenItIsRefusedLater(t *testing.T) {
	for name, opts := range map[string]ServerOptions{
		"no right": {Tokens: []Token{{"x", []Right{{}}}}},
		"no token": {Tokens: []Token{{"y", []Right{{Write: true}}}}},
		"no store": {},
	} {
		t.Run(name, func(t *testing.T) {
			s := local.Open(local.Options{})
			defer s.Close()
			first := NewServer(ServerOptions{Tokens: []Token{{"x", []Right{{Write: true}}}}})
			first.Handle(0, s)
			at := startAt(t, first, "127.0.0.1:0", func(l net.Listener) net.Listener {
				return &answers{Listener: l, most: 1} // that to the enrolment
			})
			var dials atomic.Int64
			c, err := NewClient(ClientOptions{
				Endpoints: []string{"tcp://" + at}, Token: "x",
				Dial: countDials(&dials),
			})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			ctx, cancel := context.WithCancel(background(t))
			defer cancel()
			done := make(chan error, 1)
			go func() { done <- c.Set(ctx, "k", []byte("v")) }()
			until(t, "it is applied", func() bool {
				_, ok, _ := s.Get(ctx, "k")
				return ok
			})
			first.Close()

			then := NewServer(opts)
			if name != "no store" {
				then.Handle(0, s)
			}
			counter := new(answers)
			startAt(t, then, at, func(l net.Listener) net.Listener {
				counter.Listener = l
				return counter
			})
			before := dials.Load()
			until(t, "it is refused", func() bool {
				return len(done) > 0 || counter.written.Load() > 0 || dials.Load() > before+2
			})
			select {
			case err := <-done:
				t.Fatal("before it is given up:", err)
			case <-time.After(50 * time.Millisecond):
			}
			cancel()
			if err := <-done; !errors.Is(err, store.ErrUnknown) {
				t.Error(err)
			}
		})
	}
}

// TestFinalErrorOfOneServerIsNotThatOfAllWhileAnotherRestarts has a server beside a good
// one that does not know the store.
func TestFinalErrorOfOneServerIsNotThatOfAllWhileAnotherRestarts(t *testing.T) {
	s := local.Open(local.Options{})
	defer s.Close()
	bad := startAt(t, NewServer(ServerOptions{}), "127.0.0.1:0", nil)
	good := newServer(s)
	at := startAt(t, good, "127.0.0.1:0", nil)
	c := connect(t, "tcp://"+bad, "tcp://"+at)
	ctx := background(t)
	if err := c.Set(ctx, "k", nil); err != nil {
		t.Fatal(err)
	}
	good.Close()
	done := make(chan error, 1)
	go func() { done <- c.Set(ctx, "k", []byte("v")) }()
	select {
	case err := <-done:
		t.Fatal("while the server restarts:", err)
	case <-time.After(300 * time.Millisecond):
	}
	startAt(t, newServer(s), at, nil)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	// What all say is final.
	if err := connect(t, "tcp://"+bad, "tcp://"+bad).Set(ctx, "k", nil); !errors.Is(err, store.ErrNoShard) {
		t.Error(err)
	}
}
