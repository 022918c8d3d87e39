package storetest

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"dkv/store"
)

// A twin is what a store without deadlines that pass shall hold.
type twin struct {
	revision store.Revision
	keys     map[string]twinEntry
}

type twinEntry struct {
	value            string
	expired          bool
	expires, deletes bool // has such a deadline, an hour away
	revision         store.Revision
}

func twinOf(e store.Entry) twinEntry {
	return twinEntry{string(e.Value), e.Expired, e.ExpireIn > 0 && e.ExpireIn < 90*time.Minute, e.DeleteIn > 0, e.Revision}
}

var walkChecks = []check{
	{"RandomWalkAgreesWithAMap", func(s *session) {
		const steps, names = 600, 6
		seed := rand.Uint64()
		random := rand.New(rand.NewPCG(seed, 0))
		var trail []string
		fail := func(format string, args ...any) {
			s.Helper()
			s.Fatalf("seed %d: %s, after\n\t%s", seed, fmt.Sprintf(format, args...), strings.Join(trail[max(0, len(trail)-20):], "\n\t"))
		}

		s.set(s.key("0"), "first")
		r := s.revision(s.key("0"))
		twin := twin{revision: r, keys: map[string]twinEntry{s.key("0"): {value: "first", revision: r}}}
		for range steps {
			key := s.key("%d", random.IntN(names))
			value := strings.Repeat("v", random.IntN(20))
			if random.IntN(2) == 0 {
				value = strconv.Itoa(random.IntN(100))
			}
			var expireIn, deleteIn time.Duration
			if random.IntN(2) == 0 {
				expireIn = time.Hour
			}
			if random.IntN(2) == 0 {
				deleteIn = 2 * time.Hour
			}
			old, there := twin.keys[key]
			switch op := random.IntN(10); op {
			case 0:
				trail = append(trail, fmt.Sprintf("Set(%s, %q)", key, value))
				s.set(key, value)
				twin.put(key, twinEntry{value: value})
			case 1:
				trail = append(trail, fmt.Sprintf("SetE(%s, %q, %v, %v)", key, value, expireIn, deleteIn))
				s.setE(key, value, expireIn, deleteIn)
				twin.put(key, twinEntry{value: value, expires: expireIn > 0, deletes: deleteIn > 0})
			case 2, 3:
				trail = append(trail, fmt.Sprintf("SetEIfUnset(%s, %q, %v, %v)", key, value, expireIn, deleteIn))
				if set := s.setEIfUnset(key, value, expireIn, deleteIn); set == there {
					fail("it returned %v", set)
				}
				if !there {
					twin.put(key, twinEntry{value: value, expires: expireIn > 0, deletes: deleteIn > 0})
				}
			case 4:
				if old.expired {
					continue // whether that is a change, the vocabulary leaves open
				}
				trail = append(trail, fmt.Sprintf("Expire(%s)", key))
				s.expire(key)
				if there {
					twin.put(key, twinEntry{expired: true, deletes: old.deletes})
				}
			case 5:
				trail = append(trail, fmt.Sprintf("Delete(%s)", key))
				s.delete(key)
				twin.remove(key)
			case 6, 7:
				did, wrong := twin.compare(s, random, key, value, span{expireIn, deleteIn})
				if trail = append(trail, did); wrong != "" {
					fail("%s", wrong)
				}
			case 8, 9:
				t := randomTxn(random, func() string { return s.key("%d", random.IntN(names)) }, &twin)
				trail = append(trail, "Txn("+showTxn(t)+")")
				if wrong := twin.txn(s, t); wrong != "" {
					fail("%s", wrong)
				}
			}
			key = s.key("%d", random.IntN(names))
			want, there := twin.keys[key]
			e, ok := s.entry(key)
			if ok != there {
				fail("GetEntry(%s) = %v; want %v", key, ok, there)
			}
			if got := twinOf(e); got != want {
				fail("GetEntry(%s) = %+v; want %+v", key, got, want)
			}
			if v, ok := s.get(key); ok != (there && !want.expired) || string(v) != want.value {
				fail("Get(%s) = %q, %v; want %+v", key, v, ok, want)
			}
			if ok := s.has(key); ok != there {
				fail("Has(%s) = %v; want %v", key, ok, there)
			}
			if random.IntN(4) > 0 {
				continue
			}
			reverse := random.IntN(2) == 0
			all, at := s.scan(store.Range{Reverse: reverse})
			if at != twin.revision {
				fail("a scan shows the revision %d; want %d", at, twin.revision)
			}
			keys := slices.Sorted(maps.Keys(twin.keys))
			if reverse {
				slices.Reverse(keys)
			}
			s.sameKeys(fmt.Sprintf("seed %d: a scan, reverse: %v,", seed, reverse), keysOf(all), keys)
			for _, e := range all {
				if got, want := twinOf(e), twin.keys[e.Key]; got != want {
					fail("a scan yields %s with %+v; want %+v", e.Key, got, want)
				}
			}
		}
		var bytes int64
		for key, e := range twin.keys {
			bytes += int64(len(key) + len(e.value))
		}
		s.holds(int64(len(twin.keys)), bytes)
		for key := range twin.keys {
			s.delete(key)
		}
		s.holds(0, 0)
	}},
}
