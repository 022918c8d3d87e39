package ops

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"dkv/internal/once"
	"dkv/store"
	"dkv/store/engine"
)

func TestEndedMatchesTheContextsErrorAndTellsItsCause(t *testing.T) {
	ctx, cancel := context.WithTimeoutCause(context.Background(), time.Nanosecond, store.ErrClosed)
	defer cancel()
	<-ctx.Done()
	err := Ended(store.ErrUnknown, ctx)
	if !errors.Is(err, store.ErrUnknown) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v matches neither or one of the two", err)
	}
	if errors.Is(err, store.ErrClosed) || !strings.Contains(err.Error(), store.ErrClosed.Error()) {
		t.Errorf("%v: the cause is text, and nothing to match", err)
	}
}

// TestClientsReachNothingThatLocksAreMadeOf: what a client sends decides what is done,
// and a key that lockqueue has not made would mislead it.
func TestClientsReachNothingThatLocksAreMadeOf(t *testing.T) {
	w := New(func(_ context.Context, op *engine.Op, _ once.ID) (engine.Result, error) {
		t.Errorf("done: %+v", *op)
		return engine.Result{}, nil
	})
	owner := make([]byte, store.OwnerSize)
	txn := func(t engine.Txn) engine.Op { return engine.Op{Kind: engine.Transact, Txn: &t} }
	for _, op := range []engine.Op{
		{Kind: engine.Set, Space: engine.Locks, Key: "k"},
		{Kind: engine.Delete, Space: engine.Waiters, Key: "k"},
		{Kind: engine.Add, Space: engine.Shared, Key: "k"},
		{Kind: engine.Join, Key: "k", Value: owner},
		{Kind: engine.Leave, Space: engine.Waiters, Key: "k", Value: owner},
		{Kind: engine.Join, Space: engine.Locks, Key: "k", Value: owner[1:]},
		{Kind: engine.Join, Space: engine.Locks, Key: "k", Value: make([]byte, store.OwnerSize+store.MaxHolderValue+1)},
		{Kind: engine.Join, Space: engine.Locks, Key: "k", Value: owner, Delta: -1},
		txn(engine.Txn{Then: []engine.Op{{Kind: engine.Set, Space: engine.Waiters, Key: "k"}}}),
		txn(engine.Txn{Else: []engine.Op{{Kind: engine.Get, Space: engine.Locks, Key: "k"}}}),
		txn(engine.Txn{If: []engine.Cond{{Kind: engine.ValueIs, Space: engine.Locks, Key: "k"}}}),
		txn(engine.Txn{If: []engine.Cond{{Kind: engine.TokenIs, Space: engine.Waiters, Key: "k"}}}),
	} {
		if _, err := w.DoOnce(context.Background(), op, once.ID{}); err == nil {
			t.Errorf("no error: %+v", op)
		}
	}
}
