package main

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"time"
)

// settings are what the flags say.
type settings struct {
	nkeys  int
	rounds int
	time   time.Duration
	sizes  []int
	peers  []*peer
	only   *regexp.Regexp // nil: all workloads
	gcKeys int

	timedKeys int
	sets      map[[2]int]*keyset // by first number and size
	log       io.Writer          // progress
}

// group is workloads that share one engine, each of which needs the one before
// it done with: what is set before it is read, and deleted last.
type group struct {
	workloads []string
	rounds    int // at most; 0: as many as there are
	keys      func(*settings) *keyset
	run       func(*turn) error
}

// sample is what one workload gave for one peer in one round.
type sample struct {
	Workload string  `json:"workload"`
	Peer     string  `json:"peer"`
	Round    int     `json:"round"`
	Metrics  metrics `json:"metrics"`
}

// turn is one peer's go at one group in one round.
type turn struct {
	*settings
	peer    *peer
	round   int
	keys    *keyset
	samples []sample
}

// wants tells whether a workload is to be measured.
func (t *turn) wants(workload string) bool { return t.settings.wants(workload) }

func (s *settings) wants(workload string) bool {
	return s.only == nil || s.only.MatchString(workload)
}

// keyset returns the n keys that are numbered from first on. They are made once
// and never freed: an engine may hold on to a key for longer than it is open.
func (s *settings) keyset(first, n int) *keyset {
	id := [2]int{first, n}
	if s.sets[id] == nil {
		if s.sets == nil {
			s.sets = make(map[[2]int]*keyset)
		}
		s.sets[id] = newKeyset(first, n, procs())
	}
	return s.sets[id]
}

// record keeps what a workload gave. It is an error if that is not what it must
// find.
func (t *turn) record(workload string, m metrics, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", workload, err)
	}
	t.samples = append(t.samples, sample{workload, t.peer.name, t.round, m})
	return nil
}

// open opens the peer's engine on a clean heap.
func (t *turn) open(expiring bool) (engine, error) {
	settle()
	return t.peer.open(config{keys: t.keys.len(), expiring: expiring})
}

// fill sets all keys, unmeasured.
func (t *turn) fill(e engine, values values) error {
	if f, ok := e.(filler); ok {
		f.Fill(t.keys.len(), t.keys.key, values.at)
		return nil
	}
	_, err := once(t.keys.len(), t.keys.key, func(key string, i int) bool {
		e.Set(key, values.at(i))
		return true
	})
	return err
}

// measure runs the groups, the rounds of each interleaved. A peer that fails in a
// group is left out of what is left of it; what the others gave is returned as
// well.
func (s *settings) measure(groups []group) (samples []sample, err error) {
	for _, g := range groups {
		if !slices.ContainsFunc(g.workloads, s.wants) {
			continue
		}
		rounds := s.rounds
		if g.rounds != 0 {
			rounds = min(rounds, g.rounds)
		}
		keys := g.keys(s)
		failed := make(map[*peer]bool)
		interleave(s.peers, rounds, func(p *peer, round int) {
			if failed[p] || p.rounds != 0 && round >= p.rounds {
				return
			}
			t := &turn{settings: s, peer: p, round: round, keys: keys}
			began := time.Now()
			if e := g.run(t); e != nil {
				failed[p] = true
				err = errors.Join(err, fmt.Errorf("%s: %w", p.name, e))
			}
			samples = append(samples, t.samples...)
			fmt.Fprintf(s.log, "%s … round %d/%d %s: %d workloads in %.1f s\n",
				g.workloads[0], round+1, rounds, p.name, len(t.samples), time.Since(began).Seconds())
		})
	}
	return samples, err
}

// interleave has all peers take their turn in one round before any takes it in
// the next, each time another one first.
func interleave[P any](peers []P, rounds int, turn func(p P, round int)) {
	for round := range rounds {
		for i := range peers {
			turn(peers[(i+round)%len(peers)], round)
		}
	}
}
