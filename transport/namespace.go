package transport

import (
	"context"
	"slices"
	"time"

	"dkv/internal/once"
	"dkv/internal/ops"
	"dkv/store"
	"dkv/store/engine"
	"dkv/store/namespace"
)

// part is a namespace of a backend. What has no key is that of the whole.
type part struct {
	namespace.Store
	all Backend
}

// Namespace returns the part of a store that has a name, its keys and its locks, for a
// server to serve as a store of its own. It is that which dkv.DB.Namespace returns for
// the same name, and panics for the same.
func Namespace(b Backend, name string) Backend {
	p := part{namespace.New(b, namespace.Prefix(name)), b}
	if b, ok := b.(Grouping); ok {
		return groupingPart{p, b}
	}
	return p
}

// groupingPart is a part of a store that is Grouping.
type groupingPart struct {
	part
	whole Grouping
}

func (b groupingPart) Barrier(ctx context.Context) error { return b.whole.Barrier(ctx) }

func (b groupingPart) GetEntryStale(ctx context.Context, key string) (store.Entry, bool, error) {
	e, ok, err := b.whole.GetEntryStale(ctx, b.Key(key))
	return b.Own(e), ok, err
}

func (b groupingPart) DoTogether(ctx context.Context, writes []ops.Write) {
	for i := range writes {
		if writes[i].Err == nil {
			writes[i].Op = b.op(writes[i].Op)
		}
	}
	b.whole.DoTogether(ctx, writes)
}

func (p part) Ready(ctx context.Context) error { return p.all.Ready(ctx) }
func (p part) Identity() uint64                { return p.all.Identity() }
func (p part) Prompt() bool                    { return p.all.Prompt() }

func (p part) GetShared(ctx context.Context, key string) ([]byte, bool, error) {
	return p.all.GetShared(ctx, p.Key(key))
}

func (p part) Enrol(ctx context.Context, nonce uint64) (uint64, error) {
	return p.all.Enrol(ctx, nonce)
}

func (p part) DoOnce(ctx context.Context, op engine.Op, id once.ID) (engine.Result, error) {
	return p.all.DoOnce(ctx, p.op(op), id)
}

// op is the operation on the whole.
func (p part) op(op engine.Op) engine.Op {
	op.Key = p.Key(op.Key)
	if op.Txn == nil {
		return op
	}
	t := engine.Txn{If: slices.Clone(op.Txn.If), Then: p.ops(op.Txn.Then), Else: p.ops(op.Txn.Else)}
	for i := range t.If {
		t.If[i].Key = p.Key(t.If[i].Key)
	}
	op.Txn = &t
	return op
}

func (p part) ops(ops []engine.Op) []engine.Op {
	all := make([]engine.Op, len(ops))
	for i := range ops {
		all[i] = p.op(ops[i])
	}
	return all
}

func (p part) Poll(ctx context.Context, space engine.Space, what store.Watch, wait time.Duration, maxBytes int64) ([]store.Event, store.Revision, error) {
	events, next, err := p.all.Poll(ctx, space, p.Watched(what), wait, maxBytes)
	own := make([]store.Event, len(events)) // they may be shared with other watches
	for i, e := range events {
		own[i] = p.OwnEvent(e)
	}
	return own, next, err
}

func (p part) JoinLock(ctx context.Context, key string, owner []byte, limit int64, ttl time.Duration, wait bool) (store.LockPlace, error) {
	return p.all.JoinLock(ctx, p.Key(key), owner, limit, ttl, wait)
}

func (p part) RenewLock(ctx context.Context, key string, owner []byte, number uint64, ttl time.Duration) (store.LockPlace, error) {
	return p.all.RenewLock(ctx, p.Key(key), owner, number, ttl)
}

func (p part) LeaveLock(ctx context.Context, key string, owner []byte, number uint64) (bool, error) {
	return p.all.LeaveLock(ctx, p.Key(key), owner, number)
}

func (p part) AwaitLock(ctx context.Context, key string, owner []byte, at store.LockPlace, wait time.Duration) (store.LockPlace, error) {
	return p.all.AwaitLock(ctx, p.Key(key), owner, at, wait)
}

func (p part) LockHolder(ctx context.Context, key string) (store.LockHolder, bool, error) {
	return p.all.LockHolder(ctx, p.Key(key))
}
