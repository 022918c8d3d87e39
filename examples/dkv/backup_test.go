package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// backupFiles are the backups in a directory, the oldest first.
func backupFiles(t *testing.T, dir string) []string {
	t.Helper()
	b := backups{dir: dir}
	names, err := b.list()
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for i, name := range names {
		names[i] = filepath.Join(dir, name)
	}
	return names
}

// waitFor waits until is returns true.
func waitFor(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(testTime); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it does not come to be that %s", what)
		}
	}
}

func TestServerMakesBackupsThatANewOneBeginsWith(t *testing.T) {
	dir := t.TempDir()
	kept := filepath.Join(dir, "made", "backups")
	shards := "--shards=1=dstore,2=lockmgr(dstore),3=lstore"
	s := serve(t, shards, "--data-dir="+filepath.Join(dir, "old"), "--backup-dir="+kept, "--backup-every=0.1", "--backup-keep=2")
	foreign := filepath.Join(kept, "dkv-1.backup")
	if err := os.WriteFile(foreign, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for n := range 4 {
		expect(t, "set=true", 0, "kv", "set", "--shard=1", "--endpoints="+s.endpoint, "foo", fmt.Sprint(n))
		had := backupFiles(t, kept)
		waitFor(t, "a further backup is there", func() bool {
			has := backupFiles(t, kept)
			return len(has) > 0 && (len(had) == 0 || has[len(has)-1] > had[len(had)-1])
		})
	}
	expect(t, "set=true", 0, "kv", "set", "--shard=3", "--endpoints="+s.endpoint, "foo", "local")
	o := runCLI(t, "lock", "acquire", "--shard=2", "--endpoints="+s.endpoint, "l", "--ttl=0", "--json")
	var old struct {
		OwnerID string
		Token   uint64
	}
	if err := json.Unmarshal([]byte(o.stdout), &old); err != nil || old.Token == 0 {
		t.Fatalf("%+v, %v", o, err)
	}
	waitFor(t, "a backup has the lock", func() bool {
		files := backupFiles(t, kept)
		return strings.Contains(files[len(files)-1], fmt.Sprintf("%020d", old.Token))
	})
	if code := s.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	files := backupFiles(t, kept)
	if _, err := os.Stat(foreign); err != nil || len(files) != 2 {
		t.Errorf("kept %v; what is no backup: %v", files, err)
	}
	if _, err := os.Stat(filepath.Join(kept, backupTemp)); !os.IsNotExist(err) {
		t.Errorf("left behind: %v", err)
	}
	last := files[len(files)-1]
	if o := runCLI(t, "backup", "verify", last); o.code != 0 || !regexp.MustCompile(`^revision=\d+, keys=1, locks=1, bytes=\d+, checksum=[0-9a-f]{64}\n$`).MatchString(o.stdout) {
		t.Errorf("%+v", o)
	}

	// It is read when the directory is new. Then it may stay, or go.
	for _, flag := range []string{"--restore=" + last, "--restore=" + last, "--log-level=info"} {
		s = serve(t, shards, "--data-dir="+filepath.Join(dir, "new"), flag)
		expect(t, "found=true, value=3", 0, "kv", "get", "--shard=1", "--endpoints="+s.endpoint, "foo")
		expect(t, "found=false", 1, "kv", "get", "--shard=3", "--endpoints="+s.endpoint, "foo")
		expect(t, "acquired=false", 1, "lock", "acquire", "--shard=2", "--endpoints="+s.endpoint, "l")
		s.stop()
	}
	for _, args := range [][]string{
		{"--shards=1=lstore", "--restore=" + last, "--restore: no shard is of the kind dstore"},
		{"--shards=1=lstore", "--backup-dir=" + kept, "--backup-dir: no shard is of the kind dstore"},
		{"--shards=1=dstore", "--restore=" + foreign, "backup damaged"},
		{"--shards=1=dstore", "--restore=" + filepath.Join(dir, "none"), "none"},
		{"--shards=1=dstore", "--backup-dir=" + foreign, "--backup-dir"},
		{"--shards=1=dstore", "--backup-every=0", "--backup-every: it must be more"},
		{"--shards=1=dstore", "--backup-keep=0", "--backup-keep: it must be 1"},
		{"--shards=1=dstore", "--data-dir=" + filepath.Join(dir, "old"), "--restore=" + last, "did not begin with a backup"},
	} {
		want := args[len(args)-1]
		args := append([]string{"serve", "--data-dir=" + filepath.Join(dir, "other"), "--transport-endpoint=127.0.0.1:0"}, args[:len(args)-1]...)
		if o := runCLI(t, args...); o.code != 2 || !strings.Contains(o.stderr, want) {
			t.Errorf("dkv %s: %+v, without %q", strings.Join(args, " "), o, want)
		}
	}
}

func TestBackupIsMadeWhenTheLastOneIsOldEnough(t *testing.T) {
	b := backups{dir: t.TempDir(), every: seconds(time.Hour), keep: 1}
	if wait := b.untilFirst(); wait != 0 {
		t.Errorf("the first one of all comes in %v", wait)
	}
	path := filepath.Join(b.dir, backupName(7))
	for age, want := range map[time.Duration]time.Duration{
		20 * time.Minute: 40 * time.Minute,
		3 * time.Hour:    0,
		-time.Hour:       time.Hour, // a clock was wrong
	} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		made := time.Now().Add(-age)
		if err := os.Chtimes(path, made, made); err != nil {
			t.Fatal(err)
		}
		if wait := max(0, b.untilFirst()); wait < want-time.Minute || wait > want {
			t.Errorf("the next after one of %v ago comes in %v, not %v", age, wait, want)
		}
	}
}

func TestVerifyTellsWhetherABackupIsWhole(t *testing.T) {
	dir := t.TempDir()
	s := serve(t, "--shards=1=dstore", "--data-dir="+filepath.Join(dir, "data"), "--backup-dir="+dir)
	waitFor(t, "there is a backup", func() bool { return len(backupFiles(t, dir)) > 0 })
	s.stop()
	path := backupFiles(t, dir)[0]
	whole := read(t, path)
	for _, test := range []step{
		{"backup verify " + path + " --json", "", `/{"revision":0,"keys":0,"locks":0,"bytes":\d+,"checksum":"[0-9a-f]{64}"}` + "\n/", 0},
		{"backup verify -", whole, "/revision=0, keys=0, .*/", 0},
		{"backup verify -", whole[:len(whole)-1], "", 5},
		{"backup verify -", whole + "x", "", 5},
		{"backup verify -", "", "", 5},
		{"backup verify " + filepath.Join(dir, "none"), "", "", 2},
		{"backup verify", "", "", 2},
		{"backup recover", "", "", 2},
		{"backup recover --dir=" + dir, "", "", 2},
		{"backup nonsense", "", "", 2},
	} {
		test.run(t, "")
	}
}

// recovery is what backup recover prints.
type recovery struct {
	Index, Term, Uncommitted, CommittedRevision, Revision, Keys, Bytes uint64
	Checksum                                                           string
}

func TestNewClusterBeginsWithWhatIsLeftOfTheOld(t *testing.T) {
	dir := t.TempDir()
	begin := func(generation string, more ...string) (all []*server, at string) {
		raft := freeAddresses(t, 3)
		var endpoints []string
		for i := range 3 {
			s := serve(t, append(more,
				"--shards=1=dstore", fmt.Sprint("--replica-id=n", i),
				fmt.Sprintf("--cluster-members=n0=%s,n1=%s,n2=%s", raft[0], raft[1], raft[2]),
				fmt.Sprint("--data-dir=", filepath.Join(dir, generation), i))...)
			all, endpoints = append(all, s), append(endpoints, s.endpoint)
		}
		return all, strings.Join(endpoints, ",")
	}
	old, at := begin("old")
	for n := range 5 {
		expect(t, "set=true", 0, "kv", "set", "--shard=1", "--timeout=25", "--endpoints="+at, fmt.Sprint("k", n), "v")
	}
	out := filepath.Join(dir, "recovered.backup")
	in := func(i int) string { return fmt.Sprint("--data-dir=", filepath.Join(dir, "old"), i) }
	if o := runCLI(t, "backup", "recover", in(0), "--out="+out); o.code != 2 || !strings.Contains(o.stderr, "in use") {
		t.Errorf("%+v", o)
	}
	for _, s := range old {
		s.kill()
	}
	var best recovery
	var from string
	for i := range 3 {
		path := fmt.Sprint(out, i)
		o := runCLI(t, "backup", "recover", in(i), "--out="+path, "--json")
		var r recovery
		if err := json.Unmarshal([]byte(o.stdout), &r); err != nil || o.code != 0 || r.Index == 0 || r.Term == 0 || r.Revision < r.CommittedRevision {
			t.Fatalf("%+v, %v", o, err)
		}
		if !strings.Contains(o.stderr, "is lost") || !strings.Contains(o.stderr, fmt.Sprintf("index %d and term %d", r.Index, r.Term)) {
			t.Errorf("the loss is not told: %q", o.stderr)
		}
		if r.Term > best.Term || r.Term == best.Term && r.Index > best.Index {
			best, from = r, path
		}
		if o := runCLI(t, "backup", "verify", path); o.code != 0 || !strings.Contains(o.stdout, r.Checksum) {
			t.Errorf("%+v of %+v", o, r)
		}
	}
	if best.Keys != 5 {
		t.Errorf("%+v", best)
	}
	o := runCLI(t, "backup", "recover", in(0), "--out="+from)
	if o.code != 2 || !strings.Contains(o.stderr, "there already") {
		t.Errorf("overwritten: %+v", o)
	}
	if o = runCLI(t, "backup", "recover", "--dir="+dir, "--out="+out); o.code != 2 || !strings.Contains(o.stderr, "not the data directory") {
		t.Errorf("%+v", o)
	}
	for _, left := range []string{out, out + ".tmp", from + ".tmp"} {
		if _, err := os.Stat(left); !os.IsNotExist(err) {
			t.Errorf("left behind: %s, %v", left, err)
		}
	}
	_, at = begin("new", "--restore="+from)
	for n := range 5 {
		expect(t, "found=true, value=v", 0, "kv", "get", "--shard=1", "--timeout=25", "--endpoints="+at, fmt.Sprint("k", n))
	}
}
