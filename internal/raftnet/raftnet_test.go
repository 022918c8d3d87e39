package raftnet

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/lni/dragonboat/v4/config"
	pb "github.com/lni/dragonboat/v4/raftpb"
	"go.uber.org/goleak"
)

const group = 77

// received is what a transport has handed over.
type received struct {
	batches chan pb.MessageBatch
	chunks  chan pb.Chunk
}

func start(t testing.TB) (*transport, *received) {
	t.Helper()
	r := &received{batches: make(chan pb.MessageBatch, 100), chunks: make(chan pb.Chunk, 100)}
	tr := Factory{}.Create(
		config.NodeHostConfig{RaftAddress: "127.0.0.1:0", DeploymentID: group},
		func(b pb.MessageBatch) { r.batches <- b },
		func(c pb.Chunk) bool {
			r.chunks <- c
			return c.ChunkId < 2
		},
	).(*transport)
	if err := tr.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tr.Close(); err != nil {
			t.Error(err)
		}
		if err := tr.Close(); err != nil {
			t.Error("second close: ", err)
		}
	})
	return tr, r
}

func (t *transport) addr() string { return t.listener.Addr().String() }

func TestMessagesAndSnapshotsArriveAsTheyWereSent(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	t.Run("", func(t *testing.T) {
		tr, r := start(t)
		c, err := tr.GetConnection(context.Background(), tr.addr())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for _, size := range []int{0, 1, 100, 70_000, 5 << 20, 10, 3 << 20} {
			cmd := bytes.Repeat([]byte{byte(size), 1, 2}, size/3)
			sent := pb.MessageBatch{SourceAddress: "somewhere", DeploymentId: group, Requests: []pb.Message{
				{Type: pb.Replicate, From: 1, To: 2, Entries: []pb.Entry{{Index: 7, Cmd: cmd}}},
				{Type: pb.Heartbeat, From: 1, To: 2, Commit: 5},
			}}
			if err := c.SendMessageBatch(sent); err != nil {
				t.Fatal(err)
			}
			got := <-r.batches
			if len(got.Requests) != 2 || !bytes.Equal(got.Requests[0].Entries[0].Cmd, cmd) || got.Requests[1].Commit != 5 ||
				got.DeploymentId != group || got.SourceAddress != "" {
				t.Fatalf("%d bytes: got %v", size, got)
			}
		}
		s, err := tr.GetSnapshotConnection(context.Background(), tr.addr())
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		for id := range uint64(2) {
			if err := s.SendChunk(pb.Chunk{ChunkId: id, Data: make([]byte, 2<<20)}); err != nil {
				t.Fatal(err)
			}
			if got := <-r.chunks; got.ChunkId != id || len(got.Data) != 2<<20 {
				t.Fatal(got.ChunkId, len(got.Data))
			}
		}
		// A chunk that is refused ends the connection, which its sender learns.
		for deadline := time.Now().Add(10 * time.Second); ; {
			if err := s.SendChunk(pb.Chunk{ChunkId: 2, Data: make([]byte, 2<<20)}); err != nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("the sender is not told that the snapshot is refused")
			}
		}
	})
}

// frame is a frame of b.
func frame(b []byte) []byte {
	f := binary.LittleEndian.AppendUint32(nil, uint32(len(b)))
	f = binary.LittleEndian.AppendUint32(f, crc32.Checksum(b, castagnoli))
	return append(f, b...)
}

// TestStrangersAreTurnedAway connects with what no member would send. Nothing of
// it may reach Dragonboat, take much memory or time, or keep members out.
func TestStrangersAreTurnedAway(t *testing.T) {
	tr, r := start(t)
	good := appendPreamble(nil, forMessages, group)
	huge := binary.LittleEndian.AppendUint64(nil, 1<<63-1)
	wrong := frame([]byte("message"))
	wrong[len(wrong)-1] ^= 1
	for name, sent := range map[string][]byte{
		"nothing of sense":      []byte("GET / HTTP/1.1\r\nHost: dkv\r\n\r\n"),
		"another group":         appendPreamble(nil, forMessages, group+1),
		"another kind":          appendPreamble(nil, 'x', group),
		"Dragonboat's header":   append([]byte{0xAE, 0x7D}, bytes.Repeat([]byte{0xff}, 18)...),
		"a frame without end":   append(bytes.Clone(good), huge...),
		"a frame of nothing":    append(bytes.Clone(good), make([]byte, 8)...),
		"a wrong checksum":      append(bytes.Clone(good), wrong...),
		"no message":            append(bytes.Clone(good), frame([]byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"))...),
		"a message without end": append(bytes.Clone(good), frame([]byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0x7f})...),
	} {
		c, err := net.Dial("tcp", tr.addr())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(sent); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		c.SetReadDeadline(time.Now().Add(10 * time.Second))
		if n, err := c.Read(make([]byte, 1)); n != 0 || errors.Is(err, context.DeadlineExceeded) || isTimeout(err) {
			t.Errorf("%s: it is not turned away: %d, %v", name, n, err)
		}
		c.Close()
	}
	// One that promises much and sends nothing.
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 20 {
		c, err := net.Dial("tcp", tr.addr())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write(append(bytes.Clone(good), 0, 0, 0, 8, 0, 0, 0, 0)); err != nil {
			t.Fatal(err)
		}
	}
	// One that sends nothing at all, as often as there is room.
	for range 2 * maxConns {
		c, err := net.Dial("tcp", tr.addr())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	time.Sleep(100 * time.Millisecond)
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 64<<20 {
		t.Errorf("strangers made it take %d bytes", grown)
	}
	if len(r.batches) > 0 || len(r.chunks) > 0 {
		t.Error("something reached Dragonboat")
	}
	// Those that sent nothing go, and members get in again.
	for deadline := time.Now().Add(4 * preambleTimeout); ; time.Sleep(50 * time.Millisecond) {
		c, err := tr.GetConnection(context.Background(), tr.addr())
		if err == nil {
			err = c.SendMessageBatch(pb.MessageBatch{DeploymentId: group, Requests: []pb.Message{{Type: pb.Ping}}})
			select {
			case <-r.batches:
				c.Close()
				return
			case <-time.After(100 * time.Millisecond):
			}
			c.Close()
		}
		if time.Now().After(deadline) {
			t.Fatal("members do not get in again: ", err)
		}
	}
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// FuzzReceive reads any bytes as a connection's.
func FuzzReceive(f *testing.F) {
	batch := pb.MessageBatch{DeploymentId: group, Requests: []pb.Message{{Type: pb.Replicate, Entries: []pb.Entry{{Index: 1, Cmd: []byte("cmd")}}}}}
	f.Add(pb.MustMarshal(&batch), true, true)
	chunk := pb.Chunk{ChunkId: 1, Data: []byte("data")}
	f.Add(pb.MustMarshal(&chunk), false, true)
	f.Add(append(appendPreamble(nil, forMessages, group), frame(nil)...), true, false)
	f.Fuzz(func(t *testing.T, b []byte, messages, framed bool) {
		kind := byte(forSnapshot)
		if messages {
			kind = forMessages
		}
		if framed {
			b = append(appendPreamble(nil, kind, group), frame(b)...)
		}
		tr := &transport{group: group, messages: func(pb.MessageBatch) {}, chunks: func(pb.Chunk) bool { return true }}
		r := bytes.NewReader(b)
		k, err := readPreamble(r, group)
		if err == nil {
			err = tr.receive(r, k)
		}
		if err == nil {
			t.Error("no error at the end")
		}
		if framed && len(b) > preambleSize+frameHeader && errors.Is(err, io.ErrUnexpectedEOF) {
			t.Error("a whole frame was not read")
		}
	})
}
