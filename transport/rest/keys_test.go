package rest

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"dkv/store"
	"dkv/store/local"
)

func TestAnyBytesAreAKey(t *testing.T) {
	db := memory(t)
	s := open(t, nil, db)
	ctx := background(t)
	for _, k := range []string{
		"k", "a/b", "/", "//", "/a", "a/", "a//b", ".", "..", "../x", "a/../b", "./", "a b", "a+b", "%", "%2F", "?", "#",
		"\x00", "\xff\xfe", "ключ", "keys/", "key;x=1", "a?b=c&d", "\r\n", `"`, strings.Repeat("k", store.MaxKeySize),
	} {
		for _, path := range []string{url.PathEscape(k), strings.ReplaceAll(url.PathEscape(k), "%2F", "/")} {
			if err := db.Delete(ctx, k); err != nil {
				t.Fatal(err)
			}
			target := "/v1/shards/1/keys/" + path
			s.want(404, "GET", target, "")
			s.want(204, "PUT", target, "value of "+k)
			if got, ok, err := db.Get(ctx, k); string(got) != "value of "+k || !ok || err != nil {
				t.Errorf("%.50q is not what was set by %.50s", k, path)
			}
			if r := s.want(200, "GET", target, ""); r.body != "value of "+k {
				t.Errorf("%.50q: %q", k, r.body)
			}
			var e struct {
				Key       string
				KeyBase64 []byte
			}
			s.want(200, "GET", target, "", "Accept: application/json").decode(t, &e)
			if e.Key+string(e.KeyBase64) != k {
				t.Errorf("%.50q: %+v", k, e)
			}
		}
	}
	s.want(413, "GET", "/v1/shards/1/keys/"+strings.Repeat("k", store.MaxKeySize+1), "")
	if info, _ := db.Info(ctx); info.Keys != 27 {
		t.Error(info.Keys, "keys")
	}
}

func TestGetTellsRevisionAndTimes(t *testing.T) {
	s := open(t, nil, memory(t))
	const k = "/v1/shards/1/keys/k"
	s.want(204, "PUT", k, "v")
	r := s.want(200, "GET", k, "")
	if r.header.Get("ETag") != `"1"` || r.header.Get("Content-Type") != "application/octet-stream" || r.header.Get("Dkv-Expire-In") != "" {
		t.Error(r.header)
	}
	if r := s.want(204, "PUT", k+"?expireIn=1m&deleteIn=1h", ""); r.header.Get("ETag") != `"2"` || r.header.Get("Dkv-Revision") != "2" {
		t.Error(r.header)
	}
	r = s.want(200, "HEAD", k, "")
	for name, most := range map[string]time.Duration{"Dkv-Expire-In": time.Minute, "Dkv-Delete-In": time.Hour} {
		if d, err := time.ParseDuration(r.header.Get(name)); err != nil || d > most || d < most-10*time.Second {
			t.Error(name, r.header.Get(name))
		}
	}
	if r := s.want(200, "GET", k, "", "Accept: text/html, application/json;q=0.5"); !strings.HasPrefix(r.body, `{"key":"k","value":"","revision":2,"expireIn":"`) {
		t.Error(r.body)
	}
	for _, bad := range []string{"expireIn=-1s", "deleteIn=soon", "expireIn=5", "expireIn=", "deleteIn=99999999999h"} {
		s.want(400, "PUT", k+"?"+bad, "")
	}
}

func TestExpiredKeyIsNotFoundAndSaysSo(t *testing.T) {
	s := open(t, nil, memory(t))
	const k = "/v1/shards/1/keys/k"
	s.want(204, "PUT", k+"?deleteIn=1h", "v")
	s.want(204, "POST", k+"?op=expire", "")
	for _, method := range []string{"GET", "HEAD"} {
		r := s.want(404, method, k, "", `If-None-Match: "2"`)
		if r.header.Get("Dkv-Expired") != "true" || r.header.Get("ETag") != `"2"` || r.header.Get("Dkv-Delete-In") == "" {
			t.Error(method, r.header)
		}
		if r := s.want(404, method, k+"x", ""); r.header.Get("Dkv-Expired") != "" || r.header.Get("ETag") != "" {
			t.Error(method, r.header)
		}
	}
	s.want(412, "PUT", k, "", "If-None-Match: *") // an expired key is set
	s.want(204, "PUT", k, "", `If-Match: "2"`)
}

func TestConditionsOfReads(t *testing.T) {
	s := open(t, nil, memory(t))
	const k = "/v1/shards/1/keys/k"
	s.want(204, "PUT", k, "v")
	for header, status := range map[string]int{
		`If-None-Match: "1"`:           304,
		`If-None-Match: W/"1"`:         304,
		`If-None-Match: "7" , "1"`:     304,
		`If-None-Match: *`:             304,
		`If-None-Match: "2"`:           200,
		`If-None-Match: 1`:             200,
		`If-Match: "1"`:                200,
		`If-Match: "2"`:                412,
		`If-Modified-Since: yesterday`: 200,
	} {
		if r := s.want(status, "GET", k, "", header); r.header.Get("ETag") != `"1"` || status == 304 && r.body != "" {
			t.Error(header, r)
		}
	}
}

func TestStaleReadHasNoRevision(t *testing.T) {
	s := open(t, nil, memory(t))
	const k = "/v1/shards/1/keys/k"
	s.want(404, "GET", k+"?stale=true", "")
	s.want(204, "PUT", k, "v")
	for _, query := range []string{"?stale", "?stale=true", "?stale=1"} {
		if r := s.want(200, "GET", k+query, "", `If-None-Match: "1"`); r.body != "v" || r.header.Get("ETag") != "" {
			t.Error(r)
		}
	}
	if r := s.want(200, "GET", k+"?stale", "", "Accept: application/json"); r.body != `{"key":"k","value":"dg=="}`+"\n" {
		t.Error(r.body)
	}
	s.want(200, "GET", k+"?stale=false", "")
	s.want(400, "GET", k+"?stale=perhaps", "")
}

func TestConditionsOfWrites(t *testing.T) {
	s := open(t, nil, memory(t))
	const k = "/v1/shards/1/keys/k"
	steps := []struct {
		method, header, etag string
		status               int
	}{
		{"PUT", `If-Match: "1"`, "", 412},
		{"DELETE", `If-Match: "1"`, "", 412},
		{"PUT", `If-None-Match: *`, `"1"`, 201},
		{"PUT", `If-None-Match: *`, `"1"`, 412},
		{"PUT", `If-Match: "7"`, `"1"`, 412},
		{"PUT", `If-Match: "1"`, `"2"`, 204},
		{"DELETE", `If-Match: "1"`, `"2"`, 412},
		{"DELETE", `If-Match: "2"`, "", 204},
		{"PUT", `If-None-Match: *`, `"4"`, 201},
		{"DELETE", `X: y`, "", 204},
		{"DELETE", `X: y`, "", 204},
		{"GET", `X: y`, "", 404},
	}
	for i, c := range steps {
		if r := s.want(c.status, c.method, k, "v", c.header); r.header.Get("ETag") != c.etag {
			t.Errorf("step %d: %+v has %v", i, c, r.header)
		}
	}
	for _, bad := range []string{`If-Match: *`, `If-Match: 1`, `If-Match: "0"`, `If-Match: W/"1"`, `If-Match: "1", "2"`, `If-Match: "01"`, `If-Match: ""`, `If-Match: "`, `If-None-Match: "1"`} {
		s.want(400, "PUT", k, "", bad)
		s.want(400, "DELETE", k, "", bad)
	}
	s.want(400, "PUT", k, "", `If-Match: "1"`, `If-Match: "1"`)
	s.want(400, "PUT", k, "", `If-Match: "1"`, `If-None-Match: *`)
	s.want(400, "DELETE", k, "", `If-None-Match: *`)
	s.want(400, "POST", k+"?op=expire", "", `If-Match: "1"`)
}

func TestAddCountsAndRefusesWhatIsNoNumber(t *testing.T) {
	s := open(t, nil, memory(t))
	const k = "/v1/shards/1/keys/n"
	if r := s.want(200, "POST", k+"?op=add&delta=9223372036854775807", ""); r.body != `{"number":9223372036854775807,"revision":1}`+"\n" || r.header.Get("ETag") != `"1"` {
		t.Error(r)
	}
	s.want(409, "POST", k+"?op=add&delta=1", "")
	s.want(200, "POST", k+"?op=add&delta=-1", "")
	s.want(204, "PUT", k, "not a number")
	s.want(409, "POST", k+"?op=add&delta=1", "")
	for _, bad := range []string{"", "?op=add", "?op=add&delta=x", "?op=add&delta=9223372036854775808", "?op=drop", "?op=expire&delta=1", "?delta=1"} {
		s.want(400, "POST", k+bad, "")
	}
}

func TestFullStoreSaysSo(t *testing.T) {
	db := local.Open(local.Options{MaxBytes: 1000})
	defer db.Close()
	s := open(t, nil, db)
	s.want(507, "PUT", "/v1/shards/1/keys/k", strings.Repeat("v", 2000))
	s.want(507, "PUT", "/v1/shards/1/keys/k", strings.Repeat("v", 2000), "If-None-Match: *")
	s.want(204, "PUT", "/v1/shards/1/keys/k", "v")
}
