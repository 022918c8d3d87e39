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
// The Raft port trusts whoever reaches it: it belongs on a network of the
// members' own.
package dkv

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

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
func Open(opts Options) (*DB, error) {
	if err := opts.validate(); err != nil {
		return nil, err
	}
	b, err := opts.open()
	if err != nil {
		return nil, err
	}
	db := &DB{Store: b, Locker: opts.locker(b), backend: b}
	if err := db.listen(opts); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// listen opens the network mode.
func (db *DB) listen(opts Options) error {
	if len(opts.Listen) == 0 {
		return nil
	}
	db.server = transport.NewServer(transport.ServerOptions{Tokens: opts.Tokens, Codecs: opts.Codecs})
	db.server.Handle(opts.Shard, db.backend)
	for _, endpoint := range opts.Listen {
		l, err := transport.Listen(endpoint, transport.ListenOptions{TLS: opts.TLS, Insecure: opts.Insecure})
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
// linearizable read. In memory it returns at once. Errors: [ErrUnavailable] when
// ctx ends first, [ErrClosed]. It is what to ask before work is sent here, again
// and again: a member without a quorum is not ready, and will be when its peers
// are back.
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
// Errors: [ErrClosed] once Close has been called; of a replica [ErrNotLive] if it
// works no longer and will not by itself: Dragonboat has stopped it, or the
// engine has been at one log entry for a minute. The latter is found out by
// calls that follow each other, of which each counts for 10 s at most; so call it
// every 10 s or more often. A store in memory and a client are live until they
// are closed. It returns at once and asks nobody.
func (db *DB) Live() error { return db.backend.Live() }

// Close gives up the locks that are held, whose Done is closed first. It turns new
// operations away, lets those under way finish for up to 2 s, those of clients included, hands leadership over to another member and stops. It
// returns within 5 s, with [ErrCloseTimeout] if something would not stop, and may
// be called more than once. A store in memory is gone then; a directory can be
// opened again. A scan that is under way may go on.
func (db *DB) Close() error {
	db.closing.Do(func() {
		db.Locker.Close()
		var answered sync.WaitGroup
		if db.server != nil {
			answered.Go(func() { db.server.Close() })
		}
		db.err = db.backend.Close()
		answered.Wait()
	})
	return db.err
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
		return local.Open(local.Options{Clock: o.Clock, Engine: o.Engine, MaxBytes: o.MaxBytes}), nil
	}
	return replica.Open(replica.Options{
		Dir:           o.Dir,
		Node:          o.Node,
		Members:       o.Members,
		Logger:        o.Logger,
		Clock:         o.Clock,
		Engine:        o.Engine,
		MaxBytes:      o.MaxBytes,
		SnapshotBytes: o.SnapshotBytes,
	})
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

	Info  = store.Info
	Kind  = store.Kind
	Watch = store.Watch
	Event = store.Event

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
