package main

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"
)

// TestStrangersAreWithstood has a short run of it: nothing that strangers say is taken, no
// member dies, and the leader leads on.
func TestStrangersAreWithstood(t *testing.T) {
	var out, log bytes.Buffer
	if err := runStrangers(context.Background(), []string{"-short", "-bars", "-dir", t.TempDir()}, &out, &log); err != nil {
		t.Fatalf("%v\n%s\n%s", err, &out, &log)
	}
	for _, guard := range guards {
		if n := strings.Count(out.String(), "\n| "+guard+": "); n < 15 {
			t.Errorf("%s: %d rows in\n%s", guard, n, &out)
		}
	}
}

func TestWhatStrangersDoIsJudged(t *testing.T) {
	after := func(p99 time.Duration) stood {
		return stood{
			attacked: attacked{Conns: 9, Bytes: 9}, seen: seen{Turned: 9},
			terms: [2]uint64{2, 2}, leaders: [2]string{"a", "a"},
			before: []time.Duration{time.Second}, during: []time.Duration{p99},
		}
	}
	say := attack{Say: [][]byte{{1}}}
	good := func() []*faced {
		return []*faced{
			{stranger: stranger{attack: say}, rounds: []stood{after(2 * time.Second), after(9 * time.Second), after(time.Second)}},
			{stranger: stranger{attack: say, flood: true}, rounds: []stood{after(20 * time.Second)}},
			{stranger: stranger{attack: say, control: true}, rounds: []stood{after(10 * time.Second)}},
			{stranger: stranger{attack: say, proof: true}, rounds: []stood{after(time.Second)}},
			{stranger: stranger{attack: say, proof: true, deposes: true}, rounds: []stood{after(time.Minute)}},
		}
	}
	for name, c := range map[string]struct {
		change func(all []*faced)
		missed int // the bar
	}{
		"a message is taken":       {func(all []*faced) { all[0].rounds[0].Accepted = 1 }, 0},
		"a request is answered":    {func(all []*faced) { all[0].rounds[1].Listened = 1 }, 0},
		"a member dies":            {func(all []*faced) { all[1].rounds[0].deaths = 1 }, 1},
		"a term begins":            {func(all []*faced) { all[0].rounds[2].terms[1], all[0].rounds[2].leaders[1] = 3, "b" }, 2},
		"a write fails":            {func(all []*faced) { all[0].rounds[2].failed = 1 }, 4},
		"nobody came":              {func(all []*faced) { all[0].rounds[0].Turned = 0 }, 5},
		"the proof is not seen":    {func(all []*faced) { all[3].rounds[0].Accepted = 0 }, 5},
		"the term stays":           {func(all []*faced) { all[4].rounds[0].terms[1] = 2 }, 5},
		"memory":                   {func(all []*faced) { all[0].rounds[1].grown = 65 << 20 }, 6},
		"writes are slow":          {func(all []*faced) { all[0].rounds[0].during[0] = 3 * time.Second }, 7},
		"writes are slow at flood": {func(all []*faced) { all[1].rounds[0].during[0] = 21 * time.Second }, 8},
		"all is well":              {func([]*faced) {}, -1},
	} {
		all := good()
		for _, f := range all[3:] {
			f.rounds[0].Accepted, f.rounds[0].LetIn = 1, 1
		}
		all[4].rounds[0].terms[1] = 9
		c.change(all)
		for i, v := range new(strangerSettings).verdicts(all) {
			missed := i == c.missed || name == "a term begins" && i == 3 // the leader as well
			if (v.Verdict == "miss") != missed {
				t.Errorf("%s: %s: %v", name, v.Name, v.Verdict)
			}
		}
	}
}
