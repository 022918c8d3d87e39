package main

import (
	"bytes"
	"context"
	"io"
	"math"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// fewNets are settings with which a network mode is measured in a moment.
func fewNets(t *testing.T, s *system) *clusterSettings {
	few := fewCells(t, s, "")
	few.net = &netSizes{
		callers: []int{1, 8}, unix: 8, ofValues: []int{2},
		idle: 20, getters: 8, gets: 500, restAfter: 10 * time.Millisecond,
	}
	return few
}

func needsRedis(t *testing.T) {
	if redisVersion() == "" {
		t.Skipf("%s is not in PATH", redisProgram)
	}
}

func TestNetworkModesAreMeasured(t *testing.T) {
	local := []string{
		netName(localNet, "set", 1), netName(localNet, "get", 8), netName(unixNet, "set", 8), netName(unixNet, "get", 8),
		netName(valuesNet, "set", 2), netName(valuesNet, "get", 2), idleName(20),
	}
	replicated := []string{netName(replicatedNet, "set", 1), netName(replicatedNet, "get", 8)}
	for _, c := range []struct {
		*system
		want []string
	}{
		{dkvSystem, slices.Concat(local, replicated, []string{getsName(8)})},
		{redisSystem, local},
		{etcdSystem, replicated},
		{natsSystem, replicated},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if c.system == redisSystem {
				needsRedis(t)
			}
			s := fewNets(t, c.system)
			all, err := s.measure(context.Background())
			if err != nil || all.failed > 0 || len(all.skipped) > 0 {
				t.Fatalf("%v; %d operations failed, skipped %q", err, all.failed, all.skipped)
			}
			var measured []string
			for _, sample := range all.samples {
				measured = append(measured, sample.Workload)
				for name, v := range sample.Metrics {
					// So few connections take less than what a server takes and gives
					// back meanwhile, and so short a time may be no tick of the system's.
					positive := v > 0 || sample.Workload == idleName(20) || name == cpuPer100k
					if !positive || math.IsInf(v, 0) || math.IsNaN(v) {
						t.Errorf("%s: %s is %v", sample.Workload, name, v)
					}
				}
			}
			for _, w := range c.want {
				if !slices.Contains(measured, w) {
					t.Errorf("%s is not measured", w)
				}
			}
			if left, err := os.ReadDir(s.dir); err != nil || len(left) > 0 {
				t.Errorf("%d directories are left, %v", len(left), err)
			}
		})
	}
}

func TestCallersOfANetworkHaveTheirAllocationsCounted(t *testing.T) {
	c := cell{Callers: 4, Data: data{Keys: 10, Size: valueSize}}
	const each = 3
	m, err := c.countedGets(&allocating{each}, 10_000)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{allocsPerOp, allocsWithoutDeadline} {
		// The value is one more.
		if v := m[name]; v < each+1 || v > each+1.5 {
			t.Errorf("%s: %v", name, v)
		}
	}
	if _, err := c.countedGets(&late{}, 10); err == nil {
		t.Error("reads that fail are counted")
	}
}

// allocating is a client whose reads allocate n times beside the value.
type allocating struct{ n int }

func (*allocating) Ready(context.Context) error               { return nil }
func (*allocating) Leads() bool                               { return false }
func (*allocating) Set(context.Context, string, []byte) error { return nil }
func (*allocating) Close() error                              { return nil }

func (a *allocating) Get(_ context.Context, key string) ([]byte, bool, error) {
	value := make([]byte, valueSize)
	copy(value, key)
	for range a.n {
		value = append([]byte(nil), value...)
	}
	return value, true, nil
}

func TestOtherProcessesAreLookedAt(t *testing.T) {
	pid := os.Getpid()
	if resident() == 0 {
		t.Skip("the system does not tell")
	}
	for began := time.Now(); cpuOf(pid) == 0; {
		if time.Since(began) > 10*time.Second {
			t.Fatal("no processor time")
		}
	}
	if d := residentOf(pid) - resident(); math.Abs(float64(d)) > 64<<20 {
		t.Errorf("the memory is off by %d", d)
	}
	before := socketsOf(pid)
	for range 3 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
	}
	if n := socketsOf(pid) - before; n != 3 {
		t.Errorf("%d more sockets", n)
	}
	const none = 1 << 30
	if cpuOf(none) != 0 || residentOf(none) != 0 || socketsOf(none) != 0 {
		t.Error("a process that is not there has something")
	}
}

func TestNetBarsAreOfWhatWasMeasured(t *testing.T) {
	var samples []sample
	for round := range 3 {
		add := func(workload, peer string, m metrics) {
			samples = append(samples, sample{workload, peer, round, m})
		}
		slow := float64(round + 1) // the machine, by round
		add("net/local/set/1024", "dkv", metrics{opsPerSec: 1300 / slow})
		add("net/local/set/1024", "redis", metrics{opsPerSec: 1000 / slow})
		add("net/local/get/128", "dkv", metrics{opsPerSec: 1000 / slow})
		add("net/local/get/128", "redis", metrics{opsPerSec: 1000 / slow})
		add("net/local-unix/get/128", "dkv", metrics{opsPerSec: 1200 / slow})
		add("net/local/get/1", "dkv", metrics{p50Micros: 30 * slow})
		add("net/local/get/1", "redis", metrics{p50Micros: 31 * slow})
		add("net/replicated/set/1024", "dkv", metrics{opsPerSec: 9000 / slow})
		add("net/replicated/set/1024", "etcd", metrics{opsPerSec: 1000 / slow})
		add("net/allocs/get/128", "dkv", metrics{allocsPerOp: 5})
		add("net/values/get/4", "dkv", metrics{gbPerSec: 1.6})
		add("net/values/get/16", "dkv", metrics{gbPerSec: 1.4})
		add("net/idle/5000", "dkv", metrics{rssPerConnection: 17})
	}
	sizes := netSizesOfRun
	s := &clusterSettings{systems: netSystems, net: &sizes}
	told := s.told(samples)
	for i, want := range []struct {
		base  string
		peers []string
	}{{"redis", []string{"dkv", "redis"}}, {"etcd", []string{"dkv", "etcd", "nats"}}} {
		if r := told[i]; r.base != want.base || !slices.Equal(r.peers, want.peers) {
			t.Errorf("%s with %q", r.base, r.peers)
		}
		var got []string
		for _, v := range judge(netBars, told[i]) {
			got = append(got, v.Verdict)
		}
		none := "not measured"
		if want := []string{
			"pass", none, none, "miss", "pass", "miss", none, none, "stretch", "pass", none, "pass", "miss",
		}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestNetCommandPrintsTablesAndWritesJSON(t *testing.T) {
	t.Parallel()
	path := t.TempDir() + "/out.json"
	var out bytes.Buffer
	args := []string{"-short", "-peers", "dkv", "-only", "local/get/16$|replicated/set/1$|allocs", "-dir", t.TempDir(), "-bars", "-json", path}
	if err := runNet(context.Background(), args, &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"| net/local/get/16 ", "| net/replicated/set/1 ", "| net/allocs/get/16 allocs/op ", "| a lone get, p50 / redis' "} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
	d, err := readDocument(path)
	if err != nil {
		t.Fatal(err)
	}
	if d.Medians["net/local/get/16"]["dkv"][opsPerSec] <= 0 || d.Medians["net/replicated/set/1"]["dkv"][opsPerSec] <= 0 ||
		len(d.Bars) != len(netBars) || len(d.Samples) != 3 {
		t.Fatalf("%+v", d)
	}
	out.Reset()
	if err := runNet(context.Background(), []string{"-list"}, &out, io.Discard); err != nil || strings.Count(out.String(), "\n") != 20 {
		t.Errorf("%v\n%s", err, out.String())
	}
	for _, bad := range [][]string{{"-peers", "maple"}, {"-keys", "0"}, {"-only", "("}, {"-seconds", "0"}, {"-rounds", "0"}, {"more"}} {
		if runNet(context.Background(), bad, io.Discard, io.Discard) == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestRedisIsLeftOutWhereItIsNot(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	var out bytes.Buffer
	args := []string{"-short", "-peers", "dkv,redis", "-only", "allocs", "-dir", t.TempDir()}
	if err := runNet(context.Background(), args, &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	if want := "- redis: left out, for redis-server is not in PATH\n"; !strings.Contains(out.String(), want) {
		t.Errorf("%q is not in\n%s", want, out.String())
	}
}
