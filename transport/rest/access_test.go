package rest

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"dkv/store"
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
		{"GET", "info", "", []Access{{Info: true}}},
		{
			"POST", "txn",
			`{"if":[{"kind":"exists","key":"a"},{"kind":"lock","key":"l","token":1}],
			"then":[{"op":"get","key":"b"}],"else":[{"op":"delete","key":"c"}]}`,
			[]Access{{Key: "a"}, {Key: "l", Lock: true}, {Key: "b"}, {Key: "c", Write: true}},
		},
	} {
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
