package replica_test

import (
	"fmt"
	"net"
	"path/filepath"
	"testing"

	"dkv/internal/testcluster"
	"dkv/store"
	"dkv/store/replica"
	"dkv/store/storetest"
)

// addresses returns n loopback addresses that were free a moment ago.
func addresses(t *testing.T, n int) []string {
	t.Helper()
	var out []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		out = append(out, l.Addr().String())
	}
	return out
}

func open(t *testing.T, opts replica.Options) store.Store {
	t.Helper()
	s, err := replica.Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestConformanceOfOneDurableMember(t *testing.T) {
	t.Parallel()
	testcluster.Guard(t)
	storetest.Run(t, storetest.Harness{Open: func(t *testing.T) []store.Store {
		return []store.Store{open(t, replica.Options{Dir: t.TempDir()})}
	}})
}

func TestConformanceOfThreeMembers(t *testing.T) {
	t.Parallel()
	testcluster.Guard(t)
	storetest.Run(t, storetest.Harness{Open: func(t *testing.T) []store.Store {
		dir := t.TempDir()
		members := make(map[string]string)
		for i, addr := range addresses(t, 3) {
			members[fmt.Sprint("m", i)] = addr
		}
		var stores []store.Store
		for name := range members {
			stores = append(stores, open(t, replica.Options{
				Dir: filepath.Join(dir, name), Node: name, Members: members,
			}))
		}
		return stores
	}})
}
