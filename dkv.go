// Package dkv is a key-value store and lock service that lives inside a Go
// program: in its memory, durable on its disk, or replicated by Raft among the
// processes that embed it, with no server beside them. [Open] decides which by
// its [Options]; the code that uses the [DB] stays the same.
//
//	db, err := dkv.Open(dkv.Options{})                     // in memory
//	db, err := dkv.Open(dkv.Options{Dir: "/var/lib/app"})  // durable
//	db, err := dkv.Open(dkv.Options{                       // replicated
//		Dir:  "/var/lib/app",
//		Node: "a",
//		Members: map[string]string{
//			"a": "10.0.0.1:7001", "b": "10.0.0.2:7001", "c": "10.0.0.3:7001",
//		},
//		PeerSecret: dkv.Secret(os.Getenv("APP_PEER_SECRET")),
//	})
//	db, err := dkv.Open(dkv.Options{                       // elsewhere
//		Connect: []string{"tcp://127.0.0.1:7070"},
//	})
//
// The last is a client of a program that has opened one of the others with
// Options.Listen.
//
// All operations are linearizable, on every member, but for GetStale and Info,
// which ask no other. An acknowledged write of a
// durable or replicated store is on the disks of a majority. The error of an
// operation says what became of it: [KindOf] tells "not applied", "unknown",
// "final" and "closed" apart.
//
// Members make sure of each other by Options.PeerSecret or PeerTLS. Without either,
// whoever reaches a Raft port can pass for one of them.
//
// [DB.Backup] writes all of a store to a file while it is in use, and
// Options.Restore has a new one begin with that. [Recover] makes one of what a single
// member has left of a group that has lost its majority.
package dkv

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"dkv/internal/backup"
	"dkv/lock"
	"dkv/store"
	"dkv/store/local"
	"dkv/store/namespace"
	"dkv/store/replica"
	"dkv/transport"
	"dkv/transport/rest"
)

// DB is a store and its locks. The operations are those of [store.Store] and
// [lock.Locker]; all methods may be called from any goroutine.
type DB struct {
	store.Store
	*lock.Locker
	backend backend
	server  *transport.Server // nil without Options.Listen
	addrs   []net.Addr        // where it listens
	port    *transport.Port   // that the Raft port and the server share, nil if they do not

	closing sync.Once
	err     error // of Close
}

// backend is what stands behind a DB.
type backend interface {
	transport.Backend
	Live() error
	Close() error
}

// Open starts what the options ask for. It does not wait for peers: operations
// do, as long as their context lets them; see [DB.Ready].
//
// It fails with [ErrBadOptions] if the options contradict themselves, each
// other or what is in the data directory, and names every fault. Nothing is left
// running then.
func Open(opts Options) (_ *DB, err error) {
	defer func() {
		if err != nil && opts.PeerListener != nil {
			opts.PeerListener.Close()
		}
	}()
	if err := opts.validate(); err != nil {
		return nil, err
	}
	db := new(DB)
	if opts.PeerListener == nil && slices.ContainsFunc(opts.Listen, opts.isRaftPort) {
		l, err := net.Listen("tcp", opts.raftAddress())
		if err != nil {
			return nil, fmt.Errorf("%w: the Raft port, which Listen has, too: %w", store.ErrBadOptions, err)
		}
		db.port = transport.SharePort(l)
		opts.PeerListener = db.port.Peers()
	}
	if db.backend, err = opts.open(); err != nil {
		db.closePort()
		return nil, err
	}
	db.Store, db.Locker = db.backend, opts.locker(db.backend)
	if err := db.listen(opts); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// raftAddress is where this member's Raft port is, "" if it has none.
func (o Options) raftAddress() string { return cmp.Or(o.Address, o.Members[o.Node]) }

// isRaftPort tells whether an endpoint is at this member's Raft port.
func (o Options) isRaftPort(endpoint string) bool {
	return transport.IsAt(endpoint, o.raftAddress())
}

// listen opens the network mode.
func (db *DB) listen(opts Options) error {
	if len(opts.Listen) == 0 {
		return nil
	}
	db.server = transport.NewServer(transport.ServerOptions{Tokens: opts.Tokens, Codecs: opts.Codecs})
	db.server.Handle(opts.Shard, db.backend)
	for _, endpoint := range opts.Listen {
		how := transport.ListenOptions{TLS: opts.TLS, Insecure: opts.Insecure}
		if opts.isRaftPort(endpoint) {
			how.Port = db.port
		}
		l, err := transport.Listen(endpoint, how)
		if err != nil {
			return fmt.Errorf("field Listen: %w", err)
		}
		db.addrs = append(db.addrs, l.Addr())
		if strings.HasPrefix(endpoint, "http://") {
			db.server.StartHTTP(l, rest.ForServer(db.server))
		} else {
			db.server.Start(l)
		}
	}
	return nil
}

// Ready waits until operations succeed: until a quorum of the members answers a
// linearizable read. In memory it returns at once. A node that joins is ready when it
// votes, or is a member if it is a learner. In a group with a witness, a member that was
// away is ready when it has all that the leader and the witness have acknowledged without
// it, and they wait for it again: from then on any one of them may fail. It is what to ask
// before work is sent here, again and again: a member without a quorum is not ready, and
// will be when its peers are back.
//
// Errors: [ErrUnavailable] when ctx ends first; [ErrClosed], together with [ErrRemoved]
// once this member was removed from its group; and [ErrBadOptions] if the group does not
// take this node in, which all operations return from then on.
func (db *DB) Ready(ctx context.Context) error { return db.backend.Ready(ctx) }

// Namespace returns the part of db with a name, for a part of the program that is to
// meet no other: its keys, and the names of its locks, begin with a zero byte, the
// name and another zero byte, which its users leave out, so the longest keys are
// shorter by that. It costs nothing but those bytes. Scans and watches of all keys of
// db see them as they are. A name is a constant of the program: Namespace panics if it
// is empty or has a zero byte. It is closed with db.
func (db *DB) Namespace(name string) Namespace {
	prefix := namespace.Prefix(name)
	return Namespace{namespace.New(db.Store, prefix), db.Locker.WithPrefix(prefix)}
}

// Namespace is a part of a DB, with the operations of the whole.
type Namespace struct {
	namespace.Store
	*lock.Locker
}

// Addrs are the addresses at which the network mode listens, in the order of
// Options.Listen: those of endpoints with the port 0 tell which one was chosen.
func (db *DB) Addrs() []net.Addr { return slices.Clone(db.addrs) }

// Backend is what a [transport.Server] of one's own serves: one that has many stores,
// or listens in another way than Options.Listen can say. The server is to be closed
// before db is.
func (db *DB) Backend() transport.Backend { return db.backend }

// Live tells a supervisor of processes whether this one has to be restarted: nil
// while the store works or waits, for peers, a leader, a disk or a server,
// however long. Where [DB.Ready] fails and Live does not, a restart would not
// help.
//
// Errors: [ErrClosed] once Close has been called, and what [DB.Ready] says of a node that
// was removed or not taken in; of a replica [ErrNotLive] if it
// works no longer and will not by itself: Dragonboat has stopped it, or the
// engine has been at one log entry for a minute. The latter is found out by
// calls that follow each other, of which each counts for 10 s at most; so call it
// every 10 s or more often. A store in memory and a client are live until they
// are closed. It returns at once and asks nobody.
func (db *DB) Live() error { return db.backend.Live() }

// Close gives up the locks that are held, whose Done is closed first. It turns new
// operations away, lets those under way finish for up to 2 s, those of clients
// included, hands leadership over to another member and stops. It returns within 5 s,
// with [ErrCloseTimeout] if something would not stop, and may be called more than once.
// A store in memory is gone then; a directory can be opened again. A scan that is under
// way may go on.
func (db *DB) Close() error {
	db.closing.Do(func() {
		db.Locker.Close()
		var answered sync.WaitGroup
		if db.server != nil {
			answered.Go(func() { db.server.Close() })
		}
		db.err = db.backend.Close()
		answered.Wait()
		db.closePort()
	})
	return db.err
}

func (db *DB) closePort() {
	if db.port != nil {
		db.port.Close()
	}
}

func (o Options) locker(b backend) *lock.Locker {
	if o.Clock != nil {
		return lock.NewWithClock(b, o.Clock)
	}
	return lock.New(b)
}

func (o Options) open() (backend, error) {
	switch {
	case len(o.Connect) > 0:
		return transport.NewClient(transport.ClientOptions{
			Endpoints: o.Connect,
			Shard:     o.Shard,
			Token:     o.Token,
			TLS:       o.TLS,
			Insecure:  o.Insecure,
		})
	case o.Dir == "":
		return o.openLocal()
	}
	return replica.Open(replica.Options{
		Dir:           o.Dir,
		Node:          o.Node,
		Members:       o.Members,
		Address:       o.Address,
		Join:          o.Join,
		Learner:       o.Learner,
		Witness:       o.Witness,
		Resolve:       o.Resolve,
		PeerListener:  o.PeerListener,
		PeerTLS:       o.PeerTLS,
		PeerSecret:    []byte(o.PeerSecret),
		Insecure:      o.Insecure,
		Logger:        o.Logger,
		Clock:         o.Clock,
		Engine:        o.Engine,
		MaxBytes:      o.MaxBytes,
		SnapshotBytes: o.SnapshotBytes,
		Restore:       o.Restore,
	})
}

func (o Options) openLocal() (backend, error) {
	opts := local.Options{Clock: o.Clock, Engine: o.Engine, MaxBytes: o.MaxBytes}
	if o.Restore == "" {
		return local.Open(opts), nil
	}
	f, err := os.Open(o.Restore)
	if err != nil {
		return nil, fmt.Errorf("%w: Restore: %w", store.ErrBadOptions, err)
	}
	defer f.Close()
	s, err := local.Restore(opts, f)
	if err != nil {
		return nil, fmt.Errorf("%w: Restore %q: %w", store.ErrBadOptions, o.Restore, err)
	}
	return s, nil
}

// Backup writes all that is stored to w, as it is at one revision: keys with what
// time is left to them, locks with their tokens. It has what was acknowledged before
// the call, anywhere; reads and writes go on meanwhile. Options.Restore begins a new
// store with it, of any kind; [VerifyBackup] tells whether it is whole.
//
// A backup is whole once Backup has returned without an error. A file is to be synced
// and closed then, and best gets its name after that. A backup takes little memory of
// its own, and, until it is written, what a scan takes for what changes meanwhile.
// What a client of the network mode may still repeat is not part of it: a store that
// begins with the backup refuses that, and the client enrols anew.
//
// Errors: [ErrUnavailable] when ctx ends first, which is looked at between two calls of
// w; [ErrClosed]; [ErrNoData] with Options.Connect or Witness; and those of w.
func (db *DB) Backup(ctx context.Context, w io.Writer) (Backup, error) {
	b, ok := db.backend.(interface {
		Backup(ctx context.Context, w io.Writer) (store.Backup, error)
	})
	if !ok {
		return Backup{}, fmt.Errorf("%w: a client cannot make a backup, the program that it is connected to can", ErrNoData)
	}
	return b.Backup(ctx, w)
}

// VerifyBackup reads a backup to its end and tells what is in it, with little memory
// and without a store. Errors: [ErrBackupDamaged] if anything is missing, changed or
// behind its end; [ErrBackupVersion]; and those of r.
func VerifyBackup(r io.Reader) (Backup, error) { return backup.Verify(r) }

// Loss says how much a backup that [Recover] has written may have lost, or have too
// much.
type Loss = replica.Loss

// Recover writes a backup of what is in the data directory of one member, for a group
// that has lost its majority for good: the disks of two of three, for example. A new
// group begins with it, by Options.Restore. The directory must not be in use, and what
// is in it stays as it is; no network is used, and no other member is asked.
//
// All that stands in the member's log is taken. Its end may not be known to be
// committed, which the [Loss] tells: it may hold what was acknowledged, and writes whose
// outcome was unknown, which then have their effect by this. What cannot be known is
// what the others had acknowledged without this member: that is lost. So recover from
// all directories that are left, and keep the backup whose Loss has the greatest Term,
// or, of those with the same, the greatest Index. Before that, make sure that no member
// of the old group will ever run again beside the new one.
//
// What is written to w when there is an error is no backup. A store with an
// Options.Engine that is not Maple's cannot be recovered. Errors: [ErrBadOptions] if dir
// is not the data directory of a member that has been part of its group, is in use, or
// is damaged; [ErrUnavailable] when ctx ends first; and those of w.
func Recover(ctx context.Context, dir string, w io.Writer) (Backup, Loss, error) {
	return replica.Recover(ctx, dir, w)
}

// Members are the members of the group, ordered by name: those that there are at some
// moment after the call. Errors: [ErrUnavailable] when ctx ends first, [ErrClosed], and
// [ErrMembers] if the store is no member of a group.
func (db *DB) Members(ctx context.Context) ([]Member, error) {
	r, err := db.replica()
	if err != nil {
		return nil, err
	}
	return r.Members(ctx)
}

// AddMember has a node become a member of the group: the one that listens at that
// address, as host:port, and was opened under that name with Node, Address and a new Dir,
// and without Members and Join. It gets the state first and has a vote when it has caught
// up, which AddMember waits for; one with Options.Learner gets no vote, and one with
// Options.Witness has one from the start. A node that was
// opened with Options.Join needs no AddMember.
//
// Errors, of this and the other changes of members: [ErrMembers] if the change cannot be
// made, with the reason; [ErrUnavailable] when ctx ends before it was asked for;
// [ErrUnknown] when ctx ends later: [DB.Members] tells what has become of it; [ErrClosed].
// Changes that are made at once, here or elsewhere, come one after the other.
func (db *DB) AddMember(ctx context.Context, name, address string) error {
	r, err := db.replica()
	if err != nil {
		return err
	}
	return r.AddMember(ctx, name, address)
}

// RemoveMember has a member be one no longer. If it leads, another does first. It ends: its
// operations fail with [ErrRemoved], as does Open of its Dir; if it does not run, it is told
// when it comes back. A node with a new Dir may join under its name. It is refused with
// [ErrMembers] if too few of the others answer for a quorum without it, and if it is the
// last that has data. In a group with a witness it waits until another member with data has
// all that is acknowledged, and leads.
func (db *DB) RemoveMember(ctx context.Context, name string) error {
	r, err := db.replica()
	if err != nil {
		return err
	}
	return r.RemoveMember(ctx, name)
}

// ReplaceMember is for a member whose Dir is lost: it is RemoveMember, and then AddMember
// of the node at that address, which was opened under the same name. The two are not one
// step: after an error, Members tells whether the first was made.
func (db *DB) ReplaceMember(ctx context.Context, name, address string) error {
	r, err := db.replica()
	if err != nil {
		return err
	}
	return r.ReplaceMember(ctx, name, address)
}

// TransferLeadership has a member lead, for its being closer to those who write, say. It
// leads until another has to. A learner or a witness cannot, which is [ErrMembers].
func (db *DB) TransferLeadership(ctx context.Context, name string) error {
	r, err := db.replica()
	if err != nil {
		return err
	}
	return r.TransferLeadership(ctx, name)
}

func (db *DB) replica() (*replica.Store, error) {
	if r, ok := db.backend.(*replica.Store); ok {
		return r, nil
	}
	return nil, fmt.Errorf("%w: this store has none: a store in memory is alone, and a client asks the program that it is connected to", ErrMembers)
}

// Checksum is a hash of a replica's state after one log entry: members that have
// applied the same entries have the same.
type Checksum = replica.Checksum

// Checksum hashes the state as it is on this member now, without asking the
// others. It reads all of the state. ok is false in memory mode.
func (db *DB) Checksum() (sum Checksum, ok bool) {
	if r, isReplica := db.backend.(*replica.Store); isReplica {
		return r.Checksum(), true
	}
	return Checksum{}, false
}

// Names from package store, so that most programs need no other import.
type (
	Store    = store.Store
	Entry    = store.Entry
	Range    = store.Range
	Revision = store.Revision

	Txn       = store.Txn
	Cond      = store.Cond
	Op        = store.Op
	TxnResult = store.TxnResult
	OpResult  = store.OpResult

	Info   = store.Info
	Member = store.Member
	Kind   = store.Kind
	Watch  = store.Watch
	Event  = store.Event
	Backup = store.Backup

	Token  = transport.Token
	Right  = transport.Right
	Secret = transport.Secret
	Codec  = transport.Codec

	Owner      = lock.Owner
	Lock       = lock.Lock
	LockOption = lock.Option
	Election   = lock.Election
	Leader     = lock.Leader
	Semaphore  = lock.Semaphore
	RWLock     = lock.RWLock
)

// The limits of what a store accepts.
const (
	MaxKeySize   = store.MaxKeySize
	MaxValueSize = store.MaxValueSize
	MaxTxnOps    = store.MaxTxnOps
	MaxTxnSize   = store.MaxTxnSize
	MaxTxnRead   = store.MaxTxnRead
)

// Conditions of a [Txn]; package store says of each when it holds.
var (
	IfRevision = store.IfRevision
	IfExists   = store.IfExists
	IfMissing  = store.IfMissing
	IfValue    = store.IfValue
	IfLock     = store.IfLock
)

// Operations of a [Txn]; package store says of each what it does.
var (
	OpGet         = store.OpGet
	OpSet         = store.OpSet
	OpSetE        = store.OpSetE
	OpSetEIfUnset = store.OpSetEIfUnset
	OpExpire      = store.OpExpire
	OpDelete      = store.OpDelete
	OpAdd         = store.OpAdd
)

// The types of an [Event].
const (
	EventSet     = store.EventSet
	EventExpired = store.EventExpired
	EventDeleted = store.EventDeleted
)

// LockForever is the time to live of a lock that ends only with Release.
const LockForever = lock.Forever

// LockTTL has a lock that is renewed in the background end when it has not been
// renewed for that long; see [lock.TTL].
func LockTTL(d time.Duration) LockOption { return lock.TTL(d) }

// The kinds of errors, see [KindOf].
const (
	KindNone       = store.KindNone
	KindNotApplied = store.KindNotApplied
	KindUnknown    = store.KindUnknown
	KindFinal      = store.KindFinal
	KindClosed     = store.KindClosed
)

// The errors that operations return, to be matched with errors.Is. Package store
// says of each when it is returned.
var (
	ErrUnavailable    error = store.ErrUnavailable
	ErrBusy           error = store.ErrBusy
	ErrUnknown        error = store.ErrUnknown
	ErrClosed         error = store.ErrClosed
	ErrEmptyKey       error = store.ErrEmptyKey
	ErrKeyTooLarge    error = store.ErrKeyTooLarge
	ErrValueTooLarge  error = store.ErrValueTooLarge
	ErrBadDuration    error = store.ErrBadDuration
	ErrBadOwner       error = store.ErrBadOwner
	ErrBadOptions     error = store.ErrBadOptions
	ErrFull           error = store.ErrFull
	ErrBadRange       error = store.ErrBadRange
	ErrDiskFull       error = store.ErrDiskFull
	ErrNotNumber      error = store.ErrNotNumber
	ErrOutOfRange     error = store.ErrOutOfRange
	ErrBadTxn         error = store.ErrBadTxn
	ErrCompacted      error = store.ErrCompacted
	ErrFutureRevision error = store.ErrFutureRevision
	ErrNotHeld        error = store.ErrNotHeld
	ErrLockLost       error = store.ErrLockLost
	ErrReentrant      error = store.ErrReentrant

	ErrNoShard         error = store.ErrNoShard
	ErrUnauthenticated error = store.ErrUnauthenticated
	ErrForbidden       error = store.ErrForbidden
	ErrMalformed       error = store.ErrMalformed

	ErrBackupDamaged error = store.ErrBackupDamaged
	ErrBackupVersion error = store.ErrBackupVersion
	ErrNoData        error = store.ErrNoData

	ErrRemoved error = store.ErrRemoved
	ErrMembers error = store.ErrMembers
)

// ErrCloseTimeout is returned by Close if a replica had not stopped within 5 s.
var ErrCloseTimeout = replica.ErrCloseTimeout

// ErrNotLive is returned by Live if a replica works no longer and will not by
// itself; the text says why.
var ErrNotLive = replica.ErrNotLive

// KindOf says what became of the operation that returned err.
func KindOf(err error) Kind { return store.KindOf(err) }

// ParseOwner reads what [Owner.String] wrote.
func ParseOwner(s string) (Owner, error) { return lock.ParseOwner(s) }
