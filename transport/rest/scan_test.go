package rest

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"dkv/store"
)

// pages reads a scan page by page and returns its keys.
func (s *site) pages(query string) (keys []string, pages int) {
	s.t.Helper()
	for next := ""; ; {
		var p struct {
			Entries []struct {
				Key       string
				KeyBase64 []byte
			}
			Next string
		}
		s.want(200, "GET", "/v1/shards/1/keys?"+query+next, "").decode(s.t, &p)
		pages++
		for _, e := range p.Entries {
			keys = append(keys, e.Key+string(e.KeyBase64))
		}
		if p.Next == "" {
			return keys, pages
		}
		next = "&next=" + p.Next
	}
}

func TestPagesMakeUpAScan(t *testing.T) {
	db := memory(t)
	s := open(t, nil, db)
	ctx := background(t)
	var all []string
	for i := range 250 {
		k := fmt.Sprintf("k%03d", i)
		if i%50 == 7 {
			k += "\xff/?&+ "
		}
		all = append(all, k)
		if err := db.Set(ctx, k, []byte(k)); err != nil {
			t.Fatal(err)
		}
	}
	db.Set(ctx, "other", nil)
	reversed := slices.Clone(all)
	slices.Reverse(reversed)
	for _, c := range []struct {
		query string
		want  []string
		pages int
	}{
		{"prefix=k", all, 3},
		{"prefix=k&limit=250", all, 1},
		{"prefix=k&limit=249&keysOnly=true", all, 2},
		{"prefix=k&limit=50&reverse", reversed, 5},
		{"limit=1000000", append(slices.Clone(all), "other"), 1},
		{"from=k100&to=k200&limit=7", all[100:200], 15},
		{"prefix=k&after=" + url.QueryEscape(all[107]), all[108:], 2},
		{"prefix=k&reverse=true&after=k100", reversed[150:], 1},
		{"prefix=nothing", nil, 1},
		{"from=z&to=a", nil, 1},
	} {
		if got, pages := s.pages(c.query); !slices.Equal(got, c.want) || pages != c.pages {
			t.Errorf("%s: %d keys on %d pages, want %d on %d", c.query, len(got), pages, len(c.want), c.pages)
		}
	}
	for _, bad := range []string{
		"limit=0", "limit=-1", "limit=x", "limit=", "reverse=x", "next=", "next=!", "prefx=k",
	} {
		s.want(400, "GET", "/v1/shards/1/keys?"+bad, "")
	}
	s.want(413, "GET", "/v1/shards/1/keys?prefix="+strings.Repeat("k", store.MaxKeySize+1), "")
}

func TestPageOfLargeValuesIsShort(t *testing.T) {
	db := memory(t)
	s := open(t, nil, db)
	for i := range 6 {
		if err := db.Set(background(t), fmt.Sprint(i), make([]byte, pageBytes/2)); err != nil {
			t.Fatal(err)
		}
	}
	if keys, pages := s.pages("limit=1000"); len(keys) != 6 || pages != 3 {
		t.Errorf("%d keys on %d pages", len(keys), pages)
	}
	if keys, pages := s.pages("limit=1000&keysOnly"); len(keys) != 6 || pages != 1 {
		t.Errorf("%d keys on %d pages", len(keys), pages)
	}
}

func TestEntriesOfAScan(t *testing.T) {
	s := open(t, nil, memory(t))
	if r := s.want(200, "GET", "/v1/shards/1/keys", ""); r.body != `{"entries":[],"revision":0}`+"\n" {
		t.Error(r.body)
	}
	s.want(204, "PUT", "/v1/shards/1/keys/empty", "")
	s.want(204, "PUT", "/v1/shards/1/keys/gone", "v")
	s.want(204, "POST", "/v1/shards/1/keys/gone?op=expire", "")
	s.want(204, "PUT", "/v1/shards/1/keys/%FF", "v")
	want := `{"entries":[{"key":"empty","value":"","revision":1},{"key":"gone","revision":3,"expired":true},` +
		`{"keyBase64":"/w==","value":"dg==","revision":4}],"revision":4}` + "\n"
	if r := s.want(200, "GET", "/v1/shards/1/keys", ""); r.body != want {
		t.Error(r.body)
	}
}
