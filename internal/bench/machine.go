package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"
)

// machine is where a run took place. What the system does not tell is empty.
type machine struct {
	Time       time.Time `json:"time"`
	CPU        string    `json:"cpu"`
	Cores      int       `json:"cores"`
	GOMAXPROCS int       `json:"gomaxprocs"`
	MemoryGiB  float64   `json:"memory_gib"`
	OS         string    `json:"os"`
	Kernel     string    `json:"kernel"`
	Go         string    `json:"go"`
	GOGC       string    `json:"gogc"`
	Load       string    `json:"load"` // before the run: what else was going on
}

func thisMachine() machine {
	return machine{
		Time:       time.Now().UTC().Truncate(time.Second),
		CPU:        field("/proc/cpuinfo", "model name"),
		Cores:      runtime.NumCPU(),
		GOMAXPROCS: procs(),
		MemoryGiB:  float64(memory("MemTotal")>>20) / 1024,
		OS:         runtime.GOOS + "/" + runtime.GOARCH,
		Kernel:     firstLine("/proc/sys/kernel/osrelease"),
		Go:         runtime.Version(),
		GOGC:       os.Getenv("GOGC"),
		Load:       firstLine("/proc/loadavg"),
	}
}

// memory is a line of /proc/meminfo in bytes, 0 if there is none.
func memory(name string) int { return inBytes("/proc/meminfo", name) }

// resident is the memory that this process takes in bytes, 0 if the system does
// not tell.
func resident() int { return inBytes("/proc/self/status", "VmRSS") }

// residentOf is that of another process.
func residentOf(pid int) int { return inBytes(fmt.Sprintf("/proc/%d/status", pid), "VmRSS") }

// cpuOf is the processor time that another process has used up, to within 10 ms; 0 if
// the system does not tell.
func cpuOf(pid int) (total time.Duration) {
	const (
		tick       = 10 * time.Millisecond
		user, both = 11, 13 // of the fields after the name: utime and stime
	)
	line := firstLine(fmt.Sprintf("/proc/%d/stat", pid))
	fields := strings.Fields(line[strings.LastIndexByte(line, ')')+1:])
	if len(fields) < both {
		return 0
	}
	for _, f := range fields[user:both] {
		n, err := strconv.Atoi(f)
		if err != nil {
			return 0
		}
		total += time.Duration(n) * tick
	}
	return total
}

// socketsOf is how many sockets another process has open, 0 if the system does not
// tell.
func socketsOf(pid int) (n int) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	files, err := os.ReadDir(dir)
	if err != nil {
		return 0
	}
	for _, f := range files {
		if to, err := os.Readlink(filepath.Join(dir, f.Name())); err == nil && strings.HasPrefix(to, "socket:") {
			n++
		}
	}
	return n
}

// inBytes reads a field whose value is "123 kB".
func inBytes(path, name string) int {
	kib, _, _ := strings.Cut(field(path, name), " ")
	n, err := strconv.Atoi(kib)
	if err != nil {
		return 0
	}
	return n << 10
}

// field is the value of the first line "name : value" of a file.
func field(path, name string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func firstLine(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(b), "\n")
	return line
}

// version is that of a module in this program.
func version(module string) string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, m := range info.Deps {
		if m.Path == module {
			return m.Version
		}
	}
	return ""
}

func (m machine) print(w io.Writer) {
	fmt.Fprintf(w, "%s, %d cores (GOMAXPROCS %d), %.1f GiB; %s, kernel %s; %s; %s; load before: %s\n\n",
		m.CPU, m.Cores, m.GOMAXPROCS, m.MemoryGiB, m.OS, m.Kernel, m.Go, m.Time.Format(time.RFC3339), m.Load)
}
