package replica

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"

	"dkv/internal/raftnet"
)

// membership is who is in the group after one change. A member is called by what
// Dragonboat takes for its address, its label: the name of a founding member, and of
// another name@directory@address, see joinerLabel.
type membership struct {
	Change    uint64            `json:"change"` // Dragonboat's number of the change
	Voters    map[uint64]string `json:"voters"` // labels by replica; all of them have data
	Learners  map[uint64]string `json:"learners,omitempty"`
	Witnesses map[uint64]string `json:"witnesses,omitempty"` // they vote, too, and have no data
	Removed   []uint64          `json:"removed,omitempty"`   // replicas that were members once
}

// founders is the membership that a group begins with: Dragonboat begins the log with a
// change for each, in the order of the names.
func founders(names []string) membership {
	m := membership{Change: uint64(len(names)), Voters: make(map[uint64]string)}
	for i, name := range names {
		m.Voters[uint64(i+1)] = name
	}
	return m
}

// find returns the member with a name.
func (m *membership) find(name string) (replica uint64, label string, ok bool) {
	for _, all := range []map[uint64]string{m.Voters, m.Learners, m.Witnesses} {
		for replica, label := range all {
			if strings.EqualFold(raftnet.Name(label), name) { // as Dragonboat compares them
				return replica, label, true
			}
		}
	}
	return 0, "", false
}

// has tells whether there is a member with a label.
func (m *membership) has(label string) bool {
	for _, of := range m.labels() {
		if of == label {
			return true
		}
	}
	return false
}

func (m *membership) labels() map[uint64]string {
	all := maps.Clone(m.Voters)
	maps.Copy(all, m.Learners)
	maps.Copy(all, m.Witnesses)
	return all
}

// votes tells whether a replica is one that a quorum may need.
func (m *membership) votes(replica uint64) bool {
	return m.Voters[replica] != "" || m.Witnesses[replica] != ""
}

// names has the name of each member by its replica.
func (m *membership) names() map[uint64]string {
	all := m.labels()
	for replica, label := range all {
		all[replica] = raftnet.Name(label)
	}
	return all
}

// unused is a number that no replica has ever had.
func (m *membership) unused() uint64 {
	highest := uint64(0)
	for _, replica := range m.Removed {
		highest = max(highest, replica)
	}
	for replica := range m.labels() {
		highest = max(highest, replica)
	}
	return highest + 1
}

// joinerLabel is the label of a member that is no founding one: it tells its directory
// from one that had the name before, and where to find it until it says so itself.
func joinerLabel(name string, directory uint64, address string) string {
	return fmt.Sprintf("%s@%016x@%s", name, directory, address)
}

// isJoiner tells whether a label is of a member that is no founding one.
func isJoiner(label string) bool { return strings.Contains(label, "@") }

// labelAddress is the address in a label, "" if there is none.
func labelAddress(label string) string {
	parts := strings.SplitN(label, "@", 3)
	if len(parts) < 3 {
		return ""
	}
	return parts[2]
}

// members knows who the members of the group are, and where they are reached: from the
// options at first, and then from what they tell each other as they connect. Of two places
// of a member, that of the later incarnation counts. What it has been told is remembered
// when the directory is opened again, unless the options say something else of the member
// then than before. It is a raftnet.Members.
type members struct {
	log     *slog.Logger
	resolve func(ctx context.Context, node string) (string, error) // of Options, or nil
	given   map[string]string                                      // Options.Members
	dir     *directory
	own     string // its label
	address string // where it is

	removed func(by string)    // this member is one no longer, somebody says
	drop    func(label string) // connections of a member are to end
	answer  func(ctx context.Context, from raftnet.Peer, request []byte) []byte

	mu     sync.Mutex
	now    membership
	others map[string]known // by label

	saving sync.Mutex
}

// known is what is known of a member.
type known struct {
	raftnet.Place
	Directory uint64 `json:"directory"` // 0: it has never been met
	Given     string `json:"given"`     // what the options said
}

// remembered is what the file membersFile has.
type remembered struct {
	membership
	Known []known `json:"known"`
}

func newMembers(opts Options, dir *directory) *members {
	m := &members{
		log:     opts.Logger,
		resolve: opts.Resolve,
		given:   opts.Members,
		address: opts.address(),
		own:     dir.identity.Member,
		dir:     dir,
		now:     founders(dir.identity.Founders),
		others:  make(map[string]known),
	}
	m.load()
	m.fillLocked()
	return m
}

// fillLocked has others be those that there are now.
func (m *members) fillLocked() {
	maps.DeleteFunc(m.others, func(label string, _ known) bool { return !m.now.has(label) })
	for _, label := range m.now.labels() {
		if _, ok := m.others[label]; ok || label == m.own {
			continue
		}
		given := m.given[raftnet.Name(label)]
		place := raftnet.Place{Member: label, Address: cmp.Or(given, labelAddress(label))}
		m.others[label] = known{Place: place, Given: given}
	}
}

// load reads what was remembered. Without that, the options have to do.
func (m *members) load() {
	data, err := readFile(m.dir.fs, m.dir.join(membersFile))
	if err != nil {
		return
	}
	var was remembered
	if err := json.Unmarshal(data, &was); err != nil {
		m.log.Warn("file is damaged", "file", membersFile, "error", err)
		return
	}
	if was.Change > m.now.Change {
		m.now = was.membership
	}
	for _, k := range was.Known {
		if !m.now.has(k.Member) {
			continue
		}
		if given := m.given[raftnet.Name(k.Member)]; given != k.Given && given != "" || checkAddress(k.Address) != nil {
			k.Place, k.Given = raftnet.Place{Member: k.Member, Address: given}, given
		}
		m.others[k.Member] = k
	}
}

// save remembers what is known now, if it can.
func (m *members) save() error {
	m.saving.Lock()
	defer m.saving.Unlock()
	m.mu.Lock()
	is := remembered{membership: m.now}
	for _, label := range slices.Sorted(maps.Keys(m.others)) {
		if k := m.others[label]; k.Incarnation != 0 || k.Directory != 0 {
			is.Known = append(is.Known, k)
		}
	}
	m.mu.Unlock()
	data, err := json.MarshalIndent(is, "", "\t")
	if err == nil {
		err = writeFile(m.dir.fs, m.dir.join(membersFile), append(data, '\n'))
	}
	if err != nil {
		m.log.Warn("not remembered who and where members are", "error", err)
	}
	return err
}

// membership is the group as it is known here, and not to be changed.
func (m *members) membership() membership {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.now
}

// changed is told the membership, and returns the labels of those that are gone.
func (m *members) changed(now membership) (gone []string) {
	m.mu.Lock()
	if now.Change < m.now.Change {
		m.mu.Unlock()
		return nil
	}
	same := now.Change == m.now.Change && len(now.Removed) == len(m.now.Removed) && len(now.Learners) == len(m.now.Learners) && len(now.Witnesses) == len(m.now.Witnesses)
	for _, label := range m.now.labels() {
		if !now.has(label) {
			gone = append(gone, label)
		}
	}
	m.now = now
	m.fillLocked()
	m.mu.Unlock()
	if !same {
		m.save()
	}
	return gone
}

// told is like Meet for places that are not of a peer.
func (m *members) told(places []raftnet.Place) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.toldLocked(places)
}

// begin is changed and told for a node that was taken in just now. Without it, and with
// nothing in its log, it would know nobody later.
func (m *members) begin(now membership, places []raftnet.Place) error {
	m.changed(now)
	m.told(places)
	return m.save()
}

func (m *members) toldLocked(places []raftnet.Place) (moved bool) {
	for _, p := range places {
		known, ok := m.others[p.Member]
		if !ok || p.Incarnation <= known.Incarnation || checkAddress(p.Address) != nil {
			continue
		}
		if p.Address != known.Address {
			m.log.Info("member is reached elsewhere", "member", raftnet.Name(p.Member), "address", p.Address, "before", known.Address)
			moved = true
		}
		known.Place = p
		m.others[p.Member] = known
	}
	return moved
}

// Resolve implements raftnet.Members.
func (m *members) Resolve(ctx context.Context, label string) (string, error) {
	var failed error
	if m.resolve != nil {
		address, err := m.resolve(ctx, raftnet.Name(label))
		if err == nil && address != "" {
			return address, nil
		}
		failed = err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if p, ok := m.others[label]; ok && p.Address != "" {
		return p.Address, nil
	}
	if address := labelAddress(label); address != "" {
		return address, nil
	}
	if failed == nil {
		failed = errNoMember(label)
	}
	return "", failed
}

func errNoMember(label string) error {
	return fmt.Errorf("%q is no member that is known here", raftnet.Name(label))
}

// Peer implements raftnet.Members.
func (m *members) Peer() raftnet.Peer {
	id := m.dir.id()
	m.mu.Lock()
	defer m.mu.Unlock()
	places := []raftnet.Place{{Member: id.Member, Incarnation: id.Incarnation, Address: m.address}}
	for _, p := range m.others {
		if p.Incarnation != 0 { // it has said so itself
			places = append(places, p.Place)
		}
	}
	return raftnet.Peer{Replica: id.Replica, Directory: id.Directory, Previous: m.dir.previous, Places: places}
}

// Meet implements raftnet.Members.
func (m *members) Meet(peer raftnet.Peer) error {
	news, again, err := m.meet(peer)
	if again {
		m.drop(peer.Self().Member) // another process may still speak for it
	}
	if news {
		m.save() // that it was met, before a message of it is looked at
	}
	return err
}

// meet tells besides whether there is something to be remembered, and whether the peer has
// been started again.
func (m *members) meet(peer raftnet.Peer) (news, again bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	self := peer.Self()
	known, ok := m.others[self.Member]
	switch {
	case !ok && slices.Contains(m.now.Removed, peer.Replica):
		return false, false, raftnet.ErrRemoved
	case !ok && isJoiner(self.Member) && peer.Replica >= m.now.unused() && !m.dir.id().BackupNeeded:
		// It has joined since what this member knows, which it may have from nobody else:
		// all that it knows may be members no longer.
		return false, false, nil
	case !ok:
		return false, false, errNoMember(self.Member)
	case m.now.labels()[peer.Replica] != self.Member:
		return false, false, fmt.Errorf("%q is not replica %d", raftnet.Name(self.Member), peer.Replica)
	case known.Directory != 0 && known.Directory != peer.Directory:
		return false, false, fmt.Errorf("%q has another data directory than it had", raftnet.Name(self.Member))
	case self.Incarnation != known.Incarnation && peer.Previous < known.Incarnation:
		// The directory does not remember all that the member has done, and the group
		// counts on that.
		return false, false, fmt.Errorf("%q has been started again since, or has an older copy of its directory", raftnet.Name(self.Member))
	case self.Incarnation < known.Incarnation:
		return false, false, fmt.Errorf("%q has been started again since", raftnet.Name(self.Member))
	case isJoiner(self.Member) && m.dir.id().BackupNeeded:
		return false, false, errNoSnapshot
	}
	again = known.Incarnation != 0 && self.Incarnation > known.Incarnation
	if known.Directory == 0 {
		known.Directory, news = peer.Directory, true
		m.others[self.Member] = known
	}
	return m.toldLocked(peer.Places) || news, again, nil
}

// Removed implements raftnet.Members.
func (m *members) Removed(by string) { m.removed(by) }

// Answer implements raftnet.Members.
func (m *members) Answer(ctx context.Context, from raftnet.Peer, request []byte) []byte {
	return m.answer(ctx, from, request)
}

// directoryOf is that of a member, 0 if it is not known.
func (m *members) directoryOf(label string) uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.others[label].Directory
}

// addressOf is where a member is dialled, as far as Resolve of the options does not say.
func (m *members) addressOf(label string) string {
	if label == m.own {
		return m.address
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return cmp.Or(m.others[label].Address, labelAddress(label))
}

// addresses are where members are dialled, this one first.
func (m *members) addresses() []string {
	all := []string{m.address}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, label := range slices.Sorted(maps.Keys(m.others)) {
		if address := m.others[label].Address; address != "" {
			all = append(all, address)
		}
	}
	return all
}

// all are the members but this one.
func (m *members) all() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Keys(m.others))
}

// strangers are the members that have not been met.
func (m *members) strangers() (labels []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for label, k := range m.others {
		if k.Directory == 0 {
			labels = append(labels, label)
		}
	}
	return labels
}
