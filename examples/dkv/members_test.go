package main

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"dkv"
)

// founder is a member that a program has which embeds dkv.
func founder(t *testing.T) (db *dkv.DB, address string) {
	t.Helper()
	address = freeAddresses(t, 1)[0]
	db, err := dkv.Open(dkv.Options{Dir: t.TempDir(), Node: "a", Members: map[string]string{"a": address}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := db.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	return db, address
}

// joins starts a server that joins the founder's group.
func joins(t *testing.T, name, at string, args ...string) *server {
	t.Helper()
	return serve(t, append([]string{
		"--shards=200=dstore", "--replica-id=" + name, "--data-dir=" + filepath.Join(t.TempDir(), "data"),
		"--join=" + at, "--raft-address=" + freeAddresses(t, 1)[0],
	}, args...)...)
}

// ends waits until a server has ended by itself.
func (s *server) ends(t *testing.T, why string) {
	t.Helper()
	select {
	case <-s.exited:
	case <-time.After(30 * time.Second):
		t.Fatal("it runs on")
	}
	if code := s.cmd.ProcessState.ExitCode(); code <= 0 || !strings.Contains(s.log.String(), why) {
		t.Errorf("exit code %d, and %q is not in what it says", code, why)
	}
}

func TestServerThatIsRemovedEnds(t *testing.T) {
	db, at := founder(t)
	s := joins(t, "b", at, "--insecure") // which is for servers that join, too
	expect(t, "set=true", 0, "kv", "set", "--shard=200", "--timeout=25", "--endpoints="+s.endpoint, "k", "v")
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for { // it answers as soon as it is a member, and votes a moment later
		err := db.RemoveMember(ctx, "b")
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
	}
	s.ends(t, "removed from the group")
}

func TestServerThatIsNotTakenInEnds(t *testing.T) {
	_, at := founder(t)
	first := joins(t, "b", at)
	expect(t, "set=true", 0, "kv", "set", "--shard=200", "--timeout=25", "--endpoints="+first.endpoint, "k", "v")
	joins(t, "b", at).ends(t, `a member "b" that has another directory`)
	expect(t, "found=true, value=v", 0, "kv", "get", "--shard=200", "--timeout=25", "--endpoints="+first.endpoint, "k")
}
