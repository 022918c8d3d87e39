package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// short prints a number to three digits, without an exponent.
func short(v float64) string {
	switch {
	case v == float64(int(v)):
		return strconv.Itoa(int(v))
	case v >= 100 || v <= -100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case v >= 10 || v <= -10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 2, 64)
}

// table prints rows, the first of which is the header, as markdown whose
// columns are aligned.
func table(w io.Writer, rows [][]string) {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	line := func(row []string) {
		for i, cell := range row {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if i == 0 {
				fmt.Fprintf(w, "| %s%s ", cell, pad)
			} else {
				fmt.Fprintf(w, "| %s%s ", pad, cell)
			}
		}
		fmt.Fprintln(w, "|")
	}
	line(rows[0])
	for i, width := range widths {
		if i == 0 {
			fmt.Fprintf(w, "|%s", strings.Repeat("-", width+2))
		} else {
			fmt.Fprintf(w, "|%s:", strings.Repeat("-", width+1))
		}
	}
	fmt.Fprintln(w, "|")
	for _, row := range rows[1:] {
		line(row)
	}
	fmt.Fprintln(w)
}

// printOps prints the workloads that are one operation over and over.
func (r *results) printOps(w io.Writer) {
	rows := [][]string{append([]string{"ns per operation"}, r.peers...)}
	for _, workload := range r.workloads {
		row := []string{workload}
		found := false
		for _, p := range r.peers {
			cell := "–"
			if ns, ok := r.median(figure{workload, p, nsPerOp}); ok {
				found = true
				allocs, _ := r.median(figure{workload, p, allocsPerOp})
				cell = short(ns)
				if ratio, ok := r.toBase(workload, p); ok {
					cell += fmt.Sprintf(" %s×", short(ratio))
				}
				cell += fmt.Sprintf(" %.0fa", allocs)
			}
			row = append(row, cell)
		}
		if found {
			rows = append(rows, row)
		}
	}
	if len(rows) == 1 {
		return
	}
	fmt.Fprintf(w, "Elapsed time by operations of all workers; its ratio to %s; allocations.\n\n", r.base)
	table(w, rows)
}

// printOthers prints all figures of the workloads that have not been printed.
func (r *results) printOthers(w io.Writer, printed func(workload string) bool) {
	rows := [][]string{append([]string{"other figures"}, r.peers...)}
	for _, workload := range r.workloads {
		if printed(workload) {
			continue
		}
		for _, metric := range r.metricNames(workload) {
			row := []string{workload + " " + metric}
			for _, p := range r.peers {
				cell := "–"
				if v, ok := r.median(figure{workload, p, metric}); ok {
					cell = short(v)
				}
				row = append(row, cell)
			}
			rows = append(rows, row)
		}
	}
	if len(rows) > 1 {
		table(w, rows)
	}
}

// has tells whether any peer has a metric of a workload.
func (r *results) has(workload, metric string) bool {
	return slices.Contains(r.metricNames(workload), metric)
}

// printNoise tells how far rounds lay apart, so that a reader knows what a
// ratio is worth.
func (r *results) printNoise(w io.Writer) {
	var spreads []float64
	var widest [2]string // the workload and the peer
	for id, rounds := range r.rounds {
		f := r.compared(id[0], id[1])
		if _, ok := r.median(f); ok && len(rounds) > 1 {
			spreads = append(spreads, r.spread(f))
			if spreads[len(spreads)-1] == slices.Max(spreads) {
				widest = id
			}
		}
	}
	if m, ok := median(spreads); ok {
		fmt.Fprintf(w, "From a figure's fastest round to its slowest: %s× in the middle case, %s× in the worst, %s of %s.\n\n",
			short(m), short(spreads[len(spreads)-1]), widest[0], widest[1])
	}
}

func printBars(w io.Writer, verdicts []verdict) {
	rows := [][]string{{"bar", "figure", "bar", "stretch", "verdict"}}
	for _, v := range verdicts {
		rows = append(rows, v.row())
	}
	table(w, rows)
}

// document is what the JSON file holds.
type document struct {
	Machine  machine                       `json:"machine"`
	Settings map[string]any                `json:"settings"`
	Peers    map[string]string             `json:"peers"`
	Harness  float64                       `json:"harness_ns_per_op,omitempty"`
	Medians  map[string]map[string]metrics `json:"medians"` // by workload and peer
	Ratios   map[string]map[string]float64 `json:"ratios"`  // of what the peers are compared by, to the base
	Bars     []verdict                     `json:"bars,omitempty"`
	Failed   int                           `json:"failed_operations,omitempty"`
	Samples  []sample                      `json:"samples"`
}

// fill adds what r has to the document, which may have other results of the same
// samples.
func (d *document) fill(r *results) {
	d.Samples = r.samples
	if d.Medians == nil {
		d.Medians = make(map[string]map[string]metrics)
		d.Ratios = make(map[string]map[string]float64)
	}
	for _, workload := range r.workloads {
		d.Medians[workload] = make(map[string]metrics)
		ratios := make(map[string]float64)
		for _, p := range r.peers {
			m := make(metrics)
			for _, metric := range r.metricNames(workload) {
				if v, ok := r.median(figure{workload, p, metric}); ok {
					m[metric] = v
				}
			}
			if len(m) > 0 {
				d.Medians[workload][p] = m
			}
			if v, ok := r.toBase(workload, p); ok {
				ratios[p] = v
			}
		}
		if len(ratios) > 0 {
			d.Ratios[workload] = ratios
		}
	}
}

func (d *document) write(path string) error {
	b, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}
