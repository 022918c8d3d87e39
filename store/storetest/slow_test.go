package storetest

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"dkv/store"
)

// slow is a member whose operations take their time on the way to the store and
// on the way back, and whose writes may take effect after their callers have
// gone. It conforms.
type slow struct {
	*member
	delay time.Duration // at most, each way
	n     atomic.Int64
}

func TestSlowStoreConforms(t *testing.T) {
	if testing.Short() {
		t.Skip("it is the suite that is tested: the long run has it")
	}
	Run(t, Harness{Open: func(t *testing.T) []store.Store {
		var stores []store.Store
		for _, m := range newNaive(3) {
			t.Cleanup(func() { m.Close() })
			stores = append(stores, &slow{member: m, delay: 300 * time.Microsecond})
		}
		return stores
	}})
}

// way is one way to the store or back.
func (s *slow) way(ctx context.Context) error {
	if s.n.Add(1)%4 != 0 { // mostly fast, or the suite takes too long
		return ctx.Err()
	}
	timer := time.NewTimer(rand.N(s.delay))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *slow) read(ctx context.Context, do func(context.Context) error) error {
	for range 2 {
		if err := s.way(ctx); err != nil {
			return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
		}
	}
	return do(ctx)
}

func (s *slow) write(ctx context.Context, do func(context.Context) error) error {
	if ctx.Err() != nil {
		return do(ctx)
	}
	if err := s.way(ctx); err != nil {
		switch rand.IntN(3) {
		case 0:
			return fmt.Errorf("%w: %w", store.ErrBusy, err)
		case 1:
			time.AfterFunc(rand.N(s.delay), func() { do(context.WithoutCancel(ctx)) })
		}
		return fmt.Errorf("%w: %w", store.ErrUnknown, err)
	}
	done := do(context.WithoutCancel(ctx))
	if err := s.way(ctx); err != nil && done == nil {
		return fmt.Errorf("%w: %w", store.ErrUnknown, err)
	}
	return done
}

func (s *slow) Get(ctx context.Context, key string) (value []byte, ok bool, err error) {
	err = s.read(ctx, func(ctx context.Context) error {
		value, ok, err = s.member.Get(ctx, key)
		return err
	})
	return value, ok, err
}

// GetStale is Get, so it is not stale; but it takes its time, too.
func (s *slow) GetStale(ctx context.Context, key string) (value []byte, ok bool, err error) {
	return s.Get(ctx, key)
}

func (s *slow) GetEntry(ctx context.Context, key string) (e store.Entry, ok bool, err error) {
	err = s.read(ctx, func(ctx context.Context) error {
		e, ok, err = s.member.GetEntry(ctx, key)
		return err
	})
	return e, ok, err
}

func (s *slow) Has(ctx context.Context, key string) (ok bool, err error) {
	err = s.read(ctx, func(ctx context.Context) error {
		ok, err = s.member.Has(ctx, key)
		return err
	})
	return ok, err
}

func (s *slow) Scan(ctx context.Context, r store.Range) iter.Seq2[store.Entry, error] {
	return func(yield func(store.Entry, error) bool) {
		if err := s.read(ctx, func(context.Context) error { return nil }); err != nil {
			yield(store.Entry{}, err)
			return
		}
		s.member.Scan(ctx, r)(yield)
	}
}

func (s *slow) Set(ctx context.Context, key string, value []byte) error {
	return s.SetE(ctx, key, value, 0, 0)
}

func (s *slow) SetE(ctx context.Context, key string, value []byte, expireIn, deleteIn time.Duration) error {
	value = bytes.Clone(value) // for when the caller is gone
	return s.write(ctx, func(ctx context.Context) error { return s.member.SetE(ctx, key, value, expireIn, deleteIn) })
}

func (s *slow) SetEIfUnset(ctx context.Context, key string, value []byte, expireIn, deleteIn time.Duration) (bool, error) {
	value = bytes.Clone(value)
	var set atomic.Bool
	err := s.write(ctx, func(ctx context.Context) error {
		ok, err := s.member.SetEIfUnset(ctx, key, value, expireIn, deleteIn)
		set.Store(ok)
		return err
	})
	return err == nil && set.Load(), err
}

func (s *slow) CompareAndSet(ctx context.Context, key string, rev store.Revision, value []byte, expireIn, deleteIn time.Duration) (store.Revision, bool, error) {
	value = bytes.Clone(value)
	return slowly(ctx, s, func(ctx context.Context) (store.Revision, bool, error) {
		return s.member.CompareAndSet(ctx, key, rev, value, expireIn, deleteIn)
	})
}

func (s *slow) CompareAndDelete(ctx context.Context, key string, rev store.Revision) (store.Revision, bool, error) {
	return slowly(ctx, s, func(ctx context.Context) (store.Revision, bool, error) {
		return s.member.CompareAndDelete(ctx, key, rev)
	})
}

func (s *slow) Add(ctx context.Context, key string, delta int64) (int64, store.Revision, error) {
	return slowly(ctx, s, func(ctx context.Context) (int64, store.Revision, error) { return s.member.Add(ctx, key, delta) })
}

func (s *slow) Txn(ctx context.Context, t store.Txn) (store.TxnResult, error) {
	t.If, t.Then, t.Else = slices.Clone(t.If), slices.Clone(t.Then), slices.Clone(t.Else)
	for i := range t.If {
		t.If[i].Value = bytes.Clone(t.If[i].Value)
	}
	for _, branch := range [][]store.Op{t.Then, t.Else} {
		for i := range branch {
			branch[i].Value = bytes.Clone(branch[i].Value)
		}
	}
	res, _, err := slowly(ctx, s, func(ctx context.Context) (store.TxnResult, bool, error) {
		res, err := s.member.Txn(ctx, t)
		return res, true, err
	})
	return res, err
}

// slowly is write of what returns something, which is lost with an error.
func slowly[A, B any](ctx context.Context, s *slow, do func(context.Context) (A, B, error)) (a A, b B, err error) {
	type result struct {
		a A
		b B
	}
	var done atomic.Pointer[result]
	err = s.write(ctx, func(ctx context.Context) error {
		a, b, err := do(ctx)
		done.Store(&result{a, b})
		return err
	})
	if r := done.Load(); err == nil && r != nil {
		return r.a, r.b, nil
	}
	return a, b, err
}

func (s *slow) Expire(ctx context.Context, key string) error {
	return s.write(ctx, func(ctx context.Context) error { return s.member.Expire(ctx, key) })
}

func (s *slow) Delete(ctx context.Context, key string) error {
	return s.write(ctx, func(ctx context.Context) error { return s.member.Delete(ctx, key) })
}
