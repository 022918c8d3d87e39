package main

import (
	"runtime"
	"syscall"
	"time"
)

// usage is what this process has used up.
type usage struct {
	at      time.Time
	cpu     time.Duration // that of other processes included, if asked for
	mallocs uint64
}

func usageNow(others ...int) usage {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		panic("bench: getrusage: " + err.Error())
	}
	cpu := time.Duration(r.Utime.Nano() + r.Stime.Nano())
	for _, pid := range others {
		cpu += cpuOf(pid)
	}
	return usage{time.Now(), cpu, m.Mallocs}
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// residentMetrics are the memory that this process takes, as it is and once all
// garbage is gone.
func residentMetrics() metrics {
	m := metrics{residentMiB: mib(resident())}
	m[heapMiB] = heap() / (1 << 20)
	settle()
	m[residentAtRestMiB] = mib(resident())
	return m
}

// idleMetrics are what this process uses up while nobody uses it.
func idleMetrics(d time.Duration) metrics {
	before := usageNow()
	time.Sleep(d)
	after := usageNow()
	return metrics{cpuAtRest: millis(after.cpu-before.cpu) / after.at.Sub(before.at).Seconds()}
}

// The metrics of a process.
const (
	cpuAtRest         = "CPU ms/s"
	residentMiB       = "RSS MiB"
	residentAtRestMiB = "RSS MiB without garbage"
	heapMiB           = "heap MiB in use"
)

func mib(bytes int) float64 { return float64(bytes) / (1 << 20) }
