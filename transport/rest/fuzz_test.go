package rest

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"dkv/store/local"
	"dkv/transport"
)

// FuzzRequests feeds a handler. Whatever comes, it does not panic, and it is not its
// fault: there is no 5xx but for a store that is closed, slow or full.
func FuzzRequests(f *testing.F) {
	const shard = "/v1/shards/1/"
	for _, seed := range []struct{ method, target, match, noneMatch, other, body string }{
		{"GET", shard + "keys/a%2Fb?stale", "", `"1"`, "", ""},
		{"PUT", shard + "keys/k?expireIn=1s&deleteIn=1m&timeout=5s", `"1"`, "", "1s", "value"},
		{"PUT", shard + "keys/%FF", "", "*", "", "7"},
		{"POST", shard + "keys/k?op=add&delta=-7", "", "", "", ""},
		{"POST", shard + "keys/k?op=expire", "", "", "", ""},
		{"DELETE", shard + "keys/k", `"2"`, "", "", ""},
		{"GET", shard + "keys?prefix=k&from=a&to=z&after=b&limit=2&reverse&keysOnly&next=YQ", "", "", "", ""},
		{"POST", shard + "txn", "", "", "", `{"if":[{"kind":"value","key":"k","text":"v"},{"kind":"lock","key":"l","token":1}],"then":[{"op":"set","keyBase64":"/w==","value":"dg==","expireIn":"1s"},{"op":"get","key":"k"}],"else":[{"op":"add","key":"\ud83d\ude00","delta":1}]}`},
		{"POST", shard + "txn", "", "", "", `{"then":[{"op":"setIfUnset","key":"k","text":"\ud800"}]}`},
		{"GET", shard + "watch?prefix=k&from=1", "", "", "3", ""},
		{"POST", shard + "locks/l?ttl=1s&wait=1s", "", "", "", ""},
		{"PUT", shard + "locks/l?ttl=forever&owner=0123456789abcdef-1", "", "", "", ""},
		{"DELETE", shard + "locks/l?owner=0123456789abcdef-1", "", "", "", ""},
		{"GET", shard + "locks/l", "", "", "", ""},
		{"HEAD", shard + "info", "", "", "", ""},
		{"GET", "/readyz", "", "", "", ""},
		{"OPTIONS", "*", "", "", "", ""},
	} {
		f.Add(seed.method, seed.target, seed.match, seed.noneMatch, seed.other, []byte(seed.body))
	}
	db := local.Open(local.Options{MaxBytes: 4 << 20})
	h := NewHandler(map[uint64]transport.Backend{1: db})
	f.Cleanup(func() {
		h.Close()
		db.Close()
	})
	f.Fuzz(func(t *testing.T, method, target, match, noneMatch, other string, body []byte) {
		u, err := url.ParseRequestURI(target)
		if err != nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Millisecond)
		defer cancel()
		r := httptest.NewRequest("GET", "/", bytes.NewReader(body)).WithContext(ctx)
		r.Method, r.URL = method, u
		for name, value := range map[string]string{
			"If-Match": match, "If-None-Match": noneMatch, "Dkv-Timeout": other, "Last-Event-ID": other, "Accept": other,
		} {
			if value != "" {
				r.Header.Set(name, value)
			}
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		switch w.Code {
		case http.StatusServiceUnavailable, http.StatusGatewayTimeout, http.StatusInsufficientStorage:
		default:
			if w.Code < 200 || w.Code >= 500 {
				t.Fatalf("%d %s", w.Code, w.Body)
			}
		}
		if w.Header().Get("Content-Type") == "application/json" && !json.Valid(w.Body.Bytes()) {
			t.Fatalf("not JSON: %q", w.Body)
		}
	})
}
