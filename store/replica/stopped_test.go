package replica

import (
	"errors"
	"testing"
	"time"

	"dkv/store"
)

func TestReplicaThatDragonboatHasStoppedIsNotLive(t *testing.T) {
	s, err := Open(Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Live(); err != nil {
		t.Fatal(err)
	}
	if err := s.host.nh.StopShard(shard); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); !errors.Is(s.Live(), ErrNotLive); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it is live")
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := s.Live(); !errors.Is(err, store.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}
