// Package namespace shows a part of a store as a store of its own: the keys that
// begin with a prefix, which its users leave out. Two namespaces never meet, nor
// does one meet the keys of the whole store, as long as those do not begin with a
// zero byte.
package namespace

import (
	"context"
	"fmt"
	"iter"
	"strings"
	"time"

	"dkv/store"
)

// Prefix is what the keys of a namespace begin with in the store that it is part of.
// A name is not empty and has no zero byte, else Prefix panics: it is a constant of
// the program.
func Prefix(name string) string {
	if name == "" || strings.ContainsRune(name, 0) {
		panic(fmt.Sprintf("dkv: %q is no name of a namespace", name))
	}
	return "\x00" + name + "\x00"
}

// Store is a namespace of another store. What it costs is a longer key.
type Store struct {
	all    store.Store
	prefix string
}

var _ store.Store = Store{}

// New returns the part of a store whose keys begin with a prefix. Keys are shorter by
// its length than store.MaxKeySize.
func New(all store.Store, prefix string) Store { return Store{all, prefix} }

// Key is what a key is called in the whole store. An empty one stays empty, and is
// refused.
func (s Store) Key(key string) string {
	if key == "" {
		return ""
	}
	return s.prefix + key
}

// Own is an entry of the whole store as the namespace has it.
func (s Store) Own(e store.Entry) store.Entry {
	e.Key = strings.TrimPrefix(e.Key, s.prefix)
	return e
}

// OwnEvent is Own for an event.
func (s Store) OwnEvent(e store.Event) store.Event {
	e.Key = strings.TrimPrefix(e.Key, s.prefix)
	return e
}

// Get implements store.Store, as the methods below do.
func (s Store) Get(ctx context.Context, key string) ([]byte, bool, error) {
	return s.all.Get(ctx, s.Key(key))
}

func (s Store) GetStale(ctx context.Context, key string) ([]byte, bool, error) {
	return s.all.GetStale(ctx, s.Key(key))
}

func (s Store) GetEntry(ctx context.Context, key string) (store.Entry, bool, error) {
	e, ok, err := s.all.GetEntry(ctx, s.Key(key))
	return s.Own(e), ok, err
}

func (s Store) Has(ctx context.Context, key string) (bool, error) {
	return s.all.Has(ctx, s.Key(key))
}

func (s Store) Set(ctx context.Context, key string, value []byte) error {
	return s.all.Set(ctx, s.Key(key), value)
}

func (s Store) SetE(ctx context.Context, key string, value []byte, expireIn, deleteIn time.Duration) error {
	return s.all.SetE(ctx, s.Key(key), value, expireIn, deleteIn)
}

func (s Store) SetEIfUnset(ctx context.Context, key string, value []byte, expireIn, deleteIn time.Duration) (bool, error) {
	return s.all.SetEIfUnset(ctx, s.Key(key), value, expireIn, deleteIn)
}

func (s Store) Expire(ctx context.Context, key string) error { return s.all.Expire(ctx, s.Key(key)) }

func (s Store) Delete(ctx context.Context, key string) error { return s.all.Delete(ctx, s.Key(key)) }

func (s Store) CompareAndSet(ctx context.Context, key string, rev store.Revision, value []byte, expireIn, deleteIn time.Duration) (store.Revision, bool, error) {
	return s.all.CompareAndSet(ctx, s.Key(key), rev, value, expireIn, deleteIn)
}

func (s Store) CompareAndDelete(ctx context.Context, key string, rev store.Revision) (store.Revision, bool, error) {
	return s.all.CompareAndDelete(ctx, s.Key(key), rev)
}

func (s Store) Add(ctx context.Context, key string, delta int64) (int64, store.Revision, error) {
	return s.all.Add(ctx, s.Key(key), delta)
}

// Txn is about keys and locks of the namespace.
func (s Store) Txn(ctx context.Context, t store.Txn) (store.TxnResult, error) {
	return s.all.Txn(ctx, store.Txn{If: s.conds(t.If), Then: s.ops(t.Then), Else: s.ops(t.Else)})
}

func (s Store) conds(conds []store.Cond) []store.Cond {
	all := make([]store.Cond, len(conds))
	for i, c := range conds {
		c.Key = s.Key(c.Key)
		all[i] = c
	}
	return all
}

func (s Store) ops(ops []store.Op) []store.Op {
	all := make([]store.Op, len(ops))
	for i, op := range ops {
		op.Key = s.Key(op.Key)
		all[i] = op
	}
	return all
}

func (s Store) Scan(ctx context.Context, r store.Range) iter.Seq2[store.Entry, error] {
	r.Prefix = s.prefix + r.Prefix
	r.From, r.To, r.After = s.Key(r.From), s.Key(r.To), s.Key(r.After)
	return func(yield func(store.Entry, error) bool) {
		for e, err := range s.all.Scan(ctx, r) {
			if !yield(s.Own(e), err) {
				return
			}
		}
	}
}

// Watched is a watch of the whole store for what w is of the namespace.
func (s Store) Watched(w store.Watch) store.Watch {
	if w.Key = s.Key(w.Key); w.Key == "" || w.Prefix != "" {
		w.Prefix = s.prefix + w.Prefix
	}
	return w
}

func (s Store) Watch(ctx context.Context, w store.Watch) (iter.Seq2[store.Event, error], error) {
	events, err := s.all.Watch(ctx, s.Watched(w))
	if err != nil {
		return nil, err
	}
	return func(yield func(store.Event, error) bool) {
		for e, err := range events {
			if !yield(s.OwnEvent(e), err) {
				return
			}
		}
	}, nil
}

// Info is that of the whole store.
func (s Store) Info(ctx context.Context) (store.Info, error) { return s.all.Info(ctx) }
