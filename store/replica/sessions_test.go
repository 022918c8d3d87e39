package replica

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"

	"dkv/internal/block"
	"dkv/internal/command"
	"dkv/internal/once"
	"dkv/maple"
	"dkv/store/engine"

	"pgregory.net/rapid"
)

// naive remembers every batch that it ever applied, and what came of it.
type naive struct {
	newest  map[uint64]uint64 // incarnation by member
	applied map[batchID][]engine.Result
	given   map[batchID]bool            // given up by its proposer
	void    map[batchID]map[uint64]bool // operations that were, of one that was not
	db      engine.Engine
}

type batchID struct{ member, incarnation, slot, seq uint64 }

func (n *naive) apply(b *command.Batch) (results []engine.Result, ok bool) {
	id := batchID{b.Member, b.Incarnation, b.Slot, b.Seq}
	if b.Incarnation < n.newest[b.Member] {
		return nil, false
	}
	if n.given[id] {
		return nil, false
	}
	for other := range n.applied {
		if other.member == id.member && other.incarnation == id.incarnation && other.slot == id.slot && other.seq > id.seq {
			return nil, false
		}
	}
	n.newest[b.Member] = b.Incarnation
	for slot, low := range b.Low {
		for seq := range low {
			n.given[batchID{b.Member, b.Incarnation, uint64(slot), seq}] = true
		}
	}
	defer func() {
		for _, v := range b.Void {
			id := batchID{b.Member, b.Incarnation, v.Slot, b.Low[v.Slot]}
			if n.void[id] == nil {
				n.void[id] = make(map[uint64]bool)
			}
			n.void[id][v.Op] = true
		}
	}()
	if results, again := n.applied[id]; again {
		return results, true
	}
	for i := range b.Ops {
		if n.void[id][uint64(i)] {
			results = append(results, engine.Result{Refusal: engine.Forgotten})
		} else {
			results = append(results, n.db.Apply(&b.Ops[i], b.Limit))
		}
	}
	n.applied[id] = results
	return results, true
}

func TestSessionsDoWhatOneThatForgetsNothingDoes(t *testing.T) {
	var again, refused, loads, void int
	checkMany(t, func(t *rapid.T) {
		db, ses := maple.Factory.New(engine.Options{}), make(sessions)
		twin := &naive{
			newest:  make(map[uint64]uint64),
			applied: make(map[batchID][]engine.Result),
			given:   make(map[batchID]bool),
			void:    make(map[batchID]map[uint64]bool),
			db:      maple.New(engine.Options{}),
		}
		for range rapid.IntRange(1, 60).Draw(t, "batches") {
			if rapid.IntRange(0, 9).Draw(t, "what") == 0 {
				// From here on it is one that was loaded from a snapshot.
				f, loaded := reload(t, &frozen{view: db.View(), sessions: ses, clients: new(once.Clients)})
				db, ses = loaded, f.sessions
				loads++
			}
			b := command.Batch{
				Member:      rapid.Uint64Range(1, 2).Draw(t, "member"),
				Incarnation: rapid.Uint64Range(1, 3).Draw(t, "incarnation"),
				Slot:        rapid.Uint64Range(0, 1).Draw(t, "slot"),
				Seq:         rapid.Uint64Range(1, 6).Draw(t, "seq"),
			}
			b.Limit = rapid.SampledFrom([]int64{0, 1, 1 << 20}).Draw(t, "limit")
			b.Low[b.Slot] = b.Seq
			b.Low[1-b.Slot] = rapid.Uint64Range(0, 4).Draw(t, "low")
			for op := range uint64(3) {
				if rapid.IntRange(0, 3).Draw(t, "void") == 0 {
					b.Void = append(b.Void, command.Voided{Slot: 1 - b.Slot, Op: op})
				}
			}
			for range rapid.IntRange(0, 3).Draw(t, "operations") {
				b.Ops = append(b.Ops, engine.Op{
					Kind: rapid.SampledFrom([]engine.Kind{engine.Set, engine.SetIfUnset, engine.Delete}).Draw(t, "kind"),
					Key:  fmt.Sprint(rapid.IntRange(0, 2).Draw(t, "key")),
				})
			}
			before := db.Revision()
			copied := ses.clone()
			frozenBytes := copied.bytes()
			want, wantOK := twin.apply(&b)
			got, ok := ses.apply(&b, func(i int) engine.Result { return db.Apply(&b.Ops[i], b.Limit) })
			if ok != wantOK || !slices.Equal(got, want) {
				t.Fatalf("%v: got %v, %t; want %v, %t", b, got, ok, want, wantOK)
			}
			if db.Revision() != twin.db.Revision() {
				t.Fatalf("%v: revision %d, want %d", b, db.Revision(), twin.db.Revision())
			}
			if !bytes.Equal(copied.bytes(), frozenBytes) {
				t.Fatalf("%v changed a clone", b)
			}
			for _, r := range got {
				if r.Refusal == engine.Forgotten {
					void++
				}
			}
			switch {
			case !ok:
				refused++
			case before == db.Revision() && len(got) > 0 && got[0].Done:
				again++
			}
		}
		a, b := db.View(), twin.db.View()
		defer a.Release()
		defer b.Release()
		if a.Checksum() != b.Checksum() {
			t.Fatal("the states differ")
		}
	})
	if again == 0 || refused == 0 || loads == 0 || void == 0 {
		t.Errorf("%d repetitions, %d refusals, %d loads, %d void operations", again, refused, loads, void)
	}
}

func (s sessions) bytes() (b []byte) {
	for _, member := range []uint64{1, 2} {
		if s[member] != nil {
			b = s[member].append(b, member)
		}
	}
	return b
}

type fataler interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
}

// reload saves f and loads it again; the two must be equal.
func reload(t fataler, f *frozen) (*frozen, engine.Engine) {
	t.Helper()
	var saved bytes.Buffer
	if err := f.save(&saved); err != nil {
		t.Fatal(err)
	}
	sum := f.view.Checksum()
	f.view.Release()
	again, db, err := load(&saved, maple.Factory, engine.Options{})
	if err != nil {
		t.Fatalf("what was saved is not accepted: %v", err)
	}
	if again.applied != f.applied || again.ticks != f.ticks || !equalSessions(again.sessions, f.sessions) ||
		!bytes.Equal(again.clients.Append(nil), f.clients.Append(nil)) {
		t.Fatalf("saved %v, loaded %v", f, again)
	}
	v := db.View()
	defer v.Release()
	if v.Checksum() != sum {
		t.Fatal("the engine's state differs")
	}
	return again, db
}

func equalSessions(a, b sessions) bool {
	if len(a) != len(b) {
		return false
	}
	for member := range a {
		if b[member] == nil || !bytes.Equal(a[member].append(nil, member), b[member].append(nil, member)) {
			return false
		}
	}
	return true
}

// sampleSnapshots are of states of all sorts.
func sampleSnapshots(t fataler) (samples [][]byte) {
	db, ses, clients := maple.Factory.New(engine.Options{}), make(sessions), new(once.Clients)
	sample := func() {
		f := &frozen{view: db.View(), sessions: ses, clients: clients, applied: 77, ticks: 3}
		defer f.view.Release()
		var b bytes.Buffer
		if err := f.save(&b); err != nil {
			t.Fatal(err)
		}
		samples = append(samples, b.Bytes())
	}
	sample()
	for n := range uint64(4) {
		b := &command.Batch{Member: 1 + n%2, Incarnation: 1, Slot: n / 2, Seq: 1 + n}
		for i := range 5 {
			b.Ops = append(b.Ops,
				engine.Op{Kind: engine.Set, Key: fmt.Sprint(n, i), Value: []byte("value"), DeleteIn: 100},
				engine.Op{Kind: engine.SetIfUnset, Space: engine.Locks, Key: fmt.Sprint(i), Value: []byte("id"), ExpireIn: 7},
				engine.Op{Kind: engine.Delete, Key: "none"},
				engine.Op{Kind: engine.Expire, Key: fmt.Sprint(n, 1)})
		}
		ses.apply(b, func(i int) engine.Result { return db.Apply(&b.Ops[i], b.Limit) })
		db.Tick(50, 20)
		id := once.ID{Client: clients.Enrol(5, db.Now()), Nonce: 5, Seq: n + 2, Low: 2}
		clients.Do(id, db.Now(), func() engine.Result { return engine.Result{Done: n > 0, Revision: n} })
		sample()
	}
	return samples
}

func TestSnapshotThatWasCutOrDamagedIsRefused(t *testing.T) {
	samples := sampleSnapshots(t)
	good := samples[len(samples)-1]
	if _, _, err := load(bytes.NewReader(good), maple.Factory, engine.Options{}); err != nil {
		t.Fatal(err)
	}
	for cut := range good {
		if _, _, err := load(bytes.NewReader(good[:cut]), maple.Factory, engine.Options{}); !errors.Is(err, block.ErrCorrupt) {
			t.Fatalf("cut at %d: %v", cut, err)
		}
	}
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 1 << (i % 8)
		if _, _, err := load(bytes.NewReader(bad), maple.Factory, engine.Options{}); !errors.Is(err, block.ErrCorrupt) {
			t.Fatalf("damaged at %d: %v", i, err)
		}
	}
}

// FuzzLoad takes the payloads of a snapshot's blocks, so that the checksums do
// not keep the fuzzer out: whatever is accepted can be saved and is the same
// when it is loaded again.
func FuzzLoad(f *testing.F) {
	for _, sample := range sampleSnapshots(f) {
		var payloads [][]byte
		blocks := block.NewReader(bytes.NewReader(sample))
		for {
			b, err := blocks.Next()
			if err != nil {
				break
			}
			payloads = append(payloads, bytes.Clone(b))
		}
		// As many as the fuzzer has arguments: header, two sessions, clients, the
		// engine's header, entries and end.
		for len(payloads) < 7 {
			payloads = append(payloads, nil)
		}
		f.Add(payloads[0], payloads[1], payloads[2], payloads[3], payloads[4], payloads[5], payloads[6])
	}
	f.Fuzz(func(t *testing.T, a, b, c, d, e, g, h []byte) {
		var stream bytes.Buffer
		w := block.NewWriter(&stream)
		for _, payload := range [][]byte{a, b, c, d, e, g, h} {
			if len(payload) > 0 {
				w.Write(payload)
			}
		}
		loaded, db, err := load(&stream, maple.Factory, engine.Options{})
		if err != nil {
			return
		}
		loaded.view = db.View()
		reload(t, loaded)
	})
}

// FuzzLoadBytes takes a snapshot as it is.
func FuzzLoadBytes(f *testing.F) {
	for _, sample := range sampleSnapshots(f) {
		f.Add(sample)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		loaded, db, err := load(bytes.NewReader(b), maple.Factory, engine.Options{})
		if (err == nil) != (db != nil && !reflect.ValueOf(db).IsNil()) {
			t.Fatalf("%v, %v", db, err)
		}
		if err == nil {
			loaded.view = db.View()
			reload(t, loaded)
		}
	})
}
