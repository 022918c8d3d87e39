package maple

import (
	"bytes"
	"time"

	"dkv/internal/command"
)

// Apply does one operation. It copies key and value.
func (db *DB) Apply(op *command.Op) (res command.Result) {
	var now int64
	if db.clock == nil || op.ExpireIn != 0 || op.DeleteIn != 0 {
		now = db.Now()
	}
	var next *record
	switch op.Kind {
	case command.Set, command.SetIfUnset:
		next = newRecord(live, op.Key, op.Value, db.begin(now, op.ExpireIn, op.DeleteIn))
	case command.Expire, command.Delete, command.CompareAndDelete:
	default:
		panic("maple: unknown kind of operation")
	}

	l := db.spaces[op.Space].lock(op.Key)
	defer l.unlock()
	there, expires := l.old != nil, false
	if there {
		if now == 0 && l.old.deadlines() != nil {
			now = db.Now()
		}
		there = !l.old.isDeleted(now)
		expires = l.old.isExpired(now)
	}
	switch op.Kind {
	case command.SetIfUnset:
		if there {
			return command.Result{}
		}
	case command.Expire:
		if !there || expires {
			return command.Result{}
		}
		next = newRecord(expired, op.Key, nil, l.old.deadlines().deleteOnly())
	case command.Delete:
		if !there {
			return command.Result{}
		}
		next = newRecord(tombstone, op.Key, nil, nil)
	case command.CompareAndDelete:
		if !there || expires || !bytes.Equal(l.old.value(), op.Value) {
			return command.Result{}
		}
		next = newRecord(tombstone, op.Key, nil, nil)
	}
	if there && l.old.deadlines() != nil {
		db.expiry.superseded(db)
	}
	return command.Result{Done: true, Revision: db.replace(op.Space, &l, next)}
}

// replace makes next the newest version of the locked key, and returns the
// change's revision.
func (db *DB) replace(space command.Space, l *locked, next *record) uint64 {
	next.rev = db.revision.Add(1)
	var bytes, keys int64
	kept, moved := false, false
	if old := l.old; old != nil {
		kept, moved = db.retain(space, old, next)
		if old.kind() != tombstone {
			bytes -= int64(old.keyLen() + old.valueLen())
			keys--
		}
	}
	if next.kind() == tombstone && !kept {
		l.remove()
	} else {
		l.put(next)
	}
	if moved {
		db.views.unlink(l.old)
	}
	if next.kind() != tombstone {
		bytes += int64(next.keyLen() + next.valueLen())
		keys++
		db.schedule(space, next)
	}
	if keys != 0 {
		db.keys[space].Add(keys)
	}
	if bytes != 0 && space == command.Keys {
		db.bytes.Add(bytes)
	}
	return next.rev
}

// begin returns the deadlines of a record written now, nil if it has none.
func (db *DB) begin(now int64, expireIn, deleteIn time.Duration) *deadlines {
	if expireIn == 0 && deleteIn == 0 {
		return nil
	}
	d := &deadlines{expire: never, delete: never}
	d.base.Store(now)
	if db.clock == nil {
		d.epoch = db.open.number
		d.base.Store(unsettled) // they count from a moment that a later tick tells
	}
	if deleteIn != 0 {
		d.delete = int64(deleteIn)
	}
	if expireIn != 0 {
		d.expire = int64(expireIn)
	}
	d.expire = min(d.expire, d.delete)
	return d
}

// add is a + b, or never if that is later than can be told. a is not negative.
func add(a, b int64) int64 {
	if b > never-a {
		return never
	}
	return a + b
}
