package transport

import (
	"encoding/json"
	"fmt"
	"unicode/utf8"

	"dkv/store"
	"dkv/store/engine"
)

// responseMessage is a response as JSON and Gob have it. Behind the code it has either
// the text of the error or, if the code is 0, what the method of its request returns.
type responseMessage struct {
	ID         uint64 `json:"id"`                   // of the request
	Code       uint64 `json:"code,omitempty"`       // of one of store's errors, 65535 of another
	Error      string `json:"error,omitempty"`      // the text
	ErrorBytes []byte `json:"errorBytes,omitempty"` // the text if it is not UTF-8

	Found  bool               `json:"found,omitempty"`  // get, getStale, getEntry, has, lockHolder
	Value  []byte             `json:"value,omitempty"`  // get, getStale
	Entry  *entryMessage      `json:"entry,omitempty"`  // getEntry
	Result *resultMessage     `json:"result,omitempty"` // write
	Page   *pageMessage       `json:"page,omitempty"`   // scan, scanNext
	Events list[eventMessage] `json:"events,omitempty"` // poll
	Next   uint64             `json:"next,omitempty"`   // poll: the revision to go on from
	Place  *placeMessage      `json:"place,omitempty"`  // awaitLock; left out if there is none
	Holder *holderMessage     `json:"holder,omitempty"` // lockHolder
	Info   json.RawMessage    `json:"info,omitempty"`   // info: store.Info, as JSON in Gob too
	Client uint64             `json:"client,omitempty"` // enrol
	Last   uint64             `json:"last,omitempty"`   // of the last response, which has the id 0
}

type entryMessage struct {
	Key      []byte `json:"key,omitempty"` // of a page's
	Value    []byte `json:"value,omitempty"`
	Expired  bool   `json:"expired,omitempty"`
	Revision uint64 `json:"revision"`
	ExpireIn int64  `json:"expireIn,omitempty"` // nanoseconds
	DeleteIn int64  `json:"deleteIn,omitempty"`
}

// resultMessage is an engine.Result.
type resultMessage struct {
	Done     bool              `json:"done,omitempty"`
	Revision uint64            `json:"revision,omitempty"`
	Number   int64             `json:"number,omitempty"`
	Refusal  string            `json:"refusal,omitempty"` // of refusalNames
	Txn      *txnResultMessage `json:"txn,omitempty"`
}

type txnResultMessage struct {
	Held     bool                  `json:"held,omitempty"`
	Revision uint64                `json:"revision,omitempty"`
	Results  list[opResultMessage] `json:"results,omitempty"`
}

type opResultMessage struct {
	Done     bool             `json:"done,omitempty"`
	Revision uint64           `json:"revision,omitempty"`
	Number   int64            `json:"number,omitempty"`
	Read     *opResultReading `json:"read,omitempty"` // of a get that has found the key
}

type opResultReading struct {
	Value    []byte `json:"value,omitempty"`
	Expired  bool   `json:"expired,omitempty"`
	ExpireIn int64  `json:"expireIn,omitempty"`
	DeleteIn int64  `json:"deleteIn,omitempty"`
}

type pageMessage struct {
	More     bool               `json:"more,omitempty"`
	Revision uint64             `json:"revision,omitempty"`
	Entries  list[entryMessage] `json:"entries,omitempty"`
}

type eventMessage struct {
	Type       string `json:"type"` // of eventNames
	Revision   uint64 `json:"revision"`
	ByDeadline bool   `json:"byDeadline,omitempty"`
	Key        []byte `json:"key"`
	Value      []byte `json:"value,omitempty"` // of set
}

type placeMessage struct {
	Held   bool   `json:"held,omitempty"` // else it waits
	Number uint64 `json:"number,omitempty"`
	Token  uint64 `json:"token,omitempty"` // if held
	At     uint64 `json:"at,omitempty"`    // else: the revision
}

type holderMessage struct {
	Owner []byte `json:"owner,omitempty"`
	Token uint64 `json:"token"`
}

var (
	refusalNames = names{
		engine.Full: "full", engine.Forgotten: "forgotten", engine.NotNumber: "notNumber",
		engine.OutOfRange: "outOfRange", engine.ReadsMuch: "readsMuch", engine.Unkept: "unkept",
	}
	eventNames = names{
		store.EventSet: store.EventSet.String(), store.EventExpired: store.EventExpired.String(),
		store.EventDeleted: store.EventDeleted.String(),
	}
)

// newResponseMessage returns the message of a response, which is one to a request of its
// method or, if the id is 0, the last.
func newResponseMessage(r response) (*responseMessage, error) {
	m := &responseMessage{ID: r.id, Code: r.code}
	b := r.result
	var err error
	switch {
	case r.id == 0:
		m.Last, err = parseScan(b)
		return m, err
	case r.code != 0:
		if utf8.Valid(b) {
			m.Error = string(b)
		} else {
			m.ErrorBytes = b
		}
		return m, nil
	}
	switch r.method {
	case methodReady, methodScanStop:
		if len(b) > 0 {
			err = errProtocol
		}
	case methodInfo:
		var info store.Info
		info, err = parseInfo(b)
		if err == nil {
			m.Info, err = appendInfo(nil, info)
		}
	case methodGet, methodGetStale, methodHas, methodGetEntry, methodLockHolder:
		err = m.find(r.method, b)
	case methodEnrol:
		m.Client, err = parseEnrolled(b)
	case methodWrite:
		var res engine.Result
		res, err = parseResult(b)
		m.Result = newResultMessage(res)
	case methodScan, methodScanNext:
		m.Page, err = newPageMessage(b)
	case methodPoll:
		var events []store.Event
		var next store.Revision
		events, next, err = parseEvents(b)
		for _, e := range events {
			m.Events = append(m.Events, eventMessage{eventNames[e.Type], uint64(e.Revision), e.ByDeadline, []byte(e.Key), e.Value})
		}
		m.Next = uint64(next)
	case methodAwaitLock:
		var p store.LockPlace
		p, err = parsePlace(b)
		if p != (store.LockPlace{}) {
			m.Place = &placeMessage{p.Held, p.Number, uint64(p.Token), uint64(p.At)}
		}
	default:
		err = errProtocol
	}
	if len(m.Events) > maxItems || m.Page != nil && len(m.Page.Entries) > maxItems {
		err = fmt.Errorf("more than %d entries or events", maxItems)
	}
	return m, err
}

// find sets what a read of one key has found.
func (m *responseMessage) find(method method, b []byte) error {
	rest, found, err := cutFound(b)
	if err != nil || !found && len(rest) > 0 {
		return errProtocol
	}
	m.Found = found
	switch {
	case !found:
	case method == methodGet || method == methodGetStale:
		m.Value = rest
	case method == methodGetEntry:
		e, err := parseEntry("", rest)
		m.Entry = newEntryMessage(e)
		return err
	case method == methodLockHolder:
		h, _, err := parseHolder(b)
		m.Holder = &holderMessage{h.Owner, uint64(h.Token)}
		return err
	case len(rest) > 0:
		return errProtocol
	}
	return nil
}

func newEntryMessage(e store.Entry) *entryMessage {
	return &entryMessage{[]byte(e.Key), e.Value, e.Expired, uint64(e.Revision), int64(e.ExpireIn), int64(e.DeleteIn)}
}

func newPageMessage(b []byte) (*pageMessage, error) {
	p, err := parsePage(b, false)
	if err != nil {
		return nil, err
	}
	m := &pageMessage{More: p.more, Revision: uint64(p.revision)}
	for e, ok := p.next(); ok; e, ok = p.next() {
		m.Entries = append(m.Entries, *newEntryMessage(e))
	}
	return m, p.err()
}

func newResultMessage(r engine.Result) *resultMessage {
	m := &resultMessage{Done: r.Done, Revision: r.Revision, Number: r.Number, Refusal: refusalNames[r.Refusal]}
	if r.Txn == nil {
		return m
	}
	m.Txn = &txnResultMessage{Held: r.Txn.Held, Revision: uint64(r.Txn.Revision)}
	for _, op := range r.Txn.Results {
		o := opResultMessage{Done: op.Done, Revision: uint64(op.Revision), Number: op.Number}
		if op.Value != nil || op.Expired {
			o.Read = &opResultReading{op.Value, op.Expired, int64(op.ExpireIn), int64(op.DeleteIn)}
		}
		m.Txn.Results = append(m.Txn.Results, o)
	}
	return m
}
