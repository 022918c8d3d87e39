package replica_test

import (
	"crypto/tls"
	"errors"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"dkv/internal/testcluster"
	"dkv/store"
	"dkv/store/replica"
)

// refused checks that opening fails with an error that names what is at fault.
func refused(t *testing.T, opts replica.Options, names ...string) {
	t.Helper()
	s, err := replica.Open(opts)
	if err == nil {
		s.Close()
		t.Errorf("opened")
		return
	}
	if !errors.Is(err, store.ErrBadOptions) || store.KindOf(err) != store.KindFinal {
		t.Errorf("%v is not ErrBadOptions", err)
	}
	for _, name := range names {
		if !strings.Contains(err.Error(), name) {
			t.Errorf("%v does not name %s", err, name)
		}
	}
}

// opens checks that a store opens, and that a group of one has the data it had.
func opens(t *testing.T, opts replica.Options, wantKey string) {
	t.Helper()
	s, err := replica.Open(opts)
	if err != nil {
		t.Errorf("a correct open fails: %v", err)
		return
	}
	defer s.Close()
	if len(opts.Members) > 0 {
		return
	}
	ctx := within(t, 10*time.Second)
	if err := s.Ready(ctx); err != nil {
		t.Errorf("not ready: %v", err)
	}
	if wantKey == "" {
		return
	}
	if _, ok, err := s.Get(ctx, wantKey); !ok || err != nil {
		t.Errorf("%s is gone: %v", wantKey, err)
	}
}

func TestOptionsThatCannotBeAreRefusedAndNameTheField(t *testing.T) {
	good := map[string]string{"a": testcluster.FreeAddress(t), "b": testcluster.FreeAddress(t), "c": testcluster.FreeAddress(t)}
	with := func(name, address string) map[string]string {
		members := maps.Clone(good)
		members[name] = address
		return members
	}
	for name, test := range map[string]struct {
		change func(o *replica.Options)
		names  []string
	}{
		"no directory":            {func(o *replica.Options) { o.Dir = "" }, []string{"Dir"}},
		"node not among members":  {func(o *replica.Options) { o.Node = "d" }, []string{"Node", `"d"`, "Members"}},
		"members without node":    {func(o *replica.Options) { o.Node = "" }, []string{"Node"}},
		"address without port":    {func(o *replica.Options) { o.Members = with("b", "localhost") }, []string{"Members", `"b"`, `"localhost"`}},
		"address without host":    {func(o *replica.Options) { o.Members = with("b", ":7000") }, []string{"Members", `"b"`, `":7000"`}},
		"empty address":           {func(o *replica.Options) { o.Members = with("b", "") }, []string{"Members", `"b"`}},
		"port zero":               {func(o *replica.Options) { o.Members = with("b", "127.0.0.1:0") }, []string{"Members", `"b"`, "port"}},
		"port too large":          {func(o *replica.Options) { o.Members = with("b", "127.0.0.1:70000") }, []string{"Members", `"b"`, "port"}},
		"negative port":           {func(o *replica.Options) { o.Members = with("a", "127.0.0.1:-1") }, []string{"Members", `"a"`, "port"}},
		"address with a scheme":   {func(o *replica.Options) { o.Members = with("a", "tcp://127.0.0.1:7000") }, []string{"Members", `"a"`}},
		"address with spaces":     {func(o *replica.Options) { o.Members = with("b", "bad host:7000") }, []string{"Members", `"b"`}},
		"two of one address":      {func(o *replica.Options) { o.Members = with("b", good["c"]) }, []string{"Members", `"b"`, `"c"`}},
		"member without name":     {func(o *replica.Options) { o.Members = with("", "127.0.0.1:7000") }, []string{"Members"}},
		"negative snapshot bytes": {func(o *replica.Options) { o.SnapshotBytes = -1 }, []string{"SnapshotBytes"}},
		"an address of another machine": {
			func(o *replica.Options) { o.Members, o.Insecure = with("a", "192.0.2.1:7000"), true }, []string{"Members", `"a"`},
		},
		"an address for all to reach":  {func(o *replica.Options) { o.Members = with("b", "192.0.2.1:7000") }, []string{"Members", `"b"`, "PeerSecret", "PeerTLS", "Insecure"}},
		"a host name for all to reach": {func(o *replica.Options) { o.Members = with("c", "c.example:7000") }, []string{"Members", `"c"`, "PeerSecret"}},
		"short secret":                 {func(o *replica.Options) { o.PeerSecret = []byte("secret") }, []string{"PeerSecret", "16"}},
		"no certificate":               {func(o *replica.Options) { o.PeerTLS = new(tls.Config) }, []string{"PeerTLS", "certificate"}},
		"secret and certificates": {func(o *replica.Options) {
			o.PeerSecret, o.PeerTLS = make([]byte, 32), new(tls.Config)
		}, []string{"PeerSecret", "PeerTLS"}},
		"long name": {func(o *replica.Options) { o.Members = with(strings.Repeat("n", 256), "127.0.0.1:7000") }, []string{"Members", "255"}},
		"several faults at once": {func(o *replica.Options) {
			o.Dir, o.Node, o.Members, o.SnapshotBytes = "", "x", with("b", "nonsense"), -5
		}, []string{"Dir", "Node", "Members", "SnapshotBytes"}},
	} {
		t.Run(name, func(t *testing.T) {
			testcluster.Guard(t)
			right := replica.Options{Dir: filepath.Join(t.TempDir(), "data"), Node: "a", Members: good}
			wrong := right
			test.change(&wrong)
			refused(t, wrong, test.names...)
			opens(t, right, "")
		})
	}
}

func TestPortInUseIsRefusedUntilItIsFree(t *testing.T) {
	testcluster.Guard(t)
	opts := replica.Options{
		Dir:     filepath.Join(t.TempDir(), "data"),
		Node:    "a",
		Members: map[string]string{"a": testcluster.FreeAddress(t), "b": testcluster.FreeAddress(t)},
	}
	l, err := net.Listen("tcp", opts.Members["a"])
	if err != nil {
		t.Fatal(err)
	}
	refused(t, opts, "Members", `"a"`)
	refused(t, opts, "Members", `"a"`)
	// Another port is chosen: the directory has nothing that binds it.
	other := opts
	other.Dir = filepath.Join(t.TempDir(), "other")
	other.Members = maps.Clone(opts.Members)
	refused(t, other, "Members", `"a"`)
	other.Members["a"] = testcluster.FreeAddress(t)
	opens(t, other, "")

	l.Close()
	opens(t, opts, "")
}

// durable makes a directory with a key in it.
func durable(t *testing.T) replica.Options {
	t.Helper()
	opts := replica.Options{Dir: filepath.Join(t.TempDir(), "data")}
	s, err := replica.Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Set(within(t, 10*time.Second), "kept", []byte("yes")); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return opts
}

func TestDirectoryThatIsNotThisMembersIsRefusedAndLeftAlone(t *testing.T) {
	overwrite := func(path, text string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			if err := os.WriteFile(filepath.Join(dir, path), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	members := map[string]string{"a": testcluster.FreeAddress(t)}
	testcluster.Guard(t)
	template := durable(t)
	for name, test := range map[string]struct {
		spoil  func(t *testing.T, dir string)
		change func(o *replica.Options)
		names  []string
	}{
		"another node":     {nil, func(o *replica.Options) { o.Node = "other" }, []string{"Dir", "Node", `"other"`}},
		"another group":    {nil, func(o *replica.Options) { o.Node, o.Members = "a", members }, []string{"Dir", "Members", "none"}},
		"identity missing": {func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, "IDENTITY.json")) }, nil, []string{"Dir", "IDENTITY.json", "raft"}},
		"identity empty":   {overwrite("IDENTITY.json", ""), nil, []string{"Dir", "IDENTITY.json"}},
		"identity damaged": {overwrite("IDENTITY.json", `{"format": 1, "no`), nil, []string{"Dir", "IDENTITY.json"}},
		"identity of another kind": {
			overwrite("IDENTITY.json", `["not", "an", "identity"]`), nil, []string{"Dir", "IDENTITY.json"},
		},
		"identity of a later format": {
			overwrite("IDENTITY.json", `{"format": 99, "later": true, "node": "", "members": null, "incarnation": 3}`), nil, []string{"Dir", "format 99"},
		},
		"identity without its incarnation": {
			overwrite("IDENTITY.json", `{"format": 1, "node": "", "members": null}`), nil, []string{"Dir", "IDENTITY.json"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testcluster.Guard(t)
			right := replica.Options{Dir: t.TempDir()}
			if err := os.CopyFS(right.Dir, os.DirFS(template.Dir)); err != nil {
				t.Fatal(err)
			}
			identity, err := os.ReadFile(filepath.Join(right.Dir, "IDENTITY.json"))
			if err != nil {
				t.Fatal(err)
			}
			if test.spoil != nil {
				test.spoil(t, right.Dir)
			}
			wrong := right
			if test.change != nil {
				test.change(&wrong)
			}
			refused(t, wrong, test.names...)
			refused(t, wrong, test.names...)
			if err := os.WriteFile(filepath.Join(right.Dir, "IDENTITY.json"), identity, 0o600); err != nil {
				t.Fatal(err)
			}
			opens(t, right, "kept")
		})
	}
}

func TestMemberOfAGroupIsRefusedOtherMembersAndAnotherName(t *testing.T) {
	testcluster.Guard(t)
	right := replica.Options{
		Dir:     filepath.Join(t.TempDir(), "data"),
		Node:    "a",
		Members: map[string]string{"a": testcluster.FreeAddress(t), "b": testcluster.FreeAddress(t)},
	}
	opens(t, right, "")
	change := func(f func(o *replica.Options)) replica.Options {
		wrong := right
		wrong.Members = maps.Clone(right.Members)
		f(&wrong)
		return wrong
	}
	refused(t, change(func(o *replica.Options) { o.Node = "b" }), "Dir", "Node", `"a"`, `"b"`)
	refused(t, change(func(o *replica.Options) { o.Members["c"] = testcluster.FreeAddress(t) }), "Dir", "Members", "a,b,c")
	refused(t, change(func(o *replica.Options) { delete(o.Members, "b") }), "Dir", "Members")
	refused(t, change(func(o *replica.Options) { o.Node, o.Members = "", nil }), "Dir", "Node", "Members")
	opens(t, change(func(o *replica.Options) { o.Members["b"] = testcluster.FreeAddress(t) }), "")
	opens(t, right, "")
}

func TestDirectoryInUseIsRefusedAndItsUserGoesOn(t *testing.T) {
	t.Parallel()
	testcluster.Guard(t)
	t.Run("by this process", func(t *testing.T) {
		c := testcluster.New(t, testcluster.Options{Members: 1})
		ctx := within(t, 20*time.Second)
		c.Ready()
		refused(t, c.Options(0), "Dir", "in use")
		if err := c.Store(0).Set(ctx, "kept", nil); err != nil {
			t.Error(err)
		}
		// By another path to the same directory, too.
		link := filepath.Join(t.TempDir(), "link")
		if err := os.Symlink(c.Dir(0), link); err != nil {
			t.Fatal(err)
		}
		refused(t, replica.Options{Dir: link}, "Dir", "in use")
		c.Restart(0)
		if _, ok, err := c.Store(0).Get(ctx, "kept"); !ok || err != nil {
			t.Error(ok, err)
		}
	})
	t.Run("by another process", func(t *testing.T) {
		c := testcluster.NewProcesses(t, 1, 0)
		ctx := within(t, 20*time.Second)
		if err := c.Process(0).Set(ctx, "kept", nil); err != nil {
			t.Error(err)
		}
		opts := replica.Options{Dir: c.Dir(0)}
		refused(t, opts, "Dir", "in use")
		_, err := testcluster.StartProcess(t, testcluster.ProcessOptions{Dir: c.Dir(0)})
		if !errors.Is(err, store.ErrBadOptions) || !strings.Contains(err.Error(), "in use") {
			t.Errorf("a third process: %v", err)
		}
		if _, ok, err := c.Process(0).Get(ctx, "kept"); !ok || err != nil {
			t.Error(ok, err)
		}
		// The lock goes with its process, however that ends.
		if !c.Process(0).Kill() {
			t.Error("the process did not die from SIGKILL")
		}
		opens(t, opts, "kept")
	})
}

func TestDirectoryThatCannotBeMadeIsRefused(t *testing.T) {
	testcluster.Guard(t)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	refused(t, replica.Options{Dir: file}, "Dir", file)
	refused(t, replica.Options{Dir: filepath.Join(file, "below")}, "Dir", file)
	refused(t, replica.Options{Dir: "/proc/self/nowhere"}, "Dir")
	refused(t, replica.Options{Dir: "a\x00b"}, "Dir")
	if b, err := os.ReadFile(file); err != nil || string(b) != "a file" {
		t.Errorf("%q, %v", b, err)
	}
	// The Raft directory is not one.
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "raft"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	refused(t, replica.Options{Dir: dir}, "Dir", "raft")
	if err := os.Remove(filepath.Join(dir, "raft")); err != nil {
		t.Fatal(err)
	}
	opens(t, replica.Options{Dir: dir}, "")
}

func TestDirectoryThatLostItsLogIsRefusedAndBeginsNothingNew(t *testing.T) {
	t.Parallel()
	testcluster.Guard(t)
	opts := durable(t)
	log, aside := filepath.Join(opts.Dir, "raft"), filepath.Join(t.TempDir(), "raft")
	if err := os.Rename(log, aside); err != nil {
		t.Fatal(err)
	}
	refused(t, opts, "Dir", "raft is missing")

	// An empty one in its place is no better.
	if err := os.MkdirAll(filepath.Join(log, "data"), 0o700); err != nil {
		t.Fatal(err)
	}
	refused(t, opts, "Dir", "gone")

	if err := os.RemoveAll(log); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(aside, log); err != nil {
		t.Fatal(err)
	}
	opens(t, opts, "kept")
}
