package replica

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"dkv/internal/command"
	"dkv/internal/ops"
	"dkv/internal/raftnet"
	"dkv/store"

	"github.com/lni/dragonboat/v4"
)

const (
	changeTimeout = 2 * time.Second // of one attempt at a change of the members
	changePause   = 50 * time.Millisecond
	pollPause     = 20 * time.Millisecond
	lookEvery     = time.Second
)

// Members are the members of the group, ordered by name, as they are after a read
// barrier. Where they are, and how far they have come, is what is known here.
func (s *Store) Members(ctx context.Context) ([]store.Member, error) {
	if err := ops.CheckContext(ctx); err != nil {
		return nil, err
	}
	m, progress, err := s.known(ctx)
	if err != nil {
		return nil, err
	}
	leader := s.host.leader()
	var all []store.Member
	for replica, label := range m.labels() {
		one := store.Member{Name: raftnet.Name(label), Leads: replica == leader}
		_, one.Learner = m.Learners[replica]
		_, one.Witness = m.Witnesses[replica]
		one.Applied = progress[one.Name]
		if !s.alone() {
			one.Address = s.members.addressOf(label)
		}
		all = append(all, one)
	}
	slices.SortFunc(all, func(a, b store.Member) int { return cmp.Compare(a.Name, b.Name) })
	return all, nil
}

// known is the membership after a read barrier, and how far members have come.
func (s *Store) known(ctx context.Context) (membership, map[string]uint64, error) {
	if s.witness {
		r, err := s.askForMembers(ctx)
		return r.Members, r.Progress, err
	}
	m, err := s.membership(ctx)
	progress := s.machine.progress.byName(m.names())
	progress[s.node] = s.machine.applied.Load()
	return m, progress, err
}

// AddMember has the node that listens at an address become a member: it was opened with
// Node, Address and a new directory, and with neither Members nor Join. It returns when
// the node votes, or learns if that is all that it wants.
func (s *Store) AddMember(ctx context.Context, name, address string) error {
	if err := s.canChange(ctx, name); err != nil {
		return err
	}
	m, err := s.membership(ctx)
	if err != nil {
		return afterTry(err, false)
	}
	replica, label, known := m.find(name)
	if known && m.Voters[replica] != "" {
		return fmt.Errorf("%w: there is a member %q", store.ErrMembers, name)
	}
	// One that does not vote yet, and a witness, may have been killed before it knew that it
	// was taken in: it waits to be invited again, then.
	var r reply
	_, err = s.ask(ctx, address, request{Invite: &invitation{Node: name, Label: label, Addresses: s.members.addresses()}}, &r)
	switch {
	case err == nil && r.Refused != "":
		return fmt.Errorf("%w: the node at %s: %s", store.ErrMembers, address, r.Refused)
	case err == nil || errors.Is(err, raftnet.ErrSent):
	case ctx.Err() == nil:
		return fmt.Errorf("%w: no node to add answers at %s: %w", store.ErrMembers, address, err)
	default:
		return ops.Ended(store.ErrUnavailable, ctx)
	}
	if r.Witness && !known {
		if err := m.mayHaveWitness(); err != nil {
			return err
		}
	}
	return s.awaitMember(ctx, name, !r.Learner && !r.Witness)
}

// awaitMember waits until there is a member with a name, and if it is to vote, until it does.
func (s *Store) awaitMember(ctx context.Context, name string, votes bool) error {
	for {
		m, err := s.membership(ctx)
		if err != nil {
			return afterTry(err, true)
		}
		if replica, _, ok := m.find(name); ok && !(votes && m.Learners[replica] != "") {
			return nil
		}
		if err := pause(ctx, pollPause); err != nil {
			return afterTry(err, true)
		}
	}
}

// RemoveMember has a member be one no longer: it stops, and its directory is of no use. A
// new directory may join under the same name.
func (s *Store) RemoveMember(ctx context.Context, name string) error {
	if err := s.canChange(ctx, name); err != nil {
		return err
	}
	found, gone := false, uint64(0)
	err := s.change(ctx, func(m membership) (func(change uint64) (*dragonboat.RequestState, error), error) {
		replica, label, ok := m.find(name)
		switch {
		case !ok && found, ok && found && replica != gone:
			return nil, nil
		case !ok:
			return nil, fmt.Errorf("%w: there is no member %q", store.ErrMembers, name)
		}
		if err := s.canBeWithout(ctx, &m, replica); err != nil {
			return nil, err
		}
		if len(m.Witnesses) > 0 {
			if err := s.leave(ctx, s.others(&m, replica)); err != nil {
				return nil, err
			}
		} else if s.host.leader() == replica { // whose removal would leave the group without one
			s.host.transferTo(ctx, s.others(&m, replica))
		}
		found, gone = true, replica
		s.log.Info("member is to be removed", "member", name, "as", label)
		return func(change uint64) (*dragonboat.RequestState, error) {
			return s.host.nh.RequestDeleteReplica(shard, replica, change, changeTimeout)
		}, nil
	})
	if found && name == s.node && errors.Is(err, store.ErrRemoved) {
		return nil // as was asked for
	}
	if err == nil && name != s.node {
		s.settle(ctx)
	}
	return err
}

// settle puts an entry that does nothing into the log. That a change is committed comes to
// the disk with the next entry: a member that is killed before that, and starts again,
// would need the removed one for a quorum.
func (s *Store) settle(ctx context.Context) {
	nothing := command.AppendTick(nil, command.Tick{Prev: math.MaxUint64}) // no tick was the one before
	for s.host.propose(nothing, nil, ctx.Done()) != proposalApplied {
		if s.ended() != nil || pause(ctx, changePause) != nil {
			return
		}
	}
}

// ended returns why the store ends, nil if it does not.
func (s *Store) ended() error {
	select {
	case <-s.closed:
		return s.ending.err()
	default:
	}
	if s.phase.Load() == phaseClosing {
		return s.ending.err()
	}
	return nil
}

// ReplaceMember is RemoveMember for a member whose directory is lost, and AddMember for the
// node that takes its place under its name.
func (s *Store) ReplaceMember(ctx context.Context, name, address string) error {
	if err := s.RemoveMember(ctx, name); err != nil {
		return err
	}
	return afterTry(s.AddMember(ctx, name, address), true)
}

// TransferLeadership has a member lead.
func (s *Store) TransferLeadership(ctx context.Context, name string) error {
	if err := s.canChange(ctx, name); err != nil {
		return err
	}
	for {
		m, err := s.membership(ctx)
		if err != nil {
			return err
		}
		replica, _, ok := m.find(name)
		if _, witness := m.Witnesses[replica]; witness {
			return fmt.Errorf("%w: %q is a witness, which cannot lead", store.ErrMembers, name)
		}
		if _, votes := m.Voters[replica]; !ok || !votes {
			return fmt.Errorf("%w: there is no voting member %q", store.ErrMembers, name)
		}
		if s.host.leader() == replica {
			return nil
		}
		s.host.transferTo(ctx, []uint64{replica})
		if err := pause(ctx, pollPause); err != nil {
			return err
		}
	}
}

// canChange tells whether this member may change who the members are.
func (s *Store) canChange(ctx context.Context, name string) error {
	if err := ops.CheckContext(ctx); err != nil {
		return err
	}
	switch {
	case s.alone():
		return fmt.Errorf("%w: this store was opened without Members and uses no network", store.ErrMembers)
	case s.witness:
		return fmt.Errorf("%w: this member is a witness, any other can", store.ErrMembers)
	case name == "":
		return fmt.Errorf("%w: the name is empty", store.ErrMembers)
	}
	return nil
}

// canBeWithout tells whether there is a quorum, of those who answer, without a replica. A
// witness is at most half of that, so there is one among them that can lead.
func (s *Store) canBeWithout(ctx context.Context, m *membership, replica uint64) error {
	if !m.votes(replica) {
		return nil
	}
	if _, full := m.Voters[replica]; full && len(m.Voters) == 1 {
		if len(m.Witnesses) > 0 {
			return fmt.Errorf("%w: it is the last that has the data", store.ErrMembers)
		}
		return fmt.Errorf("%w: it is the last that votes", store.ErrMembers)
	}
	left := maps.Clone(m.Voters)
	maps.Copy(left, m.Witnesses)
	delete(left, replica)
	var there sync.WaitGroup
	var mu sync.Mutex
	count := 0
	for id, label := range left {
		there.Go(func() {
			if id != s.member.Load() && s.ping(ctx, label) != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			count++
		})
	}
	there.Wait()
	if need := len(left)/2 + 1; count < need {
		return fmt.Errorf("%w: without it, %d of %d answer, and %d are needed", store.ErrMembers, count, len(left), need)
	}
	return nil
}

// others are those but one that can lead, in the order in which they are to.
func (s *Store) others(m *membership, but uint64) []uint64 {
	var ids []uint64
	for id := range m.Voters {
		if id != but {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// change has the members changed. Decide is given them as they are, and returns what to
// ask of Dragonboat, or nil if they are as they should be. It is asked again after each
// attempt: one that is lost may have been carried out, and one that another change came
// before never is, since each names the change that it follows.
func (s *Store) change(ctx context.Context, decide func(m membership) (func(change uint64) (*dragonboat.RequestState, error), error)) error {
	tried := false
	for {
		m, err := s.membership(ctx)
		if err != nil {
			return afterTry(err, tried)
		}
		ask, err := decide(m)
		if ask == nil || err != nil {
			return afterTry(err, tried)
		}
		tried = true
		if !s.host.await(ctx, func() (*dragonboat.RequestState, error) { return ask(m.Change) }) {
			if err := pause(ctx, changePause); err != nil {
				return afterTry(err, tried)
			}
		}
	}
}

// membership returns the membership after a read barrier.
func (s *Store) membership(ctx context.Context) (membership, error) {
	for {
		// The barrier has the errors of a store that is closed, or is not started yet.
		if err := s.barriers.wait(ctx); err != nil {
			return membership{}, err
		}
		m, err := s.host.membership(ctx)
		if err == nil {
			if s.alone() {
				m.Voters = map[uint64]string{1: s.node}
			}
			return m, nil
		}
		if err := pause(ctx, changePause); err != nil {
			return membership{}, err
		}
	}
}

// afterTry is the error of a change that may have been made.
func afterTry(err error, tried bool) error {
	if err == nil || !tried {
		return err
	}
	return fmt.Errorf("%w: %w", store.ErrUnknown, err)
}

// pause waits a moment, less if ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ops.Ended(store.ErrUnavailable, ctx)
	case <-time.After(d):
		return nil
	}
}

// follow keeps what is known of the members, until ctx ends.
func (s *Store) follow(ctx context.Context) {
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for looks := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
			s.acquaint(ctx)
			if s.witness && (looks%witnessLooks == 0 || s.logIsLong()) {
				s.look(ctx)
			}
			looks++
		case <-s.host.changes.members:
			if s.witness {
				continue // Dragonboat tells a witness little of that, see look
			}
			m := s.members.membership()
			if voters, change, ok := s.host.voters(); ok && change > m.Change {
				// All that is known without a quorum, which may need it to be one. Who does not
				// vote any more was removed, and is to be told: it may still lead.
				m.Removed = slices.Clone(m.Removed)
				for id := range m.Voters {
					if voters[id] == "" {
						m.Removed = append(m.Removed, id)
					}
				}
				slices.Sort(m.Removed)
				m.Change, m.Voters = change, voters
				m.Learners = maps.Clone(m.Learners)
				maps.DeleteFunc(m.Learners, func(id uint64, _ string) bool { _, votes := voters[id]; return votes })
				s.learn(m)
			}
			m, err := s.host.membership(ctx)
			if err != nil {
				if pause(ctx, changePause) == nil {
					s.host.changes.again()
				}
				continue
			}
			s.learn(m)
			if s.unsettled.Swap(false) { // who has asked for it may be the one that is gone
				brief, cancel := context.WithTimeout(ctx, changeTimeout)
				s.settle(brief)
				cancel()
			}
		}
	}
}

// acquaint meets those that have not been met, though Raft may have no message for them:
// the more remember a member's directory, the surer one that has lost it is found out. And
// it asks all as long as there is no leader: one that was removed may have nothing to say to
// them, and so not be told.
func (s *Store) acquaint(ctx context.Context) {
	labels := s.members.strangers()
	if s.host.leader() == 0 {
		labels = s.members.all()
	}
	for _, label := range labels {
		if err := s.ping(ctx, label); err != nil {
			s.log.Debug("member not met", "member", raftnet.Name(label), "why", err)
		}
	}
	if s.isJoining() || s.host.leader() != 0 {
		return
	}
	for _, address := range s.joinBy { // who it has joined by may know more than it remembers
		brief, cancel := context.WithTimeout(ctx, time.Second)
		err := s.pingAt(brief, address, "")
		cancel()
		if err != nil {
			s.log.Debug("no member met", "address", address, "why", err)
		}
	}
}

// learn takes a membership for that which there is now.
func (s *Store) learn(m membership) {
	for _, gone := range s.members.changed(m) {
		s.unsettled.Store(true)
		s.log.Info("member is one no longer", "member", raftnet.Name(gone))
		s.net.Drop(gone) // so that it is told when it comes back
	}
	own := s.member.Load()
	_, learns := m.Learners[own]
	if m.votes(own) || learns && s.learner {
		s.joined.Do(func() { close(s.isMember) })
	}
	if slices.Contains(m.Removed, own) {
		s.wasRemoved("")
	}
}

// wasRemoved ends the store, whose member is one no longer: the log says so if by is "",
// else that member.
func (s *Store) wasRemoved(by string) {
	s.removing.Do(func() {
		s.ending.set(fmt.Errorf("%w: %w", store.ErrClosed, store.ErrRemoved))
		s.log.Warn("this member was removed from its group", "member", s.node, "by", cmp.Or(raftnet.Name(by), "the log"))
		if err := s.dir.change(func(id *identity) { id.Removed = true }); err != nil {
			s.log.Warn("not remembered that this member was removed", "error", err)
		}
		s.end()
	})
}

// end closes the store, once it has begun, without waiting for it.
func (s *Store) end() {
	go func() {
		<-s.begun
		s.Close()
	}()
}

// ending is why a store that is closed is.
type ending struct {
	mu  sync.Mutex
	why error
}

func (e *ending) set(why error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.why == nil {
		e.why = why
	}
}

// err is what operations return then.
func (e *ending) err() error {
	if e == nil {
		return store.ErrClosed
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.why == nil {
		return store.ErrClosed
	}
	return e.why
}

var errNoSnapshot = errors.New("there is no snapshot yet of the backup that the group began with")
