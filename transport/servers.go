package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"dkv/store"
)

const (
	// lookEvery is how often at most a client that writes looks which member leads.
	lookEvery   = time.Second
	lookTimeout = 2 * time.Second

	// While values of more than bulkFrom bytes go over a client's connections, and for
	// bulkFor after the last, it has up to bulkConns to each endpoint, unless it was
	// told how many. One is served by one goroutine on each side, which is enough for
	// small requests: those would come together less often over several. The additional
	// ones are closed when they have not been needed for idleFor.
	bulkFrom  = 64 << 10
	bulkFor   = time.Second
	bulkConns = 3
	idleFor   = 10 * time.Second
)

// servers are the endpoints of a client and its connections to them. Endpoints are
// dialled in the background, all of them, from when a connection is first asked for;
// one that cannot be reached is tried again after a pause that grows, as long as
// somebody asks.
type servers struct {
	ctx   context.Context // of the client
	opts  ClientOptions
	work  sync.WaitGroup   // the goroutines of connections, and those that dial or look
	turns [2]atomic.Uint64 // of reads and of writes
	usual atomic.Pointer[choice]
	look  atomic.Int64  // when it was last looked who leads, in nanoseconds since began
	bulk  atomic.Int64  // until when values are taken to be large, likewise; 0: not for long
	idle  time.Duration // idleFor, but in tests
	began time.Time

	mu struct {
		sync.Mutex
		closed    bool
		all       []*endpoint
		open      map[*clientConn]struct{} // those in use and those that are being given up
		shrinking bool                     // there is a goroutine that closes additional ones
		changed   chan struct{}            // closed and replaced when a dial has ended
	}
}

// choice is which connections there are to choose from.
type choice struct {
	few, all reach // one to each endpoint, or as many as the client was told, and all there are
	retry    int64 // when an endpoint may be tried again, in nanoseconds since began; 0: none has to be
}

// reach are connections.
type reach struct {
	all     []*clientConn
	leading []*clientConn // those to the member that leads, if it is known
}

func (r *reach) add(c *clientConn, leads bool) {
	r.all = append(r.all, c)
	if leads {
		r.leading = append(r.leading, c)
	}
}

// without returns the connections to other endpoints than some, or all if there are none.
func (r *reach) without(some []*endpoint) *reach {
	others := new(reach)
	for _, c := range r.all {
		if !slices.Contains(some, c.endpoint) {
			others.add(c, slices.Contains(r.leading, c))
		}
	}
	if len(others.all) == 0 {
		return r
	}
	return others
}

// endpoint is where a server listens. It is under servers.mu.
type endpoint struct {
	url     string
	conns   []*clientConn
	leads   bool
	dialing bool
	failed  error // why it could not be reached the last time
	retry   time.Time
	backoff time.Duration
}

func (s *servers) init(ctx context.Context, opts ClientOptions) {
	s.ctx, s.opts, s.idle, s.began = ctx, opts, idleFor, time.Now()
	s.look.Store(int64(-lookEvery))
	for _, url := range opts.Endpoints {
		s.mu.all = append(s.mu.all, &endpoint{url: url})
	}
	// Not all clients begin with the same.
	for i := range s.turns {
		s.turns[i].Store(rand.Uint64N(uint64(len(s.mu.all))))
	}
	s.mu.open = make(map[*clientConn]struct{})
	s.mu.changed = make(chan struct{})
	s.usual.Store(&choice{retry: 1})
}

// close ends all connections, once the client's context has ended.
func (s *servers) close() {
	s.mu.Lock()
	s.mu.closed = true
	for c := range s.mu.open {
		c.fail()
	}
	s.mu.Unlock()
	s.work.Wait()
}

// pick returns a connection to send a request on, and waits for one if there is none: to
// another endpoint than those that have declined it, as long as there is one. The error is
// that of the last attempt to make one, or of ctx.
func (s *servers) pick(ctx context.Context, writes bool, declined []*endpoint) (*clientConn, error) {
	for {
		c := s.usual.Load()
		if c.retry != 0 && c.retry <= int64(time.Since(s.began)) {
			s.dialAll()
			c = s.usual.Load()
		}
		reach := &c.few
		if s.isBulk() {
			reach = &c.all
		}
		if len(declined) > 0 {
			reach = reach.without(declined)
		}
		from := reach.all
		if writes && len(s.opts.Endpoints) > 1 && len(from) > 0 {
			s.lookWhoLeads()
			if len(reach.leading) > 0 {
				from = reach.leading
			}
		}
		switch len(from) {
		case 0:
			if err := s.await(ctx); err != nil {
				return nil, err
			}
		case 1:
			return from[0], nil
		default:
			turn := &s.turns[0]
			if writes {
				turn = &s.turns[1]
			}
			return from[turn.Add(1)%uint64(len(from))], nil
		}
	}
}

// conns is how many connections there should be to each endpoint.
func (s *servers) conns() int {
	switch {
	case s.opts.Conns > 0:
		return s.opts.Conns
	case s.isBulk():
		return bulkConns
	}
	return 1
}

func (s *servers) isBulk() bool {
	until := s.bulk.Load()
	return until != 0 && until >= int64(time.Since(s.began))
}

// isLarge notes that a large value is on its way.
func (s *servers) isLarge() {
	if s.opts.Conns > 0 {
		return
	}
	now := time.Since(s.began)
	if until := s.bulk.Swap(int64(now + bulkFor)); until < int64(now) {
		s.dialAll()
	}
}

// shrink closes the additional connections once no value has been large for long.
func (s *servers) shrink() {
	for {
		until := s.bulk.Load()
		if left := time.Duration(until) + s.idle - time.Since(s.began); left > 0 {
			wait := time.NewTimer(left)
			select {
			case <-wait.C:
			case <-s.ctx.Done():
				wait.Stop()
				return
			}
			continue
		}
		if idle, ok := s.cutBack(until); ok {
			for _, c := range idle {
				c.retire()
			}
			return
		}
	}
}

// cutBack takes the additional connections off those to choose from, unless a value has
// been large since bulk was until. What is under way on one may yet be answered.
func (s *servers) cutBack(until int64) (idle []*clientConn, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.bulk.CompareAndSwap(until, 0) {
		return nil, false
	}
	for _, e := range s.mu.all {
		if len(e.conns) > 1 {
			idle = append(idle, e.conns[1:]...)
			e.conns = slices.Delete(e.conns, 1, len(e.conns))
		}
	}
	s.chooseLocked()
	s.mu.shrinking = false
	return idle, true
}

// await waits until there is a connection, or nothing left to try for now.
func (s *servers) await(ctx context.Context) error {
	for {
		s.mu.Lock()
		if s.mu.closed || s.ctx.Err() != nil {
			s.mu.Unlock()
			return store.ErrClosed
		}
		dialing, final := false, true
		var failed error
		for _, e := range s.mu.all {
			if len(e.conns) > 0 {
				s.mu.Unlock()
				return nil
			}
			dialing = dialing || e.dialing
			final = final && store.KindOf(e.failed) == store.KindFinal
			if e.failed != nil && failed == nil {
				failed = e.failed
			}
		}
		changed := s.mu.changed
		s.mu.Unlock()
		if !dialing {
			switch {
			case failed == nil:
				failed = errConnection
			case !final && store.KindOf(failed) == store.KindFinal:
				failed = fmt.Errorf("%v", failed) // others may be back soon
			}
			return failed
		}
		select {
		case <-changed:
		case <-ctx.Done():
			if failed != nil {
				return failed
			}
			return ctx.Err()
		case <-s.ctx.Done():
			return store.ErrClosed
		}
	}
}

// dialAll has all endpoints dialled that lack connections and may be tried.
func (s *servers) dialAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now, conns := time.Now(), s.conns()
	for _, e := range s.mu.all {
		if s.mu.closed || e.dialing || len(e.conns) >= conns || now.Before(e.retry) {
			continue
		}
		e.dialing = true
		s.work.Go(func() { s.dial(e) })
	}
	s.chooseLocked()
}

// dial makes the connections to an endpoint that it lacks. A server that takes them and
// drops them at once is not dialled again and again.
func (s *servers) dial(e *endpoint) {
	for left := s.conns() - 1; ; left-- {
		c, err := s.connect(e.url)
		s.mu.Lock()
		if err == nil && s.mu.closed {
			c.fail()
			err = store.ErrClosed
		}
		more := false
		if e.failed = err; err != nil {
			e.backoff = min(max(minBackoff, 2*e.backoff), maxBackoff)
			e.retry = time.Now().Add(e.backoff/2 + rand.N(e.backoff))
		} else {
			s.enterLocked(e, c)
			if !time.Now().Before(e.retry) { // else another was lost meanwhile
				e.backoff, e.retry = 0, time.Time{}
				more = left > 0 && len(e.conns) < s.conns()
			}
		}
		e.dialing = more
		s.chooseLocked()
		close(s.mu.changed)
		s.mu.changed = make(chan struct{})
		s.mu.Unlock()
		if !more {
			return
		}
	}
}

func (s *servers) connect(url string) (*clientConn, error) {
	ctx, cancel := context.WithTimeout(s.ctx, dialTimeout)
	defer cancel()
	at, err := parseEndpoint(url)
	if err != nil {
		return nil, err
	}
	conn, err := s.dialConn(ctx, at.network, at.address)
	if err != nil {
		return nil, err
	}
	c, err := newClientConn(ctx, conn, clientHello{shard: s.opts.Shard, codec: at.codec(s.opts.Codec), token: s.opts.Token})
	if version := (*versionError)(nil); errors.As(err, &version) {
		return nil, errors.New(url + ": " + version.Error())
	}
	if err == nil {
		c.isLarge = s.isLarge
	}
	return c, err
}

// dialConn connects to an endpoint, up to where dkv's own protocol begins.
func (s *servers) dialConn(ctx context.Context, network, address string) (net.Conn, error) {
	dialled := network
	if network == "http" {
		dialled = "tcp"
	}
	conn, err := s.opts.Dial(ctx, dialled, address)
	if err != nil {
		return nil, err
	}
	raw := conn
	defer context.AfterFunc(ctx, func() { raw.Close() })()
	if s.opts.TLS != nil && network != "unix" {
		conf := s.opts.TLS
		if conf.ServerName == "" && !conf.InsecureSkipVerify {
			conf = conf.Clone()
			conf.ServerName, _, _ = net.SplitHostPort(address)
		}
		secure := tls.Client(conn, conf)
		err = secure.HandshakeContext(ctx)
		conn = secure
	}
	if err == nil && network == "http" {
		err = askForUpgrade(conn, address)
	}
	if err != nil {
		raw.Close()
		return nil, err
	}
	return conn, nil
}

// enterLocked makes a connection one to choose from, until it is retired or has failed.
func (s *servers) enterLocked(e *endpoint, c *clientConn) {
	c.endpoint = e
	e.conns = append(e.conns, c)
	s.mu.open[c] = struct{}{}
	if s.opts.Conns == 0 && len(e.conns) > 1 && !s.mu.shrinking {
		s.mu.shrinking = true
		s.work.Go(s.shrink)
	}
	s.work.Go(c.write)
	s.work.Go(func() {
		c.read()
		s.retire(c)
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.mu.open, c)
	})
}

// retire has further operations use other connections. Those under way on this one
// may yet be answered; it ends with the last.
func (s *servers) retire(c *clientConn) {
	s.mu.Lock()
	e := c.endpoint
	if i := slices.Index(e.conns, c); i >= 0 {
		e.conns = slices.Delete(e.conns, i, i+1)
		e.leads = e.leads && len(e.conns) > 0
		// Not at once, and not the one that has just been found wanting if there are
		// others.
		e.backoff = max(e.backoff, minBackoff)
		e.retry = time.Now().Add(rand.N(e.backoff))
		s.chooseLocked()
	}
	s.mu.Unlock()
	c.retire()
}

// chooseLocked makes the choice that there is now. Neighbours in it are connections to
// different endpoints, as far as there are any.
func (s *servers) chooseLocked() {
	c, few, conns := new(choice), max(1, s.opts.Conns), s.conns()
	most := 0
	for _, e := range s.mu.all {
		most = max(most, len(e.conns))
		if len(e.conns) < conns && !e.dialing {
			at := max(1, int64(e.retry.Sub(s.began)))
			if c.retry == 0 || at < c.retry {
				c.retry = at
			}
		}
	}
	for i := range most {
		for _, e := range s.mu.all {
			if i >= len(e.conns) {
				continue
			}
			c.all.add(e.conns[i], e.leads)
			if i < few {
				c.few.add(e.conns[i], e.leads)
			}
		}
	}
	s.usual.Store(c)
}

// lookWhoLeads has it found out in the background which member leads, if that was not
// done just now.
func (s *servers) lookWhoLeads() {
	last, now := s.look.Load(), int64(time.Since(s.began))
	if now-last < int64(lookEvery) || !s.look.CompareAndSwap(last, now) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed {
		return
	}
	for _, e := range s.mu.all {
		if len(e.conns) > 0 {
			c := e.conns[0]
			s.work.Go(func() {
				leads := leads(s.ctx, c)
				s.mu.Lock()
				defer s.mu.Unlock()
				if e.leads != leads {
					e.leads = leads && len(e.conns) > 0
					s.chooseLocked()
				}
			})
		}
	}
}

// leads asks a server whether it is that of the member that leads.
func leads(ctx context.Context, c *clientConn) bool {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	if c.enter() != nil {
		return false
	}
	defer c.exit()
	w, _, err := c.roundTrip(ctx, request{method: methodInfo}, false)
	if err != nil {
		return false
	}
	defer w.release()
	info, err := parseInfo(w.resp.result)
	return w.resp.code == 0 && err == nil && info.Leader != "" && info.Leader == info.Node
}
