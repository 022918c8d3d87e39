package dkv_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
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
		{"snapshots without Dir", dkv.Options{SnapshotBytes: 1}, []string{"SnapshotBytes"}},
		{"a client with data", dkv.Options{Connect: []string{"tcp://127.0.0.1:1"}, Dir: file, Listen: []string{"x"}}, []string{"Dir is set with Connect", "Listen is set with Connect", `"x"`}},
		{"unknown network", dkv.Options{Connect: []string{"carrier://pigeon"}}, []string{"Connect", "carrier", "tcp, http and unix"}},
		{"relative socket", dkv.Options{Listen: []string{"unix://s"}}, []string{"Listen", "not absolute"}},
		{"beyond loopback", dkv.Options{Listen: []string{"tcp://0.0.0.0:0"}}, []string{"loopback"}},
		{"a file for a socket", dkv.Options{Listen: []string{"unix://" + file}}, []string{"file of another kind"}},
		{"a file for a directory", dkv.Options{Dir: filepath.Join(file, "dir")}, []string{"Dir", "not a directory"}},
		{"unknown node", dkv.Options{Dir: t.TempDir(), Node: "b", Members: members}, []string{`Node "b"`, "a=127.0.0.1:1"}},
		{"limit below 0", dkv.Options{MaxBytes: -1}, []string{"MaxBytes is negative"}},
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
