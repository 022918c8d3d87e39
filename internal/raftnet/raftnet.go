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
// Members have names. Where one is reached is looked up each time that it is dialled, and
// a member says where it is when it dials another: so it is found again at a new address.
//
// What comes in is taken for a stranger until it has shown who it is: a connection
// begins with TLS, whose certificates say which member is at the other end, and with a
// hello that names it and the group, see hello.go and [Security]. That takes place beside
// the loop that accepts connections, within a time, and for so many at once. A frame has
// a limit and a checksum, memory is taken as the bytes arrive, and a connection that
// breaks a rule is closed. Without Security, whoever reaches the port can say that he is
// a member; then only accidents and scanners are kept out, so the port has to be
// reachable for the members alone.
package raftnet

import (
	"bufio"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/dragonboat/v4/raftio"
	pb "github.com/lni/dragonboat/v4/raftpb"
)

const (
	// A frame is its size and its checksum, then the message. Dragonboat's
	// largest is a batch of 64 MiB and a message more.
	frameHeader = 8
	maxFrame    = 160 << 20

	dialTimeout  = time.Second      // to find a peer's address and connect
	greetTimeout = 2 * time.Second  // then, until it has answered the hello
	helloTimeout = 3 * time.Second  // for a stranger to say who it is
	writeTimeout = 10 * time.Second // at least half of it, see conn.write

	trustSize  = 64 << 10 // of a frame, that memory is taken for before the bytes arrive
	keepBuffer = 4 << 20  // of a larger one another message will not need all; a chunk does of 2 MiB
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Members is what is known of the members of the group. A member is known here by what
// Dragonboat takes for its address, which begins with its name, see [Name].
type Members interface {
	// Resolve returns the address at which a member is dialled, as host:port.
	Resolve(ctx context.Context, member string) (string, error)

	// Peer is what others are told, this member's own place first.
	Peer() Peer

	// Meet is told what a peer has told, of whose name it has made sure. It returns
	// why the peer is not a member, ErrRemoved if it is one no longer, or nil.
	Meet(told Peer) error

	// Removed is told that a peer has said that this member was removed.
	Removed(by string)

	// Answer answers a request, which may be of one who is no member, but of whose name
	// it has made sure.
	Answer(ctx context.Context, from Peer, request []byte) []byte
}

// Name is the name of a member: all that is before an @.
func Name(member string) string {
	name, _, _ := strings.Cut(member, "@")
	return name
}

// Factory has what a transport is made with.
type Factory struct {
	Members  Members
	Security *Security
	Logger   *slog.Logger
	Listener net.Listener // nil: one is made

	// Running tells whether the replica runs, and messages can be taken: what comes before
	// is turned away. Default: as soon as there is a NodeHost.
	Running func() bool
}

var _ config.TransportFactory = Factory{}

// Create implements config.TransportFactory. Dragonboat's name for where a member is, the
// RaftAddress, is the member; where it listens, the ListenAddress, is an address.
func (f Factory) Create(nhc config.NodeHostConfig, messages raftio.MessageHandler, chunks raftio.ChunkHandler) raftio.ITransport {
	return f.New(nhc.ListenAddress).Create(nhc, messages, chunks)
}

// Validate implements config.TransportFactory: what Dragonboat takes for addresses are
// names.
func (Factory) Validate(string) bool { return true }

// Transport is a raftio.ITransport. It is also a config.TransportFactory, for the one
// NodeHost that it belongs to: so it can listen, and answer requests, before there is
// one. It is the NodeHost's to close, and before there is one, of who has made it.
type Transport struct {
	Factory
	address string // where it listens, without a Listener

	// Of the NodeHost, once attached is closed.
	attached chan struct{}
	name     string
	group    uint64
	messages raftio.MessageHandler
	chunks   raftio.ChunkHandler

	proposers proposers

	listener  net.Listener    // nil until Start
	ctx       context.Context // of handshakes and requests
	cancel    context.CancelFunc
	admission admission
	dialled   dialled
	serving   sync.WaitGroup // the accept loop, and a goroutine per connection
	closing   sync.Once
}

// New makes a transport that is to listen at an address.
func (f Factory) New(address string) *Transport {
	if f.Logger == nil {
		f.Logger = slog.New(slog.DiscardHandler)
	}
	t := &Transport{Factory: f, address: address, attached: make(chan struct{})}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	return t
}

// Create implements config.TransportFactory.
func (t *Transport) Create(nhc config.NodeHostConfig, messages raftio.MessageHandler, chunks raftio.ChunkHandler) raftio.ITransport {
	t.name, t.group = nhc.RaftAddress, nhc.GetDeploymentID()
	t.messages, t.chunks = messages, chunks
	close(t.attached)
	return t
}

// Drop ends the connections of a member and those to it: both have to make sure anew that
// it is one, and where it is.
func (t *Transport) Drop(member string) {
	t.admission.empty(member)
	t.dialled.mu.Lock()
	defer t.dialled.mu.Unlock()
	for c, to := range t.dialled.to {
		if to == member {
			c.raw.Close()
		}
	}
}

// dialled are the connections that were made from here.
type dialled struct {
	mu sync.Mutex
	to map[*conn]string // a member
}

func (d *dialled) add(c *conn, member string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.to == nil {
		d.to = make(map[*conn]string)
	}
	d.to[c] = member
}

func (d *dialled) remove(c *conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.to, c)
}

// Name implements raftio.ITransport.
func (t *Transport) Name() string { return "dkv" }

// Start implements raftio.ITransport. It does nothing if it has been called before.
func (t *Transport) Start() (err error) {
	if t.listener != nil {
		return nil
	}
	if t.listener = t.Listener; t.listener == nil {
		if t.listener, err = net.Listen("tcp", t.address); err != nil {
			return err
		}
	}
	t.serving.Go(t.accept)
	return nil
}

// Close implements raftio.ITransport. Dragonboat has closed the connections that
// it has made.
func (t *Transport) Close() (err error) {
	t.closing.Do(func() {
		t.cancel()
		t.admission.close()
		if l := cmp.Or(t.listener, t.Listener); l != nil {
			if err = l.Close(); errors.Is(err, net.ErrClosed) {
				err = nil // whose listener it is has closed it
			}
		}
		t.serving.Wait()
	})
	return err
}

func (t *Transport) accept() {
	const minPause, maxPause = 5 * time.Millisecond, time.Second
	pause := minPause
	for {
		c, err := t.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // too many open files, for one, which others need more
			t.admission.shed()
			t.Logger.Debug("no connection accepted", "why", err)
			time.Sleep(pause)
			pause = min(2*pause, maxPause)
			continue
		}
		pause = minPause
		if !t.admission.enter(c, strangers) {
			c.Close()
			continue
		}
		t.serving.Go(func() { t.serve(c) })
	}
}

// serve hands what comes in on a connection to Dragonboat, until it ends.
func (t *Transport) serve(c net.Conn) {
	said, h, in, err := t.meet(c)
	defer func() {
		c.Close()
		t.admission.leave(c, in)
	}()
	switch {
	case err != nil:
		t.Logger.Debug("connection turned away", "from", c.RemoteAddr().String(), "why", err)
		return
	case h.kind == forRequest:
		err = t.answer(said, &h)
	default:
		err = t.receive(bufio.NewReaderSize(said, 32<<10), &h)
	}
	t.Logger.Debug("connection ended", "member", in.member, "from", c.RemoteAddr().String(), "taken", h.taken, "why", err)
}

// meet finds out who has dialled, and returns the connection that it speaks on and the
// room that it is in by then: connections enter in the order in which they are answered.
func (t *Transport) meet(c net.Conn) (said net.Conn, h hello, in room, err error) {
	ctx, cancel := context.WithTimeout(t.ctx, helloTimeout)
	defer cancel()
	in = strangers
	if err := c.SetDeadline(time.Now().Add(helloTimeout)); err != nil {
		return nil, h, in, err
	}
	if said, err = t.Security.server(ctx, c); err != nil {
		return nil, h, in, err
	}
	if h, err = readHello(said); err != nil {
		return nil, h, in, err
	}
	if err = t.welcome(said, &h); err == nil {
		to := room{h.from.Self().Member, h.kind}
		if h.kind == forRequest {
			to = requests
		}
		if !t.admission.move(c, to) {
			return nil, h, in, net.ErrClosed
		}
		in = to
	}
	if _, failed := said.Write(appendAnswer(nil, t.Members.Peer(), err)); err == nil {
		err = cmp.Or(failed, c.SetDeadline(time.Time{}))
	}
	return said, h, in, err
}

// welcome returns why a peer is turned away, or nil.
func (t *Transport) welcome(c net.Conn, h *hello) error {
	from := h.from.Self().Member
	if err := t.Security.check(c, from); err != nil {
		return err
	}
	if h.kind == forRequest {
		return nil
	}
	if !t.running() {
		return errors.New("this member has not started")
	}
	switch {
	case h.group != t.group:
		return fmt.Errorf("this is a member of another group, %x", t.group)
	case h.to != t.name:
		return fmt.Errorf("this is the member %q", t.name)
	case from == t.name:
		return errors.New("this member has the same name")
	}
	return t.Members.Meet(h.from)
}

func (t *Transport) running() bool {
	select {
	case <-t.attached:
		return t.Running == nil || t.Running()
	default:
		return false
	}
}

func (t *Transport) receive(r io.Reader, h *hello) error {
	f := frames{r: r, most: maxFrame}
	replica := h.from.Replica
	var part []byte // of a snapshot, which Dragonboat has written when it returns
	for first := true; ; first = false {
		b, err := f.next()
		if err != nil {
			return err
		}
		switch h.kind {
		case forMessages:
			var batch pb.MessageBatch
			if err := unmarshal(&batch, b); err != nil {
				return err
			}
			for i := range batch.Requests {
				if from := batch.Requests[i].From; from != replica && from != 0 {
					return fmt.Errorf("%w: a message of replica %d from %d", errMalformed, from, replica)
				}
			}
			// Dragonboat compares where a message comes from with what it knows, and
			// panics if it is something else. One that joins knows nothing yet, and
			// has to, to answer.
			if batch.SourceAddress = ""; first {
				batch.SourceAddress = h.from.Self().Member
			}
			t.proposers.note(batch.Requests)
			h.taken++
			t.messages(batch)
		case forSnapshot:
			chunk := pb.Chunk{Data: part[:0]}
			if err := unmarshal(&chunk, b); err != nil {
				return err
			}
			if part = chunk.Data; cap(part) > keepBuffer {
				part = nil
			}
			if chunk.From != replica {
				return fmt.Errorf("%w: a snapshot of replica %d from %d", errMalformed, chunk.From, replica)
			}
			h.taken++
			if err := t.keep(chunk); err != nil {
				return err
			}
		}
	}
}

// keep has Dragonboat write a part of a snapshot to the disk. It panics if that fails, a
// full disk included: then the snapshot is not received, and is sent again later.
func (t *Transport) keep(chunk pb.Chunk) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("snapshot not written: %v", r)
			t.Logger.Warn("a part of a snapshot was not written", "why", r)
		}
	}()
	if !t.chunks(chunk) {
		return errRefused
	}
	return nil
}

// frames reads frames. What it returns is good until the next one.
type frames struct {
	r    io.Reader
	most uint32 // bytes in a frame
	buf  []byte
}

func (f *frames) next() ([]byte, error) {
	var h [frameHeader]byte
	if _, err := io.ReadFull(f.r, h[:]); err != nil {
		return nil, err
	}
	size, sum := binary.LittleEndian.Uint32(h[:]), binary.LittleEndian.Uint32(h[4:])
	if size == 0 || size > f.most {
		return nil, fmt.Errorf("%w: a frame of %d bytes", errMalformed, size)
	}
	if cap(f.buf) > keepBuffer {
		f.buf = nil
	}
	// Memory is taken as the bytes arrive, not because a header says so.
	b := f.buf[:0]
	for len(b) < int(size) {
		if len(b) == cap(b) {
			grown := make([]byte, len(b), min(int(size), max(2*cap(b), trustSize)))
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

// dial connects to a member and says what for. When ctx ends the connection does, so
// that nobody who is to be closed waits for a peer that takes nothing.
func (t *Transport) dial(ctx context.Context, member string, kind byte) (_ *conn, err error) {
	defer func() {
		if err != nil {
			t.Logger.Debug("member not reached", "member", member, "why", err)
		}
	}()
	brief, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	address, err := t.Members.Resolve(brief, member)
	if err != nil {
		return nil, err
	}
	raw, err := new(net.Dialer).DialContext(brief, "tcp", address)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	greeting, cancelGreeting := context.WithTimeout(ctx, greetTimeout)
	defer cancelGreeting()
	secure, err := t.introduce(greeting, raw, member, kind)
	if err != nil {
		stop()
		raw.Close()
		if !isOutage(err) {
			err = fmt.Errorf("%w: %w", errNotLetIn, err)
		}
		return nil, err
	}
	c := &conn{Conn: secure, raw: raw}
	t.dialled.add(c, member)
	c.stop = func() {
		stop()
		t.dialled.remove(c)
	}
	return c, nil
}

// isOutage tells whether a connection ended without a word of why.
func isOutage(err error) bool {
	if op := (*net.OpError)(nil); errors.As(err, &op) {
		return op.Op != "remote error" // which is what package tls calls an alert
	}
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}

// introduce says hello on a connection to a member, and returns what to speak on.
func (t *Transport) introduce(ctx context.Context, raw net.Conn, member string, kind byte) (net.Conn, error) {
	if err := raw.SetDeadline(time.Now().Add(greetTimeout)); err != nil {
		return nil, err
	}
	c, err := t.Security.client(ctx, raw, member)
	if err != nil {
		return nil, err
	}
	h := hello{kind: kind, group: t.group, to: member, from: t.Members.Peer()}
	if _, err := c.Write(h.append(nil)); err != nil {
		return nil, err
	}
	told, err := readAnswer(c)
	if errors.Is(err, ErrRemoved) {
		t.Members.Removed(member)
	}
	if err != nil {
		return nil, err
	}
	if self := told.Self().Member; self != member {
		return nil, fmt.Errorf("%w: %q answers for %q", errMalformed, self, member)
	}
	if err := t.Members.Meet(told); err != nil {
		return nil, err
	}
	return c, raw.SetDeadline(time.Time{})
}

// GetConnection implements raftio.ITransport.
func (t *Transport) GetConnection(ctx context.Context, target string) (raftio.IConnection, error) {
	return newPeer(ctx, t, target), nil
}

// GetSnapshotConnection implements raftio.ITransport.
func (t *Transport) GetSnapshotConnection(ctx context.Context, target string) (raftio.ISnapshotConnection, error) {
	return t.dial(ctx, target, forSnapshot)
}

// conn is a connection to a peer. It is a raftio.ISnapshotConnection, and what a
// peer sends its messages on.
type conn struct {
	net.Conn
	raw      net.Conn // what it goes over, or itself
	stop     func()   // ends what waits for its end
	buf      []byte
	deadline time.Time
}

// Close implements raftio.ISnapshotConnection.
func (c *conn) Close() {
	c.stop()
	c.raw.Close() // of TLS there is nothing to say: whoever listens takes an end for one
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
	return c.write(frame(b[:frameHeader+n]))
}

// frame fills in the header of b, a whole frame.
func frame(b []byte) []byte {
	binary.LittleEndian.PutUint32(b, uint32(len(b)-frameHeader))
	binary.LittleEndian.PutUint32(b[4:], crc32.Checksum(b[frameHeader:], castagnoli))
	return b
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
