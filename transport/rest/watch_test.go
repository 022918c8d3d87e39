package rest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"dkv/store"
	"dkv/transport"
)

// events is a watch as its client sees it.
type events struct {
	t    *testing.T
	resp *http.Response
	r    *bufio.Reader
	stop context.CancelFunc
	id   string // of the last event
}

func (s *site) watch(query string, headers ...string) *events {
	s.t.Helper()
	ctx, stop := context.WithCancel(background(s.t))
	s.t.Cleanup(stop)
	resp, err := s.send(ctx, "GET", "/v1/shards/1/watch?"+query, "", headers...)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { resp.Body.Close() })
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" {
		s.t.Fatal(resp.Status, resp.Header)
	}
	return &events{t: s.t, resp: resp, r: bufio.NewReader(resp.Body), stop: stop}
}

// block reads up to an empty line, as a client of server-sent events does.
func (e *events) block() (kind, data string, err error) {
	for {
		line, err := e.r.ReadString('\n')
		if err != nil {
			return "", "", err
		}
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch name {
		case "id":
			e.id = value
		case "event":
			kind = value
		case "data":
			data = value
		case "":
			if value == "" {
				return kind, data, nil
			}
		}
	}
}

// next is the next event, "" when the stream ends.
func (e *events) next() string {
	e.t.Helper()
	for {
		kind, data, err := e.block()
		if err != nil {
			if err != io.EOF {
				e.t.Fatal(err)
			}
			return ""
		}
		if data != "" {
			return kind + " " + data
		}
	}
}

func (e *events) want(all ...string) {
	e.t.Helper()
	for _, want := range all {
		if got := e.next(); got != want {
			e.t.Fatalf("%q, want %q", got, want)
		}
	}
}

func TestWatchShowsChanges(t *testing.T) {
	s := open(t, nil, memory(t))
	all, one, some := s.watch(""), s.watch("key=b"), s.watch("prefix=a")
	s.want(204, "PUT", "/v1/shards/1/keys/a%FF", "v")
	s.want(204, "PUT", "/v1/shards/1/keys/b?expireIn=1ms&deleteIn=2ms", "")
	some.want(`set {"keyBase64":"Yf8=","value":"dg==","revision":1}`)
	one.want(`set {"key":"b","value":"","revision":2}`)
	for _, e := range []*events{all, one} {
		if e == all {
			e.want(`set {"keyBase64":"Yf8=","value":"dg==","revision":1}`, `set {"key":"b","value":"","revision":2}`)
		}
		got := e.next()
		if got == `expired {"key":"b","revision":3,"byDeadline":true}` {
			got = e.next()
		}
		if !strings.HasPrefix(got, `deleted {"key":"b","revision":`) || !strings.HasSuffix(got, `,"byDeadline":true}`) {
			t.Error(got)
		}
	}
	s.want(204, "DELETE", "/v1/shards/1/keys/a%FF", "")
	if got := some.next(); !strings.HasPrefix(got, `deleted {"keyBase64":"Yf8=","revision":`) {
		t.Error(got)
	}
}

func TestWatchThatIsResumedMissesNothingAndRepeatsNothing(t *testing.T) {
	db := memory(t)
	s := open(t, nil, db)
	ctx := background(t)
	const n = 500
	e := s.watch("prefix=k")
	e.block() // which tells from where
	go func() {
		for i := range n {
			db.Set(ctx, "k", fmt.Append(nil, i))
			db.Set(ctx, "other", nil)
		}
	}()
	for i := range n {
		if i%100 == 50 {
			e.stop()
			e = s.watch("prefix=k&from=1", "Last-Event-ID: "+e.id) // the header wins
		}
		e.want(fmt.Sprintf(`set {"key":"k","value":%q,"revision":%d}`, encodeBase64(i), 2*i+1))
	}
}

func encodeBase64(i int) string {
	return strings.Trim(string(encode(fmt.Append(nil, i))), "\"\n")
}

func TestIdleWatchTellsHowFarItHasLooked(t *testing.T) {
	db := memory(t)
	s := open(t, func(h *Handler) { h.heartbeat = time.Millisecond }, db)
	e := s.watch("key=k")
	if _, data, err := e.block(); e.id != "0" || data != "" || err != nil {
		t.Fatal(e.id, data, err)
	}
	for range 100 {
		db.Set(background(t), "other", nil)
	}
	for e.id != "100" {
		if _, data, err := e.block(); data != "" || err != nil {
			t.Fatal(data, err)
		}
	}
	e.stop()
	e = s.watch("key=k", "Last-Event-ID: "+e.id)
	db.Set(background(t), "k", nil)
	e.want(`set {"key":"k","value":"","revision":101}`)
}

func TestWatchOfWhatIsForgottenIsGone(t *testing.T) {
	db := memory(t)
	s := open(t, nil, db)
	ctx := background(t)
	for range 3 {
		db.Set(ctx, "k", nil)
	}
	s.watch("") // changes are remembered from here on
	s.want(410, "GET", "/v1/shards/1/watch?from=1", "")
	s.want(410, "GET", "/v1/shards/1/watch", "", "Last-Event-ID: 0")
	s.want(400, "GET", "/v1/shards/1/watch?from=99", "")
	s.want(400, "GET", "/v1/shards/1/watch?from=x", "")
	s.want(400, "GET", "/v1/shards/1/watch?key=a&prefix=b", "")
	s.want(400, "GET", "/v1/shards/1/watch", "", "Last-Event-ID: x")
	s.want(400, "GET", "/v1/shards/1/watch", "", "Last-Event-ID: 18446744073709551615")
	s.want(413, "GET", "/v1/shards/1/watch?key="+strings.Repeat("k", store.MaxKeySize+1), "")
}

func TestWatchThatFallsBehindEndsWithAnError(t *testing.T) {
	db := memory(t)
	s := open(t, nil, db)
	ctx := background(t)
	e := s.watch("")
	value := make([]byte, 1<<20)
	for range 60 { // more than the history and the buffers of a connection take
		if err := db.Set(ctx, "k", value); err != nil {
			t.Fatal(err)
		}
	}
	last := ""
	for got := e.next(); got != ""; got = e.next() {
		last = got
	}
	if last != `error {"error":"dkv: compacted","code":17,"kind":"final"}` {
		t.Errorf("%.200s", last)
	}
}

func TestWatchesEndWithTheirClientsAndWithTheHandler(t *testing.T) {
	db := memory(t)
	s := open(t, func(h *Handler) { h.waits = make(chan struct{}, 2) }, db)
	left, kept := s.watch(""), s.watch("")
	s.want(429, "GET", "/v1/shards/1/watch", "")
	s.want(200, "GET", "/v1/shards/1/keys", "")
	left.stop()
	waitFor(t, func() bool { return len(s.handler.waits) == 1 })
	began := time.Now()
	s.handler.Close()
	if took := time.Since(began); took > drainTimeout {
		t.Errorf("Close took %v", took)
	}
	kept.want("")
	if info, _ := db.Info(background(t)); info.Watches != 0 {
		t.Error(info.Watches, "watches are left")
	}
}

func TestClientThatReadsNothingDoesNotHoldUpClose(t *testing.T) {
	db := memory(t)
	s := open(t, nil, db)
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET /v1/shards/1/watch HTTP/1.1\r\nHost: x\r\n\r\n")
	waitFor(t, func() bool { return len(s.handler.waits) == 1 })
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	for range 12 {
		db.Set(background(t), "k", make([]byte, 1<<20))
	}
	began := time.Now()
	s.handler.Close()
	if took := time.Since(began); took > writeTimeout+drainTimeout {
		t.Errorf("Close took %v", took)
	}
}

func TestWatchOutlastsTheDeadlinesOfTheServer(t *testing.T) {
	db := memory(t)
	h := NewHandler(map[uint64]transport.Backend{1: db})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	const limit = 500 * time.Millisecond
	server := &http.Server{Handler: h, ReadTimeout: limit, WriteTimeout: limit}
	done := make(chan error)
	go func() { done <- server.Serve(l) }()
	dialer := &http.Transport{}
	s := &site{t, h, "http://" + l.Addr().String(), &http.Client{Transport: dialer}}
	e := s.watch("")
	time.Sleep(2 * limit)
	db.Set(background(t), "k", nil)
	e.want(`set {"key":"k","value":"","revision":1}`)
	h.Close()
	server.Close()
	dialer.CloseIdleConnections()
	if err := <-done; err != http.ErrServerClosed {
		t.Error(err)
	}
}

func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("waited for 10 s")
		}
	}
}
