// Package feed hands the changes of one store to those who watch it. It remembers
// the last of them, in the order of their revisions, up to a number of bytes.
//
// Who makes a change never waits for who watches. A change is put at the end of the
// history and given to the watchers whose keys it is about, which are found by a
// look into a map for the key and one for each length of a prefix that somebody
// watches. A watcher keeps a few changes; one that is given more is behind: it is
// not among those who are given changes any longer, and when it has used up what it
// has it goes on in the history, until it has caught up and is among them again. If
// the history does not go back that far, it is told so.
package feed

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"dkv/internal/ops"
	"dkv/store"
	"dkv/store/engine"
)

const (
	// MaxBytes is how much a history remembers of a store's changes.
	MaxBytes = 16 << 20

	changeShare = 160       // what a change counts for besides its key and value
	maxPending  = 128       // changes that a watcher keeps before it is behind
	maxKept     = 256 << 10 // bytes of them, unless it is one alone
	atOnce      = 256       // changes of the history that a watcher looks at while others wait
)

// Feed is the history of a store and its watchers. Its methods may be called
// concurrently.
type Feed struct {
	revision func() uint64 // of the store's last change
	maxBytes int64
	on       atomic.Bool // changes are taken
	started  atomic.Bool // and it is known from where on

	mu struct {
		sync.Mutex
		closed bool

		// The history has the changes with the revisions first <= r < next, each
		// at ring[r % len(ring)]. The length of ring is a power of 2.
		first, next uint64
		ring        []engine.Change
		bytes       int64

		// early are changes that were told of before others with lower revisions.
		early map[uint64]engine.Change

		watchers int

		// Those who are not behind: by key, and by prefix for each length of one
		// that somebody watches, in the order of the lengths.
		keys     map[place]watchers
		prefixes []prefixes
	}
}

// place is a key or the beginning of one.
type place struct {
	space engine.Space
	key   string
}

type watchers []*Watcher

// prefixes are the watchers of prefixes of one length.
type prefixes struct {
	length int
	of     map[place]watchers
}

// New returns the feed of a store, whose last change has the revision that is
// returned by revision. It remembers nothing before Start.
func New(revision func() uint64) *Feed {
	f := &Feed{revision: revision, maxBytes: MaxBytes}
	f.mu.early = make(map[uint64]engine.Change)
	f.mu.keys = make(map[place]watchers)
	return f
}

// Start has the feed remember what changes from now on, if it does not already.
//
// Whoever makes a change calls Changed after the change has its revision. So those
// that do not find the feed on have a revision no greater than the one that is read
// here.
func (f *Feed) Start() {
	if f.started.Load() {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.on.Swap(true) {
		f.mu.next = f.revision() + 1
		f.mu.first = f.mu.next
		f.started.Store(true)
	}
}

// Changed tells of a change. That is for [engine.Options].
func (f *Feed) Changed(c engine.Change) {
	if !f.on.Load() {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case c.Revision > f.mu.next:
		f.mu.early[c.Revision] = c
		return
	case c.Revision < f.mu.next:
		return // from before Start
	}
	f.addLocked(c)
	for len(f.mu.early) > 0 {
		next, ok := f.mu.early[f.mu.next]
		if !ok {
			return
		}
		delete(f.mu.early, f.mu.next)
		f.addLocked(next)
	}
}

// addLocked appends the next change to the history and gives it to its watchers.
func (f *Feed) addLocked(c engine.Change) {
	f.mu.bytes += size(&c)
	for f.mu.bytes > f.maxBytes && f.mu.first < f.mu.next {
		f.forgetLocked()
	}
	if f.mu.next-f.mu.first == uint64(len(f.mu.ring)) {
		f.growLocked()
	}
	*f.atLocked(f.mu.next) = c
	f.mu.next++
	if f.mu.watchers == 0 {
		return
	}
	giveLocked(f.mu.keys, place{c.Space, c.Key}, c)
	for i := 0; i < len(f.mu.prefixes) && f.mu.prefixes[i].length <= len(c.Key); {
		p := f.mu.prefixes[i]
		giveLocked(p.of, place{c.Space, c.Key[:p.length]}, c)
		if len(p.of) > 0 {
			i++
		} else {
			f.mu.prefixes = slices.Delete(f.mu.prefixes, i, i+1)
		}
	}
}

// giveLocked gives a change to those who watch a place. Those who cannot take it are
// behind from there on.
func giveLocked(of map[place]watchers, at place, c engine.Change) {
	all := of[at]
	for i := 0; i < len(all); {
		if w := all[i]; w.takesLocked(c) {
			i++
		} else {
			w.mu.behind, w.mu.next = true, c.Revision
			all = leave(of, w, i)
		}
	}
}

func size(c *engine.Change) int64 { return int64(changeShare + len(c.Key) + len(c.Value)) }

func (f *Feed) atLocked(rev uint64) *engine.Change {
	return &f.mu.ring[rev&uint64(len(f.mu.ring)-1)]
}

func (f *Feed) forgetLocked() {
	oldest := f.atLocked(f.mu.first)
	f.mu.bytes -= size(oldest)
	*oldest = engine.Change{}
	f.mu.first++
}

func (f *Feed) growLocked() {
	old := f.mu.ring
	f.mu.ring = make([]engine.Change, max(64, 2*len(old)))
	for rev := f.mu.first; rev < f.mu.next; rev++ {
		*f.atLocked(rev) = old[rev&uint64(len(old)-1)]
	}
}

// Reset tells that the state has become one whose last change is rev, by a way that
// was not told of. What lies between is not known, and watchers who wait for it are
// told so.
func (f *Feed) Reset(rev uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.on.Store(true)
	f.started.Store(true)
	if rev+1 == f.mu.next {
		return
	}
	for f.mu.first < f.mu.next {
		f.forgetLocked()
	}
	clear(f.mu.early)
	before := f.mu.next
	f.mu.first, f.mu.next = rev+1, rev+1
	f.eachLocked(func(w *Watcher) {
		w.mu.behind, w.mu.next = true, max(before, w.from)
		w.wake()
	})
	clear(f.mu.keys)
	f.mu.prefixes = nil
}

// Close ends all watches with store.ErrClosed, once what they have been given is
// used up.
func (f *Feed) Close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.closed = true
	f.eachLocked((*Watcher).wake)
}

func (f *Feed) eachLocked(do func(*Watcher)) {
	for _, ws := range f.mu.keys {
		for _, w := range ws {
			do(w)
		}
	}
	for _, p := range f.mu.prefixes {
		for _, ws := range p.of {
			for _, w := range ws {
				do(w)
			}
		}
	}
}

// Watchers is how many there are.
func (f *Feed) Watchers() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.mu.watchers
}

// Knows tells whether a watch from the revision need not wait for changes that are
// yet to be heard of here.
func (f *Feed) Knows(from store.Revision) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.on.Load() && uint64(from) <= f.mu.next
}

// Watcher is a watch. All methods but Close are for one caller at a time.
type Watcher struct {
	feed   *Feed
	at     place
	prefix bool
	from   uint64 // the first revision that is of interest

	woken chan struct{} // has room for one
	spare []engine.Change

	mu struct { // all of it is guarded by feed.mu
		pending []engine.Change // given and not yet taken
		bytes   int64           // of pending
		behind  bool            // the rest is in the history, from next on
		next    uint64
		closed  bool
	}
}

// Watch begins a watch of a space. The feed has been started.
func (f *Feed) Watch(space engine.Space, what store.Watch) (*Watcher, error) {
	w := &Watcher{feed: f, woken: make(chan struct{}, 1)}
	w.at, w.prefix = place{space, strings.Clone(what.Key)}, false
	if what.Key == "" {
		w.at.key, w.prefix = strings.Clone(what.Prefix), true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	// Changes that are early have happened; a watch from now on is from behind
	// them.
	now := max(f.revision()+1, f.mu.next)
	w.from = uint64(what.From)
	switch {
	case f.mu.closed:
		return nil, store.ErrClosed
	case w.from == 0:
		w.from = now
	case w.from > now:
		return nil, store.ErrFutureRevision
	case w.from < f.mu.first:
		return nil, store.ErrCompacted
	}
	f.mu.watchers++
	if w.mu.behind, w.mu.next = w.from < f.mu.next, w.from; !w.mu.behind {
		f.enterLocked(w)
	}
	return w, nil
}

// enterLocked puts a watcher among those who are given changes.
func (f *Feed) enterLocked(w *Watcher) {
	if !w.prefix {
		f.mu.keys[w.at] = append(f.mu.keys[w.at], w)
		return
	}
	i, found := f.lengthLocked(len(w.at.key))
	if !found {
		f.mu.prefixes = slices.Insert(f.mu.prefixes, i, prefixes{len(w.at.key), make(map[place]watchers)})
	}
	of := f.mu.prefixes[i].of
	of[w.at] = append(of[w.at], w)
}

// leaveLocked undoes enterLocked.
func (f *Feed) leaveLocked(w *Watcher) {
	if !w.prefix {
		leave(f.mu.keys, w, slices.Index(f.mu.keys[w.at], w))
		return
	}
	i, _ := f.lengthLocked(len(w.at.key))
	of := f.mu.prefixes[i].of
	leave(of, w, slices.Index(of[w.at], w))
	if len(of) == 0 {
		f.mu.prefixes = slices.Delete(f.mu.prefixes, i, i+1)
	}
}

// leave removes a watcher, which is number i at its place, and returns the others.
func leave(of map[place]watchers, w *Watcher, i int) watchers {
	all := of[w.at]
	last := len(all) - 1
	all[i], all[last] = all[last], nil
	if all = all[:last]; last == 0 {
		delete(of, w.at)
	} else {
		of[w.at] = all
	}
	return all
}

// lengthLocked is where the prefixes of a length are, or would be.
func (f *Feed) lengthLocked(length int) (i int, found bool) {
	return slices.BinarySearchFunc(f.mu.prefixes, length, func(p prefixes, length int) int { return p.length - length })
}

// takesLocked gives the watcher a change of a key that it watches, unless it has too
// many that it has not used.
func (w *Watcher) takesLocked(c engine.Change) bool {
	switch {
	case c.Revision < w.from:
		return true
	case len(w.mu.pending) == maxPending, len(w.mu.pending) > 0 && w.mu.bytes+size(&c) > maxKept:
		return false
	}
	w.mu.pending = append(w.mu.pending, c)
	w.mu.bytes += size(&c)
	if len(w.mu.pending) == 1 {
		w.wake()
	}
	return true
}

func (w *Watcher) wake() {
	select {
	case w.woken <- struct{}{}:
	default:
	}
}

// Next waits for changes and returns them. They are shared, and the slice is used
// again by the next call. Errors: store.ErrUnavailable when ctx ends first,
// store.ErrCompacted, store.ErrClosed.
func (w *Watcher) Next(ctx context.Context) ([]engine.Change, error) {
	clear(w.spare)
	for {
		batch, wait, err := w.take()
		switch {
		case err != nil || len(batch) > 0:
			w.spare = batch
			return batch, err
		case !wait:
			if err := ops.CheckContext(ctx); err != nil {
				return nil, err
			}
			continue
		}
		select {
		case <-w.woken:
		case <-ctx.Done():
			return nil, ops.CheckContext(ctx)
		}
	}
}

// take returns what there is. If that is nothing, wait tells whether there is
// nothing left to look at.
func (w *Watcher) take() (batch []engine.Change, wait bool, err error) {
	f := w.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case len(w.mu.pending) > 0:
		batch, w.mu.pending, w.mu.bytes = w.mu.pending, w.spare[:0], 0
		return batch, false, nil
	case f.mu.closed || w.mu.closed:
		return nil, false, store.ErrClosed
	case !w.mu.behind:
		return nil, true, nil
	case w.mu.next < f.mu.first:
		return nil, false, store.ErrCompacted
	}
	batch = w.spare[:0]
	end, bytes := min(f.mu.next, w.mu.next+atOnce), int64(0)
	for ; w.mu.next < end && bytes < maxKept; w.mu.next++ {
		if c := f.atLocked(w.mu.next); w.watches(c) {
			batch = append(batch, *c)
			bytes += size(c)
		}
	}
	if w.mu.behind = w.mu.next < f.mu.next; !w.mu.behind {
		f.enterLocked(w)
	}
	return batch, !w.mu.behind, nil
}

func (w *Watcher) watches(c *engine.Change) bool {
	if c.Space != w.at.space {
		return false
	}
	if w.prefix {
		return strings.HasPrefix(c.Key, w.at.key)
	}
	return c.Key == w.at.key
}

// Through is the revision from which another watch would go on where this one is:
// all changes before it that are of interest have been returned by Next.
func (w *Watcher) Through() store.Revision {
	f := w.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case len(w.mu.pending) > 0:
		return store.Revision(w.mu.pending[0].Revision)
	case w.mu.behind:
		return store.Revision(w.mu.next)
	}
	return store.Revision(max(f.mu.next, w.from))
}

// Close ends the watch. It may be called more than once, and beside Next, which then
// returns store.ErrClosed.
func (w *Watcher) Close() {
	f := w.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	if !w.mu.closed {
		w.mu.closed = true
		w.mu.pending = nil
		f.mu.watchers--
		if !w.mu.behind {
			f.leaveLocked(w)
		}
		w.wake()
	}
}
