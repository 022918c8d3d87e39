package raftnet

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	pb "github.com/lni/dragonboat/v4/raftpb"
	"go.uber.org/goleak"
)

// startAt starts a transport of a new name that the test closes itself.
func startAt(t *testing.T, address string) (*Transport, *received) {
	t.Helper()
	return startAs(t, Factory{}, fmt.Sprint("member ", started.Add(1)), address)
}

func stop(t *testing.T, tr *Transport) {
	t.Helper()
	if err := tr.Close(); err != nil {
		t.Fatal(err)
	}
}

// pair starts two transports and connects the first with the second.
func pair(t *testing.T) (sender, tr *Transport, r *received, c *peer) {
	t.Helper()
	sender, _ = startAt(t, "127.0.0.1:0")
	tr, r = startAt(t, "127.0.0.1:0")
	return sender, tr, r, connect(t, sender, tr)
}

func ping(n uint64) pb.MessageBatch {
	return pb.MessageBatch{DeploymentId: group, Requests: []pb.Message{{Type: pb.Heartbeat, From: 1, To: 2, Commit: n}}}
}

func TestPeerThatWasRestartedHearsTheNextMessage(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	sender, tr, r, c := pair(t)
	defer stop(t, sender)
	defer c.Close()
	address, name := tr.addr(), tr.name
	for n := range uint64(5) {
		if err := c.SendMessageBatch(ping(n)); err != nil {
			t.Fatal(n, err)
		}
		arrive(t, r, ping(n).Requests...)
		stop(t, tr)
		tr, r = startAs(t, Factory{}, name, address)
		select {
		case <-c.ended:
		case <-time.After(10 * time.Second):
			t.Fatal("the end of the connection goes by unnoticed")
		}
	}
	stop(t, tr)
}

func TestPeerThatIsDownIsToldOnceAndTriedAgain(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	sender, tr, r, c := pair(t)
	defer stop(t, sender)
	defer c.Close()
	address, name := tr.addr(), tr.name
	if err := c.SendMessageBatch(ping(1)); err != nil {
		t.Fatal(err)
	}
	arrive(t, r, ping(1).Requests...)
	stop(t, tr)
	<-c.ended
	if err := c.SendMessageBatch(ping(2)); err == nil {
		t.Error("that the peer has become unreachable is not told")
	}
	for range 10 {
		if err := c.SendMessageBatch(ping(3)); err != nil {
			t.Fatal("told twice: ", err)
		}
		time.Sleep(redialEvery / 5)
	}
	tr, r = startAs(t, Factory{}, name, address)
	defer func() { stop(t, tr) }()
	time.Sleep(redialEvery)
	if err := c.SendMessageBatch(ping(4)); err != nil {
		t.Fatal(err)
	}
	arrive(t, r, ping(4).Requests...)

	// One that is not there yet is as good as one that is down.
	absent, _ := startAt(t, "127.0.0.1:0")
	stop(t, absent)
	p, err := sender.GetConnection(context.Background(), absent.name)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := p.SendMessageBatch(ping(5)); err != nil {
		t.Error(err)
	}
}

func TestPeerIsClosedWhileANoticeWaits(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	sender, tr, r, c := pair(t)
	send(t, c, notice(5))
	c.Close()
	arrive(t, r)
	stop(t, tr)
	stop(t, sender)
}

// TestCloseDoesNotWaitForAPeerThatTakesNothing sends to one that does not read.
func TestCloseDoesNotWaitForAPeerThatTakesNothing(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	deaf, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer deaf.Close()
	sender, _ := startAt(t, "127.0.0.1:0")
	defer stop(t, sender)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	// It says who it is, and no more.
	accepted := make(chan net.Conn, 1)
	go func() {
		c, err := deaf.Accept()
		if err != nil {
			return
		}
		readHello(c)
		c.Write(appendAnswer(nil, Peer{Places: []Place{{Member: "deaf"}}}, nil))
		accepted <- c
	}()
	defer func() { (<-accepted).Close() }()
	members.put("deaf", deaf.Addr().String())
	p, err := sender.GetConnection(ctx, "deaf")
	if err != nil {
		t.Fatal(err)
	}
	sent, ended := make(chan struct{}, 1), make(chan struct{})
	go func() {
		defer close(ended)
		defer p.Close()
		large := ping(1)
		large.Requests[0].Entries = []pb.Entry{{Cmd: make([]byte, 8<<20)}}
		for p.SendMessageBatch(large) == nil && ctx.Err() == nil {
			select {
			case sent <- struct{}{}:
			default:
			}
		}
	}()
	// Until nothing more goes out.
	for stuck := false; !stuck; {
		select {
		case <-sent:
		case <-time.After(300 * time.Millisecond):
			stuck = true
		}
	}
	began := time.Now()
	cancel()
	select {
	case <-ended:
	case <-time.After(writeTimeout / 4):
		t.Errorf("it waits for more than %v", time.Since(began))
		<-ended
	}
}
