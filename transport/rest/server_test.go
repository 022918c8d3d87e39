package rest_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"dkv"
)

// TestListenersAnswerHTTPByTheRightsOfTokens goes all the way from Options.
func TestListenersAnswerHTTPByTheRightsOfTokens(t *testing.T) {
	db, err := dkv.Open(dkv.Options{
		Listen: []string{"http://127.0.0.1:0"},
		Shard:  100,
		Tokens: []dkv.Token{
			{Secret: "writer", Rights: []dkv.Right{{Shard: 100, Prefix: "a", Write: true}}},
			{Secret: "reader", Rights: []dkv.Right{{AllShards: true}}},
			{Secret: "elsewhere", Rights: []dkv.Right{{Shard: 7, Write: true}}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	base := "http://" + db.Addrs()[0].String()
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	for _, c := range []struct {
		token, method, path string
		want                int
	}{
		{"", "GET", "/v1/shards/100/keys/a", 401},
		{"wrong", "GET", "/v1/shards/100/keys/a", 401},
		{"elsewhere", "GET", "/v1/shards/100/keys/a", 403},
		{"elsewhere", "GET", "/v1/shards/7/keys/a", 404},
		{"", "GET", "/v1/shards/7/keys/a", 401},
		{"writer", "GET", "/v1/shards/7/keys/a", 403},
		{"", "GET", "/v1/shards/100/nothing", 401},
		{"", "POST", "/v1/shards/100/txn", 401},
		{"elsewhere", "POST", "/v1/shards/100/txn", 403},
		{"reader", "POST", "/v1/shards/100/txn", 200},
		{"writer", "PUT", "/v1/shards/100/keys/a", 204},
		{"writer", "PUT", "/v1/shards/100/keys/b", 403},
		{"writer", "GET", "/v1/shards/100/keys", 403},
		{"writer", "GET", "/v1/shards/100/keys?prefix=a", 200},
		{"writer", "GET", "/v1/shards/100/info", 200},
		{"writer", "POST", "/v1/shards/100/locks/a?ttl=1m", 200},
		{"reader", "GET", "/v1/shards/100/keys/a", 200},
		{"reader", "GET", "/v1/shards/100/keys", 200},
		{"reader", "PUT", "/v1/shards/100/keys/a", 403},
		{"reader", "POST", "/v1/shards/100/locks/l?ttl=1m", 403},
		{"", "GET", "/healthz", 200},
	} {
		req, err := http.NewRequest(c.method, base+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case c.method == "PUT":
			req.Body = io.NopCloser(strings.NewReader("v"))
		case strings.HasSuffix(c.path, "/txn"):
			req.Body = io.NopCloser(strings.NewReader("{}"))
		}
		if c.token != "" {
			req.Header.Set("Authorization", "Bearer "+c.token)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != c.want {
			t.Errorf("%q %s %s: %d %s, want %d", c.token, c.method, c.path, resp.StatusCode, body, c.want)
		}
		if c.token != "" && c.token != "reader" && strings.Contains(string(body), c.token) {
			t.Errorf("the answer has the token: %s", body)
		}
	}
}

// TestCloseEndsWatchesOverHTTP, which would go on for ever.
func TestCloseEndsWatchesOverHTTP(t *testing.T) {
	db, err := dkv.Open(dkv.Options{Listen: []string{"http://127.0.0.1:0"}})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	resp, err := client.Get("http://" + db.Addrs()[0].String() + "/v1/shards/0/watch")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	began := time.Now()
	db.Close()
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("Close took %v", took)
	}
	if _, err := io.ReadAll(resp.Body); err != nil && time.Since(began) > 8*time.Second {
		t.Error(err)
	}
}

// TestPageWhoseNameLeadsHereReadsAndWritesNothing: to a browser it is all one site.
func TestPageWhoseNameLeadsHereReadsAndWritesNothing(t *testing.T) {
	db, err := dkv.Open(dkv.Options{Listen: []string{"http://127.0.0.1:0"}})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	for _, method := range []string{"GET", "PUT"} {
		for host, want := range map[string]bool{"elsewhere.example": false, "localhost": true} {
			req, err := http.NewRequest(method, "http://"+db.Addrs()[0].String()+"/v1/shards/0/keys/k", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Host = host
			req.Header.Set("Sec-Fetch-Site", "same-origin")
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if got := resp.StatusCode != http.StatusMisdirectedRequest; got != want {
				t.Errorf("%s of %s: %d", method, host, resp.StatusCode)
			}
		}
	}
}
