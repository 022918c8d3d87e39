package enginetest

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"dkv/store"
	"dkv/store/engine"

	"pgregory.net/rapid"
)

var concurrencyChecks = []check{
	{"ViewHoldsWhileWritersGoOn", func(t rapid.TB, f engine.Factory) {
		newPairWriters(f).run(t, rounds(20, 10))
	}},
	{"ViewShowsExactlyTheChangesUpToItsRevision", func(t rapid.TB, f engine.Factory) {
		for range rounds(20, 5) {
			changesUpToRevision(t, f)
		}
	}},
	{"AmongConcurrentWritersOneWinsAndRevisionsAreDistinct", func(t rapid.TB, f engine.Factory) {
		e := f.New(standing())
		const writers, keys = 8, 200
		var won [keys]atomic.Int64
		var seen sync.Map
		together(writers, func(int) {
			for k := range keys {
				res := e.Apply(&engine.Op{Kind: engine.SetIfUnset, Key: fmt.Sprint(k), Value: []byte("v")}, 0)
				if !res.Done {
					continue
				}
				won[k].Add(1)
				if _, twice := seen.LoadOrStore(res.Revision, k); twice {
					t.Errorf("revision %d was given twice", res.Revision)
				}
			}
		})
		for k := range won {
			if n := won[k].Load(); n != 1 {
				t.Errorf("%d writers set key %d", n, k)
			}
		}
		if info := infoOf(e); info.Revision != keys || info.Keys != keys {
			t.Errorf("Info after %d changes: %+v", keys, info)
		}
		checkInvariants(t, e)
	}},
	{"NoDeadlineIsForgottenWhateverIsWrittenMeanwhile", func(t rapid.TB, f engine.Factory) {
		for range rounds(20, 5) {
			var now atomic.Int64
			e := f.New(engine.Options{Now: func() time.Duration { return time.Duration(now.Load()) }})
			together(4, func(w int) {
				for i := range 150 {
					set(e, fmt.Sprint(w, " ", i), "v", time.Second, 2*time.Second)
					set(e, "renewed", "v", time.Second, 2*time.Second)
					e.NextDeadline()
					e.Reap(1)
				}
			})
			for second := range int64(3) {
				now.Store(second * int64(time.Second))
				for e.Reap(100) == 100 {
				}
			}
			if info := infoOf(e); info.Keys != 0 || info.Size != 0 {
				t.Fatalf("%d keys are left when all deadlines have passed", info.Keys)
			}
			if at, ok := e.NextDeadline(); ok && at <= e.Now() {
				t.Fatalf("NextDeadline is %v when all have passed", at)
			}
			checkInvariants(t, e)
		}
	}},
	{"ReadersMayLookWhileTicksSettleDeadlines", func(t rapid.TB, f engine.Factory) {
		readersBesideTicks(t, f, rounds(3000, 500))
	}},
}

// pairWriters always change two keys together, first one, then the other: a view
// may never show the second ahead of the first. Beside them, other keys come and
// go, some of them by deadlines.
type pairWriters struct {
	factory engine.Factory
	engine  engine.Engine
	clock   atomic.Int64
	writes  atomic.Int64
	stop    chan struct{}
	all     sync.WaitGroup
}

const pairs = 4

func newPairWriters(f engine.Factory) *pairWriters {
	p := &pairWriters{factory: f, stop: make(chan struct{})}
	p.engine = f.New(engine.Options{Now: func() time.Duration { return time.Duration(p.clock.Load()) }})
	return p
}

func (p *pairWriters) run(t rapid.TB, rounds int) {
	for pair := range pairs {
		p.all.Go(func() { p.write(pair) })
	}
	p.all.Go(func() {
		for !p.stopped() {
			p.clock.Add(int64(time.Millisecond))
			p.engine.Reap(10)
		}
	})
	end := sync.OnceFunc(func() { close(p.stop); p.all.Wait() })
	defer end()
	for range rounds {
		for before := p.writes.Load(); p.writes.Load() < before+100; {
			time.Sleep(time.Microsecond)
		}
		a, b := p.engine.View(), p.engine.View()
		if a.Revision() > b.Revision() {
			t.Errorf("a view of revision %d was opened after one of %d", b.Revision(), a.Revision())
		}
		p.look(t, a)
		b.Release()
		p.look(t, a)
		a.Release()
	}
	end()
	if info := infoOf(p.engine); info.Views != 0 || info.Retained != 0 || info.RetainedBytes != 0 {
		t.Errorf("all views are released: %+v", info)
	}
	checkInvariants(t, p.engine)
}

func (p *pairWriters) stopped() bool {
	select {
	case <-p.stop:
		return true
	default:
		return false
	}
}

func (p *pairWriters) write(pair int) {
	e := p.engine
	for n := uint64(1); !p.stopped(); n++ {
		v := string(binary.BigEndian.AppendUint64(nil, n))
		set(e, fmt.Sprint("first", pair), v, 0, 0)
		set(e, fmt.Sprint("second", pair), v, 0, 0)
		key := fmt.Sprint("coming and going", pair, n%1000)
		e.Apply(&engine.Op{Kind: engine.SetIfUnset, Key: key, Value: []byte(v)}, 0)
		change(e, engine.Delete, key)
		set(e, fmt.Sprint("passing", pair, n%100), v, time.Duration(n%7)*time.Millisecond, time.Duration(n%11)*time.Millisecond)
		p.writes.Add(5)
	}
}

// look checks that a view is consistent and shows the same in all ways.
func (p *pairWriters) look(t rapid.TB, v engine.View) {
	sum := v.Checksum()
	entries := scanned(v, engine.Keys, "", "", false, 0)
	reverse := scanned(v, engine.Keys, "", "", true, 0)
	slices.Reverse(reverse)
	if !slices.EqualFunc(entries, reverse, equalEntries) {
		t.Fatalf("a view shows other entries in reverse")
	}
	shown := make(map[string]store.Entry)
	for i, e := range entries {
		if i > 0 && entries[i-1].Key >= e.Key {
			t.Fatalf("a scan yields %q after %q", e.Key, entries[i-1].Key)
		}
		if uint64(e.Revision) > v.Revision() {
			t.Fatalf("a view of revision %d shows %d", v.Revision(), e.Revision)
		}
		shown[e.Key] = e
	}
	for pair := range pairs {
		number := func(which string) (n uint64) {
			key := fmt.Sprint(which, pair)
			e, ok := v.Entry(engine.Keys, key)
			if scanned, inScan := shown[key]; ok != inScan || ok && !equalEntries(e, scanned) {
				t.Fatalf("a view shows %+v, %v, and its scan %+v, %v", e, ok, scanned, inScan)
			}
			if ok {
				n = binary.BigEndian.Uint64(e.Value)
			}
			return n
		}
		if first, second := number("first"), number("second"); first != second && first != second+1 {
			t.Fatalf("a view shows %d and %d of one writer", first, second)
		}
	}
	// What was left of each entry's time is left to the loaded one.
	elsewhere := time.Hour
	loaded := loadedFrom(t, p.factory, save(t, v), clockAt(&elsewhere))
	if got := loaded.Revision(); got != v.Revision() {
		t.Fatalf("loaded revision %d of %d", got, v.Revision())
	}
	if !slices.EqualFunc(entries, allOf(loaded, engine.Keys), equalEntries) {
		t.Fatalf("what was loaded has other entries")
	}
	if v.Checksum() != sum {
		t.Fatalf("a view changed while it was open")
	}
}

// changesUpToRevision notes all changes and what views show meanwhile. In the order
// of their revisions, the changes lead to what each view shows, and no revision is
// left out.
func changesUpToRevision(t rapid.TB, f engine.Factory) {
	const writers, each, keys, viewers = 4, 150, 5, 2
	type change struct {
		revision uint64
		key      string
		value    string // "" if deleted
	}
	type shown struct {
		revision uint64
		entries  []store.Entry
	}
	e := f.New(standing())
	written := make([][]change, writers)
	views := make([][]shown, viewers)
	var writing atomic.Int32
	writing.Store(writers)
	together(writers+viewers, func(i int) {
		if i >= writers {
			seen := &views[i-writers]
			for writing.Load() > 0 && len(*seen) < 1000 {
				v := e.View()
				*seen = append(*seen, shown{v.Revision(), scanned(v, engine.Keys, "", "", false, 0)})
				v.Release()
			}
			return
		}
		defer writing.Add(-1)
		for n := range each {
			op := engine.Op{Kind: engine.Set, Key: fmt.Sprint((n * (i + 1)) % keys)}
			switch n % 4 {
			case 0, 1:
				op.Value = fmt.Appendf(nil, "%d-%d", i, n)
			case 2:
				op.Kind, op.Value = engine.SetIfUnset, fmt.Appendf(nil, "%d-%d", i, n)
			case 3:
				op.Kind = engine.Delete
			}
			if res := e.Apply(&op, 0); res.Done {
				written[i] = append(written[i], change{res.Revision, op.Key, string(op.Value)})
			}
		}
	})
	changes := slices.Concat(written...)
	slices.SortFunc(changes, func(a, b change) int { return cmp.Compare(a.revision, b.revision) })
	for i, c := range changes {
		if c.revision != uint64(i+1) {
			t.Fatalf("change %d has revision %d: %+v", i+1, c.revision, c)
		}
	}
	if last := e.Revision(); last != uint64(len(changes)) {
		t.Fatalf("the revision is %d after %d changes", last, len(changes))
	}
	for _, view := range slices.Concat(views...) {
		if view.revision > uint64(len(changes)) {
			t.Fatalf("a view has revision %d after %d changes", view.revision, len(changes))
		}
		want := make(map[string]store.Entry)
		for _, c := range changes[:view.revision] {
			if c.value == "" {
				delete(want, c.key)
			} else {
				want[c.key] = store.Entry{Key: c.key, Value: []byte(c.value), Revision: store.Revision(c.revision)}
			}
		}
		for _, e := range view.entries {
			if !equalEntries(e, want[e.Key]) {
				t.Fatalf("the view of revision %d shows %+v, want %+v", view.revision, e, want[e.Key])
			}
		}
		if len(view.entries) != len(want) {
			t.Fatalf("the view of revision %d shows %d keys, want %d", view.revision, len(view.entries), len(want))
		}
	}
	checkInvariants(t, e)
}

// readersBesideTicks has one writer, as an engine without a clock wants it, and
// readers of the engine and of views that the writer has opened between two calls.
func readersBesideTicks(t rapid.TB, f engine.Factory, steps int) {
	e := f.New(engine.Options{})
	views := make(chan engine.View, 2)
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for v := range views {
				if err := readBesideTicks(f, e, v); err != nil {
					t.Errorf("%v", err)
				}
				v.Release()
			}
		})
	}
	for n := range steps {
		key := fmt.Sprint(n % 50)
		set(e, key, key, time.Duration(n%5)*time.Second, time.Duration(n%9)*time.Second)
		switch n % 10 {
		case 3:
			e.Tick(time.Second, time.Second/2)
		case 5:
			e.Reap(3)
		case 7:
			change(e, engine.Expire, fmt.Sprint((n+10)%50))
		case 9:
			views <- e.View()
		}
	}
	close(views)
	readers.Wait()
	if info := infoOf(e); info.Views != 0 || info.Retained != 0 || info.RetainedBytes != 0 {
		t.Errorf("all views are released: %+v", info)
	}
	checkInvariants(t, e)
}

func readBesideTicks(f engine.Factory, e engine.Engine, v engine.View) error {
	sum := v.Checksum()
	for _, entry := range scanned(v, engine.Keys, "", "", false, 0) {
		if again, ok := v.Entry(engine.Keys, entry.Key); !ok || !equalEntries(again, entry) {
			return fmt.Errorf("a view shows %+v, and then %+v, %v", entry, again, ok)
		}
		if value, ok := e.Get(engine.Keys, entry.Key); ok && string(value) != entry.Key {
			return fmt.Errorf("the value of %q is %q", entry.Key, value)
		}
		e.Entry(engine.Keys, entry.Key)
		e.Has(engine.Keys, entry.Key)
		infoOf(e)
	}
	var b bytes.Buffer
	if err := v.Save(&b); err != nil {
		return err
	}
	again, err := f.Load(&b, engine.Options{})
	if err != nil {
		return err
	}
	if checksumOf(again) != sum || v.Checksum() != sum {
		return errors.New("a view changed while it was open, or was loaded as another state")
	}
	return nil
}
