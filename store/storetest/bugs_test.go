package storetest

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"dkv/store"
)

// A bug breaks each of three members of a naive store. The checks in caughtBy
// must notice.
type bug struct {
	name     string
	caughtBy []string
	plant    func(b *broken)
}

func allBugs() (all []bug) {
	for _, l := range [][]bug{timeBugs, operationBugs, inputBugs, memberBugs, staleBugs, scanBugs, scanStateBugs, scanLoopBugs, conditionBugs, addBugs, txnBugs, txnRefusalBugs, watchBugs, lockBugs} {
		all = append(all, l...)
	}
	return all
}

func allChecks() map[string]check {
	all := make(map[string]check)
	for _, g := range groups() {
		for _, c := range g.checks {
			all[c.name] = c
		}
	}
	return all
}

func TestSuiteCatchesEachBug(t *testing.T) {
	checks := allChecks()
	for _, b := range allBugs() {
		for _, name := range b.caughtBy {
			t.Run(b.name+"/"+name, func(t *testing.T) {
				t.Parallel()
				c, ok := checks[name]
				if !ok {
					t.Fatal("there is no such check")
				}
				// What is early by some milliseconds is seen by who looks in
				// those, which a machine that is busy may keep it from.
				const tries = 3
				var failures []string
				for n := 0; len(failures) == 0; n++ {
					if n == tries {
						t.Fatal("not caught")
					}
					failures = try(t, c, b.plant)
				}
				t.Logf("caught: %.300s", failures[0])
			})
		}
	}
}

func TestEveryCheckCatchesABug(t *testing.T) {
	left := allChecks()
	for _, b := range allBugs() {
		for _, name := range b.caughtBy {
			delete(left, name)
		}
	}
	for name := range left {
		t.Errorf("no bug shows that %s can fail", name)
	}
}

// try returns what the check finds wrong with a store that has the bug. It
// does not wait as long as Run for what is late.
func try(t *testing.T, c check, plant func(*broken)) []string {
	var stores []store.Store
	for _, m := range newNaive(3) {
		b := newBroken(m)
		plant(b)
		stores = append(stores, b)
		defer m.Close()
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	v := new(verdict)
	done := make(chan struct{})
	go func() { // which Fatalf ends
		defer close(done)
		c.run(newSession(ctx, v, stores, c.name, 500*time.Millisecond))
	}()
	<-done
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.mu.failures
}

// verdict is a tb that notes what a check says.
type verdict struct {
	mu struct {
		sync.Mutex
		failures []string
	}
}

func (v *verdict) Helper() {}

func (v *verdict) Logf(string, ...any) {}

func (v *verdict) Errorf(format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.mu.failures = append(v.mu.failures, fmt.Sprintf(format, args...))
}

func (v *verdict) Fatalf(format string, args ...any) {
	v.Errorf(format, args...)
	runtime.Goexit()
}
