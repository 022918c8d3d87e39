package replica

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"dkv/internal/command"
	"dkv/internal/feed"
	"dkv/internal/lockqueue"
	"dkv/internal/once"
	"dkv/store/engine"

	"github.com/cespare/xxhash/v2"
	sm "github.com/lni/dragonboat/v4/statemachine"
)

// How many deadlines one log entry carries out at most. What is left is carried
// out by later entries; readers see no difference. The numbers are part of what
// the replicas agree on: all must use the same.
const (
	reapPerTick  = 8192
	reapPerBatch = 64
)

// The first half of a log entry's result.
const (
	resultOK = iota
	resultMalformed
)

// machine is the replicated state, and Dragonboat's view of it. What it holds
// after log index i is a function of the log up to i alone.
//
// Dragonboat calls Update, PrepareSnapshot, RecoverFromSnapshot and Close one at
// a time. mu is there for checksum, which is called beside them.
type machine struct {
	store   *Store
	factory engine.Factory
	mu      sync.Mutex // guards what is not atomic

	// db is replaced as a whole when a snapshot is recovered, so that readers
	// beside Update see either state and no mixture.
	db       atomic.Pointer[state]
	ticks    uint64 // ticks that counted
	sessions sessions
	clients  *once.Clients
	frozen   *frozen // that Dragonboat has asked for and not written yet, or nil

	// locks are what is known of db's locks. All of it follows from db.
	locks *lockqueue.Queues

	// What is not part of the state: it neither goes into a snapshot or checksum
	// nor decides what an entry does.
	feed     *feed.Feed // what has changed, for those who watch
	progress progress
	applied  atomic.Uint64 // index of the last entry that Update is done with
	applying atomic.Uint64 // index of the entry that it is at, 0 if none

	entry command.Entry // reused
}

// state is the engine that holds the state now.
type state struct{ engine.Engine }

var _ sm.IConcurrentStateMachine = (*machine)(nil)

func newMachine(s *Store, f engine.Factory) *machine {
	m := &machine{store: s, factory: f, sessions: make(sessions), clients: new(once.Clients)}
	m.feed = feed.New(func() uint64 { return m.db.Load().Revision() })
	m.feed.Reset(0)
	m.take(f.New(m.options()))
	return m
}

// options are those of an engine that holds the state.
func (m *machine) options() engine.Options { return engine.Options{Changed: m.changed} }

func (m *machine) changed(c engine.Change) {
	m.feed.Changed(c)
	m.locks.Changed(c)
}

// take makes db the state.
func (m *machine) take(db engine.Engine) {
	m.locks = lockqueue.New(db)
	m.db.Store(&state{db})
}

// reap carries out deadlines, and has the locks that were held until then granted.
func (m *machine) reap(db engine.Engine, limit int) {
	db.Reap(limit)
	m.locks.Settle()
}

// Update applies log entries.
func (m *machine) Update(entries []sm.Entry) ([]sm.Entry, error) {
	m.applying.Store(entries[0].Index)
	defer m.applying.Store(0)
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range entries {
		m.applying.Store(entries[i].Index)
		entries[i].Result = m.apply(entries[i].Cmd)
		m.applied.Store(entries[i].Index)
		m.store.snapshotter.applied(len(entries[i].Cmd))
	}
	m.store.ticker.applied(m)
	return entries, nil
}

func (m *machine) apply(cmd []byte) sm.Result {
	if err := command.Decode(cmd, &m.entry); err != nil {
		// Every replica refuses the same bytes. A newer member's entry that
		// this version does not know is refused by all of this version.
		return sm.Result{Value: resultMalformed}
	}
	db := m.db.Load()
	if m.entry.IsTick {
		m.applyTick(db, m.entry.Tick)
		return sm.Result{}
	}
	b := &m.entry.Batch
	m.progress.note(b)
	if len(b.Ops) == 0 {
		m.store.ticker.wanted() // a member has started, see batcher.start
	}
	results, ok := m.sessions.apply(b, func(i int) engine.Result { return m.applyOp(db, b, i) })
	// An operation may leave two deadlines behind; ticks carry out many more.
	m.reap(db, reapPerBatch+operations(b.Ops))
	if b.Member == m.store.member.Load() && b.Incarnation == m.store.incarnation {
		m.store.batcher.applied(b.Slot, b.Seq, results, ok)
	}
	return sm.Result{}
}

// operations counts those of transactions, too.
func operations(ops []engine.Op) int {
	n := len(ops)
	for i := range ops {
		if t := ops[i].Txn; t != nil {
			n += max(len(t.Then), len(t.Else))
		}
	}
	return n
}

// applyOp applies operation i of a batch.
func (m *machine) applyOp(db engine.Engine, b *command.Batch, i int) engine.Result {
	op, id := &b.Ops[i], b.ID(i)
	switch {
	case id == once.ID{}:
		return m.do(db, op, b.Limit)
	case op.Kind == 0:
		return engine.Result{Done: true, Revision: m.clients.Enrol(id.Nonce, db.Now())}
	}
	return m.clients.Do(id, db.Now(), func() engine.Result { return m.do(db, op, b.Limit) })
}

func (m *machine) do(db engine.Engine, op *engine.Op, limit int64) engine.Result {
	switch {
	case op.Kind == engine.Void:
		return engine.Result{Refusal: engine.Forgotten}
	case op.Kind.OnLock():
		return m.locks.Apply(op, limit)
	}
	return db.Apply(op, limit)
}

func (m *machine) applyTick(db engine.Engine, t command.Tick) {
	if t.Prev != m.ticks {
		return // another tick came first: the time that this one measured is in it
	}
	m.ticks++
	db.Tick(t.Elapsed, t.Lag)
	m.reap(db, reapPerTick)
	m.clients.Age(db.Now())
	m.store.ticker.counted(m.ticks, t.Nonce, db.Now())
}

// Lookup is not used: readers take the DB after a read barrier.
func (m *machine) Lookup(any) (any, error) { return nil, nil }

// Close has nothing to release.
func (m *machine) Close() error { return nil }

// frozen is the state at one index.
type frozen struct {
	view     engine.View
	ticks    uint64
	sessions sessions
	clients  *once.Clients
	applied  uint64
}

// PrepareSnapshot freezes the state, in a time that does not depend on how much the
// engine holds.
func (m *machine) PrepareSnapshot() (any, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.frozen != nil { // the last snapshot was given up before it was written
		m.frozen.view.Release()
	}
	m.frozen = m.freezeLocked()
	return m.frozen, nil
}

// view opens a view of the state after a whole log entry.
func (m *machine) view() engine.View {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.db.Load().View()
}

func (m *machine) freezeLocked() *frozen {
	return &frozen{
		view:     m.db.Load().View(),
		ticks:    m.ticks,
		sessions: m.sessions.clone(),
		clients:  m.clients.Clone(),
		applied:  m.applied.Load(),
	}
}

// Checksum is a hash of the state after one log entry. Members that have applied
// the same entries have equal checksums.
type Checksum struct {
	Index uint64 // of the last entry that is in it
	Sum   uint64
}

func (m *machine) checksum() Checksum {
	m.mu.Lock()
	f := m.freezeLocked()
	m.mu.Unlock()
	defer f.view.Release()
	b := binary.AppendUvarint(nil, f.ticks)
	b = binary.LittleEndian.AppendUint64(b, f.view.Checksum())
	for _, member := range slices.Sorted(maps.Keys(f.sessions)) {
		b = f.sessions[member].append(b, member)
	}
	b = f.clients.Append(b)
	return Checksum{Index: f.applied, Sum: xxhash.Sum64(b)}
}

// SaveSnapshot writes a frozen state. An error other than the two that
// Dragonboat knows would end the process, so a snapshot that cannot be written,
// for want of room on the disk for example, is given up: the log is still there.
func (m *machine) SaveSnapshot(state any, w io.Writer, _ sm.ISnapshotFileCollection, stop <-chan struct{}) error {
	f := state.(*frozen)
	m.mu.Lock()
	m.frozen = nil
	m.mu.Unlock()
	defer f.view.Release()
	if err := f.save(stoppable{w: w, stop: stop}); err != nil {
		select {
		case <-stop:
			return sm.ErrSnapshotStopped
		default:
		}
		if !errors.Is(err, sm.ErrSnapshotAborted) { // which is logged where it comes from
			m.store.log.Warn("snapshot given up", "err", err)
		}
		return sm.ErrSnapshotAborted
	}
	return nil
}

// RecoverFromSnapshot replaces the state by a saved one. If that is damaged, the
// error ends the process, as Dragonboat has it: the member has lost its data.
func (m *machine) RecoverFromSnapshot(r io.Reader, _ []sm.SnapshotFile, stop <-chan struct{}) error {
	f, db, err := load(stoppable{r: r, stop: stop}, m.factory, m.options())
	if err != nil {
		select {
		case <-stop:
			return sm.ErrSnapshotStopped
		default:
		}
		return fmt.Errorf("dkv: recover snapshot: %w", err)
	}
	m.mu.Lock()
	m.ticks = f.ticks
	m.sessions = f.sessions
	m.clients = f.clients
	m.applied.Store(f.applied)
	m.take(db)
	m.store.snapshotter.last.Store(m.store.size())
	m.feed.Reset(db.Revision())
	m.store.ticker.recovered(m)
	m.mu.Unlock()
	m.store.log.Info("state recovered from a snapshot", "index", f.applied, "revision", db.Revision())
	return nil
}

// stoppable is a reader or writer that fails once stop is closed.
type stoppable struct {
	r    io.Reader
	w    io.Writer
	stop <-chan struct{}
}

func (s stoppable) Write(p []byte) (int, error) {
	select {
	case <-s.stop:
		return 0, sm.ErrSnapshotStopped
	default:
		return s.w.Write(p)
	}
}

func (s stoppable) Read(p []byte) (int, error) {
	select {
	case <-s.stop:
		return 0, sm.ErrSnapshotStopped
	default:
		return s.r.Read(p)
	}
}
