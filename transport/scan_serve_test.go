package transport

import (
	"bufio"
	"context"
	"fmt"
	"iter"
	"net"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"dkv/internal/clock"
	"dkv/internal/ops"
	"dkv/store"
	"dkv/store/local"
)

// watched is a store that counts its scans under way.
type watched struct {
	*local.Store
	scans atomic.Int64
	scan  func(context.Context, store.Range) iter.Seq2[store.Entry, error] // nil: that of the store
}

func (w *watched) Scan(ctx context.Context, r store.Range) iter.Seq2[store.Entry, error] {
	scan := w.scan
	if scan == nil {
		scan = w.Store.Scan
	}
	return func(yield func(store.Entry, error) bool) {
		w.scans.Add(1)
		defer w.scans.Add(-1)
		scan(ctx, r)(yield)
	}
}

// scanned is a server of a watched store.
type scanned struct {
	*watched
	server   *Server
	clock    *clock.Fake // of the store and of the server's idle cursors
	endpoint string
}

func serveScans(t *testing.T) *scanned {
	t.Helper()
	l, err := Listen("tcp://127.0.0.1:0", ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return serveScansOn(t, l)
}

func serveScansOn(t *testing.T, l net.Listener) *scanned {
	t.Helper()
	s := &scanned{clock: new(clock.Fake), endpoint: "tcp://" + l.Addr().String()}
	s.watched = &watched{Store: local.Open(local.Options{Clock: s.clock})}
	s.server = newServer(s.watched)
	s.server.clock = s.clock
	s.server.Start(l)
	t.Cleanup(func() {
		s.server.Close()
		s.wantScans(t, 0)
		s.Store.Close()
		if n := s.clock.Timers(); n != 0 {
			t.Errorf("%d timers are left", n)
		}
	})
	return s
}

// fill gives n keys a value.
func (s *scanned) fill(t *testing.T, n int, value string) {
	t.Helper()
	for i := range n {
		if err := s.Store.Set(context.Background(), fmt.Sprintf("key %05d", i), []byte(value)); err != nil {
			t.Fatal(err)
		}
	}
}

// wantScans waits until the store has n scans under way, and as many views.
func (s *scanned) wantScans(t *testing.T, n int) {
	t.Helper()
	eventually(t, func() error {
		info, err := s.Store.Info(context.Background())
		if open := s.scans.Load(); err != nil || open != int64(n) || s.scan == nil && info.Views != n {
			return fmt.Errorf("%d scans are under way with %d views, want %d: %v", open, info.Views, n, err)
		}
		return nil
	})
}

// waiting makes the scans of s wait, before an entry, until their contexts end.
func (s *scanned) waiting(at int) (reached chan struct{}) {
	reached = make(chan struct{}, 1)
	s.scan = func(ctx context.Context, r store.Range) iter.Seq2[store.Entry, error] {
		return func(yield func(store.Entry, error) bool) {
			n := 0
			for e, err := range s.Store.Scan(context.Background(), r) {
				if n == at {
					reached <- struct{}{}
					<-ctx.Done()
					yield(store.Entry{}, ops.CheckContext(ctx))
					return
				}
				if n++; !yield(e, err) {
					return
				}
			}
		}
	}
	return reached
}

func eventually(t *testing.T, check func() error) {
	t.Helper()
	for began := time.Now(); ; time.Sleep(time.Millisecond) {
		err := check()
		if err == nil {
			return
		}
		if time.Since(began) > 20*time.Second {
			t.Fatal(err)
		}
	}
}

const severalPages = firstPageEntries + 2*pageEntries

// begin takes the first entry of a scan that has more than one page.
func begin(t *testing.T, c *Client) (next func() (store.Entry, error, bool), stop func()) {
	t.Helper()
	next, stop = iter.Pull2(c.Scan(background(t), store.Range{}))
	t.Cleanup(stop)
	if _, err, ok := next(); err != nil || !ok {
		t.Fatal(err, ok)
	}
	return next, stop
}

// rest takes what is left of a scan.
func rest(next func() (store.Entry, error, bool)) (n int, err error) {
	for {
		_, err, ok := next()
		if err != nil || !ok {
			return n, err
		}
		n++
	}
}

// collect returns what a scan yields, and what is yielded behind an error fails.
func collect(t *testing.T, seq iter.Seq2[store.Entry, error]) (entries []store.Entry, err error) {
	t.Helper()
	for e, scanErr := range seq {
		switch {
		case err != nil:
			t.Fatalf("%q, %v was yielded behind the error %v", e.Key, scanErr, err)
		case scanErr != nil && !reflect.DeepEqual(e, store.Entry{}):
			t.Fatalf("the error %v comes with the entry %q", scanErr, e.Key)
		case scanErr == nil:
			entries = append(entries, e)
		}
		err = scanErr
	}
	return entries, err
}

// sameEntries tells the first difference, but not whole values.
func sameEntries(got, want []store.Entry) error {
	for i := range min(len(got), len(want)) {
		if !reflect.DeepEqual(got[i], want[i]) {
			return fmt.Errorf("entry %d is %.100v, want %.100v", i, got[i], want[i])
		}
	}
	if len(got) != len(want) {
		return fmt.Errorf("%d entries, want %d", len(got), len(want))
	}
	return nil
}

// raw speaks the protocol itself.
type raw struct {
	t    *testing.T
	conn net.Conn
	r    *bufio.Reader
	w    *bufio.Writer
}

func dialRaw(t *testing.T, endpoint string) *raw {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(endpoint, "tcp://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	c := &raw{t, conn, bufio.NewReader(conn), bufio.NewWriter(conn)}
	c.w.Write(hello)
	c.w.Flush()
	if _, err := readServerHello(c.r); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *raw) send(reqs ...request) {
	c.t.Helper()
	for _, req := range reqs {
		writeFrame(c.w, req.append(nil))
	}
	if err := c.w.Flush(); err != nil {
		c.t.Fatal(err)
	}
}

func (c *raw) receive() response {
	c.t.Helper()
	body, err := readFrame(c.r)
	if err != nil {
		c.t.Fatal(err)
	}
	resp, err := parseResponse(body)
	if err != nil {
		c.t.Fatal(err)
	}
	return resp
}

// ask sends one request when none is under way.
func (c *raw) ask(req request) response {
	c.t.Helper()
	c.send(req)
	resp := c.receive()
	if resp.id != req.id {
		c.t.Fatalf("request %d is answered, not %d", resp.id, req.id)
	}
	return resp
}

// wantMore fails unless resp is a page that is not the last.
func (c *raw) wantMore(resp response) {
	c.t.Helper()
	if resp.code != 0 {
		c.t.Fatal(resp.err(store.ErrUnavailable))
	}
	if p, err := parsePage(resp.result, false); err != nil || !p.more {
		c.t.Fatal(p, err)
	}
}
