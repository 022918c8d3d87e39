package raftnet

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	pb "github.com/lni/dragonboat/v4/raftpb"
)

// authority signs certificates.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a.key, _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, a.key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return a
}

// issue makes a certificate for a host, which is good until then.
func (a *authority) issue(host string, until time.Time) tls.Certificate {
	a.t.Helper()
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), DNSNames: []string{host},
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: until,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.cert, key.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (a *authority) roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// mutual is the security of a member with a certificate of a's for a host.
func (a *authority) mutual(host string, until time.Time) *Security {
	a.t.Helper()
	s, err := MutualTLS(&tls.Config{Certificates: []tls.Certificate{a.issue(host, until)}, RootCAs: a.roots()})
	if err != nil {
		a.t.Fatal(err)
	}
	return s
}

func shared(t *testing.T, secret, name string) *Security {
	t.Helper()
	s, err := SharedSecret([]byte(secret), name)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

const (
	secret  = "0123456789abcdef0123456789abcdef"
	another = "0123456789abcdef0123456789abcdeF"
)

// TestMembersHearOneAnotherAloneWhoShowWhoTheyAre has one member dial another.
func TestMembersHearOneAnotherAloneWhoShowWhoTheyAre(t *testing.T) {
	good, other := newAuthority(t), newAuthority(t)
	later, before := time.Now().Add(time.Hour), time.Now().Add(-time.Hour)
	// from is the security of who dials, who says that it is the member "from", and to
	// that of the member "to".
	for name, c := range map[string]struct {
		from, to *Security
		want     bool
	}{
		"mutual TLS":               {good.mutual("from", later), good.mutual("to", later), true},
		"wrong authority of from":  {other.mutual("from", later), good.mutual("to", later), false},
		"wrong name of from":       {good.mutual("to", later), good.mutual("to", later), false},
		"wrong name of to":         {good.mutual("from", later), good.mutual("from", later), false},
		"from expired":             {good.mutual("from", before), good.mutual("to", later), false},
		"to expired":               {good.mutual("from", later), good.mutual("to", before), false},
		"from has no certificate":  {&Security{conf: &tls.Config{RootCAs: good.roots(), NextProtos: []string{magic}}, host: func(m string) string { return m }}, good.mutual("to", later), false},
		"from speaks in the clear": {nil, good.mutual("to", later), false},
		"to speaks in the clear":   {good.mutual("from", later), nil, false},

		"secret":                                     {shared(t, secret, "from"), shared(t, secret, "to"), true},
		"another secret":                             {shared(t, another, "from"), shared(t, secret, "to"), false},
		"a longer secret":                            {shared(t, secret+"0", "from"), shared(t, secret, "to"), false},
		"the secret, under another name":             {shared(t, secret, "to"), shared(t, secret, "to"), false},
		"a secret where TLS is wanted":               {shared(t, secret, "from"), good.mutual("to", later), false},
		"in the clear where a secret is wanted":      {nil, shared(t, secret, "to"), false},
		"a secret where there is none":               {shared(t, secret, "from"), nil, false},
		"a server with another secret is not served": {shared(t, secret, "from"), shared(t, another, "to"), false},
	} {
		t.Run(name, func(t *testing.T) {
			from, _ := startAs(t, Factory{Security: c.from}, "from", "127.0.0.1:0")
			defer stop(t, from)
			to, r := startAs(t, Factory{Security: c.to}, "to", "127.0.0.1:0")
			defer stop(t, to)
			// It is the same for one who has but a request, and does not know whom it reaches.
			asker := Asker{Security: c.from, Self: from.Members.Peer}
			answer, by, err := asker.Ask(t.Context(), to.addr(), []byte("hello"))
			if want := "to: from says hello"; c.want && (err != nil || string(answer) != want || by.Self().Member != "to") {
				t.Errorf("%s answers %q, %v", by.Self().Member, answer, err)
			} else if !c.want && err == nil {
				t.Errorf("it is answered: %s", answer)
			}
			p := connect(t, from, to)
			defer p.Close()
			err = p.SendMessageBatch(ping(1))
			if c.want {
				if err != nil {
					t.Fatal(err)
				}
				arrive(t, r, ping(1).Requests...)
				return
			}
			if _, err := from.dial(context.Background(), "to", forMessages); err == nil {
				t.Error("it is let in")
			}
			arrive(t, r)
		})
	}
}

func TestSecurityThatCannotBeIsRefused(t *testing.T) {
	a := newAuthority(t)
	cert := a.issue("a", time.Now().Add(time.Hour))
	for name, conf := range map[string]*tls.Config{
		"no certificate": {RootCAs: a.roots()},
		"none to show":   {RootCAs: a.roots(), GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &cert, nil }},
		"no authority":   {Certificates: []tls.Certificate{cert}},
		"no check":       {Certificates: []tls.Certificate{cert}, RootCAs: a.roots(), InsecureSkipVerify: true},
	} {
		if _, err := MutualTLS(conf); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := SharedSecret(make([]byte, MinSecret-1), "a"); err == nil {
		t.Error("short secret: no error")
	}
}

// TestCertificatesChangeWithoutARestart has a member's certificate end, and another take
// its place.
func TestCertificatesChangeWithoutARestart(t *testing.T) {
	a := newAuthority(t)
	var now atomic.Pointer[tls.Certificate]
	set := func(until time.Time) {
		cert := a.issue("from", until)
		now.Store(&cert)
	}
	set(time.Now().Add(-time.Hour))
	s, err := MutualTLS(&tls.Config{
		RootCAs:              a.roots(),
		GetCertificate:       func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return now.Load(), nil },
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return now.Load(), nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	from, heard := startAs(t, Factory{Security: s}, "from", "127.0.0.1:0")
	defer stop(t, from)
	to, r := startAs(t, Factory{Security: a.mutual("to", time.Now().Add(time.Hour))}, "to", "127.0.0.1:0")
	defer stop(t, to)
	for _, until := range []time.Duration{-time.Minute, time.Hour, -time.Minute, time.Hour} {
		set(time.Now().Add(until))
		out, err := from.dial(context.Background(), "to", forMessages)
		back, errBack := to.dial(context.Background(), "from", forMessages)
		if good := until > 0; (err == nil) != good || (errBack == nil) != good {
			t.Errorf("a certificate until %v from now: %v, %v", until, err, errBack)
		}
		for _, c := range []*conn{out, back} {
			if c != nil {
				b := ping(1)
				if err := c.send(&b, b.SizeUpperLimit()); err != nil {
					t.Error(err)
				}
				c.Close()
			}
		}
		if until > 0 {
			arrive(t, r, ping(1).Requests...)
			arrive(t, heard, ping(1).Requests...)
		}
	}
}

// TestConnectionsOfAnotherProtocolAreRefused has a member's own certificate be shown by one
// that does not say what it is going to speak, or says something else.
func TestConnectionsOfAnotherProtocolAreRefused(t *testing.T) {
	a := newAuthority(t)
	later := time.Now().Add(time.Hour)
	for _, protocols := range [][]string{nil, {"h2"}} {
		s := a.mutual("from", later)
		s.conf.NextProtos = protocols
		from, heard := startAs(t, Factory{Security: s}, "from", "127.0.0.1:0")
		to, r := startAs(t, Factory{Security: a.mutual("to", later)}, "to", "127.0.0.1:0")
		if _, err := from.dial(t.Context(), "to", forMessages); err == nil {
			t.Errorf("%q is let in", protocols)
		}
		if _, err := to.dial(t.Context(), "from", forMessages); err == nil {
			t.Errorf("one that answers with %q is spoken to", protocols)
		}
		if _, _, err := (Asker{Security: s, Self: from.Members.Peer}).Ask(t.Context(), to.addr(), []byte("hello")); err == nil {
			t.Errorf("a request with %q is answered", protocols)
		}
		arrive(t, r)
		arrive(t, heard)
		stop(t, from)
		stop(t, to)
	}
}

// TestSecretIsNotSent listens to what two members say as one dials the other.
func TestSecretIsNotSent(t *testing.T) {
	to, r := startAs(t, Factory{Security: shared(t, secret, "to")}, "to", "127.0.0.1:0")
	defer stop(t, to)
	from, _ := startAs(t, Factory{Security: shared(t, secret, "from")}, "from", "127.0.0.1:0")
	defer stop(t, from)
	relay, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	heard := make(chan []byte, 2)
	go func() {
		c, err := relay.Accept()
		if err != nil {
			return
		}
		s, err := net.Dial("tcp", to.addr())
		if err != nil {
			return
		}
		for _, way := range [][2]net.Conn{{c, s}, {s, c}} {
			go func() {
				var all bytes.Buffer
				io.Copy(io.MultiWriter(&all, way[1]), way[0])
				way[1].Close()
				heard <- all.Bytes()
			}()
		}
	}()
	members.put("to", relay.Addr().String())
	p := connect(t, from, to)
	b := ping(1)
	b.Requests[0].Entries = []pb.Entry{{Cmd: []byte("what they say")}}
	if err := p.SendMessageBatch(b); err != nil {
		t.Fatal(err)
	}
	arrive(t, r, b.Requests...)
	p.Close()
	relay.Close()
	for range 2 {
		all := <-heard
		if len(all) == 0 {
			t.Error("nothing was said")
		}
		for _, what := range []string{secret, "what they say", "from"} {
			if bytes.Contains(all, []byte(what)) {
				t.Errorf("%q is said for everybody to hear", what)
			}
		}
	}
}

// TestMembersGetInThroughStrangers has strangers hold as many handshakes open as they
// can, in each way of making sure of members.
func TestMembersGetInThroughStrangers(t *testing.T) {
	a := newAuthority(t)
	later := time.Now().Add(time.Hour)
	for name, s := range map[string][2]*Security{
		"nothing":    {},
		"mutual TLS": {a.mutual("from", later), a.mutual("to", later)},
		"secret":     {shared(t, secret, "from"), shared(t, secret, "to")},
	} {
		t.Run(name, func(t *testing.T) {
			from, _ := startAs(t, Factory{Security: s[0]}, "from", "127.0.0.1:0")
			defer stop(t, from)
			to, r := startAs(t, Factory{Security: s[1]}, "to", "127.0.0.1:0")
			defer stop(t, to)
			for range 4 * maxStrangers {
				c, err := net.Dial("tcp", to.addr())
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				c.Write([]byte("d")) // a plain hello begins with it
			}
			for n := range uint64(20) {
				p := connect(t, from, to)
				if err := p.SendMessageBatch(ping(n)); err != nil {
					t.Fatal(err)
				}
				arrive(t, r, ping(n).Requests...)
				p.Close()
			}
			to.admission.mu.Lock()
			open := len(to.admission.rooms[strangers])
			to.admission.mu.Unlock()
			if open > maxStrangers {
				t.Errorf("%d strangers", open)
			}
		})
	}
}

// crowded is a listener to which so many come, and then no file is left for another.
type crowded struct {
	net.Listener
	come   chan net.Conn
	closed chan struct{}
}

func (c *crowded) Accept() (net.Conn, error) {
	select {
	case conn := <-c.come:
		if conn == nil {
			return nil, syscall.EMFILE
		}
		return conn, nil
	case <-c.closed:
		return nil, net.ErrClosed
	}
}

func (c *crowded) Close() error {
	close(c.closed)
	return nil
}

// TestStrangersGoWhenNoFilesAreLeft has the process need those that they hold.
func TestStrangersGoWhenNoFilesAreLeft(t *testing.T) {
	l := &crowded{come: make(chan net.Conn), closed: make(chan struct{})}
	tr := Factory{}.New("")
	tr.listener = l
	tr.serving.Go(tr.accept)
	defer stop(t, tr)
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
		if _, err := c.Read(make([]byte, 1)); err == nil || isTimeout(err) {
			t.Errorf("a stranger stays: %v", err)
		}
	}
}

// TestMemberHasSoManyConnections opens more, of which the last are to be left.
func TestMemberHasSoManyConnections(t *testing.T) {
	from, _ := startAs(t, Factory{}, "from", "127.0.0.1:0")
	defer stop(t, from)
	to, r := startAs(t, Factory{}, "to", "127.0.0.1:0")
	defer stop(t, to)
	var conns []*conn
	for i := range 3 * maxPerMember {
		c, err := from.dial(context.Background(), "to", forMessages)
		if err != nil {
			t.Fatal(i, err)
		}
		defer c.Close()
		conns = append(conns, c)
	}
	for i, c := range conns {
		b := ping(uint64(i))
		err := c.send(&b, b.SizeUpperLimit())
		if kept := i >= 2*maxPerMember; !kept {
			c.SetReadDeadline(time.Now().Add(10 * time.Second))
			if _, err := c.Read(make([]byte, 1)); err == nil || isTimeout(err) {
				t.Errorf("connection %d is left open: %v", i, err)
			}
		} else if err != nil {
			t.Errorf("connection %d: %v", i, err)
		}
	}
	for len(r.batches) < maxPerMember {
		time.Sleep(time.Millisecond)
	}
	for range maxPerMember {
		if b := <-r.batches; b.Requests[0].Commit < 2*maxPerMember {
			t.Errorf("%d is heard", b.Requests[0].Commit)
		}
	}
}

// TestWhyAMemberIsTurnedAwayIsTold has a member dial one that does not want it.
func TestWhyAMemberIsTurnedAwayIsTold(t *testing.T) {
	from, _ := startAs(t, Factory{}, "from", "127.0.0.1:0")
	defer stop(t, from)
	to, _ := startAs(t, Factory{}, "to", "127.0.0.1:0")
	defer stop(t, to)
	to.Members = turning{to.Members, errors.New("it was removed")}
	_, err := from.dial(context.Background(), "to", forMessages)
	if want := "reached, but not let in: turned away: it was removed"; fmt.Sprint(err) != want {
		t.Errorf("%v, want %v", err, want)
	}
}

// turning are Members who turn all others away.
type turning struct {
	Members
	why error
}

func (t turning) Meet(Peer) error { return t.why }

// TestConfigThatIsChosenHasTheSameAuthorities has GetConfigForClient name none: those that
// the system trusts are no authorities of members.
func TestConfigThatIsChosenHasTheSameAuthorities(t *testing.T) {
	good, other := newAuthority(t), newAuthority(t)
	later := time.Now().Add(time.Hour)
	own := good.issue("to", later)
	s, err := MutualTLS(&tls.Config{Certificates: []tls.Certificate{own}, RootCAs: good.roots(), GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		return &tls.Config{Certificates: []tls.Certificate{own}}, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	chosen, err := s.conf.GetConfigForClient(nil)
	if err != nil || chosen.ClientCAs == nil || !chosen.ClientCAs.Equal(good.roots()) {
		t.Fatalf("the authorities are %v, %v", chosen.ClientCAs, err)
	}
	to, r := startAs(t, Factory{Security: s}, "to", "127.0.0.1:0")
	defer stop(t, to)
	stranger, _ := startAs(t, Factory{Security: other.mutual("from", later)}, "from", "127.0.0.1:0")
	if _, err := stranger.dial(t.Context(), "to", forMessages); err == nil {
		t.Error("a stranger is let in")
	}
	stop(t, stranger)
	from, _ := startAs(t, Factory{Security: good.mutual("from", later)}, "from", "127.0.0.1:0")
	defer stop(t, from)
	if err := connect(t, from, to).SendMessageBatch(ping(1)); err != nil {
		t.Fatal(err)
	}
	arrive(t, r, ping(1).Requests...)
}

// TestChecksOfTheCallerSeeTheChain has TLS hooks that count on what was verified.
func TestChecksOfTheCallerSeeTheChain(t *testing.T) {
	a := newAuthority(t)
	later := time.Now().Add(time.Hour)
	seen := 0
	s, err := MutualTLS(&tls.Config{
		Certificates: []tls.Certificate{a.issue("from", later)}, RootCAs: a.roots(),
		VerifyPeerCertificate: func(raw [][]byte, chains [][]*x509.Certificate) error {
			seen++
			return chains[0][0].VerifyHostname("to")
		},
		VerifyConnection: func(state tls.ConnectionState) error {
			seen++
			return state.VerifiedChains[0][0].VerifyHostname("to")
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	to, _ := startAs(t, Factory{Security: a.mutual("to", later)}, "to", "127.0.0.1:0")
	defer stop(t, to)
	from, _ := startAs(t, Factory{Security: s}, "from", "127.0.0.1:0")
	defer stop(t, from)
	if _, _, err := (Asker{Security: s, Self: from.Members.Peer}).Ask(t.Context(), to.addr(), []byte("hello")); err != nil || seen != 2 {
		t.Errorf("%v, %d checks", err, seen)
	}
}
