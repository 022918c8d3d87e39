package transport

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"dkv/store"
	"dkv/store/local"
)

func sharedPort(t *testing.T) *Port {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := SharePort(l)
	t.Cleanup(func() { p.Close() })
	return p
}

func dialPort(t *testing.T, p *Port) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", p.Peers().Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

// accepted is what one of the sides gets first.
func accepted(t *testing.T, p *Port) (side string, c net.Conn) {
	t.Helper()
	select {
	case c = <-p.peers.accepted:
		side = "peers"
	case c = <-p.clients.accepted:
		side = "clients"
	case <-time.After(20 * time.Second):
		t.Fatal("nothing was accepted")
	}
	t.Cleanup(func() { c.Close() })
	return side, c
}

func TestPortTellsPeersAndClientsApart(t *testing.T) {
	for _, test := range []struct{ said, side string }{
		{"dkvraft3 and more", "peers"},
		{"dkvraft9", "peers"}, // who turns it away, and says why
		{string(preamble) + "and more", "clients"},
		{"dkv\x00\xffof another version", "clients"},
		{"GET / HTTP/1.1\r\n\r\n", "clients"},
		{"\x00\x00\x00\x00\x00", "clients"},
		{"\x16\x03\x01\x00\x05no hello", "clients"},
		{"\x16\x03\x01\x40\x00" + strings.Repeat("x", maxClientHello), "clients"},
	} {
		for _, slow := range []bool{false, true} {
			p := sharedPort(t)
			c := dialPort(t, p)
			go func() {
				r := io.Reader(strings.NewReader(test.said))
				if slow && len(test.said) < 100 {
					r = iotest.OneByteReader(r)
				}
				io.Copy(struct{ io.Writer }{c}, r)
				c.(*net.TCPConn).CloseWrite()
			}()
			side, got := accepted(t, p)
			said, err := io.ReadAll(got)
			if side != test.side || string(said) != test.said || err != nil {
				t.Errorf("%.20q, slowly %v: for %s, %.40q, %v; want %s", test.said, slow, side, said, err, test.side)
			}
		}
	}
}

func TestWhatWasReadToTellIsCopiedToo(t *testing.T) {
	p := sharedPort(t)
	c := dialPort(t, p)
	io.WriteString(c, "GET / HTTP/1.1\r\n\r\n")
	c.(*net.TCPConn).CloseWrite()
	_, got := accepted(t, p)
	var all bytes.Buffer
	if n, err := io.Copy(&all, got); all.String() != "GET / HTTP/1.1\r\n\r\n" || n != int64(all.Len()) || err != nil {
		t.Errorf("%q, %d, %v", all.String(), n, err)
	}
}

func TestPortTellsTLSApartByItsProtocol(t *testing.T) {
	a := newAuthority(t)
	for _, test := range []struct {
		protocols []string
		oldest    bool
		side      string
	}{
		{[]string{"dkvraft3"}, false, "peers"},
		{[]string{"h2", "dkvraft4"}, false, "peers"},
		{[]string{"h2", "http/1.1"}, false, "clients"},
		{nil, false, "clients"},
		{nil, true, "clients"},
	} {
		p := sharedPort(t)
		conf := &tls.Config{RootCAs: a.pool(), ServerName: "127.0.0.1", NextProtos: test.protocols}
		if test.oldest {
			conf.MaxVersion = tls.VersionTLS12
		}
		c := tls.Client(dialPort(t, p), conf)
		said := make(chan error, 1)
		go func() {
			_, err := io.WriteString(c, "hello")
			said <- errors.Join(err, c.CloseWrite())
		}()
		side, got := accepted(t, p)
		server := tls.Server(got, &tls.Config{Certificates: []tls.Certificate{a.issue()}, NextProtos: test.protocols})
		heard, err := io.ReadAll(server)
		if side != test.side || string(heard) != "hello" || err != nil || <-said != nil {
			t.Errorf("%q: for %s, %q, %v; want %s", test.protocols, side, heard, err, test.side)
		}
	}
}

func TestClientsOfASharedPort(t *testing.T) {
	a := newAuthority(t)
	for _, encrypted := range []bool{false, true} {
		for _, network := range []string{"tcp", "http"} {
			p := sharedPort(t)
			opts, conf := ListenOptions{Port: p}, (*tls.Config)(nil)
			if encrypted {
				opts.TLS, conf = &tls.Config{Certificates: []tls.Certificate{a.issue()}}, &tls.Config{RootCAs: a.pool()}
			}
			endpoint := network + "://" + p.Clients().Addr().String()
			l, err := Listen(endpoint, opts)
			if err != nil {
				t.Fatal(err)
			}
			backend := local.Open(local.Options{})
			defer backend.Close()
			server := newServer(backend)
			defer server.Close()
			if network == "http" {
				server.StartHTTP(l, nil)
			} else {
				server.Start(l)
			}
			c, err := NewClient(ClientOptions{Endpoints: []string{endpoint}, TLS: conf})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			large := bytes.Repeat([]byte("0123456789"), 300_000)
			ctx := background(t)
			if err := c.Set(ctx, "k", large); err != nil {
				t.Fatal(network, encrypted, err)
			}
			if got, ok, err := c.Get(ctx, "k"); !ok || !bytes.Equal(got, large) || err != nil {
				t.Errorf("%s, encrypted %v: %d bytes, %v, %v", network, encrypted, len(got), ok, err)
			}
		}
	}
}

func TestSharedPortIsNoWayAroundEncryption(t *testing.T) {
	l, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	p := SharePort(l)
	defer p.Close()
	endpoint := fmt.Sprintf("tcp://localhost:%d", l.Addr().(*net.TCPAddr).Port)
	if _, err := Listen(endpoint, ListenOptions{Port: p}); !errors.Is(err, store.ErrBadOptions) {
		t.Errorf("%s of all interfaces: %v", endpoint, err)
	}
	if _, err := Listen(endpoint, ListenOptions{Port: p, Insecure: true}); err != nil {
		t.Error(err)
	}
}

// TestSilentConnectionsDoNotKeepOthersOut has more of them than there is room for.
func TestSilentConnectionsDoNotKeepOthersOut(t *testing.T) {
	p := sharedPort(t)
	first := dialPort(t, p)
	for range maxUndecided {
		dialPort(t, p)
	}
	first.SetDeadline(time.Now().Add(helloTimeout / 2)) // later it is closed anyway
	if _, err := first.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the first of %d: %v", maxUndecided+1, err)
	}
	c := dialPort(t, p)
	io.WriteString(c, "dkvraft3")
	if side, _ := accepted(t, p); side != "peers" {
		t.Error("for", side)
	}
}

func TestSilentConnectionIsClosedInTime(t *testing.T) {
	t.Parallel()
	p := sharedPort(t)
	c := dialPort(t, p)
	io.WriteString(c, "dkv")
	before := time.Now()
	if _, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("after %v: %v", time.Since(before), err)
	}
}

// TestClosingOneSideLeavesTheOther closes them in either order.
func TestClosingOneSideLeavesTheOther(t *testing.T) {
	hellos := []string{"dkvraft3", string(preamble)}
	for first := range hellos {
		p := sharedPort(t)
		sides := []*side{p.peers, p.clients}
		closes, stays := sides[first], sides[1-first]
		waits := dialPort(t, p)
		io.WriteString(waits, hellos[first])
		for len(closes.accepted) == 0 {
			time.Sleep(time.Millisecond)
		}
		ended := make(chan error)
		go func() {
			_, err := stays.Accept()
			ended <- err
		}()
		closes.Close()
		if _, err := closes.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("accept of what is closed: %v", err)
		}
		// Whoever waits for it is not left waiting, nor whoever comes.
		late := dialPort(t, p)
		io.WriteString(late, hellos[first])
		for _, c := range []net.Conn{waits, late} {
			if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("a connection to what is closed: %v", err)
			}
		}
		io.WriteString(dialPort(t, p), hellos[1-first])
		if err := <-ended; err != nil {
			t.Errorf("accept of what is open: %v", err)
		}
		undecided := dialPort(t, p)
		io.WriteString(undecided, "d")
		p.Close()
		undecided.SetDeadline(time.Now().Add(helloTimeout / 2))
		if _, err := undecided.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a connection that was undecided: %v", err)
		}
		if c, err := net.Dial("tcp", p.Peers().Addr().String()); err == nil {
			c.Close()
			t.Error("the port is open after both are closed")
		}
	}
}

func TestPortIsOpenedAndClosedManyTimes(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	for range 1000 {
		if err := SharePort(l).Close(); err != nil {
			t.Fatal(err)
		}
		if l, err = net.Listen("tcp", address); err != nil {
			t.Fatal(err)
		}
	}
	l.Close()
}

// FuzzPort has a port be shared by whatever there is: nothing that was read is lost.
func FuzzPort(f *testing.F) {
	f.Add([]byte("dkvraft3"))
	f.Add(preamble)
	f.Add([]byte("\x16\x03\x01\x00\x05hello"))
	var hello bytes.Buffer
	tls.Client(saidTo{nil, &hello}, &tls.Config{ServerName: "a", NextProtos: []string{"dkvraft3"}}).Handshake()
	f.Add(hello.Bytes())
	p := new(Port)
	p.peers, p.clients = newSide(p), newSide(p)
	f.Fuzz(func(t *testing.T, said []byte) {
		r := bytes.NewReader(said)
		to, head, err := p.sideOf(heardFrom{nil, r})
		rest, _ := io.ReadAll(r)
		if err == nil && (to == nil || !bytes.Equal(append(head, rest...), said)) {
			t.Errorf("of %q: %q, %q, to %v", said, head, rest, to)
		}
	})
}

// saidTo is a connection that nothing comes from, heardFrom one that something does.
type saidTo struct {
	net.Conn
	*bytes.Buffer
}

func (saidTo) Read([]byte) (int, error)      { return 0, io.EOF }
func (c saidTo) Write(b []byte) (int, error) { return c.Buffer.Write(b) }

type heardFrom struct {
	net.Conn
	io.Reader
}

func (c heardFrom) Read(b []byte) (int, error) { return c.Reader.Read(b) }
func (heardFrom) SetDeadline(time.Time) error  { return nil }

// crowded is a listener to which so many come, and then no file is left for another.
type crowded struct {
	net.Listener
	come chan net.Conn
}

func (c *crowded) Accept() (net.Conn, error) {
	switch conn, ok := <-c.come; {
	case !ok:
		return nil, net.ErrClosed
	case conn == nil:
		return nil, syscall.EMFILE
	default:
		return conn, nil
	}
}

func (c *crowded) Close() error {
	close(c.come)
	return nil
}

// TestUndecidedConnectionsGoWhenNoFilesAreLeft has the process need those that they hold.
func TestUndecidedConnectionsGoWhenNoFilesAreLeft(t *testing.T) {
	l := &crowded{come: make(chan net.Conn)}
	p := SharePort(l)
	defer p.Close()
	var all []net.Conn
	for range 5 {
		c, served := net.Pipe()
		defer c.Close()
		l.come <- served
		all = append(all, c)
	}
	l.come <- nil
	for _, c := range all {
		c.SetReadDeadline(time.Now().Add(helloTimeout / 2))
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a connection that does not say what it is stays: %v", err)
		}
	}
}
