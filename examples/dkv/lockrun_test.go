package main

import (
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// underLock starts a shell script under the lock "job", and waits until it has printed
// a line.
func underLock(t *testing.T, s *server, script string, flags ...string) (cmd *exec.Cmd, line func() string) {
	t.Helper()
	args := append([]string{"lock", "run", "job", "--endpoints=" + s.endpoint}, flags...)
	cmd = command(t, append(args, "--", "sh", "-c", script)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line = lines(t, out)
	if got := line(); got != "begun" {
		t.Fatalf("the script prints %q", got)
	}
	return cmd, line
}

// revision is that of a shard. It counts the renewals of locks, too.
func (s *server) revision(t *testing.T, shard int) (n uint64) {
	t.Helper()
	o := runCLI(t, "info", fmt.Sprint("--shard=", shard), "--timeout=20", "--endpoints="+s.endpoint)
	_, after, _ := strings.Cut(o.stdout, "\nrevision=")
	if _, err := fmt.Sscan(after, &n); err != nil {
		t.Fatalf("%+v: %v", o, err)
	}
	return n
}

func TestLockRunHasTheCodeOfItsCommand(t *testing.T) {
	s := serve(t)
	for _, c := range []struct {
		argv   []string
		stdout string
		code   int
	}{
		{[]string{"true"}, "", 0},
		{[]string{"sh", "-c", "exit 7"}, "", 7},
		{[]string{"sh", "-c", "kill -9 $$"}, "", 128 + 9},
		{[]string{"sh", "-c", "echo $DKV_LOCK_TOKEN"}, "7\n", 0}, // the seventh change: it was granted and released three times
		{[]string{"/nosuch/command"}, "", 127},
		{[]string{"/etc/passwd"}, "", 126},
	} {
		o := runCLI(t, append([]string{"lock", "run", "job", "--endpoints=" + s.endpoint, "--"}, c.argv...)...)
		if o.stdout != c.stdout || o.code != c.code {
			t.Errorf("%q: %+v, want %q, exit code %d", c.argv, o, c.stdout, c.code)
		}
	}
}

func TestLockRunKeepsOthersOut(t *testing.T) {
	s := serve(t)
	holder, line := underLock(t, s, "trap 'echo told; exit 9' TERM; echo begun; while :; do sleep 0.01; done", "--ttl=4")
	// It is held for longer than its time to live: it is renewed.
	began, taken := time.Now(), s.revision(t, 200)
	for s.revision(t, 200) < taken+4 || time.Since(began) < 4*time.Second {
		time.Sleep(100 * time.Millisecond)
		if time.Since(began) > 20*time.Second {
			t.Fatal("the lock is not renewed")
		}
	}
	for _, flag := range []string{"--try", "--wait=0.1"} {
		o := runCLI(t, "lock", "run", "job", flag, "--endpoints="+s.endpoint, "--", "echo", "wrong")
		if o.code != exitNo || o.stdout != "" || !strings.Contains(o.stderr, `lock "job" not acquired`) {
			t.Errorf("%s: %+v", flag, o)
		}
	}
	// The signal reaches the command, whose code is passed on, and the next gets the
	// lock.
	holder.Process.Signal(syscall.SIGTERM)
	if got := line(); got != "told" {
		t.Errorf("the script prints %q", got)
	}
	if holder.Wait(); holder.ProcessState.ExitCode() != 9 {
		t.Errorf("exit code %d", holder.ProcessState.ExitCode())
	}
	if o := runCLI(t, "lock", "run", "job", "--try", "--endpoints="+s.endpoint, "--", "echo", "next"); o.stdout != "next\n" || o.code != 0 {
		t.Errorf("next: %+v", o)
	}
}

func TestLockRunKillsItsCommandWhenTheLockIsLost(t *testing.T) {
	s := serve(t)
	// What the command has started writes to the same pipe, which ends only when it
	// is killed too.
	holder, line := underLock(t, s, "echo begun; sleep 60 & wait", "--ttl=1")
	began := time.Now()
	s.kill()
	if got := line(); got != "(end)" {
		t.Errorf("the script prints %q", got)
	}
	holder.Wait()
	if code := holder.ProcessState.ExitCode(); code != exitLockLost {
		t.Errorf("exit code %d", code)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestLockRunTakesItsCommandWithItWhenItIsKilled(t *testing.T) {
	s := serve(t)
	holder, line := underLock(t, s, "echo begun; exec sleep 60")
	holder.Process.Kill()
	if got := line(); got != "(end)" {
		t.Errorf("the script prints %q", got)
	}
	holder.Wait()
}
