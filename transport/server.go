// Package transport is dkv's network mode: a [Server] that lets other processes
// use a store, and a [Client] that is that store to them. A program that is only
// a client imports this package and links no Raft.
package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"dkv/internal/clock"
	"dkv/internal/once"
	"dkv/lock"
	"dkv/store"
	"dkv/store/engine"
)

const (
	helloTimeout  = 5 * time.Second // for a stranger to say who it is
	lingerTimeout = time.Second     // for a client to hang up when the server closes
	drainTimeout  = 2 * time.Second // for requests under way when the server closes
	maxInFlight   = 1024            // requests of one connection at a time, but for polls
	maxPolls      = 1 << 14         // polls of one connection at a time

	// Responses of one connection that may be large, of a kind, from when they are
	// made until they are written.
	maxScanned, maxPolled, maxRead = 16, 16, 32

	// maxArguments is how many bytes the arguments of requests under way have on one
	// connection, those from largeArgument on, which is more than a key has. maxCopies is how many values there are that
	// were copied to be sent, and wait for the client to take them.
	maxArguments, largeArgument = 32 << 20, 2 * store.MaxKeySize
	maxCopies                   = 4

	maxConns = 1 << 14 // to a server; more are closed
)

// Backend is what a server serves.
type Backend interface {
	store.Store
	lock.Backend
	Ready(ctx context.Context) error

	// Identity is the same for all servers of a store, and another after a store
	// in memory has been opened anew: its history is another. 0: not known.
	Identity() uint64

	// GetShared is GetStale but for the value, which stays the store's: it does not
	// change, and must not be changed.
	GetShared(ctx context.Context, key string) (value []byte, ok bool, err error)

	// Prompt tells whether reads and writes of keys wait for nothing, and GetShared is
	// as good as Get.
	Prompt() bool

	// Poll is a part of a watch: it waits for events from what.From on, and
	// returns as many as take up to maxBytes and the revision to go on from.
	// After the time wait it returns none, which is no error. If what.From is 0,
	// it does not wait. The values may be the store's own, and are not to be changed.
	Poll(ctx context.Context, space engine.Space, what store.Watch, wait time.Duration, maxBytes int64) (events []store.Event, next store.Revision, err error)

	// Enrol and DoOnce are for clients that repeat a write until they know what
	// came of it; see internal/ops.
	Enrol(ctx context.Context, nonce uint64) (client uint64, err error)
	DoOnce(ctx context.Context, op engine.Op, id once.ID) (engine.Result, error)
}

// ServerOptions say how a server answers. The zero value is good for use.
type ServerOptions struct {
	// Tokens, if there are any, are what clients have to show one of. Default: whoever
	// connects may do everything.
	Tokens []Token

	// Codecs are those that clients may choose. Default: Binary and JSON. Gob is for
	// clients that are trusted; package gob is not made for others.
	Codecs []Codec

	// Clock measures how long scans are idle. Default: the system's.
	Clock store.Clock
}

// Server answers the clients of any number of stores, by way of any number of
// listeners.
type Server struct {
	tokens tokens
	codecs []Codec
	clock  store.Clock     // of idle cursors
	ctx    context.Context // of the requests
	cancel context.CancelFunc
	work   sync.WaitGroup // all goroutines

	mu struct {
		sync.Mutex
		closed bool
		shards map[uint64]Backend
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

// NewServer returns a server that has no store yet. It panics if there is a codec that
// is not known.
func NewServer(opts ServerOptions) *Server {
	if opts.Clock == nil {
		opts.Clock = clock.System{}
	}
	if len(opts.Codecs) == 0 {
		opts.Codecs = []Codec{Binary, JSON}
	}
	for _, c := range opts.Codecs {
		if c >= codecs {
			panic(fmt.Sprintf("transport: %v is not known", c))
		}
	}
	s := &Server{tokens: newTokens(opts.Tokens), codecs: slices.Clone(opts.Codecs), clock: opts.Clock}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.mu.open = make(map[stopper]struct{})
	s.mu.shards = make(map[uint64]Backend)
	return s
}

// Handle has the server answer for a store from now on, under the number that its
// clients know it by. A number is taken once; Handle panics if it is taken again.
func (s *Server) Handle(shard uint64, b Backend) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.shards[shard] != nil {
		panic(fmt.Sprintf("transport: shard %d has a store already", shard))
	}
	s.mu.shards[shard] = b
}

// Shard returns the store that has a number, nil if none has.
func (s *Server) Shard(number uint64) Backend {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.shards[number]
}

// Shards returns the stores by their numbers.
func (s *Server) Shards() map[uint64]Backend {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.mu.shards)
}

// Open returns the store that has a number, and what a client that shows a secret may
// do to it, for other ways to serve it than the server's own. Errors:
// store.ErrNoShard, store.ErrUnauthenticated, store.ErrForbidden.
func (s *Server) Open(number uint64, secret Secret) (Backend, Access, error) {
	access, err := s.tokens.access(secret, number)
	if err != nil {
		return nil, Access{}, err
	}
	b, err := s.shard(number)
	return b, access, err
}

func (s *Server) shard(number uint64) (Backend, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.mu.shards[number]; b != nil {
		return b, nil
	}
	all := slices.Sorted(maps.Keys(s.mu.shards))
	return nil, fmt.Errorf("%w: %d, there are %d", store.ErrNoShard, number, all)
}

// Start answers whoever connects to l, in the background, until the server is closed,
// which also closes l.
func (s *Server) Start(l net.Listener) {
	s.run(listener{l}, func() { s.accept(l) })
}

// Shutdown closes the listeners and takes no further requests. Those under way are
// answered; when ctx ends, theirs do, and so do connections whose clients do not take
// their responses. It returns when none is being worked on any longer and all
// connections are closed, with the error of ctx if that ended before.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.mu.closed = true
	for c := range s.mu.open {
		c.stop()
	}
	s.mu.Unlock()
	inTime := context.AfterFunc(ctx, func() {
		s.cancel()
		s.mu.Lock()
		defer s.mu.Unlock()
		for c := range s.mu.open {
			c.Close()
		}
	})
	s.work.Wait()
	s.cancel()
	if !inTime() {
		return ctx.Err()
	}
	return nil
}

// Close is Shutdown with 2 s for the requests under way.
func (s *Server) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	s.Shutdown(ctx)
	return nil
}

// run calls f in a goroutine and closes c when it returns. If the server closes,
// it stops c.
func (s *Server) run(c stopper, f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed || len(s.mu.open) >= maxConns {
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

// letIn lifts the deadline for the hello, unless the server closes.
func (s *Server) letIn(conn net.Conn) bool { return s.setDeadline(conn, time.Time{}) }

// setDeadline sets a deadline, unless the server closes: then the connection has
// another one, which is to stay.
func (s *Server) setDeadline(conn net.Conn, at time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed {
		return false
	}
	conn.SetDeadline(at)
	return true
}

func (s *Server) closing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.closed
}
