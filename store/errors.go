package store

import (
	"errors"
	"fmt"
	"time"
)

// Kind says what became of an operation that failed.
type Kind uint8

const (
	// KindNone is the kind of a nil error and of errors that are not dkv's.
	KindNone Kind = iota
	// KindNotApplied: the operation had no effect and never will. To try again
	// is safe.
	KindNotApplied
	// KindUnknown: the operation may have had its effect, may have it yet, or
	// may never. To try again may do it twice.
	KindUnknown
	// KindFinal: the operation had no effect, and trying again will not help.
	KindFinal
	// KindClosed: the store was closed and the operation had no effect.
	KindClosed
)

func (k Kind) String() string {
	switch k {
	case KindNotApplied:
		return "not applied"
	case KindUnknown:
		return "unknown"
	case KindFinal:
		return "final"
	case KindClosed:
		return "closed"
	}
	return "none"
}

// Error is the type of the sentinels below. What a store returns wraps one of
// them: match it with errors.Is, or take its [KindOf].
type Error struct {
	code uint16
	kind Kind
	text string
}

func (e *Error) Error() string { return e.text }

// Kind says what became of the operation.
func (e *Error) Kind() Kind { return e.kind }

// Code is the sentinel's stable number, by which it crosses a network.
func (e *Error) Code() uint16 { return e.code }

// The sentinels. Their codes are part of the network protocol: a code that has
// been released is never given another meaning.
var (
	// ErrUnavailable is returned when the context ended before the store could
	// take the operation up, for example because no quorum of members answers.
	// Kind: not applied.
	ErrUnavailable = sentinel(1, KindNotApplied, "dkv: unavailable, not applied")

	// ErrBusy is returned when the context ended while the operation waited in
	// a full queue, and for a scan, a watch or the wait for a lock over a network
	// when too many are under way on the connection. Kind: not applied.
	ErrBusy = sentinel(2, KindNotApplied, "dkv: too busy, not applied")

	// ErrUnknown is returned when the context ended, or the store was closed,
	// after the operation was handed to the members and before it was known
	// whether they took it. If it has not had its effect by the time that a
	// later write through the same replica is acknowledged, it never will.
	// Kind: unknown.
	ErrUnknown = sentinel(3, KindUnknown, "dkv: outcome unknown")

	// ErrClosed is returned by every operation that begins after Close, and by
	// those that Close kept from beginning. Kind: closed.
	ErrClosed = sentinel(4, KindClosed, "dkv: closed")

	// ErrEmptyKey is returned for the key "". Kind: final.
	ErrEmptyKey = sentinel(5, KindFinal, "dkv: empty key")

	// ErrKeyTooLarge is returned for a key longer than MaxKeySize. Kind: final.
	ErrKeyTooLarge = sentinel(6, KindFinal, "dkv: key too large")

	// ErrValueTooLarge is returned for a value longer than MaxValueSize, and for
	// more than MaxHolderValue of what a lock's holder tells of itself. Kind:
	// final.
	ErrValueTooLarge = sentinel(7, KindFinal, "dkv: value too large")

	// ErrBadDuration is returned for a negative duration, and for a lock's time
	// to live that is not positive. Kind: final.
	ErrBadDuration = sentinel(8, KindFinal, "dkv: bad duration")

	// ErrBadOwner is returned for an owner that no lock ever had: the zero
	// Owner, or text that is not an owner's. Kind: final.
	ErrBadOwner = sentinel(9, KindFinal, "dkv: bad lock owner")

	// ErrBadOptions is returned by Open for options that contradict themselves
	// or the data directory; the text names each field and its fault. And by every
	// operation of a node that its group does not take in. Kind: final.
	ErrBadOptions = sentinel(10, KindFinal, "dkv: bad options")

	// ErrFull is returned for a write that would have taken the store over its
	// limit of bytes. Others that need less, or free some, may succeed. Kind:
	// final.
	ErrFull = sentinel(11, KindFinal, "dkv: full")

	// ErrBadRange is returned by a scan with a negative limit, and by a watch of
	// both a key and a prefix. Kind: final.
	ErrBadRange = sentinel(12, KindFinal, "dkv: bad range")

	// ErrDiskFull is returned for a write when the member's disk is about to be
	// full: when what is free would not take a snapshot of the state and 64 MiB
	// of log. What frees room, or needs none, is let in: Expire, Delete, the
	// release and the renewal of a lock. Kind: not
	// applied.
	ErrDiskFull = sentinel(13, KindNotApplied, "dkv: disk full, not applied")

	// ErrNotNumber is returned by Add for a key whose value is not a decimal
	// number of 64 bits. Kind: final.
	ErrNotNumber = sentinel(14, KindFinal, "dkv: not a number")

	// ErrOutOfRange is returned by Add if the sum does not fit in 64 bits. Kind:
	// final.
	ErrOutOfRange = sentinel(15, KindFinal, "dkv: number out of range")

	// ErrBadTxn is returned for a transaction with too many operations or bytes,
	// one that writes a key twice, and one that would read more than MaxTxnRead.
	// Kind: final.
	ErrBadTxn = sentinel(16, KindFinal, "dkv: bad transaction")

	// ErrCompacted is returned by a watch if what it would have shown next is
	// not remembered any longer: what it watches has to be read again. Kind:
	// final.
	ErrCompacted = sentinel(17, KindFinal, "dkv: compacted")

	// ErrFutureRevision is returned by a watch from a revision that lies beyond
	// the next. Kind: final.
	ErrFutureRevision = sentinel(18, KindFinal, "dkv: future revision")

	// ErrNotHeld is returned by Unlock if the lock has been lost or unlocked
	// before. Kind: final.
	ErrNotHeld = sentinel(19, KindFinal, "dkv: lock not held")

	// ErrLockLost is the error of a lock that can no longer be trusted: it has
	// not been renewed in time, or another has ended it. Kind: final.
	ErrLockLost = sentinel(20, KindFinal, "dkv: lock lost")

	// ErrReentrant is returned by Lock for a context that comes from the same
	// lock, which is held: the call would wait for its caller. Kind: final.
	ErrReentrant = sentinel(21, KindFinal, "dkv: lock held by the caller")

	// ErrNoShard is returned over a network if the server has no shard of that
	// number. Kind: final.
	ErrNoShard = sentinel(22, KindFinal, "dkv: no such shard")

	// ErrUnauthenticated is returned over a network if the server asks for a
	// token and the client has none that it knows. Kind: final.
	ErrUnauthenticated = sentinel(23, KindFinal, "dkv: not authenticated")

	// ErrForbidden is returned over a network if the client's token has no right
	// to the operation. Kind: final.
	ErrForbidden = sentinel(24, KindFinal, "dkv: forbidden")

	// ErrMalformed is returned over a network for a request that is not as the
	// protocol has it. dkv's own clients send none. Kind: final.
	ErrMalformed = sentinel(25, KindFinal, "dkv: malformed request")

	// ErrBackupDamaged is returned for a backup that is not as it was written: cut,
	// changed, with something behind its end, or none at all. The text says which,
	// and where. Kind: final.
	ErrBackupDamaged = sentinel(26, KindFinal, "dkv: backup damaged")

	// ErrBackupVersion is returned for a backup in a version of the format that this
	// version of dkv does not know. Kind: final.
	ErrBackupVersion = sentinel(27, KindFinal, "dkv: backup of another version")

	// ErrNoData is returned by Backup of a client, which has no data: the backup is
	// to be made by a member, or by the program that has the store. And by a witness
	// for every operation on what is stored: it keeps none of that, any other member
	// does. Kind: final.
	ErrNoData = sentinel(28, KindFinal, "dkv: no data here")

	// ErrRemoved is returned by every operation of a member that was removed from its
	// group, together with ErrClosed, and by Open of its directory, together with
	// ErrBadOptions. Kind: closed.
	ErrRemoved = sentinel(29, KindClosed, "dkv: removed from the group")

	// ErrMembers is returned for a change of a group's members that cannot be made; the
	// text says why. Kind: final.
	ErrMembers = sentinel(30, KindFinal, "dkv: change of members refused")
)

var byCode = make(map[uint16]*Error)

func sentinel(code uint16, kind Kind, text string) *Error {
	if byCode[code] != nil {
		panic("store: error code used twice")
	}
	e := &Error{code: code, kind: kind, text: text}
	byCode[code] = e
	return e
}

// ErrorOf returns the sentinel with that code, or nil.
func ErrorOf(code uint16) *Error { return byCode[code] }

// KindOf says what became of the operation that returned err.
func KindOf(err error) Kind {
	if err == nil {
		return KindNone // without what errors.As would allocate
	}
	var e *Error
	if errors.As(err, &e) {
		return e.kind
	}
	return KindNone
}

// CheckKey returns the error that every operation returns for such a key.
func CheckKey(key string) error {
	switch {
	case key == "":
		return ErrEmptyKey
	case len(key) > MaxKeySize:
		return ErrKeyTooLarge
	}
	return nil
}

// CheckWrite returns the error that every write of such a key, value and
// deadlines returns.
func CheckWrite(key string, value []byte, expireIn, deleteIn time.Duration) error {
	switch {
	case len(value) > MaxValueSize:
		return ErrValueTooLarge
	case expireIn < 0 || deleteIn < 0:
		return ErrBadDuration
	}
	return CheckKey(key)
}

func badTxn(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrBadTxn}, args...)...)
}

// inTxn is the error of one condition or operation of a transaction.
func inTxn(err error, what string, i int) error {
	return fmt.Errorf("%w: %s %d of a transaction", err, what, i)
}
