package raftnet

import (
	"sync"
	"time"

	pb "github.com/lni/dragonboat/v4/raftpb"
)

// A notice is a message of the leader that tells a follower how far the log is
// committed, and nothing else. After each entry there is one for every follower,
// and an answer to it, which makes half of all messages; yet the next entry tells
// the same. So a notice waits for a moment, and if another message of the log
// overtakes it, it is not sent at all: as if the network had lost it, for Raft.
//
// What a follower applies that much later, nobody waits for, but in two cases.
// Somebody may wait for a write that was proposed there: a follower that proposes
// gets its notices at once. Somebody may read there: the answer to the barrier,
// like all other messages, goes behind the notice and takes it along.
const (
	noticeWait = time.Millisecond

	// proposerFor is how long a follower counts as one that proposes.
	proposerFor = 100 * time.Millisecond

	maxProposers = 256 // more than there are members
)

func isNotice(m *pb.Message) bool { return m.Type == pb.Replicate && len(m.Entries) == 0 }

// overtakes tells whether one of messages says what the notice does.
func overtakes(messages []pb.Message, notice *pb.Message) bool {
	for i := range messages {
		m := &messages[i]
		if m.Type == pb.Replicate && m.To == notice.To && m.ShardID == notice.ShardID &&
			m.Term >= notice.Term && m.LogIndex >= notice.LogIndex && m.Commit >= notice.Commit {
			return true
		}
	}
	return false
}

// notices holds the notice that waits for a peer.
type notices struct {
	wait  time.Duration   // noticeWait, but in tests
	batch pb.MessageBatch // whose only message it is; no message if there is none
	one   [1]pb.Message   // the message's place
	timer *time.Timer     // runs while there is one, nil before the first
}

func (n *notices) held() *pb.Message {
	if len(n.batch.Requests) == 0 {
		return nil
	}
	return &n.one[0]
}

// hold has the only message of a batch wait; then is called when that was long
// enough.
func (n *notices) hold(batch pb.MessageBatch, then func()) {
	waits := n.held() != nil
	n.one[0] = batch.Requests[0]
	n.batch = batch
	n.batch.Requests = n.one[:]
	switch {
	case n.timer == nil:
		n.timer = time.AfterFunc(n.wait, then)
	case !waits: // else it is the first one's time that counts
		n.timer.Reset(n.wait)
	}
}

// take returns the batch that waits, which does so no longer.
func (n *notices) take() (b pb.MessageBatch) {
	if n.held() != nil {
		n.timer.Stop()
		b, n.batch = n.batch, b
	}
	return b
}

// proposers are the replicas that have proposed lately, as the leader sees it.
type proposers struct {
	mu   sync.Mutex
	last map[uint64]time.Time
}

// note takes note of who proposes in messages that came in.
func (p *proposers) note(messages []pb.Message) {
	for i := range messages {
		if m := &messages[i]; m.Type == pb.Propose {
			p.mu.Lock()
			if p.last == nil || len(p.last) >= maxProposers {
				p.last = make(map[uint64]time.Time)
			}
			p.last[m.From] = time.Now()
			p.mu.Unlock()
		}
	}
}

func (p *proposers) has(replica uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	last, ok := p.last[replica]
	return ok && time.Since(last) < proposerFor
}
