// Package clock has the clocks that stores run on: the system's, and one for
// tests that moves only when it is told to.
package clock

import (
	"sync"
	"time"
)

// System is the system's monotonic clock. It stands still while the machine is
// suspended, so a deadline measured with it is late by that much, never early.
type System struct{}

// start is what System's readings count from: any instant will do.
var start = time.Now()

// Now is the time since the process began.
func (System) Now() time.Duration { return time.Since(start) }

// AfterFunc calls f in a goroutine of its own once d has passed.
func (System) AfterFunc(d time.Duration, f func()) (stop func() bool) {
	return time.AfterFunc(d, f).Stop
}

// Fake is a clock that moves only by Advance. Its zero value reads 0.
type Fake struct {
	mu struct {
		sync.Mutex
		now    time.Duration
		timers map[*timer]struct{}
	}
}

type timer struct {
	at time.Duration
	f  func()
}

// Now is the sum of all advances.
func (c *Fake) Now() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.now
}

// AfterFunc has f called by the Advance that reaches d from now, or at once if
// d is not positive.
func (c *Fake) AfterFunc(d time.Duration, f func()) (stop func() bool) {
	if d <= 0 {
		go f()
		return func() bool { return false }
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	t := &timer{at: c.mu.now + d, f: f}
	if c.mu.timers == nil {
		c.mu.timers = make(map[*timer]struct{})
	}
	c.mu.timers[t] = struct{}{}
	return func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		_, waiting := c.mu.timers[t]
		delete(c.mu.timers, t)
		return waiting
	}
}

// Advance moves the clock by d and then calls, one after the other and in the
// order of their times, the functions that have become due. What those
// schedule runs in the same Advance if it is due too.
func (c *Fake) Advance(d time.Duration) {
	c.mu.Lock()
	c.mu.now += d
	c.mu.Unlock()
	for {
		f := c.takeDue()
		if f == nil {
			return
		}
		f()
	}
}

func (c *Fake) takeDue() func() {
	c.mu.Lock()
	defer c.mu.Unlock()
	var due *timer
	for t := range c.mu.timers {
		if t.at <= c.mu.now && (due == nil || t.at < due.at) {
			due = t
		}
	}
	if due == nil {
		return nil
	}
	delete(c.mu.timers, due)
	return due.f
}

// Timers is the number of functions that wait for their time.
func (c *Fake) Timers() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.mu.timers)
}
