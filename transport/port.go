package transport

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// peerMagic is what members of a group begin with, in the clear, or have as the
	// protocol of TLS; a version follows. See internal/raftnet.
	peerMagic = "dkvraft"

	// maxUndecided connections have not shown yet what they are. When more come, the one
	// that has taken longest goes.
	maxUndecided = 512

	// maxClientHello is how much is read of a TLS ClientHello at most, in bytes. Those of
	// members have less than 2 KiB; a longer one is a client's.
	maxClientHello = 4 << 10
)

// Port has one listener serve the members of a group and the clients of the network mode.
// What a connection begins with tells them apart: the magic of what members say to each
// other, or, if it is TLS, the protocol that its first message asks for (ALPN, RFC 7301).
// Nobody is trusted for that: both sides make sure of who connects as they do on ports of
// their own.
type Port struct {
	listener net.Listener
	peers    *side
	clients  *side
	serving  sync.WaitGroup // the accept loop, and a goroutine per undecided connection

	mu        sync.Mutex
	open      int        // sides that are
	undecided []net.Conn // the oldest first
}

// SharePort has l be shared. It is closed when both Peers and Clients are, or by Close.
func SharePort(l net.Listener) *Port {
	p := &Port{listener: l, open: 2}
	p.peers, p.clients = newSide(p), newSide(p)
	p.serving.Go(p.accept)
	return p
}

// Peers is the listener that members connect to: that of Options.PeerListener of package
// dkv. The connections are in the clear as yet, be they encrypted or not.
func (p *Port) Peers() net.Listener { return p.peers }

// Clients is the listener that all others connect to, be they of dkv's protocol, of HTTP
// or none: for [ListenOptions], in which Port has it.
func (p *Port) Clients() net.Listener { return p.clients }

// Close closes both. Connections that they have accepted stay.
func (p *Port) Close() error {
	p.peers.Close()
	p.clients.Close()
	p.serving.Wait()
	return nil
}

func (p *Port) accept() {
	const pause = 50 * time.Millisecond
	for {
		conn, err := p.listener.Accept()
		switch {
		case err == nil:
			if p.enter(conn) {
				p.serving.Go(func() { p.decide(conn) })
			}
		case errors.Is(err, net.ErrClosed):
			p.peers.Close()
			p.clients.Close()
			return
		default: // out of file descriptors, for one, which others need more
			p.shed()
			time.Sleep(pause)
		}
	}
}

// enter takes a connection among the undecided. It is false if it is too late.
func (p *Port) enter(conn net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open == 0 {
		conn.Close()
		return false
	}
	if len(p.undecided) == maxUndecided {
		p.undecided[0].Close()
		p.undecided = slices.Delete(p.undecided, 0, 1)
	}
	p.undecided = append(p.undecided, conn)
	return true
}

// shed closes what is undecided.
func (p *Port) shed() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, conn := range p.undecided {
		conn.Close() // decide takes it out
	}
}

// decide hands a connection to the side that it is for.
func (p *Port) decide(conn net.Conn) {
	to, head, err := p.sideOf(conn)
	if err == nil {
		err = conn.SetDeadline(time.Time{})
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.Index(p.undecided, conn)
	if i < 0 { // it was closed for others
		return
	}
	p.undecided = slices.Delete(p.undecided, i, i+1)
	if err != nil || to.isClosed() || len(to.accepted) == cap(to.accepted) {
		conn.Close()
		return
	}
	to.accepted <- withHead(conn, bytes.Clone(head)) // nobody sends but with mu held
}

// sideOf is what a connection is for, and what was read of it.
func (p *Port) sideOf(conn net.Conn) (to *side, head []byte, err error) {
	if err := conn.SetDeadline(time.Now().Add(helloTimeout)); err != nil {
		return nil, nil, err
	}
	head = make([]byte, len(preamble)) // no request is shorter, of any protocol
	if _, err := io.ReadFull(conn, head); err != nil {
		return nil, nil, err
	}
	const tlsHandshake = 22 // what such a record begins with: RFC 8446, 5.1
	switch {
	case head[0] == tlsHandshake:
		protocols, head, err := askedFor(conn, head)
		if slices.ContainsFunc(protocols, func(s string) bool { return strings.HasPrefix(s, peerMagic) }) {
			return p.peers, head, err
		}
		return p.clients, head, err
	case string(head) == peerMagic[:len(head)]:
		return p.peers, head, nil
	}
	return p.clients, head, nil
}

// askedFor reads the first message of TLS, the ClientHello, of which head was read
// already. It returns the protocols that it asks for, none if it is malformed, and all
// that was read.
func askedFor(conn net.Conn, head []byte) (protocols []string, read []byte, err error) {
	r := &recorder{Conn: conn, rest: head, all: head}
	// Package tls knows how to read it, and is stopped as soon as it has.
	tls.Server(r, &tls.Config{GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		protocols = hello.SupportedProtos
		return nil, errors.New("this is enough")
	}}).Handshake()
	return protocols, r.all, r.err
}

// recorder keeps what is read of a connection, up to maxClientHello, and writes nothing.
type recorder struct {
	net.Conn
	rest []byte // read before, and not read here yet
	all  []byte
	err  error // of the connection
}

func (r *recorder) Read(b []byte) (n int, err error) {
	if len(r.rest) > 0 {
		n = copy(b, r.rest)
		r.rest = r.rest[n:]
		return n, nil
	}
	if len(r.all) >= maxClientHello {
		return 0, io.EOF
	}
	n, r.err = r.Conn.Read(b[:min(len(b), maxClientHello-len(r.all))])
	r.all = append(r.all, b[:n]...)
	return n, r.err
}

func (r *recorder) Write(b []byte) (int, error) { return len(b), nil }

// side is a listener of what is for one of both.
type side struct {
	port     *Port
	accepted chan net.Conn // that nobody has taken yet
	once     sync.Once
	closed   chan struct{}
}

func newSide(p *Port) *side {
	return &side{port: p, accepted: make(chan net.Conn, maxUndecided), closed: make(chan struct{})}
}

func (s *side) isClosed() bool {
	select {
	case <-s.closed:
		return true
	default:
		return false
	}
}

// Accept implements net.Listener.
func (s *side) Accept() (net.Conn, error) {
	select {
	case conn := <-s.accepted:
		return conn, nil
	case <-s.closed:
		return nil, net.ErrClosed
	}
}

// Addr implements net.Listener.
func (s *side) Addr() net.Addr { return s.port.listener.Addr() }

// Close implements net.Listener.
func (s *side) Close() (err error) {
	s.once.Do(func() { err = s.port.closeSide(s) })
	return err
}

// closeSide closes a side, and with the last one the listener and what is undecided.
func (p *Port) closeSide(s *side) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(s.closed)
	for len(s.accepted) > 0 {
		select {
		case conn := <-s.accepted:
			conn.Close()
		default: // Accept was faster
		}
	}
	if p.open--; p.open > 0 {
		return nil
	}
	err := p.listener.Close()
	for _, conn := range p.undecided {
		conn.Close()
	}
	return err
}

// withHead returns conn with head to be read first.
func withHead(conn net.Conn, head []byte) net.Conn {
	if tcp, ok := conn.(*net.TCPConn); ok {
		return &headedTCP{tcp, head}
	}
	return &headed{conn, head}
}

type headed struct {
	net.Conn
	head head
}

// head is what was read before and is to be read again.
type head []byte

func (h *head) read(b []byte) int {
	n := copy(b, *h)
	if *h = (*h)[n:]; len(*h) == 0 {
		*h = nil // the connection may last long
	}
	return n
}

func (c *headed) Read(b []byte) (int, error) {
	if len(c.head) == 0 {
		return c.Conn.Read(b)
	}
	return c.head.read(b), nil
}

// headedTCP has the other methods of a net.TCPConn, too: to write several buffers at once,
// and to close one direction.
type headedTCP struct {
	*net.TCPConn
	head head
}

func (c *headedTCP) Read(b []byte) (int, error) {
	if len(c.head) == 0 {
		return c.TCPConn.Read(b)
	}
	return c.head.read(b), nil
}

// WriteTo implements io.WriterTo, for io.Copy.
func (c *headedTCP) WriteTo(w io.Writer) (int64, error) {
	var n int64
	if len(c.head) > 0 {
		written, err := w.Write(c.head)
		c.head = c.head[written:]
		if n = int64(written); err != nil {
			return n, err
		}
		c.head = nil
	}
	rest, err := c.TCPConn.WriteTo(w)
	return n + rest, err
}
