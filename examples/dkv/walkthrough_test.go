package main

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// cluster starts three servers as the walk-through does.
func cluster(t *testing.T) []*server {
	t.Helper()
	raft := freeAddresses(t, 3)
	members := fmt.Sprintf("node-1=%s,node-2=%s,node-3=%s", raft[0], raft[1], raft[2])
	dir := t.TempDir()
	var all []*server
	for i := range 3 {
		name := fmt.Sprintf("node-%d", i+1)
		all = append(all, serve(t,
			"--shards=100:lstore,200:dstore,300:lockmgr(dstore)",
			"--replica-id", name,
			"--cluster-members="+members,
			"--data-dir="+filepath.Join(dir, name),
			"--serializer=binary",
			"--transport=tcp",
			"--transport-workers=100",
			"--transport-tcp-nodelay",
			"--transport-tcp-keepalive=1",
			"--transport-tcp-linger=10",
			"--log-level=info",
			"--timeout=5",
		))
	}
	return all
}

func TestWalkThroughOfThreeServers(t *testing.T) {
	nodes := cluster(t)
	at := make([]string, len(nodes))
	for i, n := range nodes {
		at[i] = n.endpoint
	}
	const patience = "--timeout=25" // until a leader is elected

	// A local shard is of one node.
	expect(t, "set=true", 0, "kv", "set", "--shard=100", "--endpoints="+at[0], "foo", "bar")
	expect(t, "found=true", 0, "kv", "has", "--shard=100", "--endpoints="+at[0], "foo")
	expect(t, "found=false", 1, "kv", "has", "--shard=100", "--endpoints="+at[1], "foo")

	// A replicated shard is of all.
	expect(t, "set=true", 0, "kv", "set", "--shard=200", "--transport-endpoints="+at[0], patience, "foo", "bar")
	expect(t, "set=true", 0, "kv", "set", "--shard=200", "--transport-endpoints="+strings.Join(at, ","), "foo", "bar2")
	for _, endpoint := range at {
		expect(t, "found=true, value=bar2", 0, "kv", "get", "--shard=200", "--transport-endpoints="+endpoint, patience, "foo")
	}
	expect(t, "found=true, value=bar", 0, "kv", "get", "--shard=100", "--endpoints="+at[0], "foo")

	// A lock is held in all of the cluster; a key of its name is another thing.
	lock := []string{"lock", "acquire", "--shard=300", "foo", "--transport-endpoints"}
	o := runCLI(t, append(lock, at[0])...)
	m := regexp.MustCompile(`^acquired=true, ownerId=(\S+)\n$`).FindStringSubmatch(o.stdout)
	if m == nil || o.code != 0 {
		t.Fatalf("acquire: %+v", o)
	}
	for _, endpoint := range at {
		expect(t, "acquired=false", 1, append(lock, endpoint)...)
	}
	release := []string{"lock", "release", "--shard=300", "--transport-endpoints=" + at[0], "foo", m[1]}
	expect(t, "released=true", 0, release...)
	expect(t, "released=false", 1, release...)
	if o := runCLI(t, append(lock, at[2])...); !strings.HasPrefix(o.stdout, "acquired=true, ownerId=") {
		t.Errorf("acquire on another node: %+v", o)
	}
	expect(t, "found=false", 1, "kv", "has", "--shard=300", "--endpoints="+at[1], "foo")

	// Two of three go on.
	nodes[0].kill()
	expect(t, "found=true, value=bar2", 0, "kv", "get", "--shard=200", "--endpoints="+strings.Join(at, ","), patience, "foo")
	for _, n := range nodes[1:] {
		if code := n.stop(); code != 0 {
			t.Errorf("exit code %d of a server that was stopped", code)
		}
	}
}

// TestServerJoinsACluster has one server be joined by another, and by one that learns. The
// endpoints of clients are ports of their own, or the Raft ports.
func TestServerJoinsACluster(t *testing.T) {
	for _, shares := range []bool{false, true} {
		raft, dir := freeAddresses(t, 3), t.TempDir()
		var at []string
		for i, join := range [][]string{
			{"--cluster-members=node-0=" + raft[0]},
			{"--join=" + raft[0], "--raft-address=" + raft[1]},
			{"--join=" + raft[0] + "," + raft[1], "--raft-address=" + raft[2], "--learner"},
		} {
			name := fmt.Sprintf("node-%d", i)
			args := []string{"--shards=200=dstore", "--replica-id", name, "--data-dir=" + filepath.Join(dir, name)}
			if shares {
				args = append(args, "--transport-endpoint="+raft[i])
			}
			at = append(at, serve(t, append(args, join...)...).endpoint)
			if shares && at[i] != raft[i] {
				t.Errorf("it serves at %s, not at its Raft port %s", at[i], raft[i])
			}
			const patience = "--timeout=25" // until it has joined
			expect(t, "set=true", 0, "kv", "set", "--shard=200", "--endpoints="+at[i], patience, name, "x")
			for _, endpoint := range at {
				expect(t, "found=true, value=x", 0, "kv", "get", "--shard=200", "--endpoints="+endpoint, patience, name)
			}
		}
	}
}
