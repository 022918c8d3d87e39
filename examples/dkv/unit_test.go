package main

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"dkv"

	"github.com/spf13/pflag"
)

func TestShardListsAreRead(t *testing.T) {
	for list, want := range map[string][]shard{
		"100=lstore,200=dstore,300=lockmgr(dstore)": {{100, lstore}, {200, dstore}, {300, lockmgrDstore}},
		"100:lstore,200:dstore,300:lockmgr(dstore)": {{100, lstore}, {200, dstore}, {300, lockmgrDstore}},
		" 0 = lockmgr(lstore) ":                     {{0, lockmgrLstore}},
		"18446744073709551615=dstore":               {{1<<64 - 1, dstore}},
		"":                                          nil,
		"100":                                       nil,
		"100=":                                      nil,
		"=lstore":                                   nil,
		"-1=lstore":                                 nil,
		"18446744073709551616=dstore":               nil,
		"100=lstore,":                               nil,
		"100=lstore,100=dstore":                     nil,
		"100=lockmgr":                               nil,
		"100=lockmgr(lockmgr(dstore))":              nil,
	} {
		got, err := parseShards(list)
		if !reflect.DeepEqual(got, want) || (err == nil) != (want != nil) {
			t.Errorf("%q: %v, %v, want %v", list, got, err, want)
		}
	}
}

func FuzzShards(f *testing.F) {
	f.Add("100=lstore,200:dstore,300=lockmgr(dstore)")
	f.Add("1:lockmgr(lstore) , 2=x")
	f.Fuzz(func(t *testing.T, list string) {
		shards, err := parseShards(list)
		if err != nil {
			if strings.ContainsRune(err.Error(), '\n') {
				t.Errorf("more than a line: %q", err)
			}
			return
		}
		var parts []string
		for _, s := range shards {
			parts = append(parts, s.String())
		}
		again, err := parseShards(strings.Join(parts, ","))
		if err != nil || !reflect.DeepEqual(again, shards) {
			t.Errorf("%v is read as %v, %v", shards, again, err)
		}
	})
}

func FuzzTokens(f *testing.F) {
	f.Add([]byte(`[{"token":"s3cret","rights":[{"shard":100,"prefix":"app/","write":true},{}]}]`))
	f.Fuzz(func(t *testing.T, text []byte) {
		tokens, err := parseTokens(text)
		if err == nil && len(tokens) == 0 {
			t.Error("no tokens let everybody in")
		}
		for _, token := range tokens {
			if token.Secret == "" {
				t.Error("a token that nobody need know")
			}
		}
	})
}

func FuzzTxn(f *testing.F) {
	f.Add([]byte(`{"if":[{"key":"a","revision":1},{"lock":"l","token":2}],"then":[{"op":"set","key":"a","value":"b","expireIn":"1s"}],"else":[{"op":"add","keyBase64":"AA==","delta":-1}]}`))
	f.Add([]byte(`{"then":[{"op":"setifunset","key":"a","valueBase64":"AA==","deleteIn":3}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		if txn, err := parseTxn(text); err == nil {
			_ = txn.Check() // does not panic
		}
	})
}

func TestTransactionsAreRead(t *testing.T) {
	got, err := parseTxn([]byte(`{
		"if": [{"key":"a","revision":1}, {"key":"b","exists":true}, {"key":"c","exists":false}, {"key":"d","value":""}, {"lock":"l","token":2}],
		"then": [{"op":"set","key":"a","value":"x","expireIn":"1.5","deleteIn":"1m"}, {"op":"setifunset","key":"b","valueBase64":"AA=="}, {"op":"add","key":"c","delta":-1}],
		"else": [{"op":"get","keyBase64":"/w=="}, {"op":"expire","key":"b"}, {"op":"delete","key":"c"}]
	}`))
	want := dkv.Txn{
		If: []dkv.Cond{dkv.IfRevision("a", 1), dkv.IfExists("b"), dkv.IfMissing("c"), dkv.IfValue("d", []byte{}), dkv.IfLock("l", 2)},
		Then: []dkv.Op{
			dkv.OpSetE("a", []byte("x"), 1500*time.Millisecond, time.Minute),
			dkv.OpSetEIfUnset("b", []byte{0}, 0, 0), dkv.OpAdd("c", -1),
		},
		Else: []dkv.Op{dkv.OpGet("\xff"), dkv.OpExpire("b"), dkv.OpDelete("c")},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	for _, text := range []string{
		``, `[]`, `{"then":[]} x`, `{"when":[]}`,
		`{"if":[{"key":"a"}]}`,
		`{"if":[{"key":"a","exists":true,"revision":1}]}`,
		`{"if":[{"lock":"a"}]}`,
		`{"if":[{"key":"a","lock":"a","token":1}]}`,
		`{"then":[{"op":"frob","key":"a"}]}`,
		`{"then":[{"op":"get"}]}`,
		`{"then":[{"op":"set","key":"a"}]}`,
		`{"then":[{"op":"get","key":"a","value":"b"}]}`,
		`{"then":[{"op":"delete","key":"a","deleteIn":"1s"}]}`,
		`{"then":[{"op":"add","key":"a"}]}`,
		`{"then":[{"op":"set","key":"a","value":"b","delta":1}]}`,
		`{"then":[{"op":"set","key":"a","value":"b","expireIn":"-1s"}]}`,
		`{"then":[{"op":"set","key":"a","keyBase64":"AA==","value":"b"}]}`,
	} {
		if got, err := parseTxn([]byte(text)); err == nil {
			t.Errorf("%s is read as %+v", text, got)
		}
	}
}

func TestSecondsAreRead(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"10": 10 * time.Second, "10s": 10 * time.Second, "0.5": time.Second / 2, "1m30s": 90 * time.Second, "0": 0,
	} {
		if got, err := parseSeconds(text); got != want || err != nil {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "x", "-1", "-1s", "NaN", "Inf", "1e300", "10 s"} {
		if got, err := parseSeconds(text); err == nil {
			t.Errorf("%q is read as %v", text, got)
		}
	}
}

func TestEndpointsAreCompleted(t *testing.T) {
	for endpoint, want := range map[string]string{
		"localhost:8081": "tcp://localhost:8081", ":8081": "tcp://localhost:8081", " tcp://[::1]:1 ": "tcp://[::1]:1",
		"/run/s": "unix:///run/s", "unix:///run/s": "unix:///run/s",
	} {
		if got, err := clientEndpoint(endpoint); got != want || err != nil {
			t.Errorf("client: %q: %q, %v", endpoint, got, err)
		}
	}
	for _, c := range []struct {
		transport, endpoint, want string
		everybody                 bool
	}{
		{"tcp", ":8081", "tcp://127.0.0.1:8081", false},
		{"tcp", ":8081", "tcp://:8081", true},
		{"tcp", "[::1]:1", "tcp://[::1]:1", false},
		{"unix", "/run/s", "unix:///run/s", true},
		{"unix", "tcp://:1", "tcp://127.0.0.1:1", false},
		{"tcp", "unix:///run/s", "unix:///run/s", false},
		{"http", ":1", "http://127.0.0.1:1", false},
		{"unix", "s", "", false},
		{"tcp", "localhost", "", false},
		{"tcp", "udp://:1", "", false},
	} {
		got, err := serverEndpoint(c.transport, c.endpoint, c.everybody)
		if (err == nil) != (c.want != "") || err == nil && got != c.want {
			t.Errorf("server: %q: %q, %v", c.endpoint, got, err)
		}
	}
}

func TestEnvironmentSetsWhatTheCommandLineDoesNot(t *testing.T) {
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	flags.SetNormalizeFunc(normalizeFlag)
	endpoints := flags.StringSlice("transport-endpoints", nil, "")
	level := flags.String("log-level", "info", "")
	shard := flags.Uint64("shard", 1, "")
	var timeout seconds
	secondsVar(flags, &timeout, "timeout", time.Second, "")
	env := map[string]string{"DKV_ENDPOINTS": "a:1,b:2", "DKV_LOG_LEVEL": "debug", "DKV_SHARD": "", "DKV_TIMEOUT": "7"}
	lookup := func(name string) (string, bool) { v, ok := env[name]; return v, ok }
	if err := flags.Parse([]string{"--log-level=warn"}); err != nil {
		t.Fatal(err)
	}
	if err := bindEnv(flags, lookup); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(*endpoints, []string{"a:1", "b:2"}) || *level != "warn" || *shard != 1 || time.Duration(timeout) != 7*time.Second {
		t.Errorf("%v %v %v %v", *endpoints, *level, *shard, timeout)
	}
	flags.Lookup("shard").Changed = false
	env["DKV_SHARD"] = "s3cret"
	err := bindEnv(flags, lookup)
	if err == nil || !strings.Contains(err.Error(), "DKV_SHARD") || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("%v", err)
	}
}

func TestEnvironmentReachesServerAndClient(t *testing.T) {
	t.Setenv("DKV_SHARDS", "100=lstore") // command leaves it out
	s := serve(t)
	get := command(t, "kv", "get", "foo")
	get.Env = append(get.Env, "DKV_ENDPOINTS="+s.endpoint, "DKV_SHARD=200", "DKV_JSON=true")
	if o := finish(t, get); o.stdout != `{"found":false}`+"\n" || o.code != 1 {
		t.Errorf("%+v", o)
	}
	bad := command(t, "serve")
	bad.Env = append(bad.Env, "DKV_SHARDS=frob")
	if o := finish(t, bad); o.code != exitUsage || !strings.Contains(o.stderr, "frob") {
		t.Errorf("%+v", o)
	}
	bad = command(t, "kv", "get", "foo")
	bad.Env = append(bad.Env, "DKV_TIMEOUT=soon")
	if o := finish(t, bad); o.code != exitUsage || !strings.Contains(o.stderr, "DKV_TIMEOUT") {
		t.Errorf("%+v", o)
	}
}
