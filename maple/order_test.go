package maple

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"dkv/store"
	"dkv/store/engine"

	"pgregory.net/rapid"
)

// keysOf are those that a scan yields.
func keysOf(db *DB, from, to string, reverse bool) (keys []string) {
	v := db.View()
	defer v.Release()
	v.Scan(engine.Keys, from, to, reverse, func(e store.Entry) bool {
		keys = append(keys, e.Key)
		return true
	})
	return keys
}

// TestOrderOfManyKeysIsThatOfASortedSlice has enough keys come and go for pages
// and groups to be split and merged.
func TestOrderOfManyKeysIsThatOfASortedSlice(t *testing.T) {
	orders := map[string]func(i, n int) string{
		"rising":  func(i, n int) string { return fmt.Sprintf("%08d", i) },
		"falling": func(i, n int) string { return fmt.Sprintf("%08d", n-i) },
		"random":  func(i, n int) string { return fmt.Sprintf("%08d", i*7919%n) },
		"nested":  func(i, n int) string { return strings.Repeat("k", 1+i%50) + fmt.Sprint(i/50) },
	}
	for name, key := range orders {
		t.Run(name, func(t *testing.T) {
			n := 3 * perPage * perGroup
			db := New(engine.Options{})
			var twin []string
			check := func(twin []string) {
				t.Helper()
				if err := db.CheckInvariants(); err != nil {
					t.Fatal(err)
				}
				twin = slices.Compact(slices.Sorted(slices.Values(twin)))
				if got := keysOf(db, "", "", false); !slices.Equal(got, twin) {
					t.Fatalf("%d keys in order, %d were set", len(got), len(twin))
				}
				from, to := twin[len(twin)/3], twin[2*len(twin)/3]
				want := twin[len(twin)/3 : 2*len(twin)/3]
				if got := keysOf(db, from, to, false); !slices.Equal(got, want) {
					t.Fatalf("%d keys from %q to %q, want %d", len(got), from, to, len(want))
				}
				want = slices.Clone(want)
				slices.Reverse(want)
				if got := keysOf(db, from, to, true); !slices.Equal(got, want) {
					t.Fatalf("%d keys from %q to %q in reverse, want %d", len(got), from, to, len(want))
				}
			}
			for i := range n {
				set(db, key(i, n), "v", 0, 0)
				twin = append(twin, key(i, n))
			}
			check(twin)
			groups, pages := len(db.spaces[engine.Keys].order.root.Load().groups), 0
			if groups < 2 {
				t.Fatal("there is but one group")
			}
			var left []string
			for i, k := range twin {
				if i%20 == 0 {
					left = append(left, k)
				} else {
					db.Apply(&engine.Op{Kind: engine.Delete, Key: k}, 0)
				}
			}
			check(left)
			for _, g := range db.spaces[engine.Keys].order.root.Load().groups {
				pages += len(g.pages)
			}
			if limit := 4 + len(left)*sparse*2/perPage; pages > limit {
				t.Errorf("%d pages for %d keys", pages, len(left))
			}
			for _, k := range left {
				db.Apply(&engine.Op{Kind: engine.Delete, Key: k}, 0)
			}
			if err := db.CheckInvariants(); err != nil {
				t.Fatal(err)
			}
			if root := db.spaces[engine.Keys].order.root.Load(); len(root.groups) != 1 || len(root.groups[0].pages) > 2 {
				t.Errorf("%d groups for no key", len(root.groups))
			}
		})
	}
}

func TestSeparatorLiesBetweenTheKeysAndIsShort(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.SliceOfN(rapid.SampledFrom([]byte("\x00ab\xff")), 1, 6)
		a, b := string(text.Draw(t, "a")), string(text.Draw(t, "b"))
		if a == b {
			return
		}
		left, right := min(a, b), max(a, b)
		s := between(left, right)
		if s <= left || s > right || len(s) > len(right) {
			t.Fatalf("%q is said to be between %q and %q", s, left, right)
		}
		for n := range s {
			if s[:n] > left {
				t.Fatalf("%q is shorter than %q, and between %q and %q too", s[:n], s, left, right)
			}
		}
	})
}
