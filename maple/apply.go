package maple

import (
	"bytes"
	"time"

	"dkv/internal/command"
)

// Apply does one operation. It copies the value; the key is kept as it is.
func (db *DB) Apply(op *command.Op) (res command.Result) {
	token := db.gate.RLock()
	defer db.gate.RUnlock(token)

	now := db.Now()
	next := &entry{}
	switch op.Kind {
	case command.Set, command.SetIfUnset:
		next.value = bytes.Clone(op.Value)
		next.deadlines = db.begin(now, op.ExpireIn, op.DeleteIn)
	case command.Expire:
		next.kind = expired
	case command.Delete, command.CompareAndDelete:
		next.kind = tombstone
	default:
		panic("maple: unknown kind of operation")
	}

	db.spaces[op.Space].Compute(op.Key, func(old *entry, loaded bool) (*entry, bool) {
		there := loaded && !old.isDeleted(now)
		var change bool
		switch op.Kind {
		case command.Set:
			change = true
		case command.SetIfUnset:
			change = !there
		case command.Expire:
			change = there && !old.isExpired(now)
			if change {
				next.deadlines = old.deadlines.deleteOnly()
			}
		case command.Delete:
			change = there
		case command.CompareAndDelete:
			change = there && !old.isExpired(now) && bytes.Equal(old.value, op.Value)
		}
		if !change {
			return old, !loaded
		}
		res = command.Result{Done: true, Revision: db.replace(op.Space, op.Key, old, next)}
		return next, next.gone()
	})
	if res.Done {
		db.schedule(op.Space, op.Key, next)
	}
	return res
}

// replace makes next the newest version of key, where old (nil if the key is
// not in the map) was. It returns the change's revision. The caller holds gate
// shared and the lock of key's bucket, puts next in the map unless it is gone,
// and then schedules it.
func (db *DB) replace(space command.Space, key string, old, next *entry) uint64 {
	next.rev = db.revision.Add(1)
	if next.written == 0 {
		next.written = next.rev
	}
	var bytes, keys int64
	if old != nil {
		db.retain(space, key, old, next)
		if old.deadlines != nil {
			db.expiry.superseded(db)
		}
		if old.kind != tombstone {
			bytes -= int64(len(key) + len(old.value))
			keys--
		}
	}
	if next.kind != tombstone {
		bytes += int64(len(key) + len(next.value))
		keys++
	}
	if keys != 0 {
		db.keys[space].Add(keys)
	}
	if bytes != 0 && space == command.Keys {
		db.bytes.Add(bytes)
	}
	return next.rev
}

// gone tells whether e need not be in the map.
func (e *entry) gone() bool { return e.kind == tombstone && e.prev.Load() == nil }

// begin returns the deadlines of an entry written now, or nil.
func (db *DB) begin(now int64, expireIn, deleteIn time.Duration) *deadlines {
	if expireIn == 0 && deleteIn == 0 {
		return nil
	}
	d := &deadlines{expire: never, delete: never, epoch: db.open}
	if d.epoch != nil {
		now = 0 // they count from a moment that a later tick tells
	}
	if deleteIn != 0 {
		d.delete = add(now, int64(deleteIn))
	}
	if expireIn != 0 {
		d.expire = add(now, int64(expireIn))
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
