package maple

import (
	"runtime"
	"slices"
	"strings"

	"dkv/store"
	"dkv/store/engine"
)

// Scan calls yield with each entry from the key from up to, but not including,
// the key to, in the order of the keys' bytes or in reverse, until it returns
// false. An empty to is beyond all keys.
func (v *View) Scan(space engine.Space, from, to string, reverse bool, yield func(store.Entry) bool) {
	v.walk(space, from, to, reverse, func(r *record) bool {
		if e, ok := v.entry(r); ok {
			return yield(e)
		}
		return true
	})
}

// walk calls f with each record in the range that the view shows, in order, until
// it returns false. Records whose deadline had come but that had not been reaped
// are among them.
//
// It takes one page of the order after the other: copies its places, looks up the
// records, and sorts them. Pages that are split or merged meanwhile do no harm:
// what a page had when it was copied is all that is in the table of its range, and
// the next page is looked for by the key where the last one ended.
func (v *View) walk(space engine.Space, from, to string, reverse bool, f func(*record) bool) {
	sp := &v.db.spaces[space]
	var p walkedPage
	for {
		// Whoever waits for a processor, the garbage collector for one, shall get
		// that of a walk, which is long, rather than that of a writer.
		runtime.Gosched()
		start := from
		if reverse {
			start = to
		}
		low, high := p.read(sp, start, reverse)
		p.find(v, sp.table, max(low, from), earlier(high, to))
		for i := range p.keys {
			if reverse {
				i = len(p.keys) - 1 - i
			}
			if !f(p.keys[i].rec) {
				return
			}
		}
		if reverse {
			if to = low; low <= from {
				return
			}
		} else {
			if from = high; high == "" || to != "" && high >= to {
				return
			}
		}
	}
}

// earlier is the lesser of two keys, of which "" is beyond all.
func earlier(a, b string) string {
	if a == "" || b != "" && b < a {
		return b
	}
	return a
}

// walkedPage is a page of the order as a walk sees it. Its memory is reused from
// one to the next.
type walkedPage struct {
	places []place
	heads  []*record
	shown  []shownKey // of all places
	keys   []shownKey // of those, the ones in the range
}

type shownKey struct {
	key string
	rec *record
}

// read copies the places of the page at, or before, a key.
func (p *walkedPage) read(sp *keyspace, key string, before bool) (low, high string) {
	p.places, low, high = sp.order.read(key, before, p.places[:0])
	return low, high
}

// find looks up what the view shows of the keys from one up to another, and sorts
// it; what a view shows has one place. The places lie all over the table's memory,
// so each step is done for all of them before the next, which has the processor
// wait for many at a time and not for one after the other.
func (p *walkedPage) find(v *View, t *table, from, to string) {
	for _, at := range p.places {
		t.touch(at)
	}
	p.heads = p.heads[:0]
	for _, at := range p.places {
		p.heads = append(p.heads, t.at(at)) // nil if it has gone since
	}
	for _, head := range p.heads {
		if head != nil {
			head.touch()
		}
	}
	clear(p.shown)
	p.shown = p.shown[:0]
	for i, head := range p.heads {
		if head == nil {
			continue
		}
		r := v.version(&t.shards[p.places[i].shard], head)
		if r != nil && r.kind() != tombstone {
			p.shown = append(p.shown, shownKey{r.key(), r})
			r.touchValue()
		}
	}
	slices.SortFunc(p.shown, func(a, b shownKey) int { return strings.Compare(a.key, b.key) })
	// A place that another key has taken a moment ago may show a key that does
	// not belong here.
	first, end := index(p.shown, from), len(p.shown)
	if to != "" {
		end = max(first, index(p.shown, to))
	}
	p.keys = p.shown[first:end]
}

// index is where a key is among the keys, or would be.
func index(keys []shownKey, key string) int {
	i, _ := slices.BinarySearchFunc(keys, key, func(k shownKey, key string) int { return strings.Compare(k.key, key) })
	return i
}
