package main

import (
	"context"
	"errors"
	"io"
	"slices"
	"time"

	"dkv/internal/raftnet"
	"dkv/store/replica/raftlog"

	"github.com/lni/dragonboat/v4"
	"github.com/lni/dragonboat/v4/client"
	raft "github.com/lni/dragonboat/v4/config"
	sm "github.com/lni/dragonboat/v4/statemachine"
)

// These members are Dragonboat alone, with dkv's log and settings and a state machine that
// keeps nothing: what is left is what takes messages from one to another.

const (
	overDragonboat = "dragonboat"
	overRaftnet    = "raftnet"
	overSecret     = "raftnet-secret"
)

var raftSystems = []*system{
	{
		name: overDragonboat, module: "github.com/lni/dragonboat/v4", note: "its own transport over TCP",
		open: func(c memberConfig) (member, error) {
			return openRaft(c, c.Raft, raft.NodeHostConfig{RaftAddress: c.Raft[c.Node]})
		},
	},
	{
		name: overRaftnet, note: "dkv's transport, in the clear",
		open: func(c memberConfig) (member, error) { return openRaftnet(c, nil) },
	},
	{
		name: overSecret, note: "dkv's transport, with mutual TLS by a shared secret",
		open: func(c memberConfig) (member, error) {
			s, err := raftnet.SharedSecret([]byte("of members that are benchmarked"), c.Node)
			if err != nil {
				return nil, err
			}
			return openRaftnet(c, s)
		},
	},
}

func openRaftnet(c memberConfig, s *raftnet.Security) (member, error) {
	names := make(map[string]string)
	for name := range c.Raft {
		names[name] = name
	}
	nhc := raft.NodeHostConfig{RaftAddress: c.Node, ListenAddress: c.Raft[c.Node]}
	nhc.Expert.TransportFactory = raftnet.Factory{Members: fixed{c.Node, c.Raft}, Security: s}
	return openRaft(c, names, nhc)
}

// fixed are members that stay where they are.
type fixed struct {
	own string
	at  map[string]string
}

func (f fixed) Resolve(_ context.Context, member string) (string, error) { return f.at[member], nil }
func (f fixed) Peer() raftnet.Peer {
	replica := uint64(slices.Index(sortedNames(f.at), f.own) + 1)
	return raftnet.Peer{Replica: replica, Places: []raftnet.Place{{Member: f.own, Incarnation: 1, Address: f.at[f.own]}}}
}
func (f fixed) Meet(told raftnet.Peer) error {
	if _, ok := f.at[told.Self().Member]; !ok {
		return errors.New("it is no member")
	}
	return nil
}
func (f fixed) Removed(string)                                      {}
func (f fixed) Answer(context.Context, raftnet.Peer, []byte) []byte { return nil }

const raftShard = 1

type raftMember struct {
	nh      *dragonboat.NodeHost
	replica uint64
	session *client.Session
}

// openRaft opens a member; at has what each is dialled by.
func openRaft(c memberConfig, at map[string]string, nhc raft.NodeHostConfig) (member, error) {
	const ticks = 50 // ms, as a replica of dkv has them
	nhc.NodeHostDir, nhc.RTTMillisecond, nhc.DeploymentID = c.Dir, ticks, 77
	nhc.MaxSendQueueSize, nhc.MaxReceiveQueueSize = 256<<20, 256<<20
	nhc.Expert.Engine = raft.EngineConfig{ExecShards: 1, CommitShards: 1, ApplyShards: 1, SnapshotShards: 2, CloseShards: 1}
	nhc.Expert.LogDBFactory = raftlog.Factory{Full: func() {}}
	nhc.Expert.LogDB = raft.GetTinyMemLogDBConfig()
	nhc.Expert.LogDB.Shards = 1
	nh, err := dragonboat.NewNodeHost(nhc)
	if err != nil {
		return nil, err
	}
	m := &raftMember{nh: nh, session: nh.GetNoOPSession(raftShard)}
	targets := make(map[uint64]string)
	for i, name := range sortedNames(c.Raft) {
		id := uint64(i + 1)
		if targets[id] = at[name]; name == c.Node {
			m.replica = id
		}
	}
	err = nh.StartConcurrentReplica(targets, false, func(uint64, uint64) sm.IConcurrentStateMachine { return nothing{} }, raft.Config{
		ShardID: raftShard, ReplicaID: m.replica, CheckQuorum: true, PreVote: true, HeartbeatRTT: 2, ElectionRTT: 8,
		MaxInMemLogSize: 256 << 20,
	})
	if err != nil {
		nh.Close()
		return nil, err
	}
	return m, nil
}

func (m *raftMember) Ready(ctx context.Context) error {
	for {
		brief, cancel := context.WithTimeout(ctx, time.Second)
		_, err := m.nh.SyncRead(brief, raftShard, nil)
		cancel()
		if err == nil || ctx.Err() != nil {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (m *raftMember) Leads() bool {
	id, _, ok, err := m.nh.GetLeaderID(raftShard)
	return err == nil && ok && id == m.replica
}

func (m *raftMember) Set(ctx context.Context, key string, value []byte) error {
	cmd := append(append(make([]byte, 0, len(key)+len(value)), key...), value...)
	rs, err := m.nh.Propose(m.session, cmd, 5*time.Second)
	if err != nil {
		return err
	}
	defer rs.Release()
	if r := <-rs.ResultC(); !r.Completed() {
		return errors.New("not completed")
	}
	return nil
}

func (m *raftMember) Get(ctx context.Context, _ string) ([]byte, bool, error) {
	_, err := m.nh.SyncRead(ctx, raftShard, nil)
	return nil, false, err
}

func (m *raftMember) Close() error {
	m.nh.Close()
	return nil
}

// nothing is a state machine that keeps nothing.
type nothing struct{}

func (nothing) Update(entries []sm.Entry) ([]sm.Entry, error) { return entries, nil }
func (nothing) Lookup(any) (any, error)                       { return nil, nil }
func (nothing) PrepareSnapshot() (any, error)                 { return nil, nil }
func (nothing) Close() error                                  { return nil }
func (nothing) SaveSnapshot(any, io.Writer, sm.ISnapshotFileCollection, <-chan struct{}) error {
	return nil
}
func (nothing) RecoverFromSnapshot(io.Reader, []sm.SnapshotFile, <-chan struct{}) error { return nil }
