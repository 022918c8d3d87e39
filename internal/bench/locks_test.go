package main

import (
	"bytes"
	"context"
	"io"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// fewLocks are settings with which locks are measured in a moment.
func fewLocks(t *testing.T, s *system) *clusterSettings {
	few := fewCells(t, s, "")
	few.locks = &lockSizes{callers: 4, waiters: 4, watchers: 10, resting: 100, rest: 50 * time.Millisecond}
	return few
}

func TestLocksTransactionsAndWatchesAreMeasured(t *testing.T) {
	for _, sys := range []*system{dkvSystem, etcdSystem} {
		t.Run(sys.name, func(t *testing.T) {
			t.Parallel()
			s := fewLocks(t, sys)
			all, err := s.measure(context.Background())
			if err != nil || all.failed > 0 || len(all.skipped) > 0 {
				t.Fatalf("%v; %d operations failed, skipped %q", err, all.failed, all.skipped)
			}
			r := newResults(all.samples, s.workloads(), []string{sys.name}, opsPerSec, clusterBaseline)
			for workload, names := range map[string][]string{
				lockName(1):     {p50Micros, opsPerSec},
				lockName(4):     {p50Micros, opsPerSec},
				handoverName(4): {p50Micros, opsPerSec, loneP50Micros},
				txnName:         {p50Micros, setsP50Micros},
				watchedName(10): {opsPerSec, opsUnwatched},
			} {
				for _, name := range names {
					if v, ok := r.median(figure{workload, sys.name, name}); !ok || v <= 0 || math.IsInf(v, 0) || math.IsNaN(v) {
						t.Errorf("%s: %s is %v %v", workload, name, v, ok)
					}
				}
			}
			// An event may be first, and so few watchers take less than what else the
			// members take and give back meanwhile.
			for _, f := range []figure{
				{watchName, sys.name, lateP50Micros}, {watchName, sys.name, earlyPercent},
				{watchersName(100), sys.name, heapPerWatcher}, {watchersName(100), sys.name, stackPerWatcher},
				{watchersName(100), sys.name, cpuAtRest},
			} {
				if v, ok := r.median(f); !ok || math.IsInf(v, 0) || math.IsNaN(v) {
					t.Errorf("%v: %v %v", f, v, ok)
				}
			}
		})
	}
}

// plainMember is a member of one process's memory. Its events come before Set returns, and
// its locks take a while to be given up.
type plainMember struct {
	member
	mu      sync.Mutex
	changed func()
	closed  chan struct{}

	lock     sync.Mutex
	giveUpIn time.Duration
}

func (p *plainMember) Set(context.Context, string, []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.changed != nil {
		p.changed()
	}
	return nil
}

func (p *plainMember) Watches() watches { return p }

func (p *plainMember) Watch(_ string, opened, changed func()) error {
	p.mu.Lock()
	p.changed = changed
	p.mu.Unlock()
	opened()
	<-p.closed
	return nil
}

func (p *plainMember) Close() error {
	close(p.closed)
	return nil
}

func (p *plainMember) Locks(context.Context) (locks, error) { return plainLocks{p}, nil }

type plainLocks struct{ *plainMember }

func (l plainLocks) Close() error { return nil }

func (l plainLocks) Lock(context.Context, string) (func(context.Context) error, error) {
	l.lock.Lock()
	return func(context.Context) error {
		time.Sleep(l.giveUpIn)
		l.lock.Unlock()
		return nil
	}, nil
}

func TestHandoverBeginsWithUnlock(t *testing.T) {
	t.Parallel()
	const each = time.Millisecond
	c := cell{Workload: handoverWorkload, Callers: 3, Data: data{Keys: 10, Size: valueSize}, Time: 200 * time.Millisecond}
	o := c.measure(&plainMember{giveUpIn: each})
	if v := o.Metrics[p50Micros]; o.Failed > 0 || v < 0.99*micros(int64(each)) || v > 50_000 {
		t.Errorf("%+v", o)
	}
	if v := o.Metrics[opsPerSec]; v <= 0 || v > 1/each.Seconds() {
		t.Errorf("%v hand-overs per second", v)
	}
}

func TestEventBeforeSetReturnsIsEarlyAndNotLate(t *testing.T) {
	t.Parallel()
	c := cell{Workload: watchWorkload, Callers: 1, Data: data{Keys: 10, Size: valueSize}, Time: 20 * time.Millisecond}
	o := c.measure(&plainMember{closed: make(chan struct{})})
	if v, ok := o.Metrics[lateP50Micros]; o.Failed > 0 || !ok || v != 0 || o.Metrics[earlyPercent] < 99 {
		t.Errorf("%+v", o)
	}
}

func TestMemberWithoutLocksOrWatchesIsLeftOut(t *testing.T) {
	t.Parallel()
	for _, workload := range []string{"lock", handoverWorkload, txnWorkload, watchWorkload, watchedWorkload, watchersWorkload} {
		c := cell{Workload: workload, Callers: 1, Data: data{Keys: 10, Size: valueSize}, Time: time.Millisecond}
		if o := c.measure(&late{}); o.Metrics != nil || o.Failed > 0 {
			t.Errorf("%s: %+v", workload, o)
		}
	}
}

func TestLockBarsAreOfWhatWasMeasured(t *testing.T) {
	var samples []sample
	for round := range 3 {
		add := func(workload, peer string, m metrics) {
			samples = append(samples, sample{workload, peer, round, m})
		}
		slow := float64(round + 1) // the machine, by round
		add("lock/leader/1", "dkv", metrics{p50Micros: 60 * slow})
		add("lock/leader/1", "etcd", metrics{p50Micros: 100 * slow})
		add("handover/leader/64", "dkv", metrics{p50Micros: 300 * slow, loneP50Micros: 100 * slow})
		add("txn/leader/10", "dkv", metrics{p50Micros: 110 * slow, setsP50Micros: 100 * slow})
		add("watch/leader/1", "dkv", metrics{lateP50Micros: 50})
		add("write-watched/leader/1000", "dkv", metrics{opsPerSec: 960 / slow, opsUnwatched: 1000 / slow})
	}
	sizes := lockSizesOfRun
	s := &clusterSettings{locks: &sizes}
	r := newResults(samples, s.workloads(), []string{"dkv", "etcd"}, opsPerSec, clusterBaseline)
	var got []string
	for _, v := range judge(lockBars, r) {
		got = append(got, v.Verdict)
	}
	want := []string{"pass", "not measured", "miss", "stretch", "pass", "stretch"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestLocksCommandPrintsTablesAndWritesJSON(t *testing.T) {
	t.Parallel()
	path := t.TempDir() + "/out.json"
	var out bytes.Buffer
	args := []string{"-short", "-peers", "dkv", "-only", "^(lock/leader/1|txn)", "-dir", t.TempDir(), "-bars", "-json", path}
	if err := runLocks(context.Background(), args, &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"| lock/leader/1 ", "| txn/leader/10 p50 µs of 10 writes at once ", "| lock and unlock of one caller, p50 / etcd's "} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
	d, err := readDocument(path)
	if err != nil {
		t.Fatal(err)
	}
	if d.Medians["lock/leader/1"]["dkv"][opsPerSec] <= 0 || len(d.Bars) != len(lockBars) || len(d.Samples) != 2 {
		t.Fatalf("%+v", d)
	}
	out.Reset()
	if err := runLocks(context.Background(), []string{"-list"}, &out, io.Discard); err != nil || strings.Count(out.String(), "\n") != 7 {
		t.Errorf("%v\n%s", err, out.String())
	}
	for _, bad := range [][]string{{"-peers", "nats"}, {"-keys", "9"}, {"-only", "("}, {"-seconds", "0"}, {"-rounds", "0"}, {"more"}} {
		if runLocks(context.Background(), bad, io.Discard, io.Discard) == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}
