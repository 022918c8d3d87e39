package transport

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"dkv/internal/command"
	"dkv/internal/field"
	"dkv/internal/once"
	"dkv/store"
	"dkv/store/engine"
)

// The protocol, which PROTOCOL.md explains to clients in other languages. Both sides
// begin with a hello, see clientHello. Then come frames, each a length (4 bytes,
// little-endian, that of what follows) and a body, written here as Binary has it; see
// Codec for the others. A request's body is
//
//	id       uvarint   chosen by the client, repeated in the response
//	timeout  uvarint   nanoseconds the client will wait, 0 = no limit
//	method   byte
//	argument the rest  a key, an operation as internal/command writes it, with
//	                   its ID, a range (appendRange), or the id of a scan
//	                   (uvarint)
//
// and a response's
//
//	id       uvarint
//	code     uvarint   0, or the code of one of store's errors
//	result   the rest  what the method returns, or the text of the error
//
// Responses come in any order. A server that closes sends, as the last one, a
// response with the id 0: its code is that of store.ErrClosed, and its result the
// last id that the server has answered (uvarint). Requests after that had no
// effect. The ids of one connection rise from 1.
//
// A scan comes in pages (page), all of one state. The first is the result of
// methodScan. While a page says that there is more, the server keeps a cursor,
// which belongs to the connection and is known by the id of the methodScan:
// methodScanNext returns the next page, and methodScanStop gives the cursor up, at
// any time, even while one of the other two waits for its response. It is no error
// to give up what is over. A cursor ends with its last page, with an error, with
// the connection, and when it has been idle for idleTimeout; methodScanNext then
// gets store.ErrUnavailable. It gets store.ErrBusy while another request has the
// cursor, and so does a methodScan that would be the one too many to need one.
// The timeout of a request bounds its page; a scan whose page is late is over.
// A watch is a client that polls: methodPoll waits for events from a revision on, for
// a time that the client says, and returns them and the revision from which the
// next poll goes on, be it of this server or of another. methodAwaitLock waits in
// the same way for a place in the queue for a lock to change. A connection that has too
// many polls under way gets store.ErrBusy.
const (
	// maxFrame bounds a body: the largest operation, a transaction of as many
	// parts as there may be, or a page of the largest entry alone, and what goes
	// with it.
	maxFrame = store.MaxKeySize + max(store.MaxValueSize, store.MaxTxnSize) + store.MaxTxnOps*txnPart + 256
	txnPart  = 32 // what is around the key and the value of an operation
)

type method byte

const (
	methodReady method = 1 + iota
	methodInfo
	methodGet
	methodGetEntry
	methodHas
	methodEnrol // its argument is an operation too
	methodWrite // any other operation of internal/command, locks included
	methodScan
	methodScanNext
	methodScanStop
	methodGetStale
	methodPoll
	methodAwaitLock
	methodLockHolder
	methodCancel
	methods
)

// codeForeign stands for an error that is none of store's.
const codeForeign = math.MaxUint16

var errProtocol = errors.New("not dkv's protocol, or another version")

// request is one call of a client.
type request struct {
	id      uint64
	timeout time.Duration
	method  method
	arg     []byte

	// Of a request that was not parsed: what arg begins with, or an operation that it
	// consists of.
	key  string
	op   *engine.Op
	opID once.ID
}

func (r request) append(b []byte) []byte {
	b = binary.AppendUvarint(b, r.id)
	b = binary.AppendUvarint(b, uint64(r.timeout))
	b = append(b, byte(r.method))
	if r.op != nil {
		return command.AppendOp(b, r.op, r.opID)
	}
	b = append(b, r.key...)
	return append(b, r.arg...)
}

func parseRequest(b []byte) (request, error) {
	id, n := binary.Uvarint(b)
	if n <= 0 || id == 0 {
		return request{}, errProtocol
	}
	b = b[n:]
	timeout, n := binary.Uvarint(b)
	if n <= 0 || timeout > math.MaxInt64 || len(b) == n {
		return request{}, errProtocol
	}
	r := request{id: id, timeout: time.Duration(timeout), method: method(b[n]), arg: b[n+1:]}
	if r.method == 0 || r.method >= methods {
		return request{}, errProtocol
	}
	return r, nil
}

// response answers one request.
type response struct {
	id     uint64
	code   uint64
	result []byte
	method method // of the request; for codecs that need it, and no part of what is sent
}

func (r response) append(b []byte) []byte {
	b = binary.AppendUvarint(b, r.id)
	b = binary.AppendUvarint(b, r.code)
	return append(b, r.result...)
}

func parseResponse(b []byte) (response, error) {
	id, n := binary.Uvarint(b)
	if n <= 0 {
		return response{}, errProtocol
	}
	b = b[n:]
	code, n := binary.Uvarint(b)
	if n <= 0 {
		return response{}, errProtocol
	}
	return response{id: id, code: code, result: b[n:]}, nil
}

// failure is the response that carries err.
func failure(id uint64, err error) response {
	if errors.Is(err, errProtocol) || errors.Is(err, command.ErrMalformed) {
		err = fmt.Errorf("%w: %w", store.ErrMalformed, err)
	}
	r := response{id: id, code: codeForeign, result: []byte(err.Error())}
	if e := (*store.Error)(nil); errors.As(err, &e) {
		r.code = uint64(e.Code())
	}
	return r
}

// err is the error that the response carries, nil if none. One that is not known
// here counts as fallback.
func (r response) err(fallback *store.Error) error {
	if r.code == 0 {
		return nil
	}
	sentinel := fallback
	if r.code < codeForeign {
		if e := store.ErrorOf(uint16(r.code)); e != nil {
			sentinel = e
		}
	}
	text, _ := bytes.CutPrefix(r.result, []byte(sentinel.Error()))
	if len(text) == 0 {
		return sentinel
	}
	return fmt.Errorf("%w (from the server%s)", sentinel, text)
}

// goodbye is the last response of a server that closes.
func goodbye(last uint64) response {
	return response{code: uint64(store.ErrClosed.Code()), result: binary.AppendUvarint(nil, last)}
}

// A found value or entry begins with a byte that is 1; what is not found is the
// byte 0 alone.

func appendFound(b []byte, found bool) []byte {
	if found {
		return append(b, 1)
	}
	return append(b, 0)
}

func cutFound(b []byte) (rest []byte, found bool, err error) {
	if len(b) == 0 || b[0] > 1 {
		return nil, false, errProtocol
	}
	return b[1:], b[0] == 1, nil
}

func appendResult(b []byte, res engine.Result) []byte {
	return once.AppendResult(b, res)
}

func parseResult(b []byte) (engine.Result, error) {
	f := field.NewReader(b)
	res := once.ReadResult(&f)
	if !f.Complete() {
		return engine.Result{}, errProtocol
	}
	return res, nil
}

func parseEnrolled(b []byte) (client uint64, err error) {
	client, n := binary.Uvarint(b)
	if n != len(b) || client == 0 {
		return 0, errProtocol
	}
	return client, nil
}

func appendEntry(b []byte, e store.Entry) []byte {
	b = appendFound(b, e.Expired)
	b = binary.AppendUvarint(b, uint64(e.Revision))
	b = binary.AppendUvarint(b, uint64(e.ExpireIn))
	b = binary.AppendUvarint(b, uint64(e.DeleteIn))
	return append(b, e.Value...)
}

func parseEntry(key string, b []byte) (store.Entry, error) {
	b, expired, err := cutFound(b)
	if err != nil {
		return store.Entry{}, err
	}
	var v [3]uint64
	for i := range v {
		var n int
		if v[i], n = binary.Uvarint(b); n <= 0 {
			return store.Entry{}, errProtocol
		}
		b = b[n:]
	}
	e := store.Entry{
		Key:      key,
		Revision: store.Revision(v[0]),
		Expired:  expired,
		ExpireIn: time.Duration(v[1]),
		DeleteIn: time.Duration(v[2]),
	}
	if !expired {
		e.Value = b
	}
	return e, nil
}

func appendInfo(b []byte, info store.Info) ([]byte, error) {
	j, err := json.Marshal(info)
	return append(b, j...), err
}

func parseInfo(b []byte) (info store.Info, err error) {
	err = json.Unmarshal(b, &info)
	return info, err
}
