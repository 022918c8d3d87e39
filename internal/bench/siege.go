package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"dkv/internal/raftnet"
)

// siege is a group that strangers come to.
type siege struct {
	*separate
	*intelligence
	settings *strangerSettings
	guard    string
	attacker *process
	leads    int // the member that strangers come to
	rate     int // of honest writes through each member
}

// stood is what came of a row in one round.
type stood struct {
	attacked
	seen
	terms   [2]uint64
	leaders [2]string
	before  []time.Duration // that writes took
	during  []time.Duration
	failed  int // of those during
	why     string
	grown   int // bytes of memory of the leader's process, at most
	files   int // that it had open, as far as was seen, at most
	deaths  int
}

// besiege starts a group and finds out what strangers know of it.
func (s *strangerSettings) besiege(ctx context.Context, dir, guard string) (_ *siege, err error) {
	t := &clusterTurn{clusterSettings: &clusterSettings{dir: s.dir, log: s.log}, ctx: ctx, system: guardedSystem, dir: dir}
	configs, err := t.configs()
	if err != nil {
		return nil, err
	}
	b := &siege{settings: s, guard: guard, intelligence: &intelligence{sizes: s.sizes, group: groupNumber(configs[0].Raft)}, rate: s.rate / nmembers}
	if err := b.identify(configs); err != nil {
		return nil, err
	}
	relays := make([]*relay, nmembers)
	detour := make(map[string]string)
	for i, c := range configs {
		if relays[i], err = startRelay(c.Raft[c.Node]); err != nil {
			return nil, err
		}
		defer relays[i].close()
		detour[c.Node] = relays[i].listener.Addr().String()
	}
	for i := range configs {
		configs[i].Detour = detour
	}
	if b.separate, err = t.apartAs(configs); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			b.end()
		}
	}()
	if b.attacker, err = startProcess(ctx, guardedSystem); err != nil {
		return nil, err
	}
	// Detours end when something has been said on them.
	if _, err := b.write(s.settle, ""); err != nil {
		return nil, err
	}
	if err := b.each(func(p *process) error {
		_, err := p.call(request{Op: "direct"})
		return err
	}); err != nil {
		return nil, err
	}
	said := make([][][]byte, nmembers)
	for i, r := range relays {
		said[i] = r.close()
	}
	if _, err := b.write(s.settle, ""); err != nil {
		return nil, err
	}
	if b.leads, err = b.separate.leader(); err != nil {
		return nil, err
	}
	follower := configs[(b.leads+1)%nmembers]
	b.intelligence.leader, b.third = configs[b.leads].Node, configs[(b.leads+2)%nmembers].Node
	b.replica = uint64(slices.Index(sortedNames(configs[0].Raft), b.intelligence.leader) + 1)
	if b.replayed = said[b.leads]; len(b.replayed) == 0 {
		return nil, errors.New("nothing was said to the leader")
	}
	return b, b.ask(ctx, follower.Raft[follower.Node])
}

// identify makes what members show.
func (b *siege) identify(configs []memberConfig) (err error) {
	switch b.guard {
	case bySecret:
		if b.good, err = secretAuthority(goodSecret); err == nil {
			b.other, err = secretAuthority(badSecret)
		}
		for i := range configs {
			configs[i].Peers = &credentials{Secret: goodSecret}
		}
	case byTLS:
		if b.good, err = newAuthority(); err == nil {
			b.other, err = newAuthority()
		}
		for i := range configs {
			if err == nil {
				configs[i].Peers, err = b.good.issue(configs[i].Node, nil)
			}
		}
	}
	return err
}

// ask has a follower say who it is.
func (b *siege) ask(ctx context.Context, address string) error {
	const name = "probe"
	shows := b.configs[0].Peers
	if b.guard == byTLS {
		var err error
		if shows, err = b.good.issue(name, nil); err != nil {
			return err
		}
	}
	security, err := shows.security(name)
	if err != nil {
		return err
	}
	asker := raftnet.Asker{Security: security, Self: func() raftnet.Peer {
		return raftnet.Peer{Places: []raftnet.Place{{Member: name}}}
	}}
	_, b.peer, err = asker.Ask(ctx, address, []byte("{}"))
	return err
}

func (b *siege) end() {
	if b.separate != nil {
		b.separate.end()
	}
	if b.attacker != nil {
		b.attacker.end()
	}
}

// each does something with every member at once.
func (b *siege) each(f func(*process) error) error {
	return atOnce(nmembers, func(i int) error { return f(b.processes[i]) })
}

// written is honest writes through all members.
type written struct {
	took   []time.Duration
	failed int
	why    string
}

// write writes for a time, while the leader dials a stranger at an address, if there is one.
func (b *siege) write(d time.Duration, invite string) (w written, err error) {
	var mu sync.Mutex
	err = atOnce(nmembers, func(i int) error {
		r := request{Op: "paced", Count: b.rate, Time: d}
		if i == b.leads {
			r.Invite = invite
		}
		a, err := b.processes[i].call(r)
		mu.Lock()
		defer mu.Unlock()
		w.took = append(w.took, a.Writes...)
		if w.failed += a.Outcome.Failed; a.Outcome.Failed > 0 {
			w.why = a.Outcome.Error
		}
		return err
	})
	return w, err
}

// see is what all members have seen since the last time.
func (b *siege) see() (all seen, err error) {
	var mu sync.Mutex
	err = b.each(func(p *process) error {
		a, err := p.call(request{Op: "seen"})
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		all.Term = max(all.Term, a.Seen.Term)
		all.Terms += a.Seen.Terms
		all.Turned += a.Seen.Turned
		all.Ended += a.Seen.Ended
		all.Accepted += a.Seen.Accepted
		all.Out += a.Seen.Out
		if p == b.processes[b.leads] {
			all.Leader, all.Why = a.Seen.Leader, a.Seen.Why
		}
		return nil
	})
	return all, err
}

// endure has strangers come for a time, and honest writes go on.
func (b *siege) endure(r stranger, d time.Duration) (s stood, err error) {
	defer func() {
		for _, p := range b.processes {
			select {
			case <-p.exited:
				s.deaths++
				err = errors.Join(err, fmt.Errorf("a member has died: %s", p.errors.String()))
			default:
			}
		}
	}()
	first, err := b.see()
	if err != nil {
		return s, err
	}
	s.terms[0], s.leaders[0] = first.Term, first.Leader
	if b.settings.calm {
		w, err := b.write(d, "")
		if s.before = w.took; err == nil && w.failed > 0 {
			err = fmt.Errorf("writes fail without strangers: %s", w.why)
		}
		if err != nil {
			return s, err
		}
	}
	leader := b.processes[b.leads]
	if r.files > 0 {
		if _, err := leader.call(request{Op: "files", Count: r.files}); err != nil {
			return s, err
		}
	}
	watch := watchProcess(leader.cmd.Process.Pid)
	attack := r.attack
	attack.Target, attack.Time = b.configs[b.leads].Raft[b.intelligence.leader], d
	failed := make(chan error, 1)
	go func() {
		a, err := b.attacker.call(request{Op: "attack", Attack: &attack})
		if a.Attacked != nil {
			s.attacked = *a.Attacked
		}
		failed <- err
	}()
	w, err := b.write(d, attack.Listens)
	err = errors.Join(err, <-failed)
	s.during, s.failed, s.why = w.took, w.failed, w.why
	s.grown, s.files = watch()
	if err != nil {
		return s, err
	}
	if r.files > 0 {
		if _, err := leader.call(request{Op: "files"}); err != nil {
			return s, err
		}
	}
	time.Sleep(b.settings.settle / 10) // until it is noticed that they have gone
	s.seen, err = b.see()
	s.terms[1], s.leaders[1] = s.seen.Term, s.seen.Leader
	return s, err
}

// watchProcess watches how much memory a process takes more than now, and how many files
// it has open, at most, until it is asked.
func watchProcess(pid int) func() (grown, files int) {
	const every = 20 * time.Millisecond
	var grown, files int
	stop, stopped := make(chan struct{}), make(chan struct{})
	first := residentOf(pid)
	go func() {
		defer close(stopped)
		for {
			grown = max(grown, residentOf(pid)-first)
			if open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid)); err == nil {
				files = max(files, len(open))
			}
			select {
			case <-stop:
				return
			case <-time.After(every):
			}
		}
	}()
	return func() (int, int) {
		close(stop)
		<-stopped
		return grown, files
	}
}

// took tells whether what the row is about took place.
func (s *stood) took(r stranger) bool {
	switch {
	case s.Conns == 0 || s.Bytes == 0 && r.attack.TLS == nil && r.attack.Random == 0 && len(r.attack.Say) > 0:
		return false
	case r.control:
		return true
	case r.proof:
		return s.Accepted > 0 && s.LetIn > 0 && (s.elections() > 0 || !r.deposes)
	case r.files > 0 && s.Out == 0:
		return false
	case r.attack.Pause > 0 && r.flood && s.Conns < r.attack.AtOnce: // at once is what it is about
		return false
	case r.attack.Listens != "":
		return s.attacked.Ended > 0
	}
	return s.Turned+s.seen.Ended > 0
}

// quantile of durations; 0 if there are none.
func quantile(all []time.Duration, q float64) time.Duration {
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return all[int(q*float64(len(all)-1))]
}
