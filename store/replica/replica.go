package replica

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"dkv/internal/clock"
	"dkv/internal/command"
	"dkv/internal/feed"
	"dkv/internal/lockqueue"
	"dkv/internal/ops"
	"dkv/internal/raftnet"
	"dkv/maple"
	"dkv/store"
	"dkv/store/engine"

	"github.com/lni/dragonboat/v4/config"
	sm "github.com/lni/dragonboat/v4/statemachine"
	"github.com/lni/vfs"
)

// Options says what a store is. Dir is required; the zero value of every other
// field is its default.
type Options struct {
	// Dir is the data directory. It is made if need be, and belongs to one
	// member of one group for ever.
	Dir string

	// Node is this member's name, and Members has the address of the Raft port
	// of every founding member, this one included, as host:port by name. They
	// must be the same on all members and each time the directory is opened.
	// Without Members the group is this member alone, and uses no network.
	Node    string
	Members map[string]string

	// Logger gets what an operator may want to know. Default: nothing is
	// logged.
	Logger *slog.Logger

	// Clock measures deadlines. Default: the system's monotonic clock.
	Clock store.Clock

	// Engine makes what holds the state. All members must use the same.
	// Default: Maple.
	Engine engine.Factory

	// MaxBytes is the Size of store.Info beyond which this member's operations
	// do not take the store: they fail with store.ErrFull. Default: no limit.
	MaxBytes int64

	// SnapshotBytes is how much is written to the log before the state is
	// saved and the log cut short; more if the state is larger than that.
	// Default: 64 MiB.
	SnapshotBytes int64

	// Tests replace these.
	fs        vfs.FS
	transport config.TransportFactory
}

// closeTimeout bounds Close: admitted operations have drainTimeout to finish,
// handing over leadership and stopping share the rest.
const (
	drainTimeout = 2 * time.Second
	handTimeout  = time.Second
	closeTimeout = 4500 * time.Millisecond
)

// Store is a store.Store and a lock.Backend that is one replica of a group.
type Store struct {
	ops.Writes
	feed.Watches
	log  *slog.Logger
	dir  *directory
	host *host

	member      uint64 // this replica's number
	incarnation uint64
	names       map[uint64]string // of all replicas

	machine     *machine
	batcher     batcher
	barriers    barriers
	ticker      ticker
	snapshotter snapshotter
	applying    watch

	phase   atomic.Uint32 // see phaseStarting
	closing sync.Once
	closed  chan struct{}
	err     error // of Close; set before closed is closed
}

var _ store.Store = (*Store)(nil)

// Open starts the replica and returns without waiting for its peers; operations
// wait until a quorum of the members is there. Errors that wrap
// store.ErrBadOptions name each field that is at fault; nothing is left running
// then, and no data was changed.
func Open(opts Options) (*Store, error) {
	if err := opts.setDefaults(); err != nil {
		return nil, err
	}
	dir, err := openDirectory(opts)
	if err != nil {
		return nil, err
	}
	s := &Store{
		log:         opts.Logger,
		dir:         dir,
		incarnation: dir.identity.Incarnation,
		names:       map[uint64]string{1: opts.Node},
		closed:      make(chan struct{}),
	}
	for name, id := range replicaIDs(opts.Members) {
		s.names[id] = name
		if name == opts.Node {
			s.member = id
		}
	}
	if len(opts.Members) == 0 {
		s.member = 1
	}
	s.Writes, s.Watches = ops.New(s.batcher.do), feed.NewWatches(s.watch)
	s.init(opts)
	s.host, err = startHost(dir, opts, &s.batcher.space, func(uint64, uint64) sm.IConcurrentStateMachine { return s.machine })
	if err != nil {
		dir.undo()
		dir.close()
		return nil, startError(opts, err)
	}
	if err := dir.started(); err != nil {
		s.host.close()
		dir.close()
		return nil, badDir(opts.Dir, err)
	}
	s.start()
	s.log.Info("replica started", "dir", dir.path, "incarnation", s.incarnation)
	return s, nil
}

// init makes the parts ready to be called by the state machine.
func (s *Store) init(opts Options) {
	s.machine = newMachine(s, opts.Engine)
	s.batcher.init(s.member, s.incarnation, s.machine.applied.Load)
	s.batcher.limit = opts.MaxBytes
	s.barriers.init()
	s.ticker.init(opts.Clock)
	every := opts.SnapshotBytes
	s.snapshotter.init(every, every*int64(s.member-1)/int64(len(s.names)))
	s.batcher.space.init(s.dir.free, s.size)
}

// size is roughly how much a snapshot of the state takes.
func (s *Store) size() int64 {
	var info store.Info
	s.machine.db.Load().Info(&info)
	return info.Bytes
}

// start has the parts work, now that there is a host.
func (s *Store) start() {
	s.batcher.propose = func(entry []byte, settled <-chan struct{}) proposal {
		return s.host.propose(entry, settled, s.batcher.stopping)
	}
	s.batcher.start()

	s.barriers.issue = func(over <-chan struct{}) bool {
		through := s.host.readIndex(over, s.barriers.stopping)
		if through {
			s.phase.CompareAndSwap(phaseStarting, phaseCurrent)
		}
		return through
	}
	s.barriers.start()

	s.ticker.leading = s.host.leads
	s.ticker.propose = func(t command.Tick, stopping <-chan struct{}) {
		s.host.propose(command.AppendTick(nil, t), nil, stopping)
	}
	s.ticker.start()

	s.snapshotter.size = s.size
	s.snapshotter.snapshot = func(keep int, stopping <-chan struct{}) bool {
		if !s.batcher.space.forSnapshot() {
			s.log.Warn("no room on the disk for a snapshot", "dir", s.dir.path)
			return false
		}
		return s.host.snapshot(uint64(keep), snapshotTimeout, stopping)
	}
	s.snapshotter.start()
}

func (o *Options) setDefaults() error {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = clock.System{}
	}
	if o.Engine.New == nil {
		o.Engine = maple.Factory
	}
	if o.SnapshotBytes == 0 {
		o.SnapshotBytes = 64 << 20
	}
	if o.fs == nil {
		o.fs = vfs.Default
	}
	if o.transport == nil {
		o.transport = raftnet.Factory{}
	}
	o.Members = maps.Clone(o.Members)
	return o.validate()
}

// validate names every fault at once.
func (o *Options) validate() error {
	var faults []string
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	if o.Dir == "" {
		fault("Dir is empty: a replica needs a data directory")
	}
	if o.SnapshotBytes < 0 {
		fault("SnapshotBytes is negative")
	}
	if o.MaxBytes < 0 {
		fault("MaxBytes is negative")
	}
	if len(o.Members) > 0 {
		if o.Node == "" {
			fault("Node is empty: it says which of Members this is")
		} else if _, ok := o.Members[o.Node]; !ok {
			fault("Node %q is not among Members %s", o.Node, memberList(o.Members))
		}
	}
	used := make(map[string]string)
	for _, name := range slices.Sorted(maps.Keys(o.Members)) {
		addr := o.Members[name]
		if name == "" {
			fault("Members has an empty name, for %q", addr)
		}
		if err := checkAddress(addr); err != nil {
			fault("Members[%q]: %v", name, err)
		}
		if other, ok := used[addr]; ok {
			fault("Members[%q] and Members[%q] have the same address %q", other, name, addr)
		}
		used[addr] = name
	}
	if faults == nil {
		return nil
	}
	return fmt.Errorf("%w: %s", store.ErrBadOptions, strings.Join(faults, "; "))
}

func checkAddress(addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("%q is not host:port", addr)
	}
	if n, err := net.LookupPort("tcp", port); err != nil || n == 0 {
		return fmt.Errorf("%q has no valid port", addr)
	}
	if host == "" {
		return fmt.Errorf("%q has no host: the others could not reach it", addr)
	}
	if !config.IsValidAddress(addr) {
		return fmt.Errorf("%q has neither an IP address nor a valid host name", addr)
	}
	return nil
}

// startError says which field of Options a failure of Dragonboat's start is due
// to.
func startError(opts Options, err error) error {
	if op := (*net.OpError)(nil); errors.As(err, &op) {
		return fmt.Errorf("%w: Members[%q]: %w", store.ErrBadOptions, opts.Node, err)
	}
	return badDir(opts.Dir, err)
}

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, key string) ([]byte, bool, error) {
	db, err := s.read(ctx, key)
	if err != nil {
		return nil, false, err
	}
	return get(db, key)
}

// GetEntry implements store.Store.
func (s *Store) GetEntry(ctx context.Context, key string) (store.Entry, bool, error) {
	db, err := s.read(ctx, key)
	if err != nil {
		return store.Entry{}, false, err
	}
	return entry(db, key)
}

// GetEntryStale is GetEntry of what this member knows.
func (s *Store) GetEntryStale(ctx context.Context, key string) (store.Entry, bool, error) {
	if err := ops.CheckRead(ctx, key); err != nil {
		return store.Entry{}, false, err
	}
	if s.phase.Load() != phaseCurrent {
		if err := s.current(ctx); err != nil {
			return store.Entry{}, false, err
		}
	}
	return entry(s.machine.db.Load(), key)
}

// entry returns a copy of what is known of key.
func entry(db engine.Engine, key string) (store.Entry, bool, error) {
	e, ok := db.Entry(engine.Keys, key)
	if ok {
		e.Key, e.Value = key, ops.Clone(e.Value)
	}
	return e, ok, nil
}

// Has implements store.Store.
func (s *Store) Has(ctx context.Context, key string) (bool, error) {
	db, err := s.read(ctx, key)
	if err != nil {
		return false, err
	}
	return db.Has(engine.Keys, key), nil
}

// Scan implements store.Store.
func (s *Store) Scan(ctx context.Context, r store.Range) iter.Seq2[store.Entry, error] {
	return ops.Scan(ctx, r, func() (engine.View, error) {
		if err := s.barriers.wait(ctx); err != nil {
			return nil, err
		}
		return s.machine.view(), nil
	})
}

// watch begins a watch. A member remembers what it has applied since it was opened or
// received a snapshot. One from now on is from behind all that has been
// acknowledged anywhere, and one from a revision that is not known here may be so
// because this member is behind; both wait for a barrier.
func (s *Store) watch(ctx context.Context, space engine.Space, what store.Watch) (*feed.Watcher, error) {
	if err := cmp.Or(what.Check(), ops.CheckContext(ctx)); err != nil {
		return nil, err
	}
	if what.From == 0 || !s.machine.feed.Knows(what.From) {
		if err := s.barriers.wait(ctx); err != nil {
			return nil, err
		}
	}
	return s.machine.feed.Watch(space, what)
}

// AwaitLock implements lock.Backend.
func (s *Store) AwaitLock(ctx context.Context, key string, owner []byte, at store.LockPlace, wait time.Duration) (store.LockPlace, error) {
	if err := ops.CheckRead(ctx, key); err != nil {
		return store.LockPlace{}, err
	}
	if s.machine.db.Load().Revision() < uint64(at.At) { // it has joined by way of another member
		if err := s.barriers.wait(ctx); err != nil {
			return store.LockPlace{}, err
		}
	}
	return lockqueue.Await(ctx, s.machine.feed, s.engine, key, owner, at, wait)
}

// engine holds the state now.
func (s *Store) engine() engine.Engine { return s.machine.db.Load() }

// LockHolder implements lock.Backend.
func (s *Store) LockHolder(ctx context.Context, key string) (store.LockHolder, bool, error) {
	db, err := s.read(ctx, key)
	if err != nil {
		return store.LockHolder{}, false, err
	}
	h, ok := lockqueue.Holder(db, key)
	return h, ok, nil
}

// read returns the state for a linearizable read of key.
func (s *Store) read(ctx context.Context, key string) (engine.Engine, error) {
	if err := ops.CheckRead(ctx, key); err != nil {
		return nil, err
	}
	if err := s.barriers.wait(ctx); err != nil {
		return nil, err
	}
	return s.machine.db.Load(), nil
}

// Info implements store.Store. It asks nobody and waits for nothing.
func (s *Store) Info(ctx context.Context) (store.Info, error) {
	select {
	case <-s.closed:
		return store.Info{}, store.ErrClosed
	default:
	}
	info := store.Info{
		Mode:    "replicated",
		Node:    s.names[s.member],
		Leader:  s.names[s.host.leader()],
		Members: slices.Sorted(maps.Values(s.names)),
		Applied: s.machine.applied.Load(),
		Watches: s.machine.feed.Watchers(),
	}
	info.Progress = s.machine.progress.byName(s.names)
	info.Progress[info.Node] = info.Applied
	if len(s.names) == 1 {
		info.Mode = "durable"
	}
	s.machine.db.Load().Info(&info)
	return info, ops.CheckContext(ctx)
}

// Identity is that of the group, 0 if it is this member alone.
func (s *Store) Identity() uint64 {
	if len(s.names) == 1 {
		return 0
	}
	return groupID(s.dir.identity.Members)
}

// Prompt says that writes wait for a quorum, and reads for a barrier.
func (*Store) Prompt() bool { return false }

// Barrier waits until this member has applied all that was acknowledged before the
// call: what GetStale finds then is what Get would.
func (s *Store) Barrier(ctx context.Context) error {
	if err := ops.CheckContext(ctx); err != nil {
		return err
	}
	return s.barriers.wait(ctx)
}

// DoTogether is DoOnce for each of the writes that has no error yet. They are queued
// at once, and waited for together.
func (s *Store) DoTogether(ctx context.Context, writes []ops.Write) {
	ops.DoTogether(ctx, writes, s.batcher.doTogether)
}

// Leads tells whether this member leads its group, as far as it knows.
func (s *Store) Leads() bool { return s.host.leads() }

// Checksum is a hash of the state as it is here now.
func (s *Store) Checksum() Checksum { return s.machine.checksum() }

// Ready waits until a quorum of the members answers a linearizable read.
func (s *Store) Ready(ctx context.Context) error {
	if err := ops.CheckContext(ctx); err != nil {
		return err
	}
	return s.barriers.wait(ctx)
}

// ErrCloseTimeout is returned by Close if the replica had not stopped within 5 s.
// It goes on stopping, and the directory stays in use until it has.
var ErrCloseTimeout = errors.New("dkv: close: still stopping")

// Close turns new operations away, lets those under way finish, hands leadership
// over to another member and stops. Operations that do not finish in time end
// with store.ErrUnknown, or store.ErrClosed if they had no effect. It returns
// within 5 s and may be called more than once.
func (s *Store) Close() error {
	s.closing.Do(func() {
		s.phase.Store(phaseClosing)
		patience := time.NewTimer(closeTimeout)
		defer patience.Stop()
		stopped := make(chan struct{})
		go func() {
			s.stop()
			close(stopped)
		}()
		select {
		case <-stopped:
		case <-patience.C:
			s.err = ErrCloseTimeout
		}
		close(s.closed)
	})
	<-s.closed
	return s.err
}

func (s *Store) stop() {
	s.machine.feed.Close()
	drain, cancelDrain := context.WithTimeout(context.Background(), drainTimeout)
	defer cancelDrain()
	var admitted sync.WaitGroup
	admitted.Go(func() { s.batcher.close(drain.Done()) })
	admitted.Go(func() { s.barriers.close(drain.Done()) })
	admitted.Wait()
	s.snapshotter.close()

	hand, cancelHand := context.WithTimeout(context.Background(), handTimeout)
	defer cancelHand()
	s.ticker.close(hand.Done())
	var others []uint64
	for id := range s.names {
		if id != s.member {
			others = append(others, id)
		}
	}
	slices.Sort(others)
	s.host.handOver(others, hand.Done())
	s.host.close()
	s.dir.close()
	s.log.Info("replica stopped", "dir", s.dir.path)
}
