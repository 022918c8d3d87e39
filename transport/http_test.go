package transport

import (
	"fmt"
	"net"
	"net/http"
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
