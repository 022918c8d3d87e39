// Package raftnet carries Raft messages and snapshots between the members of a
// group over TCP, for Dragonboat. A batch of messages is one frame, and a frame is
// one write: Dragonboat's own transport takes three of each, which is most of what
// a lone operation costs. And half of the messages need not be sent at all, see
// notice.go. Here is the way of a batch:
//
//  1. Dragonboat has a goroutine per peer that gathers messages and hands them to
//     peer.SendMessageBatch, which connects if need be and writes the frame. A batch
//     of nothing but a notice waits there, for a millisecond at most.
//  2. At the other end a goroutine per connection reads the frame, checks it and
//     hands the messages to Dragonboat, which queues them.
//
// What comes in is taken for malformed until it has proved otherwise: a connection
// begins with a preamble that names the group, a frame has a limit and a checksum,
// memory is taken as the bytes arrive, and a connection that breaks a rule is
// closed. That keeps accidents and scanners out. It does not keep out who means
// harm: nothing is authenticated yet, so the port must be reachable for the members
// alone.
package raftnet

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"sync"
	"time"

	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/dragonboat/v4/raftio"
	pb "github.com/lni/dragonboat/v4/raftpb"
)

const (
	// A connection begins with the magic, what it is for, and the group.
	magic        = "dkvraft1"
	preambleSize = len(magic) + 1 + 8

	// A frame is its size and its checksum, then the message. Dragonboat's
	// largest is a batch of 64 MiB and a message more.
	frameHeader = 8
	maxFrame    = 160 << 20

	dialTimeout     = time.Second
	preambleTimeout = 3 * time.Second
	writeTimeout    = 10 * time.Second // at least half of it, see conn.write

	maxConns = 256 // that came in; more are turned away

	keepBuffer = 1 << 20 // of a larger one another message will not need all
)

// What a connection is for.
const (
	forMessages = 'm'
	forSnapshot = 's'
)

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)

	errMalformed = errors.New("malformed")
	errRefused   = errors.New("the snapshot is not wanted any longer")
)

// Factory makes transports.
type Factory struct{}

var _ config.TransportFactory = Factory{}

// Create implements config.TransportFactory.
func (Factory) Create(nhc config.NodeHostConfig, messages raftio.MessageHandler, chunks raftio.ChunkHandler) raftio.ITransport {
	return &transport{
		address:  nhc.GetListenAddress(),
		group:    nhc.GetDeploymentID(),
		messages: messages,
		chunks:   chunks,
		conns:    make(map[net.Conn]struct{}),
	}
}

// Validate implements config.TransportFactory.
func (Factory) Validate(address string) bool { return config.IsValidAddress(address) }

// transport is a raftio.ITransport.
type transport struct {
	address  string
	group    uint64
	messages raftio.MessageHandler
	chunks   raftio.ChunkHandler

	proposers proposers

	listener net.Listener
	serving  sync.WaitGroup // the accept loop, and a goroutine per connection

	mu     sync.Mutex
	conns  map[net.Conn]struct{} // that came in
	closed bool
}

// Name implements raftio.ITransport.
func (t *transport) Name() string { return "dkv" }

// Start implements raftio.ITransport.
func (t *transport) Start() (err error) {
	if t.listener, err = net.Listen("tcp", t.address); err != nil {
		return err
	}
	t.serving.Go(t.accept)
	return nil
}

// Close implements raftio.ITransport. Dragonboat has closed the connections that
// it has made.
func (t *transport) Close() error {
	t.mu.Lock()
	if t.closed || t.listener == nil {
		t.mu.Unlock()
		return nil
	}
	t.closed = true
	for c := range t.conns {
		c.Close()
	}
	t.mu.Unlock()
	err := t.listener.Close()
	t.serving.Wait()
	return err
}

func (t *transport) accept() {
	const minPause, maxPause = 5 * time.Millisecond, time.Second
	pause := minPause
	for {
		c, err := t.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // too many open files, for one
			time.Sleep(pause)
			pause = min(2*pause, maxPause)
			continue
		}
		pause = minPause
		if !t.enter(c) {
			c.Close()
			continue
		}
		t.serving.Go(func() {
			defer t.leave(c)
			t.serve(c)
		})
	}
}

func (t *transport) enter(c net.Conn) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed || len(t.conns) >= maxConns {
		return false
	}
	t.conns[c] = struct{}{}
	return true
}

func (t *transport) leave(c net.Conn) {
	c.Close()
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.conns, c)
}

// serve hands what comes in on a connection to Dragonboat, until it ends.
func (t *transport) serve(c net.Conn) error {
	if err := c.SetReadDeadline(time.Now().Add(preambleTimeout)); err != nil {
		return err
	}
	in := bufio.NewReaderSize(c, 32<<10)
	kind, err := readPreamble(in, t.group)
	if err != nil {
		return err
	}
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	return t.receive(in, kind)
}

func (t *transport) receive(r io.Reader, kind byte) error {
	f := frames{r: r}
	for {
		b, err := f.next()
		if err != nil {
			return err
		}
		switch kind {
		case forMessages:
			var batch pb.MessageBatch
			if err := unmarshal(&batch, b); err != nil {
				return err
			}
			// Where members are is known. Dragonboat would compare it with what
			// it knows for each message, and panic if it were something else.
			batch.SourceAddress = ""
			t.proposers.note(batch.Requests)
			t.messages(batch)
		case forSnapshot:
			var chunk pb.Chunk
			if err := unmarshal(&chunk, b); err != nil {
				return err
			}
			if !t.chunks(chunk) {
				return errRefused
			}
		}
	}
}

func appendPreamble(b []byte, kind byte, group uint64) []byte {
	b = append(b, magic...)
	b = append(b, kind)
	return binary.LittleEndian.AppendUint64(b, group)
}

func readPreamble(r io.Reader, group uint64) (kind byte, err error) {
	var b [preambleSize]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return 0, err
	}
	kind = b[len(magic)]
	if string(b[:len(magic)]) != magic || kind != forMessages && kind != forSnapshot {
		return 0, errMalformed
	}
	if got := binary.LittleEndian.Uint64(b[len(magic)+1:]); got != group {
		return 0, fmt.Errorf("of another group, %x", got)
	}
	return kind, nil
}

// frames reads frames. What it returns is good until the next one.
type frames struct {
	r   io.Reader
	buf []byte
}

func (f *frames) next() ([]byte, error) {
	var h [frameHeader]byte
	if _, err := io.ReadFull(f.r, h[:]); err != nil {
		return nil, err
	}
	size, sum := binary.LittleEndian.Uint32(h[:]), binary.LittleEndian.Uint32(h[4:])
	if size == 0 || size > maxFrame {
		return nil, fmt.Errorf("%w: a frame of %d bytes", errMalformed, size)
	}
	if cap(f.buf) > keepBuffer {
		f.buf = nil
	}
	// Memory is taken as the bytes arrive, not because a header says so.
	b := f.buf[:0]
	for len(b) < int(size) {
		if len(b) == cap(b) {
			grown := make([]byte, len(b), min(int(size), max(4<<10, 2*cap(b), min(int(size), keepBuffer))))
			copy(grown, b)
			b = grown
		}
		n := min(int(size), cap(b))
		if _, err := io.ReadFull(f.r, b[len(b):n]); err != nil {
			return nil, err
		}
		b = b[:n]
	}
	f.buf = b
	if crc32.Checksum(b, castagnoli) != sum {
		return nil, fmt.Errorf("%w: wrong checksum", errMalformed)
	}
	return b, nil
}

// unmarshal makes an error of the panic that malformed bytes may end in.
func unmarshal(m pb.Unmarshaler, b []byte) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", errMalformed, r)
		}
	}()
	if err := m.Unmarshal(b); err != nil {
		return fmt.Errorf("%w: %v", errMalformed, err)
	}
	return nil
}

// dial connects to a peer and says what for. When ctx ends the connection does, so
// that nobody who is to be closed waits for a peer that takes nothing.
func (t *transport) dial(ctx context.Context, target string, kind byte) (*conn, error) {
	d := net.Dialer{Timeout: dialTimeout}
	nc, err := d.DialContext(ctx, "tcp", target)
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: nc, stop: context.AfterFunc(ctx, func() { nc.Close() })}
	if err := c.write(appendPreamble(nil, kind, t.group)); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// GetConnection implements raftio.ITransport.
func (t *transport) GetConnection(ctx context.Context, target string) (raftio.IConnection, error) {
	return newPeer(ctx, t, target), nil
}

// GetSnapshotConnection implements raftio.ITransport.
func (t *transport) GetSnapshotConnection(ctx context.Context, target string) (raftio.ISnapshotConnection, error) {
	return t.dial(ctx, target, forSnapshot)
}

// conn is a connection to a peer. It is a raftio.ISnapshotConnection, and what a
// peer sends its messages on.
type conn struct {
	net.Conn
	stop     func() bool // ends the watch for the end of the context
	buf      []byte
	deadline time.Time
}

// Close implements raftio.ISnapshotConnection.
func (c *conn) Close() {
	c.stop()
	c.Conn.Close()
}

// SendChunk implements raftio.ISnapshotConnection.
func (c *conn) SendChunk(chunk pb.Chunk) error { return c.send(&chunk, chunk.Size()) }

type message interface {
	MarshalTo([]byte) (int, error)
}

func (c *conn) send(m message, size int) error {
	if cap(c.buf) < frameHeader+size || cap(c.buf) > keepBuffer && size < keepBuffer/2 {
		c.buf = make([]byte, frameHeader+size)
	}
	b := c.buf[:cap(c.buf)]
	n, err := m.MarshalTo(b[frameHeader:])
	if err != nil {
		return err
	}
	if n > maxFrame {
		return fmt.Errorf("a frame of %d bytes is over the limit", n)
	}
	b = b[:frameHeader+n]
	binary.LittleEndian.PutUint32(b, uint32(n))
	binary.LittleEndian.PutUint32(b[4:], crc32.Checksum(b[frameHeader:], castagnoli))
	return c.write(b)
}

// write writes b within writeTimeout, or a half of that: to set a deadline costs
// something, so one serves for several writes.
func (c *conn) write(b []byte) error {
	if now := time.Now(); c.deadline.Sub(now) < writeTimeout/2 {
		c.deadline = now.Add(writeTimeout)
		if err := c.SetWriteDeadline(c.deadline); err != nil {
			return err
		}
	}
	_, err := c.Write(b)
	return err
}
