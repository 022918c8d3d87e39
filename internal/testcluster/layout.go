// Package testcluster opens the members of a group for tests: a [Cluster] has
// them in the test's process, [Processes] has each in a process of its own,
// which can be killed, paused, cut off from others and started again on the same
// directory. Both look at cleanup whether the members agree and whether everything was
// given back.
package testcluster

import (
	"fmt"
	"math/rand/v2"
	"net"
	"path/filepath"
	"sync"
	"testing"
)

// layout is where the members of a group live.
type layout struct {
	nodes   []string          // names
	members map[string]string // addresses by name, nil for a group of one
	dirs    []string
}

func newLayout(t testing.TB, n int) layout {
	t.Helper()
	base := t.TempDir()
	var l layout
	if n > 1 {
		l.members = make(map[string]string)
	}
	for i := range n {
		name := ""
		if n > 1 {
			name = string(rune('a' + i))
			l.members[name] = FreeAddress(t)
		}
		l.nodes = append(l.nodes, name)
		l.dirs = append(l.dirs, filepath.Join(base, fmt.Sprint("member", i)))
	}
	return l
}

var ports struct {
	sync.Mutex
	taken map[int]bool
}

// FreeAddress returns a loopback address that nobody listens on. Its port is
// below those that the system gives to outgoing connections, so that a member
// finds it free each time it is started.
func FreeAddress(t testing.TB) string {
	t.Helper()
	ports.Lock()
	defer ports.Unlock()
	if ports.taken == nil {
		ports.taken = make(map[int]bool)
	}
	for range 1000 {
		port := 10000 + rand.IntN(20000)
		if ports.taken[port] {
			continue
		}
		address := fmt.Sprintf("127.0.0.1:%d", port)
		l, err := net.Listen("tcp", address)
		if err != nil {
			continue
		}
		l.Close()
		ports.taken[port] = true
		return address
	}
	t.Fatal("no free port")
	return ""
}
