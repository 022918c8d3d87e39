package transport

import (
	"encoding/binary"
	"fmt"
	"reflect"
	"time"

	"dkv/internal/command"
	"dkv/internal/once"
	"dkv/store"
	"dkv/store/engine"
)

// requestMessage is a request as JSON and Gob have it. Behind the method it has those
// fields that are the method's argument, and no others.
type requestMessage struct {
	ID      uint64 `json:"id"`                // from 1, rising on each connection
	Timeout int64  `json:"timeout,omitempty"` // nanoseconds the client will wait, 0 = no limit
	Method  string `json:"method"`            // of methodNames

	Key      []byte           `json:"key,omitempty"`      // get, getStale, getEntry, has, lockHolder
	Op       *opMessage       `json:"op,omitempty"`       // write
	Identity *identityMessage `json:"identity,omitempty"` // write, if it may be repeated; enrol: the nonce alone
	Range    *rangeMessage    `json:"range,omitempty"`    // scan
	Scan     uint64           `json:"scan,omitempty"`     // scanNext, scanStop: the id of the scan
	Cancel   uint64           `json:"cancel,omitempty"`   // cancel: the id of the request
	Poll     *pollMessage     `json:"poll,omitempty"`     // poll
	Await    *awaitMessage    `json:"await,omitempty"`    // awaitLock
}

type identityMessage struct {
	Client uint64 `json:"client,omitempty"`
	Nonce  uint64 `json:"nonce,omitempty"`
	Seq    uint64 `json:"seq,omitempty"`
	Low    uint64 `json:"low,omitempty"`
}

type rangeMessage struct {
	Prefix   []byte `json:"prefix,omitempty"`
	From     []byte `json:"from,omitempty"`
	To       []byte `json:"to,omitempty"`
	After    []byte `json:"after,omitempty"`
	Reverse  bool   `json:"reverse,omitempty"`
	KeysOnly bool   `json:"keysOnly,omitempty"`
	Limit    int64  `json:"limit,omitempty"`
}

type pollMessage struct {
	Space  string `json:"space,omitempty"`
	Key    []byte `json:"key,omitempty"`
	Prefix []byte `json:"prefix,omitempty"`
	From   uint64 `json:"from,omitempty"`
	Wait   int64  `json:"wait,omitempty"` // nanoseconds
}

type awaitMessage struct {
	Key    []byte `json:"key,omitempty"`
	Owner  []byte `json:"owner"` // store.OwnerSize bytes
	Number uint64 `json:"number,omitempty"`
	At     uint64 `json:"at,omitempty"`
	Wait   int64  `json:"wait,omitempty"` // nanoseconds
}

var methodNames = names{
	methodReady: "ready", methodInfo: "info", methodGet: "get", methodGetEntry: "getEntry",
	methodHas: "has", methodEnrol: "enrol", methodWrite: "write", methodScan: "scan",
	methodScanNext: "scanNext", methodScanStop: "scanStop", methodGetStale: "getStale",
	methodPoll: "poll", methodAwaitLock: "awaitLock", methodLockHolder: "lockHolder",
	methodCancel: "cancel",
}

// newRequestMessage returns the message of a request whose argument is well formed.
func newRequestMessage(r request) (*requestMessage, error) {
	m := &requestMessage{ID: r.id, Timeout: int64(r.timeout), Method: methodNames[r.method]}
	arg := r.arg
	switch {
	case r.op != nil:
		arg = command.AppendOp(nil, r.op, r.opID)
	case r.key != "":
		arg = append([]byte(r.key), r.arg...)
	}
	var err error
	switch r.method {
	case methodReady, methodInfo:
		if len(arg) > 0 {
			err = errProtocol
		}
	case methodGet, methodGetStale, methodGetEntry, methodHas, methodLockHolder:
		m.Key = arg
	case methodEnrol, methodWrite:
		op, id, err := command.DecodeOp(arg)
		if err != nil || (op.Kind == 0) != (r.method == methodEnrol) {
			return nil, command.ErrMalformed
		}
		if id != (once.ID{}) {
			m.Identity = (*identityMessage)(&id)
		}
		if op.Kind != 0 {
			m.Op = newOpMessage(&op)
		}
	case methodScan:
		var v store.Range
		v, err = parseRange(arg)
		m.Range = &rangeMessage{
			Prefix: []byte(v.Prefix), From: []byte(v.From), To: []byte(v.To), After: []byte(v.After),
			Reverse: v.Reverse, KeysOnly: v.KeysOnly, Limit: int64(v.Limit),
		}
	case methodScanNext, methodScanStop:
		m.Scan, err = parseScan(arg)
	case methodCancel:
		m.Cancel, err = parseScan(arg)
	case methodPoll:
		var p poll
		p, err = parsePoll(arg)
		m.Poll = &pollMessage{
			Space: spaceName(p.space), Key: []byte(p.what.Key), Prefix: []byte(p.what.Prefix),
			From: uint64(p.what.From), Wait: int64(p.wait),
		}
	case methodAwaitLock:
		var a await
		a, err = parseAwait(arg)
		m.Await = &awaitMessage{Key: []byte(a.key), Owner: a.owner, Number: a.at.Number, At: uint64(a.at.At), Wait: int64(a.wait)}
	default:
		err = errProtocol
	}
	return m, err
}

// take returns a field and leaves zero in its place.
func take[T any](p *T) T {
	v := *p
	*p = *new(T)
	return v
}

// takePart is take for a field that has to be there.
func takePart[T any](p **T) (T, error) {
	if v := take(p); v != nil {
		return *v, nil
	}
	return *new(T), fmt.Errorf("%w: the method's argument is not there", errProtocol)
}

// request is what newRequestMessage was given. There may be something amiss in the
// argument that Binary can say, too: that is for who carries out the request to refuse.
func (m requestMessage) request() (request, error) {
	n, err := methodNames.number(take(&m.Method))
	if err != nil {
		return request{}, err
	}
	r := request{id: take(&m.ID), timeout: time.Duration(take(&m.Timeout)), method: method(n)}
	r.arg, err = m.argument(r.method)
	if err == nil && (r.id == 0 || r.timeout < 0 || !reflect.ValueOf(m).IsZero()) {
		err = errProtocol // what is left is not of the method
	}
	return r, err
}

// argument takes the argument of a method.
func (m *requestMessage) argument(of method) ([]byte, error) {
	switch of {
	case methodGet, methodGetStale, methodGetEntry, methodHas, methodLockHolder:
		return take(&m.Key), nil
	case methodEnrol, methodWrite:
		var id once.ID
		if v := take(&m.Identity); v != nil {
			id = once.ID(*v)
		}
		if of == methodEnrol {
			if id.Nonce == 0 || id != (once.ID{Nonce: id.Nonce}) {
				return nil, errProtocol
			}
			return command.AppendOp(nil, new(engine.Op), id), nil
		}
		v, err := takePart(&m.Op)
		if err != nil {
			return nil, err
		}
		op, err := v.op()
		if err != nil {
			return nil, err
		}
		return command.AppendOp(nil, &op, id), nil
	case methodScan:
		v, err := takePart(&m.Range)
		return appendRange(nil, store.Range{
			Prefix: string(v.Prefix), From: string(v.From), To: string(v.To), After: string(v.After),
			Reverse: v.Reverse, KeysOnly: v.KeysOnly, Limit: int(v.Limit),
		}), err
	case methodScanNext, methodScanStop:
		return appendScan(nil, take(&m.Scan)), nil
	case methodCancel:
		return binary.AppendUvarint(nil, take(&m.Cancel)), nil
	case methodPoll:
		v, err := takePart(&m.Poll)
		if err != nil {
			return nil, err
		}
		space, err := parseSpace(v.Space)
		what := store.Watch{Key: string(v.Key), Prefix: string(v.Prefix), From: store.Revision(v.From)}
		return poll{space, what, time.Duration(v.Wait)}.append(nil), err
	case methodAwaitLock:
		v, err := takePart(&m.Await)
		if err != nil || len(v.Owner) != store.OwnerSize {
			return nil, errProtocol
		}
		at := store.LockPlace{Number: v.Number, At: store.Revision(v.At)}
		return await{string(v.Key), v.Owner, at, time.Duration(v.Wait)}.append(nil), nil
	}
	return nil, nil
}
