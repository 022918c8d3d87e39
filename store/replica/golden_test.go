package replica_test

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"dkv/internal/testcluster"
	"dkv/lock"
	"dkv/store/replica"
)

// The directories of a member that is alone, and of those of a group: three that have
// founded it and a learner, with a change of the members behind them. They are of the
// version that has made them, and every later one has to open them: so they are written
// anew, with DKV_GOLDEN=write, only as long as none has been released.
const (
	goldenAlone = "testdata/alone.tar.gz"
	goldenGroup = "testdata/group.tar.gz"
)

var goldenNodes = []string{"a", "b", "c", "e"}

func TestDirectoriesOfEarlierVersionsAreOpened(t *testing.T) {
	t.Parallel()
	testcluster.Guard(t)
	if os.Getenv("DKV_GOLDEN") == "write" {
		writeGolden(t)
	}
	t.Run("alone", func(t *testing.T) {
		dir := unpack(t, goldenAlone)
		s := opened(t, replica.Options{Dir: dir})
		checkGolden(t, s)
	})
	t.Run("group", func(t *testing.T) {
		dir := unpack(t, goldenGroup)
		members := make(map[string]string)
		for _, node := range goldenNodes {
			members[node] = testcluster.FreeAddress(t)
		}
		var stores []*replica.Store
		for _, node := range goldenNodes {
			stores = append(stores, opened(t, goldenOptions(dir, node, members)))
		}
		for _, s := range stores {
			checkGolden(t, s)
		}
		all, err := stores[0].Members(within(t, 20*time.Second))
		if err != nil || len(all) != 4 || !all[3].Learner || all[3].Name != "e" {
			t.Errorf("the members are %v, %v", all, err)
		}
	})
}

func goldenOptions(dir, node string, members map[string]string) replica.Options {
	o := replica.Options{Dir: filepath.Join(dir, node), Node: node, Members: make(map[string]string)}
	for name, address := range members {
		if name != "e" {
			o.Members[name] = address
		}
	}
	if node == "e" {
		o.Address, o.Join, o.Learner = members["e"], []string{members["a"]}, true
	}
	return o
}

func opened(t *testing.T, o replica.Options) *replica.Store {
	t.Helper()
	o.SnapshotBytes = 4 << 10
	s, err := replica.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// fillGolden writes what checkGolden looks for, some before the last snapshot and some
// after it.
func fillGolden(t *testing.T, s *replica.Store) {
	t.Helper()
	ctx := within(t, 30*time.Second)
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := range 100 {
		ok(s.Set(ctx, fmt.Sprint("key", i), fmt.Appendf(nil, "value %d", i)))
	}
	ok(s.SetE(ctx, "gone", []byte("x"), time.Millisecond, 0))
	ok(s.SetE(ctx, "lasting", []byte("x"), 0, 100*365*24*time.Hour))
	_, _, err := s.Add(ctx, "counter", 41)
	ok(err)
	owner, held, err := lock.New(s).Acquire(ctx, "held", lock.Forever)
	if !held {
		t.Fatal("not held", err)
	}
	ok(s.Set(ctx, "owner", []byte(owner.String())))
	eventually(t, 10*time.Second, "a snapshot is made", func() bool {
		ok(s.Set(ctx, "padding", make([]byte, 1<<10)))
		found, _ := filepath.Glob(filepath.Join(s.Dir(), "raft/data/*/snapshot-part-*/*/snapshot-*"))
		return len(found) > 0
	})
	time.Sleep(100 * time.Millisecond) // until no more snapshots are under way
	_, _, err = s.Add(ctx, "counter", 1)
	ok(err)
	for i := range 10 {
		ok(s.Delete(ctx, fmt.Sprint("key", i)))
	}
}

func checkGolden(t *testing.T, s *replica.Store) {
	t.Helper()
	ctx := within(t, 30*time.Second)
	for i := range 100 {
		v, ok, err := s.Get(ctx, fmt.Sprint("key", i))
		if want := fmt.Sprint("value ", i); err != nil || ok != (i >= 10) || ok && string(v) != want {
			t.Fatalf("key%d: %q, %t, %v", i, v, ok, err)
		}
	}
	if e, ok, err := s.GetEntry(ctx, "gone"); !ok || err != nil || !e.Expired {
		t.Errorf("gone: %+v, %t, %v", e, ok, err)
	}
	if e, ok, err := s.GetEntry(ctx, "lasting"); !ok || err != nil || e.DeleteIn < 99*365*24*time.Hour {
		t.Errorf("lasting: %+v, %t, %v", e, ok, err)
	}
	if v, _, err := s.Get(ctx, "counter"); string(v) != "42" {
		t.Errorf("counter: %s, %v", v, err)
	}
	text, _, err := s.Get(ctx, "owner")
	if err != nil {
		t.Fatal(err)
	}
	owner, err := lock.ParseOwner(string(text))
	if err != nil {
		t.Fatal(err)
	}
	if h, held, err := s.LockHolder(ctx, "held"); !held || err != nil || uint64(h.Token) != uint64(owner.Token()) {
		t.Errorf("holder: %+v, %t, %v", h, held, err)
	}
	if err := s.Set(ctx, "new", nil); err != nil {
		t.Error(err)
	}
}

func writeGolden(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	s := opened(t, replica.Options{Dir: dir})
	fillGolden(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	pack(t, dir, goldenAlone)

	dir = t.TempDir()
	members := make(map[string]string)
	for _, node := range goldenNodes {
		members[node] = testcluster.FreeAddress(t)
	}
	var stores []*replica.Store
	for _, node := range goldenNodes {
		stores = append(stores, opened(t, goldenOptions(dir, node, members)))
	}
	o := replica.Options{Dir: t.TempDir(), Node: "d", Address: testcluster.FreeAddress(t), Join: []string{members["a"]}}
	d := opened(t, o)
	for _, s := range append(stores, d) {
		if err := s.Ready(within(t, 20*time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	if err := stores[1].RemoveMember(within(t, 20*time.Second), "d"); err != nil {
		t.Fatal(err)
	}
	fillGolden(t, stores[0])
	for _, s := range stores {
		checkGolden(t, s) // it has come to all
		if err := s.Delete(within(t, 10*time.Second), "new"); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range stores {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	pack(t, dir, goldenGroup)
}

// pack writes all files of a directory, but links, into an archive.
func pack(t *testing.T, dir, archive string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(archive), 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(archive)
	if err != nil {
		t.Fatal(err)
	}
	z, _ := gzip.NewWriterLevel(f, gzip.BestCompression)
	w := tar.NewWriter(z)
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if err := w.WriteHeader(&tar.Header{Name: filepath.ToSlash(name), Size: int64(len(b)), Mode: 0o600}); err != nil {
			return err
		}
		_, err = w.Write(b)
		return err
	})
	if err := errors.Join(err, w.Close(), z.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// unpack returns a new directory with what is in an archive.
func unpack(t *testing.T, archive string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err == io.EOF {
			return dir
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, filepath.FromSlash(h.Name))
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, b, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
}
