package main

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// durations counts durations by length, to within a hundredth. It is one array
// for all callers: a thousand of them with a histogram each would be most of what
// a process under test has in its memory.
type durations struct {
	counts [64 * perDoubling]atomic.Uint32
}

const (
	perDoubling  = 1 << doublingBits
	doublingBits = 7
)

// bucket is where d is counted: by itself below perDoubling ns, else by its
// highest bits.
func bucket(d time.Duration) int {
	n := uint64(max(0, d))
	shift := max(0, bits.Len64(n)-1-doublingBits)
	return shift*perDoubling + int(n>>shift)
}

// middle is the duration in the middle of a bucket.
func middle(b int) time.Duration {
	if b < 2*perDoubling {
		return time.Duration(b)
	}
	shift := b/perDoubling - 1
	low := uint64(b-shift*perDoubling) << shift
	return time.Duration(low + 1<<shift/2)
}

func (d *durations) record(took time.Duration) { d.counts[bucket(took)].Add(1) }

func (d *durations) total() (n int) {
	for i := range d.counts {
		n += int(d.counts[i].Load())
	}
	return n
}

// quantile is the duration that q of all do not exceed; 0 if there are none.
func (d *durations) quantile(q float64) time.Duration {
	rank := int(q * float64(d.total()))
	for i := range d.counts {
		n := int(d.counts[i].Load())
		if rank < n {
			return middle(i)
		}
		rank -= n
	}
	return 0
}
