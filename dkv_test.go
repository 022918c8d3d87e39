package dkv_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"dkv"
	"dkv/store/engine"
	"dkv/store/engine/enginetest"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func freeAddress() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestOptionsThatContradictThemselvesAreAllNamed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	members := map[string]string{"a": "127.0.0.1:1"}
	for _, test := range []struct {
		name string
		opts dkv.Options
		want []string
	}{
		{"members without Dir", dkv.Options{Node: "a", Members: members}, []string{"Node is set without Dir", "Members is set without Dir"}},
		{"a learner in memory", dkv.Options{Learner: true}, []string{"Learner is set without Dir"}},
		{"a witness in memory", dkv.Options{Witness: true}, []string{"Witness is set without Dir"}},
		{"a witness that is a founder", dkv.Options{Dir: filepath.Join(t.TempDir(), "data"), Node: "a", Members: members, Witness: true}, []string{"Witness", "Join"}},
		{"a client that is a witness", dkv.Options{Connect: []string{"tcp://127.0.0.1:1"}, Witness: true}, []string{"Witness is set with Connect"}},
		{"snapshots without Dir", dkv.Options{SnapshotBytes: 1}, []string{"SnapshotBytes"}},
		{"a client with data", dkv.Options{Connect: []string{"tcp://127.0.0.1:1"}, Dir: file, Listen: []string{"x"}}, []string{"Dir is set with Connect", "Listen is set with Connect", `"x"`}},
		{"unknown network", dkv.Options{Connect: []string{"carrier://pigeon"}}, []string{"Connect", "carrier", "tcp, http and unix"}},
		{"relative socket", dkv.Options{Listen: []string{"unix://s"}}, []string{"Listen", "not absolute"}},
		{"beyond loopback", dkv.Options{Listen: []string{"tcp://0.0.0.0:0"}}, []string{"loopback"}},
		{"a file for a socket", dkv.Options{Listen: []string{"unix://" + file}}, []string{"file of another kind"}},
		{"a file for a directory", dkv.Options{Dir: filepath.Join(file, "dir")}, []string{"Dir", "not a directory"}},
		{"unknown node", dkv.Options{Dir: t.TempDir(), Node: "b", Members: members}, []string{`Node "b"`, "a=127.0.0.1:1"}},
		{"a client that restores", dkv.Options{Connect: []string{"tcp://127.0.0.1:1"}, Restore: file}, []string{"Restore is set with Connect"}},
		{"a backup that is none, in memory", dkv.Options{Restore: file}, []string{"Restore", file, "backup damaged"}},
		{"a backup that is none, on disk", dkv.Options{Restore: file, Dir: filepath.Join(t.TempDir(), "data")}, []string{"Restore", file, "backup damaged"}},
		{"a backup that is not there", dkv.Options{Restore: file + "s"}, []string{"Restore", file + "s"}},
		{"limit below 0", dkv.Options{MaxBytes: -1}, []string{"MaxBytes is negative"}},
		{"a port twice", dkv.Options{Listen: []string{"tcp://127.0.0.1:1", "http://127.0.0.1:1"}}, []string{`Listen has "127.0.0.1:1" twice`}},
		{"a listener for the port of Listen", dkv.Options{Dir: t.TempDir(), Node: "a", Members: members, Listen: []string{"tcp://127.0.0.1:1"}, PeerListener: new(net.TCPListener)},
			[]string{"PeerListener's", "SharePort"}},
		{"a listener for nobody", dkv.Options{PeerListener: new(net.TCPListener)}, []string{"PeerListener is set without Members, Address or Join"}},
		{"half an engine", dkv.Options{Engine: engine.Factory{New: enginetest.Naive.New}}, []string{"Engine is incomplete"}},
		{"everything", dkv.Options{Dir: t.TempDir(), SnapshotBytes: -1, Members: map[string]string{"a": "nowhere", "": ":1"}},
			[]string{"SnapshotBytes", "Node is empty", `Members["a"]`, "empty name", "no host"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			db, err := dkv.Open(test.opts)
			if !errors.Is(err, dkv.ErrBadOptions) || dkv.KindOf(err) != dkv.KindFinal || db != nil {
				t.Fatalf("%v, %v", db, err)
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not name %q", err, want)
				}
			}
		})
	}
}

// TestInsecureIsForNodesThatJoin, too: they have no Members.
func TestInsecureIsForNodesThatJoin(t *testing.T) {
	for name, join := range map[string][]string{"asks": {freeAddress()}, "waits": nil} {
		t.Run(name, func(t *testing.T) {
			db, err := dkv.Open(dkv.Options{Dir: t.TempDir(), Node: "b", Address: freeAddress(), Join: join, Insecure: true})
			if err != nil {
				t.Fatal(err)
			}
			if err := db.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestInfoCrossesTheNetworkWhole(t *testing.T) {
	endpoint := "unix://" + t.TempDir() + "/s"
	db, err := dkv.Open(dkv.Options{Dir: t.TempDir(), Listen: []string{endpoint}})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	client, err := dkv.Open(dkv.Options{Connect: []string{endpoint}})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for range 2 {
		if err := client.Set(t.Context(), "k", []byte("v")); err != nil {
			t.Fatal(err)
		}
	}
	if v, ok, err := client.GetStale(t.Context(), "k"); err != nil || !ok || string(v) != "v" {
		t.Errorf("%q, %t, %v", v, ok, err)
	}
	var here, there dkv.Info
	for range 100 { // a tick of the clock may come between the two
		here, err = db.Info(t.Context())
		if err != nil || here.Applied == 0 || here.Progress[here.Node] != here.Applied {
			t.Fatalf("%+v, %v", here, err)
		}
		if there, err = client.Info(t.Context()); err != nil {
			t.Fatal(err)
		}
		if reflect.DeepEqual(there, here) {
			return
		}
	}
	t.Errorf("%+v there, %+v here", there, here)
}

func TestClientIsLiveUntilItIsClosedWhateverItsServersAre(t *testing.T) {
	db, err := dkv.Open(dkv.Options{Connect: []string{"unix://" + t.TempDir() + "/nobody"}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := db.Ready(ctx); !errors.Is(err, dkv.ErrUnavailable) {
		t.Errorf("ready without a server: %v", err)
	}
	if err := db.Live(); err != nil {
		t.Errorf("without a server: %v", err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := db.Live(); !errors.Is(err, dkv.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

func TestMaxBytesTurnsWritesAway(t *testing.T) {
	db, err := dkv.Open(dkv.Options{MaxBytes: 10_000})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	ctx := t.Context()
	n := 0
	for ; err == nil && n < 1000; n++ {
		err = db.Set(ctx, fmt.Sprint(n), make([]byte, 100))
	}
	if !errors.Is(err, dkv.ErrFull) || dkv.KindOf(err) != dkv.KindFinal {
		t.Fatalf("%v after %d writes", err, n)
	}
	if ok, _, err := db.Get(ctx, fmt.Sprint(n)); ok != nil || err != nil {
		t.Fatalf("a write that was turned away is there: %v", err)
	}
	if _, _, err := db.Acquire(ctx, "lock", time.Minute); !errors.Is(err, dkv.ErrFull) {
		t.Fatalf("a lock is given that there is no room for: %v", err)
	}
	if err := db.Delete(ctx, "0"); err != nil {
		t.Fatal(err)
	}
	if err := db.Set(ctx, "0", make([]byte, 100)); err != nil {
		t.Fatalf("there is room again: %v", err)
	}
	info, err := db.Info(ctx)
	if err != nil || info.Size > 10_000 || info.Size < 9_000 {
		t.Fatalf("%+v, %v", info, err)
	}
}

func TestAnotherEngineTakesMaplesPlace(t *testing.T) {
	db, err := dkv.Open(dkv.Options{Engine: enginetest.Naive, MaxBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.Set(t.Context(), "k", []byte("v")); err != nil {
		t.Fatal(err)
	}
	if v, ok, err := db.Get(t.Context(), "k"); string(v) != "v" || !ok || err != nil {
		t.Fatal(v, ok, err)
	}
}

func TestKeysAndLocksNeverMeet(t *testing.T) {
	db, err := dkv.Open(dkv.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	ctx := context.Background()
	if err := db.Set(ctx, "x", []byte("v")); err != nil {
		t.Fatal(err)
	}
	owner, ok, err := db.Acquire(ctx, "x", time.Minute)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	if err := db.Delete(ctx, "x"); err != nil {
		t.Fatal(err)
	}
	if _, ok, _ := db.Acquire(ctx, "x", time.Minute); ok {
		t.Fatal("deleting the key freed the lock")
	}
	if ok, err := db.Release(ctx, "x", owner); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if ok, _ := db.Has(ctx, "x"); ok {
		t.Fatal("the lock is seen as a key")
	}
}

func TestSeveralStoresInOneProcessAreApart(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	dir := t.TempDir()
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			opts := dkv.Options{}
			if i > 0 {
				opts.Dir = filepath.Join(dir, fmt.Sprint(i))
			}
			db, err := dkv.Open(opts)
			if err != nil {
				t.Error(err)
				return
			}
			defer db.Close()
			if set, err := db.SetEIfUnset(ctx, "k", []byte(fmt.Sprint(i)), 0, 0); !set || err != nil {
				t.Error(set, err)
			}
			value, _, err := db.Get(ctx, "k")
			if !bytes.Equal(value, []byte(fmt.Sprint(i))) {
				t.Errorf("%q, %v in store %d", value, err, i)
			}
		})
	}
	wg.Wait()
}

// TestBackupOfAStoreOfAnyKindBeginsOneOfAnyOther takes what is stored from kind to kind.
func TestBackupOfAStoreOfAnyKindBeginsOneOfAnyOther(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	path := filepath.Join(t.TempDir(), "app.backup")
	openOne := func(opts dkv.Options) *dkv.DB {
		t.Helper()
		opts.Restore = path
		db, err := dkv.Open(opts)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { db.Close() })
		return db
	}
	open := func(kind string) (db *dkv.DB) {
		t.Helper()
		switch kind {
		case "memory":
			return openOne(dkv.Options{})
		case "durable":
			return openOne(dkv.Options{Dir: filepath.Join(t.TempDir(), "data")})
		}
		members := map[string]string{"a": freeAddress(), "b": freeAddress(), "c": freeAddress()}
		for name := range members {
			db = openOne(dkv.Options{Dir: filepath.Join(t.TempDir(), "data"), Node: name, Members: members})
		}
		return db
	}
	backUp := func(db *dkv.DB) dkv.Backup {
		t.Helper()
		var out bytes.Buffer
		b, err := db.Backup(ctx, &out)
		if err != nil {
			t.Fatal(err)
		}
		if told, err := dkv.VerifyBackup(bytes.NewReader(out.Bytes())); err != nil || told != b || told.Bytes != int64(out.Len()) {
			t.Fatalf("%+v is told of %+v: %v", told, b, err)
		}
		if err := os.WriteFile(path, out.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		return b
	}

	first, err := dkv.Open(dkv.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	if err := first.SetE(ctx, "timed", []byte("v"), time.Hour, 2*time.Hour); err != nil {
		t.Fatal(err)
	}
	if err := first.Set(ctx, "large", bytes.Repeat([]byte("x"), dkv.MaxValueSize)); err != nil {
		t.Fatal(err)
	}
	owner, ok, err := first.Acquire(ctx, "lock", dkv.LockForever)
	if !ok || err != nil {
		t.Fatal(ok, err)
	}
	last := backUp(first)
	for i, kind := range []string{"memory", "durable", "memory", "replicated", "durable", "replicated", "memory"} {
		db := open(kind)
		e, ok, err := db.GetEntry(ctx, "timed")
		if !ok || err != nil || string(e.Value) != "v" || e.Revision != 1 || e.ExpireIn > time.Hour || e.ExpireIn < 59*time.Minute ||
			e.DeleteIn > 2*time.Hour || e.DeleteIn < 119*time.Minute {
			t.Fatalf("%s: %+v, %t, %v", kind, e, ok, err)
		}
		if value, ok, err := db.Get(ctx, "large"); len(value) != dkv.MaxValueSize || !ok || err != nil {
			t.Fatalf("%s: %d bytes, %v", kind, len(value), err)
		}
		if _, ok, err := db.Acquire(ctx, "lock", time.Minute); ok || err != nil {
			t.Fatalf("%s: the lock is given twice: %v", kind, err)
		}
		sum, rev, err := db.Add(ctx, "count", 1)
		if err != nil || sum != int64(i+1) || rev <= last.Revision {
			t.Fatalf("%s: %d at revision %d after %d, %v", kind, sum, rev, last.Revision, err)
		}
		if i == 6 {
			if ok, err := db.Release(ctx, "lock", owner); !ok || err != nil {
				t.Fatalf("%s: the lock is not its holder's: %v", kind, err)
			}
		}
		b := backUp(db)
		if b.Revision < rev || b.Keys != 3 || b.Checksum == last.Checksum {
			t.Fatalf("%s: %+v after %+v", kind, b, last)
		}
		last = b
	}
}

func TestClientMakesNoBackup(t *testing.T) {
	db, err := dkv.Open(dkv.Options{Connect: []string{"tcp://127.0.0.1:1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var out bytes.Buffer
	if _, err := db.Backup(t.Context(), &out); !errors.Is(err, dkv.ErrNoData) || dkv.KindOf(err) != dkv.KindFinal || out.Len() > 0 {
		t.Fatal(err)
	}
}

func TestThousandStoresInMemoryLeaveNothingBehind(t *testing.T) {
	for i := range 1000 {
		db, err := dkv.Open(dkv.Options{})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		if err := db.SetE(ctx, "k", nil, time.Hour, time.Hour); err != nil {
			t.Fatal(i, err)
		}
		if _, err := db.Watch(ctx, dkv.Watch{}); err != nil {
			t.Fatal(i, err)
		}
		held, err := db.Lock(ctx, "l")
		if err != nil {
			t.Fatal(i, err)
		}
		if err := db.Close(); err != nil || held.Err() == nil {
			t.Fatal(i, err, held.Err())
		}
		cancel()
	}
}

func TestStandardLoggerStaysTheHostPrograms(t *testing.T) {
	var out bytes.Buffer
	log.SetOutput(&out)
	defer log.SetOutput(os.Stderr)
	if log.Flags() != log.LstdFlags || log.Prefix() != "" {
		t.Fatalf("flags %d, prefix %q", log.Flags(), log.Prefix())
	}
	log.SetFlags(0)
	defer log.SetFlags(log.LstdFlags)
	log.Print("hello")
	if out.String() != "hello\n" {
		t.Fatalf("%q", out.String())
	}
}

// TestOnePortServesMembersAndClients has nodes of one port each: three begin a group, a
// fourth joins it, one is opened anew, and clients find all of them there.
func TestOnePortServesMembersAndClients(t *testing.T) {
	certified := httptest.NewUnstartedServer(nil)
	certified.StartTLS()
	defer certified.Close()
	client := certified.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	client.ServerName = "example.com"
	for _, test := range []struct {
		name           string
		secret         dkv.Secret
		server, client *tls.Config
	}{
		{name: "in the clear"},
		{name: "members encrypted", secret: "0123456789abcdef"},
		{name: "clients encrypted", server: certified.TLS, client: client},
		{name: "all encrypted", secret: "0123456789abcdef", server: certified.TLS, client: client},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			members := map[string]string{"a": freeAddress(), "b": freeAddress(), "c": freeAddress()}
			options := func(name, scheme string) dkv.Options {
				return dkv.Options{
					Dir: t.TempDir(), Node: name, Members: members, PeerSecret: test.secret,
					Listen: []string{scheme + "://" + members[name]}, TLS: test.server,
				}
			}
			open := func(o dkv.Options) *dkv.DB {
				t.Helper()
				db, err := dkv.Open(o)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { db.Close() })
				return db
			}
			a, b := options("a", "tcp"), options("b", "http")
			first := open(a)
			open(b)
			open(options("c", "tcp"))
			if err := first.Ready(ctx); err != nil {
				t.Fatal(err)
			}
			address := freeAddress()
			joined := open(dkv.Options{
				Dir: t.TempDir(), Node: "d", Address: address, Join: []string{members["c"]}, PeerSecret: test.secret,
				Listen: []string{"tcp://" + address}, TLS: test.server,
			})
			if err := joined.Ready(ctx); err != nil {
				t.Fatal(err)
			}
			if err := first.Close(); err != nil {
				t.Fatal(err)
			}
			if l, err := net.Listen("tcp", members["a"]); err != nil {
				t.Errorf("the port after Close: %v", err)
			} else {
				l.Close()
			}
			open(a)
			for i, endpoint := range []string{a.Listen[0], b.Listen[0], "tcp://" + address} {
				c := open(dkv.Options{Connect: []string{endpoint}, TLS: test.client})
				key := fmt.Sprint("k", i)
				if err := c.Set(ctx, key, []byte("v")); err != nil {
					t.Fatalf("%s: %v", endpoint, err)
				}
				if v, ok, err := joined.Get(ctx, key); string(v) != "v" || !ok || err != nil {
					t.Errorf("%s: %q, %v, %v", endpoint, v, ok, err)
				}
			}
			rest := http.Client{Transport: &http.Transport{TLSClientConfig: test.client, DisableKeepAlives: true}}
			url := b.Listen[0] + "/v1/shards/0/keys/k0"
			if test.client != nil {
				url = "https" + strings.TrimPrefix(url, "http")
			}
			if r, err := rest.Get(url); err != nil || r.StatusCode != http.StatusOK {
				t.Errorf("GET %s: %v, %v", url, r, err)
			} else {
				r.Body.Close()
			}
		})
	}
}

func TestOpenThatFailsLeavesTheSharedPort(t *testing.T) {
	file := t.TempDir() + "/file"
	address := freeAddress()
	for what, change := range map[string]func(o *dkv.Options){
		"directory":       func(o *dkv.Options) { o.Dir = "/dev/null" },
		"other endpoint":  func(o *dkv.Options) { o.Listen = append(o.Listen, "tcp://192.0.2.1:1") },
		"option":          func(o *dkv.Options) { o.MaxBytes = -1 },
		"option, earlier": func(o *dkv.Options) { o.Restore = file },
		"endpoint, twice": func(o *dkv.Options) { o.Listen = append(o.Listen, "http://"+address) },
	} {
		o := dkv.Options{
			Dir: t.TempDir(), Node: "a", Members: map[string]string{"a": address, "b": freeAddress()},
			Listen: []string{"tcp://" + address},
		}
		change(&o)
		if _, err := dkv.Open(o); !errors.Is(err, dkv.ErrBadOptions) {
			t.Errorf("%s: %v", what, err)
		}
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatalf("%s: the port is in use: %v", what, err)
		}
		// A listener of the caller's is closed, too.
		o.Listen, o.PeerListener = append(o.Listen[1:], "tcp://"+freeAddress()), l
		if what == "endpoint, twice" {
			o.MaxBytes = -1
		}
		if _, err := dkv.Open(o); !errors.Is(err, dkv.ErrBadOptions) {
			t.Errorf("%s, with a listener: %v", what, err)
		}
		if l, err = net.Listen("tcp", address); err != nil {
			t.Fatalf("%s: the listener is open: %v", what, err)
		}
		l.Close()
	}
}

// In memory: the zero value of Options.
func ExampleOpen_memory() {
	db, err := dkv.Open(dkv.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()

	ctx := context.Background()
	if err := db.Set(ctx, "greeting", []byte("hello")); err != nil {
		log.Fatal(err)
	}
	value, ok, err := db.Get(ctx, "greeting")
	fmt.Println(string(value), ok, err)
	// Output: hello true <nil>
}

// Durable: a directory. What was acknowledged is there after a crash.
func ExampleOpen_durable() {
	dir, err := os.MkdirTemp("", "dkv-example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for range 2 {
		db, err := dkv.Open(dkv.Options{Dir: dir})
		if err != nil {
			log.Fatal(err)
		}
		set, err := db.SetEIfUnset(ctx, "first run", nil, 0, 0)
		fmt.Println("first run:", set, err)
		db.Close()
	}
	// Output:
	// first run: true <nil>
	// first run: false <nil>
}

// Replicated: a directory, a name and the addresses of all members, the same on
// each of them. Here the three are in one process; they are usually in three.
func ExampleOpen_replicated() {
	dir, err := os.MkdirTemp("", "dkv-example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	members := map[string]string{"a": freeAddress(), "b": freeAddress(), "c": freeAddress()}
	dbs := make(map[string]*dkv.DB)
	for name := range members {
		db, err := dkv.Open(dkv.Options{
			Dir:     filepath.Join(dir, name),
			Node:    name,
			Members: members,
		})
		if err != nil {
			log.Fatal(err)
		}
		defer db.Close()
		dbs[name] = db
	}

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := dbs["a"].Set(ctx, "greeting", []byte("hello")); err != nil {
		log.Fatal(err)
	}
	value, ok, err := dbs["b"].Get(ctx, "greeting")
	fmt.Println(string(value), ok, err)
	// Output: hello true <nil>
}

// Two machines that store, and a small third one that votes: the group goes on without any
// one of them.
func ExampleOpen_witness() {
	dir, err := os.MkdirTemp("", "dkv-example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	a, b, w := freeAddress(), freeAddress(), freeAddress()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	dbs := make(map[string]*dkv.DB)
	for _, opts := range []dkv.Options{
		{Node: "a", Members: map[string]string{"a": a}},
		{Node: "b", Address: b, Join: []string{a}},
		{Node: "w", Address: w, Join: []string{a, b}, Witness: true},
	} {
		opts.Dir = filepath.Join(dir, opts.Node)
		db, err := dkv.Open(opts)
		if err != nil {
			log.Fatal(err)
		}
		defer db.Close()
		if err := db.Ready(ctx); err != nil {
			log.Fatal(err)
		}
		dbs[opts.Node] = db
	}

	if err := dbs["b"].Set(ctx, "greeting", []byte("hello")); err != nil {
		log.Fatal(err)
	}
	dbs["b"].Close()
	value, ok, err := dbs["a"].Get(ctx, "greeting")
	fmt.Println(string(value), ok, err)
	_, _, err = dbs["w"].Get(ctx, "greeting")
	fmt.Println(errors.Is(err, dkv.ErrNoData))
	// Output:
	// hello true <nil>
	// true
}

// Remote: a program that cannot embed a replica is a client of one that does and
// listens.
func ExampleOpen_remote() {
	dir, err := os.MkdirTemp("", "dkv-example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	endpoint := "unix://" + filepath.Join(dir, "dkv.sock")

	node, err := dkv.Open(dkv.Options{Dir: filepath.Join(dir, "data"), Listen: []string{endpoint}})
	if err != nil {
		log.Fatal(err)
	}
	defer node.Close()

	db, err := dkv.Open(dkv.Options{Connect: []string{endpoint}})
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := db.Set(ctx, "greeting", []byte("hello")); err != nil {
		log.Fatal(err)
	}
	value, ok, err := node.Get(ctx, "greeting")
	fmt.Println(string(value), ok, err)
	// Output: hello true <nil>
}

// Two-stage time: at expireIn the value goes, at deleteIn the key.
func Example_twoStageTime() {
	db, _ := dkv.Open(dkv.Options{})
	defer db.Close()
	ctx := context.Background()

	db.SetE(ctx, "session", []byte("alice"), 20*time.Millisecond, time.Hour)
	time.Sleep(40 * time.Millisecond)
	_, found, _ := db.Get(ctx, "session")
	there, _ := db.Has(ctx, "session")
	set, _ := db.SetEIfUnset(ctx, "session", []byte("bob"), 0, 0)
	fmt.Println("value:", found, "key:", there, "set:", set)

	db.Delete(ctx, "session")
	set, _ = db.SetEIfUnset(ctx, "session", []byte("bob"), 0, 0)
	fmt.Println("set after delete:", set)
	// Output:
	// value: false key: true set: false
	// set after delete: true
}

// A lock is held by an owner until it is released or its time is over.
func Example_lock() {
	db, _ := dkv.Open(dkv.Options{})
	defer db.Close()
	ctx := context.Background()

	owner, ok, _ := db.Acquire(ctx, "report", time.Minute)
	fmt.Println("acquired:", ok)
	_, ok, _ = db.Acquire(ctx, "report", time.Minute)
	fmt.Println("acquired while held:", ok)

	ok, _ = db.Release(ctx, "report", owner)
	fmt.Println("released:", ok)
	again, _, _ := db.Acquire(ctx, "report", time.Minute)
	ok, _ = db.Release(ctx, "report", owner)
	fmt.Println("released by the former owner:", ok)
	fmt.Println("token rises:", again.Token() > owner.Token())
	// Output:
	// acquired: true
	// acquired while held: false
	// released: true
	// released by the former owner: false
	// token rises: true
}

// The kind of an error says what became of the operation.
func ExampleKindOf() {
	db, _ := dkv.Open(dkv.Options{})
	defer db.Close()
	err := db.Set(context.Background(), "", nil)
	fmt.Println(errors.Is(err, dkv.ErrEmptyKey), dkv.KindOf(err) == dkv.KindFinal)
	fmt.Println(dkv.KindOf(err))
	// Output:
	// true true
	// final
}

// To change a value only if nobody else has: read, then write against the revision
// that was read, and begin again if that is not the key's any longer.
func ExampleDB_CompareAndSet() {
	db, err := dkv.Open(dkv.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()

	ctx := context.Background()
	for {
		e, _, err := db.GetEntry(ctx, "list") // revision 0 if it is not there
		if err != nil {
			log.Fatal(err)
		}
		longer := append(e.Value, "item "...)
		if _, ok, err := db.CompareAndSet(ctx, "list", e.Revision, longer, 0, 0); err != nil {
			log.Fatal(err)
		} else if ok {
			break
		}
	}
	value, _, _ := db.Get(ctx, "list")
	fmt.Printf("%q\n", value)
	// Output: "item "
}

// Several keys at once: an amount moves, unless there is not enough of it.
func ExampleDB_Txn() {
	db, err := dkv.Open(dkv.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()

	ctx := context.Background()
	db.Add(ctx, "alice", 10)
	move := func(seen string, amount int64) {
		res, err := db.Txn(ctx, dkv.Txn{
			If:   []dkv.Cond{dkv.IfValue("alice", []byte(seen))},
			Then: []dkv.Op{dkv.OpAdd("alice", -amount), dkv.OpAdd("bob", amount)},
			Else: []dkv.Op{dkv.OpGet("alice")},
		})
		switch {
		case err != nil:
			log.Fatal(err)
		case res.Held:
			fmt.Println("alice", res.Results[0].Number, "bob", res.Results[1].Number)
		default:
			fmt.Printf("alice has %s now\n", res.Results[0].Value)
		}
	}
	move("10", 7)
	move("10", 7)
	// Output:
	// alice 3 bob 7
	// alice has 3 now
}

// To keep a copy of what is there: scan, and watch from behind the state that the scan
// has shown. If the watch falls so far behind that it ends with ErrCompacted, begin
// again.
func ExampleDB_Watch() {
	db, err := dkv.Open(dkv.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var at dkv.Revision
	for _, err := range db.Scan(ctx, dkv.Range{Prefix: "config/", At: &at}) {
		if err != nil {
			log.Fatal(err)
		}
	}
	events, err := db.Watch(ctx, dkv.Watch{Prefix: "config/", From: at + 1})
	if err != nil {
		log.Fatal(err)
	}
	db.Set(ctx, "config/level", []byte("debug"))
	db.Set(ctx, "other", nil)
	db.Delete(ctx, "config/level")
	for e, err := range events {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%d: %s %v %q\n", e.Revision, e.Key, e.Type, e.Value)
		if e.Type == dkv.EventDeleted {
			break
		}
	}
	// Output:
	// 1: config/level set "debug"
	// 3: config/level deleted ""
}

// Two parts of one program that never collide.
func ExampleDB_Namespace() {
	db, err := dkv.Open(dkv.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()

	ctx := context.Background()
	billing, search := db.Namespace("billing"), db.Namespace("search")
	billing.Set(ctx, "state", []byte("paid"))
	_, ok, _ := search.Get(ctx, "state")
	fmt.Println("search finds it:", ok)

	one, err := billing.Lock(ctx, "job")
	if err != nil {
		log.Fatal(err)
	}
	two, ok, _ := search.TryLock(ctx, "job")
	fmt.Println("search has its own lock:", ok)
	one.Unlock(ctx)
	two.Unlock(ctx)
	// Output:
	// search finds it: false
	// search has its own lock: true
}

// A backup is made while the store is in use; a new store of any kind can begin with it.
func ExampleDB_Backup() {
	dir, err := os.MkdirTemp("", "dkv-example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "app.backup")

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	db, err := dkv.Open(dkv.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	db.Set(ctx, "greeting", []byte("hello"))

	f, err := os.Create(path)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := db.Backup(ctx, f); err != nil {
		log.Fatal(err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		log.Fatal(err)
	}
	db.Set(ctx, "greeting", []byte("not in the backup"))

	restored, err := dkv.Open(dkv.Options{Dir: filepath.Join(dir, "data"), Restore: path})
	if err != nil {
		log.Fatal(err)
	}
	defer restored.Close()
	value, ok, err := restored.Get(ctx, "greeting")
	fmt.Println(string(value), ok, err)
	// Output: hello true <nil>
}

// VerifyBackup tells what is in a backup, and whether it is whole.
func ExampleVerifyBackup() {
	db, err := dkv.Open(dkv.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	ctx := context.Background()
	db.Set(ctx, "a", []byte("1"))
	db.Set(ctx, "b", []byte("2"))
	var file bytes.Buffer
	if _, err := db.Backup(ctx, &file); err != nil {
		log.Fatal(err)
	}

	b, err := dkv.VerifyBackup(bytes.NewReader(file.Bytes()))
	fmt.Println(b.Keys, "keys at revision", b.Revision, err)

	file.Truncate(file.Len() - 1)
	_, err = dkv.VerifyBackup(&file)
	fmt.Println(errors.Is(err, dkv.ErrBackupDamaged))
	// Output:
	// 2 keys at revision 2 <nil>
	// true
}

// Recover makes a backup of what is left in the directory of one member, of a group that
// has lost its majority. Here it is the only one.
func ExampleRecover() {
	dir, err := os.MkdirTemp("", "dkv-example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	db, err := dkv.Open(dkv.Options{Dir: dir})
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	db.Set(ctx, "greeting", []byte("hello"))
	db.Close() // nobody may have the directory open

	var file bytes.Buffer
	b, loss, err := dkv.Recover(ctx, dir, &file)
	fmt.Println(b.Keys, "key;", loss.Uncommitted, "entries are not known to be committed;", err)
	// Output: 1 key; 0 entries are not known to be committed; <nil>
}

// The entries of a range, in the order of their keys, as they were at one moment.
func ExampleDB_Scan() {
	db, err := dkv.Open(dkv.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()

	ctx := context.Background()
	for key, value := range map[string]string{
		"user/1": "alice", "user/2": "bob", "user/3": "carol", "order/1": "tea",
	} {
		if err := db.Set(ctx, key, []byte(value)); err != nil {
			log.Fatal(err)
		}
	}

	for e, err := range db.Scan(ctx, dkv.Range{Prefix: "user/"}) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s=%s\n", e.Key, e.Value)
	}

	// Page by page, from the last to the first.
	page := dkv.Range{Prefix: "user/", Reverse: true, Limit: 2}
	for more := true; more; {
		more = false
		for e, err := range db.Scan(ctx, page) {
			if err != nil {
				log.Fatal(err)
			}
			fmt.Print(e.Key, " ")
			page.After, more = e.Key, true
		}
		fmt.Println("end of page")
	}
	// Output:
	// user/1=alice
	// user/2=bob
	// user/3=carol
	// user/3 user/2 end of page
	// user/1 end of page
	// end of page
}

// A page that many look at can do with what this member knows.
func ExampleDB_GetStale() {
	dir, err := os.MkdirTemp("", "dkv")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	db, err := dkv.Open(dkv.Options{Dir: dir})
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	ctx := context.Background()
	if err := db.Set(ctx, "banner", []byte("welcome")); err != nil {
		log.Fatal(err)
	}
	banner, ok, err := db.GetStale(ctx, "banner")
	fmt.Println(string(banner), ok, err)
	// Output: welcome true <nil>
}

// What a supervisor asks, and what a load balancer asks.
func ExampleDB_Live() {
	db, err := dkv.Open(dkv.Options{})
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux() // for an http.Server on the port of the checks
	mux.HandleFunc("/live", func(w http.ResponseWriter, _ *http.Request) {
		if err := db.Live(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("/ready", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), time.Second)
		defer cancel()
		if err := db.Ready(ctx); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		}
	})

	fmt.Println(db.Live())
	db.Close()
	fmt.Println(db.Live())
	// Output:
	// <nil>
	// dkv: closed
}
