package main

import (
	"runtime"
	"syscall"
	"time"
)

// usage is what this process has used up.
type usage struct {
	at      time.Time
	cpu     time.Duration
	mallocs uint64
}

func usageNow() usage {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		panic("bench: getrusage: " + err.Error())
	}
	return usage{time.Now(), time.Duration(r.Utime.Nano() + r.Stime.Nano()), m.Mallocs}
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

// The metrics of memory.
const (
	residentMiB       = "RSS MiB"
	residentAtRestMiB = "RSS MiB without garbage"
	heapMiB           = "heap MiB in use"
)

func mib(bytes int) float64 { return float64(bytes) / (1 << 20) }
