package main

import (
	"fmt"
	"time"
)

var (
	cellWorkloads = []string{"write", "read", "stale", "mix"}
	vias          = []string{"leader", "follower"}
	largeCallers  = []int{1, 16}
)

const largeName = "-512k" // at the end of a workload's name

func cellName(workload, via string, callers int) string {
	return fmt.Sprintf("%s/%s/%d", workload, via, callers)
}

// cells are the workloads by so many callers: all three members in one process,
// small values first, then what memory they take, then large values.
func (s *clusterSettings) cells() row {
	type named struct {
		name, via string
		cell
	}
	var small, large []named
	for _, workload := range cellWorkloads {
		for _, via := range vias {
			for _, callers := range s.callers {
				small = append(small, named{cellName(workload, via, callers), via, cell{
					Workload: workload, Callers: callers, Time: s.time,
					Data: data{Keys: s.keys, Size: valueSize},
				}})
			}
		}
	}
	for _, workload := range cellWorkloads[:2] {
		for _, callers := range largeCallers {
			large = append(large, named{cellName(workload+largeName, "leader", callers), "leader", cell{
				Workload: workload, Callers: callers, Time: s.time,
				Data: data{First: largeFirst, Keys: largeKeys, Size: largeSize},
			}})
		}
	}
	const idle, empty, after = "idle", "memory/empty", "memory/after"
	r := row{workloads: []string{idle, empty}}
	for _, c := range small {
		r.workloads = append(r.workloads, c.name)
	}
	r.workloads = append(r.workloads, after)
	for _, c := range large {
		r.workloads = append(r.workloads, c.name)
	}

	r.run = func(t *clusterTurn) error {
		p, err := t.together()
		if err != nil {
			return err
		}
		defer p.end()
		measure := func(cells []named) error {
			filled := false
			for _, c := range cells {
				if !t.wants(c.name) {
					continue
				}
				if !filled {
					if err := p.fill(c.Data); err != nil {
						return err
					}
					filled = true
				}
				if err := t.measureCell(p, c.name, c.via, c.cell); err != nil {
					return err
				}
			}
			return nil
		}
		if err := t.ask(p, idle, request{Op: "idle", Time: t.time}); err != nil {
			return err
		}
		if err := t.ask(p, empty, request{Op: "memory"}); err != nil {
			return err
		}
		if err := measure(small); err != nil {
			return err
		}
		if err := t.ask(p, after, request{Op: "memory"}); err != nil {
			return err
		}
		return measure(large)
	}
	return r
}

// fill sets the keys by way of the leader.
func (p *process) fill(d data) error {
	leader, err := p.via(true)
	if err == nil {
		_, err = p.call(request{Op: "fill", Via: leader, Data: &d})
	}
	return err
}

// ask records what a process answers, if a workload is to be measured.
func (t *clusterTurn) ask(p *process, workload string, r request) error {
	if !t.wants(workload) {
		return nil
	}
	a, err := p.call(r)
	if err != nil {
		return err
	}
	t.record(workload, a.Outcome)
	return nil
}

// measureCell measures a cell of members in one process.
func (t *clusterTurn) measureCell(p *process, name, via string, c cell) (err error) {
	if c.Via, err = p.via(via == vias[0]); err != nil {
		return err
	}
	a, err := p.call(request{Op: "cell", Cell: &c})
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	// The other two members allocate in the same process.
	delete(a.Outcome.Metrics, allocsPerOp)
	t.record(name, a.Outcome)
	if now, err := p.via(via == vias[0]); err == nil && now != c.Via {
		fmt.Fprintf(t.log, "%s of %v: another member leads now\n", name, t.system)
	}
	return nil
}

const allocsName = "allocs"

// allocs are the allocations of the member that writes are submitted to, which has
// a process of its own.
func (s *clusterSettings) allocs() row {
	const callers = 1024
	name := func(via string) string { return cellName(allocsName, via, callers) }
	r := row{workloads: []string{name(vias[0]), name(vias[1])}}
	r.run = func(t *clusterTurn) error {
		c, err := t.apart()
		if err != nil {
			return err
		}
		defer c.end()
		for i, via := range vias {
			if !t.wants(name(via)) {
				continue
			}
			leader, err := c.leader()
			if err != nil {
				return err
			}
			a, err := c.processes[(leader+i)%nmembers].call(request{Op: "cell", Cell: &cell{
				Workload: "write", Callers: callers, Time: t.time,
				Data: data{Keys: t.keys, Size: valueSize},
			}})
			if err != nil {
				return err
			}
			t.record(name(via), a.Outcome)
		}
		return nil
	}
	return r
}

const coresName = "stale-cores"

// cores are stale reads beside Maple.
func (s *clusterSettings) cores() row {
	return row{workloads: []string{coresName}, run: func(t *clusterTurn) error {
		if !t.system.fillsFast {
			t.record(coresName, outcome{})
			return nil
		}
		p, err := t.together()
		if err != nil {
			return err
		}
		defer p.end()
		d := data{Keys: 10 * t.keys, Size: valueSize}
		if err := p.fill(d); err != nil {
			return err
		}
		a, err := p.call(request{Op: "cores", Data: &d, Time: t.time})
		if err != nil {
			return err
		}
		t.record(coresName, a.Outcome)
		return nil
	}}
}

const (
	closedName = "leader-closed"
	killedName = "leader-killed"
)

// failover is how long no write is acknowledged by way of a member that stays,
// when the leader goes. Each member has a process of its own; the one that went
// comes back before the next trial, which counts as another round.
func (s *clusterSettings) failover() row {
	return row{workloads: []string{closedName, killedName}, rounds: 1, run: func(t *clusterTurn) error {
		c, err := t.apart()
		if err != nil {
			return err
		}
		defer c.end()
		for t.round = range t.trials {
			for _, workload := range []string{closedName, killedName} {
				if !t.wants(workload) {
					continue
				}
				if err := c.fail(workload, workload == killedName); err != nil {
					return fmt.Errorf("%s: %w", workload, err)
				}
			}
		}
		return nil
	}}
}

// calm is how long a cluster is left alone between what upsets it.
const calm = time.Second

// fail has the leader go and come back.
func (s *separate) fail(workload string, kill bool) error {
	time.Sleep(calm)
	leader, err := s.leader()
	if err != nil {
		return err
	}
	gone, stays := s.processes[leader], s.processes[(leader+1+s.t.round%2)%nmembers]
	if _, err := stays.call(request{Op: "probe"}); err != nil {
		return err
	}
	time.Sleep(calm / 5)
	if kill {
		gone.kill()
		gone.end()
	} else if err := gone.close(); err != nil {
		return err
	}
	a, err := stays.call(request{Op: "probed"})
	if err != nil {
		return err
	}
	s.t.record(workload, a.Outcome)
	if _, err := s.start(leader); err != nil {
		return err
	}
	return s.ready()
}

// restartName has the number of keys: with fewer, it is another workload.
func restartName(keys int) string { return fmt.Sprintf("restart/%d", keys) }

// The metrics of a restart.
const (
	readySecs   = "s until ready"
	keysPerFill = "filled keys/s"
)

// restart is the time from when a follower that was closed is opened until it
// answers a linearizable read.
func (s *clusterSettings) restart() row {
	return row{workloads: []string{restartName(s.restartKeys)}, rounds: 1, run: func(t *clusterTurn) error {
		if !t.system.fillsFast {
			t.record(restartName(t.restartKeys), outcome{})
			return nil
		}
		c, err := t.apart()
		if err != nil {
			return err
		}
		defer c.end()
		leader, err := c.leader()
		if err != nil {
			return err
		}
		filled, err := c.processes[leader].call(request{Op: "fill", Data: &data{Keys: t.restartKeys, Size: valueSize}})
		if err != nil {
			return err
		}
		for t.round = range t.clusterSettings.rounds {
			time.Sleep(calm)
			if err := c.ready(); err != nil { // all have caught up
				return err
			}
			if leader, err = c.leader(); err != nil {
				return err
			}
			follower := (leader + 1) % nmembers
			if err := c.processes[follower].close(); err != nil {
				return err
			}
			opened, err := c.start(follower)
			if err != nil {
				return err
			}
			memory, err := c.processes[follower].call(request{Op: "memory"})
			if err != nil {
				return err
			}
			m := memory.Outcome.Metrics
			m[readySecs] = opened.Seconds()
			if t.round == 0 {
				m[keysPerFill] = float64(t.restartKeys) / filled.Took.Seconds()
			}
			t.record(restartName(t.restartKeys), outcome{Metrics: m})
		}
		return nil
	}}
}
