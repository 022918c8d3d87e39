package raftnet

import (
	"context"
	"testing"
	"time"

	pb "github.com/lni/dragonboat/v4/raftpb"
)

func connect(t *testing.T, from, to *Transport) *peer {
	t.Helper()
	c, err := from.GetConnection(context.Background(), to.name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c.(*peer)
}

func send(t *testing.T, c *peer, messages ...pb.Message) {
	t.Helper()
	if err := c.SendMessageBatch(pb.MessageBatch{DeploymentId: group, Requests: messages}); err != nil {
		t.Fatal(err)
	}
}

func notice(commit uint64) pb.Message {
	return pb.Message{Type: pb.Replicate, From: 1, To: 2, ShardID: 1, Term: 3, LogIndex: 9, Commit: commit}
}

func entry(term, commit uint64) pb.Message {
	m := notice(commit)
	m.Term, m.Entries = term, []pb.Entry{{Index: 10, Cmd: []byte("x")}}
	return m
}

// arrive compares what comes in next with what must, message by message.
func arrive(t *testing.T, r *received, want ...pb.Message) {
	t.Helper()
	for len(want) > 0 {
		select {
		case b := <-r.batches:
			for _, m := range b.Requests {
				if len(want) == 0 || m.Type != want[0].Type || m.Commit != want[0].Commit || len(m.Entries) != len(want[0].Entries) {
					t.Fatalf("%v %d arrives, not %v", m.Type, m.Commit, want)
				}
				want = want[1:]
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%v does not arrive", want)
		}
	}
	select {
	case b := <-r.batches:
		t.Fatalf("%v arrives as well", b.Requests)
	case <-time.After(5 * noticeWait):
	}
}

func TestNoticesArriveUnlessTheyAreOvertaken(t *testing.T) {
	heartbeat := pb.Message{Type: pb.Heartbeat, From: 1, To: 2, ShardID: 1, Term: 3, Commit: 5}
	call := pb.Message{Type: pb.TimeoutNow, From: 1, To: 2, ShardID: 1, Term: 3}
	other := entry(3, 7)
	other.To = 3
	for name, test := range map[string]struct{ sent, arrive []pb.Message }{
		"alone":                      {[]pb.Message{notice(5)}, []pb.Message{notice(5)}},
		"overtaken by an entry":      {[]pb.Message{notice(5), entry(3, 5)}, []pb.Message{entry(3, 5)}},
		"overtaken by another":       {[]pb.Message{notice(5), notice(6)}, []pb.Message{notice(6)}},
		"by a later term's":          {[]pb.Message{notice(5), entry(4, 6)}, []pb.Message{entry(4, 6)}},
		"not by an earlier term's":   {[]pb.Message{notice(5), entry(2, 6)}, []pb.Message{notice(5), entry(2, 6)}},
		"not by one that tells less": {[]pb.Message{notice(5), entry(3, 4)}, []pb.Message{notice(5), entry(3, 4)}},
		"nor by a notice that does":  {[]pb.Message{notice(5), notice(4)}, []pb.Message{notice(5), notice(4)}},
		"nor by a heartbeat":         {[]pb.Message{notice(5), heartbeat}, []pb.Message{notice(5), heartbeat}},
		"nor by another's entry":     {[]pb.Message{notice(5), other}, []pb.Message{notice(5), other}},
		"nor by a call to lead":      {[]pb.Message{notice(5), call}, []pb.Message{notice(5), call}},
		"again and again":            {[]pb.Message{notice(5), notice(6), entry(3, 6), notice(7), notice(8)}, []pb.Message{entry(3, 6), notice(8)}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sender, _ := start(t, Factory{})
			tr, r := start(t, Factory{})
			c := connect(t, sender, tr)
			c.notices.wait = time.Hour
			for _, m := range test.sent {
				send(t, c, m)
			}
			c.sendNotice()
			arrive(t, r, test.arrive...)
		})
	}
}

func TestNoticeIsSentWhenItHasWaited(t *testing.T) {
	sender, _ := start(t, Factory{})
	tr, r := start(t, Factory{})
	c := connect(t, sender, tr)
	for commit := range uint64(3) {
		send(t, c, notice(commit))
		arrive(t, r, notice(commit))
	}
}

// TestProposersAreToldAtOnce has a follower propose: who proposed there waits for
// the notice.
func TestProposersAreToldAtOnce(t *testing.T) {
	leader, _ := start(t, Factory{})
	follower, r := start(t, Factory{})
	members.replica[follower.name] = 2
	c := connect(t, leader, follower)
	c.notices.wait = time.Hour
	waits := func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.notices.held() != nil
	}
	send(t, c, notice(5))
	if !waits() {
		t.Error("the notice does not wait")
	}
	c.sendNotice()
	arrive(t, r, notice(5))

	back := connect(t, follower, leader)
	for tries := 1; ; tries++ { // on a busy machine it may count no longer when the notice comes
		began := time.Now()
		send(t, back, pb.Message{Type: pb.Propose, From: 2, To: 1, Entries: []pb.Entry{{Cmd: []byte("x")}}})
		known := leader.proposers.has(2)
		for !known && time.Since(began) < 2*time.Second {
			time.Sleep(time.Millisecond)
			known = leader.proposers.has(2)
		}
		if !known && tries == 5 {
			t.Fatal("it is not known that the follower proposes")
		} else if !known {
			continue
		}
		send(t, c, notice(6))
		late := waits()
		if late && (time.Since(began) < proposerFor || tries == 5) {
			t.Fatal("the notice to one that proposes waits")
		}
		c.sendNotice()
		arrive(t, r, notice(6))
		if !late {
			break
		}
	}
	for deadline := time.Now().Add(10 * time.Second); leader.proposers.has(2); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("who has proposed once counts as one that proposes for ever")
		}
	}
}
