package transport

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"dkv/internal/command"
	"dkv/internal/field"
	"dkv/internal/ops"
	"dkv/store"
)

// serve answers one connection.
func (s *Server) serve(conn net.Conn) {
	if !s.setDeadline(conn, time.Now().Add(helloTimeout)) {
		return
	}
	h, err := readClientHello(conn)
	if _, otherVersion := err.(*versionError); otherVersion {
		conn.Write(preamble)
	}
	if err != nil {
		return
	}
	backend, access, err := s.admit(h)
	identity := uint64(0)
	if err == nil {
		identity = backend.Identity()
	}
	if _, failed := conn.Write(appendServerHello(nil, identity, err)); err != nil || failed != nil || !s.letIn(conn) {
		return
	}
	c := newServed(s, conn, backend, access)
	c.codec = h.codec.transcoder()
	c.in.limit = c.codec.frameLimit()
	c.serve()
}

// admit returns what a client asks for, if it may have it.
func (s *Server) admit(h clientHello) (Backend, Access, error) {
	if !slices.Contains(s.codecs, h.codec) {
		return nil, Access{}, fmt.Errorf("%w: %v is not accepted; %v are", store.ErrBadOptions, h.codec, s.codecs)
	}
	return s.Open(h.shard, h.token)
}

// served is a connection that is answered. Requests to a store that has nothing to
// wait for are carried out as they are read, one after the other; all others have a
// goroutine each, but for the reads of keys and the writes that have come together, if
// the store takes less for them then: they share one.
type served struct {
	server   *Server
	conn     net.Conn
	backend  Backend
	access   Access
	codec    *transcoder // nil for Binary
	prompt   bool
	grouping Grouping // the backend, if it is one, else nil
	in       frameReader
	out      *frameWriter
	scans    *cursors
	last     uint64 // id of the last request

	reads, writes *group // that are gathered, nil if there are none

	ctx      context.Context // of the requests
	cancel   context.CancelFunc
	pollCtx  context.Context
	endPolls context.CancelFunc
	requests sync.WaitGroup // the goroutines that carry them out
	jobs     chan func()    // to one of those that waits
	ended    chan struct{}  // closed when there are no more
	slots    chan struct{}  // has room for as many requests as may be under way
	args     budget         // what their arguments take
	polls    chan struct{}
	scanned  chan struct{} // have room for as many large responses as there may be:
	polled   chan struct{} // pages of scans, events,
	read     chan struct{} // what transactions have read,
	copied   chan struct{} // and values that are not sent from where they are

	mu      sync.Mutex
	waiting map[uint64]context.CancelFunc // of requests that may take long
}

func newServed(s *Server, conn net.Conn, b Backend, a Access) *served {
	c := &served{server: s, conn: conn, backend: b, access: a, in: frameReader{r: conn}, out: newFrameWriter(conn)}
	c.prompt = b.Prompt()
	c.in.reuse = c.prompt // which copies what it keeps
	c.grouping, _ = b.(Grouping)
	return c
}

// begin makes what requests need, when the first one has come: a connection may never have
// one.
func (c *served) begin() {
	if c.ctx != nil {
		return
	}
	c.ctx, c.cancel = context.WithCancel(c.server.ctx)
	c.pollCtx, c.endPolls = context.WithCancel(c.ctx)
	c.scans = newCursors(c.ctx, c.backend, c.server.clock)
	c.jobs, c.ended = make(chan func()), make(chan struct{})
	c.slots = make(chan struct{}, maxInFlight)
	c.polls = make(chan struct{}, maxPolls)
	c.args.freed = make(chan struct{}, 1)
	c.scanned, c.polled, c.read = make(chan struct{}, maxScanned), make(chan struct{}, maxPolled), make(chan struct{}, maxRead)
	c.copied = make(chan struct{}, maxCopies)
}

// serve answers until the connection ends or the server closes.
func (c *served) serve() {
	defer func() {
		closing := c.server.closing()
		c.end(closing)
		c.in.giveBack()
		c.in.giveBackBody()
		if closing {
			c.respond(goodbye(c.last))
			c.out.flush()
			linger(c.conn)
		}
	}()
	for {
		if !c.in.ready() {
			c.sendGathered()
			if c.out.flush() != nil {
				return
			}
		}
		body, own, err := c.in.next()
		if err != nil {
			return
		}
		c.begin()
		var req request
		if c.codec == nil {
			req, err = parseRequest(body)
		} else {
			req, err = c.codec.parseRequest(body)
			own = true
		}
		if err != nil {
			c.finish()
			return
		}
		if !c.take(req, own) {
			return
		}
	}
}

// end ends what requests need. Those that are under way end first if the server closes.
func (c *served) end(closing bool) {
	if c.ctx == nil {
		return
	}
	c.endPolls() // whoever polls goes on at another server
	if !closing {
		c.cancel() // the client has gone
	}
	close(c.ended)
	c.requests.Wait()
	c.cancel()
	c.scans.close()
}

// finish has what came before a request that cannot be read be answered: it counts as
// read. It does not wait for long, as the client can cancel nothing any longer.
func (c *served) finish() {
	defer time.AfterFunc(lingerTimeout, c.cancel).Stop()
	c.sendGathered()
	for range cap(c.slots) {
		c.slots <- struct{}{} // each is free when its request is over
	}
	c.out.flush()
}

// linger waits until the client has hung up, but not for long. To close a
// connection while requests lie there unread would take back responses that the
// client has not read yet.
func linger(conn net.Conn) {
	if c, ok := conn.(interface{ CloseWrite() error }); ok && c.CloseWrite() == nil {
		conn.SetReadDeadline(time.Now().Add(lingerTimeout))
		io.Copy(io.Discard, conn)
	}
}

// take carries out a request, or has it carried out. own says that its argument may be
// kept. It is false if the connection has ended.
func (c *served) take(req request, own bool) bool {
	c.last = max(c.last, req.id)
	if err := c.access.request(req); err != nil {
		c.respond(failure(req.id, err))
		return true
	}
	switch {
	case req.method == methodCancel:
		c.cancelled(req.arg)
		return true
	case req.method == methodScanStop:
		// It needs no slot: scans that are to be stopped may have taken them all. Nor
		// does it wait, and the scan's first page does not either, for its turn.
		c.cancelled(req.arg)
		c.respond(c.answer(c.ctx, req, c.scans.receive(req)))
		return true
	case c.prompt && promptly(req.method):
		c.now(req)
		return true
	}
	var kind **group
	switch {
	case c.grouping == nil:
	case req.method == methodGet || req.method == methodGetEntry || req.method == methodHas:
		kind = &c.reads
	case req.method == methodWrite && c.room(req) == nil:
		kind = &c.writes
	}
	if !own && kind == nil {
		req.arg = bytes.Clone(req.arg)
	}
	if req.method == methodPoll || req.method == methodAwaitLock {
		if len(c.polls) == cap(c.polls) {
			c.respond(failure(req.id, fmt.Errorf("%w: %d watches are under way on the connection", store.ErrBusy, maxPolls)))
			return true
		}
		if !c.enter(req, c.polls) {
			return false
		}
		c.start(c.pollCtx, req, nil, c.polls)
		return true
	}
	if !c.enter(req, c.slots) {
		return false
	}
	if kind != nil {
		c.gather(kind, req, own)
		return true
	}
	c.start(c.ctx, req, c.scans.receive(req), c.slots)
	return true
}

// enter takes a place for a request, and what its argument takes, both of which leave gives
// back. It is false if the connection is to end.
func (c *served) enter(req request, places chan struct{}) bool {
	select {
	case places <- struct{}{}:
		if c.args.take(len(req.arg)) {
			return true
		}
		<-places
	default:
	}
	// What has been answered must be on its way before others are waited for.
	c.sendGathered()
	if c.out.flush() != nil {
		return false
	}
	patience := time.NewTimer(slotPatience)
	defer patience.Stop()
	select {
	case places <- struct{}{}:
	case <-patience.C:
		// Whether the client has gone is not noticed meanwhile, nor what it cancels. One
		// that is still there connects again.
		return false
	case <-c.ctx.Done():
		return false
	}
	for !c.args.take(len(req.arg)) {
		select {
		case <-c.args.freed:
			continue
		case <-patience.C:
		case <-c.ctx.Done():
		}
		<-places
		return false
	}
	return true
}

// leave is called when a request is over.
func (c *served) leave(req request, places chan struct{}) {
	c.args.giveBack(len(req.arg))
	<-places
}

// A budget counts the bytes of large arguments.
type budget struct {
	used  atomic.Int64
	freed chan struct{} // has room for one, and has one when some were given back
}

// take is called by one goroutine, and tells whether there was room.
func (b *budget) take(n int) bool {
	if n < largeArgument {
		return true
	}
	if b.used.Load()+int64(n) > maxArguments {
		return false
	}
	b.used.Add(int64(n))
	return true
}

func (b *budget) giveBack(n int) {
	if n < largeArgument {
		return
	}
	b.used.Add(-int64(n))
	select {
	case b.freed <- struct{}{}:
	default:
	}
}

// promptly tells whether a request waits for nothing if the store is prompt.
func promptly(m method) bool {
	switch m {
	case methodGet, methodGetStale, methodGetEntry, methodHas, methodEnrol, methodWrite, methodInfo, methodLockHolder:
		return true
	}
	return false
}

// now carries out a request that has nothing to wait for.
func (c *served) now(req request) {
	if req.method == methodGet || req.method == methodGetStale {
		value, ok, err := c.backend.GetShared(c.ctx, string(req.arg))
		c.value(req.id, value, ok, err)
		return
	}
	if c.codec != nil {
		c.respond(c.answer(c.ctx, req, nil))
		return
	}
	c.out.add(func(b []byte) []byte {
		b, at := beginFrame(b)
		b = binary.AppendUvarint(b, req.id)
		b = binary.AppendUvarint(b, 0)
		all, err := c.do(c.ctx, b, req, nil)
		if err != nil {
			all = failure(req.id, err).append(b[:at+frameHeader])
		}
		b = all
		endFrame(b, at)
		return b
	})
}

// value answers with a value that stays the store's.
func (c *served) value(id uint64, value []byte, ok bool, err error) {
	if err != nil {
		c.respond(failure(id, err))
		return
	}
	if c.codec != nil {
		c.copied <- struct{}{} // until those before have been written, or the connection ends
		c.respond(response{id: id, method: methodGet, result: append(appendFound(nil, ok), value...)})
		<-c.copied
		return
	}
	c.out.addShared(func(b []byte) []byte {
		b = binary.AppendUvarint(b, id)
		return appendFound(binary.AppendUvarint(b, 0), ok)
	}, value)
}

func (c *served) respond(r response) {
	if c.codec != nil {
		body := c.codec.response(r)
		c.out.add(func(b []byte) []byte { return appendFrame(b, body) })
		return
	}
	c.out.add(func(b []byte) []byte {
		b, at := beginFrame(b)
		b = r.append(b)
		endFrame(b, at)
		return b
	})
}

// start has a goroutine carry out a request, whose place is in places. scan is what
// cursors.receive has made of it.
func (c *served) start(ctx context.Context, req request, scan scanRequest, places chan struct{}) {
	ctx, done := c.limit(ctx, req)
	room := c.room(req)
	c.run(func() {
		var resp response
		held := room
		if room != nil && req.method != methodPoll { // which takes its place when there is something
			select {
			case room <- struct{}{}:
			case <-ctx.Done():
				held = nil
				resp = failure(req.id, ops.Ended(store.ErrUnavailable, ctx))
			}
		}
		switch {
		case room != nil && held == nil:
			if scan != nil {
				scan(ctx) // which ends it
			}
		case req.method == methodGetStale:
			value, ok, err := c.backend.GetShared(ctx, string(req.arg))
			done()
			c.value(req.id, value, ok, err)
			c.out.gather()
			c.leave(req, places)
			return
		default:
			resp = c.answer(ctx, req, scan)
		}
		if done(); c.pollCtx.Err() != nil && places == c.polls {
			resp = failure(req.id, store.ErrClosed)
		}
		c.respond(resp)
		c.out.gather()
		if held != nil {
			<-held
		}
		c.leave(req, places)
	})
}

// room is where a request whose response may be large takes a place, so that there are
// not too many in memory, be it that the client does not take them. It is nil for those
// whose responses are small, or are made one after the other.
func (c *served) room(req request) chan struct{} {
	switch req.method {
	case methodScan, methodScanNext:
		return c.scanned
	case methodPoll:
		return c.polled
	case methodWrite:
		if op, _, err := command.DecodeTxn(req.arg); err == nil && op.Txn.Reads() > 0 {
			return c.read
		}
	}
	return nil
}

// slotPatience is how long a connection waits, when all requests that it may have are under
// way, for one of them to be answered.
const slotPatience = 10 * time.Second

// workerPatience is how long a goroutine that has carried out a request waits for
// another one. A new one would have to grow its stack anew.
const workerPatience = 100 * time.Millisecond

// run has a goroutine call f, one that waits if there is one.
func (c *served) run(f func()) {
	select {
	case c.jobs <- f:
		return
	default:
	}
	c.requests.Go(func() {
		f()
		patience := time.NewTimer(workerPatience)
		defer patience.Stop()
		for {
			select {
			case f := <-c.jobs:
				f()
				patience.Reset(workerPatience)
			case <-patience.C:
				return
			case <-c.ended:
				return
			}
		}
	})
}

// soon is how long a request may take without its being worth the while to be able to
// cancel it.
const soon = 10 * time.Second

// limit returns the context of a request, which ends with its time, or when the client
// cancels it. done is to be called when it is over.
func (c *served) limit(ctx context.Context, req request) (_ context.Context, done func()) {
	var cancel context.CancelFunc
	switch {
	case req.timeout == 0:
		ctx, cancel = context.WithCancel(ctx)
	case req.timeout > soon || req.method != methodWrite:
		ctx, cancel = context.WithTimeout(ctx, req.timeout)
	default:
		return context.WithTimeout(ctx, req.timeout)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.awaitLocked(req.id, cancel)
	return ctx, func() {
		cancel()
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.waiting, req.id)
	}
}

// awaitLocked has cancel be called, with mu held, if the client cancels a request.
func (c *served) awaitLocked(id uint64, cancel context.CancelFunc) {
	if c.waiting == nil {
		c.waiting = make(map[uint64]context.CancelFunc)
	}
	c.waiting[id] = cancel
}

// cancelled ends the request that arg names, if it is under way.
func (c *served) cancelled(arg []byte) {
	f := field.NewReader(arg)
	id := f.Uvarint()
	c.mu.Lock()
	defer c.mu.Unlock()
	if cancel := c.waiting[id]; cancel != nil {
		cancel()
	}
}
