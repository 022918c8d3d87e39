package transport

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"dkv/internal/command"
	"dkv/internal/once"
	"dkv/internal/ops"
	"dkv/lock"
	"dkv/store"
	"dkv/store/engine"
	"dkv/store/local"
	"dkv/store/storetest"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if who, ok := os.LookupEnv(strangersEnv); ok {
		os.Exit(beStrangers(who))
	}
	goleak.VerifyTestMain(m)
}

// allCodecs are the codecs there are.
var allCodecs = []Codec{Binary, JSON, Gob}

// newServer returns a server of one store, for clients with any codec.
func newServer(b Backend) *Server {
	s := NewServer(ServerOptions{Codecs: allCodecs})
	s.Handle(0, b)
	return s
}

// serve opens a store in memory and a server of it, and returns the endpoint.
func serve(t *testing.T, endpoint string) string {
	t.Helper()
	s := local.Open(local.Options{})
	t.Cleanup(func() { s.Close() })
	return serveBackend(t, endpoint, s)
}

func serveBackend(t *testing.T, endpoint string, b Backend) string {
	t.Helper()
	server := newServer(b)
	l, err := Listen(endpoint, ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	switch network, _, _ := strings.Cut(endpoint, "://"); network {
	case "unix":
		server.Start(l)
		return endpoint
	case "http":
		server.StartHTTP(l, nil)
		return "http://" + l.Addr().String()
	}
	server.Start(l)
	return "tcp://" + l.Addr().String()
}

func connect(t *testing.T, endpoints ...string) *Client {
	t.Helper()
	c, err := NewClient(ClientOptions{Endpoints: endpoints})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// waits is a store whose reads and writes a server takes for ones that may wait.
type waits struct{ *local.Store }

func (waits) Prompt() bool { return false }

// behindBarrier is one whose reads share a barrier, too.
type behindBarrier struct{ waits }

func (b behindBarrier) Barrier(ctx context.Context) error { return b.Ready(ctx) }

func (b behindBarrier) GetEntryStale(ctx context.Context, key string) (store.Entry, bool, error) {
	return b.GetEntry(ctx, key)
}

func (b behindBarrier) DoTogether(ctx context.Context, writes []ops.Write) {
	ops.DoTogether(ctx, writes, func(ctx context.Context, writes []ops.Write) {
		for i := range writes {
			if w := &writes[i]; w.Err == nil {
				w.Result, w.Err = b.DoOnce(ctx, w.Op, w.ID)
			}
		}
	})
}

// TestConformanceOfClients has clients by way of every network and codec, of servers that
// carry out requests as they come; and clients of servers that do so with a goroutine each
// and together. A short run has each network, codec and kind of server once.
func TestConformanceOfClients(t *testing.T) {
	run := func(name, network string, codec Codec, backend func(*local.Store) Backend) {
		t.Run(name, func(t *testing.T) {
			storetest.Run(t, storetest.Harness{Open: func(t *testing.T) []store.Store {
				endpoint := network + "://127.0.0.1:0"
				if network == "unix" {
					endpoint = "unix://" + t.TempDir() + "/s"
				}
				s := local.Open(local.Options{})
				endpoint = serveBackend(t, endpoint, backend(s)) + "?codec=" + codec.String()
				t.Cleanup(func() { s.Close() })
				return []store.Store{connect(t, endpoint), connect(t, endpoint)}
			}})
		})
	}
	prompt := func(s *local.Store) Backend { return s }
	goroutines := func(s *local.Store) Backend { return waits{s} }
	barrier := func(s *local.Store) Backend { return behindBarrier{waits{s}} }
	if testing.Short() {
		run("tcp/binary", "tcp", Binary, prompt)
		run("unix/json/goroutines", "unix", JSON, goroutines)
		run("http/gob/barrier", "http", Gob, barrier)
		return
	}
	for _, network := range []string{"tcp", "unix", "http"} {
		for _, codec := range allCodecs {
			run(network+"/"+codec.String(), network, codec, prompt)
		}
	}
	run("goroutines", "tcp", Binary, goroutines)
	run("barrier", "tcp", Binary, barrier)
}

func background(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestLocksOverTheNetwork(t *testing.T) {
	ctx := background(t)
	c := connect(t, serve(t, "tcp://127.0.0.1:0"))
	locks := lock.New(c)
	owner, ok, err := locks.Acquire(ctx, "x", time.Minute)
	if !ok || err != nil || owner.Token() == 0 {
		t.Fatal(owner, ok, err)
	}
	if _, ok, err := locks.Acquire(ctx, "x", time.Minute); ok || err != nil {
		t.Fatal(ok, err)
	}
	if ok, err := locks.Release(ctx, "x", owner); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if ok, err := locks.Release(ctx, "x", owner); ok || err != nil {
		t.Fatal("released twice:", ok, err)
	}
}

func TestClientGoesOnAtTheNextEndpoint(t *testing.T) {
	ctx := background(t)
	s := local.Open(local.Options{})
	defer s.Close()
	var servers []*Server
	var endpoints []string
	for range 2 {
		l, err := Listen("tcp://127.0.0.1:0", ListenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		server := newServer(s)
		server.Start(l)
		defer server.Close()
		servers = append(servers, server)
		endpoints = append(endpoints, "tcp://"+l.Addr().String())
	}
	c := connect(t, endpoints...)
	if err := c.Set(ctx, "k", []byte("v")); err != nil {
		t.Fatal(err)
	}
	servers[0].Close()
	if value, ok, err := c.Get(ctx, "k"); string(value) != "v" || !ok || err != nil {
		t.Fatal(value, ok, err)
	}
	servers[1].Close()
	short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	if err := c.Set(short, "k", nil); store.KindOf(err) != store.KindNotApplied && store.KindOf(err) != store.KindUnknown {
		t.Fatalf("without a server: %v", err)
	}
}

// stuck is a store whose writes end only with their context.
type stuck struct {
	*local.Store
	began chan struct{}
}

func (stuck) Prompt() bool { return false }

func (s stuck) DoOnce(ctx context.Context, _ engine.Op, _ once.ID) (engine.Result, error) {
	s.began <- struct{}{}
	<-ctx.Done()
	return engine.Result{}, store.ErrUnknown
}

func TestWriteWhoseConnectionIsCutIsUnknown(t *testing.T) {
	ctx, cancel := context.WithCancel(background(t))
	defer cancel()
	s := stuck{local.Open(local.Options{}), make(chan struct{}, 1)}
	defer s.Close()
	server := newServer(s)
	l, err := Listen("tcp://127.0.0.1:0", ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	server.Start(l)
	c := connect(t, "tcp://"+l.Addr().String())
	done := make(chan error)
	go func() { done <- c.Set(ctx, "k", nil) }()
	<-s.began
	server.Close()
	cancel() // else it would be tried again and again
	if err := <-done; !errors.Is(err, store.ErrUnknown) {
		t.Fatal(err)
	}
}

func TestDeadlineOfTheClientEndsTheWorkOfTheServer(t *testing.T) {
	const n = maxInFlight + 10 // more than are worked on at a time
	s := stuck{local.Open(local.Options{}), make(chan struct{}, n)}
	defer s.Close()
	server := newServer(s)
	l, err := Listen("tcp://127.0.0.1:0", ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	server.Start(l)
	defer server.Close()

	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	w := bufio.NewWriter(conn)
	w.Write(hello)
	set := command.AppendOp(nil, &engine.Op{Kind: engine.Set, Key: "k"}, once.ID{})
	for id := uint64(1); id <= n; id++ {
		writeFrame(w, request{id: id, timeout: time.Millisecond, method: methodWrite, arg: set}.append(nil))
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(conn)
	if _, err := readServerHello(r); err != nil {
		t.Fatal(err)
	}
	for range n {
		body, err := readFrame(r)
		if err != nil {
			t.Fatal(err)
		}
		if resp, err := parseResponse(body); err != nil || resp.code != uint64(store.ErrUnknown.Code()) {
			t.Fatal(resp, err)
		}
	}
	if len(s.began) != n {
		t.Fatalf("%d of %d writes reached the store", len(s.began), n)
	}
}

func TestStrangersAreTurnedAway(t *testing.T) {
	ctx := background(t)
	endpoint := serve(t, "tcp://127.0.0.1:0")
	huge := binary.LittleEndian.AppendUint32(bytes.Clone(hello), maxFrame+1)
	for name, sent := range map[string][]byte{
		"http":            []byte("GET / HTTP/1.1\r\n\r\n"),
		"another version": append([]byte(magic), version+1),
		"hello too large": append(bytes.Clone(preamble), 0, 0, 1, 0),
		"empty hello":     append(bytes.Clone(preamble), 0, 0, 0, 0),
		"frame too large": huge,
		"no request":      append(bytes.Clone(hello), 1, 0, 0, 0, 0x80),
		"unknown method":  append(bytes.Clone(hello), 3, 0, 0, 0, 1, 0, byte(methods)),
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("tcp", strings.TrimPrefix(endpoint, "tcp://"))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(10 * time.Second))
			if _, err := conn.Write(sent); err != nil {
				t.Fatal(err)
			}
			reply, err := io.ReadAll(conn)
			if err != nil && !errors.Is(err, syscall.ECONNRESET) {
				t.Fatal(err)
			}
			if len(reply) > len(serverHello) {
				t.Fatalf("answered %q", reply)
			}
		})
	}
	c := connect(t, endpoint)
	if err := c.Set(ctx, "k", nil); err != nil {
		t.Fatal("an honest client after the strangers:", err)
	}
}

func TestSocketIsItsOwnersAlone(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	l, err := Listen("unix://"+path, ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Lstat(path)
	if err != nil || info.Mode() != os.ModeSocket|0o600 {
		t.Fatal(info.Mode(), err)
	}
	if addr := l.Addr(); addr.Network() != "unix" || addr.String() != path {
		t.Fatal("listens at", addr.Network(), addr)
	}
	if _, err := Listen("unix://"+path, ListenOptions{}); !errors.Is(err, store.ErrBadOptions) {
		t.Fatal("listened on a socket in use:", err)
	}
	l.Close()
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Fatal("left behind:", left)
	}

	// A process that was killed leaves its socket behind.
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()
	if l, err = Listen("unix://"+path, ListenOptions{}); err != nil {
		t.Fatal("stale socket:", err)
	}
	l.Close()

	target := filepath.Join(dir, "target")
	if err := os.WriteFile(target, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen("unix://"+path, ListenOptions{}); !errors.Is(err, store.ErrBadOptions) {
		t.Fatal("followed a symlink:", err)
	}
	if b, _ := os.ReadFile(target); string(b) != "precious" {
		t.Fatal("what the symlink points to was changed")
	}
}

// FuzzFrames feeds a server's and a client's decoders.
func FuzzFrames(f *testing.F) {
	f.Add(request{id: 1, timeout: time.Second, method: methodGet, arg: []byte("k")}.append(nil))
	f.Add(response{id: 300, code: 3, result: []byte("text")}.append(nil))
	f.Add(appendEntry(nil, store.Entry{Value: []byte("v"), Revision: 7, ExpireIn: 1, DeleteIn: 2}))
	f.Add(poll{space: engine.Locks, what: store.Watch{Prefix: "k", From: 300}, wait: 1000}.append(nil))
	f.Add(await{key: "k", owner: []byte("owner---"), at: store.LockPlace{Waiting: true, Number: 7, At: 9}, wait: 1}.append(nil))
	f.Add(request{id: 1, method: methodAwaitLock, arg: await{key: "lock", owner: []byte("owner---")}.append(nil)}.append(nil))
	f.Add(request{id: 1, method: methodAwaitLock, arg: await{key: "shared", owner: []byte("owner---")}.append(nil)}.append(nil))
	f.Add(request{id: 1, method: methodLockHolder, arg: []byte("lock")}.append(nil))
	f.Add(appendPlace(nil, store.LockPlace{Held: true, Token: 300}))
	f.Add(appendHolder(nil, store.LockHolder{Owner: []byte("owner---"), Token: 300}, true))
	f.Add(appendEvents(nil, []store.Event{
		{Type: store.EventSet, Key: "k", Value: []byte("v"), Revision: 7},
		{Type: store.EventDeleted, Key: "k", Revision: 300, ByDeadline: true},
	}, 301))
	db := local.Open(local.Options{})
	for _, limit := range []int64{0, 0, 2} {
		name := "lock"
		if limit > 0 {
			name = "shared"
		}
		db.JoinLock(context.Background(), name, fmt.Append(nil, "owner--", limit), limit, time.Hour, true)
	}
	s := newServer(db)
	f.Fuzz(func(t *testing.T, b []byte) {
		if req, err := parseRequest(b); err == nil {
			c := newServed(s, nil, db, Access{all: true})
			c.begin()
			ctx, cancel := context.WithTimeout(c.ctx, time.Nanosecond)
			c.answer(ctx, req, c.scans.receive(req)) // which takes room for at most one large response
			cancel()
			c.cancelled(req.arg)
			if promptly(req.method) {
				c.now(req)
			}
			c.cancel()
			c.scans.close()
		}
		if resp, err := parseResponse(b); err == nil {
			if again, err := parseResponse(resp.append(nil)); err != nil || again.id != resp.id || again.code != resp.code {
				t.Fatal(again, err)
			}
			resp.err(store.ErrUnknown)
		}
		if p, err := parsePoll(b); err == nil && !bytes.Equal(p.append(nil), b) {
			t.Fatalf("%+v", p)
		}
		if a, err := parseAwait(b); err == nil && !bytes.Equal(a.append(nil), b) {
			t.Fatalf("%+v", a)
		}
		if p, err := parsePlace(b); err == nil && !bytes.Equal(appendPlace(nil, p), b) {
			t.Fatalf("%+v", p)
		}
		if h, ok, err := parseHolder(b); err == nil && !bytes.Equal(appendHolder(nil, h, ok), b) {
			t.Fatalf("%+v", h)
		}
		if events, next, err := parseEvents(b); err == nil && !bytes.Equal(appendEvents(nil, events, next), b) {
			t.Fatalf("%+v, %d", events, next)
		}
		parseEntry("k", b)
		parseResult(b)
		parseInfo(b)
		readClientHello(bytes.NewReader(b))
		readServerHello(bytes.NewReader(b))
		in := frameReader{r: iotest.OneByteReader(bytes.NewReader(b))}
		for _, _, err := in.next(); err == nil; {
			_, _, err = in.next()
		}
		in.giveBack()
	})
}
