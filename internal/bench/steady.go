package main

import (
	"fmt"
	"math"
	"time"
)

// step is one workload on an engine that is full: the same operation over and
// over, which leaves the engine as full as it was. op is nil for a peer that
// cannot do it.
type step struct {
	name string
	op   func(e engine, values values) operation
}

// steps are the workloads without deadlines.
var steps = []step{
	{"bareload", func(e engine, _ values) operation {
		l, ok := e.(loader)
		if !ok {
			return nil
		}
		return func(key string, _ int) bool { return l.Load(key) }
	}},
	{"get", func(e engine, values values) operation {
		return func(key string, _ int) bool {
			v, ok := e.Get(key)
			return ok && len(v) == values.size
		}
	}},
	{"getcopy", func(e engine, values values) operation {
		return func(key string, _ int) bool {
			v, ok := e.GetCopy(key)
			return ok && len(v) == values.size
		}
	}},
	{"has", func(e engine, _ values) operation {
		return func(key string, _ int) bool { return e.Has(key) }
	}},
	{"set", func(e engine, values values) operation {
		return func(key string, i int) bool {
			e.Set(key, values.at(i))
			return true
		}
	}},
	{"mix", func(e engine, values values) operation {
		return func(key string, i int) bool {
			if i%10 == 0 {
				e.Set(key, values.at(i))
				return true
			}
			v, ok := e.Get(key)
			return ok && len(v) == values.size
		}
	}},
}

// expiringSteps are those with deadlines, none of which comes.
var expiringSteps = []step{
	{"sete", func(e engine, values values) operation {
		x, ok := e.(expirer)
		if !ok {
			return nil
		}
		return func(key string, i int) bool {
			expireIn := lifetime(i)
			x.SetE(key, values.at(i), expireIn, 2*expireIn)
			return true
		}
	}},
	{"seteifunset-held", func(e engine, values values) operation {
		x, ok := e.(expirer)
		if !ok {
			return nil
		}
		return func(key string, i int) bool {
			expireIn := lifetime(i)
			return !x.SetEIfUnset(key, values.at(i), expireIn, 2*expireIn)
		}
	}},
}

// lifetime is a duration from one hour to two: as spread as those that many
// clients ask for, and too long to end in a run.
func lifetime(i int) time.Duration {
	return time.Hour + time.Duration(uint64(i)*0x9e3779b97f4a7c15%uint64(time.Hour))
}

// names returns the workloads that steps make for values of one size.
func names(steps []step, size int) (names []string) {
	for _, s := range steps {
		for _, d := range distributions {
			names = append(names, fmt.Sprintf("%s/%d/%s", s.name, size, d))
		}
	}
	return names
}

func (t *turn) steps(e engine, steps []step, values values) error {
	for _, s := range steps {
		op := s.op(e, values)
		if op == nil {
			continue
		}
		for _, d := range distributions {
			name := fmt.Sprintf("%s/%d/%s", s.name, values.size, d)
			if !t.wants(name) {
				continue
			}
			m, err := timed(t.time, t.keys.streams[d], op)
			if err := t.record(name, m, err); err != nil {
				return err
			}
		}
	}
	return nil
}

func runKeys(s *settings) *keyset { return s.keyset(0, s.nkeys) }

// steady is the life of an engine without deadlines: it is filled, read,
// overwritten, scanned, saved, emptied and loaded.
func steady(size int) group {
	named := func(workload string) string { return fmt.Sprintf("%s/%d", workload, size) }
	workloads := []string{named("setnew"), named("memory")}
	workloads = append(workloads, names(steps, size)...)
	workloads = append(workloads, named("scan"), named("view"), named("save"), named("load"), named("delete"))
	return group{workloads: workloads, keys: runKeys, run: func(t *turn) error {
		values := newValues(size)
		e, err := t.fresh(named("setnew"), named("memory"), values)
		if err != nil {
			return err
		}
		// Closed here or, to make room, before what was saved is loaded.
		closed := false
		shut := func() {
			if !closed {
				closed = true
				e.Close()
			}
		}
		defer shut()
		if err := t.steps(e, steps, values); err != nil {
			return err
		}
		if err := t.scan(e, named("scan")); err != nil {
			return err
		}
		if err := t.view(e, named("view"), values); err != nil {
			return err
		}
		saved, err := t.save(e, named("save"), t.wants(named("load")))
		if err != nil {
			return err
		}
		defer saved.free()
		if err := t.empty(e, named("delete")); err != nil {
			return err
		}
		shut()
		e = nil
		settle()
		return t.load(saved, named("load"), values)
	}}
}

// fresh opens an engine and fills it with new keys in random order.
func (t *turn) fresh(setnew, memory string, values values) (engine, error) {
	empty := heap()
	e, err := t.open(false)
	if err != nil {
		return nil, err
	}
	if !t.wants(setnew) && !t.wants(memory) {
		return e, t.fill(e, values)
	}
	keys := t.keys.keys()
	m, err := once(len(keys), func(i int) string { return keys[i] }, func(key string, i int) bool {
		e.Set(key, values.at(i))
		return true
	})
	if t.wants(setnew) {
		if err := t.record(setnew, m, err); err != nil {
			return nil, err
		}
	}
	if t.wants(memory) {
		n := float64(len(keys))
		clear(keys) // what the engine does not keep is no part of it
		taken := heap() - empty
		m := metrics{bytesPerKey: taken / n}
		if s, ok := e.(sizer); ok {
			m["Size off %"] = 100 * math.Abs(float64(s.Size())/taken-1)
		}
		if err := t.record(memory, m, nil); err != nil {
			return nil, err
		}
	}
	return e, nil
}

// empty deletes all keys in random order.
func (t *turn) empty(e engine, name string) error {
	if !t.wants(name) {
		return nil
	}
	order := t.keys.deletes
	m, err := once(order.len(), order.key, func(key string, _ int) bool {
		e.Delete(key)
		return true
	})
	if err == nil && e.Has(order.key(0)) {
		err = errMissed
	}
	return t.record(name, m, err)
}

// expiring is the life of an engine whose keys have deadlines.
func expiring(size int) group {
	setnew := fmt.Sprintf("seteifunset-new/%d", size)
	return group{
		workloads: append([]string{setnew}, names(expiringSteps, size)...),
		keys:      runKeys,
		run: func(t *turn) error {
			values := newValues(size)
			e, err := t.open(true)
			if err != nil {
				return err
			}
			defer e.Close()
			x, ok := e.(expirer)
			if !ok {
				return nil
			}
			keys := t.keys.keys()
			m, err := once(len(keys), func(i int) string { return keys[i] }, func(key string, i int) bool {
				expireIn := lifetime(i)
				return x.SetEIfUnset(key, values.at(i), expireIn, 2*expireIn)
			})
			if err != nil {
				return fmt.Errorf("%s: %w", setnew, err)
			}
			if t.wants(setnew) {
				if err := t.record(setnew, m, nil); err != nil {
					return err
				}
			}
			return t.steps(e, expiringSteps, values)
		},
	}
}
