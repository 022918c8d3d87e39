package transport

import (
	"bytes"
	"testing"
	"time"

	"dkv/store"
	"dkv/store/engine"
	"dkv/store/local"
)

// TestServerDoesNotTellWhatReleasesALock: what the holder tells of itself it does.
func TestServerDoesNotTellWhatReleasesALock(t *testing.T) {
	ctx := background(t)
	s := local.Open(local.Options{})
	defer s.Close()
	endpoint := serveBackend(t, "tcp://127.0.0.1:0", s)
	owner := []byte("12345678at home")
	want := append(make([]byte, store.OwnerSize), "at home"...)
	_, start, err := s.Poll(ctx, engine.Locks, store.Watch{Key: "l"}, 0, 1)
	if err != nil {
		t.Fatal(err)
	}
	if place, err := s.JoinLock(ctx, "l", owner, 0, time.Hour, false); !place.Held || err != nil {
		t.Fatal(place, err)
	}
	what := store.Watch{Key: "l", From: start}
	for _, codec := range allCodecs {
		c := connect(t, endpoint+"?codec="+codec.String())
		if h, ok, err := c.LockHolder(ctx, "l"); !bytes.Equal(h.Owner, want) || !ok || err != nil {
			t.Errorf("%v: %q, %v, %v", codec, h.Owner, ok, err)
		}
		events, _, err := c.Poll(ctx, engine.Locks, what, time.Second, 1)
		if err != nil || len(events) != 1 || !bytes.Equal(events[0].Value, want) {
			t.Errorf("%v: %+v, %v", codec, events, err)
		}
		for _, space := range []engine.Space{engine.Shared, engine.Waiters} {
			if _, _, err := c.Poll(ctx, space, store.Watch{}, 0, 1); err == nil {
				t.Errorf("%v: space %d can be watched", codec, space)
			}
		}
	}
	// The store's own is as it was.
	events, _, err := s.Poll(ctx, engine.Locks, what, time.Second, 1)
	if err != nil || len(events) != 1 || !bytes.Equal(events[0].Value, owner) {
		t.Errorf("%+v, %v", events, err)
	}
	if h, _, err := s.LockHolder(ctx, "l"); !bytes.Equal(h.Owner, owner) || err != nil {
		t.Errorf("%q, %v", h.Owner, err)
	}
}
