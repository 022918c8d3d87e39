// Command locks shows what a lock of dkv is good for: workers on three members count
// together under one lock, each count is read and written under its protection,
// while the member that leads is closed and opened again, and in the end the total
// is exact.
//
//	go run ./examples/locks
//
// The three members share this process only to make the example easy to run.
//
// A worker does not trust the lock alone. It writes by a transaction that holds only
// as long as its fencing token is the lock's current one, so a worker that was paused
// and has lost the lock writes nothing. And with each count it notes how far it has
// come itself, in the same transaction. When a member is closed under its feet and it
// cannot know whether its last write was made, it looks at that note: nothing is
// counted twice, and nothing is lost.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"dkv"
)

func main() {
	workers := flag.Int("workers", 6, "`number` of workers")
	counts := flag.Int("counts", 100, "`number` of counts of each worker")
	flag.Parse()
	if err := run(os.Stdout, *workers, *counts); err != nil {
		fmt.Fprintln(os.Stderr, "locks:", err)
		os.Exit(1)
	}
}

func run(out io.Writer, workers, counts int) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	var all sync.WaitGroup
	defer all.Wait() // for the workers, whatever has failed
	defer cancel()
	dir, err := os.MkdirTemp("", "dkv-locks-")
	if err != nil {
		return err
	}
	g, err := openGroup(ctx, dir)
	defer func() { err = errors.Join(err, g.close(), os.RemoveAll(dir)) }()
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "three members, %d workers, %d counts each\n", workers, counts)

	began := time.Now()
	var done atomic.Int64
	errs := make([]error, workers)
	for i := range workers {
		all.Go(func() {
			w := worker{group: g, name: fmt.Sprint("worker-", i), member: i}
			if errs[i] = w.count(ctx, counts, &done); errs[i] != nil {
				cancel() // the others would never come to the end
			}
		})
	}
	// Somewhere in the middle the leader goes, and comes back.
	for done.Load() < int64(workers*counts/3) && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	leader, err := g.closeLeader(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "closed %s, the leader, after %d counts\n", leader, done.Load())
	for at := done.Load(); done.Load() < at+int64(workers*counts/6) && ctx.Err() == nil; {
		time.Sleep(time.Millisecond)
	}
	if err := g.reopen(leader); err != nil {
		return err
	}
	fmt.Fprintf(out, "opened %s again after %d counts\n", leader, done.Load())
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}

	total, err := number(ctx, g.member(0), "total")
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "total %d after %v\n", total, time.Since(began).Round(time.Millisecond))
	if total != int64(workers*counts) {
		return fmt.Errorf("the total is %d, not %d", total, workers*counts)
	}
	return nil
}

// worker counts by way of one member, and of another when that is closed.
type worker struct {
	group  *group
	name   string
	member int
}

// count counts to n, one by one, each time under the lock.
func (w *worker) count(ctx context.Context, n int, done *atomic.Int64) error {
	for i := 1; i <= n; i++ {
		for {
			err := w.once(ctx, int64(i))
			if err == nil {
				break
			}
			switch {
			case ctx.Err() != nil || dkv.KindOf(err) == dkv.KindFinal && !errors.Is(err, dkv.ErrNotHeld):
				return fmt.Errorf("%s: %w", w.name, err)
			case dkv.KindOf(err) == dkv.KindClosed:
				w.member++ // that one is gone; the data is on the others too
			}
			// Whatever has become of it, once finds out when it is tried again.
			time.Sleep(time.Millisecond)
		}
		done.Add(1)
	}
	return nil
}

// once makes the worker's i-th count, unless it has been made.
func (w *worker) once(ctx context.Context, i int64) error {
	db := w.group.member(w.member)
	lock, err := db.Lock(ctx, "counting", dkv.LockTTL(2*time.Second))
	if err != nil {
		return err
	}
	// An error of Unlock is that of a lock which ends by itself soon.
	defer lock.Unlock(ctx)

	mine, err := number(lock.Context(), db, w.name)
	if err != nil || mine == i {
		return err
	}
	total, err := number(lock.Context(), db, "total")
	if err != nil {
		return err
	}
	res, err := db.Txn(ctx, dkv.Txn{
		If: []dkv.Cond{dkv.IfLock("counting", lock.Token())},
		Then: []dkv.Op{
			dkv.OpSet("total", strconv.AppendInt(nil, total+1, 10)),
			dkv.OpSet(w.name, strconv.AppendInt(nil, i, 10)),
		},
	})
	if err == nil && !res.Held {
		err = dkv.ErrNotHeld // somebody else has the lock by now
	}
	return err
}

// number is what a key says, 0 if it is not there.
func number(ctx context.Context, db *dkv.DB, key string) (int64, error) {
	value, ok, err := db.Get(ctx, key)
	if err != nil || !ok {
		return 0, err
	}
	return strconv.ParseInt(string(value), 10, 64)
}
