package maple

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"dkv/internal/command"
	"dkv/store"

	"pgregory.net/rapid"
)

// twin is what a DB does, done in the plainest way: a map, and a look at every
// key for each question.
type twin struct {
	ticks   bool // time moves by ticks
	now     time.Duration
	rev     uint64
	entries map[spaceKey]twinEntry
}

type twinEntry struct {
	value          string
	rev, written   uint64
	expired        bool
	expire, delete time.Duration // 0 = never
	waits          int           // ticks until expire and delete begin to count
}

func (tw *twin) copy() *twin {
	c := *tw
	c.entries = maps.Clone(tw.entries)
	return &c
}

func (e twinEntry) isDeleted(now time.Duration) bool {
	return e.waits == 0 && e.delete != 0 && e.delete <= now
}

func (e twinEntry) isExpired(now time.Duration) bool {
	return e.expired || e.waits == 0 && e.expire != 0 && e.expire <= now
}

func (tw *twin) get(k spaceKey) (Entry, bool) {
	e, ok := tw.entries[k]
	if !ok || e.isDeleted(tw.now) {
		return Entry{}, false
	}
	out := Entry{Revision: e.written, Expired: e.isExpired(tw.now)}
	left := func(at time.Duration) time.Duration {
		if at == 0 || e.waits > 0 {
			return at
		}
		return at - tw.now
	}
	out.DeleteIn = left(e.delete)
	if !out.Expired {
		out.Value = []byte(e.value)
		out.ExpireIn = left(e.expire)
	}
	return out, true
}

func (tw *twin) apply(op command.Op) command.Result {
	k := spaceKey{op.Space, op.Key}
	old, there := tw.entries[k]
	there = there && !old.isDeleted(tw.now)
	e := twinEntry{value: string(op.Value), expire: op.ExpireIn, delete: op.DeleteIn}
	if e.delete != 0 && (e.expire == 0 || e.expire > e.delete) {
		e.expire = e.delete
	}
	if tw.ticks {
		e.waits = 2
	} else {
		if e.expire != 0 {
			e.expire += tw.now
		}
		if e.delete != 0 {
			e.delete += tw.now
		}
	}
	switch op.Kind {
	case command.SetIfUnset:
		if there {
			return command.Result{}
		}
	case command.Expire:
		if !there || old.isExpired(tw.now) {
			return command.Result{}
		}
		e = twinEntry{expired: true, delete: old.delete, waits: old.waits}
	case command.Delete:
		if !there {
			return command.Result{}
		}
	case command.CompareAndDelete:
		if !there || old.isExpired(tw.now) || old.value != string(op.Value) {
			return command.Result{}
		}
	}
	tw.rev++
	if op.Kind == command.Delete || op.Kind == command.CompareAndDelete {
		delete(tw.entries, k)
	} else {
		e.rev, e.written = tw.rev, tw.rev
		tw.entries[k] = e
	}
	return command.Result{Done: true, Revision: tw.rev}
}

func (tw *twin) tick(elapsed, lag time.Duration) {
	for k, e := range tw.entries {
		if e.waits == 1 {
			if e.expire != 0 {
				e.expire += tw.now + lag
			}
			if e.delete != 0 {
				e.delete += tw.now + lag
			}
		}
		e.waits = max(0, e.waits-1)
		tw.entries[k] = e
	}
	tw.now += elapsed
}

// due returns the keys whose next deadline has come, the earliest first.
func (tw *twin) due() []spaceKey {
	at := func(e twinEntry) time.Duration {
		if !e.expired && e.expire != 0 {
			return e.expire
		}
		return e.delete
	}
	var keys []spaceKey
	for k, e := range tw.entries {
		if e.waits == 0 && at(e) != 0 && at(e) <= tw.now {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, func(a, b spaceKey) int {
		x, y := tw.entries[a], tw.entries[b]
		return cmp.Or(cmp.Compare(at(x), at(y)), cmp.Compare(x.rev, y.rev))
	})
	return keys
}

func (tw *twin) reap(limit int) (n int) {
	for n < limit {
		keys := tw.due()
		if len(keys) == 0 {
			break
		}
		e := tw.entries[keys[0]]
		tw.rev++
		n++
		if e.isDeleted(tw.now) {
			delete(tw.entries, keys[0])
		} else {
			tw.entries[keys[0]] = twinEntry{expired: true, rev: tw.rev, written: e.written, delete: e.delete}
		}
	}
	return n
}

func (tw *twin) info() (info store.Info) {
	info.Revision = store.Revision(tw.rev)
	for k, e := range tw.entries {
		if k.space == command.Locks {
			info.Locks++
			continue
		}
		info.Keys++
		info.Bytes += int64(len(k.key) + len(e.value))
	}
	return info
}

type reader interface {
	GetEntry(command.Space, string) (Entry, bool)
}

type viewReader struct{ *View }

func (v viewReader) GetEntry(s command.Space, k string) (Entry, bool) { return v.Get(s, k) }

// The last is of a length at which an empty value would begin past the record.
var twinKeys = []string{"a", "b", "c", "dd", "\x00", "\xff\xfe", "0123456789abcdef"}

// compare checks that db shows the same as tw for every key that ever is used.
func compare(db reader, tw *twin) error {
	for space := range command.Spaces {
		for _, key := range twinKeys {
			got, ok := db.GetEntry(space, key)
			want, wantOK := tw.get(spaceKey{space, key})
			if ok != wantOK || got.Revision != want.Revision || got.Expired != want.Expired ||
				!bytes.Equal(got.Value, want.Value) ||
				got.ExpireIn != want.ExpireIn || got.DeleteIn != want.DeleteIn {
				return fmt.Errorf("key %q of space %d: got %+v, %v, want %+v, %v", key, space, got, ok, want, wantOK)
			}
		}
	}
	return nil
}

func save(t interface{ Fatal(...any) }, v *View) []byte {
	var b bytes.Buffer
	if err := v.Save(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestRandomWalkAgreesWithTheTwin(t *testing.T) {
	for _, ticks := range []bool{false, true} {
		t.Run(fmt.Sprintf("ticks=%v", ticks), func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) { walk(t, ticks) })
		})
	}
}

func walk(t *rapid.T, ticks bool) {
	tw := &twin{ticks: ticks, entries: make(map[spaceKey]twinEntry)}
	var opts Options
	var clock time.Duration
	if !ticks {
		opts.Now = func() time.Duration { return clock }
	}
	db := New(opts)

	type pair struct {
		view *View
		twin *twin
	}
	var views []pair
	duration := rapid.OneOf(rapid.Just(time.Duration(0)),
		rapid.Map(rapid.IntRange(1, 10), func(n int) time.Duration { return time.Duration(n) }))

	t.Repeat(map[string]func(*rapid.T){
		"apply": func(t *rapid.T) {
			op := command.Op{
				Kind:  command.Kind(rapid.IntRange(int(command.Set), int(command.CompareAndDelete)).Draw(t, "kind")),
				Space: command.Space(rapid.IntRange(0, 1).Draw(t, "space")),
				Key:   rapid.SampledFrom(twinKeys).Draw(t, "key"),
				Value: []byte(rapid.SampledFrom([]string{"", "x", "yy"}).Draw(t, "value")),
			}
			if op.Kind == command.Set || op.Kind == command.SetIfUnset {
				op.ExpireIn = duration.Draw(t, "expire")
				op.DeleteIn = duration.Draw(t, "delete")
			}
			if got, want := db.Apply(&op), tw.apply(op); got != want {
				t.Fatalf("%+v: got %+v, want %+v", op, got, want)
			}
		},
		"time": func(t *rapid.T) {
			elapsed := time.Duration(rapid.IntRange(0, 5).Draw(t, "elapsed"))
			lag := time.Duration(rapid.IntRange(0, int(elapsed)).Draw(t, "lag"))
			if ticks {
				db.Tick(elapsed, lag)
			}
			clock += elapsed
			tw.tick(elapsed, lag)
		},
		"reap": func(t *rapid.T) {
			limit := rapid.IntRange(1, 3).Draw(t, "limit")
			if got, want := db.Reap(limit), tw.reap(limit); got != want {
				t.Fatalf("reaped %d, want %d", got, want)
			}
		},
		"view": func(t *rapid.T) {
			if len(views) < 4 {
				views = append(views, pair{db.View(), tw.copy()})
			}
		},
		"release": func(t *rapid.T) {
			if len(views) > 0 {
				i := rapid.IntRange(0, len(views)-1).Draw(t, "view")
				views[i].view.Release()
				views = slices.Delete(views, i, i+1)
			}
		},
		"save and load": func(t *rapid.T) {
			v := db.View()
			defer v.Release()
			loaded, err := Load(bytes.NewReader(save(t, v)), opts)
			if err != nil {
				t.Fatal(err)
			}
			lv := loaded.View()
			if ticks && lv.Checksum() != v.Checksum() {
				t.Fatal("the loaded state has another checksum")
			}
			lv.Release()
			// The walk goes on with the loaded state while no view holds on
			// to the old one.
			if len(views) == 0 {
				db = loaded
			}
		},
		"": func(t *rapid.T) {
			if err := compare(db, tw); err != nil {
				t.Fatal(err)
			}
			for i, p := range views {
				if err := compare(viewReader{p.view}, p.twin); err != nil {
					t.Fatalf("view %d: %v", i, err)
				}
			}
			var got store.Info
			db.Info(&got)
			want := tw.info()
			want.Views = len(views)
			if got.Retained > 0 && len(views) == 0 {
				t.Fatalf("%d versions are kept for no view", got.Retained)
			}
			want.Retained = got.Retained
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Fatalf("info: got %+v, want %+v", got, want)
			}
		},
	})

	for _, p := range views {
		p.view.Release()
	}
	if n := db.versions.Load(); n != 0 {
		t.Fatalf("%d versions are kept when all views are released", n)
	}
	for space := range db.spaces {
		db.spaces[space].all(func(r *record) bool {
			if r.kind() == tombstone {
				t.Fatalf("key %q of space %d is there though it was deleted", r.key(), space)
			}
			return true
		})
	}
	if n := db.views.behind.Size(); n != 0 {
		t.Fatalf("%d versions are linked when all views are released", n)
	}
}
