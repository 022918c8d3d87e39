package enginetest

import (
	"fmt"
	"slices"
	"time"

	"dkv/store"
	"dkv/store/engine"

	"pgregory.net/rapid"
)

var stateChecks = []check{
	{"ChecksumTellsStatesApart", func(t rapid.TB, f engine.Factory) {
		of := make(map[uint64]string)
		for _, s := range distinctStates {
			sum, again := s.checksum(f), s.checksum(f)
			if sum != again {
				t.Errorf("%q has the checksums %x and %x", s.name, sum, again)
			}
			if other, ok := of[sum]; ok {
				t.Errorf("%q and %q have the same checksum", s.name, other)
			}
			of[sum] = s.name
		}
	}},
	{"ViewHoldsWhileTheStateGrowsAndShrinks", func(t rapid.TB, f engine.Factory) {
		e := f.New(standing())
		key := func(i int) string { return fmt.Sprintf("%d-%06d", i%7, i) }
		few, many := 100, rounds(20_000, 5_000)
		for i := range few {
			set(e, key(i), "old", 0, 0)
		}
		small := e.View()
		sum := small.Checksum()
		want := scanned(small, engine.Keys, "", "", false, 0)
		for i := range many {
			set(e, key(i), "new", 0, 0)
		}
		large := e.View()
		for i := range many {
			change(e, engine.Delete, key(i))
		}
		if n := len(scanned(large, engine.Keys, "", "", true, 0)); n != many {
			t.Errorf("a view of %d keys shows %d after they were deleted", many, n)
		}
		large.Release()
		if got := scanned(small, engine.Keys, "", "", false, 0); !slices.EqualFunc(got, want, equalEntries) || len(got) != few || small.Checksum() != sum {
			t.Errorf("a view of %d keys shows %d, or others, after many more came and went", few, len(got))
		}
		small.Release()
		if info := infoOf(e); info.Keys != 0 || info.Size != 0 || info.Retained != 0 || info.RetainedBytes != 0 {
			t.Errorf("all is deleted and released, but this is left: %+v", info)
		}
		checkInvariants(t, e)
	}},
	{"ScanShowsNothingOfWhatIsWrittenFromInsideIt", func(t rapid.TB, f engine.Factory) {
		e := f.New(standing())
		for i := range 200 {
			set(e, fmt.Sprintf("%03d", i), "old", 0, 0)
		}
		want := allOf(e, engine.Keys)
		var got []store.Entry
		done := make(chan struct{})
		go func() {
			defer close(done)
			v := e.View()
			defer v.Release()
			v.Scan(engine.Keys, "", "", false, func(entry store.Entry) bool {
				got = append(got, entry)
				// What is here, was there, and comes next.
				i := len(got)
				change(e, engine.Delete, fmt.Sprintf("%03d", i-1))
				change(e, engine.Delete, fmt.Sprintf("%03d", i-2))
				set(e, fmt.Sprintf("%03d", i), "new", 0, 0)
				set(e, fmt.Sprintf("%03d and more", i), "new", 0, 0)
				allOf(e, engine.Keys)
				return i <= len(want)
			})
		}()
		select {
		case <-done:
		case <-time.After(time.Minute):
			t.Fatalf("a scan does not end whose loop writes")
		}
		if !slices.EqualFunc(got, want, equalEntries) {
			t.Errorf("the scan yielded %d entries, or others, of %d that were there", len(got), len(want))
		}
		checkInvariants(t, e)
	}},
}

// distinctState is what calls make of an empty engine without a clock.
type distinctState struct {
	name  string
	calls func(e engine.Engine)
}

func (s distinctState) checksum(f engine.Factory) uint64 {
	e := f.New(engine.Options{})
	s.calls(e)
	return checksumOf(e)
}

// distinctStates are states of which each two either show something different or
// will.
var distinctStates = []distinctState{
	{"empty", func(e engine.Engine) {}},
	{"a second later", func(e engine.Engine) { e.Tick(time.Second, 0) }},
	{"a=x", func(e engine.Engine) { set(e, "a", "x", 0, 0) }},
	{"a=y", func(e engine.Engine) { set(e, "a", "y", 0, 0) }},
	{"b=x", func(e engine.Engine) { set(e, "b", "x", 0, 0) }},
	{"ax=", func(e engine.Engine) { set(e, "ax", "", 0, 0) }},
	{"lock a=x", func(e engine.Engine) {
		e.Apply(&engine.Op{Kind: engine.Set, Space: engine.Locks, Key: "a", Value: []byte("x")}, 0)
	}},
	{"a=x and b=y", func(e engine.Engine) { set(e, "a", "x", 0, 0); set(e, "b", "y", 0, 0) }},
	{"a=y and b=x", func(e engine.Engine) { set(e, "a", "y", 0, 0); set(e, "b", "x", 0, 0) }},
	{"b=y and a=x", func(e engine.Engine) { set(e, "b", "y", 0, 0); set(e, "a", "x", 0, 0) }},
	{"a=x again", func(e engine.Engine) { set(e, "a", "x", 0, 0); set(e, "a", "x", 0, 0) }},
	{"a=x, expired by a call", func(e engine.Engine) { set(e, "a", "x", 0, 0); change(e, engine.Expire, "a") }},
	{"a= again", func(e engine.Engine) { set(e, "a", "x", 0, 0); set(e, "a", "", 0, 0) }},
	{"a=x, deleted", func(e engine.Engine) { set(e, "a", "x", 0, 0); change(e, engine.Delete, "a") }},
	{"a=x for a second", func(e engine.Engine) { set(e, "a", "x", time.Second, 0) }},
	{"a=x for two seconds", func(e engine.Engine) { set(e, "a", "x", 2*time.Second, 0) }},
	{"a for a second", func(e engine.Engine) { set(e, "a", "x", 0, time.Second) }},
	{"a=x for a second, a for two", func(e engine.Engine) { set(e, "a", "x", time.Second, 2*time.Second) }},
	{"a=x for a second, settling", func(e engine.Engine) { set(e, "a", "x", time.Second, 0); e.Tick(0, 0) }},
	{"a=x for a second, settled", func(e engine.Engine) { set(e, "a", "x", time.Second, 0); e.Tick(0, 0); e.Tick(0, 0) }},
	{"a=x for a second, settled with 1 of 9 ms", func(e engine.Engine) {
		set(e, "a", "x", time.Second, 0)
		e.Tick(0, 0)
		e.Tick(9*time.Millisecond, time.Millisecond)
	}},
	{"a=x for a second, settled with 2 of 9 ms", func(e engine.Engine) {
		set(e, "a", "x", time.Second, 0)
		e.Tick(0, 0)
		e.Tick(9*time.Millisecond, 2*time.Millisecond)
	}},
	{"a and b, a expired first", expiredInTurn("a", "b")},
	{"a and b, b expired first", expiredInTurn("b", "a")},
}

// expiredInTurn leaves two keys that look the same whichever expired first, but
// will go in the order in which they expired.
func expiredInTurn(first, second string) func(e engine.Engine) {
	return func(e engine.Engine) {
		expireIn := map[string]time.Duration{first: time.Second, second: 2 * time.Second}
		for _, key := range []string{"a", "b"} {
			set(e, key, "x", expireIn[key], time.Hour)
		}
		e.Tick(0, 0)
		e.Tick(2*time.Second, 0)
		e.Reap(2)
	}
}
