package transport

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"dkv/store"
	"dkv/store/engine"
)

// clientConn is a connection to a server. One goroutine writes what callers append,
// unless one is alone and writes it itself; another reads responses. Both end when it
// has failed.
type clientConn struct {
	conn     net.Conn
	raw      *rawWriter    // nil if it cannot be; belongs to who has made mu.writing true
	codec    *transcoder   // nil for Binary
	identity uint64        // of the store, 0 if not known
	endpoint *endpoint     // of the server; set when the connection becomes one to choose from
	wake     chan struct{} // has room for one: there is something to write
	failed   chan struct{} // closed when the connection is of no use any longer
	heard    atomic.Int64  // when something was last read, or taken of what is large, in nanoseconds since began
	began    time.Time
	isLarge  func() // told of values of more than bulkFrom bytes; nil: nobody is

	mu struct {
		sync.Mutex
		rest    []byte        // of what a caller has begun to write, for the writer to go on with
		out     []byte        // frames that wait to be written
		spare   []byte        // what out was before
		writing bool          // the writer is awake, or about to be, or a caller writes
		room    chan struct{} // closed when out has been taken, nil if nobody waits for that
		last    uint64        // id of the last request
		wait    map[uint64]*waiter

		watch *time.Timer   // calls check; nil if nothing is waited for
		since time.Duration // since when something is, since began
		asked time.Duration // when check last asked the server

		failed bool
		parted bool // the server takes no more requests
	}

	pending atomic.Int64 // callers, from enter to exit
	retired atomic.Bool  // it takes no new callers, and fails when the last has gone
}

// waiter is a caller that waits for a response. It is the caller's once done has
// received or leave was called, until release.
type waiter struct {
	done chan struct{} // has room for one
	resp response      // its result is good until release, unless it is the caller's own
	own  bool
	id   uint64
	of   method // of the request
	buf  []byte

	identity uint64 // of the store that has answered, 0 if not known
	failed   bool   // the connection has, before there was a response
}

var waiters = sync.Pool{New: func() any { return &waiter{done: make(chan struct{}, 1)} }}

// keep returns b, which is a part of the result, for longer than until release.
func (w *waiter) keep(b []byte) []byte {
	if w.own {
		return b
	}
	return append(make([]byte, 0, len(b)), b...)
}

func (w *waiter) release() {
	*w = waiter{done: w.done, buf: w.buf}
	waiters.Put(w)
}

// deliver has the waiter go on with a response.
func (w *waiter) deliver(r response, own bool) {
	if !own && len(r.result) > 0 {
		w.buf = append(w.buf[:0], r.result...)
		r.result = w.buf
	}
	w.resp, w.own = r, own
	w.done <- struct{}{}
}

// newClientConn says hello to a server.
func newClientConn(ctx context.Context, conn net.Conn, h clientHello) (*clientConn, error) {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	_, err := conn.Write(h.append(nil))
	identity := uint64(0)
	if err == nil {
		identity, err = readServerHello(conn)
	}
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	c := &clientConn{
		conn:     conn,
		raw:      newRawWriter(conn),
		codec:    h.codec.transcoder(),
		identity: identity,
		wake:     make(chan struct{}, 1),
		failed:   make(chan struct{}),
		began:    time.Now(),
	}
	c.mu.wait = make(map[uint64]*waiter)
	return c, nil
}

// silence is how long a server may say nothing, and take nothing of what is large, while
// something is waited for. Then it is asked for what it always knows, and if it is
// silent for as long again, it is not there any longer, or was stopped: the connection
// fails.
const silence = 2 * time.Second

// check does what silence says, as long as something is waited for.
func (c *clientConn) check() {
	c.mu.Lock()
	if c.mu.failed || len(c.mu.wait) == 0 {
		c.mu.watch = nil
		c.mu.Unlock()
		return
	}
	now := time.Since(c.began)
	quiet := max(time.Duration(c.heard.Load()), c.mu.since)
	switch {
	case now-quiet < silence:
		c.mu.watch.Reset(silence - (now - quiet))
	case c.mu.asked <= quiet:
		c.mu.asked = now
		c.mu.watch.Reset(silence)
		if len(c.mu.out) <= maxUnwritten {
			c.appendLocked(request{method: methodInfo})
			c.wakeLocked()
			return
		}
	case now-c.mu.asked < silence:
		c.mu.watch.Reset(silence - (now - c.mu.asked))
	default:
		c.failLocked()
	}
	c.mu.Unlock()
}

// fail ends the connection and all that waits for it.
func (c *clientConn) fail() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failLocked()
}

func (c *clientConn) failLocked() {
	if !c.mu.failed {
		c.mu.failed = true
		close(c.failed)
		if c.mu.watch != nil {
			c.mu.watch.Stop()
		}
		c.conn.Close()
		for id, w := range c.mu.wait {
			delete(c.mu.wait, id)
			w.failed = true
			w.done <- struct{}{}
		}
	}
}

// retire ends the connection once nothing waits for it.
func (c *clientConn) retire() {
	c.retired.Store(true)
	if c.pending.Load() == 0 {
		c.fail()
	}
}

var errConnection = errors.New("the connection has failed")

// enter makes the caller one that the connection stays for until exit, unless it
// fails.
func (c *clientConn) enter() error {
	if c.pending.Add(1); c.retired.Load() {
		c.exit()
		return errConnection
	}
	return nil
}

// exit undoes enter.
func (c *clientConn) exit() {
	if c.pending.Add(-1) == 0 && c.retired.Load() {
		c.fail()
	}
}

// hear notes that the server is there.
func (c *clientConn) hear() { c.heard.Store(int64(time.Since(c.began))) }

// hearing reads what a server says. A part of a response is a sign of life, too: what
// is large may take long.
type hearing struct{ *clientConn }

func (h hearing) Read(b []byte) (int, error) {
	n, err := h.conn.Read(b)
	if n > 0 {
		h.hear()
	}
	return n, err
}

// read hands out responses until the connection fails. Those that have come together
// are looked up together.
func (c *clientConn) read() {
	defer c.fail()
	in := frameReader{r: hearing{c}, limit: c.codec.frameLimit()}
	defer in.giveBack()
	var came []arrived
	for {
		body, own, err := in.next()
		if err != nil {
			return
		}
		large := len(body) > bulkFrom && c.isLarge != nil
		var resp response
		if c.codec == nil {
			resp, err = parseResponse(body)
		} else {
			resp, err = c.codec.parseResponse(body, c.waits)
			own = true
		}
		if large && err == nil && getsValue(c.waits(resp.id)) {
			c.isLarge()
		}
		if err == nil && resp.id != 0 {
			came = append(came, arrived{resp: resp, own: own})
			if len(came) < maxArrived && in.ready() {
				continue // which leaves the bodies where they are
			}
		}
		c.deliver(came)
		clear(came)
		came = came[:0]
		if err != nil {
			return
		}
		if resp.id == 0 {
			c.parted(resp)
			return
		}
	}
}

// getsValue tells whether the response to a request is large only if a value is. Pages of
// scans and events are many small ones, as a rule.
func getsValue(m method) bool {
	return m == methodGet || m == methodGetStale || m == methodGetEntry
}

// arrived is a response, and who waits for it.
type arrived struct {
	resp response
	own  bool
	w    *waiter
}

const maxArrived = 64

// deliver hands out responses.
func (c *clientConn) deliver(came []arrived) {
	c.mu.Lock()
	for i := range came {
		a := &came[i]
		a.w = c.mu.wait[a.resp.id]
		delete(c.mu.wait, a.resp.id)
	}
	c.mu.Unlock()
	for _, a := range came {
		if a.w != nil {
			a.w.deliver(a.resp, a.own)
		}
	}
}

// waits returns the method of the request with an id, 0 if nobody waits for its response.
func (c *clientConn) waits(id uint64) method {
	c.mu.Lock()
	defer c.mu.Unlock()
	if w := c.mu.wait[id]; w != nil {
		return w.of
	}
	return 0
}

// parted tells those whose requests the server has not taken before it closed.
func (c *clientConn) parted(goodbye response) {
	last, n := binary.Uvarint(goodbye.result)
	if n <= 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.parted = true
	for id, w := range c.mu.wait {
		if id > last {
			delete(c.mu.wait, id)
			w.deliver(response{id: id, code: goodbye.code}, false)
		}
	}
}

// write writes what callers have appended, all that waits at a time, until the
// connection fails.
func (c *clientConn) write() {
	defer c.fail()
	for {
		select {
		case <-c.wake:
		case <-c.failed:
			return
		}
		for b := c.take(nil); b != nil; b = c.take(b) {
			c.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
			left := b
			for ; len(left) > keepBuffer; left = left[keepBuffer:] {
				if _, err := c.conn.Write(left[:keepBuffer]); err != nil {
					return
				}
				c.hear() // of what is large, the server takes the next part
			}
			if _, err := c.conn.Write(left); err != nil {
				return
			}
			c.conn.SetWriteDeadline(time.Time{}) // which would keep callers from trying
		}
	}
}

// keepLocked has a buffer be used again.
func (c *clientConn) keepLocked(b []byte) {
	if cap(b) <= keepBuffer {
		c.mu.spare = b[:0]
	} else {
		large := b
		reuseLarge(&large)
	}
}

// take returns what is to be written next, nil if there is nothing. was is what has
// been written.
func (c *clientConn) take(was []byte) []byte {
	runtime.Gosched() // whoever is about to append something does
	c.mu.Lock()
	defer c.mu.Unlock()
	if was != nil {
		c.keepLocked(was)
	}
	if b := c.mu.rest; b != nil {
		c.mu.rest = nil
		return b
	}
	if len(c.mu.out) == 0 {
		c.mu.writing = false
		return nil
	}
	b := c.mu.out
	c.mu.out, c.mu.spare = c.mu.spare, nil
	if c.mu.room != nil {
		close(c.mu.room)
		c.mu.room = nil
	}
	return b
}

// send appends a request and returns the waiter for its response. It waits while too
// much is to be written. There is no error if the server may get the request.
func (c *clientConn) send(ctx context.Context, r request) (*waiter, error) {
	c.mu.Lock()
	for len(c.mu.out) > maxUnwritten && !c.mu.failed {
		if c.mu.room == nil {
			c.mu.room = make(chan struct{})
		}
		room := c.mu.room
		c.mu.Unlock()
		select {
		case <-room:
		case <-c.failed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		c.mu.Lock()
	}
	w := waiters.Get().(*waiter)
	switch {
	case c.mu.failed:
		c.mu.Unlock()
		w.release()
		return nil, errConnection
	case c.mu.parted:
		c.mu.Unlock()
		w.deliver(response{code: uint64(store.ErrClosed.Code())}, false)
		return w, nil
	}
	w.identity, w.of = c.identity, r.method
	var err error
	if w.id, err = c.appendLocked(r); err != nil {
		c.mu.Unlock()
		w.deliver(failure(w.id, err), true) // as the server would, if it could be told
		return w, nil
	}
	c.mu.wait[w.id] = w
	if len(c.mu.wait) == 1 {
		c.mu.since = time.Since(c.began)
		if c.mu.watch == nil {
			c.mu.watch = time.AfterFunc(silence, c.check)
		}
	}
	if c.raw != nil && !c.mu.writing && len(c.mu.wait) == 1 {
		c.writeLocked()
	} else {
		c.wakeLocked()
	}
	return w, nil
}

// writeLocked writes what waits, for a caller who is alone: to wake the writer would
// take longer. It unlocks mu. What cannot be written at once is left to the writer.
func (c *clientConn) writeLocked() {
	b := c.mu.out
	c.mu.out, c.mu.spare, c.mu.writing = c.mu.spare, nil, true
	c.mu.Unlock()
	n := c.raw.write(b)
	c.mu.Lock()
	c.mu.writing = false
	if n < len(b) {
		c.mu.rest = b[n:]
	} else {
		c.keepLocked(b)
	}
	if c.mu.rest != nil || len(c.mu.out) > 0 {
		c.wakeLocked()
		return
	}
	c.mu.Unlock()
}

// appendLocked appends a request. An error is one of another codec than Binary.
func (c *clientConn) appendLocked(r request) (id uint64, err error) {
	c.mu.last++
	r.id = c.mu.last
	if c.codec != nil {
		body, err := c.codec.request(r)
		if err == nil {
			c.mu.out = appendFrame(c.mu.out, body)
		}
		return r.id, err
	}
	if r.op != nil && len(r.op.Value) > largeValue && cap(c.mu.out)-len(c.mu.out) < len(r.op.Value)+maxHello {
		if b, _ := largeBuffers.Get().(*[]byte); b != nil {
			c.mu.out = append((*b)[:0], c.mu.out...)
		}
	}
	b, at := beginFrame(c.mu.out)
	b = r.append(b)
	endFrame(b, at)
	c.mu.out = b
	return r.id, nil
}

// wakeLocked has the writer see what was appended, and unlocks mu.
func (c *clientConn) wakeLocked() {
	sleeps := !c.mu.writing
	c.mu.writing = true
	c.mu.Unlock()
	if sleeps {
		c.wake <- struct{}{}
	}
}

// tell sends a request about another, which is not answered to anybody. If there is
// no room it is not sent: the server finds out by itself after some time.
func (c *clientConn) tell(m method, about uint64) {
	c.mu.Lock()
	if c.mu.failed || c.mu.parted || len(c.mu.out) > maxUnwritten {
		c.mu.Unlock()
		return
	}
	c.appendLocked(request{method: m, arg: binary.AppendUvarint(nil, about)})
	c.wakeLocked()
}

// roundTrip sends a request and waits for its response, for one who has entered and
// who has to release it. sent says whether the server may have got it, if there is an
// error. brief has the server give it up after attemptTimeout, unless it is one that
// waits for something to happen.
func (c *clientConn) roundTrip(ctx context.Context, r request, brief bool) (w *waiter, sent bool, err error) {
	if deadline, ok := ctx.Deadline(); ok {
		r.timeout = max(1, time.Until(deadline))
	}
	if brief && r.method != methodPoll && r.method != methodAwaitLock && (r.timeout == 0 || r.timeout > attemptTimeout) {
		r.timeout = attemptTimeout
	}
	if r.op != nil && c.isLarge != nil && sentWith(r.op) > bulkFrom {
		c.isLarge()
	}
	if w, err = c.send(ctx, r); err != nil {
		return nil, false, err
	}
	if ended := ctx.Done(); ended == nil {
		<-w.done
		return w.result()
	} else {
		select {
		case <-w.done:
			return w.result()
		case <-ended:
		}
	}
	c.mu.Lock()
	waits := c.mu.wait[w.id] == w
	delete(c.mu.wait, w.id)
	c.mu.Unlock()
	if !waits {
		<-w.done // it is there, or about to be
		return w.result()
	}
	if r.method == methodScan {
		c.tell(methodScanStop, w.id) // the server may have opened it, or be about to
	} else {
		c.tell(methodCancel, w.id)
	}
	w.release()
	return nil, true, ctx.Err()
}

// sentWith is how many bytes the values of an operation, or of a transaction's parts, take.
func sentWith(op *engine.Op) int {
	sum := len(op.Value)
	if op.Txn != nil {
		for i := range op.Txn.If {
			sum += len(op.Txn.If[i].Value)
		}
		for _, branch := range [2][]engine.Op{op.Txn.Then, op.Txn.Else} {
			for i := range branch {
				sum += len(branch[i].Value)
			}
		}
	}
	return sum
}

// result is what roundTrip returns for a waiter that is done.
func (w *waiter) result() (_ *waiter, sent bool, err error) {
	if w.failed {
		w.release()
		return nil, true, errConnection
	}
	return w, true, nil
}
