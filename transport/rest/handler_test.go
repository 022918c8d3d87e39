package rest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"dkv/store"
	"dkv/store/local"
	"dkv/transport"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// site is a server of one handler, and a client of it.
type site struct {
	t       *testing.T
	handler *Handler
	url     string
	client  *http.Client
}

// open serves stores as shards 1, 2 and so on. What they need beside that is done by
// prepare, before the first request.
func open(t *testing.T, prepare func(*Handler), stores ...transport.Backend) *site {
	t.Helper()
	shards := make(map[uint64]transport.Backend)
	for i, s := range stores {
		shards[uint64(i+1)] = s
	}
	h := NewHandler(shards)
	if prepare != nil {
		prepare(h)
	}
	server := httptest.NewServer(h)
	t.Cleanup(func() {
		h.Close()
		server.Close()
	})
	return &site{t, h, server.URL, server.Client()}
}

func memory(t *testing.T) *local.Store {
	t.Helper()
	s := local.Open(local.Options{})
	t.Cleanup(func() { s.Close() })
	return s
}

// reply is a response that has been read.
type reply struct {
	status int
	header http.Header
	body   string
}

// do sends a request. Headers are given as "Name: value".
func (s *site) do(method, target, body string, headers ...string) reply {
	s.t.Helper()
	r, err := s.send(background(s.t), method, target, body, headers...)
	if err != nil {
		s.t.Error(err)
		return reply{}
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		s.t.Error(err)
	}
	return reply{r.StatusCode, r.Header, string(b)}
}

// start is do in the background.
func (s *site) start(method, target string) <-chan reply {
	done := make(chan reply, 1)
	go func() { done <- s.do(method, target, "") }()
	return done
}

func (s *site) send(ctx context.Context, method, target, body string, headers ...string) (*http.Response, error) {
	s.t.Helper()
	r, err := http.NewRequestWithContext(ctx, method, s.url+target, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Add(name, value)
	}
	return s.client.Do(r)
}

// want sends a request and fails unless the status is as wanted.
func (s *site) want(status int, method, target, body string, headers ...string) reply {
	s.t.Helper()
	r := s.do(method, target, body, headers...)
	if r.status != status {
		s.t.Fatalf("%s %.200s %q: %d %s, want %d", method, target, headers, r.status, r.body, status)
	}
	return r
}

func (r reply) decode(t *testing.T, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(r.body), into); err != nil {
		t.Fatalf("%v: %s", err, r.body)
	}
}

func background(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestPathsThatLeadNowhere(t *testing.T) {
	s := open(t, nil, memory(t))
	for _, c := range []struct {
		method, target string
		status         int
	}{
		{"GET", "/", 404},
		{"GET", "/v1", 404},
		{"GET", "/v1/shards/", 404},
		{"GET", "/v1/shards/1", 404},
		{"GET", "/v1/shards/1/", 404},
		{"GET", "/v1/shards/1/nothing", 404},
		{"GET", "/v1/shards/1/info/", 404},
		{"GET", "/v1/shards/1/locks", 404},
		{"GET", "/v1/shards/2/keys/k", 404},
		{"GET", "/v1/shards/01/keys/k", 404},
		{"GET", "/v1/shards/-1/keys/k", 404},
		{"GET", "/v1/shards/99999999999999999999/keys/k", 404},
		{"GET", "//v1/shards/1/keys/k", 404},
		{"GET", "/v1/shards/1/keys/", 400},
		{"GET", "/v1/shards/1/locks/", 400},
		{"PATCH", "/v1/shards/1/keys/k", 405},
		{"PUT", "/v1/shards/1/keys", 405},
		{"GET", "/v1/shards/1/txn", 405},
		{"HEAD", "/v1/shards/1/watch", 405},
		{"POST", "/healthz", 405},
		{"GET", "/healthz?verbose", 400},
		{"GET", "/v1/shards/1/keys?prefix=a;b", 400},
		{"GET", "/v1/shards/1/keys?prefix=%zz", 400},
		{"GET", "/v1/shards/1/keys?prefix=a&prefix=b", 400},
		{"PUT", "/v1/shards/1/keys/k?expirein=1s", 400},
	} {
		r := s.want(c.status, c.method, c.target, "")
		if c.method == "HEAD" {
			continue
		}
		var p problem
		if r.decode(t, &p); p.Error == "" || p.Kind != "final" {
			t.Errorf("%s %s: %s", c.method, c.target, r.body)
		}
	}
	if allow := s.do("PATCH", "/v1/shards/1/keys/k", "").header.Get("Allow"); allow != "DELETE, GET, HEAD, POST, PUT" {
		t.Error(allow)
	}
}

// troubled is a store whose operations fail.
type troubled struct {
	*local.Store
	err error
}

func (s troubled) GetEntry(context.Context, string) (store.Entry, bool, error) {
	return store.Entry{}, false, s.err
}

func (s troubled) Ready(context.Context) error { return s.err }

func TestStatusesOfErrors(t *testing.T) {
	for _, c := range []struct {
		err    error
		status int
		kind   string
	}{
		{store.ErrUnavailable, 503, "notApplied"},
		{store.ErrBusy, 429, "notApplied"},
		{store.ErrUnknown, 504, "unknown"},
		{store.ErrClosed, 503, "closed"},
		{store.ErrEmptyKey, 400, "final"},
		{store.ErrKeyTooLarge, 413, "final"},
		{store.ErrValueTooLarge, 413, "final"},
		{store.ErrFull, 507, "final"},
		{store.ErrDiskFull, 507, "notApplied"},
		{store.ErrNotNumber, 409, "final"},
		{store.ErrCompacted, 410, "final"},
		{store.ErrBadTxn, 400, "final"},
		{errors.New("a fault"), 500, "unknown"},
	} {
		s := open(t, nil, troubled{memory(t), fmt.Errorf("%w: indeed", c.err)})
		r := s.want(c.status, "GET", "/v1/shards/1/keys/k", "")
		var p problem
		r.decode(t, &p)
		var e *store.Error
		if errors.As(c.err, &e) && p.Code != e.Code() {
			t.Errorf("%v: code %d", c.err, p.Code)
		}
		if p.Kind != c.kind || !strings.HasPrefix(p.Error, c.err.Error()+": indeed") {
			t.Errorf("%v: %s", c.err, r.body)
		}
		if retry := r.header.Get("Retry-After"); (retry != "") != (c.kind == "notApplied") {
			t.Errorf("%v: Retry-After %q", c.err, retry)
		}
	}
}

func TestEverySentinelHasAStatus(t *testing.T) {
	for code := uint16(1); store.ErrorOf(code) != nil; code++ {
		if s := status(store.ErrorOf(code)); s < 400 || s == 500 {
			t.Errorf("%v: %d", store.ErrorOf(code), s)
		}
	}
}

// slow is a store whose reads take until their context ends, or until goOn is closed.
type slow struct {
	*local.Store
	began chan struct{}
	goOn  chan struct{}
}

func (s slow) GetEntry(ctx context.Context, _ string) (store.Entry, bool, error) {
	s.began <- struct{}{}
	select {
	case <-ctx.Done():
		return store.Entry{}, false, fmt.Errorf("%w: %w", store.ErrUnavailable, ctx.Err())
	case <-s.goOn:
		return store.Entry{}, false, nil
	}
}

func (s slow) Ready(ctx context.Context) error {
	<-ctx.Done()
	return store.ErrUnavailable
}

func TestDeadlineIsTheClients(t *testing.T) {
	s := open(t, nil, slow{memory(t), make(chan struct{}, 9), nil})
	for _, c := range []struct{ target, header string }{
		{"/v1/shards/1/keys/k?timeout=10ms", "X: y"},
		{"/v1/shards/1/keys/k", "Dkv-Timeout: 10ms"},
		{"/v1/shards/1/keys/k?timeout=10ms", "Dkv-Timeout: 1h"},
	} {
		began := time.Now()
		s.want(503, "GET", c.target, "", c.header)
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("%v: %v", c, took)
		}
	}
	for _, bad := range []string{"0", "0s", "-1s", "1", "soon", "9999999h"} {
		s.want(400, "GET", "/v1/shards/1/keys/k", "", "Dkv-Timeout: "+bad)
		s.want(400, "GET", "/v1/shards/1/keys/k?timeout="+bad, "")
	}
}

func TestCloseIsBoundedAndRefusesWhatComesLater(t *testing.T) {
	db := slow{memory(t), make(chan struct{}, 1), nil}
	s := open(t, nil, db)
	stuck := s.start("GET", "/v1/shards/1/keys/k?timeout=1m")
	<-db.began
	began := time.Now()
	s.handler.Close()
	if took := time.Since(began); took < drainTimeout/2 || took > 3*drainTimeout {
		t.Errorf("Close took %v", took)
	}
	if r := <-stuck; r.status != 503 {
		t.Error(r)
	}
	if r := s.want(503, "GET", "/v1/shards/1/keys", ""); !strings.Contains(r.body, `"closed"`) {
		t.Error(r)
	}
	s.handler.Close()
}

func TestTooMuchAtATimeIsRefused(t *testing.T) {
	db := slow{memory(t), make(chan struct{}, 1), make(chan struct{})}
	s := open(t, func(h *Handler) { h.requests = make(chan struct{}, 1) }, db)
	stuck := s.start("GET", "/v1/shards/1/keys/k?timeout=1m")
	<-db.began
	s.want(429, "GET", "/v1/shards/1/info", "")
	s.want(200, "GET", "/healthz", "")
	close(db.goOn)
	<-stuck
	s.want(200, "GET", "/v1/shards/1/info", "")
}

func TestReadyMeansEveryShard(t *testing.T) {
	s := open(t, nil, memory(t), memory(t))
	s.want(200, "GET", "/readyz", "")
	s.want(200, "HEAD", "/readyz", "")
	s = open(t, nil, memory(t), slow{memory(t), nil, nil})
	if r := s.want(503, "GET", "/readyz", ""); r.body != `{"ready":false,"shards":{"1":"ready","2":"dkv: unavailable, not applied"}}`+"\n" {
		t.Error(r.body)
	}
	s.want(200, "GET", "/healthz", "")
	s.want(200, "GET", "/v1/shards", "")
}

// witness votes, and has no data.
type witness struct{ *local.Store }

func (witness) Info(context.Context) (store.Info, error) {
	return store.Info{Mode: "witness"}, nil
}

func (witness) GetEntry(context.Context, string) (store.Entry, bool, error) {
	return store.Entry{}, false, store.ErrNoData
}

func TestWitnessSendsClientsElsewhere(t *testing.T) {
	s := open(t, nil, witness{memory(t)})
	if r := s.want(503, "GET", "/readyz", ""); r.body != `{"ready":false,"shards":{"1":"dkv: no data here"}}`+"\n" {
		t.Error(r.body)
	}
	s.want(421, "GET", "/v1/shards/1/keys/k", "")
	s.want(200, "GET", "/healthz", "")
	s.want(200, "GET", "/v1/shards/1/info", "")
}

func TestInfoIsThatOfTheStore(t *testing.T) {
	db := memory(t)
	s := open(t, nil, db)
	db.Set(background(t), "k", []byte("value"))
	var got info
	s.want(200, "GET", "/v1/shards/1/info", "").decode(t, &got)
	if want, _ := db.Info(background(t)); fmt.Sprint(store.Info(got)) != fmt.Sprint(want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestBodiesAreBounded(t *testing.T) {
	s := open(t, nil, memory(t))
	full := strings.Repeat("v", store.MaxValueSize)
	s.want(204, "PUT", "/v1/shards/1/keys/k", full)
	if r := s.want(200, "GET", "/v1/shards/1/keys/k", ""); r.body != full {
		t.Error(len(r.body))
	}
	// Without a length ahead, the handler has to count.
	endless := func(n int) io.Reader { return io.MultiReader(bytes.NewReader(make([]byte, n))) }
	for target, n := range map[string]int{"keys/k": store.MaxValueSize + 1, "txn": maxTxnBody + 1} {
		method := "PUT"
		if target == "txn" {
			method = "POST"
		}
		for _, body := range []io.Reader{bytes.NewReader(make([]byte, n)), endless(n)} {
			w := httptest.NewRecorder()
			s.handler.ServeHTTP(w, httptest.NewRequest(method, "/v1/shards/1/"+target, body))
			if w.Code != 413 {
				t.Errorf("%s of %d bytes: %d %s", target, n, w.Code, w.Body)
			}
		}
	}
}
