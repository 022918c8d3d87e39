package replica

import (
	"cmp"
	"context"
	"errors"
	"iter"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"dkv/internal/command"
	"dkv/internal/feed"
	"dkv/internal/lockqueue"
	"dkv/internal/ops"
	"dkv/internal/raftnet"
	"dkv/store"
	"dkv/store/engine"

	"github.com/lni/dragonboat/v4/config"
	sm "github.com/lni/dragonboat/v4/statemachine"
)

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

	node        string
	member      atomic.Uint64 // this replica's number, 0 while it has none
	incarnation uint64

	lone alone // the network of a group of one

	// Of a member that is not alone.
	members  *members // nil if it is
	net      *raftnet.Transport
	security *raftnet.Security
	learner  bool          // it joins, and is not to vote
	witness  bool          // it has no data
	joinBy   []string      // addresses of Options.Join
	invited  chan []string // addresses of members that have it join
	isMember chan struct{} // closed once it is what it is to be
	joined   sync.Once     // isMember is closed
	dropping atomic.Bool   // a goroutine tries to remove the backup
	counting counting

	background       sync.WaitGroup // join and follow
	cancelBackground context.CancelFunc

	begun     chan struct{} // closed when Open is done with it
	unsettled atomic.Bool   // a member is gone, and that may not be on the disk yet
	removing  sync.Once
	ending    ending

	machine     *machine
	batcher     batcher
	barriers    barriers
	ticker      ticker
	snapshotter snapshotter
	applying    watch
	followers   *followers // nil without a network, and before the replica starts

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
func Open(opts Options) (_ *Store, err error) {
	if l := opts.PeerListener; l != nil {
		defer func() {
			if err != nil {
				l.Close()
			}
		}()
	}
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
		node:        opts.Node,
		incarnation: dir.identity.Incarnation,
		security:    opts.security,
		learner:     opts.Learner,
		witness:     dir.identity.Witness,
		joinBy:      opts.Join,
		invited:     make(chan []string, 1),
		counting:    counting{asking: make(chan struct{}, 1)},
		isMember:    make(chan struct{}),
		begun:       make(chan struct{}),
		closed:      make(chan struct{}),
	}
	s.member.Store(dir.identity.Replica)
	if !opts.alone() {
		s.members = newMembers(opts, dir)
		s.members.removed, s.members.answer = s.wasRemoved, s.answer
		s.members.drop = func(label string) { s.net.Drop(label) }
		s.net = raftnet.Factory{
			Members: s.members, Security: opts.security, Logger: opts.Logger, Listener: opts.PeerListener,
			Running: func() bool { return s.host.runs() },
		}.New(opts.address())
	}
	s.host = &host{changes: &changes{
		log:     opts.Logger,
		name:    func(replica uint64) string { return s.names()[replica] },
		members: make(chan struct{}, 1),
		deleted: func() { s.wasRemoved("") },
		next:    make(chan struct{}),
	}}
	s.Writes, s.Watches = ops.New(s.batcher.do), feed.NewWatches(s.watch)
	s.init(opts)
	if err := s.begin(opts); err != nil {
		s.closing.Do(func() { close(s.closed) }) // nobody else is to close what is closed here
		close(s.begun)
		err = errors.Join(err, s.host.close())
		if s.net != nil {
			s.net.Close()
		}
		if s.host.replica == 0 { // it has not voted, and nobody has met it
			dir.undo()
		}
		dir.close()
		return nil, err
	}
	close(s.begun)
	s.log.Info("replica opened", "dir", dir.path, "incarnation", s.incarnation)
	return s, nil
}

// begin starts what there is to start.
func (s *Store) begin(opts Options) error {
	if err := s.restore(); err != nil {
		return badDir(opts.Dir, err)
	}
	joins := isJoiner(s.dir.identity.Member)
	switch {
	case s.isJoining():
		if err := s.net.Start(); err != nil { // so that the port is known to be free
			return startError(opts, err)
		}
	case !joins && !s.dir.identity.Started && s.members != nil:
		if err := s.mayBegin(); err != nil {
			return badDir(opts.Dir, err)
		}
		fallthrough
	default:
		if err := s.startReplica(opts); err != nil {
			return err
		}
	}
	s.barriers.start()
	ctx, cancel := context.WithCancel(context.Background())
	s.cancelBackground = cancel
	if joins {
		s.background.Go(func() { s.join(ctx, opts) })
	} else {
		s.joined.Do(func() { close(s.isMember) })
	}
	if s.alone() {
		s.background.Go(func() { s.lone.lead(ctx, s.host) })
	} else {
		s.background.Go(func() { s.follow(ctx) })
	}
	return nil
}

// startReplica starts the replica, whose number is known, and what works with it.
func (s *Store) startReplica(opts Options) error {
	id := s.dir.id()
	net := config.TransportFactory(&s.lone)
	if s.net != nil {
		net = s.net
		if opts.wrapNet != nil {
			net = opts.wrapNet(net)
		}
		s.followers = newFollowers(&s.batcher.space.log, s.haveFirst, s.isWitness, s.turned)
		net = savedFirst{net, s.followers}
	}
	s.member.Store(id.Replica)
	s.batcher.member = id.Replica
	err := s.host.start(s.dir, opts, net, &s.batcher.space, func(uint64, uint64) sm.IConcurrentStateMachine { return s.machine })
	if err != nil {
		return startError(opts, err)
	}
	if err := s.dir.started(); err != nil {
		return badDir(opts.Dir, err)
	}
	s.start(opts)
	s.log.Info("replica started", "member", s.node, "replica", id.Replica)
	return nil
}

// alone tells whether the group is this member alone, and uses no network.
func (s *Store) alone() bool { return s.members == nil }

// names has the name of each member by its replica.
func (s *Store) names() map[uint64]string {
	if s.alone() {
		return map[uint64]string{1: s.node}
	}
	m := s.members.membership()
	return m.names()
}

// init makes the parts ready to be called by the state machine, and to be closed.
func (s *Store) init(opts Options) {
	s.machine = newMachine(s, opts.Engine)
	s.batcher.init(s.member.Load(), s.incarnation, s.machine.applied.Load)
	s.batcher.limit, s.batcher.ending = opts.MaxBytes, &s.ending
	s.barriers.init()
	s.barriers.ending = &s.ending
	if s.witness {
		s.batcher.refusal, s.barriers.refusal = errWitness, errWitness
	}
	s.barriers.issue = func(over <-chan struct{}) bool {
		through := s.host.readIndex(over, s.barriers.stopping)
		if through {
			s.phase.CompareAndSwap(phaseStarting, phaseCurrent)
		}
		return through
	}
	s.ticker.init(opts.Clock)
	s.ticker.leading = s.host.leads
	s.ticker.propose = func(t command.Tick, stopping <-chan struct{}) {
		s.host.propose(command.AppendTick(nil, t), nil, stopping)
	}
	every, id := opts.SnapshotBytes, &s.dir.identity
	headStart := every * int64(id.Directory%8) / 8
	if n := len(id.Founders); n > 0 {
		headStart = every * int64(id.Replica-1) / int64(n)
	}
	s.snapshotter.init(every, headStart)
	s.batcher.space.init(s.dir.free, s.size)
}

// size is roughly how much a snapshot of the state takes.
func (s *Store) size() int64 {
	var info store.Info
	s.machine.db.Load().Info(&info)
	return info.Bytes
}

// start has the parts work, now that there is a host.
func (s *Store) start(opts Options) {
	if s.witness {
		return // it proposes nothing, and has nothing to save
	}
	s.batcher.propose = func(entry []byte, settled <-chan struct{}) proposal {
		return s.host.propose(entry, settled, s.batcher.stopping)
	}
	s.batcher.start()

	s.ticker.start()

	s.snapshotter.size = s.size
	s.snapshotter.snapshot = func(keep int, stopping <-chan struct{}) bool {
		if !s.batcher.space.forSnapshot() {
			s.log.Warn("no room on the disk for a snapshot", "dir", s.dir.path)
			return false
		}
		if opts.noSnapshots || !s.host.snapshot(uint64(keep), snapshotTimeout, stopping) {
			return false
		}
		s.dropBackup(stopping)
		return true
	}
	s.snapshotter.start()
}

// dropBackup removes the backup that the store began with, once a snapshot has what is in it.
// No node can join before. If it cannot, it tries on in the background.
func (s *Store) dropBackup(stopping <-chan struct{}) {
	drop := func() bool {
		err := s.dir.dropBackup()
		if err != nil {
			s.log.Warn("backup not removed", "dir", s.dir.path, "err", err)
		}
		return err == nil
	}
	if drop() || !s.dropping.CompareAndSwap(false, true) {
		return
	}
	s.snapshotter.worker.Go(func() {
		defer s.dropping.Store(false)
		for {
			select {
			case <-time.After(snapshotRetry):
			case <-stopping:
				return
			}
			if drop() {
				return
			}
		}
	})
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
	if err := cmp.Or(what.Check(), ops.CheckContext(ctx), s.hasData()); err != nil {
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
	if err := cmp.Or(ops.CheckRead(ctx, key), s.hasData()); err != nil {
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
		return store.Info{}, s.ending.err()
	default:
	}
	names := s.names()
	info := store.Info{
		Mode:    "replicated",
		Node:    s.node,
		Leader:  names[s.host.leader()],
		Members: slices.Sorted(maps.Values(names)),
		Applied: s.machine.applied.Load(),
		Watches: s.machine.feed.Watchers(),
	}
	info.Progress = s.machine.progress.byName(names)
	info.Progress[info.Node] = info.Applied
	switch {
	case s.witness:
		info.Mode = "witness"
	case len(names) == 1:
		info.Mode = "durable"
	}
	s.machine.db.Load().Info(&info)
	return info, ops.CheckContext(ctx)
}

// Identity is that of the group, 0 if it is this member alone.
func (s *Store) Identity() uint64 {
	if s.alone() {
		return 0
	}
	return s.dir.id().Group
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

// Ready waits until a quorum of the members answers a linearizable read, and until a node
// that joins a group votes, or learns if that is all that it is to do. A witness has
// another member answer. In a group with one, a member with data waits until it has all that
// the witness has, and the leader does not go on without it.
func (s *Store) Ready(ctx context.Context) error {
	if s.witness {
		return s.awaitVote(ctx)
	}
	if s.alone() {
		return s.Barrier(ctx)
	}
	if err := ops.CheckContext(ctx); err != nil {
		return err
	}
	select {
	case <-s.isMember:
		m, err := s.membership(ctx) // behind a barrier
		if err != nil {
			return err
		}
		return s.awaitCounting(ctx, m)
	case <-s.closed:
		return s.ending.err()
	case <-ctx.Done():
		return ops.Ended(store.ErrUnavailable, ctx)
	}
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
		stopped := make(chan error, 1)
		go func() { stopped <- s.stop() }()
		select {
		case s.err = <-stopped:
		case <-patience.C:
			s.err = ErrCloseTimeout
		}
		close(s.closed)
	})
	<-s.closed
	return s.err
}

func (s *Store) stop() error {
	s.machine.feed.Close()
	s.cancelBackground()
	s.background.Wait()
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
	if s.members != nil {
		m := s.members.membership()
		others = s.others(&m, s.member.Load())
	}
	s.host.handOver(others, hand.Done())
	err := s.host.close()
	if s.net != nil {
		s.net.Close() // if the host has never had it
	}
	s.dir.close()
	s.log.Info("replica stopped", "dir", s.dir.path, "err", err)
	return err
}
