package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"dkv"
)

// mayTakeOver waits until the member at an endpoint could lead when others are lost.
func mayTakeOver(t *testing.T, endpoint string) {
	t.Helper()
	db, err := dkv.Open(dkv.Options{Connect: []string{"tcp://" + endpoint}, Shard: 200})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 25*time.Second)
	defer cancel()
	if err := db.Ready(ctx); err != nil {
		t.Fatal(err)
	}
}

// TestWitnessJoinsACluster has one of two servers be killed then.
func TestWitnessJoinsACluster(t *testing.T) {
	raft, dir := freeAddresses(t, 3), t.TempDir()
	var at []string
	var last *server
	for i, join := range [][]string{
		{"--join=" + raft[1] + "," + raft[2], "--raft-address=" + raft[0], "--witness"}, // it waits
		{"--cluster-members=node-1=" + raft[1]},
		{"--join=" + raft[1], "--raft-address=" + raft[2]},
	} {
		name := fmt.Sprintf("node-%d", i)
		args := []string{"--shards=200=dstore", "--replica-id", name, "--data-dir=" + filepath.Join(dir, name)}
		last = serve(t, append(args, join...)...)
		at = append(at, last.endpoint)
	}
	const patience = "--timeout=25"
	for _, i := range []int{1, 2} {
		expect(t, "set=true", 0, "kv", "set", "--shard=200", "--endpoints="+at[i], patience, "k", fmt.Sprint("x", i))
	}
	for end := time.Now().Add(25 * time.Second); ; {
		o := runCLI(t, "info", "--shard=200", "--endpoints="+at[0])
		if strings.Contains(o.stdout, "node-2") && strings.Contains(o.stdout, "node-0") {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the witness is no member: %+v", o)
		}
		time.Sleep(20 * time.Millisecond)
	}
	if o := runCLI(t, "kv", "get", "--shard=200", "--endpoints="+at[0], "k"); o.code == 0 || !strings.Contains(o.stderr, "no data here") {
		t.Errorf("a witness has an answer: %+v", o)
	}
	expect(t, "found=true, value=x2", 0, "kv", "get", "--shard=200", "--endpoints="+at[1], patience, "k")
	mayTakeOver(t, at[1])
	last.kill()
	expect(t, "found=true, value=x2", 0, "kv", "get", "--shard=200", "--endpoints="+at[1], patience, "k")
	expect(t, "set=true", 0, "kv", "set", "--shard=200", "--endpoints="+at[1], patience, "k", "y")
}
