package store

import "time"

// Clock is where a store takes its time from. A program leaves it to the
// store, which then uses the system's monotonic clock; tests inject their own.
type Clock interface {
	// Now is the time since an arbitrary instant. It never goes back.
	Now() time.Duration

	// AfterFunc calls f in a goroutine of its own once d has passed, unless
	// stop is called first. stop tells whether it kept f from being called.
	AfterFunc(d time.Duration, f func()) (stop func() bool)
}
