package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

// printCells prints the workloads of callers: a table for each of what is looked
// at, since a cell with all of it is too wide to read.
func (r *results) printCells(w io.Writer) {
	rate := func(workload, peer string) string {
		v, ok := r.median(figure{workload, peer, opsPerSec})
		if !ok {
			return "–"
		}
		cell := thousands(v)
		if ratio, ok := r.toBase(workload, peer); ok {
			cell += fmt.Sprintf(" %s×", short(ratio))
		}
		return cell
	}
	of := func(names ...string) func(workload, peer string) string {
		return func(workload, peer string) string {
			var cells []string
			for _, name := range names {
				v, ok := r.median(figure{workload, peer, name})
				if !ok {
					return "–"
				}
				cells = append(cells, short(v))
			}
			return strings.Join(cells, " / ")
		}
	}
	for _, t := range []struct {
		head, about string
		cell        func(workload, peer string) string
	}{
		{"operations per second", "Operations that succeeded, and their ratio to those of " + r.base + ".", rate},
		{"µs", "Half of all operations took no longer / 99 of 100.", of(p50Micros, p99Micros)},
		{"µs of reads", "The same of the reads alone.", of(readP50Micros, readP99Micros)},
		{"GB/s", "Of values.", of(gbPerSec)},
		{"CPU s", "Processor seconds per 100,000 operations, callers included.", of(cpuPer100k)},
	} {
		rows := [][]string{append([]string{t.head}, r.peers...)}
		for _, workload := range r.workloads {
			if !r.isCell(workload) {
				continue
			}
			row := []string{workload}
			for _, p := range r.peers {
				row = append(row, t.cell(workload, p))
			}
			if slices.ContainsFunc(row[1:], func(cell string) bool { return cell != "–" }) {
				rows = append(rows, row)
			}
		}
		if len(rows) > 1 {
			fmt.Fprintf(w, "%s\n\n", t.about)
			table(w, rows)
		}
	}
}

// isCell tells whether printCells prints a workload.
func (r *results) isCell(workload string) bool {
	return r.has(workload, cpuPer100k) && !strings.HasPrefix(workload, allocsName)
}

// thousands prints a rate.
func thousands(v float64) string {
	if v < 10_000 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.1fk", v/1000)
}

// syncTime is how long it takes to append 4 KiB to a file in dir and to have them
// on the disk, at the median: what a lone write cannot do without.
func syncTime(dir string) (time.Duration, error) {
	f, err := os.CreateTemp(dir, "dkv-bench-sync-")
	if err != nil {
		return 0, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	var took durations
	for range 200 {
		began := time.Now()
		if _, err := f.Write(make([]byte, 4<<10)); err != nil {
			return 0, err
		}
		if err := f.Sync(); err != nil {
			return 0, err
		}
		took.record(time.Since(began))
	}
	return took.quantile(0.5), nil
}
