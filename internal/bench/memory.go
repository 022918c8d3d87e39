package main

import (
	"errors"
	"runtime"
	"time"
)

const timedMemoryName = "memory-sete/16"

// timedMemory is what a great number of keys with deadlines takes, and what is
// left of that when all have expired.
var timedMemory = group{
	workloads: []string{timedMemoryName},
	rounds:    1, // it takes long, and is the same each time
	keys:      runKeys,
	run: func(t *turn) error {
		n := t.timedKeys
		empty := heap()
		e, err := t.open(true)
		if err != nil {
			return err
		}
		defer e.Close()
		r, ok := e.(reaper)
		if !ok {
			return nil
		}
		values := newValues(16)
		set := func(lifetime func(i int) time.Duration) error {
			_, err := once(n, func(i int) string { return scattered(i, n) }, func(key string, i int) bool {
				d := lifetime(i)
				r.SetE(key, values.at(i), d, d)
				return true
			})
			return err
		}
		if err := set(lifetime); err != nil {
			return err
		}
		m := metrics{bytesPerKey: (heap() - empty) / float64(n)}

		if err := set(func(i int) time.Duration { return time.Duration(1+i%2000) * time.Millisecond }); err != nil {
			return err
		}
		const patience = 5 * time.Minute
		for began := time.Now(); r.Len() > 0; time.Sleep(10 * time.Millisecond) {
			if time.Since(began) > patience {
				return errors.New("the keys did not expire")
			}
		}
		m["B/key when all have expired"] = (heap() - empty) / float64(n)
		runtime.KeepAlive(e)
		return t.record(timedMemoryName, m, nil)
	},
}

// scattered is key i of n in an order that has little to do with their numbers.
func scattered(i, n int) string {
	const prime = 1_000_000_007
	var b [keySize]byte
	return string(appendKey(b[:0], i*prime%n))
}
