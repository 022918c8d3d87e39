package enginetest

import (
	"bytes"
	"fmt"
	"math"
	"reflect"
	"slices"
	"sync/atomic"
	"time"
	"unsafe"

	"dkv/store"
	"dkv/store/engine"

	"pgregory.net/rapid"
)

// The second unit is so much longer than the first that an engine which sorts
// deadlines by ranges of time has them in other ranges.
var walkChecks = []check{
	{"RandomWalkByAClockAgreesWithTheNaiveEngine", walkCheck(false, 1)},
	{"RandomWalkByAClockOverHoursAgreesWithTheNaiveEngine", walkCheck(false, time.Hour)},
	{"RandomWalkByTicksAgreesWithTheNaiveEngine", walkCheck(true, 1)},
	{"RandomWalkByTicksOverHoursAgreesWithTheNaiveEngine", walkCheck(true, time.Hour)},
}

func walkCheck(ticks bool, unit time.Duration) func(rapid.TB, engine.Factory) {
	return func(t rapid.TB, f engine.Factory) { rapid.Check(t, Walk(f, ticks, unit)) }
}

// Walk returns a property for [rapid.Check] or [rapid.MakeFuzz]: that an engine of
// f, which gets random calls, shows the same as a naive one. Its time moves by
// ticks or by a clock. Durations are a few units long, and a little more or less.
func Walk(f engine.Factory, ticks bool, unit time.Duration) func(*rapid.T) {
	return func(t *rapid.T) {
		w := newWalk(t, f, ticks, unit)
		t.Repeat(map[string]func(*rapid.T){
			"set":               w.set,
			"change":            w.change,
			"transact":          w.transact,
			"do within a limit": w.doWithinLimit,
			"time":              w.time,
			"reap":              w.reap,
			"view":              w.view,
			"scan":              w.scan,
			"release":           w.release,
			"save and load":     w.saveAndLoad,
			"skip":              w.skip,
			"":                  w.check,
		})
		w.end(t)
	}
}

// walkKeys have prefixes of each other and the least and greatest bytes among them,
// which tell orders of keys apart.
var walkKeys = []string{"a", "a\x00", "aa", "b", "c", "dd", "\x00", "\xff", "\xff\xfe", "0123456789abcdef"}

var walkValues = []string{"", "x", "xx", "xy", "xyz", "7", "8", "-3", "9223372036854775800", "a value of some length", string(make([]byte, 300))}

// walkSpaces has the first more often, so that much happens to one key.
var walkSpaces = []engine.Space{
	engine.Keys, engine.Keys, engine.Keys, engine.Keys, engine.Keys, engine.Keys,
	engine.Locks, engine.Locks, engine.Shared, engine.Waiters,
}

// walk is one random walk.
type walk struct {
	factory engine.Factory
	ticks   bool
	unit    time.Duration
	clock   atomic.Int64 // without ticks
	keys    []string     // those of walkKeys that are used

	engine, twin engine.Engine

	// shadow gets the same calls as the engine, but no views are held of it and
	// it is not saved and loaded: it has to come to the same state. It is nil if
	// there is a clock, as an engine by a clock need not be deterministic.
	shadow engine.Engine

	views []viewPair
	held  []held

	// What the engine and the twin have told of, since both were last compared.
	told, twinTold []engine.Change

	// What was written since the last tick, and between the last two.
	open, settling batch
}

// viewPair is two views of the same moment.
type viewPair struct {
	got, want engine.View
	checksum  uint64
}

// held is a value that the engine has returned, which is not to change.
type held struct {
	value []byte
	copy  string
}

// batch is what was written with deadlines between two ticks. Some of it may be
// gone since.
type batch struct {
	any      bool
	shortest time.Duration
}

func newWalk(t *rapid.T, f engine.Factory, ticks bool, unit time.Duration) *walk {
	w := &walk{factory: f, ticks: ticks, unit: unit}
	w.keys = rapid.Permutation(walkKeys).Draw(t, "keys")[:rapid.IntRange(1, len(walkKeys)).Draw(t, "number of keys")]
	w.engine, w.twin = f.New(w.telling(&w.told)), Naive.New(w.telling(&w.twinTold))
	if ticks {
		w.shadow = f.New(w.options())
	}
	w.open.shortest, w.settling.shortest = never, never
	return w
}

// telling returns the options of an engine that tells of its changes.
func (w *walk) telling(told *[]engine.Change) engine.Options {
	opts := w.options()
	opts.Changed = func(c engine.Change) { *told = append(*told, c) }
	return opts
}

func (w *walk) options() engine.Options {
	if w.ticks {
		return engine.Options{}
	}
	return engine.Options{Now: func() time.Duration { return time.Duration(w.clock.Load()) }}
}

// op draws an operation of one of the kinds.
func (w *walk) op(t *rapid.T, kinds ...engine.Kind) engine.Op {
	op := engine.Op{Kind: rapid.SampledFrom(kinds).Draw(t, "kind")}
	if op.Kind == engine.Transact {
		op.Txn = w.txn(t)
		return op
	}
	op.Space, op.Key = w.place(t)
	e, there := w.twin.Entry(op.Space, op.Key)
	if op.Kind.HasValue() {
		op.Value = []byte(rapid.SampledFrom(walkValues).Draw(t, "value"))
		compares := op.Kind == engine.DeleteIfValue || op.Kind == engine.RenewIfValue
		if compares && there && rapid.IntRange(0, 2).Draw(t, "its value") > 0 {
			op.Value = e.Value
		}
	}
	if op.Kind.HasRevision() {
		op.At = w.revision(t, e)
	}
	if op.Kind.HasDeadlines() {
		op.ExpireIn = w.duration(t, "expire")
		op.DeleteIn = w.duration(t, "delete")
	}
	if op.Kind == engine.Add {
		op.Delta = rapid.SampledFrom([]int64{1, -1, 0, 10, math.MaxInt64, math.MinInt64}).Draw(t, "delta")
	}
	return op
}

func (w *walk) place(t *rapid.T) (engine.Space, string) {
	space := rapid.SampledFrom(walkSpaces).Draw(t, "space")
	return space, rapid.SampledFrom(w.keys).Draw(t, "key")
}

// revision is most often that of the entry e, which may not be there.
func (w *walk) revision(t *rapid.T, e store.Entry) uint64 {
	rev := uint64(e.Revision)
	return rapid.SampledFrom([]uint64{rev, rev, rev, rev + 1, rev - 1, 0}).Draw(t, "revision")
}

var (
	writeKinds  = []engine.Kind{engine.Set, engine.Set, engine.SetIfUnset, engine.SetIfRevision}
	changeKinds = []engine.Kind{engine.Expire, engine.Delete, engine.DeleteIfValue, engine.DeleteIfRevision, engine.RenewIfValue, engine.Add, engine.Add}
	singleKinds = slices.Concat(writeKinds, changeKinds)
	allKinds    = append(singleKinds[:len(singleKinds):len(singleKinds)], engine.Transact, engine.Transact)
	txnKinds    = append(singleKinds[:len(singleKinds):len(singleKinds)], engine.Get, engine.Get)
)

func (w *walk) txn(t *rapid.T) *engine.Txn {
	x := new(engine.Txn)
	for range rapid.IntRange(0, 2).Draw(t, "conditions") {
		c := engine.Cond{Kind: engine.CondKind(rapid.IntRange(1, int(engine.CondKinds)-1).Draw(t, "condition"))}
		c.Space, c.Key = w.place(t)
		e, _ := w.twin.Entry(c.Space, c.Key)
		switch c.Kind {
		case engine.RevisionIs, engine.TokenIs:
			c.At = w.revision(t, e)
		case engine.ValueIs:
			if c.Value = e.Value; rapid.Bool().Draw(t, "another value") {
				c.Value = []byte(rapid.SampledFrom(walkValues).Draw(t, "value"))
			}
		}
		x.If = append(x.If, c)
	}
	for _, branch := range []*[]engine.Op{&x.Then, &x.Else} {
		written := make(map[place]bool)
		for range rapid.IntRange(0, 4).Draw(t, "operations") {
			op := w.op(t, txnKinds...)
			at := place{op.Space, op.Key}
			if op.Kind != engine.Get && written[at] {
				continue
			}
			written[at] = written[at] || op.Kind != engine.Get
			*branch = append(*branch, op)
		}
	}
	return x
}

func (w *walk) duration(t *rapid.T, name string) time.Duration {
	if rapid.Bool().Draw(t, "no "+name) {
		return 0
	}
	return w.units(t, rapid.IntRange(1, 10).Draw(t, name))
}

// units is n units, or a little more or less.
func (w *walk) units(t *rapid.T, n int) time.Duration {
	more := rapid.SampledFrom([]time.Duration{0, 0, 0, -1, 1}).Draw(t, "more")
	return max(0, time.Duration(n)*w.unit+more)
}

func (w *walk) set(t *rapid.T) {
	for range rapid.IntRange(1, 5).Draw(t, "sets") {
		w.do(t, w.op(t, writeKinds...), 0)
	}
}

func (w *walk) change(t *rapid.T) {
	for range rapid.IntRange(1, 8).Draw(t, "changes") {
		w.do(t, w.op(t, changeKinds...), 0)
	}
}

func (w *walk) transact(t *rapid.T) {
	for range rapid.IntRange(1, 3).Draw(t, "transactions") {
		w.do(t, w.op(t, engine.Transact), 0)
	}
}

// doWithinLimit does an operation that may be turned away. Whether it is has to
// follow from the size that it leads to, which another engine tells.
func (w *walk) doWithinLimit(t *rapid.T) {
	op := w.op(t, allKinds...)
	other := loadedFrom(t, w.factory, savedBy(t, w.engine), w.options())
	before := infoOf(other).Size
	other.Apply(&op, 0)
	after := infoOf(other).Size
	limit := rapid.SampledFrom([]int64{1, before - 1, before, before + 1, after - 1, after, after + 1}).Draw(t, "limit")
	if limit <= 0 {
		return // that would be none
	}
	got := w.do(t, op, limit)
	full := got.Refusal == engine.Full
	if want := after > before && after > limit; full != want {
		t.Fatalf("%+v takes the size from %d to %d, the limit is %d: got %+v", op, before, after, limit, got)
	}
	if size := infoOf(w.engine).Size; !full && size != after {
		t.Fatalf("%+v took the size from %d to %d, but to %d in an engine that was loaded", op, before, size, after)
	}
}

// do has all engines do one operation. What the engine turns away, the twin does
// not get.
func (w *walk) do(t *rapid.T, op engine.Op, limit int64) engine.Result {
	if value, ok := w.engine.Get(op.Space, op.Key); ok {
		w.held = append(w.held[max(0, len(w.held)-20):], held{value, string(value)})
	}
	got := applyAndScramble(w.engine, op, limit)
	if w.shadow != nil {
		if same := applyAndScramble(w.shadow, op, limit); !equalResults(same, got) {
			t.Fatalf("%+v within %d: got %+v, and %+v of an engine that had the same calls", op, limit, got, same)
		}
	}
	if got.Refusal == engine.Full {
		if limit == 0 || got != (engine.Result{Refusal: engine.Full}) {
			t.Fatalf("%+v within %d: got %+v", op, limit, got)
		}
		return got
	}
	if want := w.twin.Apply(&op, 0); !equalResults(got, want) {
		t.Fatalf("%s within %d: got %s, want %s", showOp(op), limit, showResult(got), showResult(want))
	}
	switch {
	case op.Kind != engine.Transact && got.Done:
		w.open.add(op)
	case op.Kind == engine.Transact && got.Txn != nil:
		for _, op := range slices.Concat(op.Txn.Then, op.Txn.Else) {
			w.open.add(op)
		}
	}
	return got
}

func (b *batch) add(op engine.Op) {
	for _, d := range []time.Duration{op.ExpireIn, op.DeleteIn} {
		if d != 0 {
			b.any = true
			b.shortest = min(b.shortest, d)
		}
	}
}

func equalResults(a, b engine.Result) bool { return reflect.DeepEqual(a, b) }

func showResult(r engine.Result) string {
	if r.Txn == nil {
		return fmt.Sprintf("%+v", r)
	}
	return fmt.Sprintf("%+v with %+v", r, *r.Txn)
}

func showOp(op engine.Op) string {
	if op.Txn == nil {
		return fmt.Sprintf("%+v", op)
	}
	return fmt.Sprintf("%+v", *op.Txn)
}

// applyAndScramble applies op, and then overwrites the memory that its keys and
// values stand in, since the engine has copied them.
func applyAndScramble(e engine.Engine, op engine.Op, limit int64) engine.Result {
	var scrambled [][]byte
	copied := func(key *string, value *[]byte) {
		k := []byte(*key)
		*key, *value = unsafe.String(unsafe.SliceData(k), len(k)), bytes.Clone(*value)
		scrambled = append(scrambled, k, *value)
	}
	copied(&op.Key, &op.Value)
	if t := op.Txn; t != nil {
		op.Txn = &engine.Txn{If: slices.Clone(t.If), Then: slices.Clone(t.Then), Else: slices.Clone(t.Else)}
		for i := range op.Txn.If {
			copied(&op.Txn.If[i].Key, &op.Txn.If[i].Value)
		}
		for _, branch := range [][]engine.Op{op.Txn.Then, op.Txn.Else} {
			for i := range branch {
				copied(&branch[i].Key, &branch[i].Value)
			}
		}
	}
	res := e.Apply(&op, limit)
	for _, b := range scrambled {
		for i := range b {
			b[i] = 0xdb
		}
	}
	return res
}

func (w *walk) time(t *rapid.T) {
	for range rapid.IntRange(1, 3).Draw(t, "times") {
		elapsed := w.units(t, rapid.IntRange(0, 5).Draw(t, "elapsed"))
		if !w.ticks {
			w.clock.Add(int64(elapsed))
			continue
		}
		lag := time.Duration(rapid.Int64Range(0, int64(elapsed)).Draw(t, "lag"))
		for _, e := range []engine.Engine{w.engine, w.twin, w.shadow} {
			e.Tick(elapsed, lag)
		}
		w.settling, w.open = w.open, batch{shortest: never}
	}
}

func (w *walk) reap(t *rapid.T) {
	limit := rapid.SampledFrom([]int{0, 1, 1, 2, 3, 100}).Draw(t, "limit")
	got := w.engine.Reap(limit)
	if want := w.twin.Reap(limit); got != want {
		t.Fatalf("%d deadlines were carried out, want %d", got, want)
	}
	if w.shadow != nil {
		if same := w.shadow.Reap(limit); same != got {
			t.Fatalf("%d deadlines were carried out, and %d by an engine that had the same calls", got, same)
		}
	}
	if at, ok := w.engine.NextDeadline(); ok && got < limit && at <= w.engine.Now() {
		t.Fatalf("all deadlines that have come by %d are carried out, but the next is at %d", w.engine.Now(), at)
	}
}

func (w *walk) view(t *rapid.T) {
	if len(w.views) == 4 {
		t.Skip("there are enough views")
	}
	got := w.engine.View()
	w.views = append(w.views, viewPair{got: got, want: w.twin.View(), checksum: got.Checksum()})
}

func (w *walk) release(t *rapid.T) {
	if len(w.views) == 0 {
		t.Skip("there is no view")
	}
	i := rapid.IntRange(0, len(w.views)-1).Draw(t, "view")
	w.views[i].release()
	w.views = slices.Delete(w.views, i, i+1)
}

func (p viewPair) release() {
	p.want.Release()
	p.got.Release()
	p.got.Release() // which changes nothing
}

// someView draws one of the open views, or opens one, to be given up by done.
func (w *walk) someView(t *rapid.T) (p viewPair, isNew bool, done func()) {
	if i := rapid.IntRange(0, len(w.views)).Draw(t, "view"); i < len(w.views) {
		return w.views[i], false, func() {}
	}
	p = viewPair{got: w.engine.View(), want: w.twin.View()}
	return p, true, p.release
}

// scan compares some entries of a view, up to where the scan is left.
func (w *walk) scan(t *rapid.T) {
	p, _, done := w.someView(t)
	defer done()
	bound := rapid.SampledFrom(append([]string{"", "", "a\x01", "0", "zz", "\xff\xff"}, walkKeys...))
	space := engine.Space(rapid.IntRange(0, int(engine.Spaces)-1).Draw(t, "space"))
	from, to := bound.Draw(t, "from"), bound.Draw(t, "to")
	reverse := rapid.Bool().Draw(t, "reverse")
	most := rapid.IntRange(1, len(walkKeys)).Draw(t, "most")
	got, want := scanned(p.got, space, from, to, reverse, most), scanned(p.want, space, from, to, reverse, most)
	if !slices.EqualFunc(got, want, equalEntries) {
		t.Fatalf("scan of %q to %q in space %d, reverse %v: got %v, want %v", from, to, space, reverse, got, want)
	}
}

// saveAndLoad compares what is loaded. The walk goes on with it if no view holds on
// to the engine that was saved, by a clock that may read less than the one before.
// Deadlines that have come are carried out before that: by the new clock they would
// have come before its first reading, and an engine need not know in which order.
func (w *walk) saveAndLoad(t *rapid.T) {
	otherClock := !w.ticks && len(w.views) == 0 && rapid.Bool().Draw(t, "another clock")
	if otherClock {
		w.reapAll()
	}
	p, isNew, done := w.someView(t)
	got, want := save(t, p.got), save(t, p.want)
	checksum := p.got.Checksum()
	done()

	if otherClock {
		w.clock.Store(rapid.Int64Range(0, 20).Draw(t, "clock"))
	}
	loaded := loadedFrom(t, w.factory, got, w.telling(&w.told))
	twin := loadedFrom(t, Naive, want, w.telling(&w.twinTold))
	if err := w.compare(loaded, twin); err != nil {
		t.Fatalf("loaded: %v", err)
	}
	if isNew {
		if err := w.compareUnsettled(loaded, twin); err != nil {
			t.Fatalf("loaded: %v", err)
		}
		if was, is := infoOf(w.engine).Size, infoOf(loaded).Size; was != is {
			t.Fatalf("loaded: the size was %d when it was saved, and is %d", was, is)
		}
	}
	if w.ticks {
		if sum := checksumOf(loaded); sum != checksum {
			t.Fatalf("loaded: the checksum was %x when it was saved, and is %x", checksum, sum)
		}
	}
	if len(w.views) == 0 {
		w.engine, w.twin = loaded, twin
	}
}

// skip leaves revisions out, as a store does that begins with what was loaded.
func (w *walk) skip(t *rapid.T) {
	if len(w.views) > 0 {
		t.Skip("a view is open")
	}
	n := rapid.SampledFrom([]uint64{1, 3, 1 << 40}).Draw(t, "revisions")
	for _, e := range []engine.Engine{w.engine, w.twin, w.shadow} {
		if e != nil {
			e.Skip(n)
		}
	}
}

// end checks that nothing is left of views, and that the size is that of what is
// there, however it came there.
func (w *walk) end(t *rapid.T) {
	for _, i := range rapid.Permutation([]int{0, 1, 2, 3}).Draw(t, "order of releases") {
		if i < len(w.views) {
			w.views[i].release()
		}
	}
	w.views = nil
	w.check(t)
	checkInvariants(t, w.engine)

	// What is left has no deadlines, so that it can be written anew.
	w.reapAll()
	again := w.factory.New(engine.Options{})
	var left []engine.Op
	for space := range engine.Spaces {
		for _, e := range allOf(w.twin, space) {
			if e.Expired || e.ExpireIn != 0 || e.DeleteIn != 0 {
				w.removeBoth(space, e.Key)
				continue
			}
			op := engine.Op{Kind: engine.Set, Space: space, Key: e.Key, Value: e.Value}
			again.Apply(&op, 0)
			left = append(left, op)
		}
	}
	if a, b := infoOf(w.engine).Size, infoOf(again).Size; a != b {
		t.Fatalf("the size is %d, and %d of an engine to which the same %d entries were written: %v", a, b, len(left), left)
	}
	for _, op := range left {
		w.removeBoth(op.Space, op.Key)
	}
	if info := infoOf(w.engine); info.Size != 0 || info.Keys != 0 || info.Locks != 0 || info.Bytes != 0 {
		t.Fatalf("all is deleted, but this is left: %+v", info)
	}
	if err := w.compare(w.engine, w.twin); err != nil {
		t.Fatal(err)
	}
	checkInvariants(t, w.engine)
}

func (w *walk) reapAll() {
	for _, e := range []engine.Engine{w.engine, w.twin} {
		e.Reap(math.MaxInt32)
	}
}

func (w *walk) removeBoth(space engine.Space, key string) {
	for _, e := range []engine.Engine{w.engine, w.twin} {
		e.Apply(&engine.Op{Kind: engine.Delete, Space: space, Key: key}, 0)
	}
}
