package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// binary builds the program under test, once, where it is removed after the tests.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "dkv-cli-")
	if err != nil {
		return "", err
	}
	built = dir
	path := filepath.Join(dir, "dkv")
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", path, ".").CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

var built string // the directory of binary, "" if nothing was built

func TestMain(m *testing.M) {
	code := m.Run()
	if built != "" {
		os.RemoveAll(built)
	}
	os.Exit(code)
}

// The most that one process under test may take. A server has the commands of a test.
const (
	testTime   = 30 * time.Second
	serverTime = 5 * time.Minute
)

// command is a process of the program, without what the environment says about it.
func command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	limit := testTime
	if args[0] == "serve" {
		limit = serverTime
	}
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.WaitDelay = time.Second
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, envPrefix) {
			cmd.Env = append(cmd.Env, v)
		}
	}
	return cmd
}

// outcome is what a process has left.
type outcome struct {
	stdout, stderr string
	code           int
}

func finish(t *testing.T, cmd *exec.Cmd) outcome {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return outcome{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// runCLI carries out a command of the program.
func runCLI(t *testing.T, args ...string) outcome {
	t.Helper()
	return finish(t, command(t, args...))
}

// expect carries out a command that prints one line.
func expect(t *testing.T, want string, code int, args ...string) {
	t.Helper()
	if o := runCLI(t, args...); o.stdout != want+"\n" || o.code != code {
		t.Errorf("dkv %s\n got %q, exit code %d\nwant %q, exit code %d\n%s", strings.Join(args, " "), o.stdout, o.code, want+"\n", code, o.stderr)
	}
}

// server is a process that serves.
type server struct {
	cmd      *exec.Cmd
	endpoint string // as a client says it
	exited   chan struct{}
	log      strings.Builder // complete when it has exited
}

var servingLine = regexp.MustCompile(`msg=serving endpoints="?\[([^ \]]*)`)

// serve starts a server, and waits until it listens. Its port is chosen free unless args
// have one.
func serve(t *testing.T, args ...string) *server {
	t.Helper()
	if !strings.Contains(strings.Join(args, " "), "--transport-endpoint=") {
		args = append(args, "--transport-endpoint=127.0.0.1:0")
	}
	args = append([]string{"serve"}, args...)
	s := &server{cmd: command(t, args...), exited: make(chan struct{})}
	stderr, err := s.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	listening := make(chan string, 1)
	go func() {
		defer close(s.exited)
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			fmt.Fprintln(&s.log, lines.Text())
			if m := servingLine.FindStringSubmatch(lines.Text()); m != nil {
				listening <- m[1]
			}
		}
		io.Copy(io.Discard, stderr)
		s.cmd.Wait()
	}()
	t.Cleanup(func() {
		s.kill()
		if t.Failed() {
			t.Logf("dkv %s\n%s", strings.Join(args, " "), s.log.String())
		}
	})
	select {
	case s.endpoint = <-listening:
		s.endpoint = strings.TrimPrefix(s.endpoint, "tcp://") // as users write it
	case <-s.exited:
		t.Fatalf("dkv %s: %v\n%s", strings.Join(args, " "), s.cmd.ProcessState, s.log.String())
	}
	return s
}

func (s *server) kill() {
	s.cmd.Process.Kill()
	<-s.exited
}

// stop ends the server in good order, and returns the exit code.
func (s *server) stop() int {
	s.cmd.Process.Signal(syscall.SIGTERM)
	<-s.exited
	return s.cmd.ProcessState.ExitCode()
}

// freeAddresses are of the loopback interface, and nobody listens there.
func freeAddresses(t *testing.T, n int) []string {
	t.Helper()
	var all []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close() // not before there are n
		all = append(all, l.Addr().String())
	}
	return all
}

// lines gives what a process writes, line by line.
func lines(t *testing.T, r io.Reader) func() string {
	t.Helper()
	all := make(chan string, 100)
	go func() {
		defer close(all)
		for s := bufio.NewScanner(r); s.Scan(); {
			all <- s.Text()
		}
	}()
	return func() string {
		t.Helper()
		select {
		case line, ok := <-all:
			if !ok {
				return "(end)"
			}
			return line
		case <-time.After(testTime):
			t.Fatal("no further line")
			return ""
		}
	}
}
