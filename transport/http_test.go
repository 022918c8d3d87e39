package transport

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestHTTPListenerOfAClosedServerIsClosed(t *testing.T) {
	server := NewServer(ServerOptions{})
	server.Close()
	l, err := Listen("http://127.0.0.1:0", ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	server.StartHTTP(l, nil)
	if err := l.Close(); err == nil {
		t.Error("it was open")
	}
}

// TestCloseDoesNotWaitForSilentHTTPConnections has connections that send nothing, and
// half of a request.
func TestCloseDoesNotWaitForSilentHTTPConnections(t *testing.T) {
	for _, sent := range []string{"", "GET / HTTP/1.1\r\nHost:"} {
		server := NewServer(ServerOptions{})
		l, err := Listen("http://127.0.0.1:0", ListenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		server.StartHTTP(l, nil)
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprint(conn, sent)
		client := &http.Client{Transport: &http.Transport{}}
		resp, err := client.Get("http://" + l.Addr().String()) // which is accepted after it
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		began := time.Now()
		server.Close()
		if took := time.Since(began); took > drainTimeout/2 {
			t.Errorf("%q: Close took %v", sent, took)
		}
		client.CloseIdleConnections()
	}
}

// TestHelloIsNotAwaitedAfterClose has the server close between the accepting of a
// connection and its hello.
func TestHelloIsNotAwaitedAfterClose(t *testing.T) {
	server := NewServer(ServerOptions{})
	client, conn := net.Pipe()
	defer client.Close()
	defer conn.Close()
	server.Close()
	connection{conn}.stop()
	began := time.Now()
	server.serve(conn)
	if took := time.Since(began); took > helloTimeout/2 {
		t.Errorf("the hello was awaited for %v", took)
	}
}

// TestNamesOfOthersAreRefusedOnLoopback has a page's name lead to this machine.
func TestNamesOfOthersAreRefusedOnLoopback(t *testing.T) {
	open := NewServer(ServerOptions{})
	defer open.Close()
	guarded := NewServer(ServerOptions{Tokens: []Token{{Secret: "s"}}})
	defer guarded.Close()
	loopback, elsewhere := net.IPv4(127, 0, 0, 1), net.IPv4(192, 0, 2, 1)
	for _, c := range []struct {
		host    string
		server  *Server
		local   net.IP
		tls     bool
		refused bool
	}{
		{host: "elsewhere.example:7000", refused: true},
		{host: "elsewhere.example", refused: true},
		{host: "localhost.elsewhere.example", refused: true},
		{host: "127.0.0.1.elsewhere.example:7000", refused: true},
		{host: "elsewhere.example:7000", local: net.IPv6loopback, refused: true},
		{host: "elsewhere.example:7000", local: elsewhere},
		{host: "elsewhere.example:7000", server: guarded},
		{host: "elsewhere.example:7000", tls: true},
		{host: "localhost:7000"},
		{host: "LocalHost"},
		{host: "127.0.0.1:7000"},
		{host: "127.0.0.1"},
		{host: "[::1]:7000"},
		{host: "[::1]"},
		{host: ""},
	} {
		if c.server == nil {
			c.server = open
		}
		if c.local == nil {
			c.local = loopback
		}
		r := httptest.NewRequest("GET", "/", nil)
		r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, net.Addr(&net.TCPAddr{IP: c.local})))
		if r.Host = c.host; c.tls {
			r.TLS = &tls.ConnectionState{}
		}
		if err := c.server.CheckHost(r); (err != nil) != c.refused {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestUpgradeIsRefusedToNamesOfOthers(t *testing.T) {
	server := NewServer(ServerOptions{})
	defer server.Close()
	l, err := Listen("http://127.0.0.1:0", ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	server.StartHTTP(l, nil)
	for host, want := range map[string]string{
		"elsewhere.example": "HTTP/1.1 421 ", "localhost": "HTTP/1.1 101 ",
	} {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: dkv\r\n\r\n", ConnectPath, host)
		if got := string(readHead(conn)); !strings.HasPrefix(got, want) {
			t.Errorf("%s: %q", host, got)
		}
	}
}
