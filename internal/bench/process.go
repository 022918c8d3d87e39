package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"time"
)

// Members live in processes of their own, so that what the system says of a
// process's memory and processors is theirs, and so that they can be killed. Such
// a process is this program with processEnv in its environment; it does what it
// reads from its standard input and ends with that.
const processEnv = "DKV_BENCH_MEMBERS"

// request is one line to a process, reply one line from it, one at a time.
type request struct {
	Op      string
	System  string         `json:",omitempty"`
	Members []memberConfig `json:",omitempty"`
	Via     int            `json:",omitempty"`
	Cell    *cell          `json:",omitempty"`
	Data    *data          `json:",omitempty"`
	Time    time.Duration  `json:",omitempty"`
	Count   int            `json:",omitempty"`
	Attack  *attack        `json:",omitempty"`
	Invite  string         `json:",omitempty"`
}

type reply struct {
	Error   string        `json:",omitempty"`
	Leader  int           // of the members there, or -1
	Took    time.Duration `json:",omitempty"`
	Outcome outcome

	Writes   []time.Duration `json:",omitempty"` // how long each took
	Seen     *seen           `json:",omitempty"`
	Attacked *attacked       `json:",omitempty"`
}

// process is where members live. It is used by one goroutine, but for kill.
type process struct {
	cmd     *exec.Cmd
	in      io.WriteCloser
	out     *json.Decoder
	replies *os.File
	errors  lastWords
	exited  chan struct{}
	opened  time.Duration // what opening the members took
}

// startProcess starts a process and opens members of s in it. It ends when ctx
// does.
func startProcess(ctx context.Context, s *system, members ...memberConfig) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process{cmd: exec.CommandContext(ctx, self), exited: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), processEnv+"=1")
	p.cmd.Stderr = &p.errors
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	// Standard output is left to what a member may print.
	replies, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p.cmd.ExtraFiles = []*os.File{w}
	p.replies, p.out = replies, json.NewDecoder(replies)
	err = p.cmd.Start()
	w.Close() // so that the replies end when the process does
	if err != nil {
		replies.Close()
		return nil, err
	}
	go func() {
		defer close(p.exited)
		p.cmd.Wait()
	}()
	a, err := p.call(request{Op: "open", System: s.name, Members: members})
	if err != nil {
		p.end()
		return nil, err
	}
	p.opened = a.Took
	return p, nil
}

// callPatience is after which a process that does not answer is given up.
const callPatience = 5 * time.Minute

// call has the process do something and waits until it has.
func (p *process) call(r request) (reply, error) {
	var a reply
	err := p.replies.SetReadDeadline(time.Now().Add(callPatience))
	if err == nil {
		err = json.NewEncoder(p.in).Encode(r)
	}
	if err == nil {
		err = p.out.Decode(&a)
	}
	if err != nil {
		p.kill() // and have all of its last words
		return a, fmt.Errorf("%s: the process does not answer: %w: %s", r.Op, err, p.errors.String())
	}
	if a.Error != "" {
		return a, fmt.Errorf("%s: %s", r.Op, a.Error)
	}
	return a, nil
}

// kill ends the process as kill -9 does. It may have ended before.
func (p *process) kill() {
	p.cmd.Process.Kill()
	<-p.exited
}

// close closes the members and ends the process.
func (p *process) close() error {
	_, err := p.call(request{Op: "close"})
	p.end()
	return err
}

// end ends the process, be its members closed or not.
func (p *process) end() {
	p.in.Close()
	p.kill()
	p.replies.Close()
}

// lastWords keeps the end of what is written to it: a panic begins long before it.
type lastWords struct {
	mu  sync.Mutex
	end []byte
}

const mostWords = 16 << 10 // bytes

func (t *lastWords) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.end = append(t.end, b...)
	if extra := len(t.end) - mostWords; extra > 0 {
		t.end = append(t.end[:0], t.end[extra:]...)
	}
	return len(b), nil
}

func (t *lastWords) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.end)
}
