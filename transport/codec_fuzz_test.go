package transport

import (
	"bytes"
	"encoding/binary"
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"dkv/internal/command"
	"dkv/internal/once"
	"dkv/store"
	"dkv/store/engine"

	"pgregory.net/rapid"
)

func genBytes(t *rapid.T, least, most int) []byte {
	return rapid.SliceOfN(rapid.Byte(), least, most).Draw(t, "bytes")
}

func genKey(t *rapid.T) string { return string(genBytes(t, 1, 20)) }

func genTime(t *rapid.T) time.Duration {
	return time.Duration(rapid.OneOf(rapid.Just(int64(0)), rapid.Int64Min(0)).Draw(t, "time"))
}

func genRevision(t *rapid.T) uint64 {
	return rapid.OneOf(rapid.Just(uint64(0)), rapid.Uint64()).Draw(t, "revision")
}

// genOp draws an operation of one of the kinds.
func genOp(t *rapid.T, kinds []engine.Kind) engine.Op {
	op := engine.Op{Kind: rapid.SampledFrom(kinds).Draw(t, "kind")}
	switch op.Kind {
	case engine.Void:
		return op
	case engine.Transact:
		op.Txn = genTxn(t)
		return op
	}
	op.Space, op.Key = engine.Space(rapid.IntRange(0, int(engine.Locks)).Draw(t, "space")), genKey(t)
	if op.Kind.HasValue() {
		least := 0
		if op.Kind.OnLock() {
			least = store.OwnerSize
		}
		op.Value = genBytes(t, least, 20)
	}
	if op.Kind.HasRevision() {
		op.At = genRevision(t)
	}
	if op.Kind.HasDelta() {
		if op.Delta = rapid.Int64().Draw(t, "delta"); op.Kind.OnLock() {
			op.Delta &= math.MaxInt64
		}
	}
	if op.Kind.HasDeadlines() {
		op.ExpireIn, op.DeleteIn = genTime(t), genTime(t)
	}
	return op
}

func genTxn(t *rapid.T) *engine.Txn {
	x := new(engine.Txn)
	for range rapid.IntRange(0, 3).Draw(t, "conditions") {
		c := engine.Cond{Kind: engine.CondKind(rapid.IntRange(1, int(engine.CondKinds)-1).Draw(t, "condition")), Key: genKey(t)}
		switch c.Kind {
		case engine.RevisionIs, engine.TokenIs:
			c.At = genRevision(t)
		case engine.ValueIs:
			c.Value = genBytes(t, 0, 20)
		}
		x.If = append(x.If, c)
	}
	for _, branch := range []*[]engine.Op{&x.Then, &x.Else} {
		for range rapid.IntRange(0, 3).Draw(t, "operations") {
			longer := append(*branch, genOp(t, []engine.Kind{engine.Set, engine.Get, engine.Add, engine.DeleteIfRevision}))
			if !engine.WritesTwice(longer) {
				*branch = longer
			}
		}
	}
	return x
}

func genRequest(t *rapid.T) request {
	r := request{id: rapid.Uint64Min(1).Draw(t, "id"), timeout: genTime(t)}
	r.method = method(rapid.IntRange(1, int(methods)-1).Draw(t, "method"))
	id := once.ID{Client: 1 + genRevision(t)/2, Nonce: 1 + genRevision(t)/2, Low: 1 + genRevision(t)/4}
	id.Seq = id.Low + genRevision(t)/4
	switch r.method {
	case methodGet, methodGetStale, methodGetEntry, methodHas, methodLockHolder:
		r.key = string(genBytes(t, 0, 20))
	case methodEnrol:
		r.arg = command.AppendOp(nil, new(engine.Op), once.ID{Nonce: id.Nonce})
	case methodWrite:
		var kinds []engine.Kind
		for k := engine.Set; k < engine.Kinds; k++ {
			if k != engine.Get {
				kinds = append(kinds, k)
			}
		}
		op := genOp(t, kinds)
		if op.Kind != engine.Void && rapid.Bool().Draw(t, "without an identity") {
			id = once.ID{}
		}
		r.arg = command.AppendOp(nil, &op, id)
	case methodScan:
		r.arg = appendRange(nil, store.Range{
			Prefix: genKey(t), From: genKey(t), To: genKey(t), After: genKey(t),
			Reverse: rapid.Bool().Draw(t, "reverse"), KeysOnly: rapid.Bool().Draw(t, "keys only"), Limit: int(genTime(t)),
		})
	case methodScanNext, methodScanStop, methodCancel:
		r.arg = appendScan(nil, genRevision(t))
	case methodPoll:
		space := engine.Space(rapid.IntRange(0, int(engine.Locks)).Draw(t, "space"))
		r.arg = poll{space, store.Watch{Key: genKey(t), Prefix: genKey(t), From: store.Revision(genRevision(t))}, genTime(t)}.append(nil)
	case methodAwaitLock:
		at := store.LockPlace{Number: genRevision(t), At: store.Revision(genRevision(t))}
		r.arg = await{genKey(t), genBytes(t, store.OwnerSize, store.OwnerSize), at, genTime(t)}.append(nil)
	}
	return r
}

func genEntry(t *rapid.T, key string) store.Entry {
	e := store.Entry{
		Key: key, Expired: rapid.Bool().Draw(t, "expired"), Revision: store.Revision(genRevision(t)),
		ExpireIn: genTime(t), DeleteIn: genTime(t),
	}
	if !e.Expired {
		e.Value = genBytes(t, 0, 20)
	}
	return e
}

func genResult(t *rapid.T) engine.Result {
	yes := func(what string) bool { return rapid.Bool().Draw(t, what) }
	r := engine.Result{
		Done: yes("done"), Revision: genRevision(t), Number: int64(genRevision(t)),
		Refusal: engine.Refusal(rapid.IntRange(0, int(engine.Refusals)-1).Draw(t, "refusal")),
	}
	if yes("transaction") {
		r.Txn = &store.TxnResult{Held: yes("held"), Revision: store.Revision(genRevision(t))}
		for range rapid.IntRange(0, 3).Draw(t, "results") {
			op := store.OpResult{Done: yes("done"), Revision: store.Revision(genRevision(t)), Number: int64(genRevision(t))}
			if yes("read") {
				e := genEntry(t, "")
				op.Value, op.Expired, op.ExpireIn, op.DeleteIn = e.Value, e.Expired, e.ExpireIn, e.DeleteIn
			}
			r.Txn.Results = append(r.Txn.Results, op)
		}
	}
	return r
}

func genResponse(t *rapid.T) response {
	r := response{id: rapid.Uint64Min(1).Draw(t, "id")}
	r.method = method(rapid.IntRange(1, int(methodCancel)-1).Draw(t, "method"))
	switch rapid.IntRange(0, 9).Draw(t, "outcome") {
	case 0:
		r.code, r.result = rapid.Uint64Min(1).Draw(t, "code"), genBytes(t, 0, 20)
		return r
	case 1:
		return goodbye(genRevision(t))
	}
	found := rapid.Bool().Draw(t, "found")
	switch r.method {
	case methodInfo:
		info := store.Info{Mode: rapid.String().Draw(t, "mode"), Applied: genRevision(t), Size: int64(genTime(t))}
		info.Members = rapid.SliceOf(rapid.String()).Draw(t, "members")
		info.Progress = rapid.MapOf(rapid.String(), rapid.Uint64()).Draw(t, "progress")
		r.result, _ = appendInfo(nil, info)
	case methodGet, methodGetStale:
		if r.result = appendFound(nil, found); found {
			r.result = append(r.result, genBytes(t, 0, 20)...)
		}
	case methodGetEntry:
		if r.result = appendFound(nil, found); found {
			r.result = appendEntry(r.result, genEntry(t, ""))
		}
	case methodHas:
		r.result = appendFound(nil, found)
	case methodLockHolder:
		r.result = appendHolder(nil, store.LockHolder{Owner: genBytes(t, 0, 20), Token: store.Revision(genRevision(t))}, found)
	case methodEnrol:
		r.result = binary.AppendUvarint(nil, 1+genRevision(t)/2)
	case methodWrite:
		r.result = appendResult(nil, genResult(t))
	case methodScan, methodScanNext:
		r.result = appendPageHeader(nil, store.Revision(genRevision(t)))
		for range rapid.IntRange(0, 3).Draw(t, "entries") {
			r.result = appendPageEntry(r.result, genEntry(t, genKey(t)))
		}
		if found {
			r.result[pageMore] = 1
		}
	case methodPoll:
		var events []store.Event
		next := store.Revision(0)
		for range rapid.IntRange(0, 3).Draw(t, "events") {
			next += 1 + store.Revision(genRevision(t)/8)
			e := store.Event{
				Type: store.EventType(rapid.IntRange(1, int(store.EventDeleted)).Draw(t, "type")),
				Key:  genKey(t), Revision: next, ByDeadline: rapid.Bool().Draw(t, "by deadline"),
			}
			if e.Type == store.EventSet {
				e.Value = genBytes(t, 0, 20)
			}
			events = append(events, e)
		}
		r.result = appendEvents(nil, events, next+1)
	case methodAwaitLock:
		p := store.LockPlace{Number: genRevision(t)}
		if found {
			p.Held, p.Token = true, store.Revision(genRevision(t))
		} else {
			p.Waiting, p.At = true, store.Revision(genRevision(t))
		}
		r.result = appendPlace(nil, rapid.SampledFrom([]store.LockPlace{{}, p}).Draw(t, "place"))
	}
	return r
}

func TestMessagesSurviveTheOtherCodecs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		for _, m := range []message{{request: true, req: genRequest(t)}, {resp: genResponse(t)}} {
			for _, c := range []Codec{JSON, Gob} {
				body, err := m.encode(c)
				if err != nil {
					t.Fatalf("%v of %x: %v", c, m.binary(), err)
				}
				if b, err := m.decode(c, body); err != nil || !bytes.Equal(b, m.binary()) {
					t.Fatalf("%v: %q became %x, %v, want %x", c, body, b, err, m.binary())
				}
			}
		}
	})
}

func TestLargestMessagesHaveRoomInAllCodecs(t *testing.T) {
	key := func(i int) string { return string(binary.BigEndian.AppendUint64(nil, uint64(i))) }
	txn := new(engine.Txn)
	value := make([]byte, store.MaxTxnSize/store.MaxTxnOps-8)
	for i := range store.MaxTxnOps {
		txn.Then = append(txn.Then, engine.Op{
			Kind: engine.SetIfRevision, Space: engine.Locks, Key: key(i), Value: value, At: math.MaxUint64,
			ExpireIn: math.MaxInt64, DeleteIn: math.MaxInt64,
		})
	}
	results := engine.Result{Txn: new(store.TxnResult)}
	page, events := appendPageHeader(nil, math.MaxUint64), []store.Event(nil)
	for i := range store.MaxTxnOps {
		results.Txn.Results = append(results.Txn.Results, store.OpResult{
			Done: true, Revision: math.MaxUint64, Number: math.MinInt64, Value: value[:store.MaxTxnRead/store.MaxTxnOps],
			ExpireIn: math.MaxInt64, DeleteIn: math.MaxInt64,
		})
		page = appendPageEntry(page, store.Entry{Key: key(i), Revision: math.MaxUint64, ExpireIn: math.MaxInt64, DeleteIn: math.MaxInt64})
		events = append(events, store.Event{Type: store.EventExpired, Key: key(i), Revision: 1<<63 + store.Revision(i), ByDeadline: true})
	}
	largest := store.Entry{
		Key: string(make([]byte, store.MaxKeySize)), Value: make([]byte, store.MaxValueSize),
		Revision: math.MaxUint64, ExpireIn: math.MaxInt64, DeleteIn: math.MaxInt64,
	}
	set := engine.Op{Kind: engine.SetIfRevision, Key: largest.Key, Value: largest.Value, At: math.MaxUint64, ExpireIn: 1 << 62, DeleteIn: 1 << 62}
	id := once.ID{Client: math.MaxUint64, Nonce: math.MaxUint64, Seq: math.MaxUint64, Low: math.MaxUint64}
	ask := func(op engine.Op) message {
		return message{request: true, req: request{id: math.MaxUint64, timeout: math.MaxInt64, method: methodWrite, arg: command.AppendOp(nil, &op, id)}}
	}
	answer := func(m method, result []byte) message {
		return message{resp: response{id: math.MaxUint64, method: m, result: result}}
	}
	for _, m := range []message{
		ask(set), ask(engine.Op{Kind: engine.Transact, Txn: txn}),
		answer(methodWrite, appendResult(nil, results)),
		answer(methodScan, page), answer(methodPoll, appendEvents(nil, events, math.MaxUint64)),
		answer(methodScanNext, appendPageEntry(appendPageHeader(nil, 1), largest)),
	} {
		for _, c := range []Codec{JSON, Gob} {
			body, err := m.encode(c)
			if err != nil {
				t.Fatalf("%v: %v", c, err)
			}
			if b, err := m.decode(c, body); err != nil || !bytes.Equal(b, m.binary()) {
				t.Fatalf("%v: %d bytes became %d, %v, want %d", c, len(body), len(b), err, len(m.binary()))
			}
		}
	}
}

// FuzzCodecs has what decodes be the same message when it is encoded and decoded again,
// unless its argument is one that Binary has decoders refuse later.
func FuzzCodecs(f *testing.F) {
	for _, m := range messages() {
		for _, c := range []Codec{JSON, Gob} {
			body, err := m.encode(c)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(body, byte(m.resp.method))
		}
	}
	f.Add([]byte(`{"id":1,"method":"write","op":{"kind":"transact","txn":{"then":[{},{}],"then":null}}}`), byte(0))
	f.Add([]byte(`{"id":1,"page":{"entries":[{},{},{"key":[1,2]}]}}`), byte(methodScan))
	f.Fuzz(func(t *testing.T, body []byte, of byte) {
		m := message{resp: response{method: method(of)}}
		for _, c := range []Codec{JSON, Gob} {
			if r, err := c.transcoder().parseRequest(body); err == nil {
				again(t, c, message{request: true, req: r})
			}
			waits := func(uint64) method { return m.resp.method }
			if r, err := c.transcoder().parseResponse(body, waits); err == nil && r.method == m.resp.method {
				again(t, c, message{resp: r})
			}
		}
	})
}

// again encodes and decodes what was decoded.
func again(t *testing.T, c Codec, m message) {
	if _, err := parseRequest(m.binary()); m.request && err != nil {
		t.Fatalf("%v: %x is no request: %v", c, m.binary(), err)
	}
	body, err := m.encode(c)
	if err != nil {
		if !slices.Contains([]error{command.ErrMalformed, errProtocol}, err) {
			t.Fatalf("%v: %x: %v", c, m.binary(), err)
		}
		return
	}
	if b, err := m.decode(c, body); err != nil || !bytes.Equal(b, m.binary()) {
		t.Fatalf("%v: %q became %x, %v, want %x", c, body, b, err, m.binary())
	}
}

func TestListsTakeNoMoreMemoryThanTheirBodies(t *testing.T) {
	then := make(list[partMessage], maxItems+1)
	for i := range then {
		then[i].Kind = "get"
	}
	gobbed, err := marshalGob(&requestMessage{ID: 1, Method: "write", Op: &opMessage{Kind: "transact", Txn: &txnMessage{Then: then}}})
	if err != nil {
		t.Fatal(err)
	}
	long := `{"id":1,"method":"write","op":{"kind":"transact","txn":{"then":[` + strings.Repeat("{},", maxJSON/3-100) + `{}]}}}`
	for c, body := range map[Codec][]byte{JSON: []byte(long), Gob: gobbed} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := c.transcoder().parseRequest(body)
		runtime.ReadMemStats(&after)
		if took := after.TotalAlloc - before.TotalAlloc; err == nil || took > uint64(8*len(body)+16<<20) {
			t.Errorf("%v: %d bytes took %d, %v", c, len(body), took, err)
		}
	}
}
