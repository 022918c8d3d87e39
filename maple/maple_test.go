package maple

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dkv/store"
	"dkv/store/engine"
)

func set(db *DB, key, value string, expireIn, deleteIn time.Duration) engine.Result {
	return db.Apply(&engine.Op{Kind: engine.Set, Key: key, Value: []byte(value), ExpireIn: expireIn, DeleteIn: deleteIn}, 0)
}

// TestViewHoldsWhileWritersGoOn has writers that always change two keys
// together, first one, then the other: a view may never show the second ahead
// of the first, nor change while it is open.
func TestViewHoldsWhileWritersGoOn(t *testing.T) {
	db := New(engine.Options{Now: func() time.Duration { return 0 }})
	const pairs = 8
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var writes atomic.Int64
	for p := range pairs {
		wg.Go(func() {
			for n := uint64(1); ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				v := string(binary.BigEndian.AppendUint64(nil, n))
				set(db, fmt.Sprint("first", p), v, 0, 0)
				set(db, fmt.Sprint("second", p), v, 0, 0)
				key := fmt.Sprint("coming and going", p, n%1000)
				set(db, key, v, 0, 0)
				db.Apply(&engine.Op{Kind: engine.Delete, Key: key}, 0)
				writes.Add(4)
			}
		})
	}
	get := func(v *View, key string) uint64 {
		e, ok := v.Entry(engine.Keys, key)
		if !ok {
			return 0
		}
		return binary.BigEndian.Uint64(e.Value)
	}
	rounds := 50
	if testing.Short() {
		rounds = 10
	}
	for range rounds {
		for before := writes.Load(); writes.Load() < before+100; {
			time.Sleep(time.Microsecond)
		}
		a := db.view()
		b := db.view()
		sum := a.Checksum()
		var saved bytes.Buffer
		if err := a.Save(&saved); err != nil {
			t.Fatal(err)
		}
		for p := range pairs {
			first, second := get(a, fmt.Sprint("first", p)), get(a, fmt.Sprint("second", p))
			if first != second && first != second+1 {
				t.Errorf("a view shows %d and %d of one writer", first, second)
			}
		}
		b.Release()
		if a.Checksum() != sum {
			t.Error("a view changed while it was open")
		}
		a.Release()
		loaded, err := Load(&saved, engine.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if got := loaded.Revision(); got != a.Revision() {
			t.Errorf("loaded revision %d of %d", got, a.Revision())
		}
	}
	close(stop)
	wg.Wait()
	if n := db.views.versions.Load(); n != 0 {
		t.Errorf("%d versions are kept for no view", n)
	}
}

func TestRenewingOneKeyForEverTakesNoMemory(t *testing.T) {
	db := New(engine.Options{Now: func() time.Duration { return 0 }})
	for range 100_000 {
		set(db, "session", "v", time.Hour, 2*time.Hour)
	}
	if err := db.CheckInvariants(); err != nil {
		t.Fatal(err)
	}
	n := 0
	for i := range db.expiry.lanes {
		n += db.expiry.lanes[i].n
	}
	if n > 4096 {
		t.Fatalf("%d reminders for one key", n)
	}
}

func TestLongestDurationsDoNotOverflow(t *testing.T) {
	now := time.Duration(1 << 62)
	db := New(engine.Options{Now: func() time.Duration { return now }})
	set(db, "k", "v", 1<<63-1, 1<<63-1)
	now += time.Hour
	if _, ok := db.Get(engine.Keys, "k"); !ok {
		t.Fatal("gone")
	}
	if n := db.Reap(10); n != 0 {
		t.Fatal("reaped")
	}
}

func save(t testing.TB, v *View) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := v.Save(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// filled returns a saved state that has some of everything.
func filled(t testing.TB) (*DB, []byte) {
	db := New(engine.Options{})
	for i := range 3000 {
		set(db, fmt.Sprint("key", i), strings.Repeat("v", i%200), time.Duration(i%3)*time.Minute, time.Duration(i%4)*time.Hour)
		if i%1000 == 999 {
			db.Tick(time.Second, time.Millisecond)
		}
	}
	db.Apply(&engine.Op{Kind: engine.Expire, Key: "key1"}, 0)
	db.Apply(&engine.Op{Kind: engine.SetIfUnset, Space: engine.Locks, Key: "key1", Value: []byte("me"), DeleteIn: time.Minute}, 0)
	v := db.view()
	defer v.Release()
	return db, save(t, v)
}

func TestDamagedStreamIsRefusedAndNamesTheOffset(t *testing.T) {
	_, good := filled(t)
	if _, err := Load(bytes.NewReader(good), engine.Options{}); err != nil {
		t.Fatal(err)
	}
	check := func(what string, b []byte) {
		t.Helper()
		_, err := Load(bytes.NewReader(b), engine.Options{})
		if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "offset") {
			t.Errorf("%s: %v", what, err)
		}
	}
	step := 997
	if testing.Short() {
		step *= 5
	}
	for i := 0; i < len(good); i += step {
		bad := bytes.Clone(good)
		bad[i] ^= 1 << (i % 8)
		check(fmt.Sprintf("bit flipped at %d", i), bad)
		check(fmt.Sprintf("cut at %d", i), good[:i])
	}
	check("foreign file", []byte("#!/bin/sh\nexit 0\n"))
	check("empty file", nil)
	check("last block missing", good[:len(good)-8-3])
}

func TestLoadWithAClockLeavesTheTimeThatWasLeft(t *testing.T) {
	now := 100 * time.Hour
	old := New(engine.Options{Now: func() time.Duration { return now }})
	set(old, "k", "v", time.Minute, time.Hour)
	set(old, "due", "v", time.Second, 0)
	now += 10 * time.Second
	v := old.view()
	saved := save(t, v)
	v.Release()

	later := time.Second // another process, whose clock has just begun
	db, err := Load(bytes.NewReader(saved), engine.Options{Now: func() time.Duration { return later }})
	if err != nil {
		t.Fatal(err)
	}
	e, ok := db.Entry(engine.Keys, "k")
	if !ok || e.ExpireIn != 50*time.Second || e.DeleteIn != time.Hour-10*time.Second {
		t.Fatalf("%+v, %v", e, ok)
	}
	if e, ok := db.Entry(engine.Keys, "due"); !ok || !e.Expired {
		t.Fatalf("%+v, %v", e, ok)
	}
	if n := db.Reap(10); n != 1 {
		t.Fatalf("reaped %d", n)
	}
}

func TestInfoCountsWhatIsThere(t *testing.T) {
	db, _ := filled(t)
	var info store.Info
	db.Info(&info)
	if info.Keys != 3000 || info.Locks != 1 || info.Bytes == 0 {
		t.Fatalf("%+v", info)
	}
}

// FuzzLoad: whatever is accepted is saved and loaded again as the same state.
func FuzzLoad(f *testing.F) {
	_, good := filled(f)
	f.Add(good)
	small := New(engine.Options{})
	set(small, "k", "v", 1, 2)
	v := small.view()
	f.Add(save(f, v))
	f.Fuzz(func(t *testing.T, b []byte) {
		db, err := Load(bytes.NewReader(b), engine.Options{})
		if err != nil {
			return
		}
		v := db.view()
		defer v.Release()
		again, err := Load(bytes.NewReader(save(t, v)), engine.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if w := again.view(); w.Checksum() != v.Checksum() {
			t.Fatal("another checksum the second time")
		}
	})
}

// TestNoDeadlineIsForgottenWhateverLooksAtTheReminders has writers set deadlines
// while others ask for the next one and renew keys, which both drop reminders
// that are stale.
func TestNoDeadlineIsForgottenWhateverLooksAtTheReminders(t *testing.T) {
	for range 30 {
		var now atomic.Int64
		db := New(engine.Options{Now: func() time.Duration { return time.Duration(now.Load()) }})
		var wg sync.WaitGroup
		for w := range 4 {
			wg.Go(func() {
				for i := range 500 {
					set(db, fmt.Sprint(w, " ", i), "v", time.Second, 2*time.Second)
					set(db, "renewed", "v", time.Second, 2*time.Second)
					db.NextDeadline()
				}
			})
		}
		wg.Wait()
		for second := range int64(3) {
			now.Store(second * int64(time.Second))
			for db.Reap(100) > 0 {
			}
		}
		var info store.Info
		if db.Info(&info); info.Keys != 0 || info.Bytes != 0 {
			t.Fatalf("%d keys are left when all deadlines have passed", info.Keys)
		}
	}
}

// TestTimeLeftIsNeverMoreThanWasAskedFor has keys looked at while the ticks come from
// which their deadlines count.
func TestTimeLeftIsNeverMoreThanWasAskedFor(t *testing.T) {
	db := New(engine.Options{})
	const expireIn, deleteIn = time.Hour, 2 * time.Hour
	var number atomic.Int64
	key := func(n int64) string { return fmt.Sprint("key ", n) }
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				e, ok := db.Entry(engine.Keys, key(number.Load()))
				if ok && (e.ExpireIn > expireIn || e.DeleteIn > deleteIn) {
					t.Errorf("%s expires in %v and is deleted in %v", e.Key, e.ExpireIn, e.DeleteIn)
					return
				}
			}
		})
	}
	for n := range int64(20_000) {
		set(db, key(n), "value", expireIn, deleteIn)
		number.Store(n)
		db.Tick(10*time.Microsecond, 0)
		db.Tick(10*time.Microsecond, 5*time.Microsecond)
	}
	close(stop)
	wg.Wait()
}
