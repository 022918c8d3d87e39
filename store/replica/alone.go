package replica

import (
	"context"
	"errors"
	"time"

	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/dragonboat/v4/raftio"
	"github.com/lni/dragonboat/v4/raftpb"
)

// alone is the network of a group of one, which nobody else is on. A member of such a group
// would wait for an election timeout before it leads, though nobody could lead instead: what
// it gets from here is a word that it should, as a leader that hands over sends it.
type alone struct {
	handle       raftio.MessageHandler
	deploymentID uint64
}

// Create implements config.TransportFactory.
func (a *alone) Create(nhc config.NodeHostConfig, handle raftio.MessageHandler, _ raftio.ChunkHandler) raftio.ITransport {
	a.handle, a.deploymentID = handle, nhc.GetDeploymentID()
	return a
}

// lead has the replica lead, unless ctx ends before. It is told until it does, as it must not
// while it has a change of the members to apply, which is how its log begins.
func (a *alone) lead(ctx context.Context, h *host) {
	const every, enough = 2 * time.Millisecond, 2 * electionTicks * tickMillis * time.Millisecond
	for began := time.Now(); !h.leads() && time.Since(began) < enough; {
		a.handle(raftpb.MessageBatch{
			DeploymentId: a.deploymentID,
			BinVer:       raftio.TransportBinVersion,
			Requests:     []raftpb.Message{{Type: raftpb.TimeoutNow, ShardID: shard, From: h.replica, To: h.replica}},
		})
		if pause(ctx, every) != nil {
			return
		}
	}
}

var errNoPeers = errors.New("a group of one has no peers")

// What is left of a network is what config.TransportFactory and raftio.ITransport want.

func (*alone) Validate(string) bool { return true }
func (*alone) Name() string         { return "none" }
func (*alone) Start() error         { return nil }
func (*alone) Close() error         { return nil }
func (*alone) GetConnection(context.Context, string) (raftio.IConnection, error) {
	return nil, errNoPeers
}
func (*alone) GetSnapshotConnection(context.Context, string) (raftio.ISnapshotConnection, error) {
	return nil, errNoPeers
}
