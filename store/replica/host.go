package replica

import (
	"context"
	"crypto/md5"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	_ "dkv/internal/stdlog/restore" // the standard logger
	"dkv/store/replica/raftlog"

	"github.com/lni/dragonboat/v4"
	"github.com/lni/dragonboat/v4/client"
	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/dragonboat/v4/logger"
	"github.com/lni/dragonboat/v4/raftio"
	"github.com/lni/dragonboat/v4/raftpb"
	sm "github.com/lni/dragonboat/v4/statemachine"
	"github.com/lni/vfs"
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
	nh      *dragonboat.NodeHost
	replica uint64
	session *client.Session // does not deduplicate: the state machine does
	changes *leaderChanges

	// gate keeps calls into nh apart from its Close, which they would crash.
	gate struct {
		sync.RWMutex
		closed bool
	}
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

// replicaIDs numbers the founding members, the same way on each of them.
func replicaIDs(members map[string]string) map[string]uint64 {
	ids := make(map[string]uint64)
	for i, name := range slices.Sorted(maps.Keys(members)) {
		ids[name] = uint64(i + 1)
	}
	return ids
}

// groupID tells groups apart, so that members of different ones do not listen
// to each other.
func groupID(members map[string]string) uint64 {
	h := fnv.New64a()
	for _, name := range slices.Sorted(maps.Keys(members)) {
		fmt.Fprintf(h, "%q=%q\n", name, members[name])
	}
	return max(2, h.Sum64()) // 0 and 1 mean to Dragonboat that there is none
}

// startHost starts the replica. It returns before the replica has a leader.
func startHost(dir *directory, opts Options, space *space, create sm.CreateConcurrentStateMachineFunc) (h *host, err error) {
	silence()
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("start: %v", r)
		}
		if err != nil && h != nil {
			h.close()
			h = nil
		}
	}()

	id := dir.identity
	members := id.Members
	ids := replicaIDs(members)
	h = &host{changes: &leaderChanges{log: opts.Logger, ids: ids, next: make(chan struct{})}}
	nhc := config.NodeHostConfig{
		DeploymentID:        groupID(members),
		NodeHostDir:         dir.join(raftDir),
		RTTMillisecond:      tickMillis,
		RaftEventListener:   h.changes,
		MaxSendQueueSize:    maxQueue,
		MaxReceiveQueueSize: maxQueue,
	}
	target := make(map[uint64]string)
	if len(members) == 0 {
		// A group of one needs no network.
		h.replica = 1
		nhc.RaftAddress = "alone"
		nhc.Expert.TransportFactory = noTransport{}
		target[1] = nhc.RaftAddress
	} else {
		h.replica = ids[id.Node]
		nhc.RaftAddress = members[id.Node]
		nhc.Expert.TransportFactory = opts.transport
		for name, addr := range members {
			target[ids[name]] = addr
		}
	}
	nhc.Expert.Engine = config.EngineConfig{
		ExecShards: engineShards, CommitShards: 1, ApplyShards: 1, SnapshotShards: 2, CloseShards: 1,
	}
	nhc.Expert.LogDBFactory = raftlog.Factory{Full: space.exhausted, Opened: space.log.Store}
	nhc.Expert.LogDB = config.GetTinyMemLogDBConfig() // of which but the shards are looked at
	nhc.Expert.LogDB.Shards = engineShards

	nhc.Expert.FS = dir.fs
	if err := prepareRaftDir(nhc); err != nil {
		return h, err
	}
	h.nh, err = dragonboat.NewNodeHost(nhc)
	if err != nil {
		return h, err
	}
	if h.nh == nil { // Dragonboat has swallowed a panic
		return h, errors.New("the Raft directory is damaged")
	}
	h.session = h.nh.GetNoOPSession(shard)
	if h.nh.HasNodeInfo(shard, h.replica) {
		target = nil // a restart: the members are in the log
	} else if id.Started {
		return h, fmt.Errorf("what was in %s is gone", raftDir)
	}
	return h, h.nh.StartConcurrentReplica(target, false, create, config.Config{
		ShardID:         shard,
		ReplicaID:       h.replica,
		CheckQuorum:     true,
		PreVote:         true,
		HeartbeatRTT:    heartbeatTicks,
		ElectionRTT:     electionTicks,
		MaxInMemLogSize: maxInMemLog,
	})
}

// prepareRaftDir makes Dragonboat's directory independent of the machine's name,
// which Dragonboat would else make part of it and refuse to see changed: a
// container that is made anew on its old volume has another name. The directory
// that has the machine's name is a link, and the file that records the name is
// written here, without one.
func prepareRaftDir(nhc config.NodeHostConfig) error {
	const data, flagFile = "data", "dragonboat.ds"
	dir, fs := nhc.NodeHostDir, nhc.Expert.FS
	if err := fs.MkdirAll(filepath.Join(dir, data), 0o700); err != nil {
		return err
	}
	if fs == vfs.Default { // another has no links
		if err := linkHostname(dir, data); err != nil {
			return err
		}
	}
	if err := syncDir(fs, filepath.Dir(dir)); err != nil {
		return err
	}
	flag := filepath.Join(dir, flagFile)
	if _, err := fs.Stat(flag); err == nil {
		return syncDir(fs, dir)
	}
	status := raftpb.RaftDataStatus{
		Address:         nhc.RaftAddress,
		BinVer:          raftio.PlainLogDBBinVersion,
		LogdbType:       raftlog.Name,
		DeploymentId:    nhc.DeploymentID,
		StepWorkerCount: nhc.Expert.Engine.ExecShards,
		LogdbShardCount: nhc.Expert.LogDB.Shards,
		MaxSessionCount: 4096, // Dragonboat's constant
		EntryBatchSize:  48,   // likewise
	}
	b, err := status.Marshal()
	if err != nil {
		return err
	}
	sum := md5.Sum(b)
	return writeFile(fs, flag, append(sum[8:], b...))
}

// linkHostname has the machine's name lead to the directory data.
func linkHostname(dir, data string) error {
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	link := filepath.Join(dir, name)
	if _, err := os.Lstat(link); !errors.Is(err, os.ErrNotExist) || name == data {
		return err
	}
	return os.Symlink(data, link)
}

// propose tries once to get an entry applied here.
func (h *host) propose(entry []byte, settled, stopping <-chan struct{}) proposal {
	changed := h.changes.wait()
	h.gate.RLock()
	if h.gate.closed {
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
	if h.gate.closed {
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
	if h.gate.closed {
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
	h.gate.RLock()
	defer h.gate.RUnlock()
	if h.gate.closed {
		return 0
	}
	id, _, ok, err := h.nh.GetLeaderID(shard)
	if err != nil || !ok {
		return 0
	}
	return id
}

func (h *host) leads() bool { return h.leader() == h.replica }

// handOver has another replica lead, if this one does and one of the others
// takes over before patience ends.
func (h *host) handOver(others []uint64, patience <-chan struct{}) {
	const (
		quorum    = 200 * time.Millisecond // to see whether there is one to lead
		settle    = 10 * time.Millisecond
		perTarget = 500 * time.Millisecond // then Dragonboat gives a transfer up
		poll      = 2 * time.Millisecond
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
	for _, target := range others {
		if !h.leads() {
			return
		}
		h.gate.RLock()
		err := h.nh.RequestLeaderTransfer(shard, target)
		h.gate.RUnlock()
		if err != nil {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), perTarget)
		for h.leads() && ctx.Err() == nil {
			select {
			case <-time.After(poll):
			case <-patience:
				cancel()
				return
			}
		}
		cancel()
	}
}

// close stops the replica and waits for it.
func (h *host) close() {
	h.gate.Lock()
	closed := h.gate.closed
	h.gate.closed = true
	h.gate.Unlock()
	if !closed && h.nh != nil {
		h.nh.Close()
	}
}

// leaderChanges tells those who wait that another replica leads.
type leaderChanges struct {
	log *slog.Logger
	ids map[string]uint64

	mu     sync.Mutex
	leader uint64
	next   chan struct{}
}

// LeaderUpdated implements raftio.IRaftEventListener.
func (c *leaderChanges) LeaderUpdated(info raftio.LeaderInfo) {
	c.mu.Lock()
	if info.LeaderID == raftio.NoLeader || info.LeaderID == c.leader {
		c.mu.Unlock()
		return
	}
	c.leader = info.LeaderID
	close(c.next)
	c.next = make(chan struct{})
	c.mu.Unlock()
	for name, id := range c.ids {
		if id == info.LeaderID {
			c.log.Info("leader known", "leader", name, "term", info.Term)
		}
	}
}

// wait returns a channel that is closed when the next leader is known.
func (c *leaderChanges) wait() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.next
}

// noTransport is the network of a group of one.
type noTransport struct{}

var errNoPeers = errors.New("a group of one has no peers")

func (noTransport) Create(config.NodeHostConfig, raftio.MessageHandler, raftio.ChunkHandler) raftio.ITransport {
	return noTransport{}
}
func (noTransport) Validate(string) bool { return true }
func (noTransport) Name() string         { return "none" }
func (noTransport) Start() error         { return nil }
func (noTransport) Close() error         { return nil }
func (noTransport) GetConnection(context.Context, string) (raftio.IConnection, error) {
	return nil, errNoPeers
}
func (noTransport) GetSnapshotConnection(context.Context, string) (raftio.ISnapshotConnection, error) {
	return nil, errNoPeers
}
