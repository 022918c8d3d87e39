// Package storetest is the one conformance suite of [store.Store]: every
// implementation, in memory, durable, replicated or at the far end of a
// network, calls [Run] from a test of its own and thereby promises the same
// things. The suite leaves to the implementations what only they can provoke,
// such as crashes, failover, and leaked goroutines. It runs on real time, since
// a replicated store has a clock of its own; that a deadline is never early is
// checked to the letter, that it is not late only within ten seconds.
//
//	func TestConformance(t *testing.T) {
//		storetest.Run(t, storetest.Harness{Open: func(t *testing.T) []store.Store {
//			db := local.Open(local.Options{})
//			t.Cleanup(func() { db.Close() })
//			return []store.Store{db}
//		}})
//	}
package storetest

import (
	"context"
	"sync"
	"testing"
	"time"

	"dkv/store"
)

// Harness opens what is tested.
type Harness struct {
	// Open returns the stores that give access to one and the same fresh,
	// empty state: a single store, or one for each member of a cluster. They
	// may still be looking for a leader, but must get ready unaided. Open has
	// them closed by t.Cleanup. Each must be an io.Closer whose Close may be
	// called again.
	Open func(t *testing.T) []store.Store
}

const (
	lateness = 10 * time.Second // how late a deadline may be
	patience = 2 * time.Minute  // how long one check may take
	abreast  = 12               // checks that share a store at one time
)

// tb is the part of testing.TB that checks use. It is an interface so that the
// suite's own tests can have checks fail without failing themselves.
type tb interface {
	Helper()
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// A check is one promise of a store. Its name is a sentence.
type check struct {
	name string
	run  func(*session)
}

// A group is checks that have one opening of the stores to themselves.
type group struct {
	name   string
	checks []check
	// together: the checks keep to keys of their own and may run at one time.
	// Otherwise they run one after another and each leaves the store empty,
	// without deadlines (or closed).
	together bool
}

func groups() []group {
	return []group{
		{name: "Shared", together: true, checks: join(valueChecks, refusalChecks, timeChecks, rewriteChecks, memberChecks, staleChecks, scanChecks, scanStateChecks, scanLoopChecks, conditionChecks, addChecks, txnChecks, txnRefusalChecks, txnMemberChecks, watchChecks)},
		{name: "Histories", checks: historyChecks},
		{name: "Alone", checks: join(revisionChecks, infoChecks, limitChecks, wholeScanChecks, viewChecks, txnLimitChecks, walkChecks, watchAloneChecks, lockChecks)},
		{name: "Closing", checks: closeChecks},
		{name: "ClosingWatches", checks: closeWatchChecks},
	}
}

func join(lists ...[]check) (all []check) {
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

// Run checks everything that package store promises of a Store. Harness.Open
// is called once for each of a handful of groups, and again where a check that
// needs the stores to itself has failed.
func Run(t *testing.T, h Harness) {
	for _, g := range groups() {
		t.Run(g.name, func(t *testing.T) {
			if g.together {
				runTogether(t, h, g.checks)
			} else {
				runInTurn(t, h, g.checks)
			}
		})
	}
}

// runTogether does not use t.Parallel, which would admit no more checks at a
// time than there are processors, although nearly all they do is wait.
func runTogether(t *testing.T, h Harness, checks []check) {
	stores := h.open(t)
	slots := make(chan struct{}, abreast)
	var all sync.WaitGroup
	for _, c := range checks {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			c.test(t, stores)
		})
	}
	all.Wait()
}

// runInTurn opens fresh stores after a check that failed, since it may not have
// tidied up.
func runInTurn(t *testing.T, h Harness, checks []check) {
	stores := h.open(t)
	for i, c := range checks {
		if !c.test(t, stores) && i < len(checks)-1 {
			stores = h.open(t)
		}
	}
}

func (h Harness) open(t *testing.T) []store.Store {
	t.Helper()
	stores := h.Open(t)
	if len(stores) == 0 {
		t.Fatal("Harness.Open returned no stores")
	}
	return stores
}

// test runs the check as a subtest and tells whether it passed.
func (c check) test(t *testing.T, stores []store.Store) bool {
	return t.Run(c.name, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		c.run(newSession(ctx, t, stores, c.name, lateness))
	})
}
