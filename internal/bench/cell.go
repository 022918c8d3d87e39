package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// cell is one workload by so many callers by way of one member.
type cell struct {
	Workload string // write, read, stale, mix or lock; see also measure
	Via      int    // the member
	Callers  int
	Watchers int   `json:",omitempty"`
	Servers  []int `json:",omitempty"` // processes that do the work beside this one
	Data     data
	Time     time.Duration
}

// data is keys, and what their values are like.
type data struct {
	First, Keys int // number of the first key, and how many there are
	Size        int // of a value, in bytes
}

// The metrics of a cell, beside ops/s.
const (
	p50Micros     = "p50 µs"
	p99Micros     = "p99 µs"
	readP50Micros = "p50 µs of reads" // in a mix
	readP99Micros = "p99 µs of reads"
	failedOps     = "failed" // only if there are any
	cpuPer100k    = "CPU s/100k"
	mbPerSec      = "MB/s"
	gbPerSec      = "GB/s"           // over a network
	fillBytes     = 32 << 20         // of values that are filled in, on their way at once
	opPatience    = 30 * time.Second // after which an operation has failed
	failurePause  = 10 * time.Millisecond
	warmUpShare   = 5  // a cell is warmed up for this part of its time
	mixReadShare  = 10 // one of so many operations of the mix is a write
)

// keys are made beforehand: an allocation of the caller's is none of a system's.
func (d data) keys() []string {
	keys := make([]string, d.Keys)
	for i := range keys {
		keys[i] = string(appendKey(nil, d.First+i))
	}
	return keys
}

// caller is one of those that use a member at the same time, with an operation
// under way all the time.
type caller struct {
	rng   *rand.Rand
	keys  []string
	value []byte
	wrote bool // the last operation was a write

	number int
	locks  locks // in the workload of locks
}

// newCaller makes caller i. Its values begin with their key, so that a read can
// tell them from another key's, and go on with random bytes.
func newCaller(i int, keys []string, size int) *caller {
	c := &caller{
		rng:   rand.New(rand.NewPCG(seed, uint64(i))),
		keys:  keys,
		value: make([]byte, max(size, keySize)),

		number: i,
	}
	for at := keySize; at < len(c.value); at++ {
		c.value[at] = byte(c.rng.Uint32())
	}
	return c
}

func (c *caller) key() string { return c.keys[c.rng.IntN(len(c.keys))] }

// of is the caller's value for a key; good until the next call.
func (c *caller) of(key string) []byte {
	copy(c.value, key)
	return c.value
}

// allOf are the caller's values for keys.
func (c *caller) allOf(keys []string) (values [][]byte) {
	for _, key := range keys {
		values = append(values, clone(c.of(key)))
	}
	return values
}

func (c *caller) write(ctx context.Context, m member) error {
	c.wrote = true
	key := c.key()
	return m.Set(ctx, key, c.of(key))
}

type getter func(ctx context.Context, key string) ([]byte, bool, error)

func (c *caller) read(ctx context.Context, get getter) error {
	c.wrote = false
	key := c.key()
	value, ok, err := get(ctx, key)
	switch {
	case err != nil:
		return err
	case !ok:
		return fmt.Errorf("%s is not there", key)
	case len(value) != len(c.value) || !bytes.HasPrefix(value, []byte(key)):
		return fmt.Errorf("%s has another value than was written", key)
	}
	return nil
}

// operation is what the callers of a workload do; nil if m cannot do it.
func (c *cell) operation(m member) func(ctx context.Context, c *caller) error {
	switch c.Workload {
	case "write":
		return func(ctx context.Context, c *caller) error { return c.write(ctx, m) }
	case "read":
		return func(ctx context.Context, c *caller) error { return c.read(ctx, m.Get) }
	case "mix":
		return func(ctx context.Context, c *caller) error {
			if c.rng.IntN(mixReadShare) == 0 {
				return c.write(ctx, m)
			}
			return c.read(ctx, m.Get)
		}
	case "stale":
		if s, ok := m.(staler); ok {
			return func(ctx context.Context, c *caller) error { return c.read(ctx, s.GetStale) }
		}
	case "lock":
		if _, ok := m.(locker); ok {
			return func(ctx context.Context, c *caller) error { return c.lock(ctx) }
		}
	}
	return nil
}

// outcome is what came of a cell.
type outcome struct {
	Metrics metrics // nil if the member cannot do it
	Failed  int     // operations, be they in the time that counts or not
	Error   string  // of one that failed
}

// run measures the cell on m.
func (c *cell) run(m member) outcome {
	op := c.operation(m)
	if op == nil {
		return outcome{}
	}
	keys := c.Data.keys()
	ways := make([]locks, c.Callers)
	if l, ok := m.(locker); ok && c.Workload == "lock" {
		all, closeAll, err := openLocks(l, c.Callers)
		if err != nil {
			return outcome{Metrics: metrics{}, Failed: 1, Error: err.Error()}
		}
		defer closeAll() // who holds none can do no harm
		ways = all
	}
	runtime.GC()
	var (
		counting, stop atomic.Bool
		failures       failures
		took           durations
		reads          durations // those of them in a mix
		wg             sync.WaitGroup
	)
	warmUp := c.Time / warmUpShare
	for i := range c.Callers {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), warmUp+c.Time+opPatience)
			defer cancel()
			caller := newCaller(i, keys, c.Data.Size)
			caller.locks = ways[i]
			for !stop.Load() {
				began := time.Now()
				err := op(ctx, caller)
				switch {
				case err != nil:
					failures.add(err)
					time.Sleep(failurePause)
				case counting.Load():
					d := time.Since(began)
					took.record(d)
					if !caller.wrote {
						reads.record(d)
					}
				}
			}
		})
	}
	time.Sleep(warmUp)
	before := usageNow(c.Servers...)
	counting.Store(true)
	time.Sleep(c.Time)
	// In a short time no operation may end, and there is nothing to tell then.
	for end := time.Now().Add(opPatience); took.total() == 0 && failures.n.Load() == 0 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	counting.Store(false)
	after := usageNow(c.Servers...)
	stop.Store(true)
	wg.Wait()

	n := float64(took.total())
	elapsed := after.at.Sub(before.at).Seconds()
	o := outcome{Failed: int(failures.n.Load()), Error: failures.text()}
	o.Metrics = metrics{opsPerSec: n / elapsed}
	if c.Data.Size >= largeSize {
		o.Metrics[mbPerSec] = n / elapsed * float64(c.Data.Size) / 1e6
	}
	if c.Workload == "mix" && reads.total() > 0 {
		o.Metrics[readP50Micros] = micros(int64(reads.quantile(0.50)))
		o.Metrics[readP99Micros] = micros(int64(reads.quantile(0.99)))
	}
	if n > 0 {
		o.Metrics[p50Micros] = micros(int64(took.quantile(0.50)))
		o.Metrics[p99Micros] = micros(int64(took.quantile(0.99)))
		o.Metrics[cpuPer100k] = (after.cpu - before.cpu).Seconds() / n * 100_000
		o.Metrics[allocsPerOp] = float64(after.mallocs-before.mallocs) / n
	}
	return o
}

// fill sets all keys by way of m.
func (d data) fill(m member) error {
	keys := d.keys()
	b, _ := m.(batcher)
	if d.Size >= largeSize {
		b = nil // a batch would be too large
	}
	callers, atOnce := min(1024, fillBytes/d.Size), 1
	if b != nil {
		callers, atOnce = 8, 1024
	}
	var failures failures
	var next atomic.Int64
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 10*opPatience)
			defer cancel()
			c := newCaller(i, keys, d.Size)
			for failures.n.Load() == 0 {
				to := int(next.Add(int64(atOnce)))
				from := to - atOnce
				if from >= len(keys) {
					return
				}
				some := keys[from:min(to, len(keys))]
				if b != nil {
					failures.add(b.SetAll(ctx, some, c.allOf(some)))
				} else {
					failures.add(m.Set(ctx, some[0], c.of(some[0])))
				}
			}
		})
	}
	wg.Wait()
	return failures.err()
}

// failures counts errors and keeps the first one.
type failures struct {
	n     atomic.Int64
	first atomic.Pointer[error]
}

func (f *failures) add(err error) {
	if err != nil {
		f.first.CompareAndSwap(nil, &err)
		f.n.Add(1)
	}
}

func (f *failures) err() error {
	if first := f.first.Load(); first != nil {
		return *first
	}
	return nil
}

func (f *failures) text() string {
	if err := f.err(); err != nil {
		return err.Error()
	}
	return ""
}
