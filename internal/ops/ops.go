// Package ops turns the writing methods of store.Store, and those that locks are
// made of, into operations: it checks the arguments and leaves the doing to
// whoever embeds it, so that every kind of store accepts and refuses the same.
package ops

import (
	"context"
	"fmt"
	"time"

	"dkv/internal/command"
	"dkv/store"
)

// Writes are the writing methods.
type Writes struct {
	do func(ctx context.Context, op *command.Op) (command.Result, error)
}

// New returns the writing methods of what does one operation with do, which may
// not keep the operation's value after it has returned.
func New(do func(ctx context.Context, op *command.Op) (command.Result, error)) Writes {
	return Writes{do}
}

// Set implements store.Store.
func (w Writes) Set(ctx context.Context, key string, value []byte) error {
	_, err := w.write(ctx, command.Op{Kind: command.Set, Key: key, Value: value})
	return err
}

// SetE implements store.Store.
func (w Writes) SetE(ctx context.Context, key string, value []byte, expireIn, deleteIn time.Duration) error {
	_, err := w.write(ctx, command.Op{Kind: command.Set, Key: key, Value: value, ExpireIn: expireIn, DeleteIn: deleteIn})
	return err
}

// SetEIfUnset implements store.Store.
func (w Writes) SetEIfUnset(ctx context.Context, key string, value []byte, expireIn, deleteIn time.Duration) (bool, error) {
	res, err := w.write(ctx, command.Op{Kind: command.SetIfUnset, Key: key, Value: value, ExpireIn: expireIn, DeleteIn: deleteIn})
	return res.Done, err
}

// Expire implements store.Store.
func (w Writes) Expire(ctx context.Context, key string) error {
	_, err := w.write(ctx, command.Op{Kind: command.Expire, Key: key})
	return err
}

// Delete implements store.Store.
func (w Writes) Delete(ctx context.Context, key string) error {
	_, err := w.write(ctx, command.Op{Kind: command.Delete, Key: key})
	return err
}

// AcquireLock implements lock.Backend.
func (w Writes) AcquireLock(ctx context.Context, key string, id []byte, ttl time.Duration) (store.Revision, bool, error) {
	res, err := w.write(ctx, command.Op{Kind: command.SetIfUnset, Space: command.Locks, Key: key, Value: id, DeleteIn: ttl})
	return store.Revision(res.Revision), res.Done, err
}

// ReleaseLock implements lock.Backend.
func (w Writes) ReleaseLock(ctx context.Context, key string, id []byte) (bool, error) {
	res, err := w.write(ctx, command.Op{Kind: command.CompareAndDelete, Space: command.Locks, Key: key, Value: id})
	return res.Done, err
}

func (w Writes) write(ctx context.Context, op command.Op) (command.Result, error) {
	if err := store.CheckWrite(op.Key, op.Value, op.ExpireIn, op.DeleteIn); err != nil {
		return command.Result{}, err
	}
	if err := CheckContext(ctx); err != nil {
		return command.Result{}, err
	}
	return w.do(ctx, &op)
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
