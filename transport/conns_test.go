package transport

import (
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dkv/store"
	"dkv/store/local"
)

// TestLargeValuesHaveMoreConnections for as long as they are on their way, and a while
// longer.
func TestLargeValuesHaveMoreConnections(t *testing.T) {
	s := local.Open(local.Options{})
	defer s.Close()
	endpoints := []string{serveBackend(t, "tcp://127.0.0.1:0", s), serveBackend(t, "tcp://127.0.0.1:0", s)}
	for name, c := range map[string]struct {
		conns, few, all int
		size            int
	}{
		"small":           {size: bulkFrom / 2, few: 2, all: 2},
		"large":           {size: bulkFrom + 1, few: 2, all: 2 * bulkConns},
		"large, told two": {size: bulkFrom + 1, conns: 2, few: 4, all: 4},
	} {
		for _, sets := range []bool{true, false} {
			t.Run(fmt.Sprint(name, ", sets: ", sets), func(t *testing.T) {
				ctx := background(t)
				value := make([]byte, c.size)
				if err := s.Set(ctx, "k", value); err != nil {
					t.Fatal(err)
				}
				client, err := NewClient(ClientOptions{Endpoints: endpoints, Conns: c.conns})
				if err != nil {
					t.Fatal(err)
				}
				defer client.Close()
				client.servers.idle = 50 * time.Millisecond
				use := func(key string) {
					t.Helper()
					var err error
					if sets {
						err = client.Set(ctx, key, value)
					} else {
						_, _, err = client.Get(ctx, key)
					}
					if err != nil {
						t.Fatal(err)
					}
				}
				at := func() *choice { return client.servers.usual.Load() }
				until(t, "there are as many as there should be", func() bool {
					use("k")
					return len(at().few.all) == c.few && len(at().all.all) == c.all
				})
				for range 20 {
					use("k")
				}
				if got := at(); len(got.few.all) != c.few || len(got.all.all) != c.all {
					t.Errorf("%d of %d connections, want %d of %d", len(got.few.all), len(got.all.all), c.few, c.all)
				}
				for i, conn := range at().all.all[1:] {
					if conn.conn.RemoteAddr().String() == at().all.all[i].conn.RemoteAddr().String() {
						t.Errorf("neighbours %d and %d are to the same endpoint", i, i+1)
					}
				}
				last := at().all.all[c.all-1]
				if err := last.enter(); err != nil {
					t.Fatal(err)
				}
				client.servers.bulk.CompareAndSwap(client.servers.bulk.Load(), 1) // long ago
				large := value
				value = value[:1]
				use("other")
				if client.servers.isBulk() {
					t.Error("a small value is taken for a large one")
				}
				if c.conns > 0 || c.all == c.few {
					last.exit()
					return
				}

				// Those that are not needed any longer are closed, but not while something is
				// under way on them.
				open := func() int {
					client.servers.mu.Lock()
					defer client.servers.mu.Unlock()
					return len(client.servers.mu.open)
				}
				until(t, "all but one that is in use are closed", func() bool { return open() == c.few+1 })
				if got := at(); len(got.few.all) != c.few || len(got.all.all) != c.few {
					t.Errorf("%d of %d connections to choose from, want %d", len(got.few.all), len(got.all.all), c.few)
				}
				if w, _, err := last.roundTrip(ctx, request{method: methodInfo}, false); err != nil {
					t.Error("it was in use:", err)
				} else {
					w.release()
				}
				last.exit()
				until(t, "that one is closed, too", func() bool { return open() == c.few })
				use("other")
				value = large
				until(t, "there are more again", func() bool {
					use("k")
					return len(at().all.all) == c.all
				})
			})
		}
	}
}

// TestManySmallValuesAreNotLargeOnes has pages and events that are larger than what a large
// value is.
func TestManySmallValuesAreNotLargeOnes(t *testing.T) {
	s := local.Open(local.Options{})
	defer s.Close()
	ctx := background(t)
	_, from, err := s.Poll(ctx, 0, store.Watch{}, 0, 1)
	if err != nil {
		t.Fatal(err)
	}
	const n, size = 200, 1 << 10 // n * size > bulkFrom
	for i := range n {
		if err := s.Set(ctx, fmt.Sprintf("small %d", i), make([]byte, size)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Set(ctx, "large", make([]byte, bulkFrom+1)); err != nil {
		t.Fatal(err)
	}
	txn := func(size int) func(c *Client) error {
		return func(c *Client) error {
			part := make([]byte, size/3)
			_, err := c.Txn(ctx, store.Txn{
				If:   []store.Cond{store.IfValue("k", part)},
				Then: []store.Op{store.OpSet("a", part)},
				Else: []store.Op{store.OpSet("b", part)},
			})
			return err
		}
	}
	endpoint := serveBackend(t, "tcp://127.0.0.1:0", s)
	for name, c := range map[string]struct {
		large bool
		do    func(c *Client) error
	}{
		"scan": {false, func(c *Client) error {
			for _, err := range c.Scan(ctx, store.Range{Prefix: "small"}) {
				if err != nil {
					return err
				}
			}
			return nil
		}},
		"events": {false, func(c *Client) error {
			events, _, err := c.Poll(ctx, 0, store.Watch{Prefix: "small", From: from}, time.Second, n*size)
			if len(events)*size <= bulkFrom {
				t.Errorf("%d events", len(events))
			}
			return err
		}},
		"transaction":       {false, txn(bulkFrom)},
		"large transaction": {true, txn(bulkFrom + 3)},
		"Get":               {true, func(c *Client) error { _, _, err := c.Get(ctx, "large"); return err }},
		"GetStale":          {true, func(c *Client) error { _, _, err := c.GetStale(ctx, "large"); return err }},
		"GetEntry":          {true, func(c *Client) error { _, _, err := c.GetEntry(ctx, "large"); return err }},
	} {
		for _, codec := range allCodecs {
			t.Run(name+"/"+codec.String(), func(t *testing.T) {
				client := connect(t, endpoint+"?codec="+codec.String())
				if err := c.do(client); err != nil {
					t.Fatal(err)
				}
				if got := client.servers.isBulk(); got != c.large {
					t.Errorf("values are taken to be large: %t", got)
				}
			})
		}
	}
}

// TestServerThatDropsConnectionsIsNotDialledWithoutPause has one that says hello, and no
// more.
func TestServerThatDropsConnectionsIsNotDialledWithoutPause(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	defer work.Wait()
	defer l.Close()
	work.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if _, err := readClientHello(conn); err == nil {
				conn.Write(appendServerHello(nil, 0, nil))
			}
			conn.Close()
		}
	})
	var dials atomic.Int64
	c, err := NewClient(ClientOptions{
		Endpoints: []string{"tcp://" + l.Addr().String()},
		Conns:     bulkConns,
		Dial:      countDials(&dials),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.servers.dialAll()
	time.Sleep(100 * time.Millisecond)
	if n := dials.Load(); n == 0 || n > bulkConns {
		t.Errorf("%d dials for %d connections", n, bulkConns)
	}
}

// TestLossOfOneOfSeveralConnectionsIsNotThatOfTheLeader has the member that leads be known
// until no connection to it is left.
func TestLossOfOneOfSeveralConnectionsIsNotThatOfTheLeader(t *testing.T) {
	c, err := NewClient(ClientOptions{Endpoints: []string{serve(t, "tcp://127.0.0.1:0")}, Conns: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s := &c.servers
	s.dialAll()
	until(t, "there are two connections", func() bool { return len(s.usual.Load().few.all) == 2 })
	s.mu.Lock()
	e := s.mu.all[0]
	e.leads = true
	s.chooseLocked()
	s.mu.Unlock()
	for left := 1; left >= 0; left-- {
		s.retire(s.usual.Load().few.all[0])
		if got := s.usual.Load().few; len(got.all) != left || len(got.leading) != left {
			t.Errorf("%d connections are left, %d of them to the member that leads; want %d", len(got.all), len(got.leading), left)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.leads {
		t.Error("it is taken to lead though there is no connection to it")
	}
}

func TestReadsAndWritesTakeTurnsOfTheirOwn(t *testing.T) {
	s := local.Open(local.Options{})
	defer s.Close()
	all := []*counted{{Store: s}, {Store: s}}
	c := connectToAll(t, serveBackend(t, "tcp://127.0.0.1:0", all[0]), serveBackend(t, "tcp://127.0.0.1:0", all[1]))
	ctx := background(t)
	for range 50 {
		if err := c.Set(ctx, "k", nil); err != nil {
			t.Fatal(err)
		}
		if _, _, err := c.Get(ctx, "k"); err != nil {
			t.Fatal(err)
		}
	}
	for _, b := range all {
		if r, w := b.reads.Load(), b.writes.Load(); r < 10 || w < 10 {
			t.Errorf("of 50 reads and 50 writes one server has got %d and %d", r, w)
		}
	}
}
