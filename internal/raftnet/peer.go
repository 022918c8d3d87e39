package raftnet

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	pb "github.com/lni/dragonboat/v4/raftpb"
)

const (
	// redialEvery is how often at most a peer that cannot be reached is tried, and
	// knockEvery one that is reached and does not let this member in.
	redialEvery = 50 * time.Millisecond
	knockEvery  = 500 * time.Millisecond

	// callAfter is how long a call to lead stays behind what must be applied first.
	callAfter = 2 * time.Millisecond
)

// peer sends messages to another member. It is a raftio.IConnection that is never
// without hope: messages that cannot be sent are lost, as Raft has it, and with the
// next ones it is tried anew.
//
// Dragonboat would not try for half a second after a connection has failed, and for
// ever longer after each attempt. What is worse, between two followers there is
// hardly a message, so that each would learn only when a leader is to be elected
// that the other has been restarted since, from that failure. Here somebody listens
// for the end of each connection.
//
// It may be used by several goroutines, beside which a notice's time may end.
type peer struct {
	transport *Transport
	target    string          // a member's name
	ctx       context.Context // ends when the transport is to be closed

	mu      sync.Mutex
	notices notices
	failed  error // of a notice, which nobody else has been told
	conn    *conn // nil if there is none
	ended   chan struct{}
	redial  time.Time // when it may be tried again
	why     string    // it was not let in the last time, as was logged
}

func newPeer(ctx context.Context, t *Transport, target string) *peer {
	return &peer{transport: t, target: target, ctx: ctx, notices: notices{wait: noticeWait}}
}

// Close implements raftio.IConnection.
func (p *peer) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.notices.take()
	p.disconnect()
}

// SendMessageBatch implements raftio.IConnection. An error says that the peer has
// become unreachable, once.
func (p *peer) SendMessageBatch(batch pb.MessageBatch) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.failed; err != nil {
		p.failed = nil
		return err
	}
	notice := p.notices.held()
	overtaken := notice != nil && overtakes(batch.Requests, notice)
	if m := batch.Requests; len(m) == 1 && isNotice(&m[0]) && (notice == nil || overtaken) && !p.transport.proposers.has(m[0].To) {
		p.notices.hold(batch, p.sendNotice)
		return nil
	}
	if held := p.notices.take(); notice != nil && !overtaken {
		batch.Requests = append(held.Requests[:1:1], batch.Requests...)
	}
	if err := p.sendBeforeCall(&batch); err != nil {
		return err
	}
	return p.send(&batch)
}

// sendBeforeCall sends what a batch has beside a call to lead, if it has one, and
// leaves that. Dragonboat ignores a call when it comes before all that is known to
// be committed is applied, so what tells that goes ahead by a moment.
func (p *peer) sendBeforeCall(batch *pb.MessageBatch) error {
	isCall := func(m pb.Message) bool { return m.Type == pb.TimeoutNow }
	i := slices.IndexFunc(batch.Requests, isCall)
	if i < 0 || len(batch.Requests) == 1 {
		return nil
	}
	ahead := *batch
	ahead.Requests = slices.DeleteFunc(slices.Clone(batch.Requests), isCall)
	batch.Requests = batch.Requests[i : i+1]
	defer time.Sleep(callAfter)
	return p.send(&ahead)
}

// sendNotice sends the notice that waits.
func (p *peer) sendNotice() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if b := p.notices.take(); len(b.Requests) > 0 {
		p.failed = p.send(&b)
	}
}

func (p *peer) send(batch *pb.MessageBatch) error {
	if p.conn == nil || p.hasEnded() {
		was := p.conn != nil
		if err := p.connect(); err != nil || p.conn == nil {
			if was {
				return err
			}
			return nil // which is known
		}
	}
	err := p.conn.send(batch, batch.SizeUpperLimit())
	if err != nil {
		p.disconnect()
	}
	return err
}

// connect makes a new connection. It does nothing if it has been tried just now. The
// goroutine that listens for the connection's end ends with it, at the latest in
// disconnect.
func (p *peer) connect() error {
	p.disconnect()
	now := time.Now()
	if now.Before(p.redial) {
		return nil
	}
	c, err := p.transport.dial(p.ctx, p.target, forMessages)
	if err != nil {
		pause := redialEvery
		if errors.Is(err, errNotLetIn) {
			pause = knockEvery
			if why := err.Error(); why != p.why {
				p.why = why
				p.transport.Logger.Warn("member does not let this one in", "member", p.target, "why", why)
			}
		}
		p.redial = time.Now().Add(pause)
		return err
	}
	p.why = ""
	p.conn, p.ended = c, make(chan struct{})
	ended := p.ended
	go func() {
		defer close(ended)
		_, _ = c.Read(make([]byte, 1)) // nothing comes but the end
	}()
	return nil
}

func (p *peer) hasEnded() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

func (p *peer) disconnect() {
	if p.conn != nil {
		p.conn.Close()
		<-p.ended
		p.conn = nil
	}
}
