// Command quickstart shows what dkv does, one step at a time: three replicas of
// one store write, read, expire and lock, lose their leader and get it back.
//
//	go run ./examples/quickstart
//
// Each line it prints is one step with the time that the step took. The three
// replicas share this process only to make the example easy to run. Your program
// would open one of them, its peers on other machines the others, and no other
// line would change: see examples/cluster for that.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"dkv"
)

func main() {
	if err := run(os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

// run does all the steps and stops at the first that fails or surprises.
func run(out io.Writer) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()

	dir, err := os.MkdirTemp("", "dkv-quickstart-")
	if err != nil {
		return err
	}
	d := &demo{out: out, dir: dir, began: time.Now(), replicas: make(map[string]*dkv.DB)}
	defer func() { err = errors.Join(err, d.closeAll(), os.RemoveAll(dir)) }()

	steps := []func(context.Context) error{
		d.openAll,
		d.waitUntilReady,
		d.writeAndRead,
		d.writeWithDeadlines,
		d.lock,
		d.closeLeader,
		d.carryOn,
		d.restart,
		d.compare,
	}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return d.summarize(ctx)
}

// demo is what the steps share.
type demo struct {
	out   io.Writer
	dir   string
	began time.Time
	lines int

	members  map[string]string  // Raft address by name, the same for all
	replicas map[string]*dkv.DB // those that are open, by name

	owner  dkv.Owner // of the lock "nightly-report"
	leader string    // the member that is closed and restarted
	others []string  // the two that stay
}

// openAll starts the three replicas. Open does not wait for the peers.
func (d *demo) openAll(context.Context) error {
	var err error
	if d.members, err = freeAddresses("a", "b", "c"); err != nil {
		return err
	}
	start := time.Now()
	for name := range d.members {
		if err := d.open(name); err != nil {
			return err
		}
	}
	d.tell(start, "open", "three replicas, each with a directory and a port")
	return nil
}

// open is all the setup that a program needs.
func (d *demo) open(name string) error {
	db, err := dkv.Open(dkv.Options{
		Dir:     filepath.Join(d.dir, name),
		Node:    name,
		Members: d.members,
	})
	if err != nil {
		return fmt.Errorf("open %s: %w", name, err)
	}
	d.replicas[name] = db
	return nil
}

// waitUntilReady is not needed for safety: operations wait by themselves.
func (d *demo) waitUntilReady(ctx context.Context) error {
	start := time.Now()
	for name, db := range d.replicas {
		if err := db.Ready(ctx); err != nil {
			return fmt.Errorf("wait for %s: %w", name, err)
		}
	}
	took := time.Since(start)

	info, err := d.replicas["a"].Info(ctx)
	if err != nil {
		return err
	}
	d.leader = info.Leader
	for _, name := range info.Members {
		if name != d.leader {
			d.others = append(d.others, name)
		}
	}
	if len(d.others) != 2 {
		return fmt.Errorf("members %v with leader %q: want one of three", info.Members, d.leader)
	}
	d.tellTook(took, "ready", "the members have elected a leader: %s", d.leader)
	return nil
}

// writeAndRead uses a different member for each call: all are equal.
func (d *demo) writeAndRead(ctx context.Context) error {
	start := time.Now()
	if err := d.replicas["a"].Set(ctx, "greeting", []byte("hello")); err != nil {
		return fmt.Errorf("write through a: %w", err)
	}
	d.tell(start, "write", "greeting = hello, through a; now on two disks at least")

	for _, name := range []string{"b", "c"} {
		start := time.Now()
		if err := d.expect(ctx, name, "greeting", "hello"); err != nil {
			return err
		}
		d.tell(start, "read", "greeting = hello, through %s", name)
	}
	return nil
}

// writeWithDeadlines lets a key age in two stages: first its value goes, then
// the key itself. In between, a program knows that there was something.
func (d *demo) writeWithDeadlines(ctx context.Context) error {
	const expireIn, deleteIn = 300 * time.Millisecond, 900 * time.Millisecond
	start := time.Now()
	if err := d.replicas["a"].SetE(ctx, "session", []byte("alice"), expireIn, deleteIn); err != nil {
		return fmt.Errorf("write with deadlines: %w", err)
	}
	d.tell(start, "write", "session = alice, expires in %v, is deleted in %v", expireIn, deleteIn)

	expired := func() (bool, error) {
		_, found, err := d.replicas["b"].Get(ctx, "session")
		return !found, err
	}
	if err := waitFor(ctx, "session to expire", expired); err != nil {
		return err
	}
	took := time.Since(start)
	there, err := d.replicas["c"].Has(ctx, "session")
	switch {
	case err != nil:
		return fmt.Errorf("has session: %w", err)
	case !there:
		return errors.New("session was deleted together with its value")
	case took < expireIn:
		return fmt.Errorf("session expired early, after %v", took)
	}
	d.tellTook(took, "expire", "session has no value any more, but the key is there")

	deleted := func() (bool, error) {
		there, err := d.replicas["c"].Has(ctx, "session")
		return !there, err
	}
	if err := waitFor(ctx, "session to be deleted", deleted); err != nil {
		return err
	}
	if took = time.Since(start); took < deleteIn {
		return fmt.Errorf("session was deleted early, after %v", took)
	}
	d.tellTook(took, "delete", "session is gone altogether")
	return nil
}

// lock takes a lock through one member and tries to take it through another.
func (d *demo) lock(ctx context.Context) error {
	start := time.Now()
	owner, err := d.acquire(ctx, "a")
	if err != nil {
		return err
	}
	d.tell(start, "lock", "nightly-report acquired through a, token %d", owner.Token())

	start = time.Now()
	if err := d.expectHeld(ctx, "b"); err != nil {
		return err
	}
	d.tell(start, "lock", "refused through b: it is held")

	start = time.Now()
	if err := d.release(ctx, "a", owner); err != nil {
		return err
	}
	d.tell(start, "unlock", "released through a")

	start = time.Now()
	if d.owner, err = d.acquire(ctx, "b"); err != nil {
		return err
	}
	if d.owner.Token() <= owner.Token() {
		return fmt.Errorf("token fell from %d to %d", owner.Token(), d.owner.Token())
	}
	d.tell(start, "lock", "acquired through b, token %d", d.owner.Token())
	return nil
}

// closeLeader stops the member that leads, which hands over to another.
func (d *demo) closeLeader(context.Context) error {
	start := time.Now()
	if err := d.replicas[d.leader].Close(); err != nil {
		return fmt.Errorf("close %s: %w", d.leader, err)
	}
	delete(d.replicas, d.leader)
	d.tell(start, "close", "%s, the leader, has handed over and stopped", d.leader)
	return nil
}

// carryOn uses the store and the lock through the two members that are left.
func (d *demo) carryOn(ctx context.Context) error {
	first, second := d.others[0], d.others[1]
	start := time.Now()
	if err := d.replicas[first].Set(ctx, "greeting", []byte("still here")); err != nil {
		return fmt.Errorf("write without %s: %w", d.leader, err)
	}
	d.tell(start, "write", "greeting = still here, through %s", first)

	start = time.Now()
	if err := d.expect(ctx, second, "greeting", "still here"); err != nil {
		return err
	}
	d.tell(start, "read", "greeting = still here, through %s", second)

	start = time.Now()
	if err := d.expectHeld(ctx, first); err != nil {
		return err
	}
	d.tell(start, "lock", "refused through %s: its holder has it still", first)

	start = time.Now()
	if err := d.release(ctx, second, d.owner); err != nil {
		return err
	}
	d.tell(start, "unlock", "released through %s", second)
	return nil
}

// restart opens the closed member again and reads through it what it missed.
func (d *demo) restart(ctx context.Context) error {
	start := time.Now()
	if err := d.open(d.leader); err != nil {
		return err
	}
	d.tell(start, "open", "%s again, with the directory that it left", d.leader)

	start = time.Now()
	if err := d.expect(ctx, d.leader, "greeting", "still here"); err != nil {
		return err
	}
	d.tell(start, "read", "greeting = still here, through %s, which had missed it", d.leader)
	return nil
}

// compare waits until all members are at the same place in the log, where their
// states must be the same.
func (d *demo) compare(ctx context.Context) error {
	start := time.Now()
	var sum dkv.Checksum
	level := func() (bool, error) {
		sum, _ = d.replicas["a"].Checksum()
		for name, db := range d.replicas {
			other, _ := db.Checksum()
			if other.Index != sum.Index {
				return false, nil
			}
			if other != sum {
				return false, fmt.Errorf("%s has another state than a at index %d", name, sum.Index)
			}
		}
		return true, nil
	}
	if err := waitFor(ctx, "equal checksums", level); err != nil {
		return err
	}
	d.tell(start, "compare", "a, b and c have the same checksum: %016x", sum.Sum)
	return nil
}

func (d *demo) summarize(ctx context.Context) error {
	info, err := d.replicas["a"].Info(ctx)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(d.out, "\n%d steps in %v: %d key, %d locks, revision %d, leader %s.\n",
		d.lines, round(time.Since(d.began)), info.Keys, info.Locks, info.Revision, info.Leader)
	return err
}

// expect reads key through a member.
func (d *demo) expect(ctx context.Context, name, key, want string) error {
	value, found, err := d.replicas[name].Get(ctx, key)
	switch {
	case err != nil:
		return fmt.Errorf("read %s through %s: %w", key, name, err)
	case !found:
		return fmt.Errorf("read %s through %s: not found", key, name)
	case string(value) != want:
		return fmt.Errorf("read %s through %s: %q, want %q", key, name, value, want)
	}
	return nil
}

const (
	lockName = "nightly-report"
	lockTime = 30 * time.Second // a holder that dies loses the lock after that
)

func (d *demo) acquire(ctx context.Context, name string) (dkv.Owner, error) {
	owner, ok, err := d.replicas[name].Acquire(ctx, lockName, lockTime)
	if err == nil && !ok {
		err = errors.New("it is held by another")
	}
	if err != nil {
		return owner, fmt.Errorf("acquire the lock through %s: %w", name, err)
	}
	return owner, nil
}

func (d *demo) expectHeld(ctx context.Context, name string) error {
	_, ok, err := d.replicas[name].Acquire(ctx, lockName, lockTime)
	if err == nil && ok {
		err = errors.New("acquired, though another holds it")
	}
	if err != nil {
		return fmt.Errorf("try the lock through %s: %w", name, err)
	}
	return nil
}

func (d *demo) release(ctx context.Context, name string, owner dkv.Owner) error {
	ok, err := d.replicas[name].Release(ctx, lockName, owner)
	if err == nil && !ok {
		err = errors.New("it was not held")
	}
	if err != nil {
		return fmt.Errorf("release the lock through %s: %w", name, err)
	}
	return nil
}

func (d *demo) closeAll() error {
	var errs []error
	for _, db := range d.replicas {
		errs = append(errs, db.Close())
	}
	return errors.Join(errs...)
}

// tell prints one step, which began at start and ends now.
func (d *demo) tell(start time.Time, step, format string, args ...any) {
	d.tellTook(time.Since(start), step, format, args...)
}

func (d *demo) tellTook(took time.Duration, step, format string, args ...any) {
	d.lines++
	fmt.Fprintf(d.out, "%-8s %-58s %9v\n", step, fmt.Sprintf(format, args...), round(took))
}

// round keeps about three digits.
func round(t time.Duration) time.Duration {
	unit := time.Nanosecond
	for t/unit >= 1000 {
		unit *= 10
	}
	return t.Round(unit)
}

// waitFor asks again and again until done says yes.
func waitFor(ctx context.Context, what string, done func() (bool, error)) error {
	for {
		if ok, err := done(); err != nil || ok {
			return err
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, ctx.Err())
		}
	}
}

// freeAddresses gives each name a loopback port that nobody listens on.
func freeAddresses(names ...string) (map[string]string, error) {
	addrs := make(map[string]string)
	for _, name := range names {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() // not before each name has a port of its own
		addrs[name] = l.Addr().String()
	}
	return addrs, nil
}
