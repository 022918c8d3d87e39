package main

import "fmt"

// bar is what Maple has to reach, and what it had better reach.
type bar struct {
	name         string
	unit         string
	least        bool // the figure has to be no less; otherwise no more
	bar, stretch float64
	of           func(*results) (float64, bool)
}

// mapleBars are ratios within the run wherever one can be formed, so that they
// hold on any machine.
var mapleBars = []bar{
	{"Get, value shared / bare Load and the entry's value", "×", false, 1.20, 1.05, against("get/128/uniform", "get/128/uniform")},
	{"Get, value shared / bare Load, entry unread", "×", false, 1.20, 1.05, against("get/128/uniform", "bareload/128/uniform")},
	{"Get, value shared: allocations", "", false, 0, 0, allocs("get/128/uniform")},
	{"Get, own copy / bare Load and a copy", "×", false, 1.20, 1.05, against("getcopy/128/uniform", "getcopy/128/uniform")},
	{"Get, own copy: allocations", "", false, 1, 1, allocs("getcopy/128/uniform")},
	{"Set, overwrite / bare Store", "×", false, 1.1, 0.8, against("set/128/uniform", "set/128/uniform")},
	{"Set, overwrite: allocations", "", false, 2, 2, allocs("set/128/uniform")},
	{"SetE / Set", "×", false, 1.4, 1.15, within("sete/128/uniform", "set/128/uniform")},
	{"Set, new keys in random order / bare Store", "×", false, 2.5, 1.6, against("setnew/128", "setnew/128")},
	{"memory per key of 17 B with a value of 16 B", "B", false, 160, 120, plain("memory/16", bytesPerKey)},
	{"memory per key of 17 B with a value of 16 B and deadlines", "B", false, 200, 160, plain(timedMemoryName, bytesPerKey)},
	{"Size of Info / what the heap has grown by: off by", "%", false, 5, 2, plain("memory/16", "Size off %")},
	{"Save, entries of 128 B", "M/s", true, 2.5, 5, plain("save/128", entriesPerSec)},
	{"Load, entries of 128 B", "M/s", true, 1.8, 3, plain("load/128", entriesPerSec)},
	{"p99.9 of Set beside Save / beside other work", "×", false, 3, 1.5, plain("tail-save/128", "p99.9 × busy")},
	{"p99.9 of Set beside Scan / beside other work", "×", false, 3, 1.5, plain("tail-scan/128", "p99.9 × busy")},
	{"all keys expire at once: longest Set", "ms", false, 5, 1, plain(stallName, "max ms")},
	{"opening a view, p99", "µs", false, 50, 5, plain("view/128", "p99 µs alone")},
	{"opening a view beside Set, p99", "µs", false, 50, 5, plain("view/128", "p99 µs beside Set")},
}

// against compares a workload of Maple with one of the baseline.
func against(workload, base string) func(*results) (float64, bool) {
	return func(r *results) (float64, bool) {
		return r.ratio(figure{workload, subject, nsPerOp}, figure{base, baseline, nsPerOp})
	}
}

// within compares two workloads of Maple.
func within(workload, base string) func(*results) (float64, bool) {
	return func(r *results) (float64, bool) {
		return r.ratio(figure{workload, subject, nsPerOp}, figure{base, subject, nsPerOp})
	}
}

func plain(workload, metric string) func(*results) (float64, bool) {
	return func(r *results) (float64, bool) {
		return r.median(figure{workload, subject, metric})
	}
}

// allocs are the allocations of one operation. A hundredth of one is what the
// harness and the runtime do meanwhile.
func allocs(workload string) func(*results) (float64, bool) {
	return func(r *results) (float64, bool) {
		v, ok := r.median(figure{workload, subject, allocsPerOp})
		const noise = 0.01
		if whole := float64(int(v)); v-whole < noise {
			v = whole
		}
		return v, ok
	}
}

// verdict is how a run met a bar.
type verdict struct {
	Name    string  `json:"name"`
	Unit    string  `json:"unit"`
	Least   bool    `json:"least"` // the bar is the least that will do, not the most
	Figure  float64 `json:"figure"`
	Bar     float64 `json:"bar"`
	Stretch float64 `json:"stretch"`
	Verdict string  `json:"verdict"` // miss, pass, stretch, or not measured
}

func judge(bars []bar, r *results) (verdicts []verdict) {
	for _, b := range bars {
		v, ok := b.of(r)
		verdicts = append(verdicts, verdict{b.name, b.unit, b.least, v, b.bar, b.stretch, b.verdict(v, ok)})
	}
	return verdicts
}

func (b bar) verdict(v float64, measured bool) string {
	reaches := func(limit float64) bool {
		if b.least {
			return v >= limit
		}
		return v <= limit
	}
	switch {
	case !measured:
		return "not measured"
	case reaches(b.stretch):
		return "stretch"
	case reaches(b.bar):
		return "pass"
	}
	return "miss"
}

func (v verdict) row() []string {
	sign := "≤"
	if v.Least {
		sign = "≥"
	}
	measured := "–"
	if v.Verdict != "not measured" {
		measured = short(v.Figure) + v.space()
	}
	return []string{
		v.Name,
		measured,
		fmt.Sprintf("%s %s%s", sign, short(v.Bar), v.space()),
		fmt.Sprintf("%s %s%s", sign, short(v.Stretch), v.space()),
		v.Verdict,
	}
}

func (v verdict) space() string {
	if v.Unit == "" || v.Unit == "×" {
		return v.Unit
	}
	return " " + v.Unit
}
