package storetest

import (
	"context"
	"time"

	"dkv/store"
)

// revisionChecks count revisions, and so need the store to themselves.
var revisionChecks = []check{
	{"EachChangeTakesTheNextRevision", func(s *session) {
		a, b := s.key("a"), s.key("b")
		s.set(a, "one")
		r := s.live(a, "one").Revision
		step := func(what string, got store.Revision) {
			s.Helper()
			if got != r+1 {
				s.Fatalf("%s has revision %d after %d; want the next", what, got, r)
			}
			r++
		}
		s.set(a, "two")
		step("Set", s.live(a, "two").Revision)
		s.set(a, "two")
		step("Set of the same value", s.live(a, "two").Revision)
		s.set(b, "")
		step("Set of another key", s.live(b, "").Revision)
		s.setE(a, "two", time.Hour, time.Hour)
		step("SetE", s.live(a, "two").Revision)
		s.setE(a, "two", time.Hour, time.Hour)
		step("SetE of the same again", s.live(a, "two").Revision)
		s.expire(a)
		step("Expire", s.expired(a).Revision)
		s.set(a, "three")
		step("Set of an expired key", s.live(a, "three").Revision)
		s.delete(a)
		r++ // of the deletion; no entry shows it
		if !s.setEIfUnset(a, "four", 0, 0) {
			s.Fatalf("SetEIfUnset does not set a deleted key")
		}
		step("SetEIfUnset after Delete", s.live(a, "four").Revision)
		s.delete(b)
		s.delete(a)
		r += 2
		s.set(a, "five")
		step("Set after two Deletes", s.live(a, "five").Revision)
		s.delete(a)
	}},
	{"WhatChangesNothingTakesNoRevision", func(s *session) {
		a, missing := s.key("a"), s.key("missing")
		for _, c := range []struct {
			name string
			do   func()
		}{
			{"Delete of a missing key", func() { s.delete(missing) }},
			{"Expire of a missing key", func() { s.expire(missing) }},
			{"refused SetEIfUnset", func() { s.setEIfUnset(a, "other", time.Hour, time.Hour) }},
			{"a read", func() {
				s.get(a)
				s.has(a)
				s.entry(a)
				s.get(missing)
				s.info()
				s.scan(store.Range{})
			}},
			{"bad input", func() {
				refusals(a, missing, func(_ string, calls []call, want error) {
					s.Helper()
					s.refuse(s.ctx, calls, want, store.KindFinal)
				})
			}},
			{"a cancelled context", func() {
				ctx, cancel := context.WithCancel(s.ctx)
				cancel()
				s.refuse(ctx, writes(a, []byte("other"), 0, 0), context.Canceled, store.KindNotApplied)
				s.refuse(ctx, writes(missing, []byte("other"), 0, 0), context.Canceled, store.KindNotApplied)
			}},
		} {
			s.set(a, "one")
			before := s.revision(a)
			c.do()
			s.set(a, "one")
			if after := s.revision(a); after != before+1 {
				s.Fatalf("%s took %d revisions; want none", c.name, after-before-1)
			}
		}
		s.delete(a)
	}},
	{"DeadlinesLeaveTheRevisionOfTheEntry", func(s *session) {
		a := s.key("a")
		r := s.seenAlive(func(d time.Duration) { s.setE(a, "one", d, 0) }, a)
		s.eventually("the deadline expires the key", func() bool { _, ok := s.get(a); return !ok })
		if after := s.expired(a).Revision; after != r {
			s.Fatalf("a key with revision %d has %d once its deadline expired it; want the same", r, after)
		}
		s.delete(a)
	}},
	{"DeadlinesTakeOneRevisionOfTheStore", func(s *session) {
		a, b := s.key("a"), s.key("b")
		r := s.seenAlive(func(d time.Duration) { s.setE(a, "one", 0, d) }, a)
		s.eventually("the store makes the deadline a change of its own", func() bool { return s.info().Revision > r })
		s.set(b, "one")
		if after := s.revision(b); after != r+2 {
			s.Fatalf("SetE has revision %d and a Set after its deadline %d; want one between them, for the deletion", r, after)
		}
		s.delete(b)
	}},
}

// seenAlive calls write with longer and longer durations until the key it
// writes is seen before that has passed, and returns its revision.
func (s *session) seenAlive(write func(d time.Duration), key string) store.Revision {
	s.Helper()
	for d := 100 * time.Millisecond; d < 10*time.Second; d *= 2 {
		write(d)
		if e, ok := s.entry(key); ok && !e.Expired {
			return e.Revision
		}
	}
	s.Fatalf("%s is never seen alive", key)
	return 0
}
