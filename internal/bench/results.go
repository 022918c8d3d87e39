package main

import (
	"math"
	"slices"
)

// results are the samples of a run, found by what they are of.
type results struct {
	samples   []sample
	workloads []string // in the order in which they run
	peers     []string
	rounds    map[[2]string]map[int]metrics // by workload and peer, by round
}

func newResults(samples []sample, groups []group, peers []*peer) *results {
	r := &results{samples: samples, rounds: make(map[[2]string]map[int]metrics)}
	for _, p := range peers {
		r.peers = append(r.peers, p.name)
	}
	for _, s := range samples {
		id := [2]string{s.Workload, s.Peer}
		if r.rounds[id] == nil {
			r.rounds[id] = make(map[int]metrics)
		}
		r.rounds[id][s.Round] = s.Metrics
	}
	for _, g := range groups {
		for _, w := range g.workloads {
			if slices.ContainsFunc(samples, func(s sample) bool { return s.Workload == w }) {
				r.workloads = append(r.workloads, w)
			}
		}
	}
	return r
}

// figure is one number that can be asked for.
type figure struct{ workload, peer, metric string }

// median of all rounds; ok is false if it was not measured.
func (r *results) median(f figure) (float64, bool) {
	var values []float64
	for _, m := range r.rounds[[2]string{f.workload, f.peer}] {
		if v, ok := m[f.metric]; ok {
			values = append(values, v)
		}
	}
	return median(values)
}

// ratio is the median of a/b of each round: what changes from round to round on
// a machine that others use as well is the same for both.
func (r *results) ratio(a, b figure) (float64, bool) {
	var values []float64
	of := r.rounds[[2]string{b.workload, b.peer}]
	for round, m := range r.rounds[[2]string{a.workload, a.peer}] {
		v, ok := m[a.metric]
		base, there := of[round][b.metric]
		if ok && there && base != 0 {
			values = append(values, v/base)
		}
	}
	return median(values)
}

// spread is the greatest of all rounds by the least.
func (r *results) spread(f figure) float64 {
	least, greatest := math.Inf(1), 0.0
	for _, m := range r.rounds[[2]string{f.workload, f.peer}] {
		least, greatest = min(least, m[f.metric]), max(greatest, m[f.metric])
	}
	return greatest / least
}

// metricNames are those that any peer has for a workload, sorted.
func (r *results) metricNames(workload string) []string {
	var names []string
	for _, p := range r.peers {
		for _, m := range r.rounds[[2]string{workload, p}] {
			for name := range m {
				if !slices.Contains(names, name) {
					names = append(names, name)
				}
			}
		}
	}
	slices.Sort(names)
	return names
}

func median(values []float64) (float64, bool) {
	if len(values) == 0 {
		return 0, false
	}
	slices.Sort(values)
	if n := len(values); n%2 == 0 {
		return (values[n/2-1] + values[n/2]) / 2, true
	}
	return values[len(values)/2], true
}
