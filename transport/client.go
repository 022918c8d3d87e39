package transport

import (
	"context"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync/atomic"
	"time"

	"dkv/internal/ops"
	"dkv/store"
)

const (
	dialTimeout = 5 * time.Second
	minBackoff  = 10 * time.Millisecond
	maxBackoff  = time.Second

	// attemptTimeout is how long one server has for a request, if there are others to
	// try: it may be a member that has lost its group.
	attemptTimeout = 2 * time.Second
)

// ClientOptions say whose client a client is. Endpoints is required; the zero value of
// every other field is its default.
type ClientOptions struct {
	// Endpoints are where the servers listen, each "tcp://host:port",
	// "http://host:port" or "unix:///path/of/socket". All must serve the same store.
	// "?codec=json" behind one names the codec for it, whatever Codec is.
	Endpoints []string

	// Codec is how what is sent is written. Default: Binary.
	Codec Codec

	// Shard is the number that the servers know the store by.
	Shard uint64

	// Token shows the servers who the client is. Default: none.
	Token Secret

	// TLS has connections that are not to unix sockets be encrypted; the servers'
	// certificates must be for the hosts of the endpoints. Default: none.
	TLS *tls.Config

	// Insecure lets Token be sent to other hosts than this one without TLS.
	Insecure bool

	// Conns is how many connections there are to each endpoint. One carries the
	// requests of any number of callers; more use more processors for large
	// values. Default: 1, and up to 3 while values of more than 64 KiB, those of a
	// transaction that is sent taken together, are sent or read, and for some seconds
	// after.
	Conns int

	// Dial connects to a server; network and address are those of an endpoint, as
	// package net has them; "tcp" for http too. Default: that of net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Client is a store.Store and a lock.Backend that some nodes' Servers answer. It
// spreads reads over the endpoints, sends writes to the member that leads if it knows
// which does, goes on at others when one fails, and repeats what was not answered,
// until the context ends: reads have no effect, and a write has its effect once
// however often it is sent, as package once has it.
type Client struct {
	ops.Writes
	opts      ClientOptions
	servers   servers
	ctx       context.Context
	cancel    context.CancelFunc
	enrolling chan struct{} // has room for the one who enrols
	enrolment atomic.Pointer[enrolment]
}

var _ Backend = (*Client)(nil)

// NewClient returns a client. It does not connect before the first operation. Errors
// wrap store.ErrBadOptions.
func NewClient(opts ClientOptions) (*Client, error) {
	if len(opts.Endpoints) == 0 {
		return nil, fmt.Errorf("%w: no endpoint", store.ErrBadOptions)
	}
	for _, e := range opts.Endpoints {
		if err := CheckEndpoint(e); err != nil {
			return nil, err
		}
	}
	if err := opts.Codec.check(); err != nil {
		return nil, err
	}
	if opts.Token != "" && opts.TLS == nil && !opts.Insecure {
		for _, e := range opts.Endpoints {
			if err := checkNotOverheard(e); err != nil {
				return nil, err
			}
		}
	}
	if opts.Conns < 0 {
		return nil, fmt.Errorf("%w: Conns is negative", store.ErrBadOptions)
	}
	opts.Endpoints = slices.Clone(opts.Endpoints)
	if opts.Dial == nil {
		opts.Dial = new(net.Dialer).DialContext
	}
	c := &Client{opts: opts, enrolling: make(chan struct{}, 1)}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.servers.init(c.ctx, opts)
	c.Writes = ops.New(c.do)
	return c, nil
}

// Close ends the connections. Operations under way end with store.ErrClosed, or
// store.ErrUnknown if they are writes that a server was sent.
func (c *Client) Close() error {
	c.cancel()
	c.servers.close()
	return nil
}

// String does not tell the token, which fmt would find.
func (c *Client) String() string { return fmt.Sprintf("client of %v", c.opts.Endpoints) }

// Format has no verb look into the client.
func (c *Client) Format(f fmt.State, verb rune) {
	fmt.Fprintf(f, fmt.FormatString(f, verb), c.String())
}

// Live returns store.ErrClosed once Close has been called, else nil: a client
// outlives its servers, and goes on when one of them is back.
func (c *Client) Live() error {
	if c.ctx.Err() != nil {
		return store.ErrClosed
	}
	return nil
}

// Identity implements [Backend]: which store it is, is for the servers to know.
func (*Client) Identity() uint64 { return 0 }

// Prompt implements [Backend]: everything waits for a server.
func (*Client) Prompt() bool { return false }

// Ready waits until a server is ready.
func (c *Client) Ready(ctx context.Context) error {
	return c.call(ctx, request{method: methodReady}, nil)
}

// Info implements store.Store. It is that of the server that answers.
func (c *Client) Info(ctx context.Context) (info store.Info, err error) {
	err = c.call(ctx, request{method: methodInfo}, func(w *waiter) (err error) {
		info, err = parseInfo(w.resp.result)
		return err
	})
	return info, err
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

// GetShared implements [Backend].
func (c *Client) GetShared(ctx context.Context, key string) ([]byte, bool, error) {
	return c.GetStale(ctx, key)
}

func (c *Client) value(ctx context.Context, m method, key string) (value []byte, ok bool, err error) {
	err = c.read(ctx, m, key, func(w *waiter) (err error) {
		if value, ok, err = cutFound(w.resp.result); ok {
			value = w.keep(value)
		} else {
			value = nil
		}
		return err
	})
	return value, ok, err
}

// GetEntry implements store.Store.
func (c *Client) GetEntry(ctx context.Context, key string) (e store.Entry, ok bool, err error) {
	err = c.read(ctx, methodGetEntry, key, func(w *waiter) error {
		b, found, err := cutFound(w.resp.result)
		if err == nil && found {
			e, err = parseEntry(key, b)
			if e.Value != nil {
				e.Value = w.keep(e.Value)
			}
			ok = err == nil
		}
		return err
	})
	return e, ok, err
}

// Has implements store.Store.
func (c *Client) Has(ctx context.Context, key string) (ok bool, err error) {
	err = c.read(ctx, methodHas, key, func(w *waiter) (err error) {
		_, ok, err = cutFound(w.resp.result)
		return err
	})
	return ok, err
}

func (c *Client) read(ctx context.Context, m method, key string, parse func(*waiter) error) error {
	if err := store.CheckKey(key); err != nil {
		return err
	}
	return c.call(ctx, request{method: m, key: key}, parse)
}

// call sends a request until a server has answered it or ctx ends, and has parse see
// the answer, of which it may keep no part but by waiter.keep.
func (c *Client) call(ctx context.Context, r request, parse func(*waiter) error) error {
	conn, w, _, err := c.ask(ctx, r)
	if err != nil {
		return err
	}
	if parse != nil {
		err = parse(w)
	}
	w.release()
	conn.exit()
	return garbled(err, store.ErrUnavailable)
}

// ask is call for who goes on with the connection on which the answer came, and has to
// exit it, and to release the waiter, if there is no error. exposed tells of a write
// whether there was an attempt, before the one that was answered, that may have had an
// effect.
func (c *Client) ask(ctx context.Context, r request) (conn *clientConn, w *waiter, exposed bool, err error) {
	if err := ops.CheckContext(ctx); err != nil {
		return nil, nil, false, err
	}
	writes := r.method == methodWrite
	several := len(c.opts.Endpoints) > 1
	var declined []*endpoint // whose answers another server may not give
	for backoff := minBackoff; ; backoff = min(2*backoff, maxBackoff) {
		conn, err = c.servers.pick(ctx, writes, declined)
		if err == nil {
			err = conn.enter()
		}
		if err == nil {
			var sent bool
			var failed error // what the server says, or why it said nothing
			if w, sent, failed = conn.roundTrip(ctx, r, several); failed == nil {
				if w.resp.code == 0 {
					return conn, w, exposed, nil
				}
				failed = w.resp.err(c.fallback(writes))
				answer := w.resp.code
				w.release()
				switch kind := store.KindOf(failed); {
				case answer == uint64(store.ErrClosed.Code()):
					// The server closes, the operation had no effect.
					c.servers.retire(conn)
				case writes && answer == uint64(store.ErrUnknown.Code()):
					exposed = true
				case exposed && (kind == store.KindNotApplied || refused(answer)):
					// This attempt had no effect. Of an earlier one that is not known.
				case several && kind == store.KindNotApplied && passes(answer, r.method),
					several && (kind == store.KindNotApplied || cannot(answer)) && c.othersThan(declined, conn.endpoint):
					if !slices.Contains(declined, conn.endpoint) {
						declined = append(declined, conn.endpoint)
					}
				default:
					conn.exit()
					return nil, nil, exposed, ended(ctx, failed)
				}
			} else {
				exposed = exposed || sent && writes
			}
			conn.exit()
			err = failed
		} else if store.KindOf(err) == store.KindFinal && !exposed {
			return nil, nil, false, err
		}
		closed, late := store.ErrClosed, store.ErrUnavailable
		if exposed {
			closed, late = store.ErrUnknown, store.ErrUnknown
		}
		if c.ctx.Err() != nil {
			return nil, nil, exposed, closed
		}
		pause := time.NewTimer(backoff/2 + rand.N(backoff))
		select {
		case <-pause.C:
		case <-c.ctx.Done():
			pause.Stop()
			return nil, nil, exposed, closed
		case <-ctx.Done():
			pause.Stop()
			return nil, nil, exposed, fmt.Errorf("%w (%v)", ops.Ended(late, ctx), err)
		}
	}
}

// ended returns an answer that says that the time is over as an error of ctx as well: it may
// be over there a moment before it is here.
func ended(ctx context.Context, failed error) error {
	const moment = 20 * time.Millisecond
	if kind := store.KindOf(failed); kind != store.KindNotApplied && kind != store.KindUnknown {
		return failed
	}
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < moment {
		<-ctx.Done()
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", failed, err)
	}
	return failed
}

// othersThan tells whether an endpoint has not declined before and is not the last that has
// not.
func (c *Client) othersThan(declined []*endpoint, e *endpoint) bool {
	return len(declined)+1 < len(c.opts.Endpoints) && !slices.Contains(declined, e)
}

// passes tells whether what a server answers is worth asking again for, as long as ctx
// lasts. A full disk, and too many scans of one's own, are not.
func passes(code uint64, m method) bool {
	return code == uint64(store.ErrUnavailable.Code()) || code == uint64(store.ErrBusy.Code()) && m != methodScan
}

// refused tells whether a server has turned a request away before it looked whether it
// knows it.
func refused(code uint64) bool {
	switch code {
	case uint64(store.ErrForbidden.Code()), uint64(store.ErrUnauthenticated.Code()), uint64(store.ErrNoShard.Code()):
		return true
	}
	return cannot(code)
}

// cannot tells whether a server has said that it will never do what another may: it is a
// witness, or a node that its group does not take in.
func cannot(code uint64) bool {
	return code == uint64(store.ErrNoData.Code()) || code == uint64(store.ErrBadOptions.Code())
}

// fallback is what an error that is not known here counts as.
func (c *Client) fallback(writes bool) *store.Error {
	if writes {
		return store.ErrUnknown
	}
	return store.ErrUnavailable
}
