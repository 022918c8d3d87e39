package transport

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"dkv/internal/command"
	"dkv/internal/ops"
	"dkv/store"
)

const (
	dialTimeout = 5 * time.Second
	minBackoff  = 10 * time.Millisecond
	maxBackoff  = time.Second
)

// Client is a store.Store and a lock.Backend that some node's Server answers. It
// goes on at the next endpoint when one fails, and repeats what certainly had no
// effect: reads, and writes that no server has been sent.
type Client struct {
	ops.Writes
	endpoints []string
	next      atomic.Uint64 // counts what is divided by len(endpoints) for the one in use
	ctx       context.Context
	cancel    context.CancelFunc
	readers   sync.WaitGroup

	mu struct {
		sync.Mutex
		closed bool
		conn   *clientConn // nil if there is none
	}
}

var _ Backend = (*Client)(nil)

// NewClient returns a client of the servers at the endpoints, each
// "tcp://host:port" or "unix:///path/of/socket". It does not connect before the
// first operation.
func NewClient(endpoints []string) (*Client, error) {
	if len(endpoints) == 0 {
		return nil, fmt.Errorf("%w: no endpoint", store.ErrBadOptions)
	}
	for _, e := range endpoints {
		if err := CheckEndpoint(e); err != nil {
			return nil, err
		}
	}
	c := &Client{endpoints: append([]string(nil), endpoints...)}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.Do = c.do
	return c, nil
}

// Close ends the connection. Operations under way end with store.ErrClosed, or
// store.ErrUnknown if they are writes that a server was sent.
func (c *Client) Close() error {
	c.mu.Lock()
	c.mu.closed = true
	conn := c.mu.conn
	c.mu.Unlock()
	c.cancel()
	if conn != nil {
		conn.fail()
	}
	c.readers.Wait()
	return nil
}

// Ready waits until a server is ready.
func (c *Client) Ready(ctx context.Context) error {
	_, err := c.call(ctx, methodReady, nil)
	return err
}

// Info implements store.Store. It is that of the server that answers.
func (c *Client) Info(ctx context.Context) (store.Info, error) {
	b, err := c.call(ctx, methodInfo, nil)
	if err != nil {
		return store.Info{}, err
	}
	return parseInfo(b)
}

// Get implements store.Store.
func (c *Client) Get(ctx context.Context, key string) ([]byte, bool, error) {
	b, err := c.read(ctx, methodGet, key)
	if err != nil {
		return nil, false, err
	}
	value, ok, err := cutFound(b)
	if !ok {
		value = nil
	}
	return value, ok, err
}

// GetEntry implements store.Store.
func (c *Client) GetEntry(ctx context.Context, key string) (store.Entry, bool, error) {
	b, err := c.read(ctx, methodGetEntry, key)
	if err != nil {
		return store.Entry{}, false, err
	}
	b, ok, err := cutFound(b)
	if !ok {
		return store.Entry{}, false, err
	}
	e, err := parseEntry(key, b)
	return e, err == nil, err
}

// Has implements store.Store.
func (c *Client) Has(ctx context.Context, key string) (bool, error) {
	b, err := c.read(ctx, methodHas, key)
	if err != nil {
		return false, err
	}
	_, ok, err := cutFound(b)
	return ok, err
}

func (c *Client) read(ctx context.Context, m method, key string) ([]byte, error) {
	if err := store.CheckKey(key); err != nil {
		return nil, err
	}
	return c.call(ctx, m, []byte(key))
}

func (c *Client) do(ctx context.Context, op *command.Op) (command.Result, error) {
	b, err := c.call(ctx, methodWrite, command.AppendOp(nil, op))
	if err != nil {
		return command.Result{}, err
	}
	return parseResult(b)
}

// call sends a request until a server has answered it, ctx ends, or it may have
// had an effect that is not known.
func (c *Client) call(ctx context.Context, m method, arg []byte) ([]byte, error) {
	if err := ops.CheckContext(ctx); err != nil {
		return nil, err
	}
	// What an operation comes to whose request was sent and not answered.
	unanswered := store.ErrUnavailable
	if m == methodWrite {
		unanswered = store.ErrUnknown
	}
	for backoff := minBackoff; ; backoff = min(2*backoff, maxBackoff) {
		conn, err := c.connect(ctx)
		if err == nil {
			var resp response
			var sent bool
			resp, sent, err = conn.roundTrip(ctx, m, arg)
			switch {
			case err == nil && resp.code != uint64(store.ErrClosed.Code()):
				return resp.result, resp.err(unanswered)
			case err == nil: // the server closes, the operation had no effect
				conn.fail()
			case sent && m == methodWrite:
				return nil, ended(store.ErrUnknown, ctx)
			}
		}
		if c.ctx.Err() != nil {
			return nil, store.ErrClosed
		}
		pause := time.NewTimer(backoff/2 + rand.N(backoff))
		select {
		case <-pause.C:
		case <-c.ctx.Done():
			pause.Stop()
			return nil, store.ErrClosed
		case <-ctx.Done():
			pause.Stop()
			return nil, ops.Ended(store.ErrUnavailable, ctx)
		}
	}
}

func ended(sentinel error, ctx context.Context) error {
	if ctx.Err() == nil {
		return sentinel
	}
	return ops.Ended(sentinel, ctx)
}

// connect returns the connection in use, or makes one to the next endpoint.
func (c *Client) connect(ctx context.Context) (*clientConn, error) {
	c.mu.Lock()
	conn, closed := c.mu.conn, c.mu.closed
	c.mu.Unlock()
	if closed {
		return nil, store.ErrClosed
	}
	if conn != nil && conn.alive() {
		return conn, nil
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)()
	endpoint := c.endpoints[(c.next.Add(1)-1)%uint64(len(c.endpoints))]
	fresh, err := dialServer(ctx, endpoint)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.closed {
		fresh.fail()
		return nil, store.ErrClosed
	}
	if c.mu.conn != nil && c.mu.conn.alive() { // another operation was faster
		fresh.fail()
		return c.mu.conn, nil
	}
	c.mu.conn = fresh
	c.readers.Go(fresh.read)
	return fresh, nil
}

// clientConn is a connection to a server.
type clientConn struct {
	conn   net.Conn
	failed chan struct{} // closed when the connection is of no use any longer

	write struct {
		sync.Mutex
		w   *bufio.Writer
		buf []byte // reused
	}
	calls struct {
		sync.Mutex
		last   uint64
		failed bool
		wait   map[uint64]chan response // have room for one
	}
}

func dialServer(ctx context.Context, endpoint string) (*clientConn, error) {
	conn, err := dial(ctx, endpoint)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	_, err = conn.Write(hello)
	if err == nil {
		err = readHello(conn)
	}
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	c := &clientConn{conn: conn, failed: make(chan struct{})}
	c.write.w = bufio.NewWriter(conn)
	c.calls.wait = make(map[uint64]chan response)
	return c, nil
}

func (c *clientConn) alive() bool {
	select {
	case <-c.failed:
		return false
	default:
		return true
	}
}

// fail ends the connection and all that waits for it.
func (c *clientConn) fail() {
	c.calls.Lock()
	defer c.calls.Unlock()
	if !c.calls.failed {
		c.calls.failed = true
		close(c.failed)
		c.conn.Close()
	}
}

// read hands out responses until the connection fails.
func (c *clientConn) read() {
	for r := bufio.NewReader(c.conn); ; {
		body, err := readFrame(r)
		var resp response
		if err == nil {
			resp, err = parseResponse(body)
		}
		if err != nil {
			c.fail()
			return
		}
		c.calls.Lock()
		wait := c.calls.wait[resp.id]
		delete(c.calls.wait, resp.id)
		c.calls.Unlock()
		if wait != nil {
			wait <- resp
		}
	}
}

var errConnection = errors.New("connection failed")

// roundTrip sends a request and waits for its response. sent says whether the
// server may have got it.
func (c *clientConn) roundTrip(ctx context.Context, m method, arg []byte) (resp response, sent bool, err error) {
	wait := make(chan response, 1)
	c.calls.Lock()
	if c.calls.failed {
		c.calls.Unlock()
		return response{}, false, errConnection
	}
	c.calls.last++
	req := request{id: c.calls.last, method: m, arg: arg}
	c.calls.wait[req.id] = wait
	c.calls.Unlock()
	defer func() {
		c.calls.Lock()
		delete(c.calls.wait, req.id)
		c.calls.Unlock()
	}()
	if deadline, ok := ctx.Deadline(); ok {
		req.timeout = max(1, time.Until(deadline))
	}

	if err := c.send(req); err != nil {
		c.fail()
		return response{}, true, err
	}
	select {
	case resp := <-wait:
		return resp, true, nil
	case <-ctx.Done():
		return response{}, true, ctx.Err()
	case <-c.failed:
		select {
		case resp := <-wait:
			return resp, true, nil
		default:
			return response{}, true, errConnection
		}
	}
}

func (c *clientConn) send(req request) error {
	c.write.Lock()
	defer c.write.Unlock()
	c.write.buf = req.append(c.write.buf[:0])
	c.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	err := writeFrame(c.write.w, c.write.buf)
	if err == nil {
		err = c.write.w.Flush()
	}
	if cap(c.write.buf) > 1<<20 {
		c.write.buf = nil
	}
	return err
}
