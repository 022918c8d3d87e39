package replica_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"sync"
	"testing"
	"time"

	"dkv/internal/testcluster"
	"dkv/store"
	"dkv/store/replica"
)

// movers are the members of a group, whose addresses may change.
type movers struct {
	t      *testing.T
	opts   map[string]replica.Options // by name
	stores map[string]*replica.Store
}

func newMovers(t *testing.T, set func(node string, o *replica.Options)) *movers {
	t.Helper()
	testcluster.Guard(t)
	m := &movers{t: t, opts: make(map[string]replica.Options), stores: make(map[string]*replica.Store)}
	members := make(map[string]string)
	for _, node := range []string{"a", "b", "c"} {
		members[node] = testcluster.FreeAddress(t)
	}
	for node := range members {
		o := replica.Options{Dir: t.TempDir(), Node: node, Members: maps.Clone(members)}
		if set != nil {
			set(node, &o)
		}
		m.opts[node] = o
		m.open(node)
	}
	t.Cleanup(func() { m.close("a", "b", "c") })
	return m
}

func (m *movers) open(nodes ...string) {
	m.t.Helper()
	for _, node := range nodes {
		s, err := replica.Open(m.opts[node])
		if err != nil {
			m.t.Fatal(err)
		}
		m.stores[node] = s
	}
}

func (m *movers) close(nodes ...string) {
	m.t.Helper()
	var closing sync.WaitGroup
	for _, node := range nodes {
		if s := m.stores[node]; s != nil {
			closing.Go(func() {
				if err := s.Close(); err != nil {
					m.t.Error(err)
				}
			})
			m.stores[node] = nil
		}
	}
	closing.Wait()
}

// move gives a member another address, which the options of these members tell.
func (m *movers) move(node string, known ...string) {
	m.t.Helper()
	address := testcluster.FreeAddress(m.t)
	for _, k := range known {
		m.opts[k].Members[node] = address
	}
}

// work has each of these members, which are all that run, write and read.
func (m *movers) work(what string, nodes ...string) {
	m.t.Helper()
	ctx := within(m.t, 30*time.Second)
	for _, node := range nodes {
		if err := m.stores[node].Set(ctx, what, []byte(node)); err != nil {
			m.t.Fatalf("%s: %s: %v", what, node, err)
		}
		for _, other := range nodes {
			if v, _, err := m.stores[other].Get(ctx, what); err != nil || string(v) != node {
				m.t.Fatalf("%s: %s: %q, %v; want %s", what, other, v, err, node)
			}
		}
	}
}

func TestMembersAreFoundAtNewAddresses(t *testing.T) {
	t.Parallel()
	m := newMovers(t, nil)
	m.work("before", "a", "b", "c")
	for _, node := range []string{"a", "b", "c"} {
		// The others are not told, and are not started again.
		m.close(node)
		m.move(node, node)
		m.open(node)
		m.work(node+" has moved", "a", "b", "c")
		for _, away := range []string{"a", "b", "c"} {
			if away != node {
				m.close(away) // so that none of the others will do
				left := []string{node}
				for _, other := range []string{"a", "b", "c"} {
					if other != node && other != away {
						left = append(left, other)
					}
				}
				m.work(fmt.Sprint(node, " has moved, ", away, " is away"), left...)
				// Nor does it have to know more than where one is that knows.
				m.open(away)
				m.work(fmt.Sprint(node, " has moved, ", away, " is back"), "a", "b", "c")
			}
		}
	}
}

func TestAllMembersMoveAtOnce(t *testing.T) {
	t.Parallel()
	m := newMovers(t, nil)
	m.work("before", "a", "b", "c")
	m.close("a", "b", "c")
	for _, node := range []string{"a", "b", "c"} {
		m.move(node, "a", "b", "c")
	}
	m.open("a", "b", "c")
	m.work("after", "a", "b", "c")
}

// TestResolveSaysWhereMembersAre has none of the options tell.
func TestResolveSaysWhereMembersAre(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	at, asked := make(map[string]string), make(map[string]int)
	m := newMovers(t, func(node string, o *replica.Options) {
		mu.Lock()
		defer mu.Unlock()
		at[node] = o.Members[node]
		o.Resolve = func(_ context.Context, node string) (string, error) {
			mu.Lock()
			defer mu.Unlock()
			if asked[node]++; at[node] == "" {
				return "", errors.New("not known yet")
			}
			return at[node], nil
		}
	})
	m.work("before", "a", "b", "c")
	m.close("a", "b", "c")
	mu.Lock()
	for node := range at {
		m.move(node, node)
		at[node] = m.opts[node].Members[node]
	}
	mu.Unlock()
	m.open("a", "b", "c")
	m.work("after", "a", "b", "c")
	mu.Lock()
	defer mu.Unlock()
	for node := range at {
		if asked[node] == 0 {
			t.Errorf("nobody has asked for %s", node)
		}
	}
}

// TestMemberWithAnotherSecretIsNotHeard has two members of one secret and one of another.
func TestMemberWithAnotherSecretIsNotHeard(t *testing.T) {
	t.Parallel()
	m := newMovers(t, func(node string, o *replica.Options) {
		o.PeerSecret = []byte("a secret of some length, or more")
		if node == "c" {
			o.PeerSecret = []byte("a secret of some length, or less")
		}
	})
	m.work("two of three", "a", "b")
	if err := m.stores["c"].Ready(within(t, 2*time.Second)); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("the one with another secret: %v", err)
	}
	m.work("still two of three", "a", "b")
	m.close("c")
	o := m.opts["c"]
	o.PeerSecret = m.opts["a"].PeerSecret
	m.opts["c"] = o
	m.open("c")
	m.work("all three", "a", "b", "c")
}

// TestRaftPortIsNotForStrangers has members of a secret go on while strangers talk to them
// in the clear.
func TestRaftPortIsNotForStrangers(t *testing.T) {
	m := newMovers(t, func(_ string, o *replica.Options) { o.PeerSecret = []byte("a secret of some length, or more") })
	for tries := 1; ; tries++ {
		stalls := measureStalls()
		before, after := m.besideStrangers()
		stall := stalls.stop()
		switch {
		case before == after:
			return
		case stall < 100*time.Millisecond || tries == 5: // else the machine may be the reason
			t.Fatalf("%s leads, %s did; the machine stalls for %v", after, before, stall)
		}
	}
}

// besideStrangers tells who leads before and after strangers have come, beside whom there is
// work.
func (m *movers) besideStrangers() (before, after string) {
	t := m.t
	leader := func() string {
		info, err := m.stores["a"].Info(within(t, 10*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		return info.Leader
	}
	m.work("before", "a", "b", "c")
	before = leader()
	var talking sync.WaitGroup
	for _, node := range []string{"a", "b", "c"} {
		for range 50 {
			talking.Go(func() {
				c, err := net.Dial("tcp", m.opts[node].Members[node])
				if err != nil {
					t.Error(err)
					return
				}
				defer c.Close()
				c.Write([]byte("dkvraft2m\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"))
				c.SetReadDeadline(time.Now().Add(10 * time.Second))
				for b := make([]byte, 100); err == nil; _, err = c.Read(b) {
				}
				if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() {
					t.Error("a stranger is not turned away")
				}
			})
		}
	}
	m.work("meanwhile", "a", "b", "c")
	talking.Wait()
	m.work("after", "a", "b", "c")
	return before, leader()
}
