package main

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"math"
	"strings"
	"text/tabwriter"
	"time"
)

// percents are the percentiles that are told of each test.
var percents = []float64{50, 90, 99, 99.9}

func percentName(p float64) string { return fmt.Sprintf("p%g", p) }

// MarshalJSON has latencies in microseconds.
func (r perfResult) MarshalJSON() ([]byte, error) {
	f := tell("test", r.test, "valueSize", r.valueSize, "ops", r.ops, "failed", r.failed,
		"seconds", r.took.Seconds(), "opsPerSecond", math.Round(r.perSecond()))
	for _, p := range percents {
		f = append(f, tell(percentName(p)+"Micros", micros(r.quantile(p)))...)
	}
	return append(f, tell("maxMicros", micros(r.most()))...).MarshalJSON()
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }

func (r perfResult) most() time.Duration { return time.Duration(r.latencies.Max()) }

func (p *perf) csv(results []perfResult) []byte {
	var b bytes.Buffer
	w := csv.NewWriter(&b)
	head := []string{"test", "threads", "keys", "value_bytes", "ops", "failed", "seconds", "ops_per_second"}
	for _, percent := range percents {
		head = append(head, percentName(percent)+"_us")
	}
	w.Write(append(head, "max_us"))
	for _, r := range results {
		row := []string{
			r.test, fmt.Sprint(p.threads), fmt.Sprint(p.keys), fmt.Sprint(r.valueSize), fmt.Sprint(r.ops),
			fmt.Sprint(r.failed), fmt.Sprintf("%.3f", r.took.Seconds()), fmt.Sprintf("%.0f", r.perSecond()),
		}
		for _, percent := range percents {
			row = append(row, fmt.Sprintf("%.1f", micros(r.quantile(percent))))
		}
		w.Write(append(row, fmt.Sprintf("%.1f", micros(r.most()))))
	}
	w.Flush()
	return b.Bytes()
}

func perfTable(results []perfResult) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "test\tops/s\tops\tfailed\t")
	for _, p := range percents {
		fmt.Fprint(w, percentName(p), "\t")
	}
	fmt.Fprintln(w, "max\t")
	for _, r := range results {
		fmt.Fprintf(w, "%s\t%.0f\t%d\t%d\t", r.test, r.perSecond(), r.ops, r.failed)
		for _, p := range percents {
			fmt.Fprint(w, threeDigits(r.quantile(p)), "\t")
		}
		fmt.Fprintln(w, threeDigits(r.most()), "\t")
	}
	w.Flush()
	return b.String()
}

// threeDigits keeps about three digits.
func threeDigits(t time.Duration) time.Duration {
	unit := time.Nanosecond
	for t/unit >= 1000 {
		unit *= 10
	}
	return t.Round(unit)
}

// decades are the powers of ten, of time, between which all latencies lie.
func decades(results []perfResult) (least, most int) {
	low, high := math.Inf(1), 1.0
	for _, r := range results {
		if r.ops > 0 {
			low = min(low, float64(max(1, r.latencies.Min())))
			high = max(high, float64(r.latencies.Max()))
		}
	}
	least = int(math.Floor(math.Log10(min(low, high))))
	return least, max(least+1, int(math.Ceil(math.Log10(high))))
}

const graphWidth = 60

// perfGraph shows the latencies of each test on a line of a logarithmic scale.
func perfGraph(results []perfResult) string {
	if len(results) == 0 {
		return ""
	}
	least, most := decades(results)
	place := func(d time.Duration) int {
		at := (math.Log10(float64(max(1, d))) - float64(least)) / float64(most-least)
		return min(graphWidth, max(0, int(at*graphWidth)))
	}
	shades := []string{"█", "▓", "▒", "░"} // of what lies below each percentile
	var b strings.Builder
	for _, r := range results {
		fmt.Fprintf(&b, "%-10s ", r.test)
		at := 0
		for i, p := range percents {
			end := place(r.quantile(p))
			if r.ops == 0 {
				end = 0
			}
			b.WriteString(strings.Repeat(shades[i], max(0, end-at)))
			at = max(at, end)
		}
		b.WriteByte('\n')
	}
	axis := []rune(strings.Repeat(" ", graphWidth+12))
	for e := least; e <= most; e++ {
		at := (e - least) * graphWidth / (most - least)
		copy(axis[at:], []rune("└"+decade(e).String()))
	}
	fmt.Fprintf(&b, "%-10s %s\n", "", strings.TrimRight(string(axis), " "))
	fmt.Fprintf(&b, "%-10s █ p50  ▓ p90  ▒ p99  ░ p99.9\n", "")
	return b.String()
}

// decade is a power of ten nanoseconds.
func decade(e int) time.Duration { return time.Duration(math.Pow10(e)) }
