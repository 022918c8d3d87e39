package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"dkv/internal/raftnet"
)

// attack is what strangers do for a time, in a process of their own.
type attack struct {
	Target string // the Raft port of a member
	Time   time.Duration

	// So many connections are begun per second; or else as many are held open at once,
	// each of which is begun anew a while after it has ended.
	Rate   int           `json:",omitempty"`
	AtOnce int           `json:",omitempty"`
	Pause  time.Duration `json:",omitempty"`

	// A connection says one of these, or random bytes, up to so many.
	Say    [][]byte      `json:",omitempty"`
	Random int           `json:",omitempty"`
	Drip   time.Duration `json:",omitempty"` // between one byte and the next
	Deaf   bool          `json:",omitempty"` // it reads nothing
	TLS    *disguise     `json:",omitempty"` // inside of TLS

	// Decoy has all of it be done to somebody else: what it costs the machine.
	Decoy bool `json:",omitempty"`

	// Listens is an address at which a stranger waits for a member to dial it.
	Listens string `json:",omitempty"`
	As      []byte `json:",omitempty"` // what it answers a hello with
}

// disguise is how strangers speak TLS.
type disguise struct {
	Shows     *credentials `json:",omitempty"` // its certificate; none
	Most      uint16       `json:",omitempty"` // version
	Protocols []string     `json:",omitempty"`
}

// attacked is what has come of it, as the strangers see it.
type attacked struct {
	Conns    int   // connections that were made
	Refused  int   // that could not be made
	Bytes    int64 // that were sent
	LetIn    int   // answers that begin with a welcome
	Ended    int   // connections that the member has ended
	Listened int   // requests that came to one that listens
}

const (
	memberHost = "127.0.0.1" // of members

	strangerPatience = 1500 * time.Millisecond // with what does not answer
	mostPatient      = 512                     // connections of a Rate at once
)

// campaign is an attack under way.
type campaign struct {
	*attack
	began atomic.Int64 // connections
	conns, refused, letIn, ended, listened,
	sent atomic.Int64
}

func (a *attack) run() (*attacked, error) {
	ctx, cancel := context.WithTimeout(context.Background(), a.Time)
	defer cancel()
	c := &campaign{attack: a}
	var err error
	switch {
	case a.Listens != "":
		err = c.listen(ctx)
	case a.Decoy:
		var l net.Listener
		if l, err = net.Listen("tcp", memberHost+":0"); err == nil {
			a.Target = l.Addr().String()
			go c.decoy(ctx, l)
			c.dialAll(ctx)
			l.Close()
		}
	default:
		c.dialAll(ctx)
	}
	return &attacked{
		Conns: int(c.conns.Load()), Refused: int(c.refused.Load()), Bytes: c.sent.Load(),
		LetIn: int(c.letIn.Load()), Ended: int(c.ended.Load()), Listened: int(c.listened.Load()),
	}, err
}

// decoy hangs up on whoever comes, once it has looked at the certificate, if there is one.
func (c *campaign) decoy(ctx context.Context, l net.Listener) {
	var conf *tls.Config
	if c.TLS != nil {
		own, err := tls.X509KeyPair(c.TLS.Shows.Cert, c.TLS.Shows.Key)
		if err != nil {
			return
		}
		conf = &tls.Config{
			Certificates: []tls.Certificate{own}, ClientAuth: tls.RequireAndVerifyClientCert,
			ClientCAs: x509.NewCertPool(), NextProtos: c.TLS.Protocols,
		}
	}
	for {
		raw, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer raw.Close()
			if conf != nil {
				tls.Server(raw, conf).HandshakeContext(ctx)
			}
		}()
	}
}

func (c *campaign) dialAll(ctx context.Context) {
	var working sync.WaitGroup
	defer working.Wait()
	wait := func(d time.Duration) {
		select {
		case <-ctx.Done():
		case <-time.After(d):
		}
	}
	for i := range c.AtOnce {
		working.Go(func() {
			if c.Pause < c.Time { // else they come but once, together
				wait(c.Pause * time.Duration(i) / time.Duration(c.AtOnce))
			}
			for ctx.Err() == nil {
				c.dial(ctx, time.Until(deadline(ctx)))
				wait(c.Pause)
			}
		})
	}
	if c.Rate == 0 {
		return
	}
	room := make(chan struct{}, mostPatient)
	tick := time.NewTicker(time.Second / time.Duration(c.Rate))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		select {
		case room <- struct{}{}:
		case <-ctx.Done():
			return
		}
		working.Go(func() {
			c.dial(ctx, strangerPatience)
			<-room
		})
	}
}

func deadline(ctx context.Context) time.Time {
	d, _ := ctx.Deadline()
	return d
}

// dial makes a connection, and stays for as long as it is let. The runtime has let the
// process have as many open as the system allows.
func (c *campaign) dial(ctx context.Context, patience time.Duration) {
	n := int(c.began.Add(1))
	// Many addresses, since each has so many ports; none is a member's.
	from := net.IPv4(127, 0, 1, byte(1+n%200))
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: from}}
	if c.Deaf {
		d.Control = func(_, _ string, raw syscall.RawConn) error {
			return raw.Control(func(fd uintptr) { syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 1) })
		}
	}
	raw, err := d.DialContext(ctx, "tcp", c.Target)
	if err != nil {
		if ctx.Err() == nil {
			c.refused.Add(1)
		}
		return
	}
	defer raw.Close()
	c.conns.Add(1)
	raw.(*net.TCPConn).SetLinger(0) // no port waits behind it
	until := time.Now().Add(patience)
	if end := deadline(ctx); until.After(end) {
		until = end
	}
	raw.SetDeadline(until)
	var s net.Conn = counted{raw, &c.sent}
	if c.TLS != nil {
		if s, err = c.TLS.client(ctx, s); err != nil {
			c.over(err)
			return
		}
	}
	if err := c.say(s, n); err != nil {
		c.over(err)
		return
	}
	if c.Deaf {
		<-ctx.Done()
		return
	}
	c.over(c.listenTo(s))
}

func (c *campaign) over(err error) {
	if net, ok := err.(net.Error); err != nil && !(ok && net.Timeout()) {
		c.ended.Add(1)
	}
}

func (c *campaign) say(s net.Conn, n int) error {
	var what []byte
	switch {
	case c.Random > 0:
		rng := rand.NewChaCha8([32]byte{byte(n), byte(n >> 8), byte(n >> 16)})
		what = make([]byte, 1+int(rng.Uint64()%uint64(c.Random)))
		rng.Read(what)
	case len(c.Say) > 0:
		what = c.Say[n%len(c.Say)]
	}
	if c.Drip == 0 {
		_, err := s.Write(what)
		return err
	}
	for i := range what {
		if _, err := s.Write(what[i : i+1]); err != nil {
			return err
		}
		time.Sleep(c.Drip)
	}
	return nil
}

// listenTo reads until the end, of which a welcome is told.
func (c *campaign) listenTo(s net.Conn) error {
	b := make([]byte, len(raftMagic)+1)
	if _, err := io.ReadFull(s, b); err != nil {
		return err
	}
	if string(b) == raftMagic+"w" {
		c.letIn.Add(1)
	}
	if _, err := io.Copy(io.Discard, s); err != nil {
		return err
	}
	return io.EOF
}

// counted counts what is written.
type counted struct {
	net.Conn
	n *atomic.Int64
}

func (c counted) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.n.Add(int64(n))
	return n, err
}

// client takes the other end for whoever it is.
func (d *disguise) client(ctx context.Context, c net.Conn) (net.Conn, error) {
	conf := &tls.Config{InsecureSkipVerify: true, MaxVersion: d.Most, NextProtos: d.Protocols}
	if d.Shows != nil {
		own, err := tls.X509KeyPair(d.Shows.Cert, d.Shows.Key)
		if err != nil {
			return nil, err
		}
		// Whatever authorities the other end asks for.
		conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &own, nil }
	}
	s := tls.Client(c, conf)
	return s, s.HandshakeContext(ctx)
}

// listen waits for members until ctx ends, and counts what they would have it do.
func (c *campaign) listen(ctx context.Context) error {
	l, err := net.Listen("tcp", c.Listens)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { l.Close() })()
	var working sync.WaitGroup
	defer working.Wait()
	for {
		raw, err := l.Accept()
		if err != nil {
			return nil
		}
		c.conns.Add(1)
		working.Go(func() {
			defer raw.Close()
			raw.SetDeadline(deadline(ctx))
			var s net.Conn = counted{raw, &c.sent}
			if c.TLS != nil {
				own, err := tls.X509KeyPair(c.TLS.Shows.Cert, c.TLS.Shows.Key)
				if err != nil {
					return
				}
				conf := &tls.Config{Certificates: []tls.Certificate{own}, ClientAuth: tls.RequestClientCert, NextProtos: c.TLS.Protocols, MaxVersion: c.TLS.Most}
				s = tls.Server(s, conf)
			}
			hello := make([]byte, 4<<10)
			n, err := s.Read(hello)
			if err != nil || !bytes.HasPrefix(hello[:n], []byte(raftMagic)) {
				// A member speaks TLS to one that does not.
				s.Write(c.As)
				c.ended.Add(1)
				return
			}
			s.Write(c.As)
			if _, err := io.ReadFull(s, hello[:frameHeader]); err != nil {
				c.ended.Add(1)
				return
			}
			c.listened.Add(1)
		})
	}
}

// What strangers know of how members speak, see package raftnet.
const (
	raftMagic   = "dkvraft3"
	frameHeader = 8
	maxFrame    = 160 << 20
)

// greeting is a hello.
type greeting struct {
	kind  byte
	group uint64
	to    string
	from  raftnet.Peer
}

func (g greeting) bytes() []byte {
	b := append([]byte(raftMagic), g.kind)
	b = binary.LittleEndian.AppendUint64(b, g.group)
	return appendPeer(appendString(b, g.to), g.from)
}

func appendPeer(b []byte, p raftnet.Peer) []byte {
	b = binary.LittleEndian.AppendUint64(b, p.Replica)
	b = binary.LittleEndian.AppendUint64(b, p.Directory)
	b = binary.LittleEndian.AppendUint64(b, p.Previous)
	b = append(b, byte(len(p.Places)))
	for _, place := range p.Places {
		b = appendString(b, place.Member)
		b = binary.LittleEndian.AppendUint64(b, place.Incarnation)
		b = appendString(b, place.Address)
	}
	return b
}

func appendString(b []byte, s string) []byte { return append(append(b, byte(len(s))), s...) }

// framed is a frame that says that it has some size.
func framed(size uint32, b []byte) []byte {
	f := binary.LittleEndian.AppendUint32(nil, size)
	f = binary.LittleEndian.AppendUint32(f, crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	return append(f, b...)
}

func whole(b []byte) []byte { return framed(uint32(len(b)), b) }

// stockFrame is what Dragonboat's own transport sends, in the clear.
func stockFrame(b []byte) []byte {
	const raftType = 100
	h := make([]byte, 18)
	binary.BigEndian.PutUint16(h, raftType)
	binary.BigEndian.PutUint64(h[2:], uint64(len(b)))
	binary.BigEndian.PutUint32(h[14:], crc32.ChecksumIEEE(b))
	binary.BigEndian.PutUint32(h[10:], crc32.ChecksumIEEE(h))
	return append(append([]byte{0xAE, 0x7D}, h...), b...)
}

func (a *attacked) String() string {
	return fmt.Sprintf("%d connections, %d not made, %d bytes, %d let in, %d ended", a.Conns, a.Refused, a.Bytes, a.LetIn, a.Ended)
}
