// Package ops turns the writing methods of store.Store, and those that locks are
// made of, into operations: it checks the arguments and leaves the doing to
// whoever embeds it, so that every kind of store accepts and refuses the same.
package ops

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"dkv/internal/once"
	"dkv/store"
	"dkv/store/engine"
)

// Writes are the writing methods.
type Writes struct {
	do func(ctx context.Context, op *engine.Op, id once.ID) (engine.Result, error)
}

// New returns the writing methods of what does one operation with do, which may
// not keep the operation's value after it has returned. An ID that is not zero is
// of an operation that its client may repeat, see package once.
func New(do func(ctx context.Context, op *engine.Op, id once.ID) (engine.Result, error)) Writes {
	return Writes{do}
}

// Set implements store.Store.
func (w Writes) Set(ctx context.Context, key string, value []byte) error {
	_, err := w.write(ctx, engine.Op{Kind: engine.Set, Key: key, Value: value})
	return err
}

// SetE implements store.Store.
func (w Writes) SetE(ctx context.Context, key string, value []byte, expireIn, deleteIn time.Duration) error {
	_, err := w.write(ctx, engine.Op{Kind: engine.Set, Key: key, Value: value, ExpireIn: expireIn, DeleteIn: deleteIn})
	return err
}

// SetEIfUnset implements store.Store.
func (w Writes) SetEIfUnset(ctx context.Context, key string, value []byte, expireIn, deleteIn time.Duration) (bool, error) {
	res, err := w.write(ctx, engine.Op{Kind: engine.SetIfUnset, Key: key, Value: value, ExpireIn: expireIn, DeleteIn: deleteIn})
	return res.Done, err
}

// Expire implements store.Store.
func (w Writes) Expire(ctx context.Context, key string) error {
	_, err := w.write(ctx, engine.Op{Kind: engine.Expire, Key: key})
	return err
}

// Delete implements store.Store.
func (w Writes) Delete(ctx context.Context, key string) error {
	_, err := w.write(ctx, engine.Op{Kind: engine.Delete, Key: key})
	return err
}

// CompareAndSet implements store.Store.
func (w Writes) CompareAndSet(ctx context.Context, key string, rev store.Revision, value []byte, expireIn, deleteIn time.Duration) (store.Revision, bool, error) {
	res, err := w.write(ctx, engine.Op{
		Kind: engine.SetIfRevision, Key: key, At: uint64(rev), Value: value, ExpireIn: expireIn, DeleteIn: deleteIn,
	})
	return store.Revision(res.Revision), res.Done, err
}

// CompareAndDelete implements store.Store.
func (w Writes) CompareAndDelete(ctx context.Context, key string, rev store.Revision) (store.Revision, bool, error) {
	res, err := w.write(ctx, engine.Op{Kind: engine.DeleteIfRevision, Key: key, At: uint64(rev)})
	return store.Revision(res.Revision), res.Done, err
}

// Add implements store.Store.
func (w Writes) Add(ctx context.Context, key string, delta int64) (int64, store.Revision, error) {
	res, err := w.write(ctx, engine.Op{Kind: engine.Add, Key: key, Delta: delta})
	return res.Number, store.Revision(res.Revision), err
}

// Txn implements store.Store.
func (w Writes) Txn(ctx context.Context, t store.Txn) (store.TxnResult, error) {
	if err := t.Check(); err != nil {
		return store.TxnResult{}, err
	}
	if err := CheckContext(ctx); err != nil {
		return store.TxnResult{}, err
	}
	res, err := w.perform(ctx, &engine.Op{Kind: engine.Transact, Txn: transaction(&t)}, once.ID{})
	if err != nil || res.Txn == nil {
		return store.TxnResult{}, err
	}
	own := *res.Txn
	own.Results = slices.Clone(own.Results)
	for i := range own.Results {
		own.Results[i].Value = Clone(own.Results[i].Value)
	}
	return own, nil
}

// JoinLock implements lock.Backend.
func (w Writes) JoinLock(ctx context.Context, key string, owner []byte, limit int64, ttl time.Duration, wait bool) (store.LockPlace, error) {
	kind := engine.TryJoin
	if wait {
		kind = engine.Join
	}
	return w.lock(ctx, engine.Op{Kind: kind, Space: engine.Locks, Key: key, Value: owner, Delta: limit, DeleteIn: ttl})
}

// RenewLock implements lock.Backend.
func (w Writes) RenewLock(ctx context.Context, key string, owner []byte, number uint64, ttl time.Duration) (store.LockPlace, error) {
	return w.lock(ctx, engine.Op{Kind: engine.Renew, Space: engine.Locks, Key: key, Value: owner, At: number, DeleteIn: ttl})
}

// LeaveLock implements lock.Backend.
func (w Writes) LeaveLock(ctx context.Context, key string, owner []byte, number uint64) (left bool, err error) {
	res, err := w.write(ctx, engine.Op{Kind: engine.Leave, Space: engine.Locks, Key: key, Value: owner, At: number})
	return res.Done, err
}

func (w Writes) lock(ctx context.Context, op engine.Op) (store.LockPlace, error) {
	res, err := w.write(ctx, op)
	if err != nil {
		return store.LockPlace{}, err
	}
	switch {
	case res.Done:
		return store.LockPlace{Held: true, Token: store.Revision(res.Revision), Number: uint64(res.Number)}, nil
	case res.Number != 0:
		return store.LockPlace{Waiting: true, Number: uint64(res.Number), At: store.Revision(res.Revision)}, nil
	}
	return store.LockPlace{}, nil
}

// Enrol takes in a client of the network mode that may repeat its writes, and
// returns its number.
func (w Writes) Enrol(ctx context.Context, nonce uint64) (client uint64, err error) {
	if err := CheckContext(ctx); err != nil {
		return 0, err
	}
	res, err := w.do(ctx, &engine.Op{}, once.ID{Nonce: nonce})
	return res.Revision, err
}

func (w Writes) write(ctx context.Context, op engine.Op) (engine.Result, error) {
	return w.DoOnce(ctx, op, once.ID{})
}

// DoOnce does an operation of a client that may repeat it. It has had no effect if
// it is Forgotten. What a transaction has read is shared with the store.
func (w Writes) DoOnce(ctx context.Context, op engine.Op, id once.ID) (engine.Result, error) {
	if err := cmp.Or(checkOnce(&op, id), CheckContext(ctx)); err != nil {
		return engine.Result{}, err
	}
	return w.perform(ctx, &op, id)
}

// Write is one of several that are done together. One that has an Err is not done.
type Write struct {
	Op     engine.Op
	ID     once.ID
	Result engine.Result
	Err    error
}

// DoTogether is DoOnce for each of the writes that has no error yet. do sets the
// Result and the Err of those that have none.
func DoTogether(ctx context.Context, writes []Write, do func(context.Context, []Write)) {
	ended := CheckContext(ctx)
	for i := range writes {
		if w := &writes[i]; w.Err == nil {
			w.Err = cmp.Or(checkOnce(&w.Op, w.ID), ended)
		}
	}
	do(ctx, writes)
	for i := range writes {
		if w := &writes[i]; w.Err == nil {
			w.Err = refusals[w.Result.Refusal]
		}
	}
}

// checkOnce is check for an operation that may be repeated.
func checkOnce(op *engine.Op, id once.ID) error {
	if op.Kind == engine.Void && id != (once.ID{}) {
		return nil
	}
	return check(op)
}

// perform does an operation that has been checked.
func (w Writes) perform(ctx context.Context, op *engine.Op, id once.ID) (engine.Result, error) {
	res, err := w.do(ctx, op, id)
	if err == nil {
		err = refusals[res.Refusal]
	}
	return res, err
}

// refusals are the errors of what an engine has not done.
var refusals = [engine.Refusals]error{
	engine.Full:       store.ErrFull,
	engine.NotNumber:  store.ErrNotNumber,
	engine.OutOfRange: store.ErrOutOfRange,
	engine.Unkept:     fmt.Errorf("%w: it was made, but what it read has not been kept", store.ErrUnknown),
	engine.ReadsMuch:  fmt.Errorf("%w: it would read more than %d bytes", store.ErrBadTxn, store.MaxTxnRead),
}

// errForeign is the error of an operation that no client makes, since it would reach
// into what locks are made of.
var errForeign = fmt.Errorf("%w: not an operation of a client", store.ErrMalformed)

// check returns the error of an operation that no store does.
func check(op *engine.Op) error {
	switch {
	case op.Kind == engine.Void:
		return errForeign
	case op.Kind.OnLock():
		if op.Space != engine.Locks || op.Delta < 0 {
			return errForeign
		}
		if err := store.CheckOwner(op.Value); err != nil {
			return err
		}
	case op.Kind != engine.Transact && op.Space != engine.Keys:
		return errForeign
	}
	if op.Kind != engine.Transact {
		return store.CheckWrite(op.Key, op.Value, op.ExpireIn, op.DeleteIn)
	}
	size := 0
	for i := range op.Txn.If {
		c := &op.Txn.If[i]
		if c.Space != engine.Keys && (c.Space != engine.Locks || c.Kind != engine.TokenIs) {
			return errForeign
		}
		if err := store.CheckWrite(c.Key, c.Value, 0, 0); err != nil {
			return err
		}
		size += len(c.Key) + len(c.Value)
	}
	for _, branch := range [][]engine.Op{op.Txn.Then, op.Txn.Else} {
		for i := range branch {
			if err := check(&branch[i]); err != nil {
				return err
			}
			size += len(branch[i].Key) + len(branch[i].Value)
		}
	}
	if size > store.MaxTxnSize {
		return store.ErrBadTxn
	}
	return nil
}

// transaction is a transaction, which has been checked, as engines have it.
func transaction(t *store.Txn) *engine.Txn {
	return &engine.Txn{If: conditions(t.If), Then: branch(t.Then), Else: branch(t.Else)}
}

func conditions(conds []store.Cond) []engine.Cond {
	all := make([]engine.Cond, len(conds))
	for i := range conds {
		c := &conds[i]
		all[i] = engine.Cond{Key: c.Key, Value: c.Value, At: uint64(c.Revision)}
		switch c.Kind {
		case store.CondRevision:
			all[i].Kind = engine.RevisionIs
		case store.CondExists:
			all[i].Kind = engine.Exists
		case store.CondValue:
			all[i].Kind = engine.ValueIs
		case store.CondLock:
			all[i].Kind, all[i].Space = engine.TokenIs, engine.Locks
		}
	}
	return all
}

var opKinds = [...]engine.Kind{
	store.OpKindGet:        engine.Get,
	store.OpKindSet:        engine.Set,
	store.OpKindSetIfUnset: engine.SetIfUnset,
	store.OpKindExpire:     engine.Expire,
	store.OpKindDelete:     engine.Delete,
	store.OpKindAdd:        engine.Add,
}

func branch(ops []store.Op) []engine.Op {
	all := make([]engine.Op, len(ops))
	for i := range ops {
		op := &ops[i]
		all[i] = engine.Op{
			Kind: opKinds[op.Kind], Key: op.Key, Value: op.Value, ExpireIn: op.ExpireIn, DeleteIn: op.DeleteIn, Delta: op.Delta,
		}
	}
	return all
}

// Scan is a scan of the view that open returns, once the arguments have been
// checked. The entries that it yields are the caller's own.
func Scan(ctx context.Context, r store.Range, open func() (engine.View, error)) iter.Seq2[store.Entry, error] {
	return func(yield func(store.Entry, error) bool) {
		if err := cmp.Or(r.Check(), CheckContext(ctx)); err != nil {
			yield(store.Entry{}, err)
			return
		}
		view, err := open()
		if err != nil {
			yield(store.Entry{}, err)
			return
		}
		defer view.Release()
		if r.At != nil {
			*r.At = store.Revision(view.Revision())
		}
		from, to, ok := r.Bounds()
		if !ok {
			return
		}
		left := r.Limit
		view.Scan(engine.Keys, from, to, r.Reverse, func(e store.Entry) bool {
			if err = CheckContext(ctx); err != nil {
				return false
			}
			e.Key = strings.Clone(e.Key)
			if r.KeysOnly {
				e.Value = nil
			} else {
				e.Value = Clone(e.Value)
			}
			left--
			return yield(e, nil) && left != 0
		})
		if err != nil {
			yield(store.Entry{}, err)
		}
	}
}

// Clone copies a value for a caller; nil stays nil, as an expired entry has it.
func Clone(value []byte) []byte {
	if value == nil {
		return nil
	}
	c := make([]byte, len(value)) // not cleared first, as copy follows at once
	copy(c, value)
	return c
}

// CheckRead returns the error of a read of key that is over before it begins.
func CheckRead(ctx context.Context, key string) error {
	if err := store.CheckKey(key); err != nil {
		return err
	}
	return CheckContext(ctx)
}

// CheckContext returns the error of an operation whose context has ended before
// it began.
func CheckContext(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return Ended(store.ErrUnavailable, ctx)
	}
	return nil
}

// Ended is the error of an operation that ended with its context: it matches
// both sentinel and the context's error, and has the text of its cause.
func Ended(sentinel error, ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if err == cause {
		return fmt.Errorf("%w: %w", sentinel, err)
	}
	return fmt.Errorf("%w: %w: %v", sentinel, err, cause)
}
