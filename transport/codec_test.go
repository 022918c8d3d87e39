package transport

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"dkv/internal/command"
	"dkv/internal/once"
	"dkv/store"
	"dkv/store/engine"
)

// message is a request, or a response to a request of its method.
type message struct {
	name    string
	request bool
	req     request
	resp    response
}

func (m message) binary() []byte {
	if m.request {
		return m.req.append(nil)
	}
	return m.resp.append(nil)
}

func (m message) encode(c Codec) ([]byte, error) {
	if m.request {
		return c.transcoder().request(m.req)
	}
	r, err := newResponseMessage(m.resp)
	if err != nil {
		return nil, err
	}
	return c.transcoder().write(r)
}

// decode reads the body of another codec and returns what Binary has for it.
func (m message) decode(c Codec, body []byte) ([]byte, error) {
	if m.request {
		r, err := c.transcoder().parseRequest(body)
		return r.append(nil), err
	}
	r, err := c.transcoder().parseResponse(body, func(uint64) method { return m.resp.method })
	return r.append(nil), err
}

// messages returns one of each message.
func messages() (all []message) {
	request := func(m method, arg []byte) {
		name := "request " + methodNames[m]
		for _, other := range all {
			if other.name == name {
				name += " of another kind"
			}
		}
		all = append(all, message{name: name, request: true, req: request{id: 7, timeout: time.Second, method: m, arg: arg}})
	}
	response := func(m method, result []byte) {
		all = append(all, message{name: "response " + methodNames[m], resp: response{id: 7, method: m, result: result}})
	}
	key, owner := []byte("k\xff"), []byte("owner---")
	id := once.ID{Client: 1, Nonce: 1<<64 - 1, Seq: 3, Low: 2}
	for _, m := range []method{methodReady, methodInfo} {
		request(m, nil)
	}
	for _, m := range []method{methodGet, methodGetStale, methodGetEntry, methodHas, methodLockHolder} {
		request(m, key)
	}
	request(methodEnrol, command.AppendOp(nil, new(engine.Op), once.ID{Nonce: 9}))
	request(methodWrite, command.AppendOp(nil, &engine.Op{
		Kind: engine.SetIfRevision, Key: "k", Value: []byte("v"), At: 5, ExpireIn: time.Second, DeleteIn: time.Hour,
	}, id))
	request(methodWrite, command.AppendOp(nil, &engine.Op{Kind: engine.Transact, Txn: &engine.Txn{
		If: []engine.Cond{
			{Kind: engine.RevisionIs, Key: "a", At: 1 << 63}, {Kind: engine.Exists, Key: "b"},
			{Kind: engine.ValueIs, Key: "c", Value: []byte{}}, {Kind: engine.TokenIs, Space: engine.Locks, Key: "d", At: 4},
		},
		Then: []engine.Op{{Kind: engine.Add, Key: "e", Delta: -1 << 63}, {Kind: engine.Get, Key: "f"}},
		Else: []engine.Op{{Kind: engine.Delete, Key: "g"}},
	}}, id))
	request(methodScan, appendRange(nil, store.Range{Prefix: "p", From: "pa", To: "pz", After: "pb", Reverse: true, KeysOnly: true, Limit: 10}))
	request(methodScanNext, appendScan(nil, 6))
	request(methodScanStop, appendScan(nil, 6))
	request(methodPoll, poll{engine.Locks, store.Watch{Prefix: "k", From: 300}, time.Minute}.append(nil))
	request(methodAwaitLock, await{"k", owner, store.LockPlace{Number: 7, At: 9}, time.Minute}.append(nil))
	request(methodCancel, binary.AppendUvarint(nil, 6))

	response(methodReady, nil)
	info, _ := appendInfo(nil, store.Info{Mode: "replicated", Node: "<a>", Members: []string{"<a>", "b"}, Progress: map[string]uint64{"b": 1<<64 - 1}})
	response(methodInfo, info)
	response(methodGet, append(appendFound(nil, true), "v\xff"...))
	response(methodGetStale, appendFound(nil, false))
	response(methodGetEntry, appendEntry(appendFound(nil, true), store.Entry{Value: []byte("v"), Revision: 7, ExpireIn: 1, DeleteIn: 2}))
	response(methodHas, appendFound(nil, true))
	response(methodEnrol, binary.AppendUvarint(nil, 12))
	response(methodWrite, appendResult(nil, engine.Result{Done: true, Revision: 9, Txn: &store.TxnResult{Held: true, Revision: 9, Results: []store.OpResult{
		{Done: true, Revision: 9, Number: -3}, {Done: true, Revision: 4, Value: []byte{}, DeleteIn: 5}, {Done: true, Revision: 3, Expired: true}, {},
	}}}))
	page := appendPageHeader(nil, 1<<64-1)
	page = appendPageEntry(page, store.Entry{Key: "a", Value: []byte("v"), Revision: 2})
	page = appendPageEntry(page, store.Entry{Key: "b", Expired: true, Revision: 3, DeleteIn: time.Hour})
	page[pageMore] = 1
	response(methodScan, page)
	response(methodScanNext, appendPageHeader(nil, 4))
	response(methodScanStop, nil)
	response(methodPoll, appendEvents(nil, []store.Event{
		{Type: store.EventSet, Key: "k", Value: []byte("v"), Revision: 7},
		{Type: store.EventExpired, Key: "k", Revision: 8, ByDeadline: true},
		{Type: store.EventDeleted, Key: "k", Revision: 300},
	}, 301))
	response(methodAwaitLock, appendPlace(nil, store.LockPlace{Waiting: true, Number: 7, At: 300}))
	response(methodLockHolder, appendHolder(nil, store.LockHolder{Owner: owner, Token: 300}, true))
	failed := failure(7, fmt.Errorf("%w: <%s>", store.ErrBusy, key[:1]))
	failed.method = methodGet
	all = append(all, message{name: "failure", resp: failed})
	failed.result = []byte("not UTF-8: \xff")
	all = append(all, message{name: "failure not in UTF-8", resp: failed}, message{name: "the last response", resp: goodbye(41)})
	return all
}

var update = flag.Bool("update", false, "write testdata/codecs.txt anew")

// TestCodecsWriteWhatTheyAlwaysWrote compares with testdata/codecs.txt, but for what Gob
// writes, which has numbers of types that differ from program to program.
func TestCodecsWriteWhatTheyAlwaysWrote(t *testing.T) {
	const file = "testdata/codecs.txt"
	var now strings.Builder
	for _, m := range messages() {
		j, err := m.encode(JSON)
		if err != nil {
			t.Fatalf("%s: %v", m.name, err)
		}
		g, err := m.encode(Gob)
		if err != nil {
			t.Fatalf("%s: %v", m.name, err)
		}
		fmt.Fprintf(&now, "%s\n%x\n%s\n%x\n", m.name, m.binary(), j, g)
	}
	if *update {
		if err := errors.Join(os.MkdirAll("testdata", 0o755), os.WriteFile(file, []byte(now.String()), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	golden, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want, got := strings.Split(string(golden), "\n"), strings.Split(now.String(), "\n")
	if len(want) != len(got) {
		t.Fatalf("%d lines, want %d", len(got), len(want))
	}
	for i, m := range messages() {
		want, got := want[4*i:], got[4*i:]
		for j, what := range []string{"name", "binary", "JSON"} {
			if got[j] != want[j] {
				t.Errorf("%s, %s:\n%s\nwant\n%s", m.name, what, got[j], want[j])
			}
		}
		for _, g := range []string{want[3], got[3]} {
			body, _ := hex.DecodeString(g)
			if b, err := m.decode(Gob, body); err != nil || !bytes.Equal(b, m.binary()) {
				t.Errorf("%s, gob: %x, %v, want %x", m.name, b, err, m.binary())
			}
		}
		if b, err := m.decode(JSON, []byte(want[2])); err != nil || !bytes.Equal(b, m.binary()) {
			t.Errorf("%s, JSON: %x, %v, want %x", m.name, b, err, m.binary())
		}
	}
}

func TestMessagesThatAreNotOfTheMethodAreRefused(t *testing.T) {
	request, result := message{request: true}, message{resp: response{method: methodGet}}
	for _, c := range []struct {
		m    message
		body string
	}{
		{request, ``},
		{request, `null`},
		{request, `{}`},
		{request, `{"id":1}`},
		{request, `{"method":"ready"}`},
		{request, `{"id":0,"method":"ready"}`},
		{request, `{"id":-1,"method":"ready"}`},
		{request, `{"id":1.5,"method":"ready"}`},
		{request, `{"id":18446744073709551616,"method":"ready"}`},
		{request, `{"id":1,"method":""}`},
		{request, `{"id":1,"method":"none"}`},
		{request, `{"id":1,"method":"ready","timeout":-1}`},
		{request, `{"id":1,"method":"ready","more":1}`},
		{request, `{"id":1,"method":"ready","key":"aw=="}`},
		{request, `{"id":1,"method":"ready"}{"id":2,"method":"ready"}`},
		{request, `{"id":1,"method":"ready"`},
		{request, `{"id":1,"method":"get","key":"?"}`},
		{request, `{"id":1,"method":"write"}`},
		{request, `{"id":1,"method":"write","op":{}}`},
		{request, `{"id":1,"method":"write","op":{"kind":"get","key":"aw==","more":1}}`},
		{request, `{"id":1,"method":"write","op":{"kind":"delete","key":"aw==","value":"aw=="}}`},
		{request, `{"id":1,"method":"write","op":{"kind":"set","key":"aw==","at":1}}`},
		{request, `{"id":1,"method":"write","op":{"kind":"set","key":"aw==","delta":1}}`},
		{request, `{"id":1,"method":"write","op":{"kind":"set","space":"none","key":"aw=="}}`},
		{request, `{"id":1,"method":"write","op":{"kind":"set","key":"aw==","txn":{}}}`},
		{request, `{"id":1,"method":"write","op":{"kind":"transact"}}`},
		{request, `{"id":1,"method":"write","op":{"kind":"transact","key":"aw==","txn":{}}}`},
		{request, `{"id":1,"method":"write","op":{"kind":"transact","txn":{"then":[{"kind":"transact"}]}}}`},
		{request, `{"id":1,"method":"write","op":{"kind":"transact","txn":{"then":[{"kind":"get","txn":{}}]}}}`},
		{request, `{"id":1,"method":"write","op":{"kind":"transact","txn":{"then":{"kind":"get"}}}}`},
		{request, `{"id":1,"method":"write","op":{"kind":"transact","txn":{"if":[{"kind":"exists","at":1}]}}}`},
		{request, `{"id":1,"method":"write","op":{"kind":"void","txn":{}}}`},
		{request, `{"id":1,"method":"enrol"}`},
		{request, `{"id":1,"method":"enrol","identity":{"nonce":1,"seq":1}}`},
		{request, `{"id":1,"method":"scan"}`},
		{request, `{"id":1,"method":"poll"}`},
		{request, `{"id":1,"method":"poll","poll":{"space":"none"}}`},
		{request, `{"id":1,"method":"awaitLock","await":{"key":"aw==","owner":"aw=="}}`},
		{result, `{"id":1,"value":"aw=="}`},
		{result, `{"id":1,"found":true,"more":1}`},
		{result, `{"id":1,"found":true,"error":"x"}`},
		{result, `{"id":1,"found":true,"last":1}`},
		{result, `{"id":1,"code":1,"found":true}`},
		{result, `{"id":1,"code":1,"errorBytes":"aw=="}`},
		{result, `{"id":0,"code":4,"last":1,"found":true}`},
		{message{resp: response{method: methodGetEntry}}, `{"id":1,"found":true}`},
		{message{resp: response{method: methodGetEntry}}, `{"id":1,"found":true,"entry":{"expired":true,"value":"aw=="}}`},
		{message{resp: response{method: methodWrite}}, `{"id":1}`},
		{message{resp: response{method: methodWrite}}, `{"id":1,"result":{"refusal":"none"}}`},
		{message{resp: response{method: methodScan}}, `{"id":1}`},
		{message{resp: response{method: methodPoll}}, `{"id":1,"events":[{"type":"none"}]}`},
		{message{resp: response{method: methodAwaitLock}}, `{"id":1,"place":{"held":true,"at":1}}`},
	} {
		if b, err := c.m.decode(JSON, []byte(c.body)); err == nil {
			t.Errorf("%s: taken for %x", c.body, b)
		}
	}
}

func TestArgumentsThatBinaryCanSayTooAreLeftToTheServer(t *testing.T) {
	for _, body := range []string{
		`{"id":1,"method":"get"}`,
		`{"id":1,"method":"write","op":{"kind":"get","key":"aw=="}}`,
		`{"id":1,"method":"write","op":{"kind":"set"}}`,
		`{"id":1,"method":"write","op":{"kind":"delete","key":"aw==","expireIn":1}}`,
		`{"id":1,"method":"write","op":{"kind":"set","key":"aw==","expireIn":-1}}`,
		`{"id":1,"method":"write","op":{"kind":"set","key":"aw=="},"identity":{"seq":1}}`,
		`{"id":1,"method":"scan","range":{"limit":-1}}`,
		`{"id":1,"method":"poll","poll":{"wait":-1}}`,
	} {
		if _, err := (message{request: true}).decode(JSON, []byte(body)); err != nil {
			t.Errorf("%s: %v", body, err)
		}
	}
}
