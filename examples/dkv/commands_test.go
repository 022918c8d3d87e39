package main

import (
	"encoding/xml"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// step is a command line and what has to come of it.
type step struct {
	args   string // separated by spaces
	stdin  string
	stdout string // all of it, or, between slashes, an expression that it matches
	code   int
}

func (s step) run(t *testing.T, endpoint string) {
	t.Helper()
	cmd := command(t, strings.Fields(s.args)...)
	cmd.Env = append(cmd.Env, "DKV_TRANSPORT_ENDPOINTS="+endpoint)
	cmd.Stdin = strings.NewReader(s.stdin)
	o := finish(t, cmd)
	matches := o.stdout == s.stdout
	if pattern, ok := strings.CutPrefix(s.stdout, "/"); ok {
		matches = regexp.MustCompile(`(?s)^` + strings.TrimSuffix(pattern, "/") + `$`).MatchString(o.stdout)
	}
	if !matches || o.code != s.code {
		t.Errorf("dkv %s\n got %q, exit code %d\nwant %q, exit code %d\n%s", s.args, o.stdout, o.code, s.stdout, s.code, o.stderr)
	}
}

func TestCommands(t *testing.T) {
	server := serve(t)
	for _, s := range []struct {
		name  string
		steps []step
	}{
		{"values", []step{
			{"kv get a", "", "found=false\n", 1},
			{"kv get a --json", "", `{"found":false}` + "\n", 1},
			{"kv set a -", "from\x00stdin\n", "set=true\n", 0},
			{"kv get a", "", `found=true, value="from\x00stdin\n"` + "\n", 0},
			{"kv get a --raw", "", "from\x00stdin\n", 0},
			{"kv get a --stale --raw", "", "from\x00stdin\n", 0},
			{"kv set a x", "", "set=true\n", 0},
			{"kv get a --json", "", `{"found":true,"value":"x","revision":2}` + "\n", 0},
			{"kv set a -- -3", "", "set=true\n", 0},
			{"kv get a", "", "found=true, value=-3\n", 0},
			{"kv set a - --json", "\xff", `{"set":true}` + "\n", 0},
			{"kv get a --json", "", `{"found":true,"valueBase64":"/w==","revision":4}` + "\n", 0},
			{"kv delete a", "", "ok=true\n", 0},
			{"kv has a", "", "found=false\n", 1},
		}},
		{"deadlines", []step{
			{"kv sete b x --expire-in 1h --delete-in 7200", "", "set=true\n", 0},
			{"kv get b --json", "", `/{"found":true,"value":"x","revision":\d+,"expireIn":"(1h0m0s|59m.*)","deleteIn":"(2h0m0s|1h59m.*)"}` + "\n/", 0},
			{"kv expire b", "", "ok=true\n", 0},
			{"kv get b", "", "found=false\n", 1},
			{"kv has b", "", "found=true\n", 0},
			{"kv setifunset b y", "", "set=false\n", 1},
			{"kv delete b", "", "ok=true\n", 0},
			{"kv setifunset b y", "", "set=true\n", 0},
			{"kv delete b", "", "ok=true\n", 0},
		}},
		{"conditions and numbers", []step{
			{"kv cas c 0 x", "", "/set=true, revision=\\d+\n/", 0},
			{"kv cas c 0 y", "", "/set=false, revision=\\d+\n/", 1},
			{"kv cad c 1", "", "/deleted=false, revision=\\d+\n/", 1},
			{"kv delete c", "", "ok=true\n", 0},
			{"kv add n", "", "/sum=1, revision=\\d+\n/", 0},
			{"kv add n --by=-5 --json", "", "/{\"sum\":-4,\"revision\":\\d+}\n/", 0},
			{"kv delete n", "", "ok=true\n", 0},
		}},
		{"scans", []step{
			{"kv set s/1 a", "", "set=true\n", 0},
			{"kv set s/2 b", "", "set=true\n", 0},
			{"kv set s/3 c", "", "set=true\n", 0},
			{"kv scan --prefix s/", "", "key=s/1, value=a\nkey=s/2, value=b\nkey=s/3, value=c\n", 0},
			{"kv scan --from s/1 --to s/9 --reverse --limit 1 --keys-only", "", "key=s/3\n", 0},
			{"kv scan --after s/2 --json", "", "/{\"key\":\"s/3\",\"value\":\"c\",\"revision\":\\d+}\n/", 0},
		}},
		{"transactions", []step{
			{"kv txn", `{"if":[{"key":"t","exists":false}],"then":[{"op":"set","key":"t","value":"1"},{"op":"add","key":"u","delta":2},{"op":"get","key":"s/1"}]}`,
				"held=true\nop=set, key=t, done=true\nop=add, key=u, sum=2\nop=get, key=s/1, found=true, value=a\n", 0},
			{"kv txn -", `{"if":[{"key":"t","value":"2"}],"else":[{"op":"get","key":"t"}]}`,
				"held=false\nop=get, key=t, found=true, value=1\n", 1},
			{"kv txn --json", `{"then":[{"op":"delete","key":"t"}]}`,
				`/{"held":true,"revision":\d+,"results":\[{"op":"delete","key":"t","done":true,"revision":\d+}\]}` + "\n/", 0},
			{"kv txn", `{"then":[{"op":"set","key":"t"}]}`, "", 2},
			{"kv txn /nosuch/file", "", "", 2},
		}},
		{"locks", []step{
			{"lock acquire l --json", "", `/{"acquired":true,"ownerId":"[0-9a-f]{16}-\d+","token":\d+}` + "\n/", 0},
			{"lock acquire l", "", "acquired=false\n", 1},
			{"lock release l 0000000000000001-1", "", "released=false\n", 1},
			{"lock acquire m --ttl 0", "", `/acquired=true, ownerId=\S+` + "\n/", 0},
		}},
		{"information", []step{
			{"info", "", "/mode=memory\nrevision=\\d+\nkeys=\\d+\n.*/", 0},
			{"info --json", "", `/{"mode":"memory",.*}` + "\n/", 0},
			{"version", "", `/version=\S+.*` + "\n/", 0},
			{"version --json", "", `/{"version":".*}` + "\n/", 0},
			{"completion bash", "", "/.*__start_dkv.*/", 0},
		}},
	} {
		t.Run(s.name, func(t *testing.T) {
			for _, step := range s.steps {
				step.run(t, server.endpoint)
			}
		})
	}
}

func TestServerIsDurableAndStopsThoughClientsWait(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "s")
	args := []string{"--shards=1=dstore,2=lockmgr(dstore)", "--data-dir=" + filepath.Join(dir, "data"), "--transport=unix", "--transport-endpoint=" + socket}
	s := serve(t, args...)
	expect(t, "set=true", 0, "kv", "set", "--shard=1", "--endpoints="+socket, "foo", "bar")

	watch := command(t, "kv", "watch", "--shard=1", "--endpoints="+socket, "--json")
	out, _ := watch.StdoutPipe()
	errs, _ := watch.StderrPipe()
	if err := watch.Start(); err != nil {
		t.Fatal(err)
	}
	line, told := lines(t, out), lines(t, errs)
	if got := told(); got != "watching" {
		t.Fatalf("watch says %q", got)
	}
	if code := s.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}

	// The watch goes on where it was.
	serve(t, args...)
	expect(t, "found=true, value=bar", 0, "kv", "get", "--shard=1", "--endpoints="+socket, "foo")
	expect(t, "ok=true", 0, "kv", "delete", "--shard=1", "--endpoints="+socket, "foo")
	if got := line(); !regexp.MustCompile(`^{"revision":\d+,"type":"deleted","key":"foo","byDeadline":false}$`).MatchString(got) {
		t.Errorf("watch prints %q", got)
	}
	watch.Process.Signal(syscall.SIGINT)
	if err := watch.Wait(); err != nil {
		t.Errorf("watch that was interrupted: %v", err)
	}
}

func TestPerfMeasuresAndPlots(t *testing.T) {
	s := serve(t)
	dir := t.TempDir()
	csv, svg := filepath.Join(dir, "p.csv"), filepath.Join(dir, "p.svg")
	perf := []string{"kv", "perf", "--endpoints=" + s.endpoint, "--threads=4", "--keys=20", "--large-value-size=16", "--duration=0.1"}
	o := runCLI(t, append(perf, "--csv="+csv, "--svg="+svg)...)
	if o.code != 0 {
		t.Fatalf("perf: %+v", o)
	}
	for _, text := range []string{o.stdout, o.stderr, read(t, csv), read(t, svg)} {
		for _, test := range perfTests {
			if !strings.Contains(text, test) {
				t.Errorf("%s is not in\n%s", test, text)
			}
		}
	}
	for d := xml.NewDecoder(strings.NewReader(read(t, svg))); ; {
		if _, err := d.Token(); err == io.EOF {
			break
		} else if err != nil {
			t.Fatalf("the plot: %v", err)
		}
	}
	if o := runCLI(t, append(perf, "--skip=mixed,delete,set-large,get-large,has,get", "--json")...); !regexp.MustCompile(`^\[{"test":"set",[^[{]*"p99.9Micros":[^[{]*}\]\n$`).MatchString(o.stdout) {
		t.Errorf("perf --json: %+v", o)
	}
	if o := runCLI(t, "info", "--endpoints="+s.endpoint); !strings.Contains(o.stdout, "\nkeys=0\n") {
		t.Errorf("perf has left keys behind: %+v", o)
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestMessagesOfAllForms(t *testing.T) {
	s := serve(t, "--serializer=gob")
	for _, form := range []string{"binary", "json", "gob"} {
		expect(t, "set=true", 0, "kv", "set", "--endpoints="+s.endpoint, "--serializer="+form, "k", form)
		expect(t, "found=true, value="+form, 0, "kv", "get", "--endpoints="+s.endpoint, "k")
	}
	o := runCLI(t, "kv", "get", "--endpoints="+s.endpoint, "--serializer=xml", "k")
	if o.code != 2 || !strings.Contains(o.stderr, "--serializer") {
		t.Errorf("%+v", o)
	}
}
