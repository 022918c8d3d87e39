package main

import (
	"bytes"
	"context"
	"io"
	"math"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if isProcess() {
		serve()
	}
	os.Exit(m.Run())
}

// fewCells are settings with which a cluster is measured in a moment.
func fewCells(t *testing.T, s *system, only string) *clusterSettings {
	return &clusterSettings{
		systems: []*system{s}, callers: []int{1, 16}, rounds: 1, time: 100 * time.Millisecond,
		keys: 100, restartKeys: 100, trials: 1, only: regexp.MustCompile(only), dir: t.TempDir(), log: io.Discard,
	}
}

func TestEverySystemIsMeasured(t *testing.T) {
	want := []string{"write/leader/16", "read/follower/1", "stale/follower/16", "mix/leader/16", "memory/after"}
	for _, sys := range systems {
		t.Run(sys.name, func(t *testing.T) {
			t.Parallel()
			s := fewCells(t, sys, `^(`+strings.Join(want, "|")+`)$`)
			all, err := s.measure(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			if all.failed > 0 {
				t.Errorf("%d operations failed", all.failed)
			}
			var measured []string
			for _, sample := range all.samples {
				measured = append(measured, sample.Workload)
				for name, v := range sample.Metrics {
					if v <= 0 || math.IsInf(v, 0) || math.IsNaN(v) {
						t.Errorf("%s: %s is %v", sample.Workload, name, v)
					}
				}
			}
			for _, w := range want {
				skipped := slices.Contains(all.skipped, w+" of "+sys.name)
				if skipped == slices.Contains(measured, w) || skipped && !strings.HasPrefix(w, "stale") {
					t.Errorf("%s: skipped %v", w, skipped)
				}
			}
			if left, err := os.ReadDir(s.dir); err != nil || len(left) > 0 {
				t.Errorf("%d directories are left, %v", len(left), err)
			}
		})
	}
}

func TestLeaderGoesAndMembersComeBack(t *testing.T) {
	t.Parallel()
	s := fewCells(t, dkvSystem, `^(allocs/leader/1024|leader-killed|restart/.*)$`)
	all, err := s.measure(context.Background())
	if err != nil || all.failed > 0 {
		t.Fatalf("%v; %d operations failed", err, all.failed)
	}
	r := newResults(all.samples, s.workloads(), []string{clusterSubject}, opsPerSec, clusterBaseline)
	for _, f := range []figure{
		{"allocs/leader/1024", clusterSubject, allocsPerOp},
		{killedName, clusterSubject, outageMillis},
		{killedName, clusterSubject, longestMillis},
		{restartName(s.restartKeys), clusterSubject, readySecs},
		{restartName(s.restartKeys), clusterSubject, keysPerFill},
		{restartName(s.restartKeys), clusterSubject, residentMiB},
	} {
		if v, ok := r.median(f); !ok || v <= 0 {
			t.Errorf("%v: %v %v", f, v, ok)
		}
	}
}

// late is a member that does not acknowledge writes for a while, and has what it
// should not.
type late struct {
	member
	from, until time.Time
}

func (l *late) Set(ctx context.Context, _ string, _ []byte) error {
	if now := time.Now(); now.After(l.from) && now.Before(l.until) {
		return io.ErrUnexpectedEOF
	}
	return nil
}

func (l *late) Get(_ context.Context, key string) ([]byte, bool, error) {
	return bytes.Repeat([]byte("x"), valueSize), true, nil
}

func TestProbeSeesTheTimeWithoutAnAcknowledgement(t *testing.T) {
	t.Parallel()
	now := time.Now()
	l := &late{from: now.Add(50 * time.Millisecond), until: now.Add(200 * time.Millisecond)}
	p := startProbe(l)
	time.Sleep(time.Until(l.until))
	m := p.stop().Metrics
	if m[outageMillis] < 140 || m[longestMillis] < 100 || m[failedAttempts] < 1 {
		t.Errorf("%v", m)
	}
}

// tardy is a member whose writes take a while.
type tardy struct{ member }

func (tardy) Set(context.Context, string, []byte) error {
	time.Sleep(50 * time.Millisecond)
	return nil
}

func TestOperationThatOutlastsTheTimeOfACellIsMeasured(t *testing.T) {
	t.Parallel()
	c := cell{Workload: "write", Callers: 1, Data: data{Keys: 10, Size: valueSize}, Time: time.Millisecond}
	if o := c.run(tardy{}); o.Metrics[opsPerSec] <= 0 || o.Metrics[p50Micros] < 40_000 {
		t.Errorf("%+v", o)
	}
}

func TestOperationsThatFailAreCountedAndNotMeasured(t *testing.T) {
	t.Parallel()
	l := &late{until: time.Now().Add(time.Hour)}
	for _, workload := range []string{"write", "read"} {
		c := cell{Workload: workload, Callers: 2, Data: data{Keys: 10, Size: valueSize}, Time: 20 * time.Millisecond}
		o := c.run(l)
		if o.Metrics[opsPerSec] != 0 || o.Failed == 0 || o.Error == "" {
			t.Errorf("%s: %+v", workload, o)
		}
	}
	c := cell{Workload: "stale", Callers: 1, Data: data{Keys: 10, Size: valueSize}, Time: time.Millisecond}
	if o := c.run(l); o.Metrics != nil {
		t.Errorf("stale reads of a member that has none: %v", o)
	}
}

func TestDurationsAreWithinAHundredth(t *testing.T) {
	for _, d := range []time.Duration{0, 1, 100, 255, 256, 1000, 123_456, time.Millisecond, time.Minute, math.MaxInt64} {
		var some durations
		some.record(d)
		if got := some.quantile(0.5); math.Abs(float64(got-d)) > float64(d)/100 {
			t.Errorf("%v came out as %v", d, got)
		}
	}
	var some durations
	for i := range 1000 {
		some.record(time.Duration(i) * time.Microsecond)
	}
	for q, want := range map[float64]float64{0.5: 500e3, 0.99: 990e3, 0: 0} {
		if got := float64(some.quantile(q)); math.Abs(got-want) > want/100 {
			t.Errorf("quantile %v is %v, not %v", q, got, want)
		}
	}
}

func TestClusterBarsAreOfWhatWasMeasured(t *testing.T) {
	var samples []sample
	for round := range 3 {
		add := func(workload, peer string, m metrics) {
			samples = append(samples, sample{workload, peer, round, m})
		}
		slow := float64(round + 1) // the machine, by round
		add("write/leader/1024", "dkv", metrics{opsPerSec: 130_000 / slow})
		add("write/leader/1024", "etcd", metrics{opsPerSec: 10_000 / slow})
		add("write/follower/1024", "dkv", metrics{opsPerSec: 117_000 / slow})
		add("write/leader/128", "dkv", metrics{opsPerSec: 30_000 / slow})
		add("write/leader/128", "etcd", metrics{opsPerSec: 10_000 / slow})
		add("read/leader/1", "dkv", metrics{p50Micros: 100 * slow})
		add("read/leader/1", "etcd", metrics{p50Micros: 200 * slow})
		add("allocs/leader/1024", "dkv", metrics{allocsPerOp: 5})
		add(killedName, "dkv", metrics{outageMillis: 1000})
		add(restartName(1_000_000), "dkv", metrics{readySecs: 4})
	}
	s := &clusterSettings{callers: []int{1, 128, 1024}, restartKeys: 1_000_000}
	r := newResults(samples, s.workloads(), []string{"dkv", "etcd"}, opsPerSec, clusterBaseline)
	var got []string
	for _, v := range judge(clusterBars, r) {
		got = append(got, v.Verdict)
	}
	want := []string{
		"stretch", "miss", "not measured", "not measured", "stretch",
		"not measured", "pass", "pass", "pass", "miss",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestClusterCommandPrintsTablesAndWritesJSON(t *testing.T) {
	t.Parallel()
	path := t.TempDir() + "/out.json"
	var out bytes.Buffer
	args := []string{"-peers", "dkv", "-callers", "4", "-rounds", "1", "-seconds", "0.02", "-keys", "100",
		"-dir", t.TempDir(), "-only", "^(write/leader/4|memory/empty)$", "-bars", "-json", path}
	if err := runCluster(context.Background(), args, &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"| write/leader/4 ", "| memory/empty RSS MiB ", "| writes of 1,024 callers / etcd's ", "not measured"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
	d, err := readDocument(path)
	if err != nil {
		t.Fatal(err)
	}
	if d.Medians["write/leader/4"]["dkv"][opsPerSec] <= 0 || len(d.Bars) != len(clusterBars) || len(d.Samples) != 2 {
		t.Fatalf("%+v", d)
	}
	for _, bad := range [][]string{{"-peers", "redis"}, {"-callers", "0"}, {"-keys", "0"}, {"-only", "("}, {"-seconds", "0"}, {"more"}} {
		if runCluster(context.Background(), bad, io.Discard, io.Discard) == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}
