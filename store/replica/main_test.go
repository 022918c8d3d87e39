package replica_test

import (
	"context"
	"flag"
	"runtime"
	"strconv"
	"testing"
	"time"

	"dkv/internal/testcluster"
	"dkv/store/replica"
)

// TestMain has more tests run at a time than there are cores, if it is not told how many:
// they wait most of the time, for disks, for elections, for what was killed to be back. With
// the race detector they do not.
func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue && !raceDetector {
		flag.Set("test.parallel", strconv.Itoa(2*runtime.GOMAXPROCS(0)))
	}
	testcluster.Main(m, (*replica.Options).WrapTransport)
}

// rounds is n, or few of them in a short run.
func rounds(n, short int) int {
	if testing.Short() {
		return short
	}
	return n
}

func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// eventually waits until f returns true.
func eventually(t testing.TB, limit time.Duration, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}
