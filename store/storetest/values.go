package storetest

import (
	"bytes"
	"strings"
	"time"

	"dkv/store"
)

var valueChecks = []check{
	{"ReadingAMissingKeyFindsNothing", func(s *session) {
		s.unset(s.key("never"))
	}},
	{"WhatIsSetIsFound", func(s *session) {
		s.set(s.key("a"), "one")
		s.live(s.key("a"), "one")
		s.set(s.key("a"), "two, which is longer")
		s.live(s.key("a"), "two, which is longer")
		s.set(s.key("a"), "3")
		s.live(s.key("a"), "3")
	}},
	{"SetHasNoDeadlines", func(s *session) {
		s.set(s.key("a"), "one")
		if e := s.live(s.key("a"), "one"); e.ExpireIn != 0 || e.DeleteIn != 0 {
			s.Fatalf("a key that was Set has the times left %v and %v", e.ExpireIn, e.DeleteIn)
		}
	}},
	{"DeletedKeyIsGone", func(s *session) {
		s.set(s.key("a"), "one")
		s.set(s.key("b"), "two")
		s.delete(s.key("a"))
		s.unset(s.key("a"))
		s.live(s.key("b"), "two")
		s.set(s.key("a"), "three")
		s.live(s.key("a"), "three")
	}},
	{"DeleteOfMissingKeyIsNoError", func(s *session) {
		s.delete(s.key("a"))
		s.delete(s.key("a"))
		s.unset(s.key("a"))
	}},
	{"ExpiredKeyIsThereWithoutItsValue", func(s *session) {
		s.set(s.key("a"), "one")
		s.expire(s.key("a"))
		if e := s.expired(s.key("a")); e.ExpireIn != 0 || e.DeleteIn != 0 {
			s.Fatalf("the times left are %v and %v; want none", e.ExpireIn, e.DeleteIn)
		}
		s.delete(s.key("a"))
		s.unset(s.key("a"))
	}},
	{"ExpireOfMissingKeyIsNoErrorAndMakesNone", func(s *session) {
		s.expire(s.key("a"))
		s.unset(s.key("a"))
		s.set(s.key("a"), "one")
		s.live(s.key("a"), "one")
	}},
	{"ExpireOfExpiredKeyIsNoError", func(s *session) {
		s.set(s.key("a"), "one")
		s.expire(s.key("a"))
		s.expire(s.key("a"))
		s.expired(s.key("a"))
	}},
	{"SetRevivesAnExpiredKey", func(s *session) {
		s.set(s.key("a"), "one")
		s.expire(s.key("a"))
		s.set(s.key("a"), "two")
		s.live(s.key("a"), "two")
		s.expire(s.key("a"))
		s.setE(s.key("a"), "three", time.Hour, time.Hour)
		s.live(s.key("a"), "three")
	}},
	{"SetEIfUnsetSetsAMissingKey", func(s *session) {
		if !s.setEIfUnset(s.key("a"), "one", 0, 0) {
			s.Fatalf("SetEIfUnset does not set a key that never was")
		}
		s.live(s.key("a"), "one")
	}},
	{"SetEIfUnsetSetsADeletedKey", func(s *session) {
		s.set(s.key("a"), "one")
		s.delete(s.key("a"))
		if !s.setEIfUnset(s.key("a"), "two", 0, 0) {
			s.Fatalf("SetEIfUnset does not set a deleted key")
		}
		s.live(s.key("a"), "two")

		s.set(s.key("b"), "one")
		s.expire(s.key("b"))
		s.delete(s.key("b"))
		if !s.setEIfUnset(s.key("b"), "two", 0, 0) {
			s.Fatalf("SetEIfUnset does not set a key that expired and was deleted")
		}
		s.live(s.key("b"), "two")
	}},
	{"SetEIfUnsetLeavesASetKeyAlone", func(s *session) {
		s.set(s.key("a"), "one")
		before := s.live(s.key("a"), "one")
		if s.setEIfUnset(s.key("a"), "two", time.Hour, time.Hour) || s.setEIfUnset(s.key("a"), "one", 0, 0) {
			s.Fatalf("SetEIfUnset says that it set a key that was set")
		}
		after := s.live(s.key("a"), "one")
		if after.Revision != before.Revision || after.ExpireIn != 0 || after.DeleteIn != 0 {
			s.Fatalf("SetEIfUnset set nothing but changed %+v to %+v", before, after)
		}
	}},
	{"SetEIfUnsetLeavesAnExpiredKeyAlone", func(s *session) {
		s.set(s.key("a"), "one")
		s.expire(s.key("a"))
		before := s.expired(s.key("a"))
		if s.setEIfUnset(s.key("a"), "two", 0, 0) {
			s.Fatalf("SetEIfUnset says that it set a key that is expired and not deleted")
		}
		if after := s.expired(s.key("a")); after.Revision != before.Revision {
			s.Fatalf("SetEIfUnset set nothing but changed revision %d to %d", before.Revision, after.Revision)
		}
	}},
	{"EmptyAndNilValuesAreFoundAsEmptySlices", func(s *session) {
		for i, value := range [][]byte{{}, nil} {
			a, b, c, d := s.key("a%d", i), s.key("b%d", i), s.key("c%d", i), s.key("d%d", i)
			s.did(s.next().Set(s.ctx, a, value), "Set", a)
			s.did(s.next().SetE(s.ctx, b, value, time.Hour, time.Hour), "SetE", b)
			if set, err := s.next().SetEIfUnset(s.ctx, c, value, 0, 0); !set || err != nil {
				s.Fatalf("SetEIfUnset(%s) = %v, %v", c, set, err)
			}
			if _, ok, err := s.next().CompareAndSet(s.ctx, d, 0, value, 0, 0); !ok || err != nil {
				s.Fatalf("CompareAndSet(%s) = %v, %v", d, ok, err)
			}
			for _, key := range []string{a, b, c, d} {
				s.live(key, "")
				for i := range s.stores {
					if v, _ := s.on(i).get(key); v == nil {
						s.Errorf("member %d: Get returns a nil slice for an empty value", i)
					}
					if v, _ := s.on(i).stale(key); v == nil {
						s.Errorf("member %d: GetStale returns a nil slice for an empty value", i)
					}
					if e, _ := s.on(i).entry(key); e.Value == nil {
						s.Errorf("member %d: GetEntry returns a nil slice for an empty value", i)
					}
				}
			}
		}
	}},
	{"ValuesMayHoldAnyBytes", func(s *session) {
		var every [256]byte
		for i := range every {
			every[i] = byte(i)
		}
		values := []string{"\x00", "\xff\xfe", "a\x00b", "\r\n", "\"'<&%", "\xed\xa0\x80", string(every[:]), strings.Repeat("long", 1<<18)}
		for i, v := range values {
			s.set(s.key("%d", i), v)
		}
		for i, v := range values {
			s.live(s.key("%d", i), v)
		}
	}},
	{"KeysMayHoldAnyBytes", func(s *session) {
		longest := strings.Repeat("k", store.MaxKeySize-1)
		keys := []string{
			"\x00\x00", "\xff\xff", "\xc3\x28", "\xed\xa0\x80", " ", "  ", "\t", "\r\n", "\n", "/", "//", "../up", "a/b", "a//b", "a?b=c#d", "%00", "%2F",
			"prefix", "prefix\x00", "prefix\x00\x00", "prefixed", "PREFIX", "\u00e9", "e\u0301", "\ufffd", "\ufeff",
			longest, longest + "a", longest + "b", longest + "\x00",
		}
		for i := range 256 {
			keys = append(keys, string([]byte{byte(i)}))
		}
		seen := make(map[string]bool)
		for _, key := range keys {
			if !seen[key] {
				s.set(key, "value of "+key)
			}
			seen[key] = true
		}
		for key := range seen {
			if v, ok := s.get(key); !ok || string(v) != "value of "+key {
				s.Fatalf("Get(%s) = %s, %v; want a value of its own", show(key), show(string(v)), ok)
			}
			if e, ok := s.entry(key); !ok || string(e.Value) != "value of "+key {
				s.Fatalf("GetEntry(%s) = %s, %v; want a value of its own", show(key), show(string(e.Value)), ok)
			}
		}
		for key := range seen {
			s.delete(key)
			if s.has(key) {
				s.Fatalf("Has(%s) after Delete", show(key))
			}
			if s.setEIfUnset(key, "", 0, 0); !s.has(key) {
				s.Fatalf("SetEIfUnset(%s) sets some other key", show(key))
			}
			s.expire(key)
			if _, ok := s.get(key); ok {
				s.Fatalf("Expire(%s) expires some other key", show(key))
			}
			s.delete(key)
		}
	}},
	{"KeyThatIsAPrefixOfAnotherIsAnother", func(s *session) {
		long := s.key("abcdef")
		for n := range 7 {
			s.set(long[:len(long)-n], long[len(long)-n:])
		}
		s.delete(long[:len(long)-3])
		s.expire(long[:len(long)-4])
		for n := range 7 {
			switch key := long[:len(long)-n]; n {
			case 3:
				s.unset(key)
			case 4:
				s.expired(key)
			default:
				s.live(key, long[len(long)-n:])
			}
		}
	}},
	{"SlicesPassedInAreCopied", func(s *session) {
		value := []byte("kept as it was")
		a, b, c, d := s.key("a"), s.key("b"), s.key("c"), s.key("d")
		s.did(s.next().Set(s.ctx, a, value), "Set", a)
		s.did(s.next().SetE(s.ctx, b, value, time.Hour, time.Hour), "SetE", b)
		if set, err := s.next().SetEIfUnset(s.ctx, c, value, 0, 0); !set || err != nil {
			s.Fatalf("SetEIfUnset(%s) = %v, %v", c, set, err)
		}
		if _, ok, err := s.next().CompareAndSet(s.ctx, d, 0, value, 0, 0); !ok || err != nil {
			s.Fatalf("CompareAndSet(%s) = %v, %v", d, ok, err)
		}
		clear(value)
		s.live(a, "kept as it was")
		s.live(b, "kept as it was")
		s.live(c, "kept as it was")
		s.live(d, "kept as it was")

		// One buffer for many values, as a careful program does it.
		for i := range 100 {
			value = append(value[:0], "value "+s.key("%d", i)...)
			s.did(s.next().Set(s.ctx, s.key("%d", i), value), "Set", s.key("%d", i))
		}
		for i := range 100 {
			if v, _ := s.get(s.key("%d", i)); string(v) != "value "+s.key("%d", i) {
				s.Fatalf("Get(%s) = %s; want what the buffer held at Set", s.key("%d", i), show(string(v)))
			}
		}
	}},
	{"SlicesReturnedBelongToTheCaller", func(s *session) {
		for _, value := range []string{"short", strings.Repeat("long", 2000)} {
			for _, key := range []string{"a", "b", "c"} {
				s.set(s.key("%s", key), value)
			}
			for i := range s.stores {
				for _, key := range []string{"a", "b", "c"} {
					v, _ := s.on(i).get(s.key("%s", key))
					scribble(v)
					v, _ = s.on(i).stale(s.key("%s", key))
					scribble(v)
					e, _ := s.on(i).entry(s.key("%s", key))
					scribble(e.Value)
				}
			}
			for _, key := range []string{"a", "b", "c"} {
				s.live(s.key("%s", key), value)
			}
			one, _ := s.on(0).get(s.key("a"))
			two, _ := s.on(0).get(s.key("a"))
			scribble(one)
			if string(two) != value {
				s.Fatalf("two calls of Get returned the same memory")
			}
		}
	}},
}

// scribble overwrites all the memory that b gives access to.
func scribble(b []byte) {
	b = b[:cap(b)]
	copy(b, bytes.Repeat([]byte{'#'}, len(b)))
}
