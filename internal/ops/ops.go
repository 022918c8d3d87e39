// Package ops turns the writing methods of store.Store, and those that locks are
// made of, into operations: it checks the arguments and leaves the doing to
// whoever embeds it, so that every kind of store accepts and refuses the same.
package ops

import (
	"cmp"
	"context"
	"fmt"
	"iter"
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

// AcquireLock implements lock.Backend.
func (w Writes) AcquireLock(ctx context.Context, key string, id []byte, ttl time.Duration) (store.Revision, bool, error) {
	res, err := w.write(ctx, engine.Op{Kind: engine.SetIfUnset, Space: engine.Locks, Key: key, Value: id, DeleteIn: ttl})
	return store.Revision(res.Revision), res.Done, err
}

// ReleaseLock implements lock.Backend.
func (w Writes) ReleaseLock(ctx context.Context, key string, id []byte) (bool, error) {
	res, err := w.write(ctx, engine.Op{Kind: engine.DeleteIfValue, Space: engine.Locks, Key: key, Value: id})
	return res.Done, err
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
// it is Refused.
func (w Writes) DoOnce(ctx context.Context, op engine.Op, id once.ID) (res engine.Result, err error) {
	if err := store.CheckWrite(op.Key, op.Value, op.ExpireIn, op.DeleteIn); err != nil {
		return engine.Result{}, err
	}
	if err := CheckContext(ctx); err != nil {
		return engine.Result{}, err
	}
	res, err = w.do(ctx, &op, id)
	if res.Full {
		err = store.ErrFull
	}
	return res, err
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
