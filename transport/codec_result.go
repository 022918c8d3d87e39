package transport

import (
	"encoding/binary"
	"reflect"
	"time"
	"unicode/utf8"

	"dkv/store"
	"dkv/store/engine"
)

// result is the result of which newResponseMessage has made the message.
func (m responseMessage) result(of method) ([]byte, error) {
	id, code := take(&m.ID), take(&m.Code)
	var b []byte
	var err error
	switch {
	case id == 0:
		b = binary.AppendUvarint(nil, take(&m.Last))
	case code != 0:
		text, raw := take(&m.Error), take(&m.ErrorBytes)
		if b = raw; len(raw) == 0 {
			b = []byte(text)
		} else if text != "" || utf8.Valid(raw) {
			return nil, errProtocol
		}
	default:
		b, err = m.take(of)
	}
	if err == nil && !reflect.ValueOf(m).IsZero() {
		err = errProtocol // what is left is not of the method
	}
	return b, err
}

// take takes the result of a method.
func (m *responseMessage) take(of method) ([]byte, error) {
	switch of {
	case methodReady, methodScanStop:
		return nil, nil
	case methodInfo:
		info, err := parseInfo(take(&m.Info))
		if err != nil {
			return nil, err
		}
		return appendInfo(nil, info)
	case methodGet, methodGetStale, methodHas, methodGetEntry, methodLockHolder:
		found := take(&m.Found)
		b := appendFound(nil, found)
		if !found {
			return b, nil
		}
		switch of {
		case methodGetEntry:
			v, err := takePart(&m.Entry)
			if err != nil || len(v.Key) > 0 {
				return nil, errProtocol
			}
			return appendEntry(b, v.entry()), v.check()
		case methodLockHolder:
			v, err := takePart(&m.Holder)
			return appendHolder(nil, store.LockHolder{Owner: v.Owner, Token: store.Revision(v.Token)}, true), err
		case methodHas:
			return b, nil
		}
		return append(b, take(&m.Value)...), nil
	case methodEnrol:
		return binary.AppendUvarint(nil, take(&m.Client)), nil
	case methodWrite:
		v, err := takePart(&m.Result)
		if err != nil {
			return nil, err
		}
		res, err := v.result()
		return appendResult(nil, res), err
	case methodScan, methodScanNext:
		v, err := takePart(&m.Page)
		if err != nil {
			return nil, err
		}
		b := appendPageHeader(nil, store.Revision(v.Revision))
		if v.More {
			b[pageMore] = 1
		}
		for _, e := range v.Entries {
			if err := e.check(); err != nil {
				return nil, err
			}
			b = appendPageEntry(b, e.entry())
		}
		return b, nil
	case methodPoll:
		var events []store.Event
		for _, e := range take(&m.Events) {
			t, err := eventNames.number(e.Type)
			if err != nil || len(e.Value) > 0 && store.EventType(t) != store.EventSet {
				return nil, errProtocol
			}
			events = append(events, store.Event{
				Type: store.EventType(t), Revision: store.Revision(e.Revision), ByDeadline: e.ByDeadline,
				Key: string(e.Key), Value: e.Value,
			})
		}
		return appendEvents(nil, events, store.Revision(take(&m.Next))), nil
	case methodAwaitLock:
		var p store.LockPlace
		if v := take(&m.Place); v != nil {
			p = store.LockPlace{Held: v.Held, Waiting: !v.Held, Number: v.Number, Token: store.Revision(v.Token), At: store.Revision(v.At)}
			if v.Held && v.At != 0 || !v.Held && v.Token != 0 {
				return nil, errProtocol
			}
		}
		return appendPlace(nil, p), nil
	}
	return nil, errProtocol
}

func (e *entryMessage) entry() store.Entry {
	return store.Entry{
		Key: string(e.Key), Value: e.Value, Expired: e.Expired, Revision: store.Revision(e.Revision),
		ExpireIn: time.Duration(e.ExpireIn), DeleteIn: time.Duration(e.DeleteIn),
	}
}

// check returns the error of an entry that has expired and has a value.
func (e *entryMessage) check() error {
	if e.Expired && len(e.Value) > 0 {
		return errProtocol
	}
	return nil
}

func (m *resultMessage) result() (engine.Result, error) {
	r := engine.Result{Revision: m.Revision, Number: m.Number, Done: m.Done}
	if m.Refusal != "" {
		n, err := refusalNames.number(m.Refusal)
		if err != nil {
			return r, err
		}
		r.Refusal = engine.Refusal(n)
	}
	if m.Txn == nil {
		return r, nil
	}
	r.Txn = &store.TxnResult{Held: m.Txn.Held, Revision: store.Revision(m.Txn.Revision)}
	for _, o := range m.Txn.Results {
		op := store.OpResult{Done: o.Done, Revision: store.Revision(o.Revision), Number: o.Number}
		if v := o.Read; v != nil {
			op.Expired, op.ExpireIn, op.DeleteIn = v.Expired, time.Duration(v.ExpireIn), time.Duration(v.DeleteIn)
			if op.Value = append([]byte{}, v.Value...); v.Expired {
				if len(v.Value) > 0 {
					return r, errProtocol
				}
				op.Value = nil
			}
		}
		r.Txn.Results = append(r.Txn.Results, op)
	}
	return r, nil
}
