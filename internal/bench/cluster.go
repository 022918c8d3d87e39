package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"
)

// clusterSettings are what the flags of the subcommands cluster, locks and net say.
type clusterSettings struct {
	systems     []*system
	callers     []int
	rounds      int
	time        time.Duration
	keys        int
	restartKeys int
	trials      int // failovers of each kind
	only        *regexp.Regexp
	dir         string // of all data directories
	log         io.Writer
	locks       *lockSizes // of the subcommand locks, else nil
	net         *netSizes  // of the subcommand net, else nil
	raft        bool       // of the subcommand raft
	absent      []string   // why a system is left out
}

// row is workloads that one set of processes gives. Each round begins with empty
// directories.
type row struct {
	workloads []string
	rounds    int // at most; 0: as many as there are
	run       func(*clusterTurn) error
	systems   []*system // that can do it; nil: all
	base      string    // the system that the others are compared with; "": clusterBaseline
}

// clusterTurn is one system's go at one row in one round.
type clusterTurn struct {
	*clusterSettings
	ctx    context.Context
	system *system
	round  int
	dir    string // for this turn alone
	gains
}

// gains are what turns give.
type gains struct {
	samples []sample
	skipped []string // workloads that a system cannot do
	failed  int      // operations
}

const (
	nmembers   = 3
	valueSize  = 128
	largeSize  = 512 << 10
	largeKeys  = 16
	largeFirst = 1_000_000_000 // number of the first key with a large value
)

// rows are all that can be measured.
func (s *clusterSettings) rows() []row {
	switch {
	case s.locks != nil:
		return []row{s.lockRow()}
	case s.net != nil:
		return s.netRows()
	case s.raft:
		return []row{s.raftRow()}
	}
	return []row{s.cells(), s.allocs(), s.cores(), s.failover(), s.restart()}
}

func (s *clusterSettings) wants(workload string) bool {
	return s.only == nil || s.only.MatchString(workload)
}

// measure runs the rows, the rounds of each interleaved. A system that fails in a
// row is left out of what is left of it; what the others gave is returned as well.
func (s *clusterSettings) measure(ctx context.Context) (all gains, err error) {
	for _, r := range s.rows() {
		if !slices.ContainsFunc(r.workloads, s.wants) {
			continue
		}
		rounds := s.rounds
		if r.rounds != 0 {
			rounds = min(rounds, r.rounds)
		}
		out := make(map[*system]bool)
		interleave(r.of(s.systems), rounds, func(sys *system, round int) {
			if out[sys] || ctx.Err() != nil {
				return
			}
			t := &clusterTurn{clusterSettings: s, ctx: ctx, system: sys, round: round}
			began := time.Now()
			if e := t.take(r); e != nil {
				out[sys] = true
				err = errors.Join(err, fmt.Errorf("%v: %w", sys, e))
			}
			all.samples = append(all.samples, t.samples...)
			all.failed += t.failed
			for _, workload := range t.skipped {
				if note := fmt.Sprintf("%s of %v", workload, sys); !slices.Contains(all.skipped, note) {
					all.skipped = append(all.skipped, note)
				}
			}
			fmt.Fprintf(s.log, "%s … round %d/%d %v: %d workloads in %.1f s\n",
				r.workloads[0], round+1, rounds, sys, len(t.samples), time.Since(began).Seconds())
		})
	}
	return all, errors.Join(err, ctx.Err())
}

// of are those of some systems that can do the row.
func (r row) of(systems []*system) []*system {
	if r.systems == nil {
		return systems
	}
	return slices.DeleteFunc(slices.Clone(systems), func(s *system) bool { return !slices.Contains(r.systems, s) })
}

// take runs the row in a directory that is gone afterwards.
func (t *clusterTurn) take(r row) (err error) {
	if t.dir, err = os.MkdirTemp(t.clusterSettings.dir, "dkv-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(t.dir)) }()
	return r.run(t)
}

// record keeps what a workload gave; nothing if the system cannot do it.
func (t *clusterTurn) record(workload string, o outcome) {
	if o.Failed > 0 {
		t.failed += o.Failed
		if o.Metrics != nil {
			o.Metrics[failedOps] = float64(o.Failed)
		}
		fmt.Fprintf(t.log, "%s of %v: %d operations failed, one of them: %s\n", workload, t.system, o.Failed, o.Error)
	}
	if o.Metrics == nil {
		t.skipped = append(t.skipped, workload)
	} else {
		t.samples = append(t.samples, sample{workload, t.system.name, t.round, o.Metrics})
	}
}

// configs are those of the members of a new cluster.
func (t *clusterTurn) configs() ([]memberConfig, error) {
	addresses, err := freeAddresses(2 * nmembers)
	if err != nil {
		return nil, err
	}
	raft, client := make(map[string]string), make(map[string]string)
	configs := make([]memberConfig, nmembers)
	for i := range configs {
		node := string(rune('a' + i))
		raft[node], client[node] = addresses[2*i], addresses[2*i+1]
		configs[i] = memberConfig{Dir: filepath.Join(t.dir, node), Node: node, Raft: raft, Client: client}
	}
	return configs, nil
}

// freeAddresses are loopback addresses that nobody listens on. Their ports are
// below those that the system gives to outgoing connections.
func freeAddresses(n int) ([]string, error) {
	var free []string
	for range 1000 {
		address := fmt.Sprintf("127.0.0.1:%d", 10_000+rand.IntN(20_000))
		l, err := net.Listen("tcp", address)
		if err != nil || slices.Contains(free, address) {
			continue
		}
		l.Close()
		if free = append(free, address); len(free) == n {
			return free, nil
		}
	}
	return nil, errors.New("there are no free ports")
}

// together starts all members in one process and waits until they are ready.
func (t *clusterTurn) together() (*process, error) {
	configs, err := t.configs()
	if err != nil {
		return nil, err
	}
	return t.ready(configs...)
}

// ready starts members, or clients, in one process and waits until they are ready.
func (t *clusterTurn) ready(configs ...memberConfig) (*process, error) {
	p, err := startProcess(t.ctx, t.system, configs...)
	if err != nil {
		return nil, err
	}
	if _, err = p.call(request{Op: "ready"}); err != nil {
		p.end()
		return nil, err
	}
	return p, nil
}

// leader is the member of a process that leads, or -1.
func (p *process) leader() (int, error) {
	a, err := p.call(request{Op: "leader"})
	return a.Leader, err
}

const leaderPatience = 20 * time.Second

// via is the member that leads, or one that does not.
func (p *process) via(leader bool) (int, error) {
	for began := time.Now(); time.Since(began) < leaderPatience; time.Sleep(5 * time.Millisecond) {
		i, err := p.leader()
		if err != nil {
			return 0, err
		}
		if i >= 0 {
			if !leader {
				i = (i + 1) % nmembers
			}
			return i, nil
		}
	}
	return 0, errors.New("no leader")
}

// separate is members that have a process each.
type separate struct {
	t         *clusterTurn
	configs   []memberConfig
	processes []*process
}

// apart starts each member in a process of its own and waits until they are ready.
func (t *clusterTurn) apart() (*separate, error) {
	configs, err := t.configs()
	if err != nil {
		return nil, err
	}
	return t.apartAs(configs)
}

// apartAs is apart for members of which more is said.
func (t *clusterTurn) apartAs(configs []memberConfig) (*separate, error) {
	s := &separate{t, configs, make([]*process, nmembers)}
	err := atOnce(nmembers, func(i int) (err error) {
		s.processes[i], err = startProcess(t.ctx, t.system, configs[i])
		return err
	})
	if err == nil {
		err = s.ready()
	}
	if err != nil {
		s.end()
		return nil, err
	}
	return s, nil
}

func (s *separate) ready() error {
	return atOnce(nmembers, func(i int) error {
		_, err := s.processes[i].call(request{Op: "ready"})
		return err
	})
}

// start starts member i again.
func (s *separate) start(i int) (opened time.Duration, err error) {
	if s.processes[i], err = startProcess(s.t.ctx, s.t.system, s.configs[i]); err != nil {
		return 0, err
	}
	a, err := s.processes[i].call(request{Op: "ready"})
	return s.processes[i].opened + a.Took, err
}

// leader is the member that leads. The cluster has been at rest for a moment
// then.
func (s *separate) leader() (int, error) {
	for began := time.Now(); time.Since(began) < leaderPatience; time.Sleep(5 * time.Millisecond) {
		leader := -1
		for i, p := range s.processes {
			here, err := p.leader()
			if err != nil {
				return 0, err
			}
			if here == 0 {
				leader = i
			}
		}
		if leader >= 0 {
			return leader, nil
		}
	}
	return 0, errors.New("no leader")
}

// end ends the processes. Their directories are thrown away, so they need not
// close anything.
func (s *separate) end() {
	for _, p := range s.processes {
		if p != nil {
			p.end()
		}
	}
}
