package rest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"dkv/store"
)

// maxTxnBody has room for the base64 of all that a transaction may have.
const maxTxnBody = store.MaxTxnSize / 2 * 3

// txnBody is a store.Txn as JSON has it.
type txnBody struct {
	If   list[txnCond] `json:"if"`
	Then list[txnOp]   `json:"then"`
	Else list[txnOp]   `json:"else"`
}

type txnCond struct {
	Kind string `json:"kind"`
	txnKey
	txnValue
	Revision *store.Revision `json:"revision"`
	Token    *store.Revision `json:"token"`
}

type txnOp struct {
	Op string `json:"op"`
	txnKey
	txnValue
	ExpireIn *string `json:"expireIn"`
	DeleteIn *string `json:"deleteIn"`
	Delta    *int64  `json:"delta"`
}

type txnKey struct {
	Key       text   `json:"key"`
	KeyBase64 []byte `json:"keyBase64"`
}

type txnValue struct {
	Value []byte `json:"value"`
	Text  *text  `json:"text"`
}

// list is one of no more elements than a transaction can have: a body of nothing but
// empty ones would take many times its length in memory.
type list[T any] []T

func (l *list[T]) UnmarshalJSON(b []byte) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	*l = nil
	switch start, err := d.Token(); {
	case err != nil:
		return err
	case start == nil:
		return nil
	case start != json.Delim('['):
		return errors.New("not a list")
	}
	for d.More() {
		if len(*l) == store.MaxTxnOps {
			return fmt.Errorf("a list of more than %d", store.MaxTxnOps)
		}
		var element T
		if err := d.Decode(&element); err != nil {
			return err
		}
		*l = append(*l, element)
	}
	return nil
}

// text is a string that is decoded as it was meant, or not at all: package json puts
// U+FFFD in the place of half a surrogate pair.
type text string

func (t *text) UnmarshalJSON(b []byte) error {
	if halfSurrogate(b) {
		return errors.New("half a surrogate pair in a string")
	}
	return json.Unmarshal(b, (*string)(t))
}

// halfSurrogate tells whether a value in valid JSON has one.
func halfSurrogate(b []byte) bool {
	for i := 0; i < len(b); i++ {
		if b[i] != '\\' {
			continue
		}
		first, ok := escaped(b[i:])
		if !ok {
			i++
			continue
		}
		i += 5
		if !utf16.IsSurrogate(first) {
			continue
		}
		if second, ok := escaped(b[i+1:]); !ok || utf16.DecodeRune(first, second) == utf8.RuneError {
			return true
		}
		i += 6
	}
	return false
}

// escaped returns what b begins with if that is \u and four digits.
func escaped(b []byte) (rune, bool) {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return 0, false
	}
	n, err := strconv.ParseUint(string(b[2:6]), 16, 16)
	return rune(n), err == nil
}

func (k *txnKey) key() (string, error) {
	if k.Key != "" && k.KeyBase64 != nil {
		return "", errors.New("key and keyBase64")
	}
	return string(k.Key) + string(k.KeyBase64), nil
}

func (v *txnValue) has() bool { return v.Value != nil || v.Text != nil }

func (v *txnValue) bytes() ([]byte, error) {
	switch {
	case v.Value != nil && v.Text != nil:
		return nil, errors.New("value and text")
	case v.Text != nil:
		return []byte(*v.Text), nil
	}
	return v.Value, nil
}

func (c *txnCond) cond() (store.Cond, error) {
	key, err := c.key()
	value, valueErr := c.bytes()
	if err = errors.Join(err, valueErr); err != nil {
		return store.Cond{}, err
	}
	given := fields{"value": c.has(), "revision": c.Revision != nil, "token": c.Token != nil}
	switch c.Kind {
	case "revision":
		if err = given.check("revision"); err == nil {
			return store.IfRevision(key, *c.Revision), nil
		}
	case "exists":
		return store.IfExists(key), given.check()
	case "missing":
		return store.IfMissing(key), given.check()
	case "value":
		return store.IfValue(key, value), given.check("value")
	case "lock":
		if err = given.check("token"); err == nil {
			return store.IfLock(key, *c.Token), nil
		}
	default:
		err = fmt.Errorf("kind %.30q", c.Kind)
	}
	return store.Cond{}, err
}

func (o *txnOp) op() (op store.Op, err error) {
	key, keyErr := o.key()
	value, valueErr := o.bytes()
	expireIn, expireErr := optionalDuration(o.ExpireIn)
	deleteIn, deleteErr := optionalDuration(o.DeleteIn)
	if err = errors.Join(keyErr, valueErr, expireErr, deleteErr); err != nil {
		return op, err
	}
	given := fields{"value": o.has(), "delta": o.Delta != nil}
	if o.Op != "set" && o.Op != "setIfUnset" {
		given["expireIn"], given["deleteIn"] = o.ExpireIn != nil, o.DeleteIn != nil
	}
	switch o.Op {
	case "get":
		return store.OpGet(key), given.check()
	case "set":
		return store.OpSetE(key, value, expireIn, deleteIn), given.check("value")
	case "setIfUnset":
		return store.OpSetEIfUnset(key, value, expireIn, deleteIn), given.check("value")
	case "expire":
		return store.OpExpire(key), given.check()
	case "delete":
		return store.OpDelete(key), given.check()
	case "add":
		if err = given.check("delta"); err == nil {
			return store.OpAdd(key, *o.Delta), nil
		}
		return op, err
	}
	return op, fmt.Errorf("op %.30q", o.Op)
}

func optionalDuration(s *string) (time.Duration, error) {
	if s == nil {
		return 0, nil
	}
	return parseDuration(*s)
}

// fields tells which fields are there.
type fields map[string]bool

// check returns an error unless the fields that are there are those that are wanted.
func (f fields) check(wanted ...string) error {
	for _, name := range wanted {
		if !f[name] {
			return errors.New("no " + name)
		}
		delete(f, name)
	}
	for name, there := range f {
		if there {
			return errors.New(name + ", which does not belong there")
		}
	}
	return nil
}

// decodeTxn returns store.ErrBadTxn, among others, for what is no transaction.
func decodeTxn(b []byte) (t store.Txn, err error) {
	bad := func(what string, err error) (store.Txn, error) {
		if store.KindOf(err) == store.KindNone {
			err = fmt.Errorf("%w: %w", store.ErrBadTxn, err)
		}
		return store.Txn{}, fmt.Errorf("%w (%s)", err, what)
	}
	if !utf8.Valid(b) {
		return bad("body", errors.New("not UTF-8"))
	}
	var body txnBody
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&body); err != nil {
		return bad("body", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return bad("body", errors.New("something behind the end"))
	}
	for i := range body.If {
		c, err := body.If[i].cond()
		if err != nil {
			return bad(fmt.Sprintf("condition %d", i), err)
		}
		t.If = append(t.If, c)
	}
	for _, branch := range []struct {
		name string
		from list[txnOp]
		to   *[]store.Op
	}{{"then", body.Then, &t.Then}, {"else", body.Else, &t.Else}} {
		for i := range branch.from {
			op, err := branch.from[i].op()
			if err != nil {
				return bad(fmt.Sprintf("%s %d", branch.name, i), err)
			}
			*branch.to = append(*branch.to, op)
		}
	}
	return t, t.Check()
}

// txnResult is a store.TxnResult as JSON has it.
type txnResult struct {
	Held     bool           `json:"held"`
	Revision store.Revision `json:"revision"`
	Results  []opResult     `json:"results"`
}

type opResult struct {
	Done     bool           `json:"done"`
	Revision store.Revision `json:"revision,omitempty"`
	Number   *int64         `json:"number,omitempty"` // of an add
	Value    []byte         `json:"value,omitzero"`   // of a get that found one
	Expired  bool           `json:"expired,omitempty"`
	ExpireIn string         `json:"expireIn,omitempty"`
	DeleteIn string         `json:"deleteIn,omitempty"`
}

func transact(ctx context.Context, c *call) (*answer, error) {
	t, err := decodeTxn(c.body)
	if err != nil {
		return nil, err
	}
	if err := c.authorizeTxn(&t); err != nil {
		return nil, err
	}
	res, err := c.store.Txn(ctx, t)
	if err != nil {
		return nil, err
	}
	out := txnResult{res.Held, res.Revision, make([]opResult, len(res.Results))}
	branch := t.Else
	if res.Held {
		branch = t.Then
	}
	for i, r := range res.Results {
		out.Results[i] = opResult{
			Done: r.Done, Revision: r.Revision, Expired: r.Expired,
			ExpireIn: durationText(r.ExpireIn), DeleteIn: durationText(r.DeleteIn),
		}
		switch kind := branch[i].Kind; {
		case kind == store.OpKindAdd:
			out.Results[i].Number = &r.Number
		case kind == store.OpKindGet && r.Done && !r.Expired:
			out.Results[i].Value = present(r.Value)
		}
	}
	return &answer{http.StatusOK, out}, nil
}

func (c *call) authorizeTxn(t *store.Txn) error {
	for i := range t.If {
		if err := c.authorize(Access{Lock: t.If[i].Kind == store.CondLock, Key: t.If[i].Key}); err != nil {
			return err
		}
	}
	for _, branch := range [][]store.Op{t.Then, t.Else} {
		for i := range branch {
			if err := c.authorize(Access{Key: branch[i].Key, Write: branch[i].Writes()}); err != nil {
				return err
			}
		}
	}
	return nil
}
