package rest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"dkv/store"
)

// answer is a response; its headers but for Content-Type have been set already.
type answer struct {
	status int
	body   any // nil: none; []byte: as it is; else as JSON
}

func (a *answer) write(w http.ResponseWriter) {
	header := w.Header()
	header.Set("Cache-Control", "no-cache")
	header.Set("X-Content-Type-Options", "nosniff")
	if a.body == nil {
		w.WriteHeader(a.status)
		return
	}
	body, raw := a.body.([]byte)
	if raw {
		header.Set("Content-Type", "application/octet-stream")
	} else {
		header.Set("Content-Type", "application/json")
		body = encode(a.body)
	}
	header.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(a.status)
	w.Write(body) // the client may have gone
}

// encode returns v, which can be encoded, as a line of JSON.
func encode(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(fmt.Sprintf("rest: %v", err))
	}
	return b.Bytes()
}

// statusError is an error of a request that has not come to a store.
type statusError struct {
	status int
	text   string
}

func (e *statusError) Error() string { return e.text }

func badRequest(format string, args ...any) error {
	return &statusError{http.StatusBadRequest, fmt.Sprintf(format, args...)}
}

// refusal is what Authorize has returned.
type refusal struct{ error }

func (r *refusal) Unwrap() error { return r.error }

// statuses of the sentinels of package store, by code.
var statuses = map[uint16]int{
	store.ErrUnavailable.Code():    http.StatusServiceUnavailable,
	store.ErrBusy.Code():           http.StatusTooManyRequests,
	store.ErrUnknown.Code():        http.StatusGatewayTimeout,
	store.ErrClosed.Code():         http.StatusServiceUnavailable,
	store.ErrKeyTooLarge.Code():    http.StatusRequestEntityTooLarge,
	store.ErrValueTooLarge.Code():  http.StatusRequestEntityTooLarge,
	store.ErrFull.Code():           http.StatusInsufficientStorage,
	store.ErrDiskFull.Code():       http.StatusInsufficientStorage,
	store.ErrNotNumber.Code():      http.StatusConflict,
	store.ErrOutOfRange.Code():     http.StatusConflict,
	store.ErrCompacted.Code():      http.StatusGone,
	store.ErrFutureRevision.Code(): http.StatusBadRequest,
	store.ErrNotHeld.Code():        http.StatusConflict,
	store.ErrLockLost.Code():       http.StatusConflict,
	store.ErrReentrant.Code():      http.StatusConflict,

	store.ErrNoData.Code():          http.StatusMisdirectedRequest,
	store.ErrNoShard.Code():         http.StatusNotFound,
	store.ErrUnauthenticated.Code(): http.StatusUnauthorized,
	store.ErrForbidden.Code():       http.StatusForbidden,
}

// status is that of an error. Where store has a sentinel that is not known here, its
// kind decides.
func status(err error) int {
	var here *statusError
	var there *store.Error
	var refused *refusal
	switch {
	case errors.As(err, &here):
		return here.status
	case !errors.As(err, &there):
		if errors.As(err, &refused) {
			return http.StatusForbidden
		}
		return http.StatusInternalServerError
	}
	if s, ok := statuses[there.Code()]; ok {
		return s
	}
	switch there.Kind() {
	case store.KindNotApplied, store.KindClosed:
		return http.StatusServiceUnavailable
	case store.KindUnknown:
		return http.StatusGatewayTimeout
	}
	return http.StatusBadRequest
}

// problem is the body of an error.
type problem struct {
	Error string `json:"error"`
	Code  uint16 `json:"code"` // 0: it did not come from a store
	Kind  string `json:"kind"`

	// Owner is that of a lock of which it is not known whether it was taken.
	Owner string `json:"owner,omitempty"`
}

// describe returns an error as a client gets it, and its status.
func describe(err error) (int, problem) {
	p := problem{Error: err.Error(), Kind: "final"}
	var e *store.Error
	if errors.As(err, &e) {
		p.Code = e.Code()
	}
	s := status(err)
	switch kind := store.KindOf(err); {
	case kind == store.KindNotApplied:
		p.Kind = "notApplied"
	case kind == store.KindClosed:
		p.Kind = "closed"
	case kind == store.KindUnknown, s == http.StatusInternalServerError:
		p.Kind = "unknown"
		p.Error += "; it may have been done, may be done yet, or never"
	}
	var owned *ownedError
	if errors.As(err, &owned) {
		p.Owner = owned.owner.String()
	}
	return s, p
}

// failure is the answer that an error is.
func failure(header http.Header, err error) *answer {
	s, p := describe(err)
	switch {
	case p.Kind == "notApplied":
		header.Set("Retry-After", "1")
	case s == http.StatusUnauthorized:
		header.Set("WWW-Authenticate", "Bearer")
	}
	return &answer{s, p}
}
