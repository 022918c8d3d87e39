package enginetest

import (
	"bytes"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dkv/store"
	"dkv/store/engine"

	"pgregory.net/rapid"
)

// rounds is how often something is to be tried: n times, or fewer in a short run.
func rounds(n, short int) int {
	if testing.Short() {
		return short
	}
	return n
}

// together runs f n times, each on a goroutine of its own, and returns when all are
// done. All set off at one time, since what they do may be short.
func together(n int, f func(i int)) {
	var ready atomic.Int32
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			for ready.Add(1); int(ready.Load()) < n; {
				runtime.Gosched()
			}
			f(i)
		})
	}
	all.Wait()
}

// standing returns the options of an engine by a clock that stands still.
func standing() engine.Options {
	return engine.Options{Now: func() time.Duration { return 0 }}
}

// clockAt returns the options of an engine by a clock that the caller moves.
func clockAt(now *time.Duration) engine.Options {
	return engine.Options{Now: func() time.Duration { return *now }}
}

// set gives key a value and deadlines.
func set(e engine.Engine, key, value string, expireIn, deleteIn time.Duration) engine.Result {
	return e.Apply(&engine.Op{Kind: engine.Set, Key: key, Value: []byte(value), ExpireIn: expireIn, DeleteIn: deleteIn}, 0)
}

// change does an operation of a kind that comes without a value.
func change(e engine.Engine, kind engine.Kind, key string) engine.Result {
	return e.Apply(&engine.Op{Kind: kind, Key: key}, 0)
}

func infoOf(e engine.Engine) (info store.Info) {
	e.Info(&info)
	return info
}

// allOf returns what an engine has in a space now.
func allOf(e engine.Engine, space engine.Space) []store.Entry {
	v := e.View()
	defer v.Release()
	return scanned(v, space, "", "", false, 0)
}

// scanned returns the entries that a scan yields, most at most unless that is 0.
func scanned(v engine.View, space engine.Space, from, to string, reverse bool, most int) (entries []store.Entry) {
	v.Scan(space, from, to, reverse, func(e store.Entry) bool {
		entries = append(entries, e)
		return len(entries) != most
	})
	return entries
}

func checksumOf(e engine.Engine) uint64 {
	v := e.View()
	defer v.Release()
	return v.Checksum()
}

// savedBy returns what a view of the state as it is now saves.
func savedBy(t rapid.TB, e engine.Engine) []byte {
	t.Helper()
	v := e.View()
	defer v.Release()
	return save(t, v)
}

func save(t rapid.TB, v engine.View) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := v.Save(&b); err != nil {
		t.Fatalf("save: %v", err)
	}
	return b.Bytes()
}

// loadedFrom returns the engine that comes of what was saved.
func loadedFrom(t rapid.TB, f engine.Factory, b []byte, opts engine.Options) engine.Engine {
	t.Helper()
	e, err := f.Load(bytes.NewReader(b), opts)
	if err != nil {
		t.Fatalf("load: %v", err)
	}
	return e
}

// checkInvariants has an engine look into itself, if it can.
func checkInvariants(t rapid.TB, e engine.Engine) {
	t.Helper()
	if c, ok := e.(interface{ CheckInvariants() error }); ok {
		if err := c.CheckInvariants(); err != nil {
			t.Fatalf("the engine says of itself: %v", err)
		}
	}
}
