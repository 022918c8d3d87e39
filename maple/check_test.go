package maple

import (
	"fmt"
	"testing"

	"dkv/store/engine"
	"dkv/store/engine/enginetest"

	"pgregory.net/rapid"
)

// CheckInvariants says what is wrong inside of a DB that nobody is using, nil if
// nothing is. The suite of enginetest calls it.
func (db *DB) CheckInvariants() error {
	var size, bytes, versions, kept int64
	reminders := make(map[reminder]int)
	for i := range db.expiry.lanes {
		l := &db.expiry.lanes[i]
		first := int64(never)
		for j := range l.n {
			r := *l.at(j)
			if laneOf(r.place()) != i {
				return fmt.Errorf("a reminder of lane %d is in lane %d", laneOf(r.place()), i)
			}
			if j > 0 && r.before(*l.at((j - 1) / 4)) {
				return fmt.Errorf("lane %d is no heap", i)
			}
			r.rev = 0
			reminders[r]++
			first = min(first, r.at)
		}
		if got := db.expiry.firsts[i].Load(); got != first {
			return fmt.Errorf("the first reminder of lane %d is at %d, not at %d", i, first, got)
		}
	}
	current := 0
	for space := range engine.Spaces {
		sp := &db.spaces[space]
		ordered, err := sp.order.check()
		if err != nil {
			return fmt.Errorf("order of space %d: %w", space, err)
		}
		keys := int64(0)
		for i := range sp.table.shards {
			sh := &sp.table.shards[i]
			records, err := sh.check(sp.table, uint8(i))
			if err != nil {
				return fmt.Errorf("shard %d of space %d: %w", i, space, err)
			}
			for at, r := range records {
				if ordered[at] != r.key() {
					return fmt.Errorf("key %q is %q in the order", r.key(), ordered[at])
				}
				delete(ordered, at)
				if r.kind() == tombstone {
					if sh.old[r.key()] == nil {
						return fmt.Errorf("key %q has a tombstone for nothing", r.key())
					}
					continue
				}
				keys++
				size += r.size()
				if space == engine.Keys {
					bytes += int64(r.keyLen() + r.valueLen())
				}
				d := r.deadlines()
				if d == nil || d.remind.Load() == 0 {
					if next := r.next(); next >= 0 && next != never {
						return fmt.Errorf("key %q has no reminder for %d", r.key(), next)
					}
					continue
				}
				remind := d.remind.Load()
				if next := r.next(); next >= 0 && next < remind {
					return fmt.Errorf("key %q has a reminder for %d, later than %d", r.key(), remind, next)
				}
				if reminders[reminder{at: remind, hash: at.hash, shard: at.shard, space: space}] == 0 {
					return fmt.Errorf("key %q notes down a reminder for %d, which is not there", r.key(), remind)
				}
				current++
			}
			for key, h := range sh.old {
				newer := sp.table.load(key)
				if newer == nil {
					return fmt.Errorf("key %q has old versions and no new one", key)
				}
				until := newer.rev
				for chain := h.newest; chain != nil; chain = chain.older {
					if chain.rec.rev >= until {
						return fmt.Errorf("key %q: version %d is behind %d", key, chain.rec.rev, until)
					}
					until = chain.rec.rev
					versions++
					kept += chain.rec.kept()
				}
			}
		}
		if len(ordered) > 0 {
			return fmt.Errorf("the order of space %d has places of no key: %v", space, ordered)
		}
		if got := sp.keys.Value(); got != keys {
			return fmt.Errorf("%d keys are counted in space %d, %d are there", got, space, keys)
		}
	}
	all, stale := 0, int64(0)
	for i := range db.expiry.lanes {
		all += db.expiry.lanes[i].n
		stale += int64(db.expiry.lanes[i].stale)
	}
	switch {
	case db.size.Load() != size:
		return fmt.Errorf("size is %d, not %d", size, db.size.Load())
	case db.bytes.Value() != bytes:
		return fmt.Errorf("bytes are %d, not %d", bytes, db.bytes.Value())
	case db.views.versions.Load() != versions || db.views.bytes.Load() != kept:
		return fmt.Errorf("%d versions of %d bytes are kept, %d of %d are counted", versions, kept, db.views.versions.Load(), db.views.bytes.Load())
	case len(*db.views.active.Load()) == 0 && versions > 0:
		return fmt.Errorf("%d versions are kept for no view", versions)
	case int64(all-current) > stale+lanes || int64(all-current) < stale-lanes:
		// A sweep beside a writer may miss one, or take one for another.
		return fmt.Errorf("%d of %d reminders are stale, %d are counted as such", all-current, all, stale)
	}
	return nil
}

// check returns the key of each place in the order.
func (o *order) check() (map[place]string, error) {
	keys := make(map[place]string)
	root := o.root.Load()
	for i, g := range root.groups {
		if root.lows[i] != g.lows[0] {
			return nil, fmt.Errorf("group %d begins at %q, not at %q", i, g.lows[0], root.lows[i])
		}
		for j, p := range g.pages {
			s := spot{root, i, j}
			low, high := s.low(), s.high()
			if high != "" && low >= high || p.dead {
				return nil, fmt.Errorf("page %d of group %d is from %q to %q; dead: %v", j, i, low, high, p.dead)
			}
			for _, at := range p.places(nil) {
				r := o.table.at(at)
				if r == nil {
					return nil, fmt.Errorf("no record has the place %v", at)
				}
				if key := r.key(); key < low || high != "" && key >= high {
					return nil, fmt.Errorf("key %q is in the page from %q to %q", key, low, high)
				}
				if _, twice := keys[at]; twice {
					return nil, fmt.Errorf("key %q is there twice", r.key())
				}
				keys[at] = r.key()
			}
		}
	}
	if root.lows[0] != "" {
		return nil, fmt.Errorf("the first page begins at %q", root.lows[0])
	}
	return keys, nil
}

// check returns the records of the shard, which has number i.
func (sh *shard) check(t *table, i uint8) (map[place]*record, error) {
	records := make(map[place]*record)
	ghosts := 0
	p := sh.array.Load()
	if p == nil {
		if sh.used != 0 {
			return nil, fmt.Errorf("%d records, and no array", sh.used)
		}
		return records, nil
	}
	array := *p
	passed := make([]uint32, len(array))
	for j := range array {
		for k := range perLine {
			h := array[j].hash[k].Load()
			r := array[j].load(k)
			if (h == 0) != (r == nil) {
				return nil, fmt.Errorf("bucket %d has the hash %d and the record %p", j, h, r)
			}
			if r == nil {
				continue
			}
			at := place{h, i}
			if records[at] != nil || t.load(r.key()) != r || t.at(at) != r {
				return nil, fmt.Errorf("key %q is not found", r.key())
			}
			records[at] = r
			if r.kind() == tombstone {
				ghosts++
			}
			for l := home(array, h); l != j; l = after(array, l) {
				passed[l]++
			}
		}
	}
	for j := range array {
		if n := array[j].passed.Load(); n != passed[j] {
			return nil, fmt.Errorf("%d records have passed bucket %d by, not %d", passed[j], j, n)
		}
	}
	if ghosts != sh.ghosts {
		return nil, fmt.Errorf("%d tombstones, counted as %d", ghosts, sh.ghosts)
	}
	if len(records) != sh.used || sh.used*ofLoad > len(array)*perLine*maxLoad {
		return nil, fmt.Errorf("%d records in %d buckets, counted as %d", len(records), len(array), sh.used)
	}
	return records, nil
}

// weak makes keys collide: there are two shards, and four hashes in each.
func weak(db *DB) *DB {
	for i := range db.spaces {
		db.spaces[i].table.mask = 1<<63 | 0b110
	}
	return db
}

func TestEngine(t *testing.T) { enginetest.Run(t, Factory) }

// TestEngineWhoseKeysCollide takes the ways that are taken by a rare chance alone
// when hashes are good.
func TestEngineWhoseKeysCollide(t *testing.T) {
	f := Factory
	f.New = func(opts engine.Options) engine.Engine { return weak(New(opts)) }
	for _, ticks := range []bool{false, true} {
		t.Run(fmt.Sprintf("ticks=%v", ticks), func(t *testing.T) {
			rapid.Check(t, enginetest.Walk(f, ticks, 1))
		})
	}
}
