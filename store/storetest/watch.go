package storetest

import (
	"context"
	"fmt"
	"time"

	"dkv/store"
)

// phase is how far a key with deadlines has come. It only grows.
type phase uint8

const (
	alive   phase = iota // with its value
	expired              // without its value
	deleted
)

func (p phase) String() string { return [...]string{"alive", "expired", "deleted"}[p] }

// span is the durations of one write.
type span struct{ expireIn, deleteIn time.Duration }

// until returns after how long a key may have come to p, and whether it ever
// does.
func (d span) until(p phase) (time.Duration, bool) {
	if p == expired && d.expireIn > 0 && (d.deleteIn == 0 || d.expireIn < d.deleteIn) {
		return d.expireIn, true
	}
	return d.deleteIn, d.deleteIn > 0
}

// A watch looks at one key from all members by all ways of reading and compares
// what it sees with what the clock allows. That a key is found too early is
// certain: less time than its duration lies between the moment before the
// write's call and the moment after the read's return.
type watch struct {
	s     *session
	key   string
	value string
	begin time.Time // before the write was called
	span  span

	looks int
	least phase           // proven to have come to
	seen  map[phase]bool  // seen beyond doubt
	after []time.Duration // [p]: since begin when p was first proven
	over  []time.Duration // [p]: since begin when a read first began too late to miss p
}

func (s *session) watch(key, value string, begin time.Time, d span) *watch {
	return &watch{s: s, key: key, value: value, begin: begin, span: d, seen: make(map[phase]bool), after: make([]time.Duration, deleted+1), over: make([]time.Duration, deleted+1)}
}

// look reads once. The returned error says what is wrong.
func (w *watch) look() error {
	s := w.s
	st := s.stores[w.looks/4%len(s.stores)]
	began := time.Since(w.begin)
	least, most := alive, deleted
	var how string
	var err error
	switch w.looks % 4 {
	case 0:
		how = "Get"
		var v []byte
		var ok bool
		if v, ok, err = st.Get(s.ctx, w.key); ok {
			most = alive
			if string(v) != w.value {
				return fmt.Errorf("Get(%s) = %s; want %s", show(w.key), show(string(v)), show(w.value))
			}
		} else {
			least = expired
		}
	case 1:
		how = "Has"
		var ok bool
		if ok, err = st.Has(s.ctx, w.key); ok {
			most = expired
		} else {
			least = deleted
		}
	case 2, 3:
		how = "GetEntry"
		find := st.GetEntry
		if w.looks%4 == 3 {
			how = "Scan"
			find = func(ctx context.Context, key string) (store.Entry, bool, error) { return scanOne(ctx, st, key) }
		}
		var e store.Entry
		var ok bool
		e, ok, err = find(s.ctx, w.key)
		if err == nil {
			err = w.checkEntry(e, ok)
		}
		switch {
		case !ok:
			least = deleted
		case e.Expired:
			least, most = expired, expired
		default:
			most = alive
		}
	}
	elapsed := time.Since(w.begin)
	w.looks++
	if err != nil {
		return fmt.Errorf("%s(%s): %w", how, show(w.key), err)
	}
	if most < w.least {
		return fmt.Errorf("%s finds %s %v %v after its write, but it was seen %v before", how, show(w.key), most, elapsed, w.least)
	}
	for p := w.least + 1; p <= least; p++ {
		d, ever := w.span.until(p)
		if !ever {
			return fmt.Errorf("%s finds %s %v %v after its write; want never", how, show(w.key), p, elapsed)
		}
		if elapsed < d {
			return fmt.Errorf("%s finds %s %v %v after its write began; want not before %v have passed", how, show(w.key), p, elapsed, d)
		}
		w.after[p] = elapsed
	}
	w.least = max(w.least, least)
	if w.least == most {
		w.seen[most] = true
	}
	for p := w.least + 1; p <= deleted; p++ {
		d, ever := w.span.until(p)
		switch late := w.s.late; {
		case !ever || began-late <= d:
		case w.over[p] == 0:
			w.over[p] = began
		case began-w.over[p] > late/10:
			// The store has had time to run as well: it is not that the machine
			// stood still and that the check is the first to go on.
			return fmt.Errorf("%s is not %v %v after its write, nor was it %v after; want it after %v", show(w.key), p, began, w.over[p], d)
		}
	}
	return nil
}

func (w *watch) checkEntry(e store.Entry, ok bool) error {
	if err := checkEntry(w.key, e, ok); err != nil || !ok {
		return err
	}
	if !e.Expired && string(e.Value) != w.value {
		return fmt.Errorf("the value is %s; want %s", show(string(e.Value)), show(w.value))
	}
	if w.span.deleteIn == 0 && e.DeleteIn != 0 || e.DeleteIn > w.span.deleteIn {
		return fmt.Errorf("the key shall be deleted in %v; want at most %v", e.DeleteIn, w.span.deleteIn)
	}
	if limit, ever := w.span.until(expired); !ever && e.ExpireIn != 0 || e.ExpireIn > limit {
		return fmt.Errorf("the value shall expire in %v; want at most %v", e.ExpireIn, limit)
	}
	return nil
}

// follow looks until the key has come to p, and then once more by each way of
// reading on each member.
func (w *watch) follow(p phase) error {
	for w.least < p {
		if err := w.look(); err != nil {
			return err
		}
		time.Sleep(pause)
	}
	for range 4 * len(w.s.stores) {
		if err := w.look(); err != nil {
			return err
		}
	}
	return nil
}

// lateness returns how long after its deadline p was seen.
func (w *watch) lateness(p phase) time.Duration {
	d, _ := w.span.until(p)
	return w.after[p] - d
}

// lifecycle has write set a key with deadlines and follows it until it has come
// to p. The phases in must are to be seen on the way: a machine that is too
// busy to see one gets another key with longer deadlines. shape makes the
// deadlines out of a short duration.
func (s *session) lifecycle(shape func(d time.Duration) span, write func(key string, d span) error, p phase, must ...phase) (key string, err error) {
	for d := 150 * time.Millisecond; ; d *= 2 {
		key := s.key("%v-%v", p, d)
		begin := time.Now()
		if err := write(key, shape(d)); err != nil {
			return key, fmt.Errorf("write of %s: %w", show(key), err)
		}
		w := s.watch(key, "value", begin, shape(d))
		if err := w.follow(p); err != nil {
			return key, err
		}
		missed := false
		for _, m := range must {
			missed = missed || !w.seen[m]
		}
		if !missed {
			for q := expired; q <= p; q++ {
				s.Logf("%v: %v seen %v late", shape(d), q, w.lateness(q))
			}
			return key, nil
		}
		if d > 5*time.Second {
			return key, fmt.Errorf("%s is %v, but was never seen %v on the way", show(key), p, must)
		}
	}
}
