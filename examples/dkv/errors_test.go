package main

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestErrorsAreOneLineThatSaysWhatToChange(t *testing.T) {
	s := serve(t)
	taken := serve(t, "--shards=1=dstore", "--data-dir="+filepath.Join(t.TempDir(), "data"))
	free := freeAddresses(t, 1)[0]
	for _, c := range []struct {
		args   string
		code   int
		stderr []string // of which each part is there
	}{
		{"frob", 2, []string{`"dkv frob"`, "--help"}},
		{"kv gett", 2, []string{`"dkv kv gett"`, "did you mean get"}},
		{"kv get", 2, []string{"wrong number of arguments", "dkv kv get KEY"}},
		{"kv get a b", 2, []string{"wrong number of arguments"}},
		{"kv get a --frob", 2, []string{"--frob"}},
		{"kv set a -3", 2, []string{"put -- before"}},
		{"kv get a --timeout soon", 2, []string{"--timeout", "want seconds"}},
		{"kv get a --shard x", 2, []string{"--shard"}},
		{"kv get a --endpoints udp://x", 2, []string{"--transport-endpoints", "udp"}},
		{"kv get a --shard 7 --endpoints " + s.endpoint, 2, []string{"no such shard", "7", "[100 200]", "--shard"}},
		{"kv get a --timeout 2 --endpoints " + free, 3, []string{"unavailable, not applied", "refused", "--transport-endpoints=" + free}},
		{"kv set a b --timeout 200ms --endpoints " + free, 3, []string{"unavailable, not applied"}},
		{"kv watch --timeout 0.2 --endpoints " + free, 3, []string{"unavailable"}},
		{"lock run a --timeout 0.2 --endpoints " + free + " -- true", 3, []string{"unavailable"}},
		{"kv cas a x b", 2, []string{`"x" is not a revision`}},
		{"kv watch --from 99 --endpoints " + s.endpoint, 2, []string{"future revision"}},
		{"kv scan --limit=-1 --endpoints " + s.endpoint, 2, []string{"bad range"}},
		{"kv perf --threads 0 --skip frob", 2, []string{"--threads", "--skip", "frob"}},
		{"lock release a b", 2, []string{"bad lock owner", "ownerId"}},
		{"lock run a", 2, []string{"--"}},
		{"lock run a true", 2, []string{"--"}},
		{"serve --shards 1=what", 2, []string{"--shards", "1=what", "lstore"}},
		{"serve --shards 1=lstore,1=lstore", 2, []string{"--shards", "already"}},
		{"serve --cluster-members a=x:1 --replica-id b", 2, []string{"--replica-id", `"b" is not among`}},
		{"serve --join 127.0.0.1:1", 2, []string{"--join", "--replica-id", "--raft-address"}},
		{"serve --join 127.0.0.1:1 --replica-id a --raft-address 127.0.0.1:2 --cluster-members a=127.0.0.1:2", 2, []string{"--join", "--cluster-members"}},
		{"serve --backup-keep 3", 2, []string{"--backup-keep", "--backup-dir"}},
		{"serve --transport-endpoint 127.0.0.1:9,http://127.0.0.1:9", 2, []string{"--transport-endpoint", "127.0.0.1:9 twice"}},
		{"serve --learner", 2, []string{"--learner", "--join"}},
		{"serve --witness --learner --shards 1=dstore --backup-dir x", 2, []string{"--witness", "--join", "--learner", "--backup-dir"}},
		{"serve --cluster-members a", 2, []string{"--cluster-members", "name=host:port"}},
		{"serve --serializer xml --transport udp", 2, []string{"--serializer", "--transport", `"udp"`}},
		{"serve --log-level loud", 2, []string{"--log-level", "loud"}},
		{"serve --transport-endpoint 0.0.0.0:0", 2, []string{"--transport-endpoint", "loopback"}},
		{"serve --tls-cert x", 2, []string{"--tls-cert and --tls-key"}},
		{"serve --tls-cert x --tls-key y", 2, []string{"--tls-cert", "no such file"}},
		{"serve --tokens-file x", 2, []string{"--tokens-file", "no such file"}},
		{"kv get a --tls-ca x", 2, []string{"--tls-ca", "no such file"}},
		{"serve --transport-endpoint " + s.endpoint, 2, []string{"--transport-endpoint", "address already in use"}},
		{"serve --shards 1=dstore --transport-endpoint 127.0.0.1:0 --data-dir " + dataDir(taken), 2, []string{"--data-dir", "in use"}},
	} {
		o := runCLI(t, strings.Fields(c.args)...)
		last := o.stderr[strings.LastIndexByte(strings.TrimSpace(o.stderr), '\n')+1:]
		if o.code != c.code || o.stdout != "" || !strings.HasPrefix(last, "dkv: ") {
			t.Errorf("dkv %s: exit code %d, want %d\n%s%s", c.args, o.code, c.code, o.stdout, o.stderr)
		}
		for _, part := range c.stderr {
			if !strings.Contains(last, part) {
				t.Errorf("dkv %s: %q is not in\n%s", c.args, part, o.stderr)
			}
		}
	}
}

func dataDir(s *server) string {
	for _, arg := range s.cmd.Args {
		if dir, ok := strings.CutPrefix(arg, "--data-dir="); ok {
			return dir
		}
	}
	return ""
}

func TestUnknownOutcomeHasACodeOfItsOwn(t *testing.T) {
	// Two of three are gone, and the one that is left has taken a write up.
	nodes := cluster(t)
	expect(t, "set=true", 0, "kv", "set", "--shard=200", "--timeout=25", "--endpoints="+nodes[0].endpoint, "foo", "bar")
	nodes[1].kill()
	nodes[2].kill()
	o := runCLI(t, "kv", "set", "--shard=200", "--timeout=2", "--endpoints="+nodes[0].endpoint, "foo", "bar2")
	switch {
	case o.code == exitUnknown && strings.Contains(o.stderr, "outcome unknown") && strings.Contains(o.stderr, "look before"):
	case o.code == exitUnavailable && strings.Contains(o.stderr, "not applied"): // it was known that there is no leader
	default:
		t.Errorf("%+v", o)
	}
}
