package enginetest

import (
	"io"
	"sync"
	"sync/atomic"
	"time"

	"dkv/store"
	"dkv/store/engine"
)

// Naive makes engines that are obviously right, and slow: one mutex, a map, a look
// at every key for each question, and a copy of the map for each view. They panic
// where a view is used after its release.
//
// Size of [store.Info] is, for each key and lock, 100 and the lengths of key and
// value, and 40 if it has a deadline.
var Naive = engine.Factory{
	New:  func(opts engine.Options) engine.Engine { return newNaive(opts) },
	Load: func(r io.Reader, opts engine.Options) (engine.Engine, error) { return loadNaive(r, opts) },
}

type naive struct {
	clock   func() time.Duration // nil if only Tick moves the time
	changed func(engine.Change)  // nil if nobody wants to know

	revision atomic.Uint64 // a copy of the state's

	mu struct {
		sync.Mutex
		state state
		views map[*view]struct{} // those that are open
	}
}

func newNaive(opts engine.Options) *naive {
	n := &naive{clock: opts.Now, changed: opts.Changed}
	n.mu.state = state{ticking: opts.Now == nil, records: make(map[place]record)}
	n.mu.views = make(map[*view]struct{})
	return n
}

func loadNaive(r io.Reader, opts engine.Options) (*naive, error) {
	s, err := load(r)
	if err != nil {
		return nil, err
	}
	n := newNaive(opts)
	if n.clock != nil {
		now := n.clock()
		for p, r := range s.records {
			if r.waits > 0 {
				r.settle(now)
			} else {
				r.settle(now - s.now)
			}
			s.records[p] = r
		}
	}
	s.ticking = n.mu.state.ticking
	n.mu.state = s
	n.revision.Store(s.revision)
	return n, nil
}

// lock returns the state as it is now. The caller unlocks n.mu.
func (n *naive) lock() *state {
	n.mu.Lock()
	if n.clock != nil {
		n.mu.state.now = n.clock()
	}
	return &n.mu.state
}

func (n *naive) Get(space engine.Space, key string) ([]byte, bool) {
	e, ok := n.Entry(space, key)
	return e.Value, ok && !e.Expired
}

func (n *naive) Has(space engine.Space, key string) bool {
	_, ok := n.Entry(space, key)
	return ok
}

func (n *naive) Entry(space engine.Space, key string) (store.Entry, bool) {
	s := n.lock()
	defer n.mu.Unlock()
	return s.entry(place{space, key})
}

func (n *naive) Apply(op *engine.Op, limit int64) engine.Result {
	s := n.lock()
	defer n.mu.Unlock()
	defer n.tellLocked()
	return s.apply(op, limit)
}

// tellLocked tells of the changes that were made.
func (n *naive) tellLocked() {
	s := &n.mu.state
	n.revision.Store(s.revision)
	if n.changed != nil {
		for _, c := range s.changed {
			n.changed(c)
		}
	}
	s.changed = nil
}

func (n *naive) Tick(elapsed, lag time.Duration) {
	if n.clock != nil {
		panic("enginetest: Tick of an engine that has a clock")
	}
	s := n.lock()
	defer n.mu.Unlock()
	s.tick(elapsed, lag)
}

func (n *naive) Unsettled() (open bool, settling time.Duration, ok bool) {
	s := n.lock()
	defer n.mu.Unlock()
	return s.unsettled()
}

func (n *naive) Reap(limit int) int {
	s := n.lock()
	defer n.mu.Unlock()
	defer n.tellLocked()
	return s.reap(limit)
}

func (n *naive) NextDeadline() (at time.Duration, ok bool) {
	s := n.lock()
	defer n.mu.Unlock()
	p, ok := s.first()
	if !ok {
		return 0, false
	}
	return s.records[p].next(), true
}

func (n *naive) Now() time.Duration {
	s := n.lock()
	defer n.mu.Unlock()
	return s.now
}

func (n *naive) Revision() uint64 { return n.revision.Load() }

func (n *naive) Skip(revisions uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.mu.state.revision += revisions
	n.revision.Store(n.mu.state.revision)
}

func (n *naive) Info(info *store.Info) {
	s := n.lock()
	defer n.mu.Unlock()
	info.Revision = store.Revision(s.revision)
	info.Keys, info.Locks, info.Waiters, info.Bytes = 0, 0, 0, 0
	for p, r := range s.records {
		switch p.space {
		case engine.Keys:
			info.Keys++
			info.Bytes += int64(len(p.key) + len(r.value))
		case engine.Locks, engine.Shared:
			info.Locks++
		case engine.Waiters:
			info.Waiters++
		}
	}
	info.Size = s.size()
	info.Views = len(n.mu.views)
	info.Retained, info.RetainedBytes = n.retainedLocked()
}

// retainedLocked counts the records that only views hold.
func (n *naive) retainedLocked() (count, size int64) {
	type version struct {
		place    place
		revision uint64
	}
	seen := make(map[version]bool)
	for v := range n.mu.views {
		for p, r := range v.state.records {
			id := version{p, r.revision}
			if n.mu.state.records[p].revision != r.revision && !seen[id] {
				seen[id] = true
				size += r.size(p.key)
			}
		}
	}
	return int64(len(seen)), size
}

func (n *naive) View() engine.View {
	s := n.lock()
	defer n.mu.Unlock()
	v := &view{engine: n, state: s.clone()}
	n.mu.views[v] = struct{}{}
	return v
}

// view is a copy of the state, which does not change.
type view struct {
	engine   *naive
	state    state
	released atomic.Bool
}

func (v *view) open() *state {
	if v.released.Load() {
		panic("enginetest: view used after its release")
	}
	return &v.state
}

func (v *view) Revision() uint64 { return v.open().revision }

func (v *view) Entry(space engine.Space, key string) (store.Entry, bool) {
	return v.open().entry(place{space, key})
}

func (v *view) Scan(space engine.Space, from, to string, reverse bool, yield func(store.Entry) bool) {
	v.open().scan(space, from, to, reverse, yield)
}

func (v *view) Save(w io.Writer) error { return v.open().save(w) }

func (v *view) Checksum() uint64 { return v.open().checksum() }

func (v *view) Release() {
	v.released.Store(true)
	v.engine.mu.Lock()
	defer v.engine.mu.Unlock()
	delete(v.engine.mu.views, v)
}
