package rest

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"dkv/store"
	"dkv/transport"
)

func TestPageOfAnotherSiteCannotWrite(t *testing.T) {
	s := open(t, nil, memory(t))
	s.want(403, "POST", "/v1/shards/1/keys/k?op=expire", "", "Sec-Fetch-Site: cross-site")
	s.want(403, "POST", "/v1/shards/1/txn", "{}", "Origin: http://elsewhere.example")
	s.want(204, "POST", "/v1/shards/1/keys/k?op=expire", "")
}

func TestAuthorizeIsAskedBeforeEachOperation(t *testing.T) {
	var asked []Access
	refuse := error(nil)
	db := memory(t)
	s := open(t, func(h *Handler) {
		h.Authorize = func(_ *http.Request, a Access) error {
			asked = append(asked, a)
			return refuse
		}
	}, db)
	owner := "owner=" + strings.Repeat("0", 16) + "-1"
	for _, c := range []struct {
		method, target, body string
		want                 []Access
	}{
		{"GET", "keys/a/b", "", []Access{{Key: "a/b"}}},
		{"HEAD", "keys/a", "", []Access{{Key: "a"}}},
		{"PUT", "keys/a", "v", []Access{{Key: "a", Write: true}}},
		{"DELETE", "keys/a", "", []Access{{Key: "a", Write: true}}},
		{"POST", "keys/a?op=expire", "", []Access{{Key: "a", Write: true}}},
		{"GET", "keys?prefix=a", "", []Access{{Key: "a", Prefix: true}}},
		{"GET", "keys", "", []Access{{Prefix: true}}},
		{"GET", "watch?key=a&from=99", "", []Access{{Key: "a"}}},
		{"GET", "watch?prefix=a&from=99", "", []Access{{Key: "a", Prefix: true}}},
		{"GET", "locks/l", "", []Access{{Key: "l", Lock: true}}},
		{"POST", "locks/l?ttl=1s", "", []Access{{Key: "l", Lock: true, Write: true}}},
		{"PUT", "locks/l?ttl=1s&" + owner, "", []Access{{Key: "l", Lock: true, Write: true}}},
		{"DELETE", "locks/l?" + owner, "", []Access{{Key: "l", Lock: true, Write: true}}},
		{"GET", "info", "", nil},
		{"GET", "nothing", "", nil},
		{"POST", "txn", "{}", nil},
		{
			"POST", "txn",
			`{"if":[{"kind":"exists","key":"a"},{"kind":"lock","key":"l","token":1}],
			"then":[{"op":"get","key":"b"}],"else":[{"op":"delete","key":"c"}]}`,
			[]Access{{Key: "a"}, {Key: "l", Lock: true}, {Key: "b"}, {Key: "c", Write: true}},
		},
	} {
		c.want = append([]Access{{Info: true}}, c.want...)
		for i := range c.want {
			c.want[i].Shard = 1
		}
		asked, refuse = nil, nil
		s.do(c.method, "/v1/shards/1/"+c.target, c.body)
		if fmt.Sprint(asked) != fmt.Sprint(c.want) {
			t.Errorf("%s %s: asked for %+v, want %+v", c.method, c.target, asked, c.want)
		}
		before, _ := db.Info(background(t))
		for status, err := range map[int]error{
			401: fmt.Errorf("%w: who is it", store.ErrUnauthenticated),
			403: errors.New("no"),
			503: store.ErrUnavailable,
		} {
			refuse = err
			s.want(status, c.method, "/v1/shards/1/"+c.target, c.body)
		}
		if after, _ := db.Info(background(t)); after.Revision != before.Revision {
			t.Errorf("%s %s: what was refused was done", c.method, c.target)
		}
	}
	if r := s.want(200, "GET", "/v1/shards", ""); r.body != `{"shards":[]}`+"\n" {
		t.Error(r.body)
	}
}

// unread is a body that does not end.
type unread struct{ t *testing.T }

func (b unread) Read(p []byte) (int, error) {
	b.t.Error("the body is read")
	return 0, errors.New("it does not come")
}

func TestBodiesOfStrangersAreNotRead(t *testing.T) {
	server := transport.NewServer(transport.ServerOptions{Tokens: []transport.Token{{
		Secret: "reader", Rights: []transport.Right{{Shard: 1}},
	}}})
	defer server.Close()
	server.Handle(1, memory(t))
	h := ForServer(server)
	defer h.Close()
	for _, c := range []struct {
		method, target, token string
		status                int
	}{
		{"POST", "txn", "", 401},
		{"POST", "txn", "wrong", 401},
		{"PUT", "keys/k", "", 401},
		{"PUT", "keys/k", "reader", 403},
	} {
		r := httptest.NewRequest(c.method, "/v1/shards/1/"+c.target, unread{t})
		r.Header.Set("Authorization", "Bearer "+c.token)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != c.status {
			t.Errorf("%+v: %d %s", c, w.Code, w.Body)
		}
	}
}

func TestTokenIsShownAsABearer(t *testing.T) {
	server := transport.NewServer(transport.ServerOptions{Tokens: []transport.Token{{
		Secret: "secret", Rights: []transport.Right{{Shard: 1}},
	}}})
	defer server.Close()
	server.Handle(1, memory(t))
	h := ForServer(server)
	defer h.Close()
	for header, status := range map[string]int{
		"Bearer secret": 200, "bearer secret": 200, "BEARER  secret": 200,
		"secret": 401, " secret": 401, "Basic secret": 401, "Bearersecret": 401, "Bearer": 401, "Bearer Bearer secret": 401, "": 401,
	} {
		r := httptest.NewRequest("GET", "/v1/shards/1/info", nil)
		r.Header.Set("Authorization", header)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != status {
			t.Errorf("%q: %d %s", header, w.Code, w.Body)
		}
	}
}

func TestStoreThatTheServerGetsLaterIsServed(t *testing.T) {
	server := transport.NewServer(transport.ServerOptions{})
	defer server.Close()
	h := ForServer(server)
	defer h.Close()
	get := func(target string) string {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", target, nil))
		return fmt.Sprint(w.Code, " ", w.Body)
	}
	if got := get("/v1/shards/7/keys"); !strings.HasPrefix(got, "404 ") {
		t.Error(got)
	}
	server.Handle(7, memory(t))
	for target, want := range map[string]string{
		"/v1/shards/7/keys": `200 {"entries":[],"revision":0}`,
		"/v1/shards":        `200 {"shards":[7]}`,
		"/readyz":           `200 {"ready":true,"shards":{"7":"ready"}}`,
	} {
		if got := get(target); got != want+"\n" {
			t.Errorf("%s: %s, want %s", target, got, want)
		}
	}
}
