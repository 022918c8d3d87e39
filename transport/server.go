// Package transport is dkv's network mode: a [Server] that lets other processes
// use a store, and a [Client] that is that store to them. A program that is only
// a client imports this package and links no Raft.
package transport

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"dkv/internal/clock"
	"dkv/internal/command"
	"dkv/internal/once"
	"dkv/lock"
	"dkv/store"
	"dkv/store/engine"
)

const (
	helloTimeout  = 5 * time.Second  // for a stranger to say who it is
	writeTimeout  = 10 * time.Second // for a client to take its responses
	lingerTimeout = time.Second      // for a client to hang up when the server closes
	drainTimeout  = 2 * time.Second  // for requests under way when the server closes
	maxInFlight   = 1024             // requests of one connection at a time, but for polls
	maxPolls      = 1 << 14          // polls of one connection at a time
)

// Backend is what a server serves.
type Backend interface {
	store.Store
	lock.Backend
	Ready(ctx context.Context) error

	// Poll is a part of a watch: it waits for events from what.From on, and
	// returns as many as take up to maxBytes and the revision to go on from.
	// After the time wait it returns none, which is no error. If what.From is 0,
	// it does not wait.
	Poll(ctx context.Context, space engine.Space, what store.Watch, wait time.Duration, maxBytes int64) (events []store.Event, next store.Revision, err error)

	// Enrol and DoOnce are for clients that repeat a write until they know what
	// came of it; see internal/ops.
	Enrol(ctx context.Context, nonce uint64) (client uint64, err error)
	DoOnce(ctx context.Context, op engine.Op, id once.ID) (engine.Result, error)
}

// Server answers clients of any number of listeners.
type Server struct {
	backend Backend
	clock   store.Clock     // of idle cursors
	ctx     context.Context // of the requests
	cancel  context.CancelFunc
	work    sync.WaitGroup // all goroutines

	mu struct {
		sync.Mutex
		closed bool
		open   map[stopper]struct{} // listeners and connections
	}
}

// stopper is a listener, whose stop closes it, or a connection, whose stop keeps
// further requests out.
type stopper interface {
	io.Closer
	stop()
}

type listener struct{ net.Listener }

func (l listener) stop() { l.Close() }

type connection struct{ net.Conn }

func (c connection) stop() { c.SetReadDeadline(time.Unix(1, 0)) }

// NewServer returns a server of a store.
func NewServer(b Backend) *Server {
	s := &Server{backend: b, clock: clock.System{}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.mu.open = make(map[stopper]struct{})
	return s
}

// Start answers whoever connects to l, in the background, until Close, which
// also closes l.
func (s *Server) Start(l net.Listener) {
	s.run(listener{l}, func() { s.accept(l) })
}

// Close closes the listeners and takes no further requests. Those under way have
// 2 s to be answered; then their contexts end. It returns when none is being
// worked on any longer and all connections are closed.
func (s *Server) Close() error {
	s.mu.Lock()
	s.mu.closed = true
	for c := range s.mu.open {
		c.stop()
	}
	s.mu.Unlock()
	impatient := time.AfterFunc(drainTimeout, func() {
		s.cancel()
		s.mu.Lock()
		defer s.mu.Unlock()
		for c := range s.mu.open { // of clients that do not take their responses
			c.Close()
		}
	})
	defer impatient.Stop()
	s.work.Wait()
	s.cancel()
	return nil
}

// run calls f in a goroutine and closes c when it returns. If the server closes,
// it stops c.
func (s *Server) run(c stopper, f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed {
		c.Close()
		return
	}
	s.mu.open[c] = struct{}{}
	s.work.Go(func() {
		f()
		s.mu.Lock()
		delete(s.mu.open, c)
		s.mu.Unlock()
		c.Close()
	})
}

func (s *Server) accept(l net.Listener) {
	const pause = 50 * time.Millisecond
	for {
		conn, err := l.Accept()
		switch {
		case err == nil:
			s.run(connection{conn}, func() { s.serve(conn) })
		case errors.Is(err, net.ErrClosed):
			return
		default: // out of file descriptors, for one: it passes
			select {
			case <-time.After(pause):
			case <-s.ctx.Done():
				return
			}
		}
	}
}

// serve reads the requests of one connection and has each answered by a
// goroutine of its own.
func (s *Server) serve(conn net.Conn) {
	conn.SetDeadline(time.Now().Add(helloTimeout))
	if readHello(conn) != nil {
		return
	}
	if _, err := conn.Write(hello); err != nil {
		return
	}
	if !s.letIn(conn) {
		return
	}

	ctx, cancel := context.WithCancel(s.ctx)
	pollCtx, endPolls := context.WithCancel(ctx)
	w := responses{conn: conn, w: bufio.NewWriter(conn)}
	scans := newCursors(ctx, s.backend, s.clock)
	var requests sync.WaitGroup
	last := uint64(0)
	defer func() {
		endPolls() // whoever polls goes on at another server
		if !s.closing() {
			cancel() // the client has gone
		}
		requests.Wait()
		cancel()
		scans.close()
		if s.closing() {
			w.write(goodbye(last))
			linger(conn)
		}
	}()
	slots, polls := make(chan struct{}, maxInFlight), make(chan struct{}, maxPolls)
	for r := bufio.NewReader(conn); ; {
		body, err := readFrame(r)
		if err != nil {
			return
		}
		req, err := parseRequest(body)
		if err != nil {
			return
		}
		last = req.id
		if req.method == methodPoll || req.method == methodAwaitLock {
			select {
			case polls <- struct{}{}:
				requests.Go(func() {
					resp := s.answer(pollCtx, req, nil)
					if pollCtx.Err() != nil {
						resp = failure(req.id, store.ErrClosed)
					}
					w.write(resp)
					<-polls
				})
			default:
				w.write(failure(req.id, fmt.Errorf("%w: %d watches are under way on the connection", store.ErrBusy, maxPolls)))
			}
			continue
		}
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		scan := scans.receive(req)
		requests.Go(func() {
			w.write(s.answer(ctx, req, scan))
			<-slots
		})
	}
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

// letIn lifts the deadline for the hello, unless the server closes.
func (s *Server) letIn(conn net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed {
		return false
	}
	conn.SetDeadline(time.Time{})
	return true
}

func (s *Server) closing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.closed
}

// responses writes the responses of one connection.
type responses struct {
	conn net.Conn
	mu   sync.Mutex
	w    *bufio.Writer // under mu
	buf  []byte        // likewise, reused
}

func (w *responses) write(r response) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.buf = r.append(w.buf[:0])
	w.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	err := writeFrame(w.w, w.buf)
	if err == nil {
		err = w.w.Flush()
	}
	if err != nil {
		w.conn.Close() // which ends serve
	}
	if cap(w.buf) > 1<<20 {
		w.buf = nil
	}
}

// answer carries out a request; scan is what cursors.receive has made of it.
func (s *Server) answer(ctx context.Context, req request, scan scanRequest) response {
	if req.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, req.timeout)
		defer cancel()
	}
	result, err := s.do(ctx, req, scan)
	if err != nil {
		return failure(req.id, err)
	}
	return response{id: req.id, result: result}
}

// do carries out a request and returns its encoded result.
func (s *Server) do(ctx context.Context, req request, scan scanRequest) ([]byte, error) {
	switch req.method {
	case methodReady:
		return nil, s.backend.Ready(ctx)
	case methodInfo:
		info, err := s.backend.Info(ctx)
		if err != nil {
			return nil, err
		}
		return appendInfo(nil, info)
	case methodGet:
		value, ok, err := s.backend.Get(ctx, string(req.arg))
		return foundValue(value, ok), err
	case methodGetStale:
		value, ok, err := s.backend.GetStale(ctx, string(req.arg))
		return foundValue(value, ok), err
	case methodGetEntry:
		e, ok, err := s.backend.GetEntry(ctx, string(req.arg))
		if !ok {
			return appendFound(nil, false), err
		}
		return appendEntry(appendFound(nil, true), e), err
	case methodHas:
		ok, err := s.backend.Has(ctx, string(req.arg))
		return appendFound(nil, ok), err
	case methodEnrol:
		op, id, err := command.DecodeOp(req.arg)
		if err != nil || op.Kind != 0 {
			return nil, command.ErrMalformed
		}
		client, err := s.backend.Enrol(ctx, id.Nonce)
		return binary.AppendUvarint(nil, client), err
	case methodWrite:
		op, id, err := command.DecodeOp(req.arg)
		if err != nil || op.Kind == 0 {
			return nil, command.ErrMalformed
		}
		res, err := s.backend.DoOnce(ctx, op, id)
		if res.Refusal == engine.Unkept {
			err = nil // the result says it, and the client does not ask again
		}
		return appendResult(nil, res), err
	case methodPoll:
		p, err := parsePoll(req.arg)
		if err != nil {
			return nil, err
		}
		events, next, err := s.backend.Poll(ctx, p.space, p.what, min(p.wait, maxPollWait), pageBytes)
		return appendEvents(nil, events, next), err
	case methodAwaitLock:
		a, err := parseAwait(req.arg)
		if err != nil {
			return nil, err
		}
		place, err := s.backend.AwaitLock(ctx, a.key, a.owner, a.at, min(a.wait, maxPollWait))
		return appendPlace(nil, place), err
	case methodLockHolder:
		h, ok, err := s.backend.LockHolder(ctx, string(req.arg))
		return appendHolder(nil, h, ok), err
	case methodScan, methodScanNext, methodScanStop:
		return scan(ctx)
	}
	return nil, errProtocol
}
