package replica

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"dkv/internal/ops"
	"dkv/internal/raftnet"
	"dkv/store"

	"github.com/lni/dragonboat/v4/raftpb"
)

// A witness is a member that votes and keeps of each log entry its index and term, and
// the changes of the members: enough to tell who may lead, and that an entry is on a
// majority's disks. It has no state, proposes nothing, reads nothing and never leads. So
// two members with data and a witness go on without any one of the three, and what was
// acknowledged while one of the two was away is then on the disk of the other alone, and
// of no use to the first before it has got it.
//
// What a witness has to know beyond its log, the others tell it: see look.

// errWitness is what it has for who would read or write.
var errWitness = fmt.Errorf("%w: this member is a witness, any other has it", store.ErrNoData)

// witnessSegment is how large a file of a witness' log is, in bytes: a few are all that it
// has.
const witnessSegment = 4 << 20

// witnessLooks is how many times lookEvery a witness lets pass before it looks who the
// members are.
const witnessLooks = 5

// lookTimeout is how long a witness waits for one member's answer.
const lookTimeout = 2 * time.Second

// haveFirst are the members but this one that are to have an entry before a witness, and how
// many, with this one, a quorum is.
func (s *Store) haveFirst() (others []uint64, quorum int) {
	m := s.members.membership()
	return s.others(&m, s.member.Load()), (len(m.Voters)+len(m.Witnesses))/2 + 1
}

// isWitness tells whether a member is one, as far as is known.
func (s *Store) isWitness(label string) bool {
	m := s.members.membership()
	for _, witness := range m.Witnesses {
		if witness == label {
			return true
		}
	}
	return false
}

// turned is told of members that are not waited for, or are again.
func (s *Store) turned(replica uint64, away bool) {
	name := s.names()[replica]
	if away {
		s.log.Warn("member is away: until it is back, what is written is on the disks of the others alone", "member", name)
		return
	}
	s.log.Info("member is back", "member", name)
}

// counting is what a member with data knows of whether the leader waits for it.
type counting struct {
	asking chan struct{} // has room for the one call that asks
	at     time.Time     // when the leader said so; of who asks
}

// awaitCounting waits until this member could take the place of a leader that is lost. One
// that has just been away has what was acknowledged when it asked, but meanwhile the leader
// and the witness have gone on without it.
func (s *Store) awaitCounting(ctx context.Context, m membership) error {
	const (
		minPause, maxPause = 20 * time.Millisecond, 500 * time.Millisecond
		fresh              = 200 * time.Millisecond // much less than it takes to be taken for away
	)
	if len(m.Witnesses) == 0 || m.Voters[s.member.Load()] == "" {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-s.closed:
			cancel()
		case <-ctx.Done():
		}
	}()
	// The leader has better things to do than to be asked by each caller.
	select {
	case s.counting.asking <- struct{}{}:
		defer func() { <-s.counting.asking }()
	case <-ctx.Done():
	}
	for wait := minPause; ; wait = min(2*wait, maxPause) {
		if err := s.ended(); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return ops.Ended(store.ErrUnavailable, ctx)
		}
		if time.Since(s.counting.at) < fresh || s.mayTakeOver(ctx) {
			return nil
		}
		pause(ctx, wait)
	}
}

// mayTakeOver asks the leader whether it waits for this member.
func (s *Store) mayTakeOver(ctx context.Context) bool {
	m, leader := s.members.membership(), s.host.leader()
	if leader == s.member.Load() {
		return true
	}
	label := m.Voters[leader]
	if label == "" {
		return false // there is none, or who that is comes to be known later
	}
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	began := time.Now()
	var a reply
	_, err := s.askMember(ctx, label, request{Counts: s.dir.id().Group}, &a)
	if err != nil || !a.Counts {
		s.log.Debug("leader does not wait for this member", "leader", raftnet.Name(label), "error", err, "why", a.Refused+a.Later)
		return false
	}
	s.counting.at = began
	return true
}

// counts answers a member that asks whether this one, as the leader, waits for it. That is to
// have all that a witness may have been told of before; what it is told later, others that
// are enough have as well, or that member has it.
func (s *Store) counts(ctx context.Context, from raftnet.Peer, group uint64) reply {
	asker := uint64(0)
	m := s.members.membership()
	for replica, label := range m.Voters {
		if label == from.Self().Member {
			asker = replica
		}
	}
	term, leads := s.host.leadsIn()
	switch {
	case group != s.dir.id().Group:
		return reply{Refused: "it is a member of another group"}
	case asker == 0:
		return reply{Later: "it does not vote, as far as is known here"}
	case !leads:
		return reply{Later: "this member does not lead"}
	}
	ctx, cancel := context.WithTimeout(ctx, lookTimeout/2)
	defer cancel()
	if err := s.barriers.wait(ctx); err != nil {
		return reply{Later: err.Error()}
	}
	if now, leads := s.host.leadsIn(); !leads || now != term {
		return reply{Later: "this member does not lead any longer"}
	}
	if !s.followers.awaitTold(ctx, term, asker) {
		return reply{Later: "it is catching up"}
	}
	return reply{Counts: true}
}

// hasData tells whether what is stored can be asked for here.
func (s *Store) hasData() error {
	if s.witness {
		return s.barriers.wait(context.Background()) // which is refused at once
	}
	return nil
}

// mayHaveWitness tells whether the group may have one more witness. With two, a write could
// be acknowledged that is on the disk of a single member with data, however many there are.
func (m *membership) mayHaveWitness() error {
	for _, label := range m.Witnesses { // one at most
		return fmt.Errorf("%w: the group has a witness, %q, and may have one", store.ErrMembers, raftnet.Name(label))
	}
	return nil
}

// leave has one of those lead who stay when a member is removed from a group with a witness,
// and waits until one does. The one that leads has all that is acknowledged, and has the
// removal on its disk. If it is the one that goes, and only the witness has it besides, those
// who stay have nobody that the witness would vote for, and what was acknowledged is gone.
func (s *Store) leave(ctx context.Context, to []uint64) error {
	for !slices.Contains(to, s.host.leader()) {
		if err := s.ended(); err != nil {
			return err
		}
		s.host.transferTo(ctx, to)
		if slices.Contains(to, s.host.leader()) {
			break
		}
		// Nothing is written while leadership is handed over, so that is not tried all the
		// time.
		if err := pause(ctx, leavePause); err != nil {
			return err
		}
	}
	return nil
}

// leavePause is between two tries to have another member lead.
const leavePause = time.Second

// tellMembers answers a member that looks who the members are.
func (s *Store) tellMembers(ctx context.Context, from raftnet.Peer) (a reply) {
	if s.isJoining() || s.witness {
		return reply{Later: "this node has no data"}
	}
	if err := s.members.Meet(from); err != nil {
		return reply{Refused: err.Error()}
	}
	// The index first: the members are those after that entry then, or have changed since
	// by an entry with a greater one, which they name.
	a.Applied = s.machine.applied.Load()
	var err error
	if a.Members, a.Progress, err = s.known(ctx); err != nil {
		return reply{Later: err.Error()}
	}
	return a
}

// askForMembers has one of the others that have data say who the members are, after a read
// barrier: that proves a quorum, too.
func (s *Store) askForMembers(ctx context.Context) (reply, error) {
	for {
		if err := s.ended(); err != nil {
			return reply{}, err
		}
		if a, ok := s.askEach(ctx); ok {
			return a, nil
		}
		if err := pause(ctx, changePause); err != nil {
			return reply{}, err
		}
	}
}

// askEach asks the members that have data, the leader first, until one has answered.
func (s *Store) askEach(ctx context.Context) (reply, bool) {
	m, leader := s.members.membership(), s.host.leader()
	full := maps.Clone(m.Voters)
	maps.Copy(full, m.Learners)
	ids := slices.SortedFunc(maps.Keys(full), func(a, b uint64) int {
		switch leader {
		case a:
			return -1
		case b:
			return 1
		}
		return int(a) - int(b)
	})
	for _, id := range ids {
		if a, err := s.askOne(ctx, full[id]); err == nil {
			return a, true
		} else if ctx.Err() != nil {
			break
		} else {
			s.log.Debug("members not told", "by", raftnet.Name(full[id]), "why", err)
		}
	}
	return reply{}, false
}

func (s *Store) askOne(ctx context.Context, label string) (a reply, err error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	by, err := s.askMember(ctx, label, request{Look: true}, &a)
	switch {
	case err != nil:
		return a, err
	case a.Applied == 0:
		return a, fmt.Errorf("it does not say: %s%s", a.Refused, a.Later)
	}
	return a, s.members.Meet(by)
}

// look keeps what a witness knows of the members, of whose changes Dragonboat tells it only
// as it receives a snapshot, and its log short.
func (s *Store) look(ctx context.Context) {
	if s.isJoining() {
		return
	}
	a, ok := s.askEach(ctx)
	if !ok {
		return
	}
	s.learn(a.Members)
	if !s.logIsLong() {
		return
	}
	switch cut, err := s.batcher.space.log.Load().Cut(a.Applied, a.Members.raft()); {
	case err != nil:
		s.log.Warn("log not cut short", "error", err)
	case cut:
		s.log.Info("log cut short", "index", a.Applied)
	}
}

// logIsLong tells whether the log of a witness is to be cut short.
func (s *Store) logIsLong() bool {
	l := s.batcher.space.log.Load()
	return l != nil && l.Written() >= s.snapshotter.every
}

// raft is how Dragonboat has it.
func (m *membership) raft() raftpb.Membership {
	removed := make(map[uint64]bool)
	for _, replica := range m.Removed {
		removed[replica] = true
	}
	return raftpb.Membership{
		ConfigChangeId: m.Change,
		Addresses:      m.Voters,
		NonVotings:     m.Learners,
		Witnesses:      m.Witnesses,
		Removed:        removed,
	}
}

// awaitVote is Ready of a witness: it has been told that it votes, by a member that a
// quorum has answered, and has in its log what that one had applied.
func (s *Store) awaitVote(ctx context.Context) error {
	if err := ops.CheckContext(ctx); err != nil {
		return err
	}
	for {
		if !s.isJoining() {
			a, err := s.askForMembers(ctx)
			if err != nil {
				return err
			}
			s.learn(a.Members)
			if l := s.batcher.space.log.Load(); l != nil && a.Members.votes(s.member.Load()) {
				if _, last := l.Range(); last >= a.Applied {
					return nil
				}
			}
		}
		select {
		case <-s.closed:
			return s.ending.err()
		case <-ctx.Done():
			return ops.Ended(store.ErrUnavailable, ctx)
		case <-time.After(pollPause):
		}
	}
}
