package replica

import (
	"time"

	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/vfs"
)

// ElectionTimeout is how long a replica waits for a leader at least, before it wants to be it.
const ElectionTimeout = electionTicks * tickMillis * time.Millisecond

// SetFS has a replica keep all but its lock on another file system.
func (o *Options) SetFS(fs vfs.FS) { o.fs = fs }

// SetTransport has a replica send its messages another way.
func (o *Options) SetTransport(f config.TransportFactory) {
	o.WrapTransport(func(config.TransportFactory) config.TransportFactory { return f })
}

// WrapTransport has a replica send its messages by way of what wrap makes of its own
// transport.
func (o *Options) WrapTransport(wrap func(config.TransportFactory) config.TransportFactory) {
	o.wrapNet = wrap
}

// NoSnapshots has a replica make no snapshots.
func (o *Options) NoSnapshots() { o.noSnapshots = true }

// Acquainted tells whether a replica has met all the other members.
func (s *Store) Acquainted() bool { return len(s.members.strangers()) == 0 }

// Dir is the directory of a replica.
func (s *Store) Dir() string { return s.dir.path }

// Idle tells whether a replica has put its first batch into the log, and applies nothing
// now.
func (s *Store) Idle() bool {
	s.batcher.mu.Lock()
	defer s.batcher.mu.Unlock()
	return s.batcher.hello.over && s.machine.applying.Load() == 0
}

// Saved tells whether an entry that a replica has as the leader of a term is on its disk.
func (s *Store) Saved(term, index uint64) bool {
	return s.batcher.space.log.Load().AwaitSaved(term, index, 0)
}

// WaitsFor tells whether a leader has a member with data have what it tells a witness.
func (s *Store) WaitsFor(replica uint64) bool {
	s.followers.mu.Lock()
	defer s.followers.mu.Unlock()
	x := s.followers.mu.of[replica]
	return x == nil || !x.away
}

// Replica is a replica's number.
func (s *Store) Replica() uint64 { return s.member.Load() }

// LogEnds is the last entry that a replica's log has.
func (s *Store) LogEnds() uint64 {
	_, last := s.batcher.space.log.Load().Range()
	return last
}

// LogBegins is the first entry that a replica's log has.
func (s *Store) LogBegins() uint64 {
	first, _ := s.batcher.space.log.Load().Range()
	return first
}
