package main

import (
	"fmt"
	"time"
)

// lockSizes are how many there are of all in the workloads of the subcommand locks.
type lockSizes struct {
	callers  int // of as many locks, and of writes
	waiters  int // for one lock
	watchers int // beside writes
	resting  int // watchers that have nothing to do
	rest     time.Duration
}

var (
	lockSizesOfRun   = lockSizes{callers: 128, waiters: 64, watchers: 1000, resting: 10_000, rest: time.Second}
	lockSizesOfShort = lockSizes{callers: 8, waiters: 4, watchers: 20, resting: 100, rest: 100 * time.Millisecond}
)

// txnSets are the writes that are made as one transaction, or at once.
const txnSets = 10

// What the cells of these rows are called; beside them there is the cell "lock".
const (
	handoverWorkload = "handover"
	txnWorkload      = "txn"
	watchWorkload    = "watch"
	watchedWorkload  = "write-watched"
	watchersWorkload = "watchers"
)

func lockName(callers int) string     { return cellName("lock", vias[0], callers) }
func handoverName(waiters int) string { return cellName(handoverWorkload, vias[0], waiters) }
func watchedName(watchers int) string { return cellName(watchedWorkload, vias[0], watchers) }
func watchersName(n int) string       { return fmt.Sprintf("%s/%d", watchersWorkload, n) }

var (
	txnName   = cellName(txnWorkload, vias[0], txnSets)
	watchName = cellName(watchWorkload, vias[0], 1)
)

// lockRow is all of it: the members of a system in one process, used by way of the
// one that leads. Where a figure is compared with another one of the same system,
// the two take turns within the cell.
func (s *clusterSettings) lockRow() row {
	small := data{Keys: s.keys, Size: valueSize}
	names := []string{
		// First, while the process has never had more goroutines than it needs.
		watchersName(s.locks.resting),
		lockName(1), lockName(s.locks.callers), handoverName(s.locks.waiters),
		txnName, watchName, watchedName(s.locks.watchers),
	}
	cells := []cell{
		{Workload: watchersWorkload, Watchers: s.locks.resting, Time: s.locks.rest},
		{Workload: "lock", Callers: 1, Data: data{Keys: 1, Size: keySize}, Time: s.time},
		{Workload: "lock", Callers: s.locks.callers, Data: data{Keys: s.locks.callers, Size: keySize}, Time: s.time},
		{Workload: handoverWorkload, Callers: s.locks.waiters, Data: small, Time: s.time},
		{Workload: txnWorkload, Callers: 1, Data: small, Time: s.time},
		{Workload: watchWorkload, Callers: 1, Data: small, Time: s.time},
		{Workload: watchedWorkload, Callers: s.locks.callers, Watchers: s.locks.watchers, Data: small, Time: s.time},
	}
	return row{workloads: names, run: func(t *clusterTurn) error {
		p, err := t.together()
		if err != nil {
			return err
		}
		defer p.end()
		filled := false
		for i, c := range cells {
			if !t.wants(names[i]) {
				continue
			}
			if c.Data.Keys == t.keys && !filled {
				if err := p.fill(c.Data); err != nil {
					return err
				}
				filled = true
			}
			if err := t.measureCell(p, names[i], vias[0], c); err != nil {
				return err
			}
		}
		return nil
	}}
}
