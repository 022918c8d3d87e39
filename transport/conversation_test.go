package transport

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"dkv/internal/clock"
	"dkv/store"
	"dkv/store/local"
)

// known is a store with an identity that is known beforehand.
type known struct{ *local.Store }

func (known) Identity() uint64 { return 0x0102030405060708 }

func asKnown(s *local.Store) Backend { return known{s} }

// standing is a store whose clock stands still, and its server, as the conversation of
// PROTOCOL.md has them.
func standing(t *testing.T, wrap func(*local.Store) Backend) (*local.Store, *Server) {
	t.Helper()
	s := local.Open(local.Options{Clock: new(clock.Fake)})
	t.Cleanup(func() { s.Close() })
	server := NewServer(ServerOptions{Tokens: []Token{{Secret: "open sesame", Rights: []Right{{AllShards: true, Write: true}}}}})
	t.Cleanup(func() { server.Close() })
	server.Handle(3, wrap(s))
	return s, server
}

// unaided has a server listen, and connects to it without a client, up to where the
// hello begins.
func unaided(t *testing.T, server *Server, endpoint string) net.Conn {
	t.Helper()
	l, err := Listen(endpoint, ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	isHTTP := strings.HasPrefix(endpoint, "http:")
	if isHTTP {
		server.StartHTTP(l, nil)
	} else {
		server.Start(l)
	}
	path := strings.TrimPrefix(endpoint, "unix://")
	address := l.Addr().String()
	if l.Addr().Network() == "unix" {
		address = path // to which the socket was moved
	}
	conn, err := net.Dial(l.Addr().Network(), address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	if isHTTP {
		_, blocks := protocolPage(t)
		for _, b := range blocks {
			switch b.name {
			case "text http request":
				conn.Write(b.bytes)
			case "text http response":
				if head := readHead(conn); !bytes.Equal(head, b.bytes) {
					t.Fatalf("the page has\n%s\nthe server answers\n%s", b.bytes, head)
				}
			}
		}
	}
	return conn
}

// TestProtocolConversationIsAsOnThePage plays the client of the page's conversation.
func TestProtocolConversationIsAsOnThePage(t *testing.T) {
	_, blocks := protocolPage(t)
	for _, network := range []string{"tcp", "unix", "http"} {
		t.Run(network, func(t *testing.T) {
			s, server := standing(t, asKnown)
			endpoint := network + "://127.0.0.1:0"
			if network == "unix" {
				endpoint = "unix://" + t.TempDir() + "/s"
			}
			conn := unaided(t, server, endpoint)
			closed := make(chan error, 1)
			closes := false
			for _, b := range blocks {
				if b.kind != "conversation" {
					continue
				}
				switch b.name {
				case "client":
					if _, err := conn.Write(b.bytes); err != nil {
						t.Fatalf("PROTOCOL.md:%d: %v", b.line, err)
					}
				case "server closes":
					ctx := background(t)
					for { // until the poll is under way
						info, err := s.Info(ctx)
						if err != nil {
							t.Fatal(err)
						}
						if info.Watches > 0 {
							break
						}
						time.Sleep(time.Millisecond)
					}
					closes = true
					go func() { closed <- server.Shutdown(context.Background()) }()
					fallthrough
				case "server":
					got := make([]byte, len(b.bytes))
					n, err := io.ReadFull(conn, got)
					if err != nil || !bytes.Equal(got, b.bytes) {
						t.Fatalf("PROTOCOL.md:%d: %v; the page has\n%sthe server says\n%s", b.line, err, hex.Dump(b.bytes), hex.Dump(got[:n]))
					}
				default:
					t.Fatalf("PROTOCOL.md:%d: %q speaks", b.line, b.name)
				}
			}
			if !closes {
				t.Fatal("the server does not close")
			}
			if n, err := conn.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("behind the goodbye: %d bytes, %v", n, err)
			}
			conn.Close()
			if err := <-closed; err != nil {
				t.Error(err)
			}
		})
	}
}

// TestProtocolIsLeftAsThePageSays has clients say what a server answers with a word or
// none at all.
func TestProtocolIsLeftAsThePageSays(t *testing.T) {
	greeting := clientHello{shard: 3, token: "open sesame"}
	let := appendServerHello(nil, 0x0102030405060708, nil)
	frame := func(b ...byte) []byte { return appendFrame(nil, b) }
	longest := frameOf(maxFrame + 1)
	for name, c := range map[string]struct {
		hello, says []byte
		answer      []byte // all that comes until the connection ends
	}{
		"another version":         {hello: []byte("dkv\x00\x03"), answer: preamble},
		"no hello":                {hello: []byte("GET / HTTP/1.1\r\n\r\n")},
		"a long hello":            {hello: append(bytes.Clone(preamble), frameOf(maxHello+1)...)},
		"a hello without a codec": {hello: append(bytes.Clone(preamble), frame(3)...)},
		"a number in a long form": {hello: append(bytes.Clone(preamble), frame(0x83, 0, 0)...)},
		"no token": {
			hello:  clientHello{shard: 3}.append(nil),
			answer: refusal(23, "dkv: not authenticated: the server asks for a token"),
		},
		"no such shard": {
			hello:  clientHello{shard: 4, token: "open sesame"}.append(nil),
			answer: refusal(22, "dkv: no such shard: 4, there are [3]"),
		},
		"a codec that is not accepted": {
			hello:  clientHello{shard: 3, codec: 200, token: "open sesame"}.append(nil),
			answer: refusal(10, "dkv: bad options: codec 200 is not accepted; [binary json] are"),
		},
		"a frame that is too long": {hello: greeting.append(nil), says: longest, answer: let},
		"an empty frame":           {hello: greeting.append(nil), says: frame(), answer: let},
		"the method 0":             {hello: greeting.append(nil), says: frame(1, 0, 0), answer: let},
		"the method 16":            {hello: greeting.append(nil), says: frame(1, 0, 16), answer: let},
		"no method":                {hello: greeting.append(nil), says: frame(1, 0), answer: let},
		"a timeout beyond 2^63-1": {
			hello: greeting.append(nil), answer: let,
			says: frame(1, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1, 1),
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, server := standing(t, asKnown)
			conn := unaided(t, server, "tcp://127.0.0.1:0")
			conn.Write(append(c.hello, c.says...)) // at once: there is no need to wait for the server's hello
			got, err := io.ReadAll(conn)
			if timeout := net.Error(nil); errors.As(err, &timeout) && timeout.Timeout() {
				t.Fatalf("the connection stays; the server says\n%s", hex.Dump(got))
			}
			if !bytes.Equal(got, c.answer) {
				t.Errorf("the server says\n%s, want\n%s", hex.Dump(got), hex.Dump(c.answer))
			}
		})
	}
}

// refusal is the server's hello to who is turned away.
func refusal(code byte, text string) []byte {
	return append(bytes.Clone(preamble), appendFrame(nil, append([]byte{code}, text...))...)
}

// TestProtocolConnectionStaysAfterAnError has arguments that are malformed, or beyond
// limits, answered with the codes that the page has for that.
func TestProtocolConnectionStaysAfterAnError(t *testing.T) {
	malformed := uint64(store.ErrMalformed.Code())
	_, server := standing(t, asKnown)
	conn := unaided(t, server, "tcp://127.0.0.1:0")
	conn.Write(clientHello{shard: 3, token: "open sesame"}.append(nil))
	if _, err := readServerHello(conn); err != nil {
		t.Fatal(err)
	}
	in := frameReader{r: conn}
	for i, c := range []struct {
		method method
		arg    []byte
		code   uint64
	}{
		{methodEnrol, []byte{0x40, 0}, malformed},                     // the nonce is 0
		{methodWrite, []byte{1, 0, 1, 'a'}, malformed},                // the value is missing
		{methodWrite, []byte{4, 0, 0}, malformed},                     // the key is empty
		{methodWrite, []byte{4, 1, 1, 'a'}, malformed},                // a delete of a lock
		{methodWrite, []byte{0x84, 0, 1, 'a', 0, 0}, malformed},       // no deadlines where there are to be some
		{methodWrite, []byte{0x84, 0, 1, 'a', 1, 0}, malformed},       // a deadline of a delete
		{methodWrite, []byte{11, 0, 1, 'a'}, malformed},               // a get outside a transaction
		{methodWrite, []byte{16}, malformed},                          // a void of nothing
		{methodWrite, []byte{0x41, 1, 1, 1, 2}, malformed},            // low is beyond seq
		{methodScan, []byte{4, 0, 0, 0, 0, 0}, malformed},             // an unknown flag
		{methodScanNext, []byte{0x80, 0}, malformed},                  // a number in a long form
		{methodScanNext, []byte{1}, 1},                                // there is no such scan
		{methodScanStop, []byte{1}, 0},                                // but it can be given up
		{methodPoll, []byte{2, 0, 1, 0, 0}, malformed},                // a space of the servers' own
		{methodPoll, []byte{3, 0, 1, 0, 0}, malformed},                // another one
		{methodPoll, []byte{4, 0, 1, 0, 0}, malformed},                // an unknown space
		{methodPoll, []byte{0, 0, 1, 1, 'a', 1, 'a'}, 12},             // a key and a prefix
		{methodPoll, []byte{0, 0, 9, 0, 0}, 18},                       // a revision beyond the next
		{methodAwaitLock, []byte{0, 1, 1, 'a'}, malformed},            // the owner is cut off
		{methodAwaitLock, []byte{0, 1, 1, 8, 7, 6, 5, 4, 3, 2, 1}, 5}, // no lock
		{methodLockHolder, nil, 5},
		{methodHas, bytes.Repeat([]byte("k"), 4097), 6},
	} {
		req := request{id: uint64(i) + 1, method: c.method, arg: c.arg}
		conn.Write(appendFrame(nil, req.append(nil)))
		body, _, err := in.next()
		if err != nil {
			t.Fatalf("method %d, % x: %v", c.method, c.arg, err)
		}
		resp, err := parseResponse(body)
		if err != nil || resp.id != req.id || resp.code != c.code {
			t.Errorf("method %d, % x: %v, %+v, want code %d", c.method, c.arg, err, resp, c.code)
		}
	}
	// A cancel has no response, the request behind it does.
	conn.Write(appendFrame(appendFrame(nil, request{id: 100, method: methodCancel, arg: []byte{1}}.append(nil)),
		request{id: 101, method: methodReady}.append(nil)))
	body, _, err := in.next()
	if err != nil || !bytes.Equal(body, []byte{101, 0}) {
		t.Error(fmt.Sprintf("% x", body), err)
	}
}
