package raftnet

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
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

// book has where the members of tests are.
type book struct {
	mu      sync.Mutex
	at      map[string]string
	replica map[string]uint64 // 1 if it is not said
}

func (b *book) put(member, address string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.at[member] = address
}

// reader is one who reads it. It is Members.
type reader struct {
	*book
	own string
}

func (r reader) Resolve(_ context.Context, member string) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if at, ok := r.at[member]; ok {
		return at, nil
	}
	return "", errors.New("nobody knows where it is")
}

func (r reader) Peer() Peer {
	r.mu.Lock()
	defer r.mu.Unlock()
	return Peer{Replica: max(1, r.replica[r.own]), Directory: 5, Places: []Place{{Member: r.own, Incarnation: 1, Address: "localhost:1"}}}
}

func (r reader) Meet(told Peer) error {
	_, err := r.Resolve(context.Background(), told.Self().Member)
	return err
}

func (r reader) Removed(by string) { r.put(r.own+" was removed", by) }

// waiting is told of who waits for an answer to this request, when it begins and when its
// context has ended.
var (
	waiting = make(chan string)
	forLong = []byte("wait")
)

func (r reader) Answer(ctx context.Context, from Peer, request []byte) []byte {
	if bytes.Equal(request, forLong) {
		waiting <- "begins"
		<-ctx.Done()
		waiting <- "ended"
	}
	return fmt.Appendf(nil, "%s: %s says %s", r.own, from.Self().Member, request)
}

// members of tests are all in one book.
var (
	members = &book{at: make(map[string]string), replica: make(map[string]uint64)}
	started atomic.Int64
)

// noRoom is the ID of a part of a snapshot that cannot be written.
const noRoom = 1 << 20

// startAs starts a transport that the test closes itself.
func startAs(t testing.TB, f Factory, name, address string) (*Transport, *received) {
	t.Helper()
	r := &received{batches: make(chan pb.MessageBatch, 100), chunks: make(chan pb.Chunk, 100)}
	f.Members = reader{members, name}
	tr := f.Create(
		config.NodeHostConfig{RaftAddress: name, ListenAddress: address, DeploymentID: group},
		func(b pb.MessageBatch) { r.batches <- b },
		func(c pb.Chunk) bool {
			if c.ChunkId == noRoom {
				panic("no space left on device")
			}
			c.Data = bytes.Clone(c.Data) // which is good until this returns
			r.chunks <- c
			return c.ChunkId < 2
		},
	).(*Transport)
	if err := tr.Start(); err != nil {
		t.Fatal(err)
	}
	members.put(name, tr.addr())
	return tr, r
}

// start starts a transport of a new name, until the test ends.
func start(t testing.TB, f Factory) (*Transport, *received) {
	t.Helper()
	tr, r := startAs(t, f, fmt.Sprint("member ", started.Add(1)), "127.0.0.1:0")
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

func (t *Transport) addr() string { return t.listener.Addr().String() }

func TestMessagesAndSnapshotsArriveAsTheyWereSent(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	t.Run("", func(t *testing.T) {
		sender, _ := start(t, Factory{})
		tr, r := start(t, Factory{})
		c, err := sender.GetConnection(context.Background(), tr.name)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		from := sender.name // which is told once
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
				got.DeploymentId != group || got.SourceAddress != from {
				t.Fatalf("%d bytes: got %v", size, got)
			}
			from = ""
		}
		s, err := sender.GetSnapshotConnection(context.Background(), tr.name)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		for id := range uint64(2) {
			if err := s.SendChunk(pb.Chunk{From: 1, ChunkId: id, Data: make([]byte, 2<<20)}); err != nil {
				t.Fatal(err)
			}
			if got := <-r.chunks; got.ChunkId != id || len(got.Data) != 2<<20 {
				t.Fatal(got.ChunkId, len(got.Data))
			}
		}
		// A chunk that is refused ends the connection, which its sender learns.
		for deadline := time.Now().Add(10 * time.Second); ; {
			if err := s.SendChunk(pb.Chunk{From: 1, ChunkId: 2, Data: make([]byte, 2<<20)}); err != nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("the sender is not told that the snapshot is refused")
			}
		}
	})
}

// framed is a frame of b.
func framed(b []byte) []byte {
	f := binary.LittleEndian.AppendUint32(nil, uint32(len(b)))
	f = binary.LittleEndian.AppendUint32(f, crc32.Checksum(b, castagnoli))
	return append(f, b...)
}

// TestStrangersAreTurnedAway connects with what no member would send. Nothing of
// it may reach Dragonboat, take much memory or time, or keep members out.
func TestStrangersAreTurnedAway(t *testing.T) {
	sender, _ := start(t, Factory{})
	tr, r := start(t, Factory{})
	say := func(change func(h *hello)) []byte {
		h := hello{kind: forMessages, group: group, to: tr.name, from: sender.Members.Peer()}
		if change != nil {
			change(&h)
		}
		return h.append(nil)
	}
	good := say(nil)
	huge := binary.LittleEndian.AppendUint64(nil, 1<<63-1)
	wrong := framed([]byte("message"))
	wrong[len(wrong)-1] ^= 1
	for name, sent := range map[string][]byte{
		"nothing of sense":      []byte("GET / HTTP/1.1\r\nHost: dkv\r\n\r\n"),
		"another group":         say(func(h *hello) { h.group++ }),
		"another kind":          say(func(h *hello) { h.kind = 'x' }),
		"another version":       append([]byte("dkvraft4"), good[len(magic):]...),
		"to another":            say(func(h *hello) { h.to = sender.name }),
		"from itself":           say(func(h *hello) { h.from.Places[0].Member = tr.name }),
		"from nobody":           say(func(h *hello) { h.from.Places = nil }),
		"from no member":        say(func(h *hello) { h.from.Places[0].Member = "somebody" }),
		"Dragonboat's header":   append([]byte{0xAE, 0x7D}, bytes.Repeat([]byte{0xff}, 18)...),
		"a frame without end":   append(bytes.Clone(good), huge...),
		"a frame of nothing":    append(bytes.Clone(good), make([]byte, 8)...),
		"a wrong checksum":      append(bytes.Clone(good), wrong...),
		"no message":            append(bytes.Clone(good), framed([]byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"))...),
		"a message without end": append(bytes.Clone(good), framed([]byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0x7f})...),
	} {
		c, err := net.Dial("tcp", tr.addr())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(sent); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		c.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.Copy(io.Discard, c); isTimeout(err) { // it may be told why
			t.Errorf("%s: it is not turned away: %v", name, err)
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
	// One that sends nothing at all, more often than there is room.
	for range 8 * maxStrangers {
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
	// Members get in all the same, at once.
	if err := connect(t, sender, tr).SendMessageBatch(ping(1)); err != nil {
		t.Fatal(err)
	}
	arrive(t, r, ping(1).Requests...)
}

// TestMemoryIsTakenForBytesThatHaveArrived has headers promise as much as they may, and some
// bytes follow.
func TestMemoryIsTakenForBytesThatHaveArrived(t *testing.T) {
	for _, most := range []uint32{maxRequest, maxFrame} {
		for _, sent := range []int{0, 4 << 10, 200 << 10} {
			b := append(binary.LittleEndian.AppendUint32(nil, most), make([]byte, 4+sent)...)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			if _, err := (&frames{r: bytes.NewReader(b), most: most}).next(); err == nil {
				t.Error("no error")
			}
			runtime.ReadMemStats(&after)
			if taken := int(after.TotalAlloc - before.TotalAlloc); taken > 128<<10+4*sent {
				t.Errorf("%d bytes are taken for %d of %d", taken, sent, most)
			}
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
	said := hello{group: group, to: "b", from: Peer{3, 5, 4, []Place{{"a", 1, "localhost:1"}, {"c", 2, "localhost:2"}}}}
	whole := func(b []byte, kind byte) []byte {
		h := said
		h.kind = kind
		return append(h.append(nil), framed(b)...)
	}
	f.Add(whole(nil, forMessages), true, false)
	f.Fuzz(func(t *testing.T, b []byte, messages, framed bool) {
		kind := byte(forSnapshot)
		if messages {
			kind = forMessages
		}
		began := 0
		if framed {
			began = len(whole(nil, kind))
			b = whole(b, kind)
		}
		tr := &Transport{messages: func(pb.MessageBatch) {}, chunks: func(pb.Chunk) bool { return true }}
		r := bytes.NewReader(b)
		h, err := readHello(r)
		if err == nil {
			if again := h.append(nil); !bytes.Equal(again, b[:len(again)]) {
				t.Errorf("%x is read as %x", b, again)
			}
			err = tr.receive(r, &h)
		}
		if err == nil {
			t.Error("no error at the end")
		}
		if framed && len(b) > began && errors.Is(err, io.ErrUnexpectedEOF) {
			t.Error("a whole frame was not read")
		}
	})
}

// TestSnapshotThatCannotBeWrittenIsNotReceived has the disk be full.
func TestSnapshotThatCannotBeWrittenIsNotReceived(t *testing.T) {
	from, _ := start(t, Factory{})
	to, r := start(t, Factory{})
	for _, id := range []uint64{noRoom, 0} {
		c, err := from.GetSnapshotConnection(t.Context(), to.name)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.SendChunk(pb.Chunk{From: 1, ChunkId: id, Data: []byte("data")}); err != nil {
			t.Fatal(err)
		}
		if id == noRoom {
			c.(*conn).SetReadDeadline(time.Now().Add(10 * time.Second))
			if _, err := c.(*conn).Read(make([]byte, 1)); err == nil || isTimeout(err) {
				t.Errorf("the connection stays: %v", err)
			}
		} else if got := <-r.chunks; string(got.Data) != "data" {
			t.Errorf("%q is received", got.Data)
		}
		c.Close()
	}
}

// FuzzAnswer reads any bytes as the answer to a hello.
func FuzzAnswer(f *testing.F) {
	f.Add(appendAnswer(nil, Peer{3, 5, 4, []Place{{"a", 1, "localhost:1"}, {"c", 2, "localhost:2"}}}, nil))
	f.Add(appendAnswer(nil, Peer{}, errors.New("no")))
	f.Add(appendAnswer(nil, Peer{}, ErrRemoved))
	f.Fuzz(func(t *testing.T, b []byte) {
		told, err := readAnswer(bytes.NewReader(b))
		if err != nil {
			return
		}
		if again := appendAnswer(nil, told, nil); !bytes.Equal(again, b[:len(again)]) {
			t.Errorf("%x is read as %x", b, again)
		}
	})
}
