package transport

import (
	"context"
	"slices"
	"strings"
	"time"

	"dkv/internal/once"
	"dkv/store"
	"dkv/store/engine"
	"dkv/store/namespace"
)

// part is a namespace of a backend. What has no key is that of the whole.
type part struct {
	namespace.Store
	all    Backend
	prefix string
}

// Namespace returns the part of a store that has a name, its keys and its locks, for a
// server to serve as a store of its own. It is that which dkv.DB.Namespace returns for
// the same name, and panics for the same.
func Namespace(b Backend, name string) Backend {
	prefix := namespace.Prefix(name)
	p := part{namespace.New(b, prefix), b, prefix}
	if b, ok := b.(Barriered); ok {
		return barredPart{p, b}
	}
	return p
}

// barredPart is a part of a store whose reads can share a barrier.
type barredPart struct {
	part
	whole Barriered
}

func (b barredPart) Barrier(ctx context.Context) error { return b.whole.Barrier(ctx) }

func (b barredPart) GetEntryStale(ctx context.Context, key string) (store.Entry, bool, error) {
	e, ok, err := b.whole.GetEntryStale(ctx, b.key(key))
	e.Key = strings.TrimPrefix(e.Key, b.prefix)
	return e, ok, err
}

// key is a key of the whole. An empty one stays empty, and is refused.
func (p part) key(key string) string {
	if key == "" {
		return ""
	}
	return p.prefix + key
}

func (p part) Ready(ctx context.Context) error { return p.all.Ready(ctx) }
func (p part) Identity() uint64                { return p.all.Identity() }
func (p part) Prompt() bool                    { return p.all.Prompt() }

func (p part) GetShared(ctx context.Context, key string) ([]byte, bool, error) {
	return p.all.GetShared(ctx, p.key(key))
}

func (p part) Enrol(ctx context.Context, nonce uint64) (uint64, error) {
	return p.all.Enrol(ctx, nonce)
}

func (p part) DoOnce(ctx context.Context, op engine.Op, id once.ID) (engine.Result, error) {
	return p.all.DoOnce(ctx, p.op(op), id)
}

// op is the operation on the whole.
func (p part) op(op engine.Op) engine.Op {
	op.Key = p.key(op.Key)
	if op.Txn == nil {
		return op
	}
	t := engine.Txn{If: slices.Clone(op.Txn.If), Then: p.ops(op.Txn.Then), Else: p.ops(op.Txn.Else)}
	for i := range t.If {
		t.If[i].Key = p.key(t.If[i].Key)
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
	if what.Key = p.key(what.Key); what.Key == "" || what.Prefix != "" {
		what.Prefix = p.prefix + what.Prefix
	}
	events, next, err := p.all.Poll(ctx, space, what, wait, maxBytes)
	own := make([]store.Event, len(events)) // they may be shared with other watches
	for i, e := range events {
		e.Key = strings.TrimPrefix(e.Key, p.prefix)
		own[i] = e
	}
	return own, next, err
}

func (p part) JoinLock(ctx context.Context, key string, owner []byte, limit int64, ttl time.Duration, wait bool) (store.LockPlace, error) {
	return p.all.JoinLock(ctx, p.key(key), owner, limit, ttl, wait)
}

func (p part) RenewLock(ctx context.Context, key string, owner []byte, number uint64, ttl time.Duration) (store.LockPlace, error) {
	return p.all.RenewLock(ctx, p.key(key), owner, number, ttl)
}

func (p part) LeaveLock(ctx context.Context, key string, owner []byte, number uint64) (bool, error) {
	return p.all.LeaveLock(ctx, p.key(key), owner, number)
}

func (p part) AwaitLock(ctx context.Context, key string, owner []byte, at store.LockPlace, wait time.Duration) (store.LockPlace, error) {
	return p.all.AwaitLock(ctx, p.key(key), owner, at, wait)
}

func (p part) LockHolder(ctx context.Context, key string) (store.LockHolder, bool, error) {
	return p.all.LockHolder(ctx, p.key(key))
}
