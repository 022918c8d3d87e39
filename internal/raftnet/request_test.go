package raftnet

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/lni/dragonboat/v4/config"
	pb "github.com/lni/dragonboat/v4/raftpb"
)

// TestRequestsAreAnsweredBeforeThereIsAHost has a transport that listens, and no more.
func TestRequestsAreAnsweredBeforeThereIsAHost(t *testing.T) {
	from, _ := start(t, Factory{})
	waits := Factory{Members: reader{members, "waits"}}.New("127.0.0.1:0")
	if err := waits.Start(); err != nil {
		t.Fatal(err)
	}
	defer waits.Close()
	members.put("waits", waits.addr())
	ask := func() {
		t.Helper()
		answer, _, err := Asker{Self: from.Members.Peer}.Ask(t.Context(), waits.addr(), []byte("come"))
		if err != nil || !strings.HasSuffix(string(answer), "says come") {
			t.Fatalf("%q, %v", answer, err)
		}
	}
	ask()
	if _, err := from.dial(t.Context(), "waits", forMessages); !errors.Is(err, errNotLetIn) {
		t.Errorf("messages before there is a host: %v", err)
	}
	r := make(chan pb.MessageBatch, 1)
	waits.Create(config.NodeHostConfig{RaftAddress: "waits", DeploymentID: group}, func(b pb.MessageBatch) { r <- b }, nil)
	if err := waits.Start(); err != nil {
		t.Fatal(err)
	}
	ask()
	if err := connect(t, from, waits).SendMessageBatch(ping(1)); err != nil {
		t.Fatal(err)
	}
	<-r
}

// TestRequestEndsWithItsConnection has who asks go before it is answered.
func TestRequestEndsWithItsConnection(t *testing.T) {
	for name, securities := range map[string][2]*Security{"in the clear": {}, "encrypted": {shared(t, secret, "asks"), shared(t, secret, "is asked")}} {
		to, _ := startAs(t, Factory{Security: securities[1]}, "is asked", "127.0.0.1:0")
		ctx, cancel := context.WithCancel(t.Context())
		self := func() Peer { return Peer{Places: []Place{{Member: "asks"}}} }
		asked := make(chan error)
		go func() {
			_, _, err := Asker{Security: securities[0], Self: self}.Ask(ctx, to.addr(), forLong)
			asked <- err
		}()
		select {
		case <-waiting: // it begins
		case err := <-asked:
			t.Fatal(name, err)
		}
		cancel()
		if err := <-asked; !errors.Is(err, ErrSent) {
			t.Errorf("%s: %v", name, err)
		}
		select {
		case <-waiting:
		case <-time.After(RequestTimeout / 2):
			t.Errorf("%s: the request has not ended", name)
			<-waiting
		}
		stop(t, to)
	}
}

// TestBadRequestsAreNotAnswered sends what is none.
func TestBadRequestsAreNotAnswered(t *testing.T) {
	from, _ := start(t, Factory{})
	to, _ := start(t, Factory{})
	begin := (&hello{kind: forRequest, from: from.Members.Peer()}).append(nil)
	damaged := requestFrame([]byte("hello"))
	damaged[len(damaged)-1] ^= 1
	large := requestFrame(make([]byte, maxRequest+1))
	for name, sent := range map[string][]byte{"damaged": damaged, "too large": large, "of no size": make([]byte, frameHeader)} {
		c, err := net.Dial("tcp", to.addr())
		if err != nil {
			t.Fatal(err)
		}
		c.Write(append(bytes.Clone(begin), sent...))
		c.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := readAnswer(c); err != nil {
			t.Fatal(name, err)
		}
		if b, err := io.ReadAll(c); len(b) > 0 || isTimeout(err) {
			t.Errorf("%s: %q, %v", name, b, err)
		}
		c.Close()
	}
	if _, _, err := (Asker{Self: from.Members.Peer}).Ask(t.Context(), to.addr(), make([]byte, maxRequest+1)); err == nil {
		t.Error("a request over the limit is sent")
	}
}

// TestRequestsTakeLittleMemory has strangers send requests as large as may be, which are never
// whole.
func TestRequestsTakeLittleMemory(t *testing.T) {
	from, _ := start(t, Factory{})
	to, _ := start(t, Factory{})
	begin := (&hello{kind: forRequest, from: from.Members.Peer()}).append(nil)
	request := requestFrame(make([]byte, maxRequest))
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for range maxRequests {
		c, served := net.Pipe() // what is written has been read then
		defer c.Close()
		to.admission.enter(served, strangers)
		to.serving.Go(func() { to.serve(served) })
		c.SetDeadline(time.Now().Add(10 * time.Second))
		c.Write(begin)
		if _, err := readAnswer(c); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(request[:len(request)-1]); err != nil {
			t.Fatal(err)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 8<<20 {
		t.Errorf("%d requests take %d bytes", maxRequests, grown)
	}
}

// TestRemovedMemberIsTold has a member be turned away for ever, and another sent messages
// of one that it is not.
func TestRemovedMemberIsTold(t *testing.T) {
	from, _ := startAs(t, Factory{}, "from", "127.0.0.1:0")
	defer stop(t, from)
	to, r := startAs(t, Factory{}, "to", "127.0.0.1:0")
	defer stop(t, to)
	forged := ping(1)
	forged.Requests[0].From = 9
	p := connect(t, from, to)
	if err := p.SendMessageBatch(forged); err != nil {
		t.Fatal(err)
	}
	if err := p.SendMessageBatch(ping(2)); err != nil {
		t.Log(err) // its connection may have ended by then
	}
	p.Close()
	connected := connect(t, from, to)
	defer connected.Close()
	if err := connected.SendMessageBatch(ping(3)); err != nil {
		t.Fatal(err)
	}
	for last := uint64(0); last != 3; {
		b := <-r.batches
		if last = b.Requests[0].Commit; last == 1 {
			t.Error("a message of another replica is heard")
		}
	}

	to.Members = turning{to.Members, ErrRemoved}
	to.Drop("from")
	if _, err := from.dial(context.Background(), "to", forMessages); !errors.Is(err, ErrRemoved) {
		t.Error(err)
	}
	if by, _ := from.Members.Resolve(t.Context(), "from was removed"); by != "to" {
		t.Errorf("it was told by %q", by)
	}
}
