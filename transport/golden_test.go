package transport

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"dkv/internal/command"
	"dkv/internal/once"
	"dkv/store"
	"dkv/store/engine"
)

// example is a message of PROTOCOL.md.
type example struct {
	bytes []byte                 // as the code writes it
	reads []func(b []byte) error // whether the code reads the message in it
}

// reads returns a check that parse reads want.
func reads[T any](parse func([]byte) (T, error), want T) func([]byte) error {
	return func(b []byte) error {
		got, err := parse(b)
		if err == nil && !reflect.DeepEqual(got, want) {
			err = fmt.Errorf("read as %+v, want %+v", got, want)
		}
		return err
	}
}

func unframe(b []byte) ([]byte, error) {
	f := frameReader{r: bytes.NewReader(b)}
	body, _, err := f.next()
	return body, err
}

// asking is the example of a request; check is of its argument.
func asking(r request, check func([]byte) error) example {
	parse := func(b []byte) (request, error) {
		body, err := unframe(b)
		if err != nil {
			return request{}, err
		}
		got, err := parseRequest(body)
		if err == nil && check != nil {
			err = check(got.arg)
		}
		return got, err
	}
	return example{appendFrame(nil, r.append(nil)), []func([]byte) error{reads(parse, r)}}
}

// keyed is that of one with a key.
func keyed(id uint64, timeout time.Duration, m method, key string) example {
	return asking(request{id: id, timeout: timeout, method: m, arg: []byte(key)}, nil)
}

// replying is the example of a response; check is of its result.
func replying(r response, check func([]byte) error) example {
	parse := func(b []byte) (response, error) {
		body, err := unframe(b)
		if err != nil {
			return response{}, err
		}
		got, err := parseResponse(body)
		if err == nil && check != nil {
			err = check(got.result)
		}
		return got, err
	}
	return example{appendFrame(nil, r.append(nil)), []func([]byte) error{reads(parse, r)}}
}

func operation(op engine.Op, id once.ID) example {
	type operation struct {
		op engine.Op
		id once.ID
	}
	parse := func(b []byte) (operation, error) {
		op, id, err := command.DecodeOp(b)
		return operation{op, id}, err
	}
	return example{command.AppendOp(nil, &op, id), []func([]byte) error{reads(parse, operation{op, id})}}
}

func outcome(res engine.Result) example {
	return example{appendResult(nil, res), []func([]byte) error{reads(parseResult, res)}}
}

type found[T any] struct {
	v  T
	ok bool
}

func parseValue(b []byte) (found[string], error) {
	value, ok, err := cutFound(b)
	return found[string]{string(value), ok}, err
}

func parseFoundEntry(b []byte) (found[store.Entry], error) {
	b, ok, err := cutFound(b)
	if err != nil {
		return found[store.Entry]{}, err
	}
	e, err := parseEntry("color", b)
	return found[store.Entry]{e, ok}, err
}

func parseFoundHolder(b []byte) (found[store.LockHolder], error) {
	h, ok, err := parseHolder(b)
	return found[store.LockHolder]{h, ok}, err
}

type pageRead struct {
	more     bool
	revision store.Revision
	entries  []store.Entry
}

func parseWholePage(b []byte) (pageRead, error) {
	p, err := parsePage(b, false)
	if err != nil {
		return pageRead{}, err
	}
	all := pageRead{p.more, p.revision, nil}
	for e, ok := p.next(); ok; e, ok = p.next() {
		all.entries = append(all.entries, e)
	}
	return all, p.err()
}

type eventsRead struct {
	events []store.Event
	next   store.Revision
}

func parseAllEvents(b []byte) (eventsRead, error) {
	events, next, err := parseEvents(b)
	return eventsRead{events, next}, err
}

func flagged(b []byte, flag int, set byte) []byte {
	b[flag] = set
	return b
}

// The messages of the page, by the names that their blocks have there.
func examples() map[string]example {
	const (
		sec = time.Second
		min = time.Minute
	)
	var (
		keys, locks = engine.Keys, engine.Locks
		owner       = []byte{1, 2, 3, 4, 5, 6, 7, 8}
		worker      = append(bytes.Clone(owner), "worker 1"...)
		blue        = []byte("blue")
		first       = once.ID{Client: 1, Nonce: 1000, Seq: 1, Low: 1}
		set         = engine.Op{Kind: engine.Set, Space: keys, Key: "color", Value: blue}
		rng         = store.Range{Prefix: "c", After: "color", Limit: 1000, KeysOnly: true}
		watched     = poll{keys, store.Watch{Prefix: "c", From: 305}, 10 * sec}
		awaited     = await{"job", owner, store.LockPlace{Waiting: true, Number: 9, At: 11}, 3 * sec}
		held        = store.LockPlace{Held: true, Token: 12}
		waiting     = store.LockPlace{Waiting: true, Number: 9, At: 13}
		holder      = nameless(store.LockHolder{Owner: worker, Token: 12})
		entry       = store.Entry{Key: "color", Value: blue, Revision: 300, ExpireIn: sec, DeleteIn: min}
		listed      = []store.Entry{
			{Key: "color", Value: blue, Revision: 300},
			{Key: "hat", Expired: true, Revision: 302, DeleteIn: min},
		}
		events = []store.Event{
			{Type: store.EventSet, Revision: 305, Key: "color", Value: []byte("red")},
			{Type: store.EventExpired, Revision: 306, Key: "color"},
			{Type: store.EventExpired, Revision: 307, Key: "coat", ByDeadline: true},
			{Type: store.EventDeleted, Revision: 308, Key: "color"},
			{Type: store.EventDeleted, Revision: 309, Key: "coat", ByDeadline: true},
		}
		txn = engine.Txn{
			If: []engine.Cond{
				{Kind: engine.RevisionIs, Key: "color", At: 300},
				{Kind: engine.Exists, Key: "hits"},
				{Kind: engine.ValueIs, Key: "hits", Value: []byte("5")},
				{Kind: engine.TokenIs, Space: locks, Key: "job", At: 9},
			},
			Then: []engine.Op{
				{Kind: engine.Set, Key: "color", Value: []byte("red")},
				{Kind: engine.Add, Key: "hits", Delta: 1},
			},
			Else: []engine.Op{{Kind: engine.Get, Key: "color"}},
		}
		hello = clientHello{shard: 3, codec: Binary, token: "open sesame"}
		info  = store.Info{
			Mode: "replicated", Revision: 42, Keys: 3, Locks: 1, Bytes: 64, Size: 512, Watches: 2,
			Node: "a", Leader: "b", Members: []string{"a", "b", "c"}, Applied: 57,
			Progress: map[string]uint64{"a": 57, "b": 57, "c": 55},
		}
		page = appendPageHeader(nil, 305)
	)
	for _, e := range listed {
		page = appendPageEntry(page, e)
	}
	page = flagged(page, pageMore, 1)
	lock := func(k engine.Kind, value []byte, at uint64, delta int64, ttl time.Duration) example {
		return operation(engine.Op{Kind: k, Space: locks, Key: "job", Value: value, At: at, Delta: delta, DeleteIn: ttl}, once.ID{})
	}
	key := func(op engine.Op) example {
		op.Key = "color"
		return operation(op, once.ID{})
	}
	unauthenticated := fmt.Errorf("%w: the server does not know the token", store.ErrUnauthenticated)
	jsonInfo, _ := appendInfo(nil, info)

	return map[string]example{
		"hello client": {hello.append(nil), []func([]byte) error{reads(func(b []byte) (clientHello, error) {
			return readClientHello(bytes.NewReader(b))
		}, hello)}},
		"hello server": {appendServerHello(nil, 0x0102030405060708, nil), []func([]byte) error{reads(func(b []byte) (uint64, error) {
			return readServerHello(bytes.NewReader(b))
		}, 0x0102030405060708)}},
		"hello server refused": {appendServerHello(nil, 0, unauthenticated), []func([]byte) error{func(b []byte) error {
			if _, err := readServerHello(bytes.NewReader(b)); !errors.Is(err, store.ErrUnauthenticated) {
				return fmt.Errorf("read as the error %v", err)
			}
			return nil
		}}},
		"hello server version": {preamble, []func([]byte) error{func(b []byte) error {
			b[len(b)-1]++ // to a client of this version, that is another
			if _, err := readServerHello(bytes.NewReader(b)); !errors.As(err, new(*versionError)) {
				return fmt.Errorf("read as the error %v", err)
			}
			return nil
		}}},

		"request ready":     asking(request{id: 1, timeout: 5 * sec, method: methodReady, arg: []byte{}}, nil),
		"request info":      asking(request{id: 2, method: methodInfo, arg: []byte{}}, nil),
		"request get":       keyed(3, 5*sec, methodGet, "color"),
		"request get entry": keyed(4, 0, methodGetEntry, "color"),
		"request has":       keyed(5, 0, methodHas, "color"),
		"request enrol": asking(request{
			id: 6, timeout: 5 * sec, method: methodEnrol, arg: command.AppendOp(nil, &engine.Op{}, once.ID{Nonce: 1000}),
		}, operation(engine.Op{}, once.ID{Nonce: 1000}).reads[0]),
		"request write": asking(request{
			id: 7, timeout: 5 * sec, method: methodWrite, arg: command.AppendOp(nil, &set, first),
		}, operation(set, first).reads[0]),
		"request scan":        asking(request{id: 8, timeout: 5 * sec, method: methodScan, arg: appendRange(nil, rng)}, reads(parseRange, rng)),
		"request scan next":   asking(request{id: 9, timeout: 5 * sec, method: methodScanNext, arg: appendScan(nil, 8)}, reads(parseScan, 8)),
		"request scan stop":   asking(request{id: 10, method: methodScanStop, arg: appendScan(nil, 8)}, reads(parseScan, 8)),
		"request get stale":   keyed(11, 0, methodGetStale, "color"),
		"request poll":        asking(request{id: 12, timeout: 15 * sec, method: methodPoll, arg: watched.append(nil)}, reads(parsePoll, watched)),
		"request await lock":  asking(request{id: 13, timeout: 8 * sec, method: methodAwaitLock, arg: awaited.append(nil)}, reads(parseAwait, awaited)),
		"request lock holder": keyed(14, 5*sec, methodLockHolder, "job"),
		"request cancel":      asking(request{id: 15, method: methodCancel, arg: []byte{12}}, nil),

		"response empty":     replying(response{id: 1, result: []byte{}}, nil),
		"response value":     replying(response{id: 3, result: append(appendFound(nil, true), blue...)}, reads(parseValue, found[string]{"blue", true})),
		"response not found": replying(response{id: 3, result: appendFound(nil, false)}, reads(parseValue, found[string]{})),
		"response entry":     replying(response{id: 4, result: appendEntry(appendFound(nil, true), entry)}, reads(parseFoundEntry, found[store.Entry]{entry, true})),
		"response has":       replying(response{id: 5, result: appendFound(nil, true)}, reads(parseValue, found[string]{"", true})),
		"response enrolled":  replying(response{id: 6, result: []byte{1}}, reads(parseEnrolled, 1)),
		"response written": replying(response{id: 7, result: appendResult(nil, engine.Result{Done: true, Revision: 1})},
			reads(parseResult, engine.Result{Done: true, Revision: 1})),
		"response page":          replying(response{id: 8, result: page}, reads(parseWholePage, pageRead{true, 305, listed})),
		"response events":        replying(response{id: 12, result: appendEvents(nil, events, 310)}, reads(parseAllEvents, eventsRead{events, 310})),
		"response place held":    replying(response{id: 13, result: appendPlace(nil, held)}, reads(parsePlace, held)),
		"response place waiting": replying(response{id: 13, result: appendPlace(nil, waiting)}, reads(parsePlace, waiting)),
		"response place none":    replying(response{id: 13, result: appendPlace(nil, store.LockPlace{})}, reads(parsePlace, store.LockPlace{})),
		"response holder":        replying(response{id: 14, result: appendHolder(nil, holder, true)}, reads(parseFoundHolder, found[store.LockHolder]{holder, true})),
		"response no holder":     replying(response{id: 14, result: appendHolder(nil, holder, false)}, reads(parseFoundHolder, found[store.LockHolder]{})),
		"response error":         replying(failure(7, store.ErrEmptyKey), nil),
		"response goodbye":       replying(goodbye(15), reads(parseScan, 15)),
		"text info":              {jsonInfo, []func([]byte) error{reads(parseInfo, info)}},

		"op enrol": operation(engine.Op{}, once.ID{Nonce: 1000}),
		"op set":   operation(set, once.ID{}),
		"op set with deadlines and identity": operation(
			engine.Op{Kind: engine.Set, Key: "color", Value: blue, ExpireIn: sec, DeleteIn: min},
			once.ID{Client: 1, Nonce: 1000, Seq: 5, Low: 3}),
		"op set if unset":       key(engine.Op{Kind: engine.SetIfUnset, Value: []byte{}, DeleteIn: min}),
		"op expire":             key(engine.Op{Kind: engine.Expire}),
		"op delete":             key(engine.Op{Kind: engine.Delete}),
		"op delete if value":    key(engine.Op{Kind: engine.DeleteIfValue, Value: blue}),
		"op set if revision":    key(engine.Op{Kind: engine.SetIfRevision, Value: []byte("red"), At: 300}),
		"op delete if revision": key(engine.Op{Kind: engine.DeleteIfRevision, At: 300}),
		"op renew if value":     key(engine.Op{Kind: engine.RenewIfValue, Value: blue, DeleteIn: min}),
		"op add":                operation(engine.Op{Kind: engine.Add, Key: "hits", Delta: -3}, once.ID{}),
		"op transact":           operation(engine.Op{Kind: engine.Transact, Txn: &txn}, once.ID{}),
		"op join":               lock(engine.Join, worker, 0, 0, 10*sec),
		"op try join":           lock(engine.TryJoin, owner, 0, 5, 10*sec),
		"op renew":              lock(engine.Renew, owner, 9, 0, 10*sec),
		"op leave":              lock(engine.Leave, owner, 9, 0, 0),
		"op void":               operation(engine.Op{Kind: engine.Void}, once.ID{Client: 1, Nonce: 1000, Seq: 6, Low: 3}),

		"result done":                           outcome(engine.Result{Done: true, Revision: 300}),
		"result not done":                       outcome(engine.Result{}),
		"result not done because of a revision": outcome(engine.Result{Revision: 301}),
		"result added":                          outcome(engine.Result{Done: true, Revision: 302, Number: -3}),
		"result held":                           outcome(engine.Result{Done: true, Revision: 8, Number: 8}),
		"result waiting":                        outcome(engine.Result{Revision: 9, Number: 9}),
		"result forgotten":                      outcome(engine.Result{Refusal: engine.Forgotten}),
		"result unkept":                         outcome(engine.Result{Refusal: engine.Unkept}),
		"result transacted": outcome(engine.Result{Done: true, Revision: 304, Txn: &store.TxnResult{
			Held: true, Revision: 304, Results: []store.OpResult{
				{Done: true, Revision: 303},
				{Done: true, Revision: 304, Number: 6},
				{Done: true, Revision: 300, Value: blue, ExpireIn: sec, DeleteIn: min},
			}}}),
		"result transacted otherwise": outcome(engine.Result{Done: true, Revision: 304, Txn: &store.TxnResult{
			Revision: 304, Results: []store.OpResult{{}, {Done: true, Revision: 300, Expired: true, DeleteIn: min}},
		}}),

		"text http request":  {upgradeRequest(), nil},
		"text http response": {upgradeResponse(), nil},
	}
}

// upgradeRequest is what a client says to a server of HTTP.
func upgradeRequest() []byte {
	ours, theirs := net.Pipe()
	go func() {
		askForUpgrade(ours, "127.0.0.1:7000")
		ours.Close()
	}()
	defer theirs.Close()
	return readHead(theirs)
}

// upgradeResponse is what a server answers.
func upgradeResponse() []byte {
	s := NewServer(ServerOptions{})
	defer s.Close()
	l, err := Listen("http://127.0.0.1:0", ListenOptions{})
	if err != nil {
		return nil
	}
	s.StartHTTP(l, nil)
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return nil
	}
	defer conn.Close()
	conn.Write(upgradeRequest())
	return readHead(conn)
}

// readHead reads up to an empty line.
func readHead(r io.Reader) (head []byte) {
	for b := make([]byte, 1); !bytes.HasSuffix(head, []byte("\r\n\r\n")); {
		if _, err := io.ReadFull(r, b); err != nil {
			return head
		}
		head = append(head, b...)
	}
	return head
}

// block is a fenced block of the page.
type block struct {
	kind, name string // the words of its header: the first, and the others
	line       int
	bytes      []byte
}

// protocolPage returns the page and those of its blocks that are bytes.
func protocolPage(t *testing.T) (text string, blocks []block) {
	t.Helper()
	b, err := os.ReadFile("PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	var in *block
	var content []string
	for i, line := range strings.Split(string(b), "\n") {
		header, fence := strings.CutPrefix(line, "```")
		switch {
		case !fence:
			content = append(content, line)
		case in != nil:
			if in.bytes, err = in.parse(content); err != nil {
				t.Fatalf("PROTOCOL.md:%d: %v", in.line, err)
			}
			blocks, in = append(blocks, *in), nil
		default:
			kind, name, _ := strings.Cut(header, " ")
			if kind != "golden" && kind != "conversation" {
				t.Fatalf("PROTOCOL.md:%d: a block of no known kind: %q", i+1, header)
			}
			in, content = &block{kind: kind, name: name, line: i + 1}, nil
		}
	}
	if in != nil {
		t.Fatalf("PROTOCOL.md:%d: a block without an end", in.line)
	}
	return string(b), blocks
}

func (b *block) parse(lines []string) ([]byte, error) {
	switch name, isText := strings.CutPrefix(b.name, "text "); {
	case isText && strings.HasPrefix(name, "http"):
		return []byte(strings.Join(lines, "\r\n") + "\r\n"), nil
	case isText:
		return []byte(strings.Join(lines, "\n")), nil
	}
	var all []byte
	for _, line := range lines {
		code, _, _ := strings.Cut(line, "#")
		bytes, err := hex.DecodeString(strings.ReplaceAll(code, " ", ""))
		if err != nil {
			return nil, fmt.Errorf("%q: %w", line, err)
		}
		all = append(all, bytes...)
	}
	return all, nil
}

func TestGoldenMessagesAreThoseOfThePage(t *testing.T) {
	want := examples()
	seen := make(map[string]bool)
	_, blocks := protocolPage(t)
	for _, b := range blocks {
		if b.kind != "golden" {
			continue
		}
		at := fmt.Sprintf("PROTOCOL.md:%d: %s", b.line, b.name)
		e, ok := want[b.name]
		if !ok || seen[b.name] {
			t.Errorf("%s: not known here, or there twice; the page has\n%s", at, hex.Dump(b.bytes))
			continue
		}
		seen[b.name] = true
		if !bytes.Equal(b.bytes, e.bytes) {
			t.Errorf("%s: the page has\n%sthe code writes\n%s", at, hex.Dump(b.bytes), hex.Dump(e.bytes))
		}
		for _, read := range e.reads {
			if err := read(bytes.Clone(b.bytes)); err != nil {
				t.Errorf("%s: %v; the page has\n%s", at, err, hex.Dump(b.bytes))
			}
		}
	}
	for name, e := range want {
		if !seen[name] {
			t.Errorf("%s: missing on the page; the code writes\n%s", name, hex.Dump(e.bytes))
		}
	}
}

// rows are the rows of tables that begin with a number, each its cells.
func rows(text string) (all [][]string) {
	for _, line := range strings.Split(text, "\n") {
		if regexp.MustCompile(`^\| \d+ \|`).MatchString(line) {
			cells := strings.Split(strings.Trim(line, "|"), "|")
			for i := range cells {
				cells[i] = strings.TrimSpace(cells[i])
			}
			all = append(all, cells)
		}
	}
	return all
}

// section is the part of the page under a heading.
func section(t *testing.T, text, heading string) string {
	t.Helper()
	_, rest, ok := strings.Cut(text, "\n"+heading+"\n")
	if !ok {
		t.Fatalf("there is no %q", heading)
	}
	level, _, _ := strings.Cut(heading, " ")
	part, _, _ := strings.Cut(rest, "\n"+level+" ")
	return part
}

func TestGoldenTablesAreThoseOfTheCode(t *testing.T) {
	text, _ := protocolPage(t)
	want := examples()

	n := 0
	for _, row := range rows(section(t, text, "## Methods")) {
		if len(row) != 4 {
			continue
		}
		n++
		body, err := unframe(want["request "+row[1]].bytes)
		if err != nil {
			t.Errorf("method %s: %v", row[1], err)
			continue
		}
		if r, err := parseRequest(body); err != nil || strconv.Itoa(int(r.method)) != row[0] {
			t.Errorf("method %s is %s on the page, %d in the code (%v)", row[1], row[0], r.method, err)
		}
	}
	if n != int(methods)-1 {
		t.Errorf("%d methods on the page, %d in the code", n, methods-1)
	}

	n = 0
	for _, row := range rows(section(t, text, "## Operations")) {
		if len(row) != 8 {
			continue
		}
		n++
		number, _ := strconv.Atoi(row[0])
		kind := engine.Kind(number)
		if b := want["op "+row[1]].bytes; kind != engine.Get && (len(b) == 0 || engine.Kind(b[0]&0x3f) != kind) {
			t.Errorf("kind %s is %s on the page, the code writes % x", row[1], row[0], b)
		}
		for i, has := range []bool{kind.HasValue(), kind.HasRevision(), kind.HasDelta(), kind.HasDeadlines()} {
			if has != (row[3+i] != "") {
				t.Errorf("kind %s: the page has %q, in the code it is %t", row[1], row[3+i], has)
			}
		}
		if kind.OnLock() != (row[2] == "1") {
			t.Errorf("kind %s is of space %q on the page", row[1], row[2])
		}
	}
	if n != int(engine.Kinds)-1 {
		t.Errorf("%d kinds on the page, %d in the code", n, engine.Kinds-1)
	}

	errs := make(map[int][]string)
	for _, row := range rows(section(t, text, "## Errors")) {
		code, _ := strconv.Atoi(row[0])
		errs[code] = row
	}
	if _, ok := errs[codeForeign]; !ok {
		t.Errorf("code %d is not on the page", codeForeign)
	}
	for code := range codeForeign {
		e, row := store.ErrorOf(uint16(code)), errs[code]
		switch {
		case e == nil && row == nil:
		case e == nil || row == nil:
			t.Errorf("code %d: the page has %q, the code %v", code, row, e)
		case row[2] != e.Kind().String() || !strings.Contains(e.Error(), strings.TrimPrefix(row[1], "bad ")):
			t.Errorf("code %d: the page has %q, the code %q, %v", code, row, e, e.Kind())
		}
	}

	limits := section(t, text, "## Limits")
	for row, limit := range map[string]int64{
		"key, name of a lock, prefix, bound of a range": store.MaxKeySize,
		"value":           store.MaxValueSize,
		"owner of a lock": store.MaxHolderValue,
		"conditions and operations of a transaction":          store.MaxTxnOps,
		"keys and values of a transaction":                    store.MaxTxnSize,
		"values that a transaction reads":                     store.MaxTxnRead,
		"body of a frame":                                     maxFrame,
		"frame of a hello":                                    maxHello,
		"requests under way on a connection":                  maxInFlight,
		"large arguments under way on a connection":           maxArguments,
		"polls and waits for locks under way on a connection": maxPolls,
		"scans of a connection with a cursor":                 maxCursors,
		"a cursor that is not used":                           int64(idleTimeout / time.Second),
		"wait of a poll, or for a lock":                       int64(maxPollWait / time.Second),
		"hello":                                               int64(helloTimeout / time.Second),
		"writes of one client above low":                      once.MaxPending,
		"a client that does not write is remembered for":      int64(once.Window / time.Second),
	} {
		line := regexp.MustCompile(`(?m)^\| ` + row + ` \| .*$`).FindString(limits)
		if !regexp.MustCompile(fmt.Sprintf(`\b%d\b`, limit)).MatchString(line) {
			t.Errorf("limit of %s: the page has %q, the code %d", row, line, limit)
		}
	}
	if want := fmt.Sprintf("# dkv's network protocol, version %d\n", version); !strings.HasPrefix(text, want) {
		t.Errorf("the page does not begin with %q", want)
	}
}
