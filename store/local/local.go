// Package local is a store in the memory of one process: an engine, Maple unless
// another is asked for, that runs on the process's monotonic clock. It has no
// files, no ports, and neither goroutine nor timer while no key has a deadline.
package local

import (
	"cmp"
	"context"
	"io"
	"iter"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"dkv/internal/backup"
	"dkv/internal/clock"
	"dkv/internal/feed"
	"dkv/internal/lockqueue"
	"dkv/internal/once"
	"dkv/internal/ops"
	"dkv/maple"
	"dkv/store"
	"dkv/store/engine"
)

// Options says how a store works. The zero value is good for use.
type Options struct {
	Clock    store.Clock    // nil: the system's monotonic clock
	Engine   engine.Factory // zero: Maple
	MaxBytes int64          // what Size of store.Info may come to; 0: no limit
}

// Store is a store.Store and a lock.Backend in memory.
type Store struct {
	ops.Writes
	feed.Watches
	db     engine.Engine
	limit  int64
	reaper reaper
	clock  store.Clock
	feed   *feed.Feed
	locks  *lockqueue.Queues
	closed atomic.Bool

	identity uint64

	clients struct {
		sync.Mutex
		once.Clients
	}
}

var _ store.Store = (*Store)(nil)

// Open returns an empty store.
func Open(opts Options) *Store {
	opts.setDefaults()
	s := newStore(opts)
	s.begin(opts.Engine.New(s.engineOptions()))
	return s
}

// Restore returns a store with the state that is in a backup, which need not be of a
// store in memory. What time was left to keys and locks is left to them now. Errors
// are those of backup.Restore.
func Restore(opts Options, r io.Reader) (*Store, error) {
	opts.setDefaults()
	s := newStore(opts)
	db, _, err := backup.Restore(r, opts.Engine, s.engineOptions())
	if err != nil {
		return nil, err
	}
	s.begin(db)
	s.reaper.arm()
	return s, nil
}

func (opts *Options) setDefaults() {
	if opts.Clock == nil {
		opts.Clock = clock.System{}
	}
	if opts.Engine.New == nil {
		opts.Engine = maple.Factory
	}
}

// newStore returns a store that has no engine yet.
func newStore(opts Options) *Store {
	s := &Store{limit: opts.MaxBytes, identity: rand.Uint64() | 1}
	s.feed = feed.New(func() uint64 { return s.db.Revision() })
	s.Writes, s.Watches = ops.New(s.do), feed.NewWatches(s.watch)
	s.clock, s.reaper.clock = opts.Clock, opts.Clock
	return s
}

func (s *Store) engineOptions() engine.Options {
	return engine.Options{Now: s.clock.Now, Changed: s.changed}
}

// begin makes db the store's engine.
func (s *Store) begin(db engine.Engine) {
	s.db = db
	s.locks = lockqueue.New(db)
	s.reaper.db, s.reaper.locks = s.db, s.locks
}

// Backup writes a backup of the state as it is now; writes go on meanwhile.
func (s *Store) Backup(ctx context.Context, w io.Writer) (store.Backup, error) {
	if s.closed.Load() {
		return store.Backup{}, store.ErrClosed
	}
	if err := ops.CheckContext(ctx); err != nil {
		return store.Backup{}, err
	}
	view := s.db.View()
	defer view.Release()
	return backup.Write(ctx, w, view)
}

// Close drops all that is stored. It may be called more than once.
func (s *Store) Close() error {
	if !s.closed.Swap(true) {
		s.reaper.close()
		s.feed.Close()
	}
	return nil
}

func (s *Store) do(_ context.Context, op *engine.Op, id once.ID) (engine.Result, error) {
	switch {
	case s.closed.Load():
		return engine.Result{}, store.ErrClosed
	case id == once.ID{}:
		return s.apply(op), nil
	}
	s.clients.Lock()
	defer s.clients.Unlock()
	now := s.clock.Now()
	s.clients.Age(now)
	if op.Kind == 0 {
		return engine.Result{Done: true, Revision: s.clients.Enrol(id.Nonce, now)}, nil
	}
	return s.clients.Do(id, now, func() engine.Result { return s.apply(op) }), nil
}

func (s *Store) apply(op *engine.Op) engine.Result {
	if op.Kind == engine.Void {
		return engine.Result{Refusal: engine.Forgotten}
	}
	if op.Kind.OnLock() {
		res := s.locks.Apply(op, s.limit)
		s.reaper.arm() // whoever got the lock may have a deadline
		return res
	}
	res := s.db.Apply(op, s.limit)
	if res.Done && op.HasDeadlines() {
		s.reaper.arm()
	}
	return res
}

func (s *Store) changed(c engine.Change) {
	s.feed.Changed(c)
	s.locks.Changed(c)
}

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, key string) ([]byte, bool, error) {
	if err := s.checkRead(ctx, key); err != nil {
		return nil, false, err
	}
	value, ok := s.db.Get(engine.Keys, key)
	if !ok {
		return nil, false, nil
	}
	return ops.Clone(value), true, nil
}

// GetShared is Get of a value that stays the store's.
func (s *Store) GetShared(ctx context.Context, key string) ([]byte, bool, error) {
	if err := s.checkRead(ctx, key); err != nil {
		return nil, false, err
	}
	value, ok := s.db.Get(engine.Keys, key)
	return value, ok, nil
}

// GetStale is Get: a store in memory is nowhere behind.
func (s *Store) GetStale(ctx context.Context, key string) ([]byte, bool, error) {
	return s.Get(ctx, key)
}

// GetEntry implements store.Store.
func (s *Store) GetEntry(ctx context.Context, key string) (store.Entry, bool, error) {
	if err := s.checkRead(ctx, key); err != nil {
		return store.Entry{}, false, err
	}
	e, ok := s.db.Entry(engine.Keys, key)
	if ok {
		e.Key, e.Value = key, ops.Clone(e.Value)
	}
	return e, ok, nil
}

// Has implements store.Store.
func (s *Store) Has(ctx context.Context, key string) (bool, error) {
	if err := s.checkRead(ctx, key); err != nil {
		return false, err
	}
	return s.db.Has(engine.Keys, key), nil
}

// Scan implements store.Store.
func (s *Store) Scan(ctx context.Context, r store.Range) iter.Seq2[store.Entry, error] {
	return ops.Scan(ctx, r, func() (engine.View, error) {
		if s.closed.Load() {
			return nil, store.ErrClosed
		}
		if r.At != nil {
			s.feed.Start() // from there on, the caller may want to watch
		}
		return s.db.View(), nil
	})
}

// watch begins a watch. What changes is remembered from the first one, or the first
// Scan with a Range.At, on, or from when somebody first waits for a lock.
func (s *Store) watch(ctx context.Context, space engine.Space, what store.Watch) (*feed.Watcher, error) {
	if s.closed.Load() {
		return nil, store.ErrClosed
	}
	if err := cmp.Or(what.Check(), ops.CheckContext(ctx)); err != nil {
		return nil, err
	}
	s.feed.Start()
	return s.feed.Watch(space, what)
}

// AwaitLock implements lock.Backend.
func (s *Store) AwaitLock(ctx context.Context, key string, owner []byte, at store.LockPlace, wait time.Duration) (store.LockPlace, error) {
	if err := s.checkRead(ctx, key); err != nil {
		return store.LockPlace{}, err
	}
	s.feed.Start()
	return lockqueue.Await(ctx, s.feed, func() engine.Engine { return s.db }, key, owner, at, wait)
}

// LockHolder implements lock.Backend.
func (s *Store) LockHolder(ctx context.Context, key string) (store.LockHolder, bool, error) {
	if err := s.checkRead(ctx, key); err != nil {
		return store.LockHolder{}, false, err
	}
	h, ok := lockqueue.Holder(s.db, key)
	return h, ok, nil
}

// Info implements store.Store.
func (s *Store) Info(ctx context.Context) (store.Info, error) {
	if s.closed.Load() {
		return store.Info{}, store.ErrClosed
	}
	info := store.Info{Mode: "memory", Watches: s.feed.Watchers()}
	s.db.Info(&info)
	return info, ops.CheckContext(ctx)
}

func (s *Store) checkRead(ctx context.Context, key string) error {
	if s.closed.Load() {
		return store.ErrClosed
	}
	return ops.CheckRead(ctx, key)
}

// Identity tells this store from one that is opened after it.
func (s *Store) Identity() uint64 { return s.identity }

// Prompt says that reads and writes wait for nothing.
func (*Store) Prompt() bool { return true }

// Live returns store.ErrClosed once Close has been called, else nil.
func (s *Store) Live() error {
	if s.closed.Load() {
		return store.ErrClosed
	}
	return nil
}

// Ready returns at once: a store in memory waits for nobody.
func (s *Store) Ready(ctx context.Context) error {
	if s.closed.Load() {
		return store.ErrClosed
	}
	return ops.CheckContext(ctx)
}
