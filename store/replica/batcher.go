package replica

import (
	"context"
	"slices"
	"sync"
	"time"

	"dkv/internal/command"
	"dkv/internal/once"
	"dkv/internal/ops"
	"dkv/store"
	"dkv/store/engine"
)

// Bounds of what waits and of what is under way.
const (
	slots         = 2
	maxQueueOps   = 1 << 16
	maxQueueBytes = 64 << 20
	maxBatchBytes = 1 << 20 // one operation may be larger

	// readShare is what a read in a transaction counts for in a batch, whatever
	// it finds, so that the results of a batch do not take too much at a time.
	readShare = 16 << 10

	// overlapAfter is how long a batch has the log to itself. Two at a time go
	// through the same disks: each takes nearly twice as long, and the first
	// callers to come back take a batch for themselves, with all others behind
	// it. Only where the network is what takes long, or the log has come to a
	// standstill, is it the other way round.
	overlapAfter = 2 * time.Millisecond
)

// batcher gathers the operations of all goroutines into log entries. Each of its
// slots has one batch under way. All that waits when a slot's turn comes is its next
// batch, so the busier the store is, the larger the batches are; a second one goes
// when that wait has taken overlapAfter, or when there is enough for a whole batch.
type batcher struct {
	member, incarnation uint64
	limit               int64 // of the size that its operations may take the state to, 0: none
	space               space
	ending              *ending // why it is closed
	refusal             error   // of every operation, or nil

	// progress is the index of the last entry that was applied here.
	progress func() uint64

	// propose tries once to get an entry applied. It returns when that has
	// happened, when it is certain that this attempt had no effect, when it has
	// taken too long, or when settled or stopping is closed.
	propose func(entry []byte, settled <-chan struct{}) proposal

	overlapAfter time.Duration // the constant, but in tests

	wake     chan struct{} // has room for one: something is there for a slot that waits
	closing  chan struct{} // closed when nothing more gets into the queue
	stopping chan struct{} // closed when nothing more is to be proposed
	workers  sync.WaitGroup
	hello    *flight // the first batch, see greet

	mu struct {
		sync.Mutex
		queue  []*call
		live   int           // calls in queue that are not given up
		bytes  int           // of their operations
		drawn  chan struct{} // closed and replaced when something leaves the queue
		closed bool
		flying [slots]*flight
		since  [slots]time.Time // when the slot took its batch, zero while it waits for one
		timer  *time.Timer      // wakes one when a batch has had the log to itself for long enough
	}
}

// proposal is what came of proposing an entry.
type proposal uint8

const (
	proposalApplied proposal = iota // it was applied here, and applied was called
	proposalDropped                 // this attempt had no effect
	proposalLost                    // unknown
)

func (b *batcher) init(member, incarnation uint64, progress func() uint64) {
	b.member, b.incarnation, b.progress = member, incarnation, progress
	b.overlapAfter = overlapAfter
	b.wake = make(chan struct{}, 1)
	b.closing, b.stopping = make(chan struct{}), make(chan struct{})
	b.mu.drawn = make(chan struct{})
	b.mu.timer = time.AfterFunc(time.Hour, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.offerLocked()
	})
	b.mu.timer.Stop()
}

// start has the slots work. The first batch of the first slot is empty: it tells
// the group of the new incarnation, so that none of the earlier one has an effect
// any longer, and the clock gets a tick that this member can measure from.
func (b *batcher) start() {
	b.hello = &flight{seq: 1, settled: make(chan struct{})}
	b.mu.flying[0], b.mu.since[0] = b.hello, time.Now()
	for slot := range uint64(slots) {
		b.workers.Go(func() { b.work(slot) })
	}
}

// do queues an operation and waits for its result or the end of ctx.
func (b *batcher) do(ctx context.Context, op *engine.Op, id once.ID) (engine.Result, error) {
	c, err := b.call(op, id)
	if err != nil {
		return engine.Result{}, err
	}
	if _, err := b.enqueue(ctx, []*call{c}); err != nil {
		return engine.Result{}, err
	}
	select {
	case <-c.done:
	case <-ctx.Done():
		if err := b.giveUp(ctx, c); err != nil {
			return engine.Result{}, err // c may yet be written to: it is not reused
		}
		<-c.done
	}
	return c.result()
}

// doTogether is do for each of the writes that has no error yet.
func (b *batcher) doTogether(ctx context.Context, writes []ops.Write) {
	g := &together{done: make(chan struct{}, 1)}
	all := make([]*call, 0, len(writes))
	of := make([]*ops.Write, 0, len(writes)) // by call
	for i := range writes {
		w := &writes[i]
		if w.Err != nil {
			continue
		}
		c, err := b.call(&w.Op, w.ID)
		if err != nil {
			w.Err = err
			continue
		}
		c.together = g
		all, of = append(all, c), append(of, w)
	}
	g.left = len(all)
	queued, err := b.enqueue(ctx, all)
	for _, w := range of[queued:] {
		w.Err = err
	}
	if all = all[:queued]; queued == 0 {
		return
	}
	select {
	case <-g.done:
	case <-ctx.Done():
		for i, c := range all {
			of[i].Err = b.giveUp(ctx, c)
		}
	}
	for i, c := range all {
		if of[i].Err == nil { // else c may yet be written to: it is not reused
			of[i].Result, of[i].Err = c.result()
		}
	}
}

// call makes a call of an operation.
func (b *batcher) call(op *engine.Op, id once.ID) (*call, error) {
	if b.refusal != nil {
		return nil, b.refused()
	}
	if b.space.low() && !frees(op) {
		return nil, store.ErrDiskFull
	}
	c := calls.Get().(*call)
	c.op = command.AppendOp(c.op[:0], op, id)
	if op.Txn != nil {
		c.read = readShare * op.Txn.Reads()
	}
	return c, nil
}

// refused is why no operation is taken: the store may also be closed.
func (b *batcher) refused() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.mu.closed {
		return b.ending.err()
	}
	return b.refusal
}

// enqueue puts calls into the queue, as soon as there is room for them, and returns how
// many there are in it: all, if there is no error.
func (b *batcher) enqueue(ctx context.Context, all []*call) (queued int, err error) {
	for {
		b.mu.Lock()
		queued += b.putLocked(all[queued:])
		closed, drawn := b.mu.closed, b.mu.drawn
		if queued == len(all) {
			b.mu.Unlock()
			return queued, nil
		}
		b.mu.Unlock()
		if closed {
			err = b.ending.err()
			break
		}
		select {
		case <-drawn:
			continue
		case <-ctx.Done():
			err = ops.Ended(store.ErrBusy, ctx)
		}
		break
	}
	if g := all[queued].together; g != nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		if g.left -= len(all) - queued; g.left == 0 && queued > 0 {
			g.done <- struct{}{}
		}
	}
	return queued, err
}

// putLocked puts calls into the queue that there is room for, and returns how many.
func (b *batcher) putLocked(all []*call) (n int) {
	if b.mu.closed {
		return 0
	}
	if len(b.mu.queue) >= 2*maxQueueOps {
		b.mu.queue = slices.DeleteFunc(b.mu.queue, func(c *call) bool { return c.givenUp })
	}
	emptyBefore, fullBefore := b.mu.live == 0, b.fullLocked()
	for ; n < len(all) && (b.mu.live == 0 || b.mu.live < maxQueueOps && b.mu.bytes+len(all[n].op) <= maxQueueBytes); n++ {
		b.mu.queue = append(b.mu.queue, all[n])
		b.mu.live++
		b.mu.bytes += len(all[n].op)
	}
	if n > 0 && emptyBefore || b.fullLocked() != fullBefore {
		b.offerLocked()
	}
	return n
}

// giveUp stops waiting for c. It returns nil if the result is there after all.
func (b *batcher) giveUp(ctx context.Context, c *call) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	f := c.flight
	switch {
	case f == nil:
		c.givenUp = true // take leaves it out
		b.mu.live--
		b.mu.bytes -= len(c.op)
		c.op = nil
		b.drawnLocked()
		return ops.Ended(store.ErrUnavailable, ctx)
	case f.over:
		return nil
	}
	c.givenUp = true
	if f.waiting--; f.waiting == 0 {
		f.endLocked()
		if !f.exposed {
			return ops.Ended(store.ErrUnavailable, ctx)
		}
	}
	return ops.Ended(store.ErrUnknown, ctx)
}

// work takes the batches of one slot through the log, one after the other.
func (b *batcher) work(slot uint64) {
	var entry []byte
	seq := uint64(1)
	if slot == 0 {
		entry = command.AppendBatchHeader(nil, command.Batch{
			Member:      b.member,
			Incarnation: b.incarnation,
			Seq:         1,
			Applied:     b.progress(),
		}, 0)
		b.fly(b.hello, entry)
		seq++
	}
	for ; ; seq++ {
		f, batch, low, void := b.take(slot, seq)
		if f == nil {
			return
		}
		b.space.look()
		entry = command.AppendBatchHeader(entry[:0], command.Batch{
			Member:      b.member,
			Incarnation: b.incarnation,
			Slot:        slot,
			Seq:         seq,
			Low:         low,
			Void:        void,
			Limit:       b.limit,
			Applied:     b.progress(),
		}, len(batch))
		for _, c := range batch {
			entry = append(entry, c.op...)
		}
		b.fly(f, entry)
		if cap(entry) > 2*maxBatchBytes {
			entry = nil
		}
	}
}

// take waits until something is queued and the slot may take it, and makes a batch. It returns the
// calls too, because the flight drops them as soon as all are given up. It
// returns nil when the batcher is closed and the queue is empty. low and void are as
// command.Batch has them.
func (b *batcher) take(slot, seq uint64) (f *flight, batch []*call, low [command.MaxSlots]uint64, void []command.Voided) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mu.since[slot] = time.Time{} // it waits
	for {
		switch {
		case len(b.mu.queue) == 0:
			if b.mu.closed {
				return nil, nil, low, nil
			}
		case b.turnLocked() > 0:
			b.offerLocked()
		default:
			if f = b.takeLocked(seq); len(f.calls) == 0 {
				continue // all had been given up
			}
			b.mu.flying[slot], b.mu.since[slot] = f, time.Now()
			if len(b.mu.queue) > 0 {
				b.offerLocked()
			}
			low, void = b.lowLocked()
			return f, f.calls, low, void
		}
		b.mu.Unlock()
		select {
		case <-b.wake:
		case <-b.closing:
		}
		b.mu.Lock()
	}
}

// offerLocked has a slot that waits take what is queued as soon as it may. Nobody
// has to be told if a slot is about to look itself, or none waits.
func (b *batcher) offerLocked() {
	waits := false
	for slot, since := range b.mu.since {
		if since.IsZero() {
			waits = true
		} else if b.mu.flying[slot].over && !b.fullLocked() {
			return
		}
	}
	if !waits {
		return
	}
	if wait := b.turnLocked(); wait > 0 {
		b.mu.timer.Reset(wait)
		return
	}
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// turnLocked is how long what is queued is left to the slots that have a batch under
// way.
func (b *batcher) turnLocked() (wait time.Duration) {
	if b.fullLocked() || b.mu.closed {
		return 0
	}
	for _, since := range b.mu.since {
		if !since.IsZero() {
			wait = max(wait, b.overlapAfter-time.Since(since))
		}
	}
	return wait
}

// fullLocked tells whether there is enough in the queue for a whole batch.
func (b *batcher) fullLocked() bool {
	return b.mu.live >= command.MaxOps || b.mu.bytes >= maxBatchBytes
}

func (b *batcher) takeLocked(seq uint64) *flight {
	f := &flight{seq: seq, settled: make(chan struct{})}
	taken, bytes := 0, 0
	for _, c := range b.mu.queue {
		if !c.givenUp {
			if f.waiting == command.MaxOps || f.waiting > 0 && bytes+len(c.op)+c.read > maxBatchBytes {
				break
			}
			c.flight = f
			f.calls = append(f.calls, c)
			f.waiting++
			bytes += len(c.op) + c.read
			b.mu.live--
			b.mu.bytes -= len(c.op)
		}
		taken++
	}
	rest := copy(b.mu.queue, b.mu.queue[taken:])
	clear(b.mu.queue[rest:])
	b.mu.queue = b.mu.queue[:rest]
	b.drawnLocked()
	return f
}

// lowLocked is the lowest sequence number of each slot that somebody may wait for, and
// which operations of those nobody does.
func (b *batcher) lowLocked() (low [command.MaxSlots]uint64, void []command.Voided) {
	for slot, f := range b.mu.flying {
		switch {
		case f == nil:
		case f.over:
			low[slot] = f.seq + 1
		default:
			low[slot] = f.seq
			if f.waiting == len(f.calls) {
				continue
			}
			for i, c := range f.calls {
				if c.givenUp {
					void = append(void, command.Voided{Slot: uint64(slot), Op: uint64(i)})
				}
			}
		}
	}
	return low, void
}

func (b *batcher) drawnLocked() {
	close(b.mu.drawn)
	b.mu.drawn = make(chan struct{})
}

// fly proposes a batch, again and again under the same identity, until its
// results are known, nobody waits for them any longer, or the store stops.
func (b *batcher) fly(f *flight, entry []byte) {
	const pause = 5 * time.Millisecond
	lost := false
	for b.expose(f, true) {
		switch b.propose(entry, f.settled) {
		case proposalApplied:
			// If it has no results by now, the state machine has refused it:
			// a process with a later incarnation runs on a copy of this
			// directory.
			b.settle(f, func(_ int, c *call) { c.err = store.ErrUnknown })
			return
		case proposalDropped:
			b.expose(f, lost)
		case proposalLost:
			lost = true
		}
		select {
		case <-f.settled:
			return
		case <-b.stopping:
			err := b.ending.err()
			if lost {
				err = store.ErrUnknown
			}
			b.settle(f, func(_ int, c *call) { c.err = err })
			return
		case <-time.After(pause):
		}
	}
}

// expose records whether the batch may have had its effect, unless it is over.
func (b *batcher) expose(f *flight, exposed bool) (goOn bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f.exposed = exposed
	return !f.over
}

// applied is called by the state machine for each batch of this incarnation in
// the log, also for one that it answers for the second time.
func (b *batcher) applied(slot, seq uint64, results []engine.Result, ok bool) {
	b.mu.Lock()
	f := b.mu.flying[slot]
	b.mu.Unlock()
	if f == nil || f.seq != seq || !ok {
		return
	}
	b.settle(f, func(i int, c *call) {
		if i < len(results) {
			c.res = results[i]
		} else { // of a process on a copy of this directory
			c.err = store.ErrUnknown
		}
	})
}

// settle ends a flight and lets its calls go on, each with what set gives it.
func (b *batcher) settle(f *flight, set func(int, *call)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if f.over {
		return
	}
	for i, c := range f.calls {
		set(i, c)
		c.finish()
	}
	f.endLocked()
}

// close keeps new operations out, waits until those that it has let in are done
// or patience is closed, and stops.
func (b *batcher) close(patience <-chan struct{}) {
	b.mu.Lock()
	if !b.mu.closed {
		close(b.closing)
	}
	b.mu.closed = true
	if b.hello != nil && !b.hello.over {
		b.hello.endLocked() // nobody waits for it
	}
	b.mu.timer.Stop()
	b.mu.Unlock()

	drained := done(&b.workers)
	select {
	case <-drained:
	case <-patience:
		b.failQueued()
	}
	close(b.stopping)
	<-drained
	b.failQueued() // of a batcher that was never started
}

func (b *batcher) failQueued() {
	b.mu.Lock()
	defer b.mu.Unlock()
	// A flight that has ended stands for those that never got one.
	over := &flight{over: true}
	for _, c := range b.mu.queue {
		if !c.givenUp {
			c.flight = over
			c.err = b.ending.err()
			c.finish()
		}
	}
	b.mu.queue, b.mu.live, b.mu.bytes = nil, 0, 0
	b.drawnLocked() // those that waited for room find it closed
}
