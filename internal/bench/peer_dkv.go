package main

import (
	"context"
	"errors"

	"dkv"
	"dkv/store"
)

// This file is the only one that knows dkv.Open.

var dkvSystem = &system{
	name:      clusterSubject,
	fillsFast: true,
	note:      "default options",
	open: func(c memberConfig) (member, error) {
		db, err := dkv.Open(dkv.Options{Dir: c.Dir, Node: c.Node, Members: c.Raft, Listen: c.Listen})
		if err != nil {
			return nil, err
		}
		m := &dkvMember{db}
		if s, ok := any(db).(staler); ok {
			return struct {
				*dkvMember
				staler
			}{m, s}, nil
		}
		return m, nil
	},
	connect: func(endpoints []string) (member, error) {
		db, err := dkv.Open(dkv.Options{Connect: endpoints})
		if err != nil {
			return nil, err
		}
		return &dkvMember{db}, nil
	},
}

type dkvMember struct{ db *dkv.DB }

func (m *dkvMember) Ready(ctx context.Context) error { return m.db.Ready(ctx) }

func (m *dkvMember) Leads() bool {
	info, err := m.db.Info(context.Background())
	return err == nil && info.Leader != "" && info.Leader == info.Node
}

func (m *dkvMember) Set(ctx context.Context, key string, value []byte) error {
	return m.db.Set(ctx, key, value)
}

func (m *dkvMember) Get(ctx context.Context, key string) ([]byte, bool, error) {
	return m.db.Get(ctx, key)
}

func (m *dkvMember) SetInTxn(ctx context.Context, keys []string, values [][]byte) error {
	sets := make([]dkv.Op, len(keys))
	for i, key := range keys {
		sets[i] = dkv.OpSet(key, values[i])
	}
	r, err := m.db.Txn(ctx, dkv.Txn{Then: sets})
	if err == nil && !r.Held {
		err = errors.New("a transaction without conditions did not succeed")
	}
	return err
}

func (m *dkvMember) Watches() watches {
	ctx, cancel := context.WithCancel(context.Background())
	return &dkvWatches{m.db, ctx, cancel}
}

type dkvWatches struct {
	db    *dkv.DB
	ctx   context.Context
	close func()
}

func (w *dkvWatches) Watch(key string, opened, changed func()) error {
	events, err := w.db.Watch(w.ctx, store.Watch{Key: key})
	if err != nil {
		return err
	}
	opened()
	for _, err := range events {
		switch {
		case w.ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		}
		changed()
	}
	return errors.New("the events have ended without an error")
}

func (w *dkvWatches) Close() error {
	w.close()
	return nil
}

func (m *dkvMember) Locks(context.Context) (locks, error) { return dkvLocks{m.db}, nil }

// dkvLocks needs nothing of its own for a caller.
type dkvLocks struct{ db *dkv.DB }

func (l dkvLocks) Lock(ctx context.Context, name string) (func(context.Context) error, error) {
	held, err := l.db.Lock(ctx, name)
	if err != nil {
		return nil, err
	}
	return held.Unlock, nil
}

func (dkvLocks) Close() error { return nil }

func (m *dkvMember) Close() error { return m.db.Close() }
