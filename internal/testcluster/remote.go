package testcluster

import (
	"cmp"
	"context"
	"errors"
	"iter"
	"time"

	"dkv/internal/ops"
	"dkv/lock"
	"dkv/store"
	"dkv/store/replica"
)

// These are the requests of a Process to its child.

// Get implements store.Store.
func (p *Process) Get(ctx context.Context, key string) ([]byte, bool, error) {
	a, err := p.do(ctx, request{Op: "get", Key: key})
	return a.Value, a.OK, err
}

// Members are those that the child knows.
func (p *Process) Members(ctx context.Context) ([]store.Member, error) {
	a, err := p.do(ctx, request{Op: "members"})
	return a.Members, err
}

// RemoveMember has the child remove a member.
func (p *Process) RemoveMember(ctx context.Context, name string) error {
	_, err := p.do(ctx, request{Op: "remove", Key: name})
	return err
}

// TransferLeadership has the child have a member lead.
func (p *Process) TransferLeadership(ctx context.Context, name string) error {
	_, err := p.do(ctx, request{Op: "transfer", Key: name})
	return err
}

// GetStale implements store.Store.
func (p *Process) GetStale(ctx context.Context, key string) ([]byte, bool, error) {
	a, err := p.do(ctx, request{Op: "getstale", Key: key})
	return a.Value, a.OK, err
}

// GetEntry implements store.Store.
func (p *Process) GetEntry(ctx context.Context, key string) (store.Entry, bool, error) {
	a, err := p.do(ctx, request{Op: "entry", Key: key})
	if a.Entry == nil {
		return store.Entry{}, false, err
	}
	return *a.Entry, a.OK, err
}

// Has implements store.Store.
func (p *Process) Has(ctx context.Context, key string) (bool, error) {
	a, err := p.do(ctx, request{Op: "has", Key: key})
	return a.OK, err
}

// Set implements store.Store.
func (p *Process) Set(ctx context.Context, key string, value []byte) error {
	_, err := p.write(ctx, request{Op: "set", Key: key, Value: value})
	return err
}

// SetE implements store.Store.
func (p *Process) SetE(ctx context.Context, key string, value []byte, expireIn, deleteIn time.Duration) error {
	_, err := p.write(ctx, request{Op: "sete", Key: key, Value: value, ExpireIn: expireIn, DeleteIn: deleteIn})
	return err
}

// SetEIfUnset implements store.Store.
func (p *Process) SetEIfUnset(ctx context.Context, key string, value []byte, expireIn, deleteIn time.Duration) (bool, error) {
	a, err := p.write(ctx, request{Op: "seteifunset", Key: key, Value: value, ExpireIn: expireIn, DeleteIn: deleteIn})
	return a.OK, err
}

// CompareAndSet implements store.Store.
func (p *Process) CompareAndSet(ctx context.Context, key string, rev store.Revision, value []byte, expireIn, deleteIn time.Duration) (store.Revision, bool, error) {
	a, err := p.write(ctx, request{Op: "compareandset", Key: key, Revision: rev, Value: value, ExpireIn: expireIn, DeleteIn: deleteIn})
	return a.Revision, a.OK, err
}

// CompareAndDelete implements store.Store.
func (p *Process) CompareAndDelete(ctx context.Context, key string, rev store.Revision) (store.Revision, bool, error) {
	a, err := p.write(ctx, request{Op: "compareanddelete", Key: key, Revision: rev})
	return a.Revision, a.OK, err
}

// Add implements store.Store.
func (p *Process) Add(ctx context.Context, key string, delta int64) (int64, store.Revision, error) {
	a, err := p.write(ctx, request{Op: "add", Key: key, Delta: delta})
	return a.Sum, a.Revision, err
}

// Txn implements store.Store.
func (p *Process) Txn(ctx context.Context, t store.Txn) (store.TxnResult, error) {
	a, err := p.write(ctx, request{Op: "txn", Txn: &t})
	if a.Txn == nil {
		return store.TxnResult{}, err
	}
	return *a.Txn, err
}

// Watch implements store.Store. It goes on while the process does not answer, since
// that is what a test is about, and ends when the process has ended.
func (p *Process) Watch(ctx context.Context, what store.Watch) (iter.Seq2[store.Event, error], error) {
	a, err := p.do(ctx, request{Op: "watch", Watch: &what})
	if err != nil {
		return nil, err
	}
	return func(yield func(store.Event, error) bool) {
		for {
			for _, e := range a.Events {
				if !yield(e, nil) {
					return
				}
			}
			if a.Revision != 0 {
				what.From = a.Revision
			}
			if a, err = p.do(ctx, request{Op: "watch", Watch: &what}); err != nil && (!errors.Is(err, store.ErrUnknown) || !p.Running()) || ctx.Err() != nil {
				yield(store.Event{}, cmp.Or(ops.CheckContext(ctx), err))
				return
			}
		}
	}, nil
}

// Expire implements store.Store.
func (p *Process) Expire(ctx context.Context, key string) error {
	_, err := p.write(ctx, request{Op: "expire", Key: key})
	return err
}

// Delete implements store.Store.
func (p *Process) Delete(ctx context.Context, key string) error {
	_, err := p.write(ctx, request{Op: "delete", Key: key})
	return err
}

// Acquire is that of lock.Locker.
func (p *Process) Acquire(ctx context.Context, key string, ttl time.Duration) (lock.Owner, bool, error) {
	a, err := p.write(ctx, request{Op: "acquire", Key: key, DeleteIn: ttl})
	owner, _ := lock.ParseOwner(a.Owner)
	return owner, a.OK, err
}

// Release is that of lock.Locker.
func (p *Process) Release(ctx context.Context, key string, owner lock.Owner) (bool, error) {
	a, err := p.write(ctx, request{Op: "release", Key: key, Owner: owner.String()})
	return a.OK, err
}

// ProcessLock is a lock that a process holds, as far as it lives.
type ProcessLock struct {
	Token   store.Revision
	process *Process
	id      uint64
}

// Lock is that of lock.Locker.
func (p *Process) Lock(ctx context.Context, key string, ttl time.Duration) (ProcessLock, error) {
	a, err := p.do(ctx, request{Op: "lock", Key: key, DeleteIn: ttl})
	return ProcessLock{a.Revision, p, a.ID}, err
}

// Unlock is that of lock.Lock.
func (l ProcessLock) Unlock(ctx context.Context) error {
	_, err := l.process.do(ctx, request{Op: "unlock", Lock: l.id})
	return err
}

// Trusted tells whether the process trusts its lock, at a moment after the call.
func (l ProcessLock) Trusted(ctx context.Context) bool {
	a, err := l.process.do(ctx, request{Op: "trusted", Lock: l.id})
	return err == nil && a.OK
}

// Info implements store.Store.
func (p *Process) Info(ctx context.Context) (store.Info, error) {
	a, err := p.do(ctx, request{Op: "info"})
	if a.Info == nil {
		return store.Info{}, err
	}
	return *a.Info, err
}

// Scan implements store.Store. All entries come in one reply.
func (p *Process) Scan(ctx context.Context, r store.Range) iter.Seq2[store.Entry, error] {
	return func(yield func(store.Entry, error) bool) {
		at := r.At
		r.At = nil
		a, err := p.do(ctx, request{Op: "scan", Range: &r})
		if at != nil && a.At != nil {
			*at = *a.At
		}
		for _, e := range a.Entries {
			if !yield(e, nil) {
				return
			}
		}
		if err != nil {
			yield(store.Entry{}, err)
		}
	}
}

// Ready waits until the member answers reads.
func (p *Process) Ready(ctx context.Context) error {
	_, err := p.do(ctx, request{Op: "ready"})
	return err
}

// Close closes the member's store; the process goes on.
func (p *Process) Close() error {
	_, err := p.do(context.Background(), request{Op: "close"})
	return err
}

// cut has what the child says not reach addresses; see network.
func (p *Process) cut(addresses map[string]bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), settleLimit)
	defer cancel()
	_, err := p.do(ctx, request{Op: "cut", Cut: addresses})
	return err
}

// dropped is how much of what the child has said was lost, by address.
func (p *Process) dropped() (map[string]Dropped, error) {
	ctx, cancel := context.WithTimeout(context.Background(), settleLimit)
	defer cancel()
	a, err := p.do(ctx, request{Op: "dropped"})
	return a.Dropped, err
}

// Checksum is that of the member's state.
func (p *Process) Checksum() (replica.Checksum, error) {
	ctx, cancel := context.WithTimeout(context.Background(), settleLimit)
	defer cancel()
	a, err := p.do(ctx, request{Op: "checksum"})
	if err != nil {
		return replica.Checksum{}, err
	}
	if a.Checksum == nil {
		return replica.Checksum{}, errors.New("no checksum")
	}
	return *a.Checksum, nil
}
