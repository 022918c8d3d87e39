package transport

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"dkv/internal/ops"
	"dkv/store"
)

const (
	dialTimeout = 5 * time.Second
	minBackoff  = 10 * time.Millisecond
	maxBackoff  = time.Second

	maxQueued = 1024            // requests that wait to be sent on a connection
	silence   = 2 * time.Second // a server that is silent that long may be stuck
)

// Client is a store.Store and a lock.Backend that some node's Server answers. It
// goes on at the next endpoint when one fails, and repeats what was not answered,
// until the context ends: reads have no effect, and a write has its effect once
// however often it is sent, as package once has it. All endpoints must be of
// servers of the same store.
type Client struct {
	ops.Writes
	endpoints []string
	next      atomic.Uint64 // counts what is divided by len(endpoints) for the one in use
	ctx       context.Context
	cancel    context.CancelFunc
	dialing   chan struct{}  // has room for the one who dials
	work      sync.WaitGroup // two goroutines for each connection
	enrolling chan struct{}  // has room for the one who enrols
	enrolment atomic.Pointer[enrolment]

	mu struct {
		sync.Mutex
		closed bool
		conn   *clientConn              // the one in use, nil if there is none
		open   map[*clientConn]struct{} // that one and those that are being given up
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
	c := &Client{endpoints: append([]string(nil), endpoints...), dialing: make(chan struct{}, 1), enrolling: make(chan struct{}, 1)}
	c.mu.open = make(map[*clientConn]struct{})
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.Writes = ops.New(c.do)
	return c, nil
}

// Close ends the connection. Operations under way end with store.ErrClosed, or
// store.ErrUnknown if they are writes that a server was sent.
func (c *Client) Close() error {
	c.mu.Lock()
	c.mu.closed = true
	for conn := range c.mu.open {
		conn.fail()
	}
	c.mu.Unlock()
	c.cancel()
	c.work.Wait()
	return nil
}

// Live returns store.ErrClosed once Close has been called, else nil: a client
// outlives its servers, and goes on when one of them is back.
func (c *Client) Live() error {
	_, err := c.current()
	return err
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
	info, err := parseInfo(b)
	return info, garbled(err, store.ErrUnavailable)
}

// garbled is the error of a response that is not as the protocol has it.
func garbled(err error, sentinel *store.Error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: the server's response: %w", sentinel, err)
}

// Get implements store.Store.
func (c *Client) Get(ctx context.Context, key string) ([]byte, bool, error) {
	return c.value(ctx, methodGet, key)
}

// GetStale implements store.Store. It is that of the server that answers.
func (c *Client) GetStale(ctx context.Context, key string) ([]byte, bool, error) {
	return c.value(ctx, methodGetStale, key)
}

func (c *Client) value(ctx context.Context, m method, key string) ([]byte, bool, error) {
	b, err := c.read(ctx, m, key)
	if err != nil {
		return nil, false, err
	}
	value, ok, err := cutFound(b)
	if !ok {
		return nil, false, garbled(err, store.ErrUnavailable)
	}
	return value, true, nil
}

// GetEntry implements store.Store.
func (c *Client) GetEntry(ctx context.Context, key string) (store.Entry, bool, error) {
	b, err := c.read(ctx, methodGetEntry, key)
	if err != nil {
		return store.Entry{}, false, err
	}
	b, ok, err := cutFound(b)
	if !ok {
		return store.Entry{}, false, garbled(err, store.ErrUnavailable)
	}
	e, err := parseEntry(key, b)
	return e, err == nil, garbled(err, store.ErrUnavailable)
}

// Has implements store.Store.
func (c *Client) Has(ctx context.Context, key string) (bool, error) {
	b, err := c.read(ctx, methodHas, key)
	if err != nil {
		return false, err
	}
	_, ok, err := cutFound(b)
	return ok, garbled(err, store.ErrUnavailable)
}

func (c *Client) read(ctx context.Context, m method, key string) ([]byte, error) {
	if err := store.CheckKey(key); err != nil {
		return nil, err
	}
	return c.call(ctx, m, []byte(key))
}

// call sends a request until a server has answered it or ctx ends.
func (c *Client) call(ctx context.Context, m method, arg []byte) ([]byte, error) {
	conn, resp, _, err := c.ask(ctx, m, arg)
	if err != nil {
		return nil, err
	}
	conn.exit()
	return resp.result, nil
}

// ask is call for who goes on with the connection on which the answer came, and
// has to exit it if there is no error. exposed tells of a write whether there was
// an attempt, before the one that was answered, that may have had an effect.
func (c *Client) ask(ctx context.Context, m method, arg []byte) (conn *clientConn, resp response, exposed bool, err error) {
	if err := ops.CheckContext(ctx); err != nil {
		return nil, response{}, false, err
	}
	for backoff := minBackoff; ; backoff = min(2*backoff, maxBackoff) {
		conn, err = c.connect(ctx)
		if err == nil {
			err = conn.enter()
		}
		if err == nil {
			var sent bool
			resp, sent, err = conn.roundTrip(ctx, m, arg)
			switch {
			case err == nil && resp.code == 0:
				return conn, resp, exposed, nil
			case err == nil && resp.code == uint64(store.ErrClosed.Code()):
				// The server closes, the operation had no effect.
				err = resp.err(store.ErrUnavailable)
				c.retire(conn)
			case err == nil && m == methodWrite && resp.code == uint64(store.ErrUnknown.Code()):
				err, exposed = resp.err(store.ErrUnknown), true
			case err == nil && exposed && store.KindOf(resp.err(store.ErrUnknown)) == store.KindNotApplied:
				// This attempt had no effect. Of an earlier one that is not known.
				err = resp.err(store.ErrUnknown)
			case err == nil:
				conn.exit()
				if m == methodWrite {
					return nil, response{}, exposed, resp.err(store.ErrUnknown)
				}
				return nil, response{}, false, resp.err(store.ErrUnavailable)
			case conn.stuck():
				c.retire(conn)
			}
			conn.exit()
			exposed = exposed || sent && m == methodWrite && resp.code == 0
		}
		closed, late := store.ErrClosed, store.ErrUnavailable
		if exposed {
			closed, late = store.ErrUnknown, store.ErrUnknown
		}
		if c.ctx.Err() != nil {
			return nil, response{}, exposed, closed
		}
		pause := time.NewTimer(backoff/2 + rand.N(backoff))
		select {
		case <-pause.C:
		case <-c.ctx.Done():
			pause.Stop()
			return nil, response{}, exposed, closed
		case <-ctx.Done():
			pause.Stop()
			return nil, response{}, exposed, fmt.Errorf("%w (%v)", ops.Ended(late, ctx), err)
		}
	}
}

// connect returns the connection in use, or makes one to the next endpoint.
func (c *Client) connect(ctx context.Context) (*clientConn, error) {
	if conn, err := c.current(); conn != nil || err != nil {
		return conn, err
	}
	select {
	case c.dialing <- struct{}{}:
		defer func() { <-c.dialing }()
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-c.ctx.Done():
		return nil, store.ErrClosed
	}
	if conn, err := c.current(); conn != nil || err != nil {
		return conn, err
	}

	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)()
	conn, err := dialServer(ctx, c.endpoints[c.next.Load()%uint64(len(c.endpoints))])
	if err != nil {
		c.next.Add(1)
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.closed {
		conn.fail()
		return nil, store.ErrClosed
	}
	c.mu.conn = conn
	c.mu.open[conn] = struct{}{}
	c.work.Go(conn.write)
	c.work.Go(func() {
		conn.read()
		c.retire(conn)
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.mu.open, conn)
	})
	return conn, nil
}

// current returns the connection in use, nil if there is none.
func (c *Client) current() (*clientConn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.closed {
		return nil, store.ErrClosed
	}
	return c.mu.conn, nil
}

// retire has further operations use another connection, to the next endpoint.
// Those under way on this one may yet be answered; it ends with the last.
func (c *Client) retire(conn *clientConn) {
	c.mu.Lock()
	if c.mu.conn == conn {
		c.mu.conn = nil
		c.next.Add(1)
	}
	c.mu.Unlock()
	conn.retire()
}
