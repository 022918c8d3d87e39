package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"dkv"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/term"
)

// perfResult is what one test has shown.
type perfResult struct {
	test       string
	valueSize  int
	ops        int64 // that succeeded
	failed     int64
	firstError error
	took       time.Duration
	latencies  *hdrhistogram.Histogram // of those that succeeded, in ns
}

func (r perfResult) perSecond() float64 { return float64(r.ops) / r.took.Seconds() }

func (r perfResult) quantile(percent float64) time.Duration {
	return time.Duration(r.latencies.ValueAtQuantile(percent))
}

func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, int64(time.Minute), 2)
}

// prepare makes what all tests share.
func (p *perf) prepare(progress io.Writer) {
	p.prefix = "dkv-perf/" + rand.Text() + "/"
	p.value = make([]byte, p.valueSize)
	p.large = make([]byte, p.largeKiB<<10)
	rand.Read(p.value)
	rand.Read(p.large)
	p.largeKeys = max(1, min(p.keys, maxLargeBytes/max(1, len(p.large))))
	p.progress = progress
	if f, ok := progress.(*os.File); ok {
		p.terminal = term.IsTerminal(int(f.Fd()))
	}
}

func (p *perf) key(i int) string      { return fmt.Sprint(p.prefix, i) }
func (p *perf) largeKey(i int) string { return fmt.Sprint(p.prefix, "large/", i) }

// fill writes the keys that a test reads, unless they are there.
func (p *perf) fill(ctx context.Context, db *dkv.DB, test string) error {
	set := func(key func(int) string, value []byte) func(context.Context, int) error {
		return func(ctx context.Context, i int) error { return db.Set(ctx, key(i), value) }
	}
	switch test {
	case "get", "has", "mixed", "delete":
		return p.each(ctx, p.keys, set(p.key, p.value))
	case "get-large":
		return p.each(ctx, p.largeKeys, set(p.largeKey, p.large))
	}
	return nil
}

// removeAll removes the keys of all tests, as far as that works.
func (p *perf) removeAll(db *dkv.DB) {
	ctx, cancel := p.limit(context.Background())
	defer cancel()
	p.each(ctx, p.keys, func(ctx context.Context, i int) error { return db.Delete(ctx, p.key(i)) })
	p.each(ctx, p.largeKeys, func(ctx context.Context, i int) error { return db.Delete(ctx, p.largeKey(i)) })
}

// each calls f for the numbers below n, of which each has the timeout, until one fails.
func (p *perf) each(ctx context.Context, n int, f func(context.Context, int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var all sync.WaitGroup
	for range p.threads {
		all.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				one, done := p.limit(ctx)
				if err := f(one, i); err != nil {
					cancel(err)
				}
				done()
			}
		})
	}
	all.Wait()
	return context.Cause(ctx)
}

// operation is one of a test, on a key at random.
func (p *perf) operation(db *dkv.DB, test string) func(context.Context) error {
	key := func() string { return p.key(mathrand.IntN(p.keys)) }
	largeKey := func() string { return p.largeKey(mathrand.IntN(p.largeKeys)) }
	set := func(ctx context.Context) error { return db.Set(ctx, key(), p.value) }
	get := func(ctx context.Context) error { _, _, err := db.Get(ctx, key()); return err }
	switch test {
	case "set":
		return set
	case "get":
		return get
	case "has":
		return func(ctx context.Context) error { _, err := db.Has(ctx, key()); return err }
	case "set-large":
		return func(ctx context.Context) error { return db.Set(ctx, largeKey(), p.large) }
	case "get-large":
		return func(ctx context.Context) error { _, _, err := db.Get(ctx, largeKey()); return err }
	case "delete":
		return func(ctx context.Context) error { return db.Delete(ctx, key()) }
	}
	return func(ctx context.Context) error { // mixed
		if mathrand.IntN(4) == 0 {
			return set(ctx)
		}
		return get(ctx)
	}
}

// measure does one test.
func (p *perf) measure(ctx context.Context, db *dkv.DB, test string) perfResult {
	r := perfResult{test: test, valueSize: p.valueSize, latencies: newHistogram()}
	if strings.HasSuffix(test, "-large") {
		r.valueSize = len(p.large)
	}
	operation := p.operation(db, test)
	var ops, failed atomic.Int64
	var mu sync.Mutex // for the histogram and the first error of r
	var all sync.WaitGroup
	began := time.Now()
	end := began.Add(time.Duration(p.duration))
	for range p.threads {
		all.Go(func() {
			own := newHistogram()
			for ctx.Err() == nil && time.Now().Before(end) {
				one, done := p.limit(ctx)
				start := time.Now()
				err := operation(one)
				took := time.Since(start)
				done()
				if err == nil {
					own.RecordValue(min(int64(took), own.HighestTrackableValue()))
					ops.Add(1)
					continue
				}
				if ctx.Err() != nil {
					break // interrupted
				}
				failed.Add(1)
				mu.Lock()
				if r.firstError == nil {
					r.firstError = err
				}
				mu.Unlock()
			}
			mu.Lock()
			defer mu.Unlock()
			r.latencies.Merge(own)
		})
	}
	stop := p.showProgress(test, began, &ops)
	all.Wait()
	r.took, r.ops, r.failed = time.Since(began), ops.Load(), failed.Load()
	stop(r)
	return r
}

// showProgress tells how far a test is, until stop is called, which tells what came of
// it.
func (p *perf) showProgress(test string, began time.Time, ops *atomic.Int64) (stop func(perfResult)) {
	ended := make(chan struct{})
	var shown sync.WaitGroup
	if p.terminal {
		shown.Go(func() {
			for tick := time.NewTicker(200 * time.Millisecond); ; {
				select {
				case <-tick.C:
					took := time.Since(began)
					fmt.Fprintf(p.progress, "\r%-10s %5.1fs %9d ops %9.0f/s", test, took.Seconds(), ops.Load(), float64(ops.Load())/took.Seconds())
				case <-ended:
					tick.Stop()
					fmt.Fprint(p.progress, "\r")
					return
				}
			}
		})
	}
	return func(r perfResult) {
		close(ended)
		shown.Wait()
		fmt.Fprintf(p.progress, "%-10s %5.1fs %9d ops %9.0f/s\n", test, r.took.Seconds(), r.ops, r.perSecond())
		if r.failed > 0 {
			fmt.Fprintf(p.progress, "%-10s %d failed, the first: %v\n", test, r.failed, r.firstError)
		}
	}
}
