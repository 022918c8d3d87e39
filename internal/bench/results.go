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
	metric    string                        // what the peers are compared by
	base      string                        // the peer that the others are compared with
	rounds    map[[2]string]map[int]metrics // by workload and peer, by round
}

// newResults sorts the samples of peers: their workloads come in the order of
// workloads.
func newResults(samples []sample, workloads, peers []string, metric, base string) *results {
	r := &results{
		samples: samples, peers: peers, metric: metric, base: base,
		rounds: make(map[[2]string]map[int]metrics),
	}
	for _, s := range samples {
		id := [2]string{s.Workload, s.Peer}
		if r.rounds[id] == nil {
			r.rounds[id] = make(map[int]metrics)
		}
		r.rounds[id][s.Round] = s.Metrics
	}
	for _, w := range workloads {
		if slices.ContainsFunc(samples, func(s sample) bool { return s.Workload == w }) {
			r.workloads = append(r.workloads, w)
		}
	}
	return r
}

// mapleResults are those of the engine beside its peers.
func mapleResults(samples []sample, groups []group, peers []*peer) *results {
	var workloads, names []string
	for _, g := range groups {
		workloads = append(workloads, g.workloads...)
	}
	for _, p := range peers {
		names = append(names, p.name)
	}
	return newResults(samples, workloads, names, nsPerOp, baseline)
}

// compared is the figure that a peer is compared by in a workload.
func (r *results) compared(workload, peer string) figure { return figure{workload, peer, r.metric} }

// toBase is the ratio of a peer to the base in a workload.
func (r *results) toBase(workload, peer string) (float64, bool) {
	return r.ratio(r.compared(workload, peer), r.compared(workload, r.base))
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
