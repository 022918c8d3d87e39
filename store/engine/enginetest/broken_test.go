package enginetest

import (
	"fmt"
	"io"
	"runtime"
	"sync"
	"time"

	"dkv/store"
	"dkv/store/engine"
)

// broken is a naive engine some of whose methods are replaced.
type broken struct {
	*naive
	get       func(space engine.Space, key string) ([]byte, bool)
	apply     func(op *engine.Op, limit int64) engine.Result
	tick      func(elapsed, lag time.Duration)
	unsettled func() (open bool, settling time.Duration, ok bool)
	reap      func(limit int) int
	next      func() (at time.Duration, ok bool)
	info      func(*store.Info)
	skip      func(n uint64)
	view      func() *view
	onView    func(v *brokenView) // breaks a view
}

func (b *broken) Get(space engine.Space, key string) ([]byte, bool) { return b.get(space, key) }

func (b *broken) Apply(op *engine.Op, limit int64) engine.Result { return b.apply(op, limit) }

func (b *broken) Tick(elapsed, lag time.Duration) { b.tick(elapsed, lag) }

func (b *broken) Unsettled() (open bool, settling time.Duration, ok bool) { return b.unsettled() }

func (b *broken) Reap(limit int) int { return b.reap(limit) }

func (b *broken) NextDeadline() (at time.Duration, ok bool) { return b.next() }

func (b *broken) Info(info *store.Info) { b.info(info) }

func (b *broken) Skip(n uint64) { b.skip(n) }

func (b *broken) View() engine.View {
	v := &brokenView{view: b.view()}
	v.entry, v.scan, v.save, v.checksum = v.view.Entry, v.view.Scan, v.view.Save, v.view.Checksum
	v.release = v.view.Release
	b.onView(v)
	return v
}

// onState has f work on the state of this moment.
func (b *broken) onState(f func(s *state)) {
	f(b.lock())
	b.revision.Store(b.mu.state.revision)
	b.mu.Unlock()
}

type brokenView struct {
	*view
	entry    func(space engine.Space, key string) (store.Entry, bool)
	scan     func(space engine.Space, from, to string, reverse bool, yield func(store.Entry) bool)
	save     func(w io.Writer) error
	checksum func() uint64
	release  func()
}

func (v *brokenView) Entry(space engine.Space, key string) (store.Entry, bool) {
	return v.entry(space, key)
}

func (v *brokenView) Scan(space engine.Space, from, to string, reverse bool, yield func(store.Entry) bool) {
	v.scan(space, from, to, reverse, yield)
}

func (v *brokenView) Save(w io.Writer) error { return v.save(w) }

func (v *brokenView) Checksum() uint64 { return v.checksum() }

func (v *brokenView) Release() { v.release() }

// factory makes naive engines with the bug.
func (g bug) factory() engine.Factory {
	load := g.load
	if load == nil {
		load = loadNaive
	}
	plant := func(n *naive) engine.Engine {
		b := &broken{
			naive: n, get: n.Get, apply: n.Apply, tick: n.Tick, unsettled: n.Unsettled, reap: n.Reap, next: n.NextDeadline, info: n.Info, skip: n.Skip,
			view:   func() *view { return n.View().(*view) },
			onView: func(*brokenView) {},
		}
		if g.plant != nil {
			g.plant(b)
		}
		return b
	}
	return engine.Factory{
		New: func(opts engine.Options) engine.Engine { return plant(newNaive(opts)) },
		Load: func(r io.Reader, opts engine.Options) (engine.Engine, error) {
			n, err := load(r, opts)
			if err != nil {
				return nil, err
			}
			return plant(n), nil
		},
	}
}

// verdict is a rapid.TB that notes what a check says.
type verdict struct {
	mu struct {
		sync.Mutex
		failed bool
		said   []string
	}
}

func (v *verdict) say(text string, failed bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.mu.failed = v.mu.failed || failed
	v.mu.said = append(v.mu.said, text)
}

func (v *verdict) Helper()                           {}
func (v *verdict) Name() string                      { return "verdict" }
func (v *verdict) Logf(format string, args ...any)   { v.say(fmt.Sprintf(format, args...), false) }
func (v *verdict) Log(args ...any)                   { v.say(fmt.Sprint(args...), false) }
func (v *verdict) Skipf(format string, args ...any)  { v.Fatalf(format, args...) }
func (v *verdict) Skip(args ...any)                  { v.Fatal(args...) }
func (v *verdict) SkipNow()                          { v.FailNow() }
func (v *verdict) Errorf(format string, args ...any) { v.say(fmt.Sprintf(format, args...), true) }
func (v *verdict) Error(args ...any)                 { v.say(fmt.Sprint(args...), true) }
func (v *verdict) Fatalf(format string, args ...any) { v.Errorf(format, args...); v.FailNow() }
func (v *verdict) Fatal(args ...any)                 { v.Error(args...); v.FailNow() }
func (v *verdict) FailNow()                          { v.Fail(); runtime.Goexit() }

func (v *verdict) Fail() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.mu.failed = true
}

func (v *verdict) Failed() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.mu.failed
}

// try returns what a check says of engines, and whether it failed.
func try(c check, f engine.Factory) (said []string, failed bool) {
	v := new(verdict)
	done := make(chan struct{})
	go func() { // which FailNow ends
		defer close(done)
		c.run(v, f)
	}()
	<-done
	return v.mu.said, v.mu.failed
}
