package main

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// eachEngine runs f on an open engine of every peer, one that expires and one
// that does not.
func eachEngine(t *testing.T, f func(t *testing.T, p *peer, e engine)) {
	for _, p := range peers {
		for _, expiring := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/expiring=%v", p.name, expiring), func(t *testing.T) {
				e, err := p.open(config{keys: 100, expiring: expiring})
				if err != nil {
					t.Fatal(err)
				}
				defer e.Close()
				f(t, p, e)
			})
		}
	}
}

func check(t *testing.T, e engine, key, want string) {
	t.Helper()
	if got, ok := e.GetCopy(key); !ok || string(got) != want {
		t.Fatalf("%s: got %q %v, want %q", key, got, ok, want)
	}
	if got, ok := e.Get(key); !ok || len(got) != len(want) {
		t.Fatalf("%s: got %d bytes %v, want %d", key, len(got), ok, len(want))
	}
	if !e.Has(key) {
		t.Fatalf("%s is not there", key)
	}
}

func TestWhatWasSetIsReadUntilItIsDeleted(t *testing.T) {
	eachEngine(t, func(t *testing.T, _ *peer, e engine) {
		buf := []byte("one")
		e.Set("a", buf)
		copy(buf, "xxx") // the caller's buffer is the caller's
		e.Set("b", []byte("two"))
		check(t, e, "a", "one")
		e.Set("a", []byte("three"))
		check(t, e, "a", "three")
		check(t, e, "b", "two")
		e.Delete("a")
		if _, ok := e.Get("a"); ok || e.Has("a") {
			t.Fatal("a is there after Delete")
		}
		if _, ok := e.GetCopy("a"); ok {
			t.Fatal("a is copied after Delete")
		}
		check(t, e, "b", "two")
	})
}

func TestSetEIfUnsetSetsOnce(t *testing.T) {
	eachEngine(t, func(t *testing.T, _ *peer, e engine) {
		x, ok := e.(expirer)
		if !ok {
			return
		}
		if !x.SetEIfUnset("a", []byte("one"), time.Hour, time.Hour) {
			t.Fatal("it did not set what was unset")
		}
		if x.SetEIfUnset("a", []byte("two"), time.Hour, time.Hour) {
			t.Fatal("it set what was set")
		}
		check(t, e, "a", "one")
		x.SetE("a", []byte("three"), time.Hour, time.Hour)
		check(t, e, "a", "three")
	})
}

func TestReapersRemoveWhatExpired(t *testing.T) {
	for _, p := range peers {
		e, err := p.open(config{keys: 100, expiring: true})
		if err != nil {
			t.Fatal(err)
		}
		defer e.Close()
		r, ok := e.(reaper)
		if !ok {
			continue
		}
		e.Set("stays", []byte("v"))
		for i := range 100 {
			r.SetE(fmt.Sprint(i), []byte("v"), time.Millisecond, time.Millisecond)
		}
		for began := time.Now(); r.Len() > 1; time.Sleep(time.Millisecond) {
			if time.Since(began) > 20*time.Second {
				t.Fatalf("%s: %d keys are left", p.name, r.Len())
			}
		}
		check(t, e, "stays", "v")
	}
}

func TestScanSeesAllAndSaveKeepsAll(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *peer, e engine) {
		want := make(map[string]string)
		for i := range 100 {
			key, value := fmt.Sprint("key ", i), fmt.Sprint("value ", i)
			want[key] = value
			e.Set(key, []byte(value))
		}
		if s, ok := e.(scanner); ok {
			got := make(map[string]string)
			s.Scan(func(key string, value []byte) bool {
				got[key] = string(value)
				return true
			})
			if !maps.Equal(got, want) {
				t.Fatalf("scanned %d of %d keys", len(got), len(want))
			}
			n := 0
			s.Scan(func(string, []byte) bool { n++; return n < 3 })
			if n != 3 {
				t.Fatalf("the scan went on to %d keys when 3 were enough", n)
			}
		}
		s, ok := e.(saver)
		if !ok {
			return
		}
		var saved bytes.Buffer
		if err := s.Save(&saved); err != nil {
			t.Fatal(err)
		}
		other, err := p.open(config{keys: 100})
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		if err := other.(saver).Load(&saved); err != nil {
			t.Fatal(err)
		}
		for key, value := range want {
			check(t, other, key, value)
		}
	})
}

func TestBadgerFillsWhatItReads(t *testing.T) {
	e, err := badgerPeer.open(config{})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	e.(filler).Fill(1000, func(i int) string { return fmt.Sprint(i) }, func(int) []byte { return []byte("v") })
	for i := range 1000 {
		check(t, e, fmt.Sprint(i), "v")
	}
}

// some are settings with which all workloads take a moment.
func some(t *testing.T) *settings {
	chosen, err := choosePeers("")
	if err != nil {
		t.Fatal(err)
	}
	return &settings{
		nkeys: 1000, gcKeys: 1000, timedKeys: 1000, rounds: 1, time: 2 * time.Millisecond,
		sizes: []int{16, 128}, peers: chosen, log: io.Discard,
	}
}

func TestEveryWorkloadOfEveryPeerIsPlausible(t *testing.T) {
	s := some(t)
	samples, err := s.measure(s.groups())
	if err != nil {
		t.Fatal(err)
	}
	measured := make(map[string][]string)
	for _, sample := range samples {
		measured[sample.Workload] = append(measured[sample.Workload], sample.Peer)
		for name, v := range sample.Metrics {
			if math.IsNaN(v) || math.IsInf(v, 0) || v < 0 && !strings.HasPrefix(name, bytesPerKey) {
				t.Errorf("%s of %s: %s is %v", sample.Workload, sample.Peer, name, v)
			}
		}
		if v, ok := sample.Metrics[nsPerOp]; ok && (v < 0.5 || v > 1e8) {
			t.Errorf("%s of %s takes %v ns", sample.Workload, sample.Peer, v)
		}
	}
	all := []string{"maple", "xsync", "sync.Map", "sharded", "otter", "badger"}
	for _, g := range s.groups() {
		for _, w := range g.workloads {
			want := all
			switch name, _, _ := strings.Cut(w, "/"); name {
			case "bareload":
				want = []string{"xsync"}
			case "save", "load", "tail-save":
				want = []string{"maple", "otter", "badger"}
			case "view":
				want = []string{"maple", "badger"}
			case "expire-at-once", "memory-sete":
				want = []string{"maple", "otter"}
			}
			for _, p := range want {
				if !slices.Contains(measured[w], p) {
					t.Errorf("%s of %s was not measured", w, p)
				}
			}
		}
	}
}

func TestOnlyWhatIsAskedForIsMeasured(t *testing.T) {
	s := some(t)
	s.only = regexp.MustCompile(`^(get/16/zipf|load/128|sete/16/uniform)$`)
	s.peers = s.peers[:1]
	samples, err := s.measure(s.groups())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, sample := range samples {
		got = append(got, sample.Workload)
	}
	if want := []string{"get/16/zipf", "sete/16/uniform", "load/128"}; !slices.Equal(got, want) {
		t.Fatalf("got %q, want %q", got, want)
	}
}

// The harness is as it should be if the baseline is as fast as itself. The
// bounds are wide, because tests run on machines that are busy with others.
func TestBaselineAgainstItselfIsNearOne(t *testing.T) {
	s := some(t)
	var err error
	if s.peers, err = choosePeers("xsync,xsync-again"); err != nil {
		t.Fatal(err)
	}
	s.nkeys, s.rounds, s.time = 20_000, 7, 10*time.Millisecond
	s.only = regexp.MustCompile(`^(get|set)/128/uniform$`)
	groups := s.groups()
	samples, err := s.measure(groups)
	if err != nil {
		t.Fatal(err)
	}
	r := mapleResults(samples, groups, s.peers)
	for _, workload := range []string{"get/128/uniform", "set/128/uniform"} {
		ratio, ok := r.ratio(figure{workload, "xsync-again", nsPerOp}, figure{workload, "xsync", nsPerOp})
		if !ok || ratio < 0.5 || ratio > 2 {
			t.Errorf("%s: %v", workload, ratio)
		}
		t.Logf("%s: %.3f", workload, ratio)
	}
}

func TestCommandPrintsTablesAndWritesJSON(t *testing.T) {
	path := t.TempDir() + "/out.json"
	var out bytes.Buffer
	args := []string{"-keys", "1000", "-rounds", "2", "-time", "1ms", "-sizes", "128",
		"-peers", "maple,xsync", "-only", "^(get|set|save)/", "-bars", "-json", path}
	if err := runMaple(args, &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"| get/128/uniform ", "| save/128 M entries/s ", "| Set, overwrite / bare Store ", "not measured"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
	d, err := readDocument(path)
	if err != nil {
		t.Fatal(err)
	}
	if d.Medians["get/128/zipf"]["maple"][nsPerOp] <= 0 || d.Ratios["get/128/zipf"]["xsync"] != 1 ||
		len(d.Bars) != len(mapleBars) || d.Machine.Cores < 1 || len(d.Samples) != 2*(2*4+1) {
		t.Fatalf("%+v", d)
	}
	for _, bad := range [][]string{{"-peers", "redis"}, {"-sizes", "x"}, {"-keys", "1"}, {"-only", "("}, {"more"}} {
		if runMaple(bad, io.Discard, io.Discard) == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}
