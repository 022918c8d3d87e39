package transport

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"dkv/store"
	"dkv/store/local"
)

func TestCodecsHaveNames(t *testing.T) {
	for _, c := range allCodecs {
		if got, err := ParseCodec(c.String()); got != c || err != nil {
			t.Errorf("%v: %v, %v", c, got, err)
		}
	}
	for _, name := range []string{"", "JSON", "xml"} {
		if _, err := ParseCodec(name); !errors.Is(err, store.ErrBadOptions) || !strings.Contains(err.Error(), "binary, json, gob") {
			t.Errorf("%q: %v", name, err)
		}
	}
	if got := Codec(9).String(); got != "codec 9" {
		t.Error(got)
	}
}

func TestEndpointsNameCodecs(t *testing.T) {
	for endpoint, want := range map[string]struct {
		network, address string
		codec            Codec // if the usual one is Gob
	}{
		"tcp://host:7070":              {"tcp", "host:7070", Gob},
		"tcp://host:7070?codec=json":   {"tcp", "host:7070", JSON},
		"unix:///a/path?codec=gob":     {"unix", "/a/path", Gob},
		"http://host:80?codec=binary":  {"http", "host:80", Binary},
		"http://[::1]:8080?codec=json": {"http", "[::1]:8080", JSON},
	} {
		at, err := parseEndpoint(endpoint)
		if err != nil || at.network != want.network || at.address != want.address || at.codec(Gob) != want.codec {
			t.Errorf("%s: %+v, %v", endpoint, at, err)
		}
	}
	for endpoint, why := range map[string]string{
		"tcp://host:7070?":                       `option "" is not known; codec is`,
		"tcp://host:7070?zip=1":                  `option "zip" is not known; codec is`,
		"tcp://host:7070?codec":                  `codec "" is not known; binary, json, gob are`,
		"unix:///a/path?codec=xml":               `codec "xml" is not known; binary, json, gob are`,
		"http://host:7070?codec=json&codec=json": "is not known",
		"tcp://host?codec=json":                  "not of the form",
		"tcp://host:7070?codec=json&token=x":     "is not known",
	} {
		if err := CheckEndpoint(endpoint); !errors.Is(err, store.ErrBadOptions) || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v", endpoint, err)
		}
	}
	if _, err := Listen("tcp://127.0.0.1:0?codec=json", ListenOptions{}); !errors.Is(err, store.ErrBadOptions) {
		t.Errorf("listened with a codec: %v", err)
	}
}

func TestServerRefusesCodecsThatItDoesNotAccept(t *testing.T) {
	db := local.Open(local.Options{})
	defer db.Close()
	usual := serveOn(t, "tcp", db, ServerOptions{}, ListenOptions{})
	gobAlone := serveOn(t, "tcp", db, ServerOptions{Codecs: []Codec{Gob}}, ListenOptions{})
	for _, c := range []struct {
		endpoint string
		option   Codec
		refused  string // "" if it is not
	}{
		{usual, Binary, ""},
		{usual, JSON, ""},
		{usual, Gob, "gob is not accepted; [binary json] are"},
		{usual + "?codec=gob", Binary, "gob is not accepted; [binary json] are"},
		{usual + "?codec=json", Gob, ""}, // the address wins
		{gobAlone, Gob, ""},
		{gobAlone, Binary, "binary is not accepted; [gob] are"},
	} {
		err := try(t, untilAnswered, ClientOptions{Endpoints: []string{c.endpoint}, Codec: c.option})
		if c.refused == "" && err != nil {
			t.Errorf("%s, %v: %v", c.endpoint, c.option, err)
		}
		if c.refused != "" && (!errors.Is(err, store.ErrBadOptions) || !strings.Contains(err.Error(), c.refused)) {
			t.Errorf("%s, %v: %v", c.endpoint, c.option, err)
		}
	}
	if _, err := NewClient(ClientOptions{Endpoints: []string{usual}, Codec: codecs}); !errors.Is(err, store.ErrBadOptions) {
		t.Errorf("a client with a codec that there is none of: %v", err)
	}
	defer func() {
		if recover() == nil {
			t.Error("a server with a codec that there is none of")
		}
	}()
	NewServer(ServerOptions{Codecs: []Codec{codecs}})
}

// ask connects with a codec and has the server say hello.
func ask(t *testing.T, endpoint string, codec Codec) (net.Conn, *bufio.Reader) {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(endpoint, "tcp://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	conn.Write(clientHello{codec: codec}.append(nil))
	r := bufio.NewReader(conn)
	if _, err := readServerHello(r); err != nil {
		t.Fatal(err)
	}
	return conn, r
}

func TestJSONCanBeWrittenByHand(t *testing.T) {
	conn, r := ask(t, serve(t, "tcp://127.0.0.1:0"), JSON)
	for _, c := range [][2]string{
		{`{"id": 1, "method": "write", "op": {"kind": "set", "key": "aw==", "value": "dg=="}}`, `{"id":1,"result":{"done":true,"revision":1}}`},
		{`{"method":"get","key":"aw==","id":2}`, `{"id":2,"found":true,"value":"dg=="}`},
		{`{"id":3,"method":"has","key":"bg=="}`, `{"id":3}`},
		{`{"id":4,"method":"get"}`, `{"id":4,"code":5,"error":"dkv: empty key"}`},
		{`{"id":5,"method":"write","op":{"kind":"set"}}`, `{"id":5,"code":25,"error":"dkv: malformed request: command: malformed log entry"}`},
		{`{"id":6,"method":"poll","poll":{}}`, `{"id":6,"next":2}`},
	} {
		conn.Write(appendFrame(nil, []byte(c[0])))
		if got, err := readFrame(r); string(got) != c[1] || err != nil {
			t.Errorf("%s: %s, %v, want %s", c[0], got, err, c[1])
		}
	}
}

func TestMalformedBodyEndsTheConnection(t *testing.T) {
	endpoint := serve(t, "tcp://127.0.0.1:0")
	ready := request{id: 1, method: methodReady}
	gobbed, _ := Gob.transcoder().request(ready)
	for _, c := range []struct {
		codec Codec
		body  []byte
	}{
		{JSON, []byte("{")},
		{JSON, []byte(`{"id":1,"method":"ready","more":1}`)},
		{JSON, ready.append(nil)},
		{JSON, gobbed},
		{Gob, gobbed[:len(gobbed)-1]},
		{Gob, append(bytes.Clone(gobbed), gobbed...)},
		{Gob, ready.append(nil)},
		{Gob, []byte(`{"id":1,"method":"ready"}`)},
	} {
		conn, r := ask(t, endpoint, c.codec)
		conn.Write(appendFrame(nil, c.body))
		if b, err := io.ReadAll(r); len(b) > 0 || err != nil && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%v %q: answered %q, %v", c.codec, c.body, b, err)
		}
	}
	for _, codec := range allCodecs {
		conn, r := ask(t, endpoint, codec)
		conn.Write(frameOf(uint32(codec.transcoder().frameLimit()) + 1))
		if b, err := io.ReadAll(r); len(b) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%v: a frame that is too large: answered %q, %v", codec, b, err)
		}
	}
}

func TestGobOfOtherTypesIsRefused(t *testing.T) {
	type requestMessage struct { // the name is right
		ID     uint64
		Method string
		More   string
	}
	type anotherMessage struct {
		ID     uint64
		Method string
	}
	many := make([]anotherMessage, 2)
	for _, v := range []any{
		requestMessage{ID: 1, Method: "ready", More: "x"}, anotherMessage{1, "ready"},
		map[string]string{"ID": "1"}, many, 1, "ready",
	} {
		b, err := marshalGob(v)
		if err != nil {
			t.Fatal(err)
		}
		if r, err := Gob.transcoder().parseRequest(b); err == nil {
			t.Errorf("%T: taken for %+v", v, r)
		}
	}
}

func TestLargestValueInEveryCodec(t *testing.T) {
	ctx := background(t)
	endpoint := serve(t, "tcp://127.0.0.1:0")
	for _, codec := range allCodecs {
		c := connect(t, endpoint+"?codec="+codec.String())
		want := bytes.Repeat([]byte{0xff, byte(codec)}, store.MaxValueSize/2)
		key := fmt.Sprint("k", codec)
		if err := c.Set(ctx, key, want); err != nil {
			t.Fatalf("%v: %v", codec, err)
		}
		if got, ok, err := c.Get(ctx, key); !bytes.Equal(got, want) || !ok || err != nil {
			t.Fatalf("%v: %d bytes, %v, %v", codec, len(got), ok, err)
		}
	}
}
