package replica_test

import (
	"bytes"
	"context"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"dkv/internal/testcluster"
	"dkv/store"
)

func TestNothingIsWrittenToStdoutOrStderrOfTheHost(t *testing.T) {
	t.Parallel()
	for _, members := range []int{1, 3} {
		c := testcluster.NewProcesses(t, members, 16<<10)
		c.Ready()
		ctx := within(t, time.Minute)
		for n := range 300 {
			if err := c.Process(0).SetE(ctx, fmt.Sprint(n), bytes.Repeat([]byte("v"), 200), 0, time.Duration(n)*time.Millisecond); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, 10*time.Second, "a snapshot is written", func() bool { return len(testcluster.Snapshots(t, c.Dir(0))) > 0 })
		// The others are left without it, and with half a connection.
		if err := c.Process(0).Close(); err != nil {
			t.Error(err)
		}
		if members == 3 {
			if !c.Process(1).Kill() {
				t.Error("it did not die from SIGKILL")
			}
			ctx, cancel := context.WithTimeout(context.Background(), 700*time.Millisecond)
			if err := c.Process(2).Set(ctx, "k", nil); store.KindOf(err) == store.KindNone {
				t.Errorf("one of three writes: %v", err)
			}
			cancel()
		}
		for i := range members {
			p := c.Process(i)
			// What is on stdout beside replies fails the test by itself.
			if state := p.Exit(); i != 1 && !state.Success() {
				t.Errorf("member %d: %v", i, state)
			}
			if s := p.Stderr(); s != "" {
				t.Errorf("on stderr: %s", s)
			}
		}
	}
}

// stderr is what os.Stderr is when the program begins: go test -json has another later.
var stderr = os.Stderr

func TestStandardLoggerOfTheHostIsAsItWas(t *testing.T) {
	c := testcluster.New(t, testcluster.Options{Members: 1})
	c.Ready()
	if log.Flags() != log.LstdFlags || log.Prefix() != "" || log.Writer() != stderr {
		t.Errorf("flags %b, prefix %q, writer %v", log.Flags(), log.Prefix(), log.Writer())
	}
}

// TestDirectoryOpensOnAMachineWithAnotherName is what a container meets that is
// made anew on its old volume.
func TestDirectoryOpensOnAMachineWithAnotherName(t *testing.T) {
	t.Parallel()
	testcluster.Guard(t)
	unshare := func(name string) []string {
		return []string{"unshare", "-u", "sh", "-c", `hostname "$0" && exec "$@"`, name}
	}
	probe := append(unshare("elsewhere"), "hostname")
	if out, err := exec.Command(probe[0], probe[1:]...).CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != "elsewhere" {
		t.Skipf("the machine's name cannot be changed for one process: %v: %s", err, out)
	}
	dir := filepath.Join(t.TempDir(), "data")
	ctx := within(t, time.Minute)
	wraps := [][]string{nil, unshare("first-container"), unshare("data"), unshare("second-container"), nil}
	for n, wrap := range wraps[:rounds(len(wraps), 3)] {
		p, err := testcluster.StartProcess(t, testcluster.ProcessOptions{Dir: dir, SnapshotBytes: 8 << 10, Wrap: wrap})
		if err != nil {
			t.Fatalf("%v: %v", wrap, err)
		}
		for m := range n {
			key := fmt.Sprint("written by ", m)
			if v, ok, err := p.Get(ctx, key); err != nil || !ok || len(v) != 2000 {
				t.Errorf("%v: %q has %d bytes, %t, %v", wrap, key, len(v), ok, err)
			}
		}
		for m := range 10 { // enough for a snapshot
			if err := p.Set(ctx, fmt.Sprint("written by ", n-m), make([]byte, 2000)); err != nil {
				t.Error(err)
			}
		}
		if state := p.Exit(); !state.Success() {
			t.Errorf("%v: %v", wrap, state)
		}
	}
}
