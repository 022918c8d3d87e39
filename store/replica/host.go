package replica

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	_ "dkv/internal/stdlog/restore" // the standard logger
	"dkv/store"
	"dkv/store/replica/raftlog"

	"github.com/lni/dragonboat/v4"
	"github.com/lni/dragonboat/v4/client"
	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/dragonboat/v4/logger"
	"github.com/lni/dragonboat/v4/raftio"
	sm "github.com/lni/dragonboat/v4/statemachine"
)

// How Dragonboat is set up. What is marked as persistent is written to the data
// directory and cannot be changed for an existing one.
const (
	shard = 1 // there is one Raft group in a NodeHost; persistent

	// Raft's unit of time. An idle replica works once in it, so it must not be
	// short: at 20 ms it took 2.5% of a core.
	tickMillis     = 50
	heartbeatTicks = 2
	electionTicks  = 8 // an election begins after 400 to 800 ms without a leader

	engineShards = 1 // persistent

	maxInMemLog = 256 << 20 // entries that are not applied yet; over that, proposals are turned away
	maxQueue    = 256 << 20 // messages to and from one peer

	// attemptTimeout is when an attempt that has had no answer is repeated.
	attemptTimeout = time.Second
)

// host is a Dragonboat NodeHost that runs one replica.
type host struct {
	changes *changes

	// gate keeps calls into nh apart from its start and its Close, which they would
	// crash.
	gate struct {
		sync.RWMutex
		open bool // the replica runs
	}

	// Set by start.
	nh      *dragonboat.NodeHost
	replica uint64
	session *client.Session // does not deduplicate: the state machine does
}

// silence keeps Dragonboat from writing to its host program's stderr and from
// having the standard logger to itself. A host program that uses Dragonboat
// itself and has set a logger keeps it.
var silence = sync.OnceFunc(func() {
	defer func() { _ = recover() }() // a logger factory is set already
	logger.SetLoggerFactory(func(string) logger.ILogger { return quiet{} })
})

// quiet is a logger that only panics, with an error, as Dragonboat expects.
type quiet struct{}

func (quiet) SetLevel(logger.LogLevel)  {}
func (quiet) Debugf(string, ...any)     {}
func (quiet) Infof(string, ...any)      {}
func (quiet) Warningf(string, ...any)   {}
func (quiet) Errorf(string, ...any)     {}
func (quiet) Panicf(f string, a ...any) { panic(fmt.Errorf("dragonboat: "+f, a...)) }

// groupID is the Group of an identity. Backup is the checksum of what the group
// begins with, or "".
func groupID(members map[string]string, backup string) uint64 {
	h := fnv.New64a()
	for _, name := range slices.Sorted(maps.Keys(members)) {
		fmt.Fprintf(h, "%q=%q\n", name, members[name])
	}
	if backup != "" {
		fmt.Fprintf(h, "backup=%s\n", backup)
	}
	return max(2, h.Sum64()) // 0 and 1 mean to Dragonboat that there is none
}

// start starts the replica. It returns before the replica has a leader. If it fails
// nothing is left running.
func (h *host) start(dir *directory, opts Options, net config.TransportFactory, space *space, create sm.CreateConcurrentStateMachineFunc) (err error) {
	silence()
	var nh *dragonboat.NodeHost
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("start: %v", r)
		}
		if err != nil && nh != nil {
			err = errors.Join(err, end(nh))
		}
	}()

	id := dir.id()
	nhc := config.NodeHostConfig{
		DeploymentID:        id.Group,
		NodeHostDir:         dir.join(raftDir),
		RTTMillisecond:      tickMillis,
		RaftAddress:         id.Member, // which never changes, as Dragonboat has it
		ListenAddress:       opts.address(),
		RaftEventListener:   h.changes,
		SystemEventListener: h.changes,
		MaxSendQueueSize:    maxQueue,
		MaxReceiveQueueSize: maxQueue,
	}
	nhc.Expert.TransportFactory = net
	nhc.Expert.Engine = config.EngineConfig{
		ExecShards: engineShards, CommitShards: 1, ApplyShards: 1, SnapshotShards: 2, CloseShards: 1,
	}
	factory := raftlog.Factory{Full: space.exhausted, Opened: space.log.Store}
	if id.Witness {
		factory.SegmentSize = witnessSegment
	}
	nhc.Expert.LogDBFactory = factory
	nhc.Expert.LogDB = config.GetTinyMemLogDBConfig() // of which but the shards are looked at
	nhc.Expert.LogDB.Shards = engineShards

	nhc.Expert.FS = dir.fs
	if err := prepareRaftDir(nhc); err != nil {
		return err
	}
	files := &patientFS{FS: dir.fs}
	nhc.Expert.FS = raftFiles(files, h.changes.log)
	nh, err = dragonboat.NewNodeHost(nhc)
	if err != nil {
		return err
	}
	if nh == nil { // Dragonboat has swallowed a panic
		return errors.New("the Raft directory is damaged")
	}
	h.replica = id.Replica // others may know it by its directory from now on
	joins := isJoiner(id.Member)
	first, join := founders(id.Founders).Voters, joins
	if opts.alone() {
		first = map[uint64]string{id.Replica: id.Member}
	}
	if joins {
		first = nil // they are in the log, or will be
	}
	if nh.HasNodeInfo(shard, id.Replica) {
		first, join = nil, false // a restart
	} else if id.Started {
		return fmt.Errorf("what was in %s is gone", raftDir)
	}
	running := func(shard, replica uint64) sm.IConcurrentStateMachine {
		files.runs.Store(true) // Dragonboat has opened what a start opens; what it opens now cannot fail
		return create(shard, replica)
	}
	err = nh.StartConcurrentReplica(first, join, running, config.Config{
		ShardID:             shard,
		ReplicaID:           id.Replica,
		CheckQuorum:         true,
		PreVote:             true,
		OrderedConfigChange: true,
		IsNonVoting:         joins && !id.Witness, // until the log, or a snapshot, says that it votes
		IsWitness:           id.Witness,
		HeartbeatRTT:        heartbeatTicks,
		ElectionRTT:         electionTicks,
		MaxInMemLogSize:     maxInMemLog,
	})
	if err != nil {
		return err
	}
	h.gate.Lock()
	defer h.gate.Unlock()
	h.nh, h.session = nh, nh.GetNoOPSession(shard)
	h.gate.open = true
	return nil
}

// propose tries once to get an entry applied here.
func (h *host) propose(entry []byte, settled, stopping <-chan struct{}) proposal {
	changed := h.changes.wait()
	h.gate.RLock()
	if !h.gate.open {
		h.gate.RUnlock()
		return proposalDropped
	}
	rs, err := h.nh.Propose(h.session, entry, attemptTimeout)
	h.gate.RUnlock()
	if err != nil {
		return proposalDropped
	}
	timeout := time.NewTimer(attemptTimeout)
	defer timeout.Stop()
	select {
	case r := <-rs.ResultC():
		rs.Release()
		switch {
		case r.Completed():
			return proposalApplied
		case r.Dropped():
			return proposalDropped
		}
	case <-settled:
		return proposalApplied
	case <-changed:
		// The old leader may have taken the entry along. If it has, this is
		// sooner than the timeout; if it has not, repeating it does no harm.
	case <-timeout.C:
	case <-stopping:
	}
	return proposalLost
}

// readIndex tries once to get a read barrier through: afterwards, the state here
// holds all that had been acknowledged before the call.
func (h *host) readIndex(over, stopping <-chan struct{}) bool {
	changed := h.changes.wait()
	h.gate.RLock()
	if !h.gate.open {
		h.gate.RUnlock()
		return false
	}
	rs, err := h.nh.ReadIndex(shard, attemptTimeout)
	h.gate.RUnlock()
	if err != nil {
		return false
	}
	timeout := time.NewTimer(attemptTimeout)
	defer timeout.Stop()
	select {
	case r := <-rs.ResultC():
		rs.Release()
		return r.Completed()
	case <-changed:
	case <-timeout.C:
	case <-over:
	case <-stopping:
	}
	return false
}

// snapshot has a snapshot written that lets all but the last keep entries of the
// log go, and tells whether that was done.
func (h *host) snapshot(keep uint64, timeout time.Duration, stopping <-chan struct{}) bool {
	h.gate.RLock()
	if !h.gate.open {
		h.gate.RUnlock()
		return false
	}
	rs, err := h.nh.RequestSnapshot(shard, dragonboat.SnapshotOption{
		OverrideCompactionOverhead: true,
		CompactionOverhead:         keep,
	}, timeout)
	h.gate.RUnlock()
	if err != nil {
		return false
	}
	select {
	case r := <-rs.ResultC():
		rs.Release()
		return r.Completed()
	case <-stopping:
		return false
	}
}

// leader is the replica that leads as far as this one knows, 0 if it knows none.
func (h *host) leader() uint64 {
	id, _ := h.leaderAndTerm()
	return id
}

func (h *host) leaderAndTerm() (replica, term uint64) {
	h.gate.RLock()
	defer h.gate.RUnlock()
	if !h.gate.open {
		return 0, 0
	}
	id, term, ok, err := h.nh.GetLeaderID(shard)
	if err != nil || !ok {
		return 0, 0
	}
	return id, term
}

// leads tells whether this replica leads, as far as it knows.
func (h *host) leads() bool {
	_, leads := h.leadsIn()
	return leads
}

// leadsIn has the term as well.
func (h *host) leadsIn() (term uint64, leads bool) {
	leader, term := h.leaderAndTerm()
	h.gate.RLock()
	defer h.gate.RUnlock()
	return term, leader != 0 && leader == h.replica
}

// handOver has another replica lead, if this one does and one of the others
// takes over before patience ends.
func (h *host) handOver(others []uint64, patience <-chan struct{}) {
	const (
		quorum = 200 * time.Millisecond // to see whether there is one to lead
		settle = 10 * time.Millisecond
	)
	if len(others) == 0 || !h.leads() {
		return
	}
	// A replica ignores the call to lead while it has not applied all that is
	// committed. The barrier's heartbeats tell the others what is; they need a
	// moment to apply it.
	ctx, cancel := context.WithTimeout(context.Background(), quorum)
	defer cancel()
	if !h.readIndex(ctx.Done(), patience) {
		return
	}
	time.Sleep(settle)
	h.transfer(others, func() bool { return !h.leads() }, patience)
}

// requestTransfer asks for another leader, and tells whether it could.
func (h *host) requestTransfer(target uint64) bool {
	h.gate.RLock()
	defer h.gate.RUnlock()
	return h.gate.open && h.nh.RequestLeaderTransfer(shard, target) == nil
}

// transfer asks one replica after the other to lead, until that is done or stop is closed.
func (h *host) transfer(to []uint64, done func() bool, stop <-chan struct{}) {
	const (
		perTarget = 500 * time.Millisecond // then Dragonboat gives a transfer up
		poll      = 2 * time.Millisecond
	)
	for _, target := range to {
		if done() {
			return
		}
		if !h.requestTransfer(target) {
			continue
		}
		for end := time.Now().Add(perTarget); !done() && time.Now().Before(end); {
			select {
			case <-time.After(poll):
			case <-stop:
				return
			}
		}
	}
}

// transferTo has one of some replicas lead, whoever leads now, and waits a while until one
// does.
func (h *host) transferTo(ctx context.Context, to []uint64) {
	h.transfer(to, func() bool { return slices.Contains(to, h.leader()) }, ctx.Done())
}

// membership asks for the membership, with a read barrier.
func (h *host) membership(ctx context.Context) (m membership, err error) {
	h.gate.RLock()
	defer h.gate.RUnlock()
	if !h.gate.open {
		return m, store.ErrUnavailable
	}
	brief, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	got, err := h.nh.SyncGetShardMembership(brief, shard)
	if err != nil {
		return m, err
	}
	m = membership{Change: got.ConfigChangeID, Voters: got.Nodes, Learners: got.NonVotings, Witnesses: got.Witnesses}
	m.Removed = slices.Sorted(maps.Keys(got.Removed))
	return m, nil
}

// voters are those that are known here, and the change that has made them so.
func (h *host) voters() (voters map[uint64]string, change uint64, ok bool) {
	h.gate.RLock()
	defer h.gate.RUnlock()
	if !h.gate.open {
		return nil, 0, false
	}
	info := h.nh.GetNodeHostInfo(dragonboat.NodeHostInfoOption{SkipLogInfo: true})
	if info == nil || len(info.ShardInfoList) == 0 || info.ShardInfoList[0].Pending {
		return nil, 0, false
	}
	of := info.ShardInfoList[0]
	return maps.Clone(of.Replicas), of.ConfigChangeIndex, len(of.Replicas) > 0
}

// await makes a request of Dragonboat and waits for what comes of it. It is true if the
// request was carried out.
func (h *host) await(ctx context.Context, ask func() (*dragonboat.RequestState, error)) bool {
	h.gate.RLock()
	if !h.gate.open {
		h.gate.RUnlock()
		return false
	}
	rs, err := ask()
	h.gate.RUnlock()
	if err != nil {
		return false
	}
	timeout := time.NewTimer(2 * changeTimeout) // Dragonboat's own stands still with its disk
	defer timeout.Stop()
	select {
	case r := <-rs.ResultC():
		rs.Release()
		return r.Completed()
	case <-ctx.Done():
	case <-timeout.C:
	}
	return false
}

// close stops the replica, if it runs, and waits for it. It is not to be started any more.
func (h *host) close() error {
	h.gate.Lock()
	open := h.gate.open
	h.gate.open = false
	h.gate.Unlock()
	if !open {
		return nil
	}
	return end(h.nh)
}

// end closes a NodeHost. That a file or a listener could not be closed in good order is no
// reason to end the host program, as Dragonboat has it.
func end(nh *dragonboat.NodeHost) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("dkv: not closed in good order: %v", r)
		}
	}()
	nh.Close()
	return nil
}

// runs tells whether the replica does.
func (h *host) runs() bool {
	h.gate.RLock()
	defer h.gate.RUnlock()
	return h.gate.open
}

// changes tells those who wait that another replica leads, and that the members are
// others.
type changes struct {
	listener
	log     *slog.Logger
	name    func(replica uint64) string
	members chan struct{} // has room for one
	deleted func()

	mu     sync.Mutex
	leader uint64
	next   chan struct{}
}

// listener ignores what Dragonboat tells.
type listener struct{}

func (listener) NodeHostShuttingDown()                       {}
func (listener) NodeUnloaded(raftio.NodeInfo)                {}
func (listener) NodeDeleted(raftio.NodeInfo)                 {}
func (listener) NodeReady(raftio.NodeInfo)                   {}
func (listener) MembershipChanged(raftio.NodeInfo)           {}
func (listener) ConnectionEstablished(raftio.ConnectionInfo) {}
func (listener) ConnectionFailed(raftio.ConnectionInfo)      {}
func (listener) SendSnapshotStarted(raftio.SnapshotInfo)     {}
func (listener) SendSnapshotCompleted(raftio.SnapshotInfo)   {}
func (listener) SendSnapshotAborted(raftio.SnapshotInfo)     {}
func (listener) SnapshotReceived(raftio.SnapshotInfo)        {}
func (listener) SnapshotRecovered(raftio.SnapshotInfo)       {}
func (listener) SnapshotCreated(raftio.SnapshotInfo)         {}
func (listener) SnapshotCompacted(raftio.SnapshotInfo)       {}
func (listener) LogCompacted(raftio.EntryInfo)               {}
func (listener) LogDBCompacted(raftio.EntryInfo)             {}

// MembershipChanged implements raftio.ISystemEventListener.
func (c *changes) MembershipChanged(raftio.NodeInfo) { c.again() }

func (c *changes) again() {
	select {
	case c.members <- struct{}{}:
	default:
	}
}

// SendSnapshotStarted implements raftio.ISystemEventListener.
func (c *changes) SendSnapshotStarted(i raftio.SnapshotInfo) {
	c.log.Info("snapshot is sent", "to", c.name(i.ReplicaID))
}

// SendSnapshotCompleted implements raftio.ISystemEventListener.
func (c *changes) SendSnapshotCompleted(i raftio.SnapshotInfo) {
	c.log.Info("snapshot sent", "to", c.name(i.ReplicaID))
}

// SendSnapshotAborted implements raftio.ISystemEventListener.
func (c *changes) SendSnapshotAborted(i raftio.SnapshotInfo) {
	c.log.Warn("snapshot not sent", "to", c.name(i.ReplicaID))
}

// SnapshotReceived implements raftio.ISystemEventListener.
func (c *changes) SnapshotReceived(i raftio.SnapshotInfo) {
	c.log.Info("snapshot received", "from", c.name(i.From))
}

// NodeDeleted implements raftio.ISystemEventListener: the replica was removed.
func (c *changes) NodeDeleted(raftio.NodeInfo) { c.deleted() }

// LeaderUpdated implements raftio.IRaftEventListener.
func (c *changes) LeaderUpdated(info raftio.LeaderInfo) {
	c.log.Debug("term", "term", info.Term, "replica", info.LeaderID)
	c.mu.Lock()
	if info.LeaderID == raftio.NoLeader || info.LeaderID == c.leader {
		c.mu.Unlock()
		return
	}
	c.leader = info.LeaderID
	close(c.next)
	c.next = make(chan struct{})
	c.mu.Unlock()
	c.log.Info("leader known", "leader", c.name(info.LeaderID), "term", info.Term)
}

// wait returns a channel that is closed when the next leader is known.
func (c *changes) wait() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.next
}
