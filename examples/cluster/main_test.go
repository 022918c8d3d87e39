package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"testing"
	"time"

	"dkv"
)

// TestThreeProcessesDoWhatThePackageCommentShows builds the program and walks
// through the comment with three processes of it.
func TestThreeProcessesDoWhatThePackageCommentShows(t *testing.T) {
	nodes := startNodes(t, build(t))
	a, b, c := nodes[0], nodes[1], nodes[2]

	// Links.
	a.wait(t, "GET", "/ready", 200)
	a.want(t, "PUT", "/links/docs", "https://go.dev/doc/", 204, "")
	b.want(t, "GET", "/links/docs", "", 302, "https://go.dev/doc/\n")
	a.want(t, "PUT", "/links/news?for=300ms", "https://go.dev/blog/", 204, "")
	c.wait(t, "GET", "/links/news", 410)

	// A job runs on one node at a time.
	job := make(chan answer, 1)
	go func() { job <- a.do("POST", "/jobs/report/run?take=2s", "") }()
	b.waitFor(t, "the job to begin", func(s statusAnswer) bool { return s.Locks == 1 })
	b.want(t, "POST", "/jobs/report/run", "", 409, "report is running already\n")
	if got := <-job; got.code != 200 || !strings.Contains(got.body, `"token":`) {
		t.Fatalf("job: %+v", got)
	}
	b.want(t, "POST", "/jobs/report/run?take=1ms", "", 200, "")

	// The leader dies. The others go on.
	var leader *node
	a.waitFor(t, "a leader", func(s statusAnswer) bool { leader = nodes.named(s.Leader); return leader != nil })
	if s, err := leader.status(); err != nil || s.PID != leader.cmd.Process.Pid || fmt.Sprint(s.Members) != "[a b c]" {
		t.Fatalf("status of the leader: %+v, %v", s, err)
	}
	if err := leader.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-leader.exited
	others := nodes.without(leader)
	killed := time.Now()
	others[0].want(t, "PUT", "/links/docs", "https://pkg.go.dev/", 204, "")
	t.Logf("first write %v after kill -9 of the leader", time.Since(killed).Round(time.Millisecond))
	others[1].want(t, "GET", "/links/docs", "", 302, "https://pkg.go.dev/\n")

	// It comes back and has what it missed.
	leader.start(t)
	restarted := time.Now()
	leader.wait(t, "GET", "/links/docs", 302)
	t.Logf("first read %v after the restart", time.Since(restarted).Round(time.Millisecond))
	leader.want(t, "GET", "/links/docs", "", 302, "https://pkg.go.dev/\n")
	leader.want(t, "DELETE", "/links/docs", "", 204, "")
	others[0].want(t, "GET", "/links/docs", "", 404, "no such link\n")

	// Bad requests are told from a store that is away.
	a.want(t, "PUT", "/links/docs", "ftp://x", 400, "")
	a.want(t, "PUT", "/links/docs?for=-1s", "https://go.dev/", 400, "")
	a.want(t, "GET", "/links/"+strings.Repeat("x", 5000), "", 400, "dkv: key too large\n")
	others[0].stop(t)
	others[1].stop(t)
	got := leader.do("GET", "/links/docs", "")
	if got.code != 503 || got.retryAfter != "1" {
		t.Errorf("read without a quorum: %+v, want 503 with Retry-After", got)
	}
	leader.want(t, "GET", "/ready", "", 503, "")
	leader.want(t, "GET", "/live", "", 200, "")
	leader.stop(t)
}

// TestOneNodeBecomesFiveAndOneAgain writes and reads all the while.
func TestOneNodeBecomesFiveAndOneAgain(t *testing.T) {
	bin, dir := build(t), t.TempDir()
	names := []string{"a", "b", "c", "d", "e"}
	addrs := freeAddresses(t, 2*len(names))
	var nodes nodeList
	for i, name := range names {
		http := addrs[len(names)+i]
		args := []string{bin, "-node", name, "-http", http, "-dir", filepath.Join(dir, name)}
		if i == 0 {
			args = append(args, "-members", name+"="+addrs[i])
		} else {
			args = append(args, "-raft", addrs[i], "-join", strings.Join(addrs[:i], ","))
		}
		n := newNode(t, name, http, args)
		nodes = append(nodes, n)
		n.wait(t, "GET", "/ready", 200)
		link := "https://go.dev/" + name
		n.want(t, "PUT", "/links/newest", link, 204, "")
		for j, other := range nodes {
			other.want(t, "GET", "/links/newest", "", 302, link+"\n")
			got := other.do("GET", "/members", "")
			if lines := strings.Count(got.body, "\n"); got.code != 200 || lines != len(nodes) || !strings.Contains(got.body, names[j]+" "+addrs[j]) {
				t.Errorf("members according to %s: %+v", other.name, got)
			}
		}
	}
	e := nodes[4]
	e.want(t, "POST", "/members/e/lead", "", 204, "")
	e.waitFor(t, "e leading", func(s statusAnswer) bool { return s.Leader == "e" })
	for _, gone := range nodes[:4] {
		e.want(t, "DELETE", "/members/"+gone.name, "", 204, "")
		select {
		case <-gone.exited:
		case <-time.After(20 * time.Second):
			t.Fatalf("%s runs 20 s after it was removed", gone.name)
		}
		if code := gone.cmd.ProcessState.ExitCode(); code != 0 {
			t.Errorf("%s ended with code %d, want 0", gone.name, code)
		}
		e.want(t, "PUT", "/links/last", "https://go.dev/without/"+gone.name, 204, "")
	}
	e.want(t, "DELETE", "/members/e", "", 400, "")
	e.want(t, "GET", "/links/newest", "", 302, "https://go.dev/e\n")
	e.stop(t)
}

func TestFlagsFillInWhatTheNodeDecides(t *testing.T) {
	cfg, err := parseFlags([]string{"-node", "b"})
	if err != nil {
		t.Fatal(err)
	}
	if cfg.http != "127.0.0.1:8002" || filepath.Base(cfg.dir) != "b" || cfg.members["c"] != "127.0.0.1:7003" {
		t.Errorf("got %+v", cfg)
	}
	if cfg, err = parseFlags([]string{"-node", "d", "-join", "127.0.0.1:7001"}); err != nil || cfg.http != "127.0.0.1:8004" || cfg.address != "127.0.0.1:7004" {
		t.Errorf("got %+v, %v", cfg, err)
	}
	for _, args := range [][]string{
		{},
		{"-node", "d"},
		{"-node", "dd", "-join", "127.0.0.1:7001"},
		{"-node", "a", "-raft", "127.0.0.1:7001"},
		{"-node", "a", "extra"},
		{"-node", "a", "-members", "a=1,a=2"},
		{"-node", "a", "-members", "a"},
	} {
		if cfg, err := parseFlags(args); err == nil {
			t.Errorf("%q: got %+v, want an error", args, cfg)
		}
	}
}

func TestStatusSaysWhatBecameOfTheRequest(t *testing.T) {
	for err, want := range map[error]int{
		dkv.ErrUnavailable: 503,
		dkv.ErrBusy:        503,
		dkv.ErrClosed:      503,
		dkv.ErrUnknown:     504,
		dkv.ErrKeyTooLarge: 400,
		io.EOF:             500,
	} {
		w := httptest.NewRecorder()
		fail(w, fmt.Errorf("set: %w", err))
		if w.Code != want || (w.Header().Get("Retry-After") != "") != (want == 503) {
			t.Errorf("%v: got %d, header %v, want %d", err, w.Code, w.Header(), want)
		}
	}
}

// build returns the path of the program, built with the race detector if the
// test was.
func build(t *testing.T) string {
	bin := filepath.Join(t.TempDir(), "cluster")
	args := []string{"build", "-o", bin}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "-race" && s.Value == "true" {
				args = append(args, "-race")
			}
		}
	}
	if out, err := exec.Command("go", append(args, ".")...).CombinedOutput(); err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return bin
}

// node is one process of the program, or several in turn.
type node struct {
	name   string
	args   []string
	url    string
	cmd    *exec.Cmd
	log    bytes.Buffer  // of the process; to be read when it has exited
	exited chan struct{} // closed when the process has
}

type nodeList []*node

func startNodes(t *testing.T, bin string) nodeList {
	names := []string{"a", "b", "c"}
	addrs := freeAddresses(t, 2*len(names))
	var members []string
	for i, name := range names {
		members = append(members, name+"="+addrs[i])
	}
	dir := t.TempDir()
	var nodes nodeList
	for i, name := range names {
		http := addrs[len(names)+i]
		nodes = append(nodes, newNode(t, name, http, []string{bin, "-node", name, "-http", http,
			"-members", strings.Join(members, ","), "-dir", filepath.Join(dir, name)}))
	}
	for _, n := range nodes {
		n.wait(t, "GET", "/links/none", 404)
	}
	return nodes
}

// newNode starts a process, which ends with the test.
func newNode(t *testing.T, name, http string, args []string) *node {
	n := &node{name: name, url: "http://" + http, args: args}
	n.start(t)
	t.Cleanup(func() {
		_ = n.cmd.Process.Kill() // does nothing if it has ended in good order
		<-n.exited
		if t.Failed() {
			t.Logf("log of %s:\n%s", n.name, n.log.String())
		}
	})
	return n
}

func (l nodeList) named(name string) *node {
	for _, n := range l {
		if n.name == name {
			return n
		}
	}
	return nil
}

func (l nodeList) without(dead *node) (others nodeList) {
	for _, n := range l {
		if n != dead {
			others = append(others, n)
		}
	}
	return others
}

func (n *node) start(t *testing.T) {
	t.Helper()
	cmd, exited := exec.Command(n.args[0], n.args[1:]...), make(chan struct{})
	cmd.Stderr = &n.log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	n.cmd, n.exited = cmd, exited
	go func() {
		defer close(exited)
		_ = cmd.Wait() // ProcessState tells how it ended
	}()
}

// stop asks the process to end and wants exit code 0.
func (n *node) stop(t *testing.T) {
	t.Helper()
	start := time.Now()
	if err := n.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-n.exited:
		t.Logf("%s stopped in %v", n.name, time.Since(start).Round(time.Millisecond))
	case <-time.After(20 * time.Second):
		t.Fatalf("%s still runs 20 s after SIGTERM", n.name)
	}
	if code := n.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("%s ended with code %d, want 0", n.name, code)
	}
}

type answer struct {
	code       int
	body       string
	retryAfter string
	err        error
}

// client does not follow redirects, like curl.
var client = &http.Client{
	Timeout:       20 * time.Second,
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

func (n *node) do(method, path, body string) answer {
	req, err := http.NewRequest(method, n.url+path, strings.NewReader(body))
	if err != nil {
		return answer{err: err}
	}
	resp, err := client.Do(req)
	if err != nil {
		return answer{err: err}
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, string(text), resp.Header.Get("Retry-After"), err}
}

// want asks once. An empty want means any body.
func (n *node) want(t *testing.T, method, path, body string, code int, want string) {
	t.Helper()
	got := n.do(method, path, body)
	if got.err != nil || got.code != code || want != "" && got.body != want {
		t.Fatalf("%s: %s %.60s: %+v, want %d %q", n.name, method, path, got, code, want)
	}
}

// wait asks until it gets the code.
func (n *node) wait(t *testing.T, method, path string, code int) {
	t.Helper()
	var got answer
	until(t, func() bool { got = n.do(method, path, ""); return got.code == code },
		func() string { return fmt.Sprintf("%s: %s %s: %+v, want %d", n.name, method, path, got, code) })
}

type statusAnswer struct {
	Leader  string
	Members []string
	Locks   int
	PID     int
}

func (n *node) status() (s statusAnswer, err error) {
	got := n.do("GET", "/status", "")
	if got.err != nil {
		return s, got.err
	}
	return s, json.Unmarshal([]byte(got.body), &s)
}

func (n *node) waitFor(t *testing.T, what string, holds func(statusAnswer) bool) {
	t.Helper()
	var s statusAnswer
	var err error
	until(t, func() bool { s, err = n.status(); return err == nil && holds(s) },
		func() string { return fmt.Sprintf("%s: no sign of %s: %+v, %v", n.name, what, s, err) })
}

func until(t *testing.T, done func() bool, failure func() string) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(failure())
		}
	}
}

func freeAddresses(t *testing.T, n int) (addrs []string) {
	t.Helper()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close() // not before each has a port of its own
		addrs = append(addrs, l.Addr().String())
	}
	return addrs
}
