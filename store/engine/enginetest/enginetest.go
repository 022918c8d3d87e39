// Package enginetest is the one conformance suite of [engine.Engine]: every engine
// calls [Run] from a test of its own and thereby promises the same things. It also
// has [Naive], the engine that is obviously right, with which random walks compare
// the others. The suite leaves to the engines what only they can know, such as the
// memory that an entry takes and what their streams look like.
//
//	func TestEngine(t *testing.T) { enginetest.Run(t, maple.Factory) }
//
// An engine under test may have a method
//
//	CheckInvariants() error
//
// which tells what is wrong inside it. The suite calls it where no call is under
// way and no view is open. It can be declared in a file of the engine's tests.
package enginetest

import (
	"testing"

	"dkv/store/engine"

	"pgregory.net/rapid"
)

// A check is one promise of an engine. Its name is a sentence. It fails by way of a
// rapid.TB, so that the suite's own tests can have it fail without failing
// themselves.
type check struct {
	name string
	run  func(t rapid.TB, f engine.Factory)
}

func checks() (all []check) {
	for _, list := range [][]check{walkChecks, timeChecks, stateChecks, streamChecks, concurrencyChecks, transactionChecks, historyChecks} {
		all = append(all, list...)
	}
	return all
}

// Run checks everything that package engine promises of the engines that f makes.
// The flags of package rapid say how many random walks there are and how long.
func Run(t *testing.T, f engine.Factory) {
	for _, c := range checks() {
		t.Run(c.name, func(t *testing.T) { c.run(t, f) })
	}
}
