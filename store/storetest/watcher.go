package storetest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"sync"

	"dkv/store"
)

// A watcher collects what a watch yields, in a goroutine of its own.
type watcher struct {
	s      *session
	name   string
	what   store.Watch
	events iter.Seq2[store.Event, error]
	cancel context.CancelFunc
	during func(n int) // called after each event with the number of those before, if it is set

	ended chan struct{} // closed when the loop is over, if one was begun
	mu    struct {
		sync.Mutex
		seen []store.Event
		err  error // the last that was yielded
	}
}

// opens begins a watch on member i, and no loop over it yet.
func (s *session) opens(i int, what store.Watch) *watcher {
	s.Helper()
	ctx, cancel := context.WithCancel(s.ctx)
	w := &watcher{s: s, name: fmt.Sprintf("member %d: %s", i, showWatch(what)), what: what, cancel: cancel, ended: make(chan struct{})}
	var err error
	if w.events, err = s.stores[i].Watch(ctx, what); err != nil {
		cancel()
		s.Fatalf("%s: %v (kind: %v)", w.name, err, store.KindOf(err))
	}
	return w
}

// watches begins a watch on member i and a loop over it.
func (s *session) watches(i int, what store.Watch) *watcher {
	s.Helper()
	w := s.opens(i, what)
	go w.loop()
	return w
}

// loop is what a caller does with a watch. An error that is not the watch's own
// says what is wrong with it, whatever is changed.
func (w *watcher) loop() {
	defer close(w.ended)
	n, last := 0, store.Revision(0)
	var over error
	for e, err := range w.events {
		switch {
		case over != nil:
			err = fmt.Errorf("%s goes on after the error %v", w.name, over)
		case err != nil && (e.Key != "" || e.Type != 0 || len(e.Value) != 0 || e.Revision != 0):
			err = fmt.Errorf("%s yields the error %v with %s", w.name, err, showEvent(e))
		case err != nil:
		default:
			err = checkEvent(w.what, last, e)
		}
		w.mu.Lock()
		if over = err; err != nil {
			w.mu.err = err
		} else {
			w.mu.seen = append(w.mu.seen, e)
		}
		w.mu.Unlock()
		if last = e.Revision; err == nil && w.during != nil {
			w.during(n)
		}
		n++
	}
}

// checkEvent returns what is wrong with an event that is yielded after one of the
// revision last, whatever has changed.
func checkEvent(what store.Watch, last store.Revision, e store.Event) error {
	switch {
	case e.Type == 0 || e.Type > store.EventDeleted:
		return fmt.Errorf("the watch yields %s, which is of no type", showEvent(e))
	case what.Key != "" && e.Key != what.Key || !strings.HasPrefix(e.Key, what.Prefix) || e.Key == "":
		return fmt.Errorf("the watch yields %s, which it is not of", showEvent(e))
	case e.Revision <= last || e.Revision < what.From:
		return fmt.Errorf("the watch yields %s after revision %d", showEvent(e), last)
	case (e.Type == store.EventSet) != (e.Value != nil):
		return fmt.Errorf("the watch yields %s, whose value is nil: %v", showEvent(e), e.Value == nil)
	case e.Type == store.EventSet && e.ByDeadline:
		return fmt.Errorf("the watch yields %s, which was set by a deadline", showEvent(e))
	}
	return nil
}

// seen returns the events so far, and the error that ended the loop if it has
// ended with one.
func (w *watcher) seen() ([]store.Event, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.mu.seen[:len(w.mu.seen):len(w.mu.seen)], w.mu.err
}

// await waits until done with what has been seen, and returns that.
func (w *watcher) await(what string, done func(seen []store.Event) bool) []store.Event {
	w.s.Helper()
	var seen []store.Event
	w.s.eventually(w.name+": "+what, func() bool {
		var err error
		if seen, err = w.seen(); err != nil && !done(seen) {
			w.s.Fatalf("%s ends with %v (kind: %v) after\n%s", w.name, err, store.KindOf(err), showEvents(seen))
		}
		return done(seen)
	})
	return seen
}

// through waits for the event of a revision and returns all up to it.
func (w *watcher) through(rev store.Revision) []store.Event {
	w.s.Helper()
	return w.await(fmt.Sprintf("the event of revision %d", rev), func(seen []store.Event) bool {
		return len(seen) > 0 && seen[len(seen)-1].Revision >= rev
	})
}

// sees ends the check unless the watch yields just these events. What is last
// among them is waited for.
func (w *watcher) sees(want []store.Event) {
	w.s.Helper()
	w.s.sameEvents(w.name, w.through(want[len(want)-1].Revision), want)
}

// stop ends the watch and waits for its loop, if there is one.
func (w *watcher) stop() {
	w.cancel()
	<-w.ended
}

// ends waits for the end of the loop and ends the check unless that is by an error
// of the kind that matches all of want.
func (w *watcher) ends(kind store.Kind, want ...error) {
	w.s.Helper()
	w.s.within(w.name, func() { <-w.ended })
	_, err := w.seen()
	for _, target := range want {
		if !errors.Is(err, target) || store.KindOf(err) != kind {
			w.s.Fatalf("%s ends with %v (kind: %v); want %v", w.name, err, store.KindOf(err), target)
		}
	}
}

// sameEvents ends the check unless got is what is wanted. A revision that is not
// known is 0.
func (s *session) sameEvents(what string, got, want []store.Event) {
	s.Helper()
	same := len(got) == len(want)
	for i := 0; same && i < len(got); i++ {
		g, w := got[i], want[i]
		same = g.Type == w.Type && g.Key == w.Key && string(g.Value) == string(w.Value) && g.ByDeadline == w.ByDeadline &&
			(w.Revision == 0 || g.Revision == w.Revision)
	}
	if !same {
		s.Fatalf("%s yields\n%swant\n%s", what, showEvents(got), showEvents(want))
	}
}

// A script changes keys, through the members in turn, and notes the events that
// are to be seen.
type script struct {
	s    *session
	want []store.Event
}

func (c *script) note(typ store.EventType, key, value string, rev store.Revision) {
	c.want = append(c.want, store.Event{Type: typ, Key: key, Value: []byte(value), Revision: rev})
}

func (c *script) set(key, value string) {
	c.s.Helper()
	res := c.s.txn(store.Txn{Then: []store.Op{store.OpSet(key, []byte(value))}})
	c.note(store.EventSet, key, value, res.Revision)
}

func (c *script) delete(key string) {
	c.s.Helper()
	c.s.delete(key)
	c.note(store.EventDeleted, key, "", 0)
}

func showWatch(w store.Watch) string {
	return fmt.Sprintf("Watch(key %s, prefix %s, from %d)", show(w.Key), show(w.Prefix), w.From)
}

func showEvent(e store.Event) string {
	return fmt.Sprintf("%v %s: %s (revision %d, by deadline: %v)", e.Type, show(e.Key), showValue(e.Value), e.Revision, e.ByDeadline)
}

// showEvents shows the last events.
func showEvents(all []store.Event) string {
	var b strings.Builder
	if n := len(all) - 30; n > 0 {
		fmt.Fprintf(&b, "\t%d more, and\n", n)
		all = all[n:]
	}
	for _, e := range all {
		b.WriteString("\t" + showEvent(e) + "\n")
	}
	return b.String()
}
