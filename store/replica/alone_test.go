package replica_test

import (
	"testing"
	"time"

	"dkv/store/replica"
)

// TestGroupOfOneLeadsWithoutAnElectionTimeout has a member write sooner than Raft would have
// it campaign. A busy machine may keep it from that, but not each time.
func TestGroupOfOneLeadsWithoutAnElectionTimeout(t *testing.T) {
	opts := replica.Options{Dir: t.TempDir()}
	var took []time.Duration
	for len(took) < 10 {
		began := time.Now()
		s, err := replica.Open(opts)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Set(within(t, 20*time.Second), "k", nil); err != nil {
			t.Fatal(err)
		}
		took = append(took, time.Since(began))
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if len(took) > 1 && took[len(took)-1] < replica.ElectionTimeout {
			return // that is one that was there before
		}
	}
	t.Errorf("the first write took %v, an election timeout takes %v at least", took, replica.ElectionTimeout)
}
