package replica

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"dkv/store/replica/raftlog"

	"github.com/lni/dragonboat/v4/raftio"
	"github.com/lni/dragonboat/v4/raftpb"
	"github.com/lni/vfs"
)

// TestFollowerIsWaitedForUntilItIsAway has the leader of a group of two members with data and
// a witness.
func TestFollowerIsWaitedForUntilItIsAway(t *testing.T) {
	backs := 0
	f := newFollowers(new(atomic.Pointer[raftlog.Log]), func() ([]uint64, int) { return []uint64{2}, 2 }, nil, func(replica uint64, away bool) {
		if replica != 2 || away {
			t.Errorf("replica %d turns, away %t", replica, away)
		}
		backs++
	})
	says := func(term, index uint64, reject bool) {
		f.note([]raftpb.Message{{Type: raftpb.ReplicateResp, From: 2, Term: term, LogIndex: index, Reject: reject}})
	}
	look := func(what string, term, index uint64, waited time.Duration, want bool) {
		t.Helper()
		if done, wait, changed, _ := f.look(term, index, false, waited); done != want {
			t.Errorf("%s: %t, %v, %v", what, done, wait, changed)
		}
	}
	mayTakeOver := func(what string, term uint64, want bool) {
		t.Helper()
		brief, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		if got := f.awaitTold(brief, term, 2); got != want {
			t.Errorf("%s: may it take over? %t", what, got)
		}
	}
	look("one that has said nothing yet", 5, 10, 0, false)
	look("one that has said nothing yet", 5, 10, newAfter-1, false)
	look("one that has said nothing", 5, 10, newAfter, true)
	look("one that is away", 5, 200, 0, true)
	mayTakeOver("one that is away", 5, false)
	says(5, 100, false) // more than backWithin entries behind
	look("one that is catching up", 5, 201, 0, true)
	if backs != 0 {
		t.Error("it is back while it is catching up")
	}
	says(5, 201-backWithin, false)
	if backs != 1 {
		t.Errorf("it came back %d times", backs)
	}
	mayTakeOver("one that lacks what a witness may have", 5, false)
	_, _, changed, _ := f.look(5, 202, false, 0)
	look("one that is back", 5, 202, newAfter, false)
	says(5, 203, true)
	says(4, 203, false)
	look("what it has not said in this term", 5, 202, 0, false)
	says(5, 202, false)
	select {
	case <-changed:
	default:
		t.Error("who waits is not woken")
	}
	look("what it has", 5, 202, 0, true)
	mayTakeOver("one that has all that a witness may have", 5, true)
	mayTakeOver("the same, in a term before", 4, false)
	look("one that has stopped", 5, 203, awayAfter-1, false)
	look("one that has stopped", 5, 203, awayAfter, true)
	says(6, 300, false)
	if done, _, changed, _ := f.look(5, 204, false, 0); done || changed != nil {
		t.Error("there is a later term")
	}
	look("what it has in the next term", 6, 300, 0, true)
	f.note([]raftpb.Message{{Type: raftpb.HeartbeatResp, From: 2, Term: 7}})
	mayTakeOver("one that has said nothing of what it has in its term", 7, false)
	look("one that has said something", 7, 301, newAfter, false)
	look("one that has said something", 7, 301, awayAfter, true)
}

func TestWitnessIsNotWhatAQuorumNeeds(t *testing.T) {
	others := []uint64{2, 3, 4}
	f := newFollowers(new(atomic.Pointer[raftlog.Log]), func() ([]uint64, int) { return others, 3 }, nil, func(uint64, bool) {})
	says := func(from, index uint64) {
		f.note([]raftpb.Message{{Type: raftpb.ReplicateResp, From: from, Term: 1, LogIndex: index}})
	}
	says(2, 7)
	if done, _, _, _ := f.look(1, 7, false, 0); done {
		t.Error("two of three")
	}
	says(4, 7)
	if done, _, _, _ := f.look(1, 7, false, 0); !done {
		t.Error("three of four members with data, and it is not told")
	}
	if done, _, _, _ := f.look(1, 8, false, awayAfter); !done {
		t.Error("all are away")
	}
	if done, _, _, _ := f.look(1, 9, true, awayAfter); done {
		t.Error("nobody has it, and the leader is to go")
	}
	says(2, 9)
	if done, _, _, _ := f.look(1, 9, true, 0); !done {
		t.Error("one has it, and the leader may go")
	}
	others = nil
	if done, _, _, _ := f.look(1, 10, false, 0); !done {
		t.Error("there are no others")
	}
}

// heldConn has what is sent.
type heldConn struct {
	raftio.IConnection
	sent chan raftpb.MessageBatch
}

func (c heldConn) SendMessageBatch(b raftpb.MessageBatch) error {
	c.sent <- b
	return nil
}
func (heldConn) Close() {}

type heldTransport struct {
	raftio.ITransport
	conn heldConn
}

func (t heldTransport) GetConnection(context.Context, string) (raftio.IConnection, error) {
	return t.conn, nil
}

// TestChangeOfMembersIsHeldForAWitness has it be the first that a connection is asked to
// send: it does not show for whom it is.
func TestChangeOfMembersIsHeldForAWitness(t *testing.T) {
	f := newFollowers(new(atomic.Pointer[raftlog.Log]), func() ([]uint64, int) { return []uint64{2}, 2 }, func(member string) bool { return member == "w" }, nil)
	change := raftpb.MessageBatch{Requests: []raftpb.Message{
		{Type: raftpb.Replicate, Term: 1, Entries: []raftpb.Entry{{Type: raftpb.ConfigChangeEntry, Index: 5, Term: 1}}},
		{Type: raftpb.Heartbeat},
	}}
	for target, want := range map[string]int{"w": 1, "b": 2} {
		sent := make(chan raftpb.MessageBatch, 2)
		c, err := savedFirstTransport{heldTransport{conn: heldConn{sent: sent}}, f}.GetConnection(t.Context(), target)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.SendMessageBatch(change); err != nil {
			t.Fatal(err)
		}
		if b := <-sent; len(b.Requests) != want || b.Requests[want-1].Type != raftpb.Heartbeat {
			t.Errorf("to %s: %v", target, b.Requests)
		}
		c.Close()
		if len(sent) > 0 {
			t.Errorf("to %s, of a log that there is not: %v", target, <-sent)
		}
	}
}

// TestWitnessSnapshotNeedsNoDirectory does what Dragonboat does for one.
func TestWitnessSnapshotNeedsNoDirectory(t *testing.T) {
	t.Setenv("TMPDIR", filepath.Join(t.TempDir(), "missing"))
	fs := newScratch(vfs.Default)
	if err := fs.MkdirAll(os.TempDir(), 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(os.TempDir(), scratchPrefix+"-1")
	f, err := fs.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte("snapshot")); err != nil {
		t.Fatal(err)
	}
	d, err := fs.OpenDir(os.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Sync(), f.Close(), d.Sync(), d.Close()); err != nil {
		t.Fatal(err)
	}
	if f, err = fs.Open(path); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(f); string(b) != "snapshot" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := fs.Open(path); err == nil {
		t.Error("it is there after it was read")
	}
	if _, err := os.Stat(os.TempDir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a directory was made: %v", err)
	}
}

// TestSlowestFollowerNeedsNotKeepUp has a witness be told of more and more that others have: a
// member may take over once it has what the witness had been told of when it asked.
func TestSlowestFollowerNeedsNotKeepUp(t *testing.T) {
	f := newFollowers(new(atomic.Pointer[raftlog.Log]), func() ([]uint64, int) { return []uint64{2, 3, 4}, 3 }, nil, func(uint64, bool) {})
	says := func(index uint64, from ...uint64) {
		for _, id := range from {
			f.note([]raftpb.Message{{Type: raftpb.ReplicateResp, From: id, Term: 1, LogIndex: index}})
		}
	}
	told := func(index uint64) {
		t.Helper()
		if done, _, _, _ := f.look(1, index, false, 0); !done {
			t.Fatalf("a witness is not told of entry %d", index)
		}
	}
	says(6, 3)
	says(9, 2, 4)
	told(9)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	may := make(chan bool)
	go func() { may <- f.awaitTold(ctx, 1, 3) }()
	for waits := false; !waits; {
		f.mu.Lock()
		waits = f.mu.changed != nil
		f.mu.Unlock()
	}
	says(20, 2, 4)
	told(20)
	says(9, 3)
	if !<-may {
		t.Error("it may not take over")
	}
	says(20, 2)
	cancel()
	if f.awaitTold(ctx, 1, 3) {
		t.Error("it may take over, and lacks what was told before it asked")
	}
}
