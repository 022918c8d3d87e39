package main

import (
	"context"

	"dkv"
)

// This file is the only one that knows dkv.Open.

var dkvSystem = &system{
	name:      clusterSubject,
	fillsFast: true,
	note:      "default options",
	open: func(c memberConfig) (member, error) {
		db, err := dkv.Open(dkv.Options{Dir: c.Dir, Node: c.Node, Members: c.Raft})
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

func (m *dkvMember) Close() error { return m.db.Close() }
