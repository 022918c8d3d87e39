package enginetest

import (
	"flag"
	"io"
	"strings"
	"testing"

	"dkv/store/engine"
)

// A bug breaks naive engines. The checks in caughtBy must notice.
type bug struct {
	name     string
	caughtBy []string
	plant    func(b *broken)
	load     func(r io.Reader, opts engine.Options) (*naive, error)
}

// Parts of names, for bugs that more than one check must notice.
const (
	byAnyWalk    = "RandomWalk"
	byClockWalks = "RandomWalkByAClock"
	byTickWalks  = "RandomWalkByTicks"
)

func allBugs() (all []bug) {
	for _, l := range [][]bug{operationBugs, timeBugs, viewBugs, streamBugs, concurrencyBugs, changeBugs, transactionBugs} {
		all = append(all, l...)
	}
	return all
}

// checksNamed returns those whose names begin so.
func checksNamed(t *testing.T, begin string) (found []check) {
	for _, c := range checks() {
		if strings.HasPrefix(c.name, begin) {
			found = append(found, c)
		}
	}
	if len(found) == 0 {
		t.Fatalf("there is no check named %q", begin)
	}
	return found
}

func TestSuiteCatchesEachBug(t *testing.T) {
	if testing.Short() {
		t.Skip("it is the suite that is tested: the long run has it")
	}
	setRapid(t)
	for _, b := range allBugs() {
		for _, begin := range b.caughtBy {
			for _, c := range checksNamed(t, begin) {
				t.Run(b.name+"/"+c.name, func(t *testing.T) {
					// Those that only show when calls meet need a machine that has
					// them meet: a short run looks again.
					const tries = 3
					said, failed := try(c, b.factory())
					for n := 1; !failed && n < tries; n++ {
						said, failed = try(c, b.factory())
					}
					if !failed {
						t.Fatal("not caught")
					}
					t.Logf("caught: %.300s", strings.Join(said, "\n"))
				})
			}
		}
	}
}

func TestEveryCheckCatchesABug(t *testing.T) {
	left := make(map[string]bool)
	for _, c := range checks() {
		left[c.name] = true
	}
	for _, b := range allBugs() {
		for _, begin := range b.caughtBy {
			for _, c := range checksNamed(t, begin) {
				delete(left, c.name)
			}
		}
	}
	for name := range left {
		t.Errorf("no bug shows that %s can fail", name)
	}
}

// setRapid has rapid walk farther than it does by default, as far in a short run,
// and keeps it from making the failures that a test wants smaller and from writing
// them to files.
func setRapid(t *testing.T) {
	for name, value := range map[string]string{
		"rapid.checks": "2000", "rapid.steps": "60", "rapid.nofailfile": "true", "rapid.shrinktime": "0s",
	} {
		f := flag.Lookup(name)
		before := f.Value.String()
		if err := f.Value.Set(value); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Value.Set(before) })
	}
}
