package replica

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"dkv/internal/raftnet"
	"dkv/store"

	"github.com/lni/dragonboat/v4"
)

// A node joins in four steps, of which each is done again if it is not known to be done:
//
//  1. It asks members, one after the other, which replica number nobody has had yet, and
//     then to be taken in under that, its name and the number of its directory. The one
//     that answers has the group add it as a learner, unless it is one already. That a
//     request names the number keeps one that is late from having its effect after
//     another has had, and the node was removed again. Before that the leader makes a
//     snapshot, if the log behind the last one is long: the node gets that sooner.
//  2. It writes to its directory what it is told: its replica number and the group.
//  3. It starts its replica, which gets the state from the leader.
//  4. When it has caught up it has the group make it a voter, unless it is to learn only.
//
// A witness is added as what it is in the first step, and votes from then on: Dragonboat
// makes nothing else a witness, nor anything else of one.
//
// A node that dies for good before the last step is a learner, which no quorum misses.

// request is what one member asks another, as JSON. One of the fields is set.
type request struct {
	Ping   uint64      `json:"ping,omitempty"`  // the group, of which the asker is a member
	Found  bool        `json:"found,omitempty"` // may the asker found the group with this member?
	Join   *joining    `json:"join,omitempty"`
	Look   bool        `json:"look,omitempty"` // who the members are, after a read barrier
	Invite *invitation `json:"invite,omitempty"`
	Fresh  bool        `json:"fresh,omitempty"`  // have a snapshot for a node that is to join
	Counts uint64      `json:"counts,omitempty"` // the group: tell whether the asker is waited for, see awaitCounting
}

// joining has the asker be taken in under a replica number; 0: it is told one.
type joining struct {
	Replica uint64 `json:"replica,omitempty"`
	Witness bool   `json:"witness,omitempty"`
}

// invitation has a node that waits join.
type invitation struct {
	Node      string   `json:"node"`            // that is meant
	Label     string   `json:"label,omitempty"` // what the member is that has the name already, if one has
	Addresses []string `json:"addresses"`       // of members
}

// reply answers a request.
type reply struct {
	Refused string `json:"refused,omitempty"` // why not, for good
	Later   string `json:"later,omitempty"`   // why not now
	Removed bool   `json:"removed,omitempty"` // Refused is that the asker was removed

	// To Join, Ping and Look.
	Members membership `json:"members"`

	// To Look. Members are those after entry Applied.
	Applied  uint64            `json:"applied,omitempty"`
	Progress map[string]uint64 `json:"progress,omitempty"` // by name

	// To Join.
	Free    uint64          `json:"free,omitempty"` // a number that no replica has had
	Replica uint64          `json:"replica,omitempty"`
	Group   uint64          `json:"group,omitempty"`
	Places  []raftnet.Place `json:"places,omitempty"`

	// To Counts.
	Counts bool `json:"counts,omitempty"`

	// To Invite.
	Learner bool `json:"learner,omitempty"`
	Witness bool `json:"witness,omitempty"`
}

// ask has a member answer a request, and returns its label.
func (s *Store) ask(ctx context.Context, address string, r request, answer *reply) (by raftnet.Peer, err error) {
	b, err := json.Marshal(r)
	if err != nil {
		return by, err
	}
	got, by, err := raftnet.Asker{Security: s.security, Self: s.members.Peer}.Ask(ctx, address, b)
	if err != nil {
		return by, err
	}
	return by, json.Unmarshal(got, answer)
}

// askMember has the member with a label answer a request, wherever it is reached now.
func (s *Store) askMember(ctx context.Context, label string, r request, answer *reply) (by raftnet.Peer, err error) {
	address, err := s.members.Resolve(ctx, label)
	if err != nil {
		return by, err
	}
	by, err = s.ask(ctx, address, r, answer)
	if err == nil && by.Self().Member != label {
		err = fmt.Errorf("%q answers at %s", raftnet.Name(by.Self().Member), address)
	}
	return by, err
}

// ping makes sure that a member answers, and is the one that it was. Both remember each
// other's directory then, and this one who the members are if the other knows better.
func (s *Store) ping(ctx context.Context, label string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	address, err := s.members.Resolve(ctx, label)
	if err != nil {
		return err
	}
	return s.pingAt(ctx, address, label)
}

// pingAt is ping of whoever is at an address; a label of "" stands for any member.
func (s *Store) pingAt(ctx context.Context, address, label string) error {
	var r reply
	by, err := s.ask(ctx, address, request{Ping: s.dir.id().Group}, &r)
	if err != nil {
		return err
	}
	self := by.Self().Member
	if m := s.members.membership(); label != "" && self != label || !m.has(self) {
		return fmt.Errorf("%q answers at %s", raftnet.Name(self), address)
	}
	if r.Removed {
		s.wasRemoved(self)
	}
	if r.Refused != "" {
		return errors.New(r.Refused)
	}
	if err := s.members.Meet(by); err != nil {
		return err
	}
	if m := s.members.membership(); r.Members.Change > m.Change {
		s.learn(r.Members)
	}
	return nil
}

// answer answers a request of a peer.
func (s *Store) answer(ctx context.Context, from raftnet.Peer, b []byte) []byte {
	var r request
	var a reply
	if err := json.Unmarshal(b, &r); err != nil {
		a.Refused = "it is no request that this version knows"
	} else {
		switch {
		case r.Ping != 0:
			if r.Ping != s.dir.id().Group {
				a.Refused = "it is a member of another group"
			} else if err := s.members.Meet(from); err != nil {
				a.Refused, a.Removed = err.Error(), errors.Is(err, raftnet.ErrRemoved)
			} else {
				a.Members = s.members.membership()
			}
		case r.Found:
			a.Refused = s.mayFound(from)
		case r.Join != nil:
			a = s.takeIn(ctx, from, *r.Join)
		case r.Look:
			a = s.tellMembers(ctx, from)
		case r.Invite != nil:
			a = s.accept(*r.Invite)
		case r.Fresh:
			a = s.refresh(ctx, from)
		case r.Counts != 0:
			a = s.counts(ctx, from, r.Counts)
		default:
			a.Refused = "it is no request that this version knows"
		}
	}
	b, err := json.Marshal(a)
	if err != nil {
		b = []byte("{}")
	}
	return b
}

// mayFound tells why a node with a new directory may not be the founding member that its
// name says, "" if it may.
func (s *Store) mayFound(from raftnet.Peer) string {
	label := from.Self().Member
	m := s.members.membership()
	if !m.has(label) {
		return "the group has no such member any longer"
	}
	if d := s.members.directoryOf(label); d != 0 && d != from.Directory {
		return "the member had another directory"
	}
	return ""
}

// mayBegin asks those that can be reached whether this node's new directory may be a
// founding member's. Who cannot be reached is in no group with it yet, or finds out by
// its directory's number when they meet.
func (s *Store) mayBegin() error {
	refused := make(chan error)
	others := s.members.all()
	for _, label := range others {
		go func() { // which takes a second at most, and is waited for
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			var r reply
			address, err := s.members.Resolve(ctx, label)
			if err == nil {
				_, err = s.ask(ctx, address, request{Found: true}, &r)
			}
			if err == nil && r.Refused != "" {
				err = fmt.Errorf("it is new, and Node %q is known to %q: %s. If that is lost, have it replaced: RemoveMember, and open this with Join", s.node, label, r.Refused)
			} else {
				err = nil
			}
			refused <- err
		}()
	}
	var why error
	for range others {
		if err := <-refused; err != nil {
			why = err
		}
	}
	return why
}

// refresh has a snapshot be made here, for a member that is to take a node in.
func (s *Store) refresh(ctx context.Context, from raftnet.Peer) reply {
	m := s.members.membership()
	switch {
	case s.isJoining() || !m.has(from.Self().Member):
		return reply{Refused: "it is not of this group"}
	case s.witness:
		return reply{Refused: "it is a witness"}
	case !s.snapshotter.refresh(ctx):
		return reply{Later: "it is being made"}
	}
	return reply{}
}

// freshen has the leader make a snapshot if that is the soonest way to all of the state.
// It is false if that is under way still. Where it cannot be made, or there is no leader,
// a node gets what there is.
func (s *Store) freshen(ctx context.Context) bool {
	leader := s.host.leader()
	if leader == s.member.Load() {
		return s.snapshotter.refresh(ctx)
	}
	label := s.members.membership().Voters[leader]
	if label == "" {
		return true
	}
	var a reply
	_, err := s.askMember(ctx, label, request{Fresh: true}, &a)
	return a.Later == "" && !errors.Is(err, raftnet.ErrSent)
}

// takeIn has a node become a learner or witness of the group, under the number that it
// asks for if that is free.
func (s *Store) takeIn(ctx context.Context, from raftnet.Peer, as joining) (a reply) {
	self := from.Self()
	name := raftnet.Name(self.Member)
	if self.Member != joinerLabel(name, from.Directory, labelAddress(self.Member)) || checkAddress(labelAddress(self.Member)) != nil {
		return reply{Refused: "it does not say who and where it is"}
	}
	if why := checkName(name); why != "" {
		return reply{Refused: "its name " + why}
	}
	if s.isJoining() {
		return reply{Later: "this node is no member yet"}
	}
	if s.witness {
		return reply{Later: "this member is a witness", Places: s.members.Peer().Places}
	}
	known := s.members.membership()
	if _, _, ok := known.find(name); !ok && as.Replica == known.unused() && !as.Witness && !s.freshen(ctx) {
		return reply{Later: "a snapshot is being made for it"}
	}
	err := s.change(ctx, func(m membership) (func(change uint64) (*dragonboat.RequestState, error), error) {
		if replica, label, ok := m.find(name); ok {
			if label != self.Member {
				return nil, fmt.Errorf("%w: there is a member %q that has another directory; if that is lost, it is to be removed first", store.ErrMembers, name)
			}
			a.Replica, a.Members = replica, m
			return nil, nil
		}
		if as.Witness {
			if err := m.mayHaveWitness(); err != nil {
				return nil, err
			}
			if len(m.Voters) < 2 { // beside which it would be one more that must not fail
				a.Later = "a witness is for a group of two members with data, or more"
				return nil, nil
			}
		}
		if a.Free = m.unused(); a.Free != as.Replica {
			return nil, nil
		}
		s.log.Info("node is to be taken in", "member", name, "address", self.Address, "witness", as.Witness)
		return func(change uint64) (*dragonboat.RequestState, error) {
			if as.Witness {
				return s.host.nh.RequestAddWitness(shard, as.Replica, self.Member, change, changeTimeout)
			}
			return s.host.nh.RequestAddNonVoting(shard, as.Replica, self.Member, change, changeTimeout)
		}, nil
	})
	switch store.KindOf(err) {
	case store.KindNone:
	case store.KindFinal:
		return reply{Refused: err.Error()}
	default:
		return reply{Later: err.Error()}
	}
	a.Group, a.Places = s.dir.id().Group, s.members.Peer().Places
	return a
}

// accept has this node join, if it waits to be asked to.
func (s *Store) accept(i invitation) reply {
	switch {
	case i.Node != s.node:
		return reply{Refused: fmt.Sprintf("it is the node %q", s.node)}
	case i.Label != "" && i.Label != s.dir.id().Member && s.isJoining():
		return reply{Refused: "the group has a member of its name that has another directory; if that is lost, it is to be removed first"}
	case !s.isJoining():
		return reply{Refused: "it is a member of a group"}
	}
	select {
	case s.invited <- i.Addresses:
	default: // it was invited just now
	}
	return reply{Learner: s.learner, Witness: s.witness}
}

// isJoining tells whether this node has no replica yet.
func (s *Store) isJoining() bool { return s.member.Load() == 0 }

// join makes this node a member, until ctx ends, and starts its replica.
func (s *Store) join(ctx context.Context, opts Options) {
	if s.isJoining() {
		if !s.enter(ctx, opts.Join) {
			return
		}
		if err := s.startReplica(opts); err != nil {
			s.fail(err)
			return
		}
	}
	if s.learner || s.witness {
		return
	}
	if err := s.barriers.wait(ctx); err != nil { // now it has caught up
		return
	}
	err := s.change(ctx, func(m membership) (func(change uint64) (*dragonboat.RequestState, error), error) {
		own := s.member.Load()
		label, learns := m.Learners[own]
		if !learns {
			return nil, nil
		}
		return func(change uint64) (*dragonboat.RequestState, error) {
			return s.host.nh.RequestAddReplica(shard, own, label, change, changeTimeout)
		}, nil
	})
	if err != nil && ctx.Err() == nil {
		s.log.Warn("member does not vote", "error", err)
	}
}

// enter asks members to take this node in, until one has. It is false if ctx ends, or if
// it was refused.
func (s *Store) enter(ctx context.Context, addresses []string) bool {
	const minPause, maxPause = 100 * time.Millisecond, 2 * time.Second
	const maxAddresses = 256 // that are told, which is not more than a group has
	wait, free := minPause, uint64(0)
	addresses = slices.Clone(addresses)
	for n := 0; ; n++ {
		if len(addresses) == 0 {
			select {
			case addresses = <-s.invited:
			case <-ctx.Done():
				return false
			}
			continue
		}
		select {
		case more := <-s.invited:
			addresses = append(slices.DeleteFunc(addresses, func(a string) bool { return slices.Contains(more, a) }), more...)
		default:
		}
		var a reply
		address := addresses[n%len(addresses)]
		_, err := s.ask(ctx, address, request{Join: &joining{free, s.witness}}, &a)
		switch {
		case err != nil:
			s.log.Debug("not taken in", "by", address, "error", err)
		case a.Refused != "":
			s.fail(fmt.Errorf("%w: Join: %s: %s", store.ErrBadOptions, address, a.Refused))
			return false
		case a.Free != 0 && a.Free != free && a.Replica == 0:
			free = a.Free
			n-- // it is asked again, at once
			continue
		case a.Replica == 0:
			s.log.Debug("not taken in yet", "by", address, "why", a.Later)
			for _, p := range a.Places { // others that can
				if len(addresses) < maxAddresses && !slices.Contains(addresses, p.Address) && checkAddress(p.Address) == nil {
					addresses = append(addresses, p.Address)
				}
			}
		default:
			if _, witness := a.Members.Witnesses[a.Replica]; witness != s.witness {
				s.fail(fmt.Errorf("%w: Witness: %s: it is taken in as something else, perhaps by an earlier version", store.ErrBadOptions, address))
				return false
			}
			if err = s.members.begin(a.Members, a.Places); err == nil {
				err = s.dir.change(func(id *identity) { id.Replica, id.Group = a.Replica, a.Group })
			}
			if err == nil {
				s.log.Info("taken in", "by", address, "replica", a.Replica)
				return true
			}
			s.log.Warn("not taken in", "error", err)
		}
		if pause(ctx, wait) != nil {
			return false
		}
		if n%len(addresses) == len(addresses)-1 {
			wait = min(2*wait, maxPause)
		}
	}
}

// fail ends the store, which cannot become a member.
func (s *Store) fail(err error) {
	s.log.Warn("this node cannot join", "error", err)
	s.ending.set(err)
	s.end()
}
