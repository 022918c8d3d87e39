package replica

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"dkv/internal/backup"
	"dkv/internal/command"
	"dkv/internal/once"
	"dkv/maple"
	"dkv/store/engine"

	sm "github.com/lni/dragonboat/v4/statemachine"
	"pgregory.net/rapid"
)

// hands is the clock of one simulated member: real time from where it began.
type hands struct {
	real   *time.Duration
	offset time.Duration
}

func (h hands) Now() time.Duration                               { return *h.real + h.offset }
func (hands) AfterFunc(time.Duration, func()) (stop func() bool) { panic("not simulated") }

// simulated is a group's log, and members that propose ticks and apply it when
// the test has them do so. What they run is the machine and the ticker of a
// store; only Dragonboat and the ticker's goroutine are left out.
type simulated struct {
	real    time.Duration
	log     [][]byte
	members []*simMember
	pending [][]byte // stamped or called, but not in the log yet
	writes  []simWrite
}

type simMember struct {
	*Store
	applied int // entries of the log
}

// simWrite is a write that began at a known moment.
type simWrite struct {
	began    time.Duration
	key      string
	expireIn time.Duration
	deleteIn time.Duration
}

func (s *simulated) start(offset time.Duration) *simMember {
	m := &simMember{Store: &Store{log: slog.New(slog.DiscardHandler)}}
	m.member.Store(1 << 40)
	m.machine = newMachine(m.Store, maple.Factory)
	m.ticker.init(hands{&s.real, offset})
	m.ticker.propose = func(t command.Tick, _ <-chan struct{}) { s.pending = append(s.pending, command.AppendTick(nil, t)) }
	m.snapshotter.init(1<<60, 0)
	return m
}

// apply has m apply the next n entries, in one go.
func (s *simulated) apply(t interface{ Fatalf(string, ...any) }, m *simMember, n int) {
	var entries []sm.Entry
	for range n {
		entries = append(entries, sm.Entry{Index: uint64(m.applied + 1), Cmd: s.log[m.applied]})
		m.applied++
	}
	if n > 0 {
		m.machine.Update(entries)
	}
	for _, e := range entries {
		if e.Result.Value != resultOK {
			t.Fatalf("entry %d is refused", e.Index)
		}
	}
}

// write begins a write now; it is in the log once its entry is appended.
func (s *simulated) write(expireIn, deleteIn time.Duration) {
	n := len(s.writes) + 1
	w := simWrite{began: s.real, key: fmt.Sprint(n), expireIn: expireIn, deleteIn: deleteIn}
	s.writes = append(s.writes, w)
	// Each is of a member of its own, so that they may overtake each other.
	entry := command.AppendBatchHeader(nil, command.Batch{Member: uint64(n), Incarnation: 1, Seq: 1}, 1)
	entry = command.AppendOp(entry, &engine.Op{Kind: engine.Set, Key: w.key, Value: []byte("v"), ExpireIn: expireIn, DeleteIn: deleteIn}, once.ID{})
	s.pending = append(s.pending, entry)
}

// early looks for a deadline that has come on m before its time. Every write
// whose revision m has seen is there unless its deadline took it.
func (s *simulated) early(m *simMember) (ended int, fault string) {
	db := m.machine.db.Load()
	in := make(map[uint64]bool)
	for _, entry := range s.log[:m.applied] {
		var e command.Entry
		if command.Decode(entry, &e) == nil && !e.IsTick {
			in[e.Batch.Member] = true
		}
	}
	for i, w := range s.writes {
		if !in[uint64(i+1)] {
			continue
		}
		if _, ok := db.Get(engine.Keys, w.key); !ok {
			ended++
			if s.real < w.began+min(w.expireIn, w.deleteIn) {
				return ended, fmt.Sprintf("key %s of %v expired after %v", w.key, w.expireIn, s.real-w.began)
			}
		}
		if !db.Has(engine.Keys, w.key) && s.real < w.began+w.deleteIn {
			return ended, fmt.Sprintf("key %s of %v was deleted after %v", w.key, w.deleteIn, s.real-w.began)
		}
	}
	return ended, ""
}

// restart forgets all that m knew but the log, and has it begin anew: from the
// start of the log, or from a snapshot that another member made.
func (s *simulated) restart(t *rapid.T, i int, from *simMember, offset time.Duration) {
	s.members[i] = s.start(offset)
	if from != nil {
		s.install(t, s.members[i], from)
	}
}

// install has m take a snapshot that another member made.
func (s *simulated) install(t *rapid.T, m, from *simMember) {
	state, _ := from.machine.PrepareSnapshot()
	var saved bytes.Buffer
	if err := from.machine.SaveSnapshot(state, &saved, nil, nil); err != nil {
		t.Fatal(err)
	}
	if err := m.machine.RecoverFromSnapshot(&saved, nil, nil); err != nil {
		t.Fatal(err)
	}
	m.applied = from.applied
}

// checkMany is rapid.Check with more checks than the default, because they are
// cheap here.
func checkMany(t *testing.T, check func(t *rapid.T)) {
	times := 20
	if testing.Short() {
		times = 3
	}
	for range times {
		if rapid.Check(t, check); t.Failed() {
			return
		}
	}
}

func TestNoDeadlineComesEarlyWhoeverTicksAndWhenever(t *testing.T) {
	var ended, counted, restarts, installs int
	checkMany(t, func(t *rapid.T) {
		s := &simulated{}
		duration := func(limit int, label string) time.Duration {
			return time.Duration(rapid.IntRange(0, limit).Draw(t, label)) * time.Second
		}
		// The last member applies everything at once and never proposes: it
		// sees a deadline the moment anybody could.
		proposers := rapid.IntRange(1, 3).Draw(t, "proposers")
		for range proposers + 1 {
			s.members = append(s.members, s.start(duration(1000, "offset")))
		}
		observer := func() *simMember { return s.members[proposers] }
		member := func() int { return rapid.IntRange(0, proposers-1).Draw(t, "member") }
		appendPending := func(keep bool) {
			if len(s.pending) == 0 {
				return
			}
			i := rapid.IntRange(0, len(s.pending)-1).Draw(t, "pending")
			s.log = append(s.log, s.pending[i])
			if !keep {
				s.pending = append(s.pending[:i], s.pending[i+1:]...)
			}
			s.apply(t, observer(), len(s.log)-observer().applied)
		}
		t.Repeat(map[string]func(*rapid.T){
			"time passes": func(t *rapid.T) { s.real += duration(10, "time") },
			"write": func(t *rapid.T) {
				s.write(1+duration(20, "expireIn"), 1+duration(20, "deleteIn"))
			},
			"stamp": func(t *rapid.T) { s.members[member()].ticker.tick(nil) },
			"tick as a leader does": func(t *rapid.T) {
				// Without delays: most intervals that count are of this sort.
				m := s.members[member()]
				s.apply(t, m, len(s.log)-m.applied)
				m.ticker.tick(nil)
				last := len(s.pending) - 1
				s.log = append(s.log, s.pending[last])
				s.pending = s.pending[:last]
				s.apply(t, m, 1)
				s.apply(t, observer(), len(s.log)-observer().applied)
			},
			"a write overtakes a tick": func(t *rapid.T) {
				m := s.members[member()]
				s.apply(t, m, len(s.log)-m.applied)
				m.ticker.tick(nil)
				s.real += duration(10, "time")
				s.write(1+duration(20, "expireIn"), 1+duration(20, "deleteIn"))
				n := len(s.pending)
				s.log = append(s.log, s.pending[n-1], s.pending[n-2])
				s.pending = s.pending[:n-2]
				s.apply(t, m, 2)
				s.apply(t, observer(), len(s.log)-observer().applied)
			},
			"append":           func(t *rapid.T) { appendPending(false) },
			"append and again": func(t *rapid.T) { appendPending(true) },
			"drop": func(t *rapid.T) {
				if len(s.pending) > 0 {
					s.pending = s.pending[1:]
				}
			},
			"apply": func(t *rapid.T) {
				m := s.members[member()]
				s.apply(t, m, rapid.IntRange(0, len(s.log)-m.applied).Draw(t, "entries"))
			},
			"apply all": func(t *rapid.T) {
				m := s.members[member()]
				s.apply(t, m, len(s.log)-m.applied)
			},
			"install a snapshot": func(t *rapid.T) {
				m, from := s.members[member()], s.members[rapid.IntRange(0, proposers).Draw(t, "whose")]
				if from.applied > m.applied {
					installs++
					s.install(t, m, from)
				}
			},
			"restart": func(t *rapid.T) {
				restarts++
				var from *simMember
				if rapid.Bool().Draw(t, "from a snapshot") {
					from = s.members[rapid.IntRange(0, proposers).Draw(t, "whose")]
				}
				s.restart(t, member(), from, duration(1000, "offset"))
			},
			"": func(t *rapid.T) {
				for _, m := range s.members {
					n, fault := s.early(m)
					if fault != "" {
						t.Fatal(fault)
					}
					ended += n
				}
			},
		})
		counted += int(observer().machine.ticks)
		for i := range proposers {
			s.apply(t, s.members[i], len(s.log)-s.members[i].applied)
			if a, b := s.members[i].machine.checksum(), observer().machine.checksum(); a != b {
				t.Fatalf("members %d and the observer differ: %v, %v", i, a, b)
			}
		}
	})
	if ended == 0 || counted == 0 || restarts == 0 || installs == 0 {
		t.Errorf("nothing was put to the test: %d deadlines seen, %d ticks counted, %d restarts, %d installed snapshots", ended, counted, restarts, installs)
	}
	t.Logf("%d ticks counted, %d restarts, %d installed snapshots, %d times a deadline had come", counted, restarts, installs, ended)
}

// TestDeadlinesAreLateByNoMoreThanTheBound has one leader tick as ticker.work
// does, with commits that take their time, while writes come when they like.
func TestDeadlinesAreLateByNoMoreThanTheBound(t *testing.T) {
	var worst time.Duration
	checkMany(t, func(t *rapid.T) {
		s := &simulated{}
		s.members = append(s.members, s.start(0))
		m := s.members[0]
		maxCommit := time.Duration(rapid.Int64Range(1, int64(20*time.Millisecond)).Draw(t, "slowest commit"))
		commit := func() time.Duration {
			return time.Duration(rapid.Int64Range(0, int64(maxCommit)).Draw(t, "commit"))
		}
		// Seen by ticker.work as its timer and its wake channel.
		var timer time.Duration
		armed := false
		awake := func() bool {
			select {
			case <-m.ticker.wake:
				return true
			default:
				return armed && timer <= s.real
			}
		}
		work := func() {
			for {
				wait, any := m.ticker.wait()
				if !any || wait > 0 {
					armed, timer = any, s.real+rest(wait)
					return
				}
				m.ticker.tick(nil)
				s.real += commit()
				s.log, s.pending = append(s.log, s.pending...), nil
				s.apply(t, m, len(s.log)-m.applied)
			}
		}
		late := func() {
			db := m.machine.db.Load()
			for _, w := range s.writes {
				if _, ok := db.Get(engine.Keys, w.key); ok {
					over := s.real - w.began - w.expireIn
					worst = max(worst, over)
					if over > 100*time.Millisecond+w.expireIn/100 {
						t.Fatalf("key %s of %v is there after %v", w.key, w.expireIn, s.real-w.began)
					}
				}
			}
		}
		until := func(end time.Duration) {
			for s.real < end {
				if awake() {
					armed = false
					work()
				} else if armed {
					s.real = min(end, max(timer, s.real+1))
				} else {
					s.real = end
				}
				late()
			}
		}
		for range rapid.IntRange(1, 20).Draw(t, "writes") {
			until(s.real + time.Duration(rapid.Int64Range(0, int64(2*time.Second)).Draw(t, "until next write")))
			exponent := rapid.IntRange(0, 35).Draw(t, "size")
			s.write(time.Duration(rapid.Int64Range(1, 1<<exponent).Draw(t, "expireIn")), time.Hour)
			s.real += commit()
			s.log, s.pending = append(s.log, s.pending...), nil
			s.apply(t, m, len(s.log)-m.applied)
		}
		until(s.real + 40*time.Second)
		db := m.machine.db.Load()
		for _, w := range s.writes {
			if _, ok := db.Get(engine.Keys, w.key); ok {
				t.Fatalf("key %s of %v never expired", w.key, w.expireIn)
			}
		}
	})
	t.Logf("the latest deadline came %v late", worst)
}

// TestTickAfterATickThatDidNotCountMeasuresNothingTwice is the simplest history
// in which adding up all ticks would be early: two members measure the same
// interval.
func TestTickAfterATickThatDidNotCountMeasuresNothingTwice(t *testing.T) {
	s := &simulated{}
	s.members = append(s.members, s.start(0), s.start(time.Minute))
	all := func() {
		s.log, s.pending = append(s.log, s.pending...), nil
		for _, m := range s.members {
			s.apply(t, m, len(s.log)-m.applied)
		}
	}
	s.write(10*time.Second, 10*time.Second)
	all()
	s.members[0].ticker.tick(nil)
	all()
	s.members[0].ticker.tick(nil)
	all()
	s.real += 9 * time.Second
	s.members[0].ticker.tick(nil)
	s.members[1].ticker.tick(nil)
	all()
	if now := s.members[0].machine.db.Load().Now(); now != 9*time.Second {
		t.Errorf("the clock moved by %v in 9 s", time.Duration(now))
	}
	if _, fault := s.early(s.members[0]); fault != "" {
		t.Error(fault)
	}
}

// TestTickOfAnotherIsNotTakenForTheOwnOneUnderWay is the history in which a
// member that took any tick for its own would count the time since its stamp
// twice.
func TestTickOfAnotherIsNotTakenForTheOwnOneUnderWay(t *testing.T) {
	s := &simulated{}
	s.members = append(s.members, s.start(0), s.start(time.Minute))
	s.members[0].ticker.tick(nil)
	s.real += 5 * time.Second
	s.members[1].ticker.tick(nil)
	s.log, s.pending = append(s.log, s.pending[1]), nil
	for _, m := range s.members {
		s.apply(t, m, 1)
	}
	s.members[0].ticker.tick(nil)
	s.log, s.pending = append(s.log, s.pending...), nil
	s.apply(t, s.members[0], 1)
	if now := s.members[0].machine.db.Load().Now(); now != 5*time.Second {
		t.Errorf("the clock moved by %v in 5 s", time.Duration(now))
	}
}

// TestDeadlinesOfABackupAreNeverEarly has two members begin with a backup, at other
// times and with other clocks, and measure what is left by turns. The state is that of a
// store in memory, whose deadlines all count already, or that of a member, some of whose
// have not begun to.
func TestDeadlinesOfABackupAreNeverEarly(t *testing.T) {
	const whole, passed = 10 * time.Second, 4 * time.Second
	op := &engine.Op{Kind: engine.Set, Key: "k", Value: []byte("v"), ExpireIn: whole, DeleteIn: 2 * whole}
	var now time.Duration
	clocked := maple.Factory.New(engine.Options{Now: func() time.Duration { return time.Hour + now }})
	clocked.Apply(op, 0)
	now = passed
	unsettled := maple.Factory.New(engine.Options{})
	unsettled.Tick(time.Minute, 0)
	unsettled.Apply(op, 0)
	settling := maple.Factory.New(engine.Options{})
	settling.Apply(op, 0)
	settling.Tick(time.Minute, 0)
	for name, test := range map[string]struct {
		db   engine.Engine
		left time.Duration
	}{"in memory": {clocked, whole - passed}, "unsettled": {unsettled, whole}, "settling": {settling, whole}} {
		view := test.db.View()
		var saved bytes.Buffer
		b, err := backup.Write(t.Context(), &saved, view)
		view.Release()
		if err != nil {
			t.Fatal(err)
		}
		s := &simulated{}
		begin := func(offset time.Duration) {
			m := s.start(offset)
			db, told, err := backup.Load(bytes.NewReader(saved.Bytes()), maple.Factory, m.machine.options())
			if err != nil || told != b {
				t.Fatal(told, err)
			}
			m.machine.begin(db)
			s.members = append(s.members, m)
		}
		tick := func(m *simMember) {
			m.ticker.tick(nil)
			s.log, s.pending = append(s.log, s.pending...), nil
			for _, m := range s.members {
				s.apply(t, m, len(s.log)-m.applied)
			}
		}
		begin(0)
		s.real += time.Second
		begin(time.Minute)
		began := s.real // of the later; the other knows of a second more
		if any := s.members[0].ticker.mu.any || s.members[0].ticker.mu.atOnce; !any {
			t.Errorf("%s: nobody waits for a deadline", name)
		}
		for i := 0; ; i++ {
			m := s.members[i%2]
			if _, ok := m.machine.db.Load().Get(engine.Keys, "k"); !ok {
				if took := s.real - began + time.Second; took < test.left {
					t.Errorf("%s: the value of %v went after %v", name, test.left, took)
				}
				break
			}
			if i > 1000 {
				t.Fatalf("%s: it stays", name)
			}
			s.real += 100 * time.Millisecond
			tick(m)
		}
		if took := s.real - began; took > test.left+time.Second {
			t.Errorf("%s: the value of %v went after %v", name, test.left, took)
		}
		if a, b := s.members[0].machine.checksum(), s.members[1].machine.checksum(); a != b {
			t.Errorf("%s: the members differ", name)
		}
	}
}

// FuzzUpdateTakesAnyEntry: whatever stands in the log, every member does the
// same with it and none ends.
func FuzzUpdateTakesAnyEntry(f *testing.F) {
	tick := command.AppendTick(nil, command.Tick{Nonce: 1, Elapsed: 5, Lag: 2})
	batch := command.AppendBatchHeader(nil, command.Batch{Member: 1, Incarnation: 1, Seq: 1}, 1)
	batch = command.AppendOp(batch, &engine.Op{Kind: engine.Set, Key: "k", Value: []byte("v"), ExpireIn: 3, DeleteIn: 4}, once.ID{})
	f.Add(tick, batch)
	f.Add(batch, tick)
	f.Add([]byte{}, binary.AppendUvarint(bytes.Clone(tick), 1))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		s := &simulated{log: [][]byte{a, b, a, tick, b}}
		one, other := s.start(0), s.start(time.Hour)
		for range s.log {
			one.machine.Update([]sm.Entry{{Index: uint64(one.applied + 1), Cmd: s.log[one.applied]}})
			one.applied++
		}
		for i, cmd := range s.log {
			s.real += time.Second
			other.machine.Update([]sm.Entry{{Index: uint64(i + 1), Cmd: cmd}})
		}
		if x, y := one.machine.checksum(), other.machine.checksum(); x != y {
			t.Fatalf("%v, %v", x, y)
		}
	})
}
