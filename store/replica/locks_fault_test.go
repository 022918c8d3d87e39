package replica_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"dkv/internal/testcluster"
	"dkv/store"
)

// holding is one time that a lock was held.
type holding struct {
	key   string
	token store.Revision

	// Between these two the holder trusted it for certain, by the clock of the
	// test, which all processes share.
	from, to time.Duration
}

// fenced is a write that was to be made by the holder of a lock alone.
type fenced struct {
	key   string
	token store.Revision
	rev   store.Revision // of the change
}

// lockHistory is what workers have seen of the locks that they have taken.
type lockHistory struct {
	start time.Time
	mu    sync.Mutex
	holds []holding
	wrote []fenced
	late  int // writes that were turned away because the lock had been lost
	done  int
	kinds map[string]int
}

func (h *lockHistory) count(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	what := "none"
	if err != nil {
		what = store.KindOf(err).String()
	}
	h.kinds[what]++
	if err == nil {
		h.done++
	}
}

// work takes a lock by way of a process, writes under its protection, and gives it up.
func (h *lockHistory) work(p *testcluster.Process, key string, ttl time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(200+rand.IntN(4000))*time.Millisecond)
	defer cancel()
	l, err := p.Lock(ctx, key, ttl)
	if h.count(err); err != nil {
		return
	}
	hold := holding{key: key, token: l.Token, from: time.Since(h.start)}
	hold.to = hold.from
	for range rand.IntN(4) {
		began := time.Since(h.start)
		if !l.Trusted(ctx) {
			break
		}
		hold.to = began
		h.write(ctx, p, key, l.Token)
		time.Sleep(time.Duration(rand.IntN(10)) * time.Millisecond)
	}
	h.mu.Lock()
	h.holds = append(h.holds, hold)
	h.mu.Unlock()
	if rand.IntN(5) == 0 {
		// A holder that does not know what it has lost goes on as long as it
		// likes.
		time.Sleep(time.Duration(rand.IntN(int(2 * ttl))))
		h.write(ctx, p, key, l.Token)
	}
	for range 3 { // which a release that is repeated has to survive
		again, cancel := context.WithTimeout(context.Background(), time.Second)
		err := l.Unlock(again)
		cancel()
		if err == nil || errors.Is(err, store.ErrNotHeld) {
			return
		}
	}
}

// write makes a fenced write. Which token made the last one is in the key; a
// transaction by a lower one would show.
func (h *lockHistory) write(ctx context.Context, p *testcluster.Process, key string, token store.Revision) {
	res, err := p.Txn(ctx, store.Txn{
		If:   []store.Cond{store.IfLock(key, token)},
		Then: []store.Op{store.OpAdd("count/"+key, 1), store.OpSet("fenced/"+key, strconv.AppendUint(nil, uint64(token), 10))},
	})
	if h.count(err); err != nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if !res.Held {
		h.late++
		return
	}
	h.wrote = append(h.wrote, fenced{key, token, res.Revision})
}

// check tells what is wrong with the history.
func (h *lockHistory) check() (faults []string) {
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	granted := make(map[store.Revision]string)
	slices.SortFunc(h.holds, func(a, b holding) int { return int(a.from - b.from) })
	last := make(map[string]holding)
	for _, hold := range h.holds {
		if other, twice := granted[hold.token]; twice {
			fault("token %d was given out twice, for %s and %s", hold.token, other, hold.key)
		}
		granted[hold.token] = hold.key
		before, ok := last[hold.key]
		if ok && hold.from < before.to && hold.to > before.from && hold.to > hold.from {
			fault("%s was trusted by two at once: %+v and %+v", hold.key, before, hold)
		}
		if ok && hold.from > before.to && hold.token < before.token && before.to > before.from {
			fault("%s: token %d came after %d", hold.key, hold.token, before.token)
		}
		if !ok || hold.to > before.to {
			last[hold.key] = hold
		}
	}
	slices.SortFunc(h.wrote, func(a, b fenced) int { return int(a.rev) - int(b.rev) })
	newest := make(map[string]store.Revision)
	for _, w := range h.wrote {
		if w.token < newest[w.key] {
			fault("%s: revision %d was written under token %d, after token %d had written", w.key, w.rev, w.token, newest[w.key])
		}
		if w.rev < w.token {
			fault("%s: revision %d was written under token %d, which came later", w.key, w.rev, w.token)
		}
		newest[w.key] = max(newest[w.key], w.token)
	}
	return faults
}

// watcherLog is what one watcher has seen: by revision, with the stretches that it has
// not seen because they were compacted.
type watcherLog struct {
	member int
	events []store.Event
	gaps   [][2]store.Revision // from the first up to the second, which is not in it
	err    error
}

// watch watches all keys by way of a member until stop is closed, through its
// restarts.
func (w *watcherLog) watch(c *testcluster.Processes, stop <-chan struct{}) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-stop:
			cancel()
		case <-ctx.Done():
		}
	}()
	next := store.Revision(1)
	for ctx.Err() == nil {
		events, err := c.Process(w.member).Watch(ctx, store.Watch{From: next})
		if errors.Is(err, store.ErrCompacted) {
			// What is there is read again, and watched from there.
			var at store.Revision
			for _, err = range c.Process(w.member).Scan(ctx, store.Range{KeysOnly: true, Limit: 1, At: &at}) {
			}
			if err == nil && at >= next {
				w.gaps = append(w.gaps, [2]store.Revision{next, at + 1})
				next = at + 1
			}
			continue
		}
		if err != nil {
			time.Sleep(10 * time.Millisecond) // it is dead or has nobody to ask
			continue
		}
		for e, err := range events {
			if err != nil {
				break
			}
			if e.Revision < next {
				w.err = fmt.Errorf("watcher of member %d: revision %d comes when %d was to come", w.member, e.Revision, next)
				return
			}
			w.events = append(w.events, e)
			next = e.Revision + 1
			if rand.IntN(200) == 0 {
				time.Sleep(20 * time.Millisecond)
			}
		}
	}
	w.gaps = append(w.gaps, [2]store.Revision{next, 1 << 62})
}

func (w *watcherLog) saw(rev store.Revision) bool {
	for _, gap := range w.gaps {
		if gap[0] <= rev && rev < gap[1] {
			return false
		}
	}
	return true
}

func describe(e store.Event) string {
	return fmt.Sprintf("%v %s %q by deadline %v", e.Type, e.Key, e.Value, e.ByDeadline)
}

// compareWatchers returns what is wrong with what watchers have seen, given writes
// that are known to have been made.
func compareWatchers(watchers []*watcherLog, wrote []fenced) (faults []string) {
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	all := make(map[store.Revision]string)
	for _, w := range watchers {
		if w.err != nil {
			fault("%v", w.err)
		}
		for _, e := range w.events {
			s := describe(e)
			if other, ok := all[e.Revision]; ok && other != s {
				fault("revision %d is %s for one watcher and %s for another", e.Revision, s, other)
			}
			all[e.Revision] = s
		}
	}
	for _, w := range wrote {
		want := describe(store.Event{Type: store.EventSet, Key: "fenced/" + w.key, Value: fmt.Append(nil, w.token)})
		for _, watcher := range watchers {
			if got := all[w.rev]; got != want && watcher.saw(w.rev) {
				fault("revision %d, which set fenced/%s to %d, is seen as %q", w.rev, w.key, w.token, got)
			}
		}
	}
	for _, w := range watchers {
		seen := make(map[store.Revision]bool)
		for _, e := range w.events {
			seen[e.Revision] = true
		}
		for rev, e := range all {
			if !seen[rev] && w.saw(rev) {
				fault("member %d's watcher has missed revision %d, %s", w.member, rev, e)
			}
		}
	}
	return faults
}

// TestLocksAndWatchesUnderFaults takes as long as DKV_FAULT_TIME says.
func TestLocksAndWatchesUnderFaults(t *testing.T) {
	t.Parallel()
	const ttl = 700 * time.Millisecond
	c := testcluster.NewProcesses(t, 3, 128<<10)
	c.Ready()
	h := &lockHistory{start: time.Now(), kinds: make(map[string]int)}
	stop := make(chan struct{})
	var clients sync.WaitGroup
	end := sync.OnceFunc(func() { close(stop); clients.Wait() })
	defer end()
	for worker := range 12 {
		clients.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				h.work(c.Process(rand.IntN(3)), fmt.Sprint("lock", worker%2), ttl)
				time.Sleep(time.Duration(rand.IntN(5)) * time.Millisecond)
			}
		})
	}
	watchers := []*watcherLog{{member: 0}, {member: 1}, {member: 2}}
	stopWatching := make(chan struct{})
	var watching sync.WaitGroup
	for _, w := range watchers {
		watching.Go(func() { w.watch(c, stopWatching) })
	}
	endWatching := sync.OnceFunc(func() { close(stopWatching); watching.Wait() })
	defer endWatching()

	n := newNemesis(t, c, func() int {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.done
	})
	n.torment(faultTime(t))
	end()
	c.Ready()
	// Whoever waits is granted the lock or has gone, and whoever holds it and has
	// died has gone too.
	eventually(t, 20*time.Second, "nobody holds a lock or waits for one", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		info, err := c.Process(0).Info(ctx)
		return err == nil && info.Locks == 0 && info.Waiters == 0
	})
	time.Sleep(300 * time.Millisecond) // for watchers to see the end
	endWatching()
	sum := c.WaitEqual()

	faults := append(h.check(), compareWatchers(watchers, h.wrote)...)
	if len(faults) > 0 {
		t.Errorf("%d faults, of which some:\n%s", len(faults), strings.Join(faults[:min(10, len(faults))], "\n"))
	}
	events, gaps := 0, 0
	for _, w := range watchers {
		events += len(w.events)
		gaps += len(w.gaps) - 1
	}
	t.Logf("%d holdings, %d fenced writes, %d turned away, by kind of error %v; %d events seen, %d gaps; faults %v; %v",
		len(h.holds), len(h.wrote), h.late, h.kinds, events, gaps, n.faults, sum)
	if len(h.holds) < 20 || len(h.wrote) < 20 || events < 60 {
		t.Error("that was no test")
	}
	if !testing.Short() && h.late == 0 {
		t.Error("no holder ever wrote after it had lost the lock")
	}
	n.check()
}

// TestLockCheckerFindsWhatItIsThereFor gives the checkers histories that are wrong.
func TestLockCheckerFindsWhatItIsThereFor(t *testing.T) {
	for name, test := range map[string]struct {
		h  *lockHistory
		ok bool
	}{
		"one after the other": {&lockHistory{holds: []holding{{"x", 1, 0, 10}, {"x", 5, 11, 20}}, wrote: []fenced{{"x", 1, 3}, {"x", 5, 7}}}, true},
		"two locks":           {&lockHistory{holds: []holding{{"x", 1, 0, 10}, {"y", 5, 5, 20}}}, true},
		"two at once":         {&lockHistory{holds: []holding{{"x", 1, 0, 10}, {"x", 5, 9, 20}}}, false},
		"one within another":  {&lockHistory{holds: []holding{{"x", 1, 0, 30}, {"x", 5, 9, 20}}}, false},
		"a token twice":       {&lockHistory{holds: []holding{{"x", 1, 0, 10}, {"x", 1, 11, 20}}}, false},
		"a token that falls":  {&lockHistory{holds: []holding{{"x", 5, 0, 10}, {"x", 3, 11, 20}}}, false},
		"an old token writes": {&lockHistory{wrote: []fenced{{"x", 5, 7}, {"x", 1, 8}}}, false},
		"a write too early":   {&lockHistory{wrote: []fenced{{"x", 5, 4}}}, false},
	} {
		if faults := test.h.check(); (len(faults) == 0) != test.ok {
			t.Errorf("%s: %v", name, faults)
		}
	}
	event := func(rev store.Revision, token string) store.Event {
		return store.Event{Type: store.EventSet, Key: "fenced/x", Value: []byte(token), Revision: rev}
	}
	end := [][2]store.Revision{{8, 1 << 62}}
	for name, test := range map[string]struct {
		a, b watcherLog
		ok   bool
	}{
		"both see all":     {watcherLog{events: []store.Event{event(5, "3"), event(7, "4")}, gaps: end}, watcherLog{events: []store.Event{event(5, "3"), event(7, "4")}, gaps: end}, true},
		"one ends earlier": {watcherLog{events: []store.Event{event(5, "3"), event(7, "4")}, gaps: end}, watcherLog{events: []store.Event{event(5, "3")}, gaps: [][2]store.Revision{{6, 1 << 62}}}, true},
		"one misses one":   {watcherLog{events: []store.Event{event(5, "3"), event(7, "4")}, gaps: end}, watcherLog{events: []store.Event{event(7, "4")}, gaps: end}, false},
		"both miss one":    {watcherLog{events: []store.Event{event(7, "4")}, gaps: end}, watcherLog{events: []store.Event{event(7, "4")}, gaps: end}, false},
		"they differ":      {watcherLog{events: []store.Event{event(5, "3"), event(7, "4")}, gaps: end}, watcherLog{events: []store.Event{event(5, "3"), event(7, "5")}, gaps: end}, false},
	} {
		faults := compareWatchers([]*watcherLog{&test.a, &test.b}, []fenced{{"x", 3, 5}})
		if (len(faults) == 0) != test.ok {
			t.Errorf("%s: %v", name, faults)
		}
	}
}
