package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"dkv"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// lockRun is a command that is run under a lock.
type lockRun struct {
	*clientFlags
	ttl, wait seconds
	try       bool
}

func newLockRun(c *clientFlags) *cobra.Command {
	l := &lockRun{clientFlags: c}
	cmd := &cobra.Command{
		Use:   "run KEY -- COMMAND [ARGUMENT]...",
		Short: "Run a command while holding a lock",
		Long: `Wait for a lock, run a command while it is held and renewed, and give it up. The command
has the lock's fencing token as DKV_LOCK_TOKEN; signals are passed on to it. If the lock
is lost, the command and what it has started is killed at once, because another may
hold the lock.

The exit code is that of the command, 128 and the signal's number if a signal has ended
it, 124 if the lock was lost, 127 or 126 if there is no such command or it cannot be
run, and 1 if the lock was not acquired in time.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if cmd.ArgsLenAtDash() != 1 || len(args) < 2 {
				return errors.New("want the lock's key, then --, then the command")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return l.run(cmd.Context(), args[0], args[1:])
		},
	}
	flags := cmd.Flags()
	secondsVar(flags, &l.ttl, "ttl", 10*time.Second, "how long the lock lives when it cannot be renewed, as 10 or 10s")
	secondsVar(flags, &l.wait, "wait", 0, "how long to wait for the lock, as 10 or 10s; 0 for as long as it takes")
	flags.BoolVar(&l.try, "try", false, "do not wait for the lock")
	return cmd
}

func (l *lockRun) run(ctx context.Context, key string, argv []string) error {
	path, err := exec.LookPath(argv[0])
	if err != nil {
		code := exitNoCommand
		if errors.Is(err, fs.ErrPermission) {
			code = exitCannotRun
		}
		return &exitError{code, err}
	}
	return l.use(func(db *dkv.DB) error {
		held, err := l.acquire(ctx, db, key)
		if err != nil {
			return err
		}
		ran := runChild(held, path, argv)
		if err := held.Err(); err != nil { // it is given up in the background
			return &exitError{exitLockLost, fmt.Errorf("%w; %s was killed, unless it had ended", err, argv[0])}
		}
		return l.release(held, key, ran)
	})
}

// acquire waits for the lock. A server that does not answer is not waited for as long
// as one that does.
func (l *lockRun) acquire(ctx context.Context, db *dkv.DB, key string) (*dkv.Lock, error) {
	if err := l.ready(ctx, db); err != nil {
		return nil, err
	}
	ttl := dkv.LockTTL(time.Duration(l.ttl))
	if l.try {
		ctx, cancel := l.limit(ctx)
		defer cancel()
		held, ok, err := db.TryLock(ctx, key, ttl)
		if err == nil && !ok {
			err = &exitError{exitNo, fmt.Errorf("lock %q not acquired: another holds it", key)}
		}
		return held, err
	}
	waiting := ctx
	if l.wait > 0 {
		var cancel context.CancelFunc
		waiting, cancel = context.WithTimeout(ctx, time.Duration(l.wait))
		defer cancel()
	}
	held, err := db.Lock(waiting, key, ttl)
	if err != nil && ctx.Err() == nil && waiting.Err() != nil {
		err = &exitError{exitNo, fmt.Errorf("lock %q not acquired within --wait=%v", key, l.wait)}
	}
	return held, err
}

// release gives the lock up when the command has ended.
func (l *lockRun) release(held *dkv.Lock, key string, ran error) error {
	ctx, cancel := l.limit(context.Background())
	defer cancel()
	err := held.Unlock(ctx)
	if errors.Is(err, dkv.ErrNotHeld) {
		return &exitError{exitLockLost, fmt.Errorf("lock %q had been lost when the command ended", key)}
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "dkv: lock %q not released, it ends by itself within %v: %v\n", key, l.ttl, err)
	}
	return ran
}

// runChild runs a command until it ends, or kills it if the lock is lost. The error has
// its exit code.
func runChild(held *dkv.Lock, path string, argv []string) error {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2)
	defer signal.Stop(signals)

	child := &exec.Cmd{
		Path: path, Args: argv,
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		Env:         append(os.Environ(), fmt.Sprintf("%sLOCK_TOKEN=%d", envPrefix, held.Token())),
		SysProcAttr: childAttr(),
	}
	// The child has a group of its own, so that what it has started is killed with
	// it. It is the foreground group of the terminal if this process's was.
	child.SysProcAttr.Setpgid = true
	const stdin = 0
	if foreground, err := unix.IoctlGetInt(stdin, unix.TIOCGPGRP); err == nil && foreground == unix.Getpgrp() {
		child.SysProcAttr.Foreground, child.SysProcAttr.Ctty = true, stdin
	}
	// The child is killed when the thread that has started it ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := child.Start(); err != nil {
		return &exitError{exitCannotRun, err}
	}
	exited := make(chan error, 1)
	go func() { exited <- child.Wait() }()
	for {
		select {
		case err := <-exited:
			return childError(child, err)
		case s := <-signals:
			syscall.Kill(-child.Process.Pid, s.(syscall.Signal))
		case <-held.Done():
			syscall.Kill(-child.Process.Pid, syscall.SIGKILL)
			<-exited
			return nil
		}
	}
}

// childError has the exit code of a command that has ended.
func childError(child *exec.Cmd, err error) error {
	if e := (*exec.ExitError)(nil); err != nil && !errors.As(err, &e) {
		return &exitError{exitFailed, err}
	}
	status := child.ProcessState.Sys().(syscall.WaitStatus)
	switch {
	case status.Signaled():
		return &exitError{exitSignal + int(status.Signal()), nil}
	case status.ExitStatus() != 0:
		return &exitError{status.ExitStatus(), nil}
	}
	return nil
}
