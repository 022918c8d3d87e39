package replica

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"dkv/store/replica/raftlog"

	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/dragonboat/v4/raftio"
	"github.com/lni/dragonboat/v4/raftpb"
)

// A witness is told of an entry once those members with data have it that are there: the
// leader, on its disk, and as many others as make a quorum without the witness. Dragonboat
// tells all at once. Then the witness may be the first to answer, and with it alone the
// leader acknowledges what no other has: if the leader is lost, so is that, and the witness
// votes for none of the others any more. Nor may the witness have what the leader itself is
// still writing: a leader that loses its power would not be elected again, as long as the
// others are away.
//
// So a witness matters when a member with data is away: when it has not said for a while
// that it has what it was sent. From then on nobody waits for it, until it has caught up.
const (
	// awayAfter is how long is waited for a member that has said anything before, in this
	// term, and newAfter for one that has not. An election takes as long.
	awayAfter = time.Second
	newAfter  = 300 * time.Millisecond

	// backWithin is how many entries a member that was away may lack to be waited for again.
	backWithin = 64

	// savedPatience is how long messages wait for the leader's disk. Then they are lost, as
	// are those of which there are more than maxHeld, which Raft can bear.
	savedPatience = 500 * time.Millisecond
	maxHeld       = 256
)

// savedFirst is a network with that.
type savedFirst struct {
	config.TransportFactory
	*followers
}

// Create implements config.TransportFactory.
func (f savedFirst) Create(nhc config.NodeHostConfig, m raftio.MessageHandler, c raftio.ChunkHandler) raftio.ITransport {
	handle := func(b raftpb.MessageBatch) {
		f.note(b.Requests)
		m(b)
	}
	return savedFirstTransport{f.TransportFactory.Create(nhc, handle, c), f.followers}
}

type savedFirstTransport struct {
	raftio.ITransport
	*followers
}

func (t savedFirstTransport) GetConnection(ctx context.Context, target string) (raftio.IConnection, error) {
	c, err := t.ITransport.GetConnection(ctx, target)
	if err != nil {
		return nil, err
	}
	conn := &savedFirstConn{IConnection: c, followers: t.followers, closing: make(chan struct{})}
	if t.followers.isWitness(target) {
		conn.hold()
	}
	return conn, nil
}

// savedFirstConn is used by one goroutine at a time. If it is to a witness, another sends what
// is held.
type savedFirstConn struct {
	raftio.IConnection
	followers *followers
	held      chan raftpb.MessageBatch // each of one message; nil before there is one for a witness
	closing   chan struct{}
	sender    sync.WaitGroup
}

// SendMessageBatch implements raftio.IConnection.
func (c *savedFirstConn) SendMessageBatch(b raftpb.MessageBatch) error {
	if c.held == nil && forWitness(b.Requests) { // it was none when it was connected to
		c.hold()
	}
	if c.held == nil {
		return c.IConnection.SendMessageBatch(b)
	}
	now := b
	now.Requests = nil
	for _, m := range b.Requests {
		if m.Type != raftpb.Replicate {
			now.Requests = append(now.Requests, m)
			continue
		}
		one := b
		one.Requests = []raftpb.Message{m}
		select {
		case c.held <- one:
		default:
		}
	}
	if len(now.Requests) == 0 {
		return nil
	}
	return c.IConnection.SendMessageBatch(now)
}

// hold has what is to be held be so from now on.
func (c *savedFirstConn) hold() {
	c.held = make(chan raftpb.MessageBatch, maxHeld)
	c.sender.Go(c.send)
}

// forWitness tells whether there are entries for a witness among messages. Changes of the
// members are the same for all.
func forWitness(messages []raftpb.Message) bool {
	for i := range messages {
		for j := range messages[i].Entries {
			switch messages[i].Entries[j].Type {
			case raftpb.MetadataEntry:
				return true
			case raftpb.ConfigChangeEntry:
				continue
			}
			break
		}
	}
	return false
}

// send sends what is held, in order, until the connection is closed.
func (c *savedFirstConn) send() {
	for {
		select {
		case <-c.closing:
			return
		case b := <-c.held:
			m := &b.Requests[0]
			if n := len(m.Entries); n > 0 && !c.followers.have(m.Term, m.Entries[n-1].Index, c.closing) {
				continue
			}
			_ = c.IConnection.SendMessageBatch(b) // what is not sent is lost, and Raft sends it again
		}
	}
}

// Close implements raftio.IConnection.
func (c *savedFirstConn) Close() {
	close(c.closing)
	c.sender.Wait()
	c.IConnection.Close()
}

// followers are the other members with data, as the leader of a term knows them.
type followers struct {
	log    *atomic.Pointer[raftlog.Log]
	needed func() (others []uint64, quorum int) // those with data but this one; of all that vote

	isWitness func(member string) bool

	// turned is told of a member that is not waited for from now on, or is again.
	turned func(replica uint64, away bool)

	mu struct {
		sync.Mutex
		term    uint64
		of      map[uint64]*follower
		told    uint64          // the last entry that a witness may have been told of
		gone    map[uint64]bool // those that turned has been told are away
		changed chan struct{}   // closed when a follower has said something; nil if nobody waits
	}
}

type follower struct {
	heard bool   // it has said something
	match uint64 // it has said that it has the entries up to this one; 0: nothing yet
	away  bool   // it is not waited for
}

func newFollowers(log *atomic.Pointer[raftlog.Log], needed func() ([]uint64, int), isWitness func(string) bool, turned func(uint64, bool)) *followers {
	f := &followers{log: log, needed: needed, isWitness: isWitness, turned: turned}
	f.mu.of, f.mu.gone = make(map[uint64]*follower), make(map[uint64]bool)
	return f
}

// note takes note of what followers say, and say that they have.
func (f *followers) note(messages []raftpb.Message) {
	for i := range messages {
		switch m := &messages[i]; m.Type {
		case raftpb.ReplicateResp, raftpb.HeartbeatResp:
			if f.noteOne(m) {
				f.turned(m.From, false)
			}
		}
	}
}

// noteOne tells whether the follower was away, be it in a term before, and is not any more.
func (f *followers) noteOne(m *raftpb.Message) (back bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.beginLocked(m.Term); m.Term != f.mu.term {
		return false
	}
	x := f.ofLocked(m.From)
	x.heard = true
	if m.Type != raftpb.ReplicateResp || m.Reject || m.LogIndex <= x.match {
		return false
	}
	x.match = m.LogIndex
	x.away = x.away && x.match+backWithin < f.mu.told
	if back = !x.away && f.mu.gone[m.From]; back {
		delete(f.mu.gone, m.From)
	}
	if f.mu.changed != nil {
		close(f.mu.changed)
		f.mu.changed = nil
	}
	return back
}

// awaitTold waits until a member has all that a witness may have been told of when it is
// called, and is waited for: then it can lead without this one, which leads in a term. It is
// false if ctx ends before, or the term.
func (f *followers) awaitTold(ctx context.Context, term, replica uint64) bool {
	for told := uint64(0); ; {
		f.mu.Lock()
		if f.beginLocked(term); f.mu.term > term {
			f.mu.Unlock()
			return false
		}
		if told == 0 {
			told = f.mu.told
		}
		x := f.ofLocked(replica)
		if x.match > 0 && x.match >= told && !x.away {
			f.mu.Unlock()
			return true
		}
		changed := f.changedLocked()
		f.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

// changedLocked returns what is closed when a follower has said something.
func (f *followers) changedLocked() <-chan struct{} {
	if f.mu.changed == nil {
		f.mu.changed = make(chan struct{})
	}
	return f.mu.changed
}

// beginLocked forgets what was in terms before, in which a witness may have been told of all
// that is in this one's log.
func (f *followers) beginLocked(term uint64) {
	if term > f.mu.term {
		f.mu.term, f.mu.told = term, 0
		if l := f.log.Load(); l != nil {
			_, f.mu.told = l.Range()
		}
		clear(f.mu.of)
	}
}

func (f *followers) ofLocked(replica uint64) *follower {
	x := f.mu.of[replica]
	if x == nil {
		x = new(follower)
		f.mu.of[replica] = x
	}
	return x
}

// have waits until those have an entry of the leader of a term that are to have it before a
// witness. It is false if closing is closed, or if there is no such entry.
//
// As long as the leader has its own removal in its log, one of them has to be another, be it
// away: once the leader is gone, nobody else could lead.
func (f *followers) have(term, index uint64, closing <-chan struct{}) bool {
	if l := f.log.Load(); l == nil || !l.AwaitSaved(term, index, savedPatience) {
		return false
	}
	for began := time.Now(); ; {
		done, wait, changed, away := f.look(term, index, f.log.Load().Leaves(), time.Since(began))
		for _, id := range away {
			f.turned(id, true)
		}
		if done {
			return true
		}
		if changed == nil {
			return false
		}
		timer := time.NewTimer(wait)
		select {
		case <-changed:
		case <-timer.C:
		case <-closing:
			timer.Stop()
			return false
		}
		timer.Stop()
	}
}

// look tells whether the wait is over, which has taken so long. If not, it is to look again
// after another wait, or when changed is closed; that is nil if there is a later term. Those
// in away are waited for no more, from now on.
func (f *followers) look(term, index uint64, another bool, waited time.Duration) (done bool, wait time.Duration, changed <-chan struct{}, away []uint64) {
	others, quorum := f.needed()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.beginLocked(term); f.mu.term > term {
		return false, 0, nil, nil
	}
	have, there := 1, 1 // this member
	wait = awayAfter
	for _, id := range others {
		x := f.ofLocked(id)
		patience := awayAfter
		if !x.heard {
			patience = newAfter
		}
		switch {
		case x.match >= index:
			have++
			there++
		case x.away:
		case waited >= patience:
			x.away = true
			if !f.mu.gone[id] {
				f.mu.gone[id] = true
				away = append(away, id)
			}
		default:
			there++
			wait = min(wait, patience-waited)
		}
	}
	if have >= min(quorum, there) && (have > 1 || !another) {
		f.mu.told = max(f.mu.told, index)
		return true, 0, nil, away
	}
	return false, wait, f.changedLocked(), away
}
