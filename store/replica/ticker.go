package replica

import (
	"math/rand/v2"
	"sync"
	"time"

	"dkv/internal/command"
	"dkv/store"
)

const (
	// minTick is the least time between two ticks of one proposer: new
	// deadlines begin to count up to that much late.
	minTick = 25 * time.Millisecond
	// maxTick is the greatest time between ticks while there are deadlines. A
	// member that restarts and then leads does not know what has passed since
	// the last tick; it is late by that much.
	maxTick = 10 * time.Second
)

// ticker moves the replicated clock: on the member that leads, and only while
// something has a deadline, it proposes ticks. The package doc says why no
// deadline comes early, whoever proposes and however late the log takes it.
type ticker struct {
	clock   store.Clock
	leading func() bool
	propose func(t command.Tick, stopping <-chan struct{})

	wake     chan struct{} // has room for one: something has changed
	stopping chan struct{}
	worker   sync.WaitGroup

	mu struct {
		sync.Mutex
		ref      reference
		flying   uint64        // nonce of the tick under way, 0 if none
		flyingAt time.Duration // when it was stamped
		lastTry  time.Duration // when a tick was last proposed
		tried    bool          // lastTry is set

		// If the worker is asleep it wakes at until. What changes less than minTick
		// before that does not wake it: a tick comes that much later at most.
		asleep bool
		until  time.Duration

		// What the state waits for: a tick at once, or when the replicated
		// clock would read due, if ever.
		atOnce bool
		due    time.Duration
		any    bool
		wanted bool // a member would like a tick to measure from, if there are any
	}
}

// reference ties this member's clock to the replicated one: the last tick that
// counted had the number tick; the replicated clock read state when this
// member's read local. That tick was applied here when it read arrived, which is
// not before local.
type reference struct {
	tick           uint64
	state          time.Duration
	local, arrived time.Duration
}

// stamp is the tick that a member with this reference proposes when its clock
// reads now.
func (r reference) stamp(now time.Duration, nonce uint64) command.Tick {
	return command.Tick{
		Prev:    r.tick,
		Nonce:   nonce,
		Elapsed: now - r.local,
		Lag:     r.arrived - r.local,
	}
}

func (t *ticker) init(clock store.Clock) {
	t.clock = clock
	t.wake = make(chan struct{}, 1)
	t.stopping = make(chan struct{})
	now := t.clock.Now()
	t.mu.ref = reference{local: now, arrived: now}
}

func (t *ticker) start() { t.worker.Go(t.work) }

// close stops the worker. A member that leads proposes one more tick before it
// hands over, so that whoever leads next measures from there.
func (t *ticker) close(patience <-chan struct{}) {
	close(t.stopping)
	t.worker.Wait()
	t.mu.Lock()
	any := t.mu.any || t.mu.atOnce
	t.mu.Unlock()
	if any && t.leading() {
		t.tick(patience)
	}
}

// counted is called by the state machine for each tick that counts, with the
// reading that it leads to.
func (t *ticker) counted(tick, nonce uint64, state time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.clock.Now()
	t.mu.ref = reference{tick: tick, state: state, local: now, arrived: now}
	if nonce == t.mu.flying && nonce != 0 {
		// This member measured it, so it knows that the replicated clock read
		// what it reads now when the tick was stamped.
		t.mu.ref.local = t.mu.flyingAt
		t.mu.flying = 0
	}
	t.mu.wanted = false
	t.nudge() // what the worker waits for was reckoned from the tick before
}

// wanted is called by the state machine when a member has started.
func (t *ticker) wanted() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mu.wanted = true
	t.nudge()
}

// recovered is called by the state machine after it was replaced by a snapshot.
func (t *ticker) recovered(m *machine) {
	t.counted(m.ticks, 0, m.db.Load().Now())
	t.applied(m)
}

// applied is called by the state machine when it has changed.
func (t *ticker) applied(m *machine) {
	db := m.db.Load()
	open, settling, isSettling := db.Unsettled()
	due, any := db.NextDeadline()
	if at, ok := m.clients.NextAge(); ok && (!any || at < due) {
		due, any = at, true
	}

	t.mu.Lock()
	if isSettling {
		// They count from the arrival of the last tick. Short of that, the
		// reading at that moment is what this member thinks it was.
		at := t.mu.ref.state + (t.mu.ref.arrived - t.mu.ref.local) + settling
		if !any || at < due {
			due, any = at, true
		}
	}
	changed := open && !t.mu.atOnce || any && (!t.mu.any || due < t.mu.due)
	t.mu.atOnce, t.mu.due, t.mu.any = open, due, any
	if changed && t.mu.asleep {
		changed = t.mu.until-t.clock.Now() > minTick
	}
	t.mu.Unlock()
	if changed {
		t.nudge()
	}
}

func (t *ticker) nudge() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

func (t *ticker) work() {
	for {
		wait, any := t.wait()
		if any && wait <= 0 && t.leading() {
			t.tick(t.stopping)
			continue
		}
		stop := func() bool { return true }
		if any {
			stop = t.sleep(rest(wait))
		}
		select {
		case <-t.wake:
			stop()
			t.awake()
		case <-t.stopping:
			stop()
			return
		}
	}
}

// rest is how long the worker sleeps that has this long to wait. A member that does not lead
// has no tick to propose when it is over.
func rest(wait time.Duration) time.Duration {
	if wait <= 0 {
		return minTick
	}
	return wait
}

// sleep has the worker woken in d.
func (t *ticker) sleep(d time.Duration) (stop func() bool) {
	t.mu.Lock()
	t.mu.asleep, t.mu.until = true, t.clock.Now()+d
	t.mu.Unlock()
	return t.clock.AfterFunc(d, t.nudge)
}

func (t *ticker) awake() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mu.asleep = false
}

// wait is the time until the next tick is to be proposed; any is false if there
// is nothing that it would be for.
func (t *ticker) wait() (wait time.Duration, any bool) {
	now := t.clock.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.mu.any && !t.mu.atOnce {
		return 0, false
	}
	wait = maxTick - (now - t.mu.ref.arrived)
	if t.mu.any {
		wait = min(wait, t.mu.due-t.mu.ref.state-(now-t.mu.ref.local))
	}
	if t.mu.atOnce || t.mu.wanted {
		wait = 0
	}
	if t.mu.tried {
		wait = max(wait, minTick-(now-t.mu.lastTry))
	}
	return wait, true
}

// tick proposes one tick and waits until it is applied or has failed.
func (t *ticker) tick(stopping <-chan struct{}) {
	nonce := rand.Uint64() | 1
	t.mu.Lock()
	now := t.clock.Now()
	tick := t.mu.ref.stamp(now, nonce)
	t.mu.flying, t.mu.flyingAt = nonce, now
	t.mu.lastTry, t.mu.tried = now, true
	t.mu.Unlock()
	t.propose(tick, stopping)
}
