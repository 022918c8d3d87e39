package main

import (
	"bytes"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

const entriesPerSec = "M entries/s"

func perSecond(n int, elapsed time.Duration) metrics {
	return metrics{entriesPerSec: float64(n) / elapsed.Seconds() / 1e6}
}

// scan reads all entries in one goroutine.
func (t *turn) scan(e engine, name string) error {
	s, ok := e.(scanner)
	if !ok || !t.wants(name) {
		return nil
	}
	n, total := 0, 0
	began := time.Now()
	s.Scan(func(key string, value []byte) bool {
		n++
		total += len(key) + len(value)
		return true
	})
	elapsed := time.Since(began)
	if n != t.keys.len() {
		return fmt.Errorf("%s: %d keys of %d", name, n, t.keys.len())
	}
	m := perSecond(n, elapsed)
	m["MB/s"] = float64(total) / elapsed.Seconds() / 1e6
	return t.record(name, m, nil)
}

// blob is saved bytes outside of the heap, all of its pages there beforehand,
// so that what is measured is the engine and not the memory's growth.
type blob struct{ b []byte }

func (b *blob) Write(p []byte) (int, error) {
	if len(p) > cap(b.b)-len(b.b) {
		return 0, io.ErrShortWrite
	}
	b.b = append(b.b, p...)
	return len(p), nil
}

func (b *blob) free() {
	if b != nil {
		freeOffHeap(b.b)
	}
}

// counter counts what is written to it.
type counter struct{ n int }

func (c *counter) Write(p []byte) (int, error) {
	c.n += len(p)
	return len(p), nil
}

// save measures Save and returns what was saved, nil if it will not be loaded.
// The first Save, unmeasured, tells the size.
func (t *turn) save(e engine, name string, keep bool) (*blob, error) {
	s, ok := e.(saver)
	if !ok || !t.wants(name) && !keep {
		return nil, nil
	}
	var size counter
	if err := s.Save(&size); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	settle()
	// Where there is no room for what is saved and an engine to load it, Save is
	// measured alone.
	var w io.Writer = new(counter)
	var saved *blob
	if free := memory("MemAvailable"); free == 0 || 3*size.n < free {
		saved = &blob{offHeap(size.n + size.n/8 + 1<<20)[:0]}
		w = saved
	}
	began := time.Now()
	err := s.Save(w)
	elapsed := time.Since(began)
	if err != nil {
		saved.free()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if t.wants(name) {
		m := perSecond(t.keys.len(), elapsed)
		m["saved B/key"] = float64(size.n) / float64(t.keys.len())
		if err := t.record(name, m, nil); err != nil {
			return nil, err
		}
	}
	if !keep {
		saved.free()
		return nil, nil
	}
	return saved, nil
}

// load measures Load into an empty engine, twice: into memory that the system has
// yet to give, page by page, which takes as long as the system takes, and then
// into memory that the engine before has left, which tells of the engine.
func (t *turn) load(saved *blob, name string, values values) error {
	if saved == nil {
		return nil
	}
	m := metrics{}
	for _, metric := range []string{entriesPerSec + " fresh", entriesPerSec} {
		elapsed, err := t.loadOnce(saved, values)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		m[metric] = perSecond(t.keys.len(), elapsed)[entriesPerSec]
		runtime.GC()
	}
	return t.record(name, m, nil)
}

func (t *turn) loadOnce(saved *blob, values values) (time.Duration, error) {
	e, err := t.peer.open(config{keys: t.keys.len()})
	if err != nil {
		return 0, err
	}
	defer e.Close()
	began := time.Now()
	err = e.(saver).Load(bytes.NewReader(saved.b))
	elapsed := time.Since(began)
	if err != nil {
		return 0, err
	}
	for i := 0; i < t.keys.len(); i += 1 + t.keys.len()/1000 {
		if got, ok := e.GetCopy(t.keys.key(i)); !ok || !values.has(got) {
			return 0, errMissed
		}
	}
	return elapsed, nil
}

// view measures how long it takes to open a view of all keys, alone and beside
// a writer. Giving it up is not measured.
func (t *turn) view(e engine, name string, values values) error {
	v, ok := e.(viewer)
	if !ok || !t.wants(name) {
		return nil
	}
	const views = 500
	m := metrics{}
	open := func(name string) {
		h := newHistogram()
		for range views {
			began := time.Now()
			release := v.View()
			record(h, time.Since(began))
			release()
			time.Sleep(t.time / views / 2)
		}
		m["p50 µs "+name] = micros(h.ValueAtQuantile(50))
		m["p99 µs "+name] = micros(h.ValueAtQuantile(99))
	}
	open("alone")

	var stop atomic.Bool
	var writer sync.WaitGroup
	writer.Go(func() {
		s := t.keys.streams["uniform"][0]
		for i := 0; !stop.Load(); i++ {
			e.Set(s.key(i%s.len()), values.at(i))
		}
	})
	open("beside Set")
	stop.Store(true)
	writer.Wait()
	return t.record(name, m, nil)
}
