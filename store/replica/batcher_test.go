package replica

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dkv/internal/command"
	"dkv/internal/once"
	"dkv/internal/ops"
	"dkv/maple"
	"dkv/store"
	"dkv/store/engine"
)

// unreliable is a log that loses, repeats and delays what a batcher proposes, and
// a member that applies it as the state machine does.
type unreliable struct {
	mu       sync.Mutex
	batcher  *batcher
	log      [][]byte
	delayed  [][]byte // may yet be appended, however late
	applied  int
	sessions sessions
	db       *maple.DB
	done     map[int]bool // by index of log: the entry changed the state

	lost, repeated, dropped, late atomic.Int64
}

func newUnreliable(b *batcher) *unreliable {
	return &unreliable{
		batcher:  b,
		sessions: make(sessions),
		db:       maple.New(engine.Options{}),
		done:     make(map[int]bool),
	}
}

func (u *unreliable) propose(entry []byte, _ <-chan struct{}) proposal {
	u.mu.Lock()
	defer u.mu.Unlock()
	entry = slices.Clone(entry)
	if len(u.delayed) > 0 && rand.IntN(3) == 0 {
		i := rand.IntN(len(u.delayed))
		u.log = append(u.log, u.delayed[i])
		u.delayed = slices.Delete(u.delayed, i, i+1)
		u.late.Add(1)
	}
	switch rand.IntN(6) {
	case 0: // refused
		u.dropped.Add(1)
		return proposalDropped
	case 1: // it never arrives
		u.lost.Add(1)
		return proposalLost
	case 2: // it arrives much later
		u.delayed = append(u.delayed, entry)
		u.lost.Add(1)
		return proposalLost
	case 3: // it is committed, but this member has not heard of it yet
		u.log = append(u.log, entry)
		u.lost.Add(1)
		return proposalLost
	case 4: // it is committed twice, and may be a third time
		u.log = append(u.log, entry, entry)
		u.delayed = append(u.delayed, entry)
		u.repeated.Add(1)
	default:
		u.log = append(u.log, entry)
	}
	u.catchUpLocked()
	return proposalApplied
}

func (u *unreliable) catchUpLocked() {
	var e command.Entry
	for ; u.applied < len(u.log); u.applied++ {
		if err := command.Decode(u.log[u.applied], &e); err != nil {
			panic(err)
		}
		before := u.db.Revision()
		results, ok := u.sessions.apply(&e.Batch, func(i int) engine.Result { return u.db.Apply(&e.Batch.Ops[i], e.Batch.Limit) })
		u.batcher.applied(e.Batch.Slot, e.Batch.Seq, results, ok)
		u.done[u.applied] = u.db.Revision() > before
	}
}

func newTestBatcher(propose func(entry []byte, settled <-chan struct{}) proposal) *batcher {
	b := &batcher{propose: propose}
	b.init(1, 1, func() uint64 { return 0 })
	b.space.init(plenty, func() int64 { return 0 })
	return b
}

func TestEveryBatchIsAppliedAtMostOnceHoweverOftenItIsProposed(t *testing.T) {
	b := newTestBatcher(nil)
	u := newUnreliable(b)
	b.propose = u.propose
	b.start()

	type outcome struct {
		key string
		res engine.Result
		err error
	}
	const callers = 16
	each := rounds(40, 15)
	outcomes := make(chan outcome, 4*callers*each)
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for n := range each {
				// Some are given up while they wait, some while they fly.
				ctx, cancel := context.WithCancel(context.Background())
				if n%3 == 0 {
					ctx, cancel = context.WithTimeout(ctx, time.Duration(rand.IntN(12000))*time.Microsecond)
				}
				writes := make([]ops.Write, 1+c%2*(n%4)) // of half of the callers, up to four together
				for i := range writes {
					key := fmt.Sprint(c, "-", n, "-", i)
					writes[i].Op = engine.Op{Kind: engine.SetIfUnset, Key: key, Value: []byte(key)}
				}
				if w := &writes[0]; c%2 == 0 {
					w.Result, w.Err = b.do(ctx, &w.Op, once.ID{})
				} else {
					b.doTogether(ctx, writes)
				}
				cancel()
				for _, w := range writes {
					outcomes <- outcome{w.Op.Key, w.Result, w.Err}
				}
			}
		})
	}
	wg.Wait()
	b.close(nil)
	close(outcomes)

	// What was late arrives after all.
	u.mu.Lock()
	u.log = append(u.log, u.delayed...)
	u.catchUpLocked()
	u.mu.Unlock()

	applied := make(map[[2]uint64]int)
	var e command.Entry
	for i, entry := range u.log {
		command.Decode(entry, &e)
		if u.done[i] {
			applied[[2]uint64{e.Batch.Slot, e.Batch.Seq}]++
		}
	}
	for id, times := range applied {
		if times > 1 {
			t.Errorf("batch %v was applied %d times", id, times)
		}
	}
	var there, ok, unknown, not int
	for o := range outcomes {
		entry, found := u.db.Entry(engine.Keys, o.key)
		if found {
			there++
		}
		switch store.KindOf(o.err) {
		case store.KindNone:
			ok++
			// The revision of the entry is that of its first application.
			if o.err != nil || !found || !o.res.Done || store.Revision(o.res.Revision) != entry.Revision {
				t.Errorf("%s: result %v, %v; the entry has revision %d", o.key, o.res, o.err, entry.Revision)
			}
		case store.KindUnknown:
			unknown++
		case store.KindNotApplied:
			not++
			if found {
				t.Errorf("%s was applied, but its caller was told %v", o.key, o.err)
			}
		default:
			t.Errorf("%s: %v", o.key, o.err)
		}
	}
	if int(u.db.Revision()) != there {
		t.Errorf("%d changes for %d keys", u.db.Revision(), there)
	}
	t.Logf("%d done, %d unknown, %d not applied; attempts: %d lost, %d repeated, %d dropped, %d late",
		ok, unknown, not, u.lost.Load(), u.repeated.Load(), u.dropped.Load(), u.late.Load())
	if ok == 0 || unknown == 0 || u.lost.Load() == 0 || u.repeated.Load() == 0 || u.late.Load() == 0 {
		t.Error("that was no test")
	}
}

func TestOperationsGivenUpBeforeAnAttemptAreNotApplied(t *testing.T) {
	proposed := make(chan struct{}, 10*slots)
	b := newTestBatcher(func(entry []byte, settled <-chan struct{}) proposal {
		var e command.Entry
		if command.Decode(entry, &e) == nil && len(e.Batch.Ops) == 0 {
			return proposalApplied // the batcher's own
		}
		proposed <- struct{}{}
		<-settled
		return proposalLost
	})
	b.start()
	defer b.close(closedNow())
	ctx, cancel := context.WithCancel(context.Background())
	var flying sync.WaitGroup
	for range slots {
		flying.Go(func() {
			if _, err := b.do(ctx, &engine.Op{Kind: engine.Set, Key: "flies"}, once.ID{}); !errors.Is(err, store.ErrUnknown) || !errors.Is(err, context.Canceled) {
				t.Errorf("given up in flight: %v", err)
			}
		})
		<-proposed
	}
	short, cancelShort := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancelShort()
	if _, err := b.do(short, &engine.Op{Kind: engine.Set, Key: "waits"}, once.ID{}); !errors.Is(err, store.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("given up in the queue: %v", err)
	}
	cancel()
	flying.Wait()
}

// TestOperationsGivenUpWhileABatchIsMadeDoNotRaceWithIt is for the race
// detector.
func TestOperationsGivenUpWhileABatchIsMadeDoNotRaceWithIt(t *testing.T) {
	b := newTestBatcher(func([]byte, <-chan struct{}) proposal { return proposalDropped })
	b.start()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range rounds(2000, 500) {
				ctx, cancel := context.WithCancel(context.Background())
				go cancel()
				if _, err := b.do(ctx, &engine.Op{Kind: engine.Set, Key: "k"}, once.ID{}); store.KindOf(err) != store.KindNotApplied && store.KindOf(err) != store.KindUnknown {
					t.Errorf("%v", err)
				}
			}
		})
	}
	wg.Wait()
	b.close(nil)
}

func TestCloseEndsOperationsThatWaitForRoomInTheQueue(t *testing.T) {
	b := newTestBatcher(func(_ []byte, settled <-chan struct{}) proposal { return proposalDropped })
	b.start()
	value := make([]byte, store.MaxValueSize)
	const n = slots + maxQueueBytes/store.MaxValueSize + 4
	ended := make(chan error, n)
	for range n {
		go func() {
			_, err := b.do(context.Background(), &engine.Op{Kind: engine.Set, Key: "k", Value: value}, once.ID{})
			ended <- err
		}()
	}
	full := func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.mu.bytes+len(value) > maxQueueBytes
	}
	for !full() {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(20 * time.Millisecond) // the rest waits by now
	b.close(closedNow())
	for i := range n {
		select {
		case err := <-ended:
			if kind := store.KindOf(err); kind != store.KindClosed {
				t.Errorf("%v", err)
			}
		case <-time.After(2 * time.Second):
			t.Fatalf("%d of %d operations go on after Close", n-i, n)
		}
	}
}

func TestFullQueueTurnsAwayWithBusyAndNothingApplied(t *testing.T) {
	b := newTestBatcher(func(_ []byte, settled <-chan struct{}) proposal { return proposalDropped })
	// It is not started: nothing leaves the queue.
	value := make([]byte, store.MaxValueSize)
	for range maxQueueBytes/store.MaxValueSize - 1 {
		go b.do(context.Background(), &engine.Op{Kind: engine.Set, Key: "k", Value: value}, once.ID{})
	}
	for queued := 0; queued < maxQueueBytes/store.MaxValueSize-1; time.Sleep(time.Millisecond) {
		b.mu.Lock()
		queued = len(b.mu.queue)
		b.mu.Unlock()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	_, err := b.do(ctx, &engine.Op{Kind: engine.Set, Key: "k", Value: value}, once.ID{})
	if !errors.Is(err, store.ErrBusy) || store.KindOf(err) != store.KindNotApplied {
		t.Errorf("%v", err)
	}
	b.start()
	b.close(closedNow())
}

// TestWritesTogetherEndOneByOne has more of them than there is room for in the queue, and
// some that are over before they get there.
func TestWritesTogetherEndOneByOne(t *testing.T) {
	const room = maxQueueBytes / store.MaxValueSize
	value := make([]byte, store.MaxValueSize)
	failed := errors.New("it has failed before")
	for name, c := range map[string]struct {
		full bool // the disk
		end  func(cancel context.CancelFunc, b *batcher)
		want func(i int) error
	}{
		"done": {
			end:  func(_ context.CancelFunc, b *batcher) { b.start() },
			want: func(int) error { return nil },
		},
		"given up": {
			end: func(cancel context.CancelFunc, b *batcher) { cancel() },
			want: func(i int) error {
				if i < room { // less one, for what is not value, and one more, for the one that has failed
					return store.ErrUnavailable
				}
				return store.ErrBusy
			},
		},
		"closed": {
			end: func(_ context.CancelFunc, b *batcher) {
				b.propose = func([]byte, <-chan struct{}) proposal { return proposalDropped }
				b.start()
				b.close(closedNow())
			},
			want: func(int) error { return store.ErrClosed },
		},
		"disk full": {
			full: true,
			end:  func(_ context.CancelFunc, b *batcher) { b.start() },
			want: func(i int) error {
				if i%2 == 0 {
					return store.ErrDiskFull
				}
				return nil
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newTestBatcher(nil)
			b.propose = func(entry []byte, _ <-chan struct{}) proposal {
				var e command.Entry
				if err := command.Decode(entry, &e); err != nil {
					panic(err)
				}
				results := make([]engine.Result, len(e.Batch.Ops))
				for i, op := range e.Batch.Ops {
					results[i].Revision = uint64(len(op.Key))
				}
				b.applied(e.Batch.Slot, e.Batch.Seq, results, true)
				return proposalApplied
			}
			if c.full {
				b.space.init(func() (int64, error) { return 0, nil }, func() int64 { return 0 })
			}
			writes := make([]ops.Write, room+4)
			for i := range writes {
				writes[i].Op = engine.Op{Kind: engine.Set, Key: strings.Repeat("k", i+1), Value: value}
				if c.full && i%2 == 1 {
					writes[i].Op = engine.Op{Kind: engine.Delete, Key: strings.Repeat("k", i+1)}
				}
			}
			writes[3].Err = failed
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			var together sync.WaitGroup
			together.Go(func() { b.doTogether(ctx, writes) })
			for queued := 0; queued < min(room-1, len(writes)/2-1); time.Sleep(time.Millisecond) {
				b.mu.Lock()
				queued = b.mu.live
				b.mu.Unlock()
			}
			c.end(cancel, b)
			together.Wait()
			for i, w := range writes {
				want := c.want(i)
				if i == 3 {
					want = failed
				}
				if !errors.Is(w.Err, want) || want == nil && w.Result.Revision != uint64(i+1) {
					t.Errorf("%d: %v, %v; want %v", i, w.Result.Revision, w.Err, want)
				}
			}
			if name != "closed" {
				if name == "given up" {
					b.start()
				}
				b.close(nil)
			}
			if b.mu.live != 0 || b.mu.bytes != 0 || len(b.mu.queue) != 0 {
				t.Errorf("%d calls of %d bytes are left, %d in the queue", b.mu.live, b.mu.bytes, len(b.mu.queue))
			}
		})
	}
}

func closedNow() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

// rounds is n, or fewer in a short run.
func rounds(n, short int) int {
	if testing.Short() {
		return short
	}
	return n
}

// plenty is what a disk has free that is not about to be full.
func plenty() (int64, error) { return 1 << 40, nil }

// TestABatchHasTheLogToItself is about what is queued while a batch is under way: it
// goes together, when that is done, or when it has been under way for long, or when it
// is enough for a whole batch.
func TestABatchHasTheLogToItself(t *testing.T) {
	for name, c := range map[string]struct {
		overlapAfter time.Duration
		value        int // bytes of each of what is queued
		finish       bool
		want         int // operations of the second batch
	}{
		"done":     {overlapAfter: time.Hour, value: 1, finish: true, want: 10},
		"for long": {overlapAfter: 50 * time.Millisecond, value: 1},
		"enough":   {overlapAfter: time.Hour, value: maxBatchBytes / 9},
	} {
		t.Run(name, func(t *testing.T) {
			proposed := make(chan int, 16) // operations of each batch
			finish := make(chan struct{})
			b := newTestBatcher(nil)
			b.overlapAfter = c.overlapAfter
			b.propose = func(entry []byte, _ <-chan struct{}) proposal {
				var e command.Entry
				if err := command.Decode(entry, &e); err != nil {
					panic(err)
				}
				if n := len(e.Batch.Ops); n > 0 {
					proposed <- n
					<-finish
				}
				b.applied(e.Batch.Slot, e.Batch.Seq, make([]engine.Result, len(e.Batch.Ops)), true)
				return proposalApplied
			}
			b.start()
			defer b.close(nil)
			var calls sync.WaitGroup
			defer calls.Wait()
			set := func(size int) {
				if _, err := b.do(context.Background(), &engine.Op{Kind: engine.Set, Key: "k", Value: make([]byte, size)}, once.ID{}); err != nil {
					t.Error(err)
				}
			}
			calls.Go(func() { set(1) })
			if n := <-proposed; n != 1 {
				t.Fatalf("the first batch has %d operations", n)
			}
			for range 10 {
				calls.Go(func() { set(c.value) })
			}
			if c.finish {
				for queued := 0; queued < 10; time.Sleep(time.Millisecond) {
					b.mu.Lock()
					queued = b.mu.live
					b.mu.Unlock()
				}
				select {
				case n := <-proposed:
					t.Errorf("a batch of %d operations goes before the one under way is done", n)
				default:
				}
				close(finish)
			} else {
				defer close(finish)
			}
			select {
			case n := <-proposed:
				if c.want > 0 && n != c.want {
					t.Errorf("the second batch has %d operations, want %d", n, c.want)
				}
			case <-time.After(10 * time.Second):
				t.Error("no second batch")
			}
		})
	}
}
