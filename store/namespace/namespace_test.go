package namespace_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"dkv/internal/clock"
	"dkv/store"
	"dkv/store/local"
	"dkv/store/namespace"

	"pgregory.net/rapid"
)

// TestNamespaceIsLikeAStoreOfItsOwn has a namespace and a store do the same.
func TestNamespaceIsLikeAStoreOfItsOwn(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := new(clock.Fake)
		whole, alone := local.Open(local.Options{Clock: now}), local.Open(local.Options{Clock: now})
		defer whole.Close()
		defer alone.Close()
		part := namespace.New(whole, namespace.Prefix("part"))
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		keys := []string{"a", "b", "ab", "\x00", "\xff", ""}
		key := rapid.SampledFrom(keys)
		// same has both do it, and compares what they return.
		same := func(t *rapid.T, what string, do func(s store.Store) []any) {
			if got, want := fmt.Sprint(do(part)...), fmt.Sprint(do(alone)...); got != want {
				t.Fatalf("%s: %s, want %s", what, got, want)
			}
		}
		results := func(all ...any) []any { return all }
		watch := store.Watch{From: 1, Prefix: rapid.SampledFrom([]string{"", "a"}).Draw(t, "prefix")}
		for _, s := range []*local.Store{whole, alone} {
			s.Watch(ctx, store.Watch{}) // remembers from here on
		}
		t.Repeat(map[string]func(*rapid.T){
			"write": func(t *rapid.T) {
				k, v := key.Draw(t, "key"), []byte(rapid.SampledFrom([]string{"", "1", "x"}).Draw(t, "value"))
				d := time.Duration(rapid.IntRange(0, 3).Draw(t, "duration"))
				rev := store.Revision(rapid.IntRange(0, 20).Draw(t, "revision"))
				switch rapid.IntRange(0, 7).Draw(t, "write") {
				case 0:
					same(t, "Set", func(s store.Store) []any { return results(s.Set(ctx, k, v)) })
				case 1:
					same(t, "SetE", func(s store.Store) []any { return results(s.SetE(ctx, k, v, d, 2*d)) })
				case 2:
					same(t, "SetEIfUnset", func(s store.Store) []any { return results(s.SetEIfUnset(ctx, k, v, d, 2*d)) })
				case 3:
					same(t, "Expire", func(s store.Store) []any { return results(s.Expire(ctx, k)) })
				case 4:
					same(t, "Delete", func(s store.Store) []any { return results(s.Delete(ctx, k)) })
				case 5:
					same(t, "CompareAndSet", func(s store.Store) []any { return results(s.CompareAndSet(ctx, k, rev, v, d, 2*d)) })
				case 6:
					same(t, "CompareAndDelete", func(s store.Store) []any { return results(s.CompareAndDelete(ctx, k, rev)) })
				case 7:
					same(t, "Add", func(s store.Store) []any { return results(s.Add(ctx, k, 5)) })
				}
			},
			"transact": func(t *rapid.T) {
				a, b := key.Draw(t, "a"), key.Draw(t, "b")
				txn := store.Txn{
					If:   []store.Cond{store.IfExists(a)},
					Then: []store.Op{store.OpDelete(a), store.OpGet(b)},
					Else: []store.Op{store.OpSet(a, []byte("7")), store.OpGet(b)},
				}
				same(t, "Txn", func(s store.Store) []any { return results(s.Txn(ctx, txn)) })
			},
			"read": func(t *rapid.T) {
				k := key.Draw(t, "key")
				same(t, "Get", func(s store.Store) []any { return results(s.Get(ctx, k)) })
				same(t, "GetStale", func(s store.Store) []any { return results(s.GetStale(ctx, k)) })
				same(t, "GetEntry", func(s store.Store) []any { return results(s.GetEntry(ctx, k)) })
				same(t, "Has", func(s store.Store) []any { return results(s.Has(ctx, k)) })
			},
			"scan": func(t *rapid.T) {
				r := store.Range{
					Prefix: key.Draw(t, "prefix"), From: key.Draw(t, "from"), To: key.Draw(t, "to"), After: key.Draw(t, "after"),
					Reverse: rapid.Bool().Draw(t, "reverse"), Limit: rapid.IntRange(0, 3).Draw(t, "limit"),
				}
				same(t, "Scan", func(s store.Store) (all []any) {
					for e, err := range s.Scan(ctx, r) {
						all = append(all, e, err)
					}
					return all
				})
			},
			"watch": func(t *rapid.T) {
				ended, end := context.WithCancel(ctx)
				same(t, "Watch", func(s store.Store) (all []any) {
					events, err := s.Watch(ended, watch)
					if err != nil {
						return results(err)
					}
					info, _ := s.Info(ctx)
					s.Set(ctx, "a", []byte("the last"))
					for e, err := range events {
						all = append(all, e, err)
						if e.Revision > info.Revision {
							break
						}
					}
					return all
				})
				end()
			},
			"time": func(t *rapid.T) { now.Advance(time.Duration(rapid.IntRange(1, 3).Draw(t, "time"))) },
		})
	})
}

func TestNamespacesDoNotMeet(t *testing.T) {
	s := local.Open(local.Options{})
	defer s.Close()
	ctx := context.Background()
	parts := map[string]store.Store{
		"whole":  s,
		"a":      namespace.New(s, namespace.Prefix("a")),
		"b":      namespace.New(s, namespace.Prefix("b")),
		"a in a": namespace.New(s, namespace.Prefix("a")+namespace.Prefix("a")),
		"aa":     namespace.New(s, namespace.Prefix("aa")),
	}
	for name, part := range parts {
		if err := part.Set(ctx, "k", []byte(name)); err != nil {
			t.Fatal(err)
		}
	}
	for name, part := range parts {
		if value, ok, err := part.Get(ctx, "k"); string(value) != name || !ok || err != nil {
			t.Errorf("%s has %q, %v, %v", name, value, ok, err)
		}
		var own []store.Entry
		for e, err := range part.Scan(ctx, store.Range{}) {
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasPrefix(e.Key, "\x00") { // else it is of a part of the part
				own = append(own, store.Entry{Key: e.Key, Value: e.Value})
			}
		}
		if want := []store.Entry{{Key: "k", Value: []byte(name)}}; !reflect.DeepEqual(own, want) {
			t.Errorf("%s has %+v", name, own)
		}
	}
}

func TestLongestKeysAreShorterByThePrefix(t *testing.T) {
	s := local.Open(local.Options{})
	defer s.Close()
	part := namespace.New(s, namespace.Prefix("a"))
	longest := strings.Repeat("k", store.MaxKeySize-len(namespace.Prefix("a")))
	if err := part.Set(context.Background(), longest, nil); err != nil {
		t.Error(err)
	}
	if err := part.Set(context.Background(), longest+"k", nil); !errors.Is(err, store.ErrKeyTooLarge) {
		t.Error(err)
	}
}

func TestNameThatWouldMeetOthersPanics(t *testing.T) {
	for _, name := range []string{"", "a\x00b"} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%q is a name", name)
				}
			}()
			namespace.Prefix(name)
		}()
	}
}
