package testcluster

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// leakGrace is how long goroutines and descriptors may take to go once all
// that was opened has been closed.
const leakGrace = 3 * time.Second

// guards compares what there is when no guarded test runs with what there was
// when the first of those that ran together began: goroutines and descriptors
// do not tell whose they are.
var guards struct {
	sync.Mutex
	live   int
	before goleak.Option
	fds    map[string]int
}

// Guard has the test fail if it leaves goroutines or file descriptors behind.
// Call it before anything is opened. Tests may run in parallel if all that do
// are guarded: the last one to end is the one that fails.
func Guard(t testing.TB) {
	t.Helper()
	enterGuard()
	t.Cleanup(func() {
		if err := leaveGuard(); err != nil && !t.Failed() {
			t.Error(err)
		}
	})
}

func enterGuard() {
	guards.Lock()
	defer guards.Unlock()
	if guards.live++; guards.live == 1 {
		guards.before = goleak.IgnoreCurrent()
		guards.fds = descriptors()
	}
}

func leaveGuard() error {
	guards.Lock()
	defer guards.Unlock()
	if guards.live--; guards.live > 0 {
		return nil
	}
	return leaked(guards.before, guards.fds)
}

// leaked waits until nothing more is open than was before.
func leaked(before goleak.Option, fds map[string]int) error {
	// A test that begins now waits for the lock.
	waiting := goleak.IgnoreAnyFunction("dkv/internal/testcluster.enterGuard")
	for deadline := time.Now().Add(leakGrace); ; {
		err := goleak.Find(before, waiting)
		if err == nil {
			if more := newDescriptors(fds); len(more) > 0 {
				err = fmt.Errorf("file descriptors leaked: %s", strings.Join(more, ", "))
			}
		}
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// descriptors counts the open files by what they are.
func descriptors() map[string]int {
	open := make(map[string]int)
	links, _ := filepath.Glob("/proc/self/fd/*")
	for _, link := range links {
		what, err := os.Readlink(link)
		if err != nil || strings.HasPrefix(what, "/proc/") || strings.HasPrefix(what, "anon_inode:[event") {
			continue // the descriptor of this very listing, and the runtime's poller
		}
		if kind, _, numbered := strings.Cut(what, ":["); numbered {
			what = kind
		}
		open[what]++
	}
	return open
}

func newDescriptors(before map[string]int) []string {
	var more []string
	now := descriptors()
	for _, what := range slices.Sorted(maps.Keys(now)) {
		if n := now[what] - before[what]; n > 0 {
			more = append(more, fmt.Sprintf("%d of %s", n, what))
		}
	}
	return more
}
