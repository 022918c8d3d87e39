package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"dkv/internal/backup"
	"dkv/internal/clock"
	"dkv/lock"
	"dkv/store"
	"dkv/store/engine/enginetest"
)

// copyOf is a store that begins with a backup of s, on a clock of its own.
func copyOf(t *testing.T, s *Store, opts Options) (*Store, *clock.Fake) {
	t.Helper()
	var out bytes.Buffer
	if _, err := s.Backup(context.Background(), &out); err != nil {
		t.Fatal(err)
	}
	c := new(clock.Fake)
	opts.Clock = c
	r, err := Restore(opts, &out)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r, c
}

func TestRestoredKeysHaveTheTimeThatWasLeft(t *testing.T) {
	for name, opts := range map[string]Options{"maple": {}, "naive": {Engine: enginetest.Naive}} {
		c := new(clock.Fake)
		opts.Clock = c
		s := Open(opts)
		t.Cleanup(func() { s.Close() })
		ctx := context.Background()
		c.Advance(time.Hour)
		if err := s.SetE(ctx, "k", []byte("v"), 10*time.Second, 20*time.Second); err != nil {
			t.Fatal(err)
		}
		c.Advance(4 * time.Second)
		r, rc := copyOf(t, s, opts)
		is := func(wantValue, wantKey bool) {
			t.Helper()
			_, value, err := r.Get(ctx, "k")
			has, err2 := r.Has(ctx, "k")
			if value != wantValue || has != wantKey || err != nil || err2 != nil {
				t.Errorf("%s: value %t, key %t, %v, %v", name, value, has, err, err2)
			}
		}
		c.Advance(time.Hour) // which is none of its business
		is(true, true)
		rc.Advance(6*time.Second - 1)
		is(true, true)
		rc.Advance(1)
		is(false, true)
		rc.Advance(10*time.Second - 1)
		is(false, true)
		rc.Advance(1)
		is(false, false)
		// It has gone by itself, not because somebody has looked.
		for deadline := time.Now().Add(10 * time.Second); keys(t, r) != 0; {
			if time.Now().After(deadline) {
				t.Fatalf("%s: the deadline is not carried out", name)
			}
			time.Sleep(time.Millisecond)
		}
	}
}

func TestRestoredStoreGoesOnWithRevisionsAndTokens(t *testing.T) {
	s, _ := openFake(t)
	ctx := context.Background()
	s.Set(ctx, "a", nil)
	owner, ok, err := lock.New(s).Acquire(ctx, "l", time.Minute)
	if !ok || err != nil {
		t.Fatal(ok, err)
	}
	before, _, err := s.LockHolder(ctx, "l")
	if err != nil {
		t.Fatal(err)
	}
	s.Set(ctx, "b", nil)
	s.Delete(ctx, "b")
	info, err := s.Info(ctx)
	if err != nil {
		t.Fatal(err)
	}
	r, rc := copyOf(t, s, Options{})
	if now, err := r.Info(ctx); err != nil || now.Revision != info.Revision+backup.Gap || now.Keys != 1 || now.Locks != 1 {
		t.Fatalf("%+v, %v", now, err)
	}
	for _, from := range []store.Revision{1, info.Revision, info.Revision + 1, info.Revision + backup.Gap} {
		if _, err := r.Watch(ctx, store.Watch{From: from}); !errors.Is(err, store.ErrCompacted) {
			t.Errorf("a watch from before, %d: %v", from, err)
		}
	}
	if _, ok, err := lock.NewWithClock(r, rc).Acquire(ctx, "l", time.Minute); ok || err != nil {
		t.Fatalf("the lock is given twice: %v", err)
	}
	if h, ok, err := r.LockHolder(ctx, "l"); !ok || err != nil || h.Token != before.Token {
		t.Fatalf("%+v, %t, %v", h, ok, err)
	}
	if ok, err := lock.New(r).Release(ctx, "l", owner); !ok || err != nil {
		t.Fatalf("the holder cannot release it: %v", err)
	}
	rev, ok, err := r.CompareAndSet(ctx, "c", 0, nil, 0, 0)
	if !ok || err != nil || rev != info.Revision+backup.Gap+2 {
		t.Fatalf("revision %d after %d and a release, %v", rev, info.Revision, err)
	}
	if _, ok, err := lock.New(r).Acquire(ctx, "l", time.Minute); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if h, ok, err := r.LockHolder(ctx, "l"); !ok || err != nil || h.Token <= rev {
		t.Fatalf("%+v after %d, %t, %v", h, rev, ok, err)
	}
}

// TestTokenGivenAfterTheBackupIsLessThanEachGivenAfterTheRestore has the old store go on
// after the backup.
func TestTokenGivenAfterTheBackupIsLessThanEachGivenAfterTheRestore(t *testing.T) {
	for name, opts := range map[string]Options{"maple": {}, "naive": {Engine: enginetest.Naive}} {
		s := Open(opts)
		defer s.Close()
		ctx := context.Background()
		token := func(s *Store) store.Revision {
			t.Helper()
			owner, ok, err := lock.New(s).Acquire(ctx, "l", time.Minute)
			if !ok || err != nil {
				t.Fatal(name, ok, err)
			}
			h, ok, err := s.LockHolder(ctx, "l")
			if !ok || err != nil {
				t.Fatal(name, ok, err)
			}
			if _, err := lock.New(s).Release(ctx, "l", owner); err != nil {
				t.Fatal(name, err)
			}
			return h.Token
		}
		first := token(s)
		r, _ := copyOf(t, s, opts)
		var last store.Revision
		for range 100 {
			last = token(s)
		}
		restored := token(r)
		if !(first < last && last < restored) {
			t.Errorf("%s: token %d of the restored store after %d and %d of the old one", name, restored, first, last)
		}
		// So is it with the store that begins with a backup of the restored one.
		again, _ := copyOf(t, r, opts)
		for range 100 {
			last = token(r)
		}
		if restored = token(again); restored <= last {
			t.Errorf("%s: token %d after %d", name, restored, last)
		}
	}
}

// TestRestoredLockGoesToWhoWaitedWhenItEnds has one who waits in the backup.
func TestRestoredLockGoesToWhoWaitedWhenItEnds(t *testing.T) {
	s, _ := openFake(t)
	ctx := context.Background()
	if _, ok, err := lock.New(s).Acquire(ctx, "l", time.Second); !ok || err != nil {
		t.Fatal(ok, err)
	}
	waits, cancel := context.WithCancel(ctx)
	var waiting sync.WaitGroup
	waiting.Go(func() {
		if l, err := lock.New(s).Lock(waits, "l", lock.TTL(time.Minute)); err == nil {
			t.Error("got it")
			l.Unlock(ctx)
		}
	})
	defer waiting.Wait()
	defer cancel()
	for {
		if info, err := s.Info(ctx); err != nil {
			t.Fatal(err)
		} else if info.Waiters == 1 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	r, rc := copyOf(t, s, Options{})
	rc.Advance(time.Second)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		info, err := r.Info(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if info.Waiters == 0 && info.Locks == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%+v", info)
		}
	}
}

func TestBackupBesideWritesIsOfOneRevision(t *testing.T) {
	s := Open(Options{})
	defer s.Close()
	ctx := context.Background()
	stop := make(chan struct{})
	var writers sync.WaitGroup
	for w := range 4 {
		writers.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				value := []byte(fmt.Sprint(n))
				txn := store.Txn{Then: []store.Op{store.OpSet(fmt.Sprint("left", w), value), store.OpSet(fmt.Sprint("right", w), value), store.OpSet(fmt.Sprint(w, "/", n%1000), value)}}
				if _, err := s.Txn(ctx, txn); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	rounds := 50
	if testing.Short() {
		rounds = 10
	}
	for range rounds {
		var out bytes.Buffer
		b, err := s.Backup(ctx, &out)
		if err != nil {
			t.Fatal(err)
		}
		r, err := Restore(Options{}, &out)
		if err != nil {
			t.Fatal(err)
		}
		for w := range 4 {
			left, _, _ := r.GetEntry(ctx, fmt.Sprint("left", w))
			right, _, _ := r.GetEntry(ctx, fmt.Sprint("right", w))
			if !bytes.Equal(left.Value, right.Value) {
				t.Fatalf("%q beside %q", left.Value, right.Value)
			}
		}
		if info, err := r.Info(ctx); err != nil || info.Revision != b.Revision+backup.Gap || info.Keys != b.Keys {
			t.Fatalf("%+v of %+v, %v", info, b, err)
		}
		r.Close()
	}
	close(stop)
	writers.Wait()
	if info, err := s.Info(ctx); err != nil || info.Views != 0 {
		t.Fatalf("%d views are open, %v", info.Views, err)
	}
}

func TestClosedStoreMakesNoBackup(t *testing.T) {
	s := Open(Options{})
	s.Close()
	var out bytes.Buffer
	if _, err := s.Backup(context.Background(), &out); !errors.Is(err, store.ErrClosed) || out.Len() > 0 {
		t.Error(err)
	}
}
