package main

import (
	"context"
	"slices"
	"sync"
	"time"
)

// probe writes by way of one member at fixed times, whether those before are
// answered or not, and each until it is: what is not acknowledged is tried again.
// So the longest time in which nothing was acknowledged is seen.
type probe struct {
	m       member
	cancel  context.CancelFunc
	running sync.WaitGroup
	fails   failures

	mu struct {
		sync.Mutex
		acks    []time.Time
		longest time.Duration // that a write took, with its repetitions
		lost    int           // writes that were not acknowledged in time
	}
}

const probeInterval = 5 * time.Millisecond

// The metrics of a probe.
const (
	outageMillis   = "ms without an acknowledged write"
	longestMillis  = "ms of the longest write"
	failedAttempts = "attempts that failed and were repeated"
)

// startProbe returns once a write has been acknowledged.
func startProbe(m member) *probe {
	ctx, cancel := context.WithCancel(context.Background())
	p := &probe{m: m, cancel: cancel}
	p.write(ctx)
	p.running.Go(func() {
		tick := time.NewTicker(probeInterval)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				p.running.Go(func() { p.write(ctx) })
			}
		}
	})
	return p
}

// write writes until it is acknowledged or nobody asks any more.
func (p *probe) write(ctx context.Context) {
	// What is under way when the probe ends is waited for, but not for ever.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), opPatience)
	defer cancel()
	began := time.Now()
	for {
		err := p.attempt(ctx)
		now := time.Now()
		if err == nil {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.mu.acks = append(p.mu.acks, now)
			p.mu.longest = max(p.mu.longest, now.Sub(began))
			return
		}
		p.fails.add(err)
		if ctx.Err() != nil {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.mu.lost++
			return
		}
		time.Sleep(probeInterval)
	}
}

// attempt gives up where a system would wait for ever: an acknowledgement of NATS
// can be lost, and its own clients wait as long unless told otherwise.
func (p *probe) attempt(ctx context.Context) error {
	const patience = 5 * time.Second
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return p.m.Set(ctx, "probe", []byte("probe"))
}

// stop waits for a write that begins now, and for those before it.
func (p *probe) stop() outcome {
	p.write(context.Background())
	p.cancel()
	p.running.Wait()
	slices.SortFunc(p.mu.acks, time.Time.Compare)
	var gap time.Duration
	for i, at := range p.mu.acks[min(1, len(p.mu.acks)):] {
		gap = max(gap, at.Sub(p.mu.acks[i]))
	}
	o := outcome{Failed: p.mu.lost, Metrics: metrics{
		outageMillis:   millis(gap),
		longestMillis:  millis(p.mu.longest),
		failedAttempts: float64(p.fails.n.Load()),
	}}
	if o.Failed > 0 {
		o.Error = p.fails.text()
	}
	return o
}
