// Package store is the vocabulary of dkv: what a key-value store does
// ([Store]), what it keeps ([Entry], [Revision]), what it tells of itself
// ([Info]), what it accepts (the limits) and how it fails ([Error]). It holds
// no implementation: those are in store/local (one process) and store/replica
// (durable and replicated), and dkv.Open chooses between them.
package store

import (
	"context"
	"iter"
	"time"
)

// Limits of what a store accepts. They are the same in every mode, so that a
// program that works in memory works replicated.
const (
	// MaxKeySize is the greatest length of a key in bytes.
	MaxKeySize = 4 << 10
	// MaxValueSize is the greatest length of a value in bytes.
	MaxValueSize = 8 << 20
)

// Store is a key-value store whose operations are linearizable, but for GetStale
// and Info: each takes effect at one instant between its call and its return.
//
// A key is any non-empty string of up to [MaxKeySize] bytes; a value is up to
// [MaxValueSize] bytes and may be empty. Slices that are passed in are copied,
// slices that are returned belong to the caller.
//
// A key may carry two deadlines. At expireIn its value goes but the key stays:
// Get does not find it, Has does. At deleteIn the key goes too. Both count from
// the call, in real time, and never end early; 0 means never. An expireIn
// beyond deleteIn is cut to deleteIn.
//
// Every operation ends when its context does. The error then says what became
// of the operation; see [KindOf].
type Store interface {
	// Get returns the value of key. ok is false if there is no such key or its
	// value has expired.
	Get(ctx context.Context, key string) (value []byte, ok bool, err error)

	// GetStale is Get of what this member knows now, without asking the others:
	// it is as fast as memory, needs no quorum, and may not see yet what others
	// have been told is done. What it finds is of a state that the store was
	// in, and on one member it never goes back: a call sees what calls on the
	// same member that returned before it, of any kind, have seen or done, and
	// that holds over restarts of the member too. When a member has been opened,
	// it waits, as Get does, until that member has caught up once with what a
	// quorum knows; from then on it waits for nothing. In memory mode it is Get.
	// Over a network the member is the server that answers, and another one,
	// which may know less, once the client has had to go on there.
	//
	// Errors are those of Get: ErrUnavailable when ctx ends first, ErrEmptyKey,
	// ErrKeyTooLarge, ErrClosed.
	GetStale(ctx context.Context, key string) (value []byte, ok bool, err error)

	// GetEntry returns key with its value, revision and time left. ok is false
	// if there is no such key; an expired key is found, without a value.
	GetEntry(ctx context.Context, key string) (e Entry, ok bool, err error)

	// Has tells whether key is there, be its value expired or not.
	Has(ctx context.Context, key string) (bool, error)

	// Set gives key a value without deadlines, whatever was there before.
	Set(ctx context.Context, key string, value []byte) error

	// SetE gives key a value and deadlines, whatever was there before.
	SetE(ctx context.Context, key string, value []byte, expireIn, deleteIn time.Duration) error

	// SetEIfUnset does what SetE does if Has(key) would be false, and tells
	// whether it did. A key whose value has expired is set; one that was
	// deleted, by a call or by its deadline, is unset.
	SetEIfUnset(ctx context.Context, key string, value []byte, expireIn, deleteIn time.Duration) (set bool, err error)

	// Expire makes the value of key expire now; its deletion deadline stays. It
	// is no error if there is no such key.
	Expire(ctx context.Context, key string) error

	// Delete removes key. It is no error if there is no such key.
	Delete(ctx context.Context, key string) error

	// CompareAndSet does what SetE does if the revision of key is rev; 0 stands
	// for a key that is not there. It returns the revision of the change, or,
	// if ok is false, the one that key has instead. That the value of a key
	// expires by its deadline does not change its revision.
	CompareAndSet(ctx context.Context, key string, rev Revision, value []byte, expireIn, deleteIn time.Duration) (now Revision, ok bool, err error)

	// CompareAndDelete removes key if its revision is rev, which is not 0. It
	// returns the revision of the change, or, if ok is false, the one that key
	// has instead, 0 if it is not there.
	CompareAndDelete(ctx context.Context, key string, rev Revision) (now Revision, ok bool, err error)

	// Add adds delta to the number that key has as its value, in decimal, and
	// returns the sum and the revision of the change. A key that is not there,
	// or whose value has expired, counts from 0. Deadlines that have not come
	// yet stay.
	//
	// Errors besides those of every write: ErrNotNumber, ErrOutOfRange.
	Add(ctx context.Context, key string, delta int64) (sum int64, rev Revision, err error)

	// Txn carries out a transaction: in one step, of which nobody sees a part.
	//
	// Errors besides those of every write: ErrBadTxn, ErrNotNumber,
	// ErrOutOfRange; nothing has changed then.
	Txn(ctx context.Context, t Txn) (TxnResult, error)

	// Scan yields the entries of a range in the order of their keys. All are of
	// one state, that of one instant between the call of the iterator and its
	// first entry: what is written meanwhile does not change them. Keys whose
	// value has expired are among them, without a value.
	//
	// A loop that is left early gives up what the scan holds. An error is the
	// last that is yielded, with an empty entry; what was yielded before it is
	// right. Pages that are fetched one by one, with Limit and After, are each
	// of a state of their own.
	Scan(ctx context.Context, r Range) iter.Seq2[Entry, error]

	// Watch yields the changes of keys as events in the order of their
	// revisions, without a gap and none twice, from the call on or from an
	// earlier revision on. Once Watch has returned, no later change is missed,
	// even if the loop over the events begins much later. The sequence is for
	// one loop; the watch ends when that is left or when ctx ends, and an error
	// is the last that is yielded.
	//
	// What has changed is remembered for a while: the last changes, up to some
	// 16 MiB of them; in memory mode from the first call of Watch, or of Scan
	// with a Range.At, on. A watch that begins further back, or falls behind
	// further, ends with ErrCompacted, and so does one on a member that was so
	// far behind that it has received a snapshot of the state: the keys have to
	// be read again, and watched from there on. A watch never holds up the
	// store.
	//
	// Errors: ErrCompacted, ErrFutureRevision, ErrBadRange, ErrKeyTooLarge, and
	// those of every read.
	Watch(ctx context.Context, w Watch) (iter.Seq2[Event, error], error)

	// Info describes the store as this process sees it now, without asking
	// other members.
	Info(ctx context.Context) (Info, error)
}

// A Revision numbers the changes of one store. Each change, be it by a call or
// by a deadline, gets the next one; none is ever used twice, not after a
// restart, a failover or a restore. 0 stands for "none".
type Revision uint64

// Entry is one key as a store keeps it.
type Entry struct {
	Key      string
	Value    []byte   // empty if Expired
	Revision Revision // of the last call that changed the key; a deadline leaves it
	Expired  bool     // the value has expired, the key is still there

	// ExpireIn and DeleteIn are the times left, 0 for never. A key that was
	// written a moment ago may show them whole: its time has not begun yet.
	ExpireIn, DeleteIn time.Duration
}

// Info describes a store as one process sees it; over a network, as the server
// does that answers.
type Info struct {
	Mode     string   // "memory", "durable", "replicated" or "witness"
	Revision Revision // of the last change that is visible here

	Keys    int64 // keys that are there, expired ones included
	Locks   int64 // locks that are held; one that is shared counts for each holder
	Waiters int64 // those who wait for locks
	Bytes   int64 // sum of the lengths of keys and values of keys

	// Size is the memory in bytes that keys and locks take, with all that is
	// needed to find them: what a limit to the size is compared with. It is
	// reckoned from the entries alone, so it is the same on all members.
	Size int64

	Watches       int   // watches under way, on behalf of who waits for a lock too
	Views         int   // open views: snapshots and scans under way
	Retained      int64 // superseded versions that are kept for them
	RetainedBytes int64 // the memory that those take

	// The rest is zero in memory mode.

	Node    string   // this member
	Leader  string   // the member that leads as far as this one knows, or ""
	Members []string // names of all members, sorted
	Applied uint64   // index of the last log entry applied here

	// Progress has the index of the last log entry that each member has applied,
	// by name, as far as this one knows: its own is Applied, another's is as of
	// that member's last batch of writes, which tells it. So a member through
	// which nobody writes seems to stay where it is, and one that has told
	// nothing in the log that this member has been through since it was opened is
	// left out. It is never more than what the member has applied, unless that
	// has been restarted since.
	Progress map[string]uint64
}

// Backup describes a backup of a store.
type Backup struct {
	Revision Revision // of the last change that is in it; a store that begins with it goes on far behind
	Keys     int64    // keys that are in it, expired ones included
	Locks    int64    // locks that were held; one that is shared counts for each holder
	Bytes    int64    // its length

	// Checksum tells backups apart: the SHA-256, in hexadecimal, of all but the last
	// block, which has it. Two backups of the same state may differ in it.
	Checksum string
}
