package feed

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dkv/store"
	"dkv/store/engine"

	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var ended = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// world is a feed with all that ever happened.
type world struct {
	*Feed
	log      []engine.Change // log[i] has revision i+1; the zero change if nobody was told
	watchers []*watched
	lost     int // watches that were told that something is forgotten
}

type watched struct {
	*Watcher
	what store.Watch
	at   int // what lies before it in the log has been seen
}

func newWorld(maxBytes int64) *world {
	w := new(world)
	w.Feed = New(func() uint64 { return uint64(len(w.log)) })
	w.maxBytes = maxBytes
	w.Reset(0)
	return w
}

// change makes some changes and tells of them, not always in their order.
func (w *world) change(t *rapid.T) {
	first := len(w.log)
	n := rapid.IntRange(1, 5).Draw(t, "changes")
	if rapid.IntRange(0, 9).Draw(t, "many") == 0 {
		n = 2 * maxPending
	}
	key := rapid.SampledFrom([]string{"a", "a", "aa", "ab", "b", "ba", "c"})
	for range n {
		c := engine.Change{Revision: uint64(len(w.log) + 1), Type: store.EventSet, Key: key.Draw(t, "key"), Value: []byte(fmt.Sprint(len(w.log)))}
		if rapid.IntRange(0, 5).Draw(t, "space") == 0 {
			c.Space = engine.Locks
		}
		w.log = append(w.log, c)
	}
	told := w.log[first:]
	if n <= 5 {
		told = rapid.Permutation(told).Draw(t, "order")
	}
	for _, c := range told {
		w.Changed(c)
	}
}

// reset has the state become a later one.
func (w *world) reset(t *rapid.T) {
	w.log = append(w.log, make([]engine.Change, rapid.IntRange(0, 3).Draw(t, "changes that nobody tells of"))...)
	w.Reset(uint64(len(w.log)))
}

func (w *world) watch(t *rapid.T) {
	var what store.Watch
	if rapid.Bool().Draw(t, "one key") {
		what.Key = rapid.SampledFrom([]string{"a", "b", "ab"}).Draw(t, "key")
	} else {
		what.Prefix = rapid.SampledFrom([]string{"", "a", "aa", "b"}).Draw(t, "prefix")
	}
	from := rapid.IntRange(0, len(w.log)+2).Draw(t, "from")
	what.From = store.Revision(from)
	watcher, err := w.Watch(engine.Keys, what)
	want := error(nil)
	switch {
	case from > len(w.log)+1:
		want = store.ErrFutureRevision
	case from > 0 && uint64(from) < w.mu.first:
		want = store.ErrCompacted
	}
	if !errors.Is(err, want) {
		t.Fatalf("watch from %d, when there are %d to %d: %v, want %v", from, w.mu.first, len(w.log), err, want)
	}
	if err != nil {
		return
	}
	if from == 0 {
		from = len(w.log) + 1
	}
	w.watchers = append(w.watchers, &watched{watcher, what, from - 1})
}

// take compares what a watcher gets with the log.
func (w *world) take(t *rapid.T, i int) {
	x := w.watchers[i]
	behind, next := x.mu.behind, x.mu.next
	through := x.Through()
	if int(through) <= len(w.log) && int(through)-1 < x.at {
		t.Fatalf("a watch that has seen all before %d would go on from %d", x.at, through)
	}
	changes, err := x.Next(ended)
	for _, c := range changes {
		for x.at < len(w.log) && !x.watches(&w.log[x.at]) {
			x.at++
		}
		if x.at == len(w.log) || !reflect.DeepEqual(c, w.log[x.at]) {
			t.Fatalf("%+v yields %+v, behind %d", x.what, c, x.at)
		}
		x.at++
	}
	switch {
	case errors.Is(err, store.ErrCompacted):
		if !behind || next >= w.mu.first {
			t.Fatalf("%+v is told that it is behind, at %d of %d", x.what, next, w.mu.first)
		}
		w.lost++
		w.leave(i)
	case errors.Is(err, context.Canceled): // there is nothing now
		if behind && next+atOnce < w.mu.next {
			return
		}
		for ; x.at < len(w.log); x.at++ {
			if x.watches(&w.log[x.at]) && w.log[x.at].Revision != 0 {
				t.Fatalf("%+v does not yield %+v", x.what, w.log[x.at])
			}
		}
	case err != nil:
		t.Fatal(err)
	}
}

func (w *world) leave(i int) {
	w.watchers[i].Close()
	w.watchers[i].Close()
	last := len(w.watchers) - 1
	w.watchers[i] = w.watchers[last]
	w.watchers = w.watchers[:last]
}

func TestWatchersSeeWhatChanged(t *testing.T) {
	lost := 0
	for _, maxBytes := range []int64{10 * changeShare, 300 * changeShare, MaxBytes} {
		rapid.Check(t, func(t *rapid.T) {
			w := newWorld(maxBytes)
			some := func(f func(*rapid.T, int)) func(*rapid.T) {
				return func(t *rapid.T) {
					if len(w.watchers) > 0 {
						f(t, rapid.IntRange(0, len(w.watchers)-1).Draw(t, "watcher"))
					}
				}
			}
			t.Repeat(map[string]func(*rapid.T){
				"change": w.change,
				"watch":  w.watch,
				"take":   some(w.take),
				"leave":  some(func(_ *rapid.T, i int) { w.leave(i) }),
				"reset": func(t *rapid.T) {
					if maxBytes < MaxBytes {
						w.reset(t)
					}
				},
				"": func(t *rapid.T) {
					if w.mu.bytes > maxBytes && w.mu.next-w.mu.first > 1 || w.Watchers() != len(w.watchers) || len(w.mu.early) > 0 {
						t.Fatalf("%d bytes, %d watchers, %d early", w.mu.bytes, w.Watchers(), len(w.mu.early))
					}
				},
			})
			for len(w.watchers) > 0 {
				for range w.mu.next/atOnce + 2 {
					if len(w.watchers) > 0 {
						w.take(t, 0)
					}
				}
				if len(w.watchers) > 0 {
					w.leave(0)
				}
			}
			if len(w.mu.keys) > 0 || len(w.mu.prefixes) > 0 {
				t.Fatal("watchers that have left are still there")
			}
			if lost += w.lost; maxBytes == MaxBytes && w.lost > 0 {
				t.Fatal("something is forgotten, though there is room for it")
			}
		})
	}
	if lost == 0 {
		t.Error("no watcher ever fell behind")
	}
}

// TestConcurrentChangesAreSeenInOrder has changes told of by many at once.
func TestConcurrentChangesAreSeenInOrder(t *testing.T) {
	const writers, changes, readers = 4, 2000, 6
	var revision atomic.Uint64
	f := New(revision.Load)
	f.Start()
	var writing, reading sync.WaitGroup
	for i := range readers {
		w, err := f.Watch(engine.Keys, store.Watch{Prefix: strings.Repeat("k", i%2), From: 1})
		if err != nil {
			t.Fatal(err)
		}
		reading.Go(func() {
			defer w.Close()
			for next := uint64(1); next <= writers*changes; {
				got, err := w.Next(context.Background())
				if err != nil {
					t.Error(err)
					return
				}
				for _, c := range got {
					if c.Revision != next {
						t.Errorf("revision %d, want %d", c.Revision, next)
					}
					next = c.Revision + 1
				}
				if i%3 == 0 {
					time.Sleep(time.Millisecond) // it falls behind
				}
			}
		})
	}
	for range writers {
		writing.Go(func() {
			for range changes {
				f.Changed(engine.Change{Revision: revision.Add(1), Key: "k"})
			}
		})
	}
	writing.Wait()
	reading.Wait()
}

func TestWhatChangesBeforeStartIsNotWaitedFor(t *testing.T) {
	for range 200 {
		var revision atomic.Uint64
		f := New(revision.Load)
		var writing sync.WaitGroup
		for range 4 {
			writing.Go(func() {
				for range 50 {
					f.Changed(engine.Change{Revision: revision.Add(1), Key: "k"})
				}
			})
		}
		f.Start()
		w, err := f.Watch(engine.Keys, store.Watch{})
		if err != nil {
			t.Fatal(err)
		}
		writing.Wait()
		if f.mu.next != revision.Load()+1 || len(f.mu.early) > 0 {
			t.Fatalf("after %d changes the next is %d", revision.Load(), f.mu.next)
		}
		w.Close()
	}
}

func TestCloseEndsWhoWaits(t *testing.T) {
	f := New(func() uint64 { return 0 })
	f.Start()
	var waiting sync.WaitGroup
	for i := range 3 {
		w, err := f.Watch(engine.Keys, store.Watch{})
		if err != nil {
			t.Fatal(err)
		}
		waiting.Go(func() {
			if _, err := w.Next(context.Background()); !errors.Is(err, store.ErrClosed) {
				t.Error(err)
			}
		})
		if i == 0 {
			w.Close()
		}
	}
	time.Sleep(time.Millisecond)
	f.Close()
	waiting.Wait()
	if _, err := f.Watch(engine.Keys, store.Watch{}); !errors.Is(err, store.ErrClosed) {
		t.Error(err)
	}
}

func TestEventsEndWithTheirContext(t *testing.T) {
	f := New(func() uint64 { return 0 })
	f.Start()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	w, _ := f.Watch(engine.Keys, store.Watch{})
	unused, _ := f.Watch(engine.Keys, store.Watch{Key: "k"})
	all := events(ctx, w)
	events(ctx, unused)
	f.Changed(engine.Change{Revision: 1, Type: store.EventSet, Key: "k", Value: []byte("v")})
	n := 0
	for e, err := range all {
		if n++; n == 1 {
			if err != nil || e.Key != "k" || string(e.Value) != "v" || e.Revision != 1 {
				t.Errorf("%+v, %v", e, err)
			}
			cancel()
			continue
		}
		if !errors.Is(err, context.Canceled) || !errors.Is(err, store.ErrUnavailable) {
			t.Error(err)
		}
	}
	if n != 2 {
		t.Errorf("%d steps", n)
	}
	for deadline := time.Now().Add(10 * time.Second); f.Watchers() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("a watch that is not looped over has not ended with its context")
		}
	}
}
