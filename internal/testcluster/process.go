package testcluster

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"dkv/store"
	"dkv/store/replica"
)

const (
	// noDeadline is how long a child tries if its caller's context has none.
	noDeadline = time.Minute
	// openLimit is how long a child may take to open its directory.
	openLimit = 30 * time.Second
)

// Process is a member in a process of its own. It is a store.Store and has the
// methods of a lock.Locker. What the process does not live to answer ends with
// store.ErrUnknown.
type Process struct {
	t      testing.TB
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stderr bytes.Buffer
	over   chan struct{} // closed when the process has ended and been waited for

	mu      sync.Mutex
	nextID  uint64
	waiting map[uint64]chan reply // nil when the process is not to answer any more

	acknowledged int // writes; under mu
}

var _ store.Store = (*Process)(nil)

// ProcessOptions says how a child is started.
type ProcessOptions struct {
	Dir           string
	Node          string
	Members       map[string]string
	SnapshotBytes int64
	Restore       string
	Address       string
	Join          []string
	Witness       bool

	// Cut has the addresses that what the child says does not reach; if true, it
	// is but snapshots that do not.
	Cut map[string]bool

	// Wrap is a command that the child's own is appended to.
	Wrap []string
}

// StartProcess starts a child and waits until it has opened its store. If that
// fails, the error is the child's and the child has ended.
func StartProcess(t testing.TB, opts ProcessOptions) (*Process, error) {
	t.Helper()
	p, err := startProcess(t, opts)
	t.Cleanup(p.cleanup)
	return p, err
}

func startProcess(t testing.TB, opts ProcessOptions) (*Process, error) {
	t.Helper()
	env, err := json.Marshal(childOptions{opts.Dir, opts.Node, opts.Members, opts.SnapshotBytes, opts.Restore, opts.Address, opts.Join, opts.Witness, opts.Cut})
	if err != nil {
		t.Fatal(err)
	}
	argv := append(append([]string{}, opts.Wrap...), os.Args[0])
	p := &Process{
		t:       t,
		cmd:     exec.Command(argv[0], argv[1:]...),
		over:    make(chan struct{}),
		waiting: make(map[uint64]chan reply),
	}
	p.cmd.Env = append(os.Environ(), childEnv+"="+string(env), "GORACE=halt_on_error=1")
	p.cmd.Stderr = &p.stderr
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	opened := make(chan reply, 1)
	p.waiting[0] = opened
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go p.read(stdout)
	select {
	case r, ok := <-opened:
		if !ok {
			<-p.over
			return p, fmt.Errorf("the process ended while it opened: %v: %s", p.cmd.ProcessState, p.stderr.String())
		}
		if r.Error != "" {
			<-p.over
			return p, r.err()
		}
	case <-time.After(openLimit):
		p.Kill()
		t.Fatalf("the process did not open its store: %s", p.stderr.String())
	}
	return p, nil
}

// read hands replies out until the process ends.
func (p *Process) read(stdout io.Reader) {
	lines := bufio.NewScanner(stdout)
	lines.Buffer(nil, 64<<20)
	stray := ""
	for lines.Scan() {
		var r reply
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			stray = lines.Text()
			break
		}
		p.mu.Lock()
		answered := p.waiting[r.ID]
		delete(p.waiting, r.ID)
		p.mu.Unlock()
		if answered != nil {
			answered <- r
		}
	}
	io.Copy(io.Discard, stdout)
	p.cmd.Wait()
	if stray != "" && !p.killed() { // a kill may cut a line short
		p.t.Errorf("on the stdout of member process %d: %s", p.PID(), stray)
	}
	p.mu.Lock()
	for _, answered := range p.waiting {
		close(answered)
	}
	p.waiting = nil
	p.mu.Unlock()
	close(p.over)
}

// cleanup ends the process, if it still runs, and looks at what it wrote to
// stderr: a guest writes nothing there, nor does the race detector if all is
// well.
func (p *Process) cleanup() {
	p.Exit()
	if s := p.stderr.String(); s != "" {
		p.t.Errorf("on the stderr of member process %d: %s", p.PID(), s)
	}
}

// PID is the number of the process.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Running tells whether the process has not ended.
func (p *Process) Running() bool {
	select {
	case <-p.over:
		return false
	default:
		return true
	}
}

// Exit has the process close its store and end, and returns how it ended.
func (p *Process) Exit() *os.ProcessState {
	if p.Running() {
		p.cmd.Process.Signal(syscall.SIGCONT)
		p.stdin.Close()
		select {
		case <-p.over:
		case <-time.After(2 * closeLimit):
			p.t.Errorf("member process %d does not end", p.PID())
			p.cmd.Process.Signal(syscall.SIGABRT) // its goroutines go to stderr
			time.Sleep(time.Second)
			p.Kill()
		}
	}
	return p.cmd.ProcessState
}

// Kill ends the process by SIGKILL and tells whether that was what it ended by.
func (p *Process) Kill() bool {
	p.cmd.Process.Kill()
	<-p.over
	return p.killed()
}

func (p *Process) killed() bool {
	status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

// Pause stops the process by SIGSTOP and tells whether the system says that it
// has.
func (p *Process) Pause() bool {
	p.cmd.Process.Signal(syscall.SIGSTOP)
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if p.state() == "T" {
			return true
		}
	}
	return false
}

// Resume lets a paused process go on.
func (p *Process) Resume() { p.cmd.Process.Signal(syscall.SIGCONT) }

func (p *Process) state() string {
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID()))
	if _, rest, ok := strings.Cut(string(stat), ") "); ok {
		return rest[:1]
	}
	return ""
}

// Stderr is what the process wrote there. Only to be called when it has ended.
func (p *Process) Stderr() string { return p.stderr.String() }

// Acknowledged is the number of writes that the process has said were done.
func (p *Process) Acknowledged() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.acknowledged
}

func (r reply) err() error {
	switch e := store.ErrorOf(r.Code); {
	case r.Error == "":
		return nil
	case e != nil:
		return fmt.Errorf("%w: %s", e, r.Error)
	}
	return errors.New(r.Error)
}

// do sends one request and waits for its reply. The child has the same time that
// ctx leaves; one that does not keep to it is given up a second later.
func (p *Process) do(ctx context.Context, r request) (reply, error) {
	r.Timeout = noDeadline
	if deadline, ok := ctx.Deadline(); ok {
		r.Timeout = time.Until(deadline)
	}
	answered := make(chan reply, 1)
	p.mu.Lock()
	if p.waiting == nil {
		p.mu.Unlock()
		return reply{}, fmt.Errorf("%w: the process has ended", store.ErrUnavailable)
	}
	p.nextID++
	r.ID = p.nextID
	p.waiting[r.ID] = answered
	line, err := json.Marshal(r)
	if err == nil {
		_, err = p.stdin.Write(append(line, '\n')) // under mu, so that lines are whole
	}
	p.mu.Unlock()
	if err != nil {
		return reply{}, fmt.Errorf("%w: %v", store.ErrUnknown, err)
	}
	late := time.NewTimer(r.Timeout + time.Second)
	defer late.Stop()
	select {
	case a, ok := <-answered:
		if !ok {
			return reply{}, fmt.Errorf("%w: the process ended", store.ErrUnknown)
		}
		return a, a.err()
	case <-late.C: // it is paused, or it hangs
		p.mu.Lock()
		delete(p.waiting, r.ID)
		p.mu.Unlock()
		return reply{}, fmt.Errorf("%w: no answer", store.ErrUnknown)
	}
}

func (p *Process) write(ctx context.Context, r request) (reply, error) {
	a, err := p.do(ctx, r)
	if err == nil {
		p.mu.Lock()
		p.acknowledged++
		p.mu.Unlock()
	}
	return a, err
}

// Processes is a group each of whose members runs in a process of its own.
type Processes struct {
	t testing.TB
	layout
	snapshotBytes int64

	mu    sync.Mutex
	procs []*Process // the last one of each member
	all   []*Process // also those that have ended
	cut   []Link
}

// NewProcesses starts a group of n. It does not wait for a leader.
func NewProcesses(t testing.TB, n int, snapshotBytes int64) *Processes {
	t.Helper()
	Guard(t)
	c := &Processes{t: t, layout: newLayout(t, n), snapshotBytes: snapshotBytes, procs: make([]*Process, n)}
	t.Cleanup(c.endAll)
	for i := range n {
		c.Start(i)
	}
	return c
}

// endAll has all processes end at once, which is faster than one by one.
func (c *Processes) endAll() {
	var wg sync.WaitGroup
	for _, p := range c.all {
		wg.Go(p.cleanup)
	}
	wg.Wait()
}

// Start starts the process of member i.
func (c *Processes) Start(i int) *Process {
	c.t.Helper()
	p, err := startProcess(c.t, ProcessOptions{
		Dir:           c.dirs[i],
		Node:          c.nodes[i],
		Members:       maps.Clone(c.members),
		SnapshotBytes: c.snapshotBytes,
		Cut:           c.cutFrom(i),
	})
	c.mu.Lock()
	c.procs[i] = p
	c.all = append(c.all, p)
	c.mu.Unlock()
	if err != nil {
		c.t.Fatalf("start member %d: %v", i, err)
	}
	return p
}

// Process is member i, be it alive or not.
func (c *Processes) Process(i int) *Process {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.procs[i]
}

// Address is that of member i.
func (c *Processes) Address(i int) string { return c.members[c.nodes[i]] }

// Dir is the data directory of member i.
func (c *Processes) Dir(i int) string { return c.dirs[i] }

// Ready waits until every member answers reads.
func (c *Processes) Ready() {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), settleLimit)
	defer cancel()
	for i := range c.procs {
		if err := c.Process(i).Ready(ctx); err != nil {
			c.t.Fatalf("member %d is not ready: %v", i, err)
		}
	}
}

// Leader asks the living members who leads until one says that it does.
func (c *Processes) Leader() int {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), settleLimit)
	defer cancel()
	for ctx.Err() == nil {
		for i := range c.procs {
			if !c.Process(i).Running() {
				continue
			}
			if info, err := c.Process(i).Info(ctx); err == nil && info.Leader != "" && info.Leader == info.Node {
				return i
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	c.t.Fatal("no leader")
	return -1
}

// WaitEqual waits until all members have applied the same entries, and fails if
// their states differ then.
func (c *Processes) WaitEqual() replica.Checksum {
	c.t.Helper()
	members := make([]int, len(c.procs))
	for i := range members {
		members[i] = i
	}
	return waitEqual(c.t, members, func(i int) (replica.Checksum, error) { return c.Process(i).Checksum() })
}
