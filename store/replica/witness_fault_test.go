package replica_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dkv/internal/powerdisk"
	"dkv/internal/testcluster"
	"dkv/store"
	"dkv/store/replica"

	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/dragonboat/v4/raftio"
	"github.com/lni/dragonboat/v4/raftpb"
)

// witnessed is a group of two members with data, 0 and 1, and a witness, each of them in a
// process of its own.
type witnessed struct {
	t *testing.T
	c *testcluster.Processes

	opts    testcluster.ProcessOptions // of the witness
	mu      sync.Mutex
	witness *testcluster.Process // the last one
}

func newWitnessedProcesses(t *testing.T) *witnessed {
	t.Helper()
	c := testcluster.NewProcesses(t, 2, 16<<10)
	c.Ready()
	w := &witnessed{t: t, c: c, opts: testcluster.ProcessOptions{
		Dir: t.TempDir(), Node: "w", Address: testcluster.FreeAddress(t), Witness: true, SnapshotBytes: 16 << 10,
		Join: []string{c.Address(0), c.Address(1)},
	}}
	w.start(2)
	w.ready(2)
	return w
}

// process is member i, of which the witness is number 2.
func (w *witnessed) process(i int) *testcluster.Process {
	if i < 2 {
		return w.c.Process(i)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.witness
}

func (w *witnessed) start(i int) {
	w.t.Helper()
	if i < 2 {
		w.c.Start(i)
		return
	}
	p, err := testcluster.StartProcess(w.t, w.opts)
	if err != nil {
		w.t.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.witness = p
}

func (w *witnessed) kill(i int) {
	w.t.Helper()
	if p := w.process(i); !p.Kill() || p.Running() {
		w.t.Errorf("member %d did not die from SIGKILL", i)
	}
}

func (w *witnessed) ready(members ...int) {
	w.t.Helper()
	for _, i := range members {
		if err := w.process(i).Ready(within(w.t, 30*time.Second)); err != nil {
			w.t.Fatalf("member %d is not ready: %v", i, err)
		}
	}
}

// TestAnyOneOfTwoMembersAndAWitnessMayFail takes as long as DKV_FAULT_TIME says. Each of the
// three is killed in turn, and stays away until the others have done a lot without it.
func TestAnyOneOfTwoMembersAndAWitnessMayFail(t *testing.T) {
	t.Parallel()
	w := newWitnessedProcesses(t)
	h := &history{start: time.Now(), kinds: make(map[store.Kind]int), keys: make(map[string]bool)}
	l := newLedger()
	stop := make(chan struct{})
	var working sync.WaitGroup
	end := sync.OnceFunc(func() { close(stop); working.Wait() })
	defer end()
	for client := range 6 {
		working.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				in := registerInput{
					op:    []string{"set", "set", "get", "get", "get", "setifunset", "delete"}[rand.IntN(7)],
					key:   fmt.Sprint("key", rand.IntN(4), ".", n/40),
					value: fmt.Sprint(client, ".", n),
				}
				h.do(client, w.c.Process(rand.IntN(2)), in, time.Duration(50+rand.IntN(950))*time.Millisecond)
				time.Sleep(time.Duration(rand.IntN(6)) * time.Millisecond)
			}
		})
	}
	for i := range 2 {
		working.Go(func() {
			l.write(t, stop, fmt.Sprint("writer", i), func() store.Store { return w.c.Process(i) })
		})
	}
	done := func() int {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.kinds[store.KindNone]
	}
	var killed [3]int
	led, snapshots := 0, 0
	until := time.Now().Add(faultTime(t))
	for round := 0; round < 4 || time.Now().Before(until); round++ {
		victim := round % 3
		if round%4 == 3 {
			victim = w.c.Leader()
		}
		if w.c.Leader() == victim {
			led++
		}
		before := testcluster.Snapshots(t, w.opts.Dir)
		w.ready(0, 1, 2) // no other is away
		w.kill(victim)
		killed[victim]++
		// All that succeeds from here on does so without the victim.
		ops, writes := done(), l.count.Load()
		eventually(t, 30*time.Second, fmt.Sprintf("operations succeed without member %d", victim), func() bool {
			return done() >= ops+60 && l.count.Load() >= writes+600
		})
		if w.process(victim).Running() {
			t.Errorf("member %d runs", victim)
		}
		w.start(victim)
		w.ready(victim) // it has caught up
		if victim == 2 && len(testcluster.Snapshots(t, w.opts.Dir)) > 0 && fmt.Sprint(testcluster.Snapshots(t, w.opts.Dir)) != fmt.Sprint(before) {
			snapshots++
		}
		if t.Failed() {
			break
		}
	}
	end()
	w.ready(0, 1, 2)
	for key := range h.keys {
		for i := range 2 {
			h.do(100+i, w.c.Process(i), registerInput{op: "get", key: key}, 20*time.Second)
		}
	}
	sum := w.c.WaitEqual()
	h.check(t)
	for i := range 2 {
		l.check(t, w.c.Process(i))
	}
	for i := range 3 {
		all, err := w.process(i).Members(within(t, 20*time.Second))
		if err != nil || len(all) != 3 || !all[2].Witness || all[2].Leads {
			t.Errorf("member %d has the members %v, %v", i, all, err)
		}
	}
	t.Logf("%d operations, by kind of error %v; %d writes acknowledged; killed %v, of which %d led; %d snapshots sent to the witness; %v",
		len(h.ops), h.kinds, l.count.Load(), killed, led, snapshots, sum)
	if killed[0] == 0 || killed[1] == 0 || killed[2] == 0 || led == 0 {
		t.Error("not all faults have happened")
	}
	if !testing.Short() && snapshots == 0 {
		t.Error("the witness has needed no snapshot")
	}
	if h.kinds[store.KindFinal] > 0 || h.kinds[store.KindClosed] > 0 {
		t.Errorf("errors of kinds that no fault leads to: %v", h.kinds)
	}
}

// TestLeaderThatWasKilledLeadsAgainWithAWitness has the second member with data be away.
func TestLeaderThatWasKilledLeadsAgainWithAWitness(t *testing.T) {
	t.Parallel()
	w := newWitnessedProcesses(t)
	w.kill(1)
	l := newLedger()
	stop := make(chan struct{})
	var writing sync.WaitGroup
	end := sync.OnceFunc(func() { close(stop); writing.Wait() })
	defer end()
	for i := range 8 {
		writing.Go(func() {
			l.write(t, stop, fmt.Sprint("writer", i), func() store.Store { return w.c.Process(0) })
		})
	}
	kills := rounds(6, 2)
	for range kills {
		before := l.count.Load()
		eventually(t, 20*time.Second, "writes succeed", func() bool { return l.count.Load() >= before+200 })
		w.kill(0)
		w.start(0)
		w.ready(0)
	}
	end()
	l.check(t, w.c.Process(0))
	w.start(1)
	w.ready(1)
	l.check(t, w.c.Process(1))
	t.Logf("killed %d times, %d writes acknowledged", kills, l.count.Load())
}

// mouth is what a member says to others, until it is silent.
type mouth struct {
	config.TransportFactory
	silent atomic.Bool
	deaf   string               // the node that does not hear it then; "": nobody does
	mute   raftpb.MessageType   // what it does not say then; 0: it says nothing
	heard  func(raftpb.Message) // is called with what it says, if it is set
}

func (m *mouth) wrap(f config.TransportFactory) config.TransportFactory {
	m.TransportFactory = f
	m.silent.Store(false)
	return m
}

func (m *mouth) Create(nhc config.NodeHostConfig, h raftio.MessageHandler, c raftio.ChunkHandler) raftio.ITransport {
	return mouthTransport{m.TransportFactory.Create(nhc, h, c), m}
}

type mouthTransport struct {
	raftio.ITransport
	mouth *mouth
}

func (t mouthTransport) GetConnection(ctx context.Context, target string) (raftio.IConnection, error) {
	c, err := t.ITransport.GetConnection(ctx, target)
	return mouthConn{c, t.mouth, target}, err
}

type mouthConn struct {
	raftio.IConnection
	mouth  *mouth
	target string
}

func (c mouthConn) SendMessageBatch(b raftpb.MessageBatch) error {
	if c.mouth.heard != nil {
		for _, m := range b.Requests {
			c.mouth.heard(m)
		}
	}
	if c.mouth.silent.Load() && strings.HasPrefix(c.target, c.mouth.deaf) {
		if c.mouth.mute == 0 {
			return nil
		}
		b.Requests = slices.DeleteFunc(slices.Clone(b.Requests), func(m raftpb.Message) bool { return m.Type == c.mouth.mute })
	}
	return c.IConnection.SendMessageBatch(b)
}

// TestWitnessIsToldOfWhatTheOthersHave looks at what it is told, see savedFirst.
func TestWitnessIsToldOfWhatTheOthersHave(t *testing.T) {
	t.Parallel()
	g := newGrowing(t)
	g.close("a")
	var a, b atomic.Pointer[replica.Store]
	var told, early, away atomic.Int64
	m := &mouth{heard: func(m raftpb.Message) {
		n := len(m.Entries)
		if m.Type != raftpb.Replicate || n == 0 || m.Entries[n-1].Type != raftpb.MetadataEntry || a.Load() == nil || b.Load() == nil {
			return
		}
		told.Add(int64(n))
		waits := a.Load().WaitsFor(b.Load().Replica()) // it may come back in between
		switch last := m.Entries[n-1].Index; {
		case !a.Load().Saved(m.Term, last):
			early.Add(1)
		case b.Load().LogEnds() >= last:
		case waits && a.Load().WaitsFor(b.Load().Replica()):
			early.Add(1)
		default: // a busy machine has not heard of b for a while
			away.Add(int64(n))
		}
	}}
	o := g.opts["a"]
	o.WrapTransport(m.wrap)
	g.opts["a"] = o
	g.open("a")
	g.join("b", "a")
	g.witness("w", "a")
	g.open("w")
	g.ready("w")
	g.work("all", "a", "b")
	a.Store(g.stores["a"])
	b.Store(g.stores["b"])
	// write has a tell the witness of many entries, as it does while it leads.
	write := func() {
		for before := told.Load(); told.Load() < before+300; {
			if err := g.lead("a"); err != nil {
				t.Fatal(err)
			}
			for i := range 300 {
				if err := g.stores["a"].Set(within(t, 10*time.Second), fmt.Sprint("key", i), nil); err != nil {
					t.Fatal(err)
				}
			}
			for end := time.Now().Add(5 * time.Second); told.Load() < before+300 && time.Now().Before(end); {
				time.Sleep(5 * time.Millisecond)
			}
		}
	}
	write()
	if early.Load() > 0 {
		t.Errorf("of %d entries, in %d messages it was told before the others had them", told.Load(), early.Load())
	}
	if away.Load() > told.Load()/2 {
		t.Errorf("of %d entries, b was not waited for in %d", told.Load(), away.Load())
	}
	// It is told of others' when b is away.
	b.Store(nil)
	g.close("b")
	g.work("without b", "a")
	g.open("b")
	g.ready("b")
	g.work("b is back", "a", "b")
	b.Store(g.stores["b"])
	write()
	if early.Load() > 0 {
		t.Errorf("b was not waited for when it was back: %d messages", early.Load())
	}
}

// TestLeaderThatHasLostItsPowerLeadsAgainWithAWitness has the second member with data be
// away. The witness would not vote for a leader that it knows entries of which that one has
// lost, see savedFirst.
func TestLeaderThatHasLostItsPowerLeadsAgainWithAWitness(t *testing.T) {
	t.Parallel()
	testcluster.Guard(t)
	disk := powerdisk.New()
	disk.SyncTime = 2 * time.Millisecond
	g := &growing{movers{t: t, opts: make(map[string]replica.Options), stores: make(map[string]*replica.Store)}}
	o := replica.Options{Dir: t.TempDir(), Node: "a", Members: map[string]string{"a": testcluster.FreeAddress(t)}, SnapshotBytes: 64 << 10}
	if err := disk.MkdirAll(o.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	syncAncestors(t, disk, o.Dir)
	o.SetFS(disk)
	m := &mouth{}
	o.WrapTransport(m.wrap)
	g.opts["a"] = o
	g.open("a")
	t.Cleanup(func() { g.close("a", "b", "w") })
	g.join("b", "a")
	g.witness("w", "a")
	g.open("w")
	g.ready("w")
	g.close("b")
	l := newLedger()
	sectors := 0
	for range rounds(6, 2) {
		s := g.stores["a"]
		stop := make(chan struct{})
		var writing sync.WaitGroup
		for i := range 4 {
			writing.Go(func() { l.write(t, stop, fmt.Sprint("writer", i), func() store.Store { return s }) })
		}
		before := l.count.Load()
		eventually(t, 20*time.Second, "writes succeed", func() bool { return l.count.Load() >= before+100 })
		l.mu.Lock() // what is acknowledged from here on does not count
		acked := maps.Clone(l.acked)
		for end := time.Now().Add(100 * time.Millisecond); !disk.Unsynced() && time.Now().Before(end); {
			time.Sleep(20 * time.Microsecond)
		}
		m.silent.Store(true)
		disk.Cut()
		l.mu.Unlock()
		close(stop)
		g.close("a")
		writing.Wait()
		l.acked = acked
		disk.Restore(func() bool {
			sectors++
			return rand.IntN(2) == 0
		})
		g.open("a")
		if err := g.stores["a"].Ready(within(t, 15*time.Second)); err != nil {
			t.Fatalf("it does not lead again: %v", err)
		}
		l.check(t, g.stores["a"])
	}
	if sectors == 0 {
		t.Error("nothing was lost")
	}
	g.open("b")
	g.ready("b")
	l.check(t, g.stores["b"])
	t.Logf("%d writes acknowledged, %d sectors that were not synced", l.count.Load(), sectors)
}

// lead has a member lead.
func (g *growing) lead(node string) error {
	return g.stores[node].TransferLeadership(within(g.t, 20*time.Second), node)
}

// leadWithout has a member lead, and acknowledge something with the witness alone that
// another one, which its mouth is silent to from then on, does not have: that one cannot lead.
func (g *growing) leadWithout(m *mouth, node, other string) {
	g.t.Helper()
	for n := 0; ; n++ {
		if err := g.lead(node); err != nil {
			g.t.Fatal(err)
		}
		m.silent.Store(true)
		err := g.stores[node].Set(within(g.t, 3*time.Second), "without "+other, nil)
		if err == nil && g.stores[node].Leads() && g.stores[other].LogEnds() < g.stores[node].LogEnds() {
			return
		}
		m.silent.Store(false)
		if n == 5 {
			g.t.Fatalf("%s does not lead without %s: %v", node, other, err)
		}
	}
}

// TestReadyMemberMayTakeOver has a member be away that hears and applies all, but does not say
// so: the leader and the witness go on without it, so it is not ready, though it passes each
// barrier. It is once it is heard again, and then takes the leader's place.
func TestReadyMemberMayTakeOver(t *testing.T) {
	t.Parallel()
	g := newGrowing(t)
	g.close("a")
	var ofA mouth
	ofB := mouth{mute: raftpb.ReplicateResp}
	o := g.opts["a"]
	o.WrapTransport(ofA.wrap)
	g.opts["a"] = o
	g.open("a")
	g.joiner("b", "a")
	o = g.opts["b"]
	o.WrapTransport(ofB.wrap)
	g.opts["b"] = o
	g.open("b")
	g.witness("w", "a", "b")
	g.open("w")
	g.ready("a", "b", "w")
	a, b := g.stores["a"], g.stores["b"]
	for n := 0; ; n++ {
		if err := g.lead("a"); err != nil {
			t.Fatal(err)
		}
		ofB.silent.Store(true)
		err := a.Set(within(t, 5*time.Second), "a and the witness", []byte("a"))
		if err == nil && a.Leads() && !a.WaitsFor(b.Replica()) {
			break
		}
		ofB.silent.Store(false)
		if n == 5 {
			t.Fatalf("b is not away: %v", err)
		}
	}
	if err := b.Barrier(within(t, 20*time.Second)); err != nil {
		t.Fatal(err)
	}
	brief, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if err := b.Ready(brief); store.KindOf(err) != store.KindNotApplied {
		t.Errorf("Ready of a member that the leader does not wait for: %v", err)
	}
	if err := a.Ready(within(t, 20*time.Second)); err != nil {
		t.Errorf("who leads is not ready: %v", err)
	}
	ofB.silent.Store(false)
	var callers sync.WaitGroup
	for range 40 {
		callers.Go(func() {
			if err := b.Ready(within(t, 20*time.Second)); err != nil {
				t.Error(err)
			}
		})
	}
	callers.Wait()
	ofA.silent.Store(true) // a is gone, for all that the others can tell
	g.work("b and the witness", "b")
	if v, ok, err := b.Get(within(t, 20*time.Second), "a and the witness"); string(v) != "a" || !ok || err != nil {
		t.Errorf("%q, %t, %v", v, ok, err)
	}
	ofA.silent.Store(false)
}

// TestMemberThatAloneHasTheDataIsNotRemoved has the other one be behind, which answers all the
// same.
func TestMemberThatAloneHasTheDataIsNotRemoved(t *testing.T) {
	t.Parallel()
	g := newGrowing(t)
	g.close("a")
	m := &mouth{deaf: "b"}
	o := g.opts["a"]
	o.WrapTransport(m.wrap)
	g.opts["a"] = o
	g.open("a")
	g.join("b", "a")
	g.witness("w", "a", "b")
	g.open("w")
	g.ready("w")
	g.work("all", "a", "b")
	a := g.stores["a"]
	g.leadWithout(m, "a", "b")
	g.work("a and the witness", "a")
	brief, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if err := a.RemoveMember(brief, "a"); store.KindOf(err) != store.KindNotApplied {
		t.Errorf("it is removed: %v", err)
	}
	g.work("a and the witness still", "a")
	m.silent.Store(false)
	g.remove("a", "a")
	g.are("b", "w witnesses")
	for _, key := range []string{"a and the witness", "a and the witness still"} {
		if v, ok, err := g.stores["b"].Get(within(t, 20*time.Second), key); string(v) != "a" || !ok || err != nil {
			t.Errorf("%s: %q, %t, %v", key, v, ok, err)
		}
	}
	g.work("b and the witness", "b")
}
