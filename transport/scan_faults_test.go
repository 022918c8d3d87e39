package transport

import (
	"bufio"
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"dkv/store"
)

func TestEndOfTheConnectionEndsItsScans(t *testing.T) {
	s := serveScans(t)
	s.fill(t, severalPages, "value")
	c := connect(t, s.endpoint)
	next, _ := begin(t, c)
	begin(t, c)
	s.wantScans(t, 2)
	c.Close()
	s.wantScans(t, 0)
	if n, err := rest(next); n != firstPageEntries-1 || !errors.Is(err, store.ErrClosed) {
		t.Fatal(n, err)
	}
	if _, err := collect(t, c.Scan(background(t), store.Range{})); !errors.Is(err, store.ErrClosed) {
		t.Fatal("a scan that begins after Close:", err)
	}
}

func TestServerThatClosesEndsItsScans(t *testing.T) {
	s := serveScans(t)
	s.fill(t, severalPages, "value")
	other := serveScans(t) // with another state
	var otherIsThere atomic.Bool
	c, err := NewClient(ClientOptions{
		Endpoints: []string{s.endpoint, other.endpoint},
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			if "tcp://"+address == other.endpoint && !otherIsThere.Load() {
				return nil, syscall.ECONNREFUSED
			}
			return new(net.Dialer).DialContext(ctx, network, address)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	next, _ := begin(t, c)
	s.wantScans(t, 1)
	otherIsThere.Store(true)
	s.server.Close()
	s.wantScans(t, 0)
	n, err := rest(next)
	if n != firstPageEntries-1 || !errors.Is(err, store.ErrUnavailable) {
		t.Fatal(n, err)
	}
	if got, err := collect(t, c.Scan(background(t), store.Range{})); len(got) != 0 || err != nil {
		t.Fatal("a scan at the next server:", len(got), err)
	}
}

// cutting ends its first connection when the server has written so many bytes.
type cutting struct {
	net.Listener
	left     int
	accepted atomic.Int64
}

func (l *cutting) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil && l.accepted.Add(1) == 1 {
		conn = &cutConn{Conn: conn, left: l.left}
	}
	return conn, err
}

type cutConn struct {
	net.Conn
	mu   sync.Mutex
	left int // under mu
}

func (c *cutConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, err := c.Conn.Write(b[:min(len(b), c.left)])
	if c.left -= n; c.left == 0 && err == nil {
		err = net.ErrClosed
		c.Conn.Close()
	}
	return n, err
}

func TestScanWhoseConnectionIsCutEndsWithAnErrorBehindWhatIsRight(t *testing.T) {
	const n = firstPageEntries + pageEntries + 200
	ended := make(map[int]int)
	for left := len(serverHello) + 1; left < 60_000; left += 2917 {
		l, err := Listen("tcp://127.0.0.1:0", ListenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		s := serveScansOn(t, &cutting{Listener: l, left: left})
		s.fill(t, n, "value")
		want, err := collect(t, s.Store.Scan(background(t), store.Range{}))
		if err != nil {
			t.Fatal(err)
		}
		c := connect(t, s.endpoint)
		got, err := collect(t, c.Scan(background(t), store.Range{}))
		ended[len(got)]++
		switch {
		case err == nil:
			err = sameEntries(got, want)
		case errors.Is(err, store.ErrUnavailable) && len(got) > 0 && len(got) < n:
			err = sameEntries(got, want[:len(got)])
		}
		if err != nil {
			t.Fatalf("cut after %d bytes: %v", left, err)
		}
		c.Close()
		s.wantScans(t, 0)
	}
	// In its first page nothing has been yielded, and the scan begins anew.
	for _, entries := range []int{n, firstPageEntries, firstPageEntries + pageEntries} {
		if ended[entries] == 0 {
			t.Errorf("no scan has ended behind %d entries: %v", entries, ended)
		}
	}
}

func TestScanKeepsAConnectionThatOthersHaveLeft(t *testing.T) {
	s := serveScans(t)
	s.fill(t, severalPages, "value")
	c := connect(t, s.endpoint, s.endpoint)
	next, _ := begin(t, c)
	conn := c.current()
	c.servers.retire(conn)
	if _, _, err := c.Get(background(t), "k"); err != nil {
		t.Fatal(err)
	}
	if c.current() == conn {
		t.Fatal("the connection is still in use")
	}
	if n, err := rest(next); n != severalPages-1 || err != nil {
		t.Fatal(n, err)
	}
	<-conn.failed // by itself, when the scan is over
}

// answering is a server that answers the requests of one connection with those
// responses, one after the other. When it is given a scan up, it closes stopped.
func answering(t *testing.T, responses ...response) (endpoint string, stopped chan struct{}) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	stopped = make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(20 * time.Second))
		r, w := bufio.NewReader(conn), bufio.NewWriter(conn)
		if _, err := readClientHello(r); err != nil {
			return
		}
		w.Write(serverHello)
		for {
			w.Flush()
			body, err := readFrame(r)
			if err != nil {
				return
			}
			req, err := parseRequest(body)
			switch {
			case err != nil:
				t.Error(err)
				return
			case req.method == methodScanStop:
				close(stopped)
				return
			}
			resp := responses[0]
			if resp.code != uint64(store.ErrClosed.Code()) { // else it is a goodbye
				resp.id = req.id
			}
			writeFrame(w, resp.append(nil))
			responses = responses[1:]
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	return "tcp://" + l.Addr().String(), stopped
}

var firstOfMore = appendPageEntry([]byte{1, 7}, store.Entry{Key: "k", Revision: 7})

// A page that is not as the protocol has it ends the scan, and so does one of
// another state.
func TestPagesThatAreGarbledEndTheScan(t *testing.T) {
	for name, second := range map[string][]byte{
		"nothing":       {},
		"no entry":      {1, 7, 1},
		"an empty key":  appendPageEntry([]byte{1, 7}, store.Entry{}),
		"another state": {1, 8},
	} {
		t.Run(name, func(t *testing.T) {
			endpoint, stopped := answering(t, response{result: firstOfMore}, response{result: second})
			got, err := collect(t, connect(t, endpoint).Scan(background(t), store.Range{}))
			if len(got) != 1 || !errors.Is(err, store.ErrUnavailable) || !errors.Is(err, errProtocol) {
				t.Fatal(got, err)
			}
			<-stopped
		})
	}
}

func TestScanWhosePageTheServerDoesNotTakeBeforeItClosesIsUnavailable(t *testing.T) {
	endpoint, _ := answering(t, response{result: firstOfMore}, goodbye(1))
	got, err := collect(t, connect(t, endpoint).Scan(background(t), store.Range{}))
	if len(got) != 1 || !errors.Is(err, store.ErrUnavailable) || errors.Is(err, store.ErrClosed) {
		t.Fatal(got, err)
	}
}
