package replica_test

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"dkv/internal/clock"
	"dkv/internal/testcluster"
	"dkv/maple"
	"dkv/store"
	"dkv/store/engine"
	"dkv/store/replica"
)

// hanging is a Maple that hangs in writes of the key "hang".
type hanging struct {
	engine.Engine
	hangs   chan struct{} // receives when it hangs
	release chan struct{}
}

func (h hanging) Apply(op *engine.Op, limit int64) engine.Result {
	if op.Key == "hang" {
		h.hangs <- struct{}{}
		<-h.release
	}
	return h.Engine.Apply(op, limit)
}

func TestLiveTellsOfAnEngineThatHangsAndOfNothingElse(t *testing.T) {
	t.Parallel()
	hangs, release := make(chan struct{}), make(chan struct{})
	clock := new(clock.Fake)
	c := testcluster.New(t, testcluster.Options{Members: 1, Change: func(_ int, o *replica.Options) {
		o.Clock = clock
		o.Engine = engine.Factory{
			New: func(opts engine.Options) engine.Engine { return hanging{maple.New(opts), hangs, release} },
			Load: func(r io.Reader, opts engine.Options) (engine.Engine, error) {
				db, err := maple.Load(r, opts)
				return hanging{db, hangs, release}, err
			},
		}
	}})
	c.Ready()
	s := c.Store(0)
	ctx := within(t, time.Minute)
	live := func(what string) {
		t.Helper()
		if err := s.Live(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	set := func(key string) <-chan error {
		done := make(chan error, 1)
		go func() { done <- s.Set(ctx, key, nil) }()
		return done
	}
	eventually(t, 10*time.Second, "it has nothing to do", s.Idle)
	for range 20 {
		live("nothing to do")
		clock.Advance(time.Hour)
	}
	for range 20 { // each time another entry hangs, and each time it goes on
		done := set("hang")
		<-hangs
		live("an entry that is being applied")
		clock.Advance(30 * time.Second)
		live("an entry that has been applied for 30 s")
		release <- struct{}{}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}

	done := set("hang")
	<-hangs
	live("an entry that is being applied")
	clock.Advance(24 * time.Hour)
	live("an entry that was being applied when the process was stopped for a day")
	for range 4 {
		clock.Advance(10 * time.Second)
		live("less than a minute in all")
	}
	for range 3 {
		clock.Advance(10 * time.Second)
		if err := s.Live(); !errors.Is(err, replica.ErrNotLive) {
			t.Errorf("an entry that has been applied for more than a minute: %v", err)
		}
	}
	release <- struct{}{}
	if err := <-done; err != nil {
		t.Error(err)
	}
	eventually(t, 10*time.Second, "it is live once it has gone on", func() bool { return s.Live() == nil })
}

func TestMemberThatWaitsForPeersIsLiveAndNotReady(t *testing.T) {
	t.Parallel()
	c := testcluster.New(t, testcluster.Options{})
	c.Ready()
	for i := 1; i < 3; i++ {
		c.Stop(i)
	}
	check := func(s *replica.Store) {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
		defer cancel()
		if err := s.Ready(ctx); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("without a quorum it is ready: %v", err)
		}
		if err := s.Live(); err != nil {
			t.Errorf("without a quorum: %v", err)
		}
	}
	check(c.Store(0))
	s := c.Restart(0)
	check(s)
	c.Stop(0)
	if err := s.Live(); !errors.Is(err, store.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}
