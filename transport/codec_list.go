package transport

import (
	"bytes"
	"encoding/gob"
	"encoding/json"
)

// maxItems bounds lists in messages, before memory is taken for what a few bytes say. It
// is more than a transaction has parts and a page entries or events.
const maxItems = 1 << 13

// list is one that is read item by item, so that maxItems bounds it.
type list[T any] []T

// UnmarshalJSON implements json.Unmarshaler.
func (l *list[T]) UnmarshalJSON(b []byte) error {
	*l = nil
	if string(b) == "null" {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if t, err := d.Token(); err != nil || t != json.Delim('[') {
		return errProtocol
	}
	for d.More() {
		if err := l.add(func(v *T) error { return d.Decode(v) }); err != nil {
			return err
		}
	}
	return nil // that there is an end, and nothing behind it, was seen to before
}

// GobEncode implements gob.GobEncoder: the items are values of a stream of their own.
func (l list[T]) GobEncode() ([]byte, error) {
	var b bytes.Buffer
	e := gob.NewEncoder(&b)
	for i := range l {
		if err := e.Encode(&l[i]); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), nil
}

// GobDecode implements gob.GobDecoder.
func (l *list[T]) GobDecode(b []byte) error {
	*l = nil
	if err := checkGob(b); err != nil {
		return err
	}
	r := bytes.NewReader(b)
	d := gob.NewDecoder(r)
	for r.Len() > 0 {
		if err := l.add(func(v *T) error { return d.Decode(v) }); err != nil {
			return err
		}
	}
	return nil
}

func (l *list[T]) add(read func(*T) error) error {
	if len(*l) == maxItems {
		return errProtocol
	}
	var v T
	if err := read(&v); err != nil {
		return err
	}
	*l = append(*l, v)
	return nil
}
