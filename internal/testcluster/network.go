package testcluster

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/dragonboat/v4/raftio"
	"github.com/lni/dragonboat/v4/raftpb"
)

// A Link is the way of what one member says to another.
type Link struct {
	From, To int

	// OnlySnapshots has messages arrive when the link is cut.
	OnlySnapshots bool
}

// Dropped is how much was lost on a link.
type Dropped struct{ Messages, Chunks int }

// Cut has everything get lost, without a word, on these links and on no other; so
// without any, the network is whole again. It also holds for members that are
// started again meanwhile. It returns when all that run know it, which they must be
// able to.
func (c *Processes) Cut(links ...Link) {
	c.t.Helper()
	c.mu.Lock()
	c.cut = links
	c.mu.Unlock()
	for i := range c.procs {
		if p := c.Process(i); p.Running() {
			if err := p.cut(c.cutFrom(i)); err != nil {
				c.t.Fatalf("cut %v: member %d: %v", links, i, err)
			}
		}
	}
}

// cutFrom returns the nodes that are cut off from member i, and of each whether
// snapshots alone are lost.
func (c *Processes) cutFrom(i int) map[string]bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	cut := make(map[string]bool)
	for _, l := range c.cut {
		if l.From == i {
			cut[c.nodes[l.To]] = l.OnlySnapshots
		}
	}
	return cut
}

// Dropped is how much was lost on links since the processes at their beginnings were
// started.
func (c *Processes) Dropped(links ...Link) (sum Dropped) {
	c.t.Helper()
	for _, l := range links {
		dropped, err := c.Process(l.From).dropped()
		if err != nil {
			c.t.Fatalf("what was lost on %v: %v", l, err)
		}
		d := dropped[c.nodes[l.To]]
		sum.Messages += d.Messages
		sum.Chunks += d.Chunks
	}
	return sum
}

// Apart returns the links from some members to others, and those back.
func Apart(some, others []int) (there, back []Link) {
	for _, i := range some {
		for _, j := range others {
			there = append(there, Link{From: i, To: j})
			back = append(back, Link{From: j, To: i})
		}
	}
	return there, back
}

// Others are the members that are none of these.
func (c *Processes) Others(these ...int) (others []int) {
	for i := range c.procs {
		if !slices.Contains(these, i) {
			others = append(others, i)
		}
	}
	return others
}

// Node is the name of member i.
func (c *Processes) Node(i int) string { return c.nodes[i] }

// network makes the transport of a child: the real one, which loses what goes to
// nodes that are cut off.
type network struct {
	config.TransportFactory
	mu      sync.Mutex
	cut     map[string]bool // nodes; true: only snapshots are lost
	dropped map[string]Dropped
}

func newNetwork(cut map[string]bool) *network {
	return &network{cut: cut, dropped: make(map[string]Dropped)}
}

// wrap makes it the way to f's.
func (n *network) wrap(f config.TransportFactory) config.TransportFactory {
	n.TransportFactory = f
	return n
}

func (n *network) setCut(cut map[string]bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut = cut
}

func (n *network) allDropped() map[string]Dropped {
	n.mu.Lock()
	defer n.mu.Unlock()
	return maps.Clone(n.dropped)
}

// lose tells whether messages to a node are lost, and counts them if so.
func (n *network) lose(target string, messages int) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if onlySnapshots, cut := n.cut[target]; !cut || onlySnapshots {
		return false
	}
	d := n.dropped[target]
	d.Messages += messages
	n.dropped[target] = d
	return true
}

// loseChunk is for a part of a snapshot what lose is for messages. after says that
// one before it was lost.
func (n *network) loseChunk(target string, after bool) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, cut := n.cut[target]; !cut && !after {
		return false
	}
	d := n.dropped[target]
	d.Chunks++
	n.dropped[target] = d
	return true
}

// Create implements config.TransportFactory.
func (n *network) Create(nhc config.NodeHostConfig, m raftio.MessageHandler, c raftio.ChunkHandler) raftio.ITransport {
	return lossy{n.TransportFactory.Create(nhc, m, c), n}
}

type lossy struct {
	raftio.ITransport
	net *network
}

func (l lossy) GetConnection(ctx context.Context, target string) (raftio.IConnection, error) {
	c, err := l.ITransport.GetConnection(ctx, target)
	if err != nil {
		return nil, err
	}
	return lossyConn{c, target, l.net}, nil
}

func (l lossy) GetSnapshotConnection(ctx context.Context, target string) (raftio.ISnapshotConnection, error) {
	c, err := l.ITransport.GetSnapshotConnection(ctx, target)
	if err != nil {
		return nil, err
	}
	return &lossySnapshotConn{c, target, l.net, false}, nil
}

type lossyConn struct {
	raftio.IConnection
	target string
	net    *network
}

func (c lossyConn) SendMessageBatch(b raftpb.MessageBatch) error {
	if c.net.lose(c.target, len(b.Requests)) {
		return nil
	}
	return c.IConnection.SendMessageBatch(b)
}

// lossySnapshotConn loses all that comes after what it has lost: TCP leaves no gap.
type lossySnapshotConn struct {
	raftio.ISnapshotConnection
	target string
	net    *network
	broken bool
}

func (c *lossySnapshotConn) SendChunk(chunk raftpb.Chunk) error {
	if c.broken = c.net.loseChunk(c.target, c.broken); c.broken {
		return nil
	}
	return c.ISnapshotConnection.SendChunk(chunk)
}

func (d Dropped) String() string { return fmt.Sprintf("%d messages, %d chunks", d.Messages, d.Chunks) }
