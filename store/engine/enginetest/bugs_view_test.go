package enginetest

import (
	"bytes"
	"cmp"
	"errors"
	"io"
	"maps"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"dkv/store"
	"dkv/store/engine"

	"github.com/cespare/xxhash/v2"
)

var viewBugs = []bug{
	{
		name: "ViewShowsLaterWrites",
		caughtBy: []string{byAnyWalk, "ViewHoldsWhileTheState", "ViewHoldsWhileWriters", "ViewShowsExactly", "ScanShowsNothing",
			"ReadersMayLook"},
		plant: func(b *broken) {
			b.onView = func(v *brokenView) {
				v.entry = b.naive.Entry
				v.scan = func(space engine.Space, from, to string, reverse bool, yield func(store.Entry) bool) {
					for last := ""; ; {
						var e store.Entry
						found := false
						b.onState(func(s *state) {
							from, to := from, to
							if last != "" && reverse {
								to = last
							} else if last != "" {
								from = last + "\x00"
							}
							s.scan(space, from, to, reverse, func(next store.Entry) bool {
								e, found = next, true
								return false
							})
						})
						if !found || !yield(e) {
							return
						}
						last = e.Key
					}
				}
			}
		},
	},
	{name: "ViewShowsTimePass", caughtBy: []string{byAnyWalk}, plant: func(b *broken) {
		b.onView = func(v *brokenView) {
			v.entry = func(space engine.Space, key string) (store.Entry, bool) {
				s := v.state.clone()
				s.now = b.Now()
				return s.entry(place{space, key})
			}
		}
	}},
	{name: "ViewsWrittenTogetherShareOneState", caughtBy: []string{byAnyWalk, "HistoryWithViews", "ViewShowsExactly"}, plant: func(b *broken) {
		// A view is good enough for those that are opened soon after it.
		var mu sync.Mutex
		var last *view
		uses := 0
		b.view = func() *view {
			mu.Lock()
			defer mu.Unlock()
			fresh := b.naive.View().(*view)
			if last == nil || uses == 10 {
				last, uses = fresh, 0
			}
			uses++
			fresh.state.records = last.state.records
			return fresh
		}
	}},
	{name: "ReverseScanIsForward", caughtBy: []string{byAnyWalk, "ViewHoldsWhileWriters"}, plant: func(b *broken) {
		b.onView = func(v *brokenView) {
			v.scan = func(space engine.Space, from, to string, _ bool, yield func(store.Entry) bool) {
				v.view.Scan(space, from, to, false, yield)
			}
		}
	}},
	{name: "ScanIsInAnotherOrder", caughtBy: []string{byAnyWalk}, plant: func(b *broken) {
		b.onView = func(v *brokenView) {
			v.scan = func(space engine.Space, from, to string, reverse bool, yield func(store.Entry) bool) {
				entries := scanned(v.view, space, from, to, false, 0)
				slices.SortFunc(entries, func(a, b store.Entry) int {
					return cmp.Or(cmp.Compare(len(a.Key), len(b.Key)), cmp.Compare(a.Key, b.Key))
				})
				if reverse {
					slices.Reverse(entries)
				}
				for _, e := range entries {
					if !yield(e) {
						return
					}
				}
			}
		}
	}},
	{name: "ScanIncludesItsEnd", caughtBy: []string{byAnyWalk}, plant: func(b *broken) {
		b.onView = func(v *brokenView) {
			v.scan = func(space engine.Space, from, to string, reverse bool, yield func(store.Entry) bool) {
				if to != "" {
					to += "\x00"
				}
				v.view.Scan(space, from, to, reverse, yield)
			}
		}
	}},
	{name: "ScanCannotBeLeft", caughtBy: []string{byAnyWalk}, plant: func(b *broken) {
		b.onView = func(v *brokenView) {
			v.scan = func(space engine.Space, from, to string, reverse bool, yield func(store.Entry) bool) {
				v.view.Scan(space, from, to, reverse, func(e store.Entry) bool { yield(e); return true })
			}
		}
	}},
	{name: "SecondReleaseCountsToo", caughtBy: []string{byAnyWalk}, plant: func(b *broken) {
		b.onView = func(v *brokenView) {
			v.release = func() {
				v.view.Release()
				b.mu.Lock()
				defer b.mu.Unlock()
				for other := range b.mu.views {
					delete(b.mu.views, other)
					break
				}
			}
		}
	}},
	{name: "SomethingIsRetainedForEver", caughtBy: []string{byAnyWalk, "ViewHoldsWhileTheState", "ViewHoldsWhileWriters", "ReadersMayLook"}, plant: func(b *broken) {
		var views atomic.Int64
		b.onView = func(*brokenView) { views.Add(1) }
		b.info = func(info *store.Info) {
			b.naive.Info(info)
			info.Retained += views.Load()
			info.RetainedBytes += views.Load()
		}
	}},
	{name: "ChecksumIsRandom", caughtBy: []string{byTickWalks, "ChecksumTells", "LargeState"}, plant: func(b *broken) {
		seed := instances.Add(1)
		b.onView = func(v *brokenView) {
			v.checksum = func() uint64 { return v.view.Checksum() + seed }
		}
	}},
	{name: "ChecksumCountsViews", caughtBy: []string{byAnyWalk}, plant: func(b *broken) {
		b.onView = func(v *brokenView) {
			v.checksum = func() uint64 { return v.view.Checksum() + uint64(infoOf(b).Views) }
		}
	}},
	{name: "ChecksumLeavesOutWhoExpiredFirst", caughtBy: []string{"ChecksumTells"}, plant: func(b *broken) {
		b.onView = func(v *brokenView) {
			v.checksum = func() uint64 {
				s := v.state.clone()
				for p, r := range s.records {
					r.revision = 0
					s.records[p] = r
				}
				return s.checksum()
			}
		}
	}},
	{name: "ChecksumIsOfKeysAndOfValues", caughtBy: []string{"ChecksumTells"}, plant: func(b *broken) {
		b.onView = func(v *brokenView) {
			v.checksum = func() uint64 {
				s := v.state.clone()
				sum := s.revision
				for p, r := range s.records {
					sum += xxhash.Sum64String(p.key) + xxhash.Sum64(r.value)
				}
				return sum
			}
		}
	}},
}

// instances numbers the engines of one bug.
var instances atomic.Uint64

// onSave has f change what is saved.
func (b *broken) onSave(f func(p place, r *record) (keep bool)) {
	b.onView = func(v *brokenView) {
		v.save = func(w io.Writer) error {
			s := v.state.clone()
			for p, r := range s.records {
				s.records[p] = r
				if !f(p, &r) {
					delete(s.records, p)
				} else {
					s.records[p] = r
				}
			}
			return s.save(w)
		}
	}
}

var streamBugs = []bug{
	{name: "SaveForgetsDeadlines", caughtBy: []string{byAnyWalk, "LoadWithAClock", "LargeState"}, plant: func(b *broken) {
		b.onSave(func(_ place, r *record) bool {
			if !r.expired {
				r.expire, r.delete, r.waits = never, never, 0
			}
			return true
		})
	}},
	{name: "SaveForgetsWhoExpiredFirst", caughtBy: []string{byTickWalks}, plant: func(b *broken) {
		b.onSave(func(_ place, r *record) bool { r.revision = r.written; return true })
	}},
	{name: "SaveLeavesOutWhatIsLarge", caughtBy: []string{"LargeState"}, plant: func(b *broken) {
		b.onSave(func(p place, _ *record) bool { return p.key != "key2999" })
	}},
	{name: "LoadHasWhatWasSettlingOpen", caughtBy: []string{byTickWalks}, load: func(r io.Reader, opts engine.Options) (*naive, error) {
		n, err := loadNaive(r, opts)
		if err != nil {
			return nil, err
		}
		for p, r := range n.mu.state.records {
			if r.waits == 1 {
				r.waits = 2
				n.mu.state.records[p] = r
			}
		}
		return n, nil
	}},
	{name: "LoadTakesDeadlinesForThoseOfItsOwnClock", caughtBy: []string{byClockWalks, "LoadWithAClock"}, load: func(r io.Reader, opts engine.Options) (*naive, error) {
		s, err := load(r)
		if err != nil {
			return nil, err
		}
		n := newNaive(opts)
		s.ticking = opts.Now == nil
		n.mu.state = s
		return n, nil
	}},
	{name: "LoadIgnoresWhatComesBehind", caughtBy: []string{"StreamWithMore"}, load: func(r io.Reader, opts engine.Options) (*naive, error) {
		b, err := io.ReadAll(r)
		if err != nil {
			return nil, err
		}
		if n, err := loadNaive(bytes.NewReader(b), opts); err == nil || len(b) == 0 {
			return n, err
		}
		return loadNaive(bytes.NewReader(b[:len(b)-1]), opts)
	}},
	{name: "LoadDoesNotLookAtTheHash", caughtBy: []string{"DamagedStream"}, load: func(r io.Reader, opts engine.Options) (*naive, error) {
		b, err := io.ReadAll(r)
		if err != nil {
			return nil, err
		}
		lines := b[:max(0, len(b)-len(lastLine(0)))]
		return loadNaive(io.MultiReader(bytes.NewReader(lines), bytes.NewReader([]byte(lastLine(xxhash.Sum64(lines))))), opts)
	}},
	{name: "LoadPanics", caughtBy: []string{"DamagedStream", "ForeignStream"}, load: func(r io.Reader, opts engine.Options) (*naive, error) {
		n, err := loadNaive(r, opts)
		if err != nil {
			panic(err)
		}
		return n, nil
	}},
	{name: "LoadTakesNothingForEmpty", caughtBy: []string{"ForeignStream"}, load: func(r io.Reader, opts engine.Options) (*naive, error) {
		b, err := io.ReadAll(r)
		if err != nil {
			return nil, err
		}
		if len(b) == 0 {
			return newNaive(opts), nil
		}
		return loadNaive(bytes.NewReader(b), opts)
	}},
	{name: "LoadTakesErrorsForTheEnd", caughtBy: []string{"ErrorOfAStream"}, load: func(r io.Reader, opts engine.Options) (*naive, error) {
		b, _ := io.ReadAll(r)
		return loadNaive(bytes.NewReader(b), opts)
	}},
	{name: "SaveIgnoresErrors", caughtBy: []string{"ErrorOfAStream"}, plant: func(b *broken) {
		b.onView = func(v *brokenView) {
			v.save = func(w io.Writer) error {
				if err := v.view.Save(w); errors.Is(err, io.ErrShortWrite) {
					return err
				}
				return nil
			}
		}
	}},
}

var concurrencyBugs = []bug{
	{name: "SetIfUnsetLooksAndThenSets", caughtBy: []string{"AmongConcurrentWriters", "HistoryOfConcurrentCalls"}, plant: func(b *broken) {
		b.apply = func(op *engine.Op, limit int64) engine.Result {
			if op.Kind != engine.SetIfUnset {
				return b.naive.Apply(op, limit)
			}
			if b.Has(op.Space, op.Key) {
				return engine.Result{}
			}
			runtime.Gosched()
			op2 := *op
			op2.Kind = engine.Set
			return b.naive.Apply(&op2, limit)
		}
	}},
	{name: "GetIsStale", caughtBy: []string{"HistoryOfConcurrentCalls"}, plant: func(b *broken) {
		var mu sync.Mutex
		calls, copied := 0, map[place]record{}
		b.get = func(space engine.Space, key string) ([]byte, bool) {
			mu.Lock()
			defer mu.Unlock()
			if calls++; calls%4 == 0 {
				b.onState(func(s *state) { copied = maps.Clone(s.records) })
			}
			r, ok := copied[place{space, key}]
			return r.value, ok && !r.expired
		}
	}},
	{name: "ViewIsMadeInTwoSteps", caughtBy: []string{"ViewHoldsWhileWriters", "ViewShowsExactly"}, plant: func(b *broken) {
		b.view = func() *view {
			first := b.naive.View().(*view)
			for range 10 {
				runtime.Gosched()
			}
			second := b.naive.View().(*view)
			second.Release()
			for p, r := range second.state.records {
				if p.key >= "2" {
					first.state.records[p] = r
				}
			}
			return first
		}
	}},
}
