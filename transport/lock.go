package transport

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"slices"
	"time"

	"dkv/internal/field"
	"dkv/store"
	"dkv/store/engine"
)

// await is what a client asks for: the time to wait (uvarint, in nanoseconds), the
// number and the revision of the place (uvarints), what the owner is known by (8
// bytes), and the key (the rest).
type await struct {
	key   string
	owner []byte
	at    store.LockPlace
	wait  time.Duration
}

func (a await) append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(a.wait))
	b = binary.AppendUvarint(b, a.at.Number)
	b = binary.AppendUvarint(b, uint64(a.at.At))
	b = append(b, a.owner[:store.OwnerSize]...)
	return append(b, a.key...)
}

func parseAwait(b []byte) (await, error) {
	f := field.NewReader(b)
	a := await{wait: time.Duration(f.Int63())}
	a.at = store.LockPlace{Waiting: true, Number: f.Uvarint(), At: store.Revision(f.Uvarint())}
	rest := f.Rest()
	if f.Bad() || len(rest) < store.OwnerSize {
		return await{}, errProtocol
	}
	a.owner, a.key = rest[:store.OwnerSize:store.OwnerSize], string(rest[store.OwnerSize:])
	return a, nil
}

// The first byte of a place.
const (
	placeNone = iota
	placeHeld
	placeWaiting
)

// appendPlace appends what a place is (byte), its number, and its token or, of who
// waits, its revision (uvarints).
func appendPlace(b []byte, p store.LockPlace) []byte {
	switch {
	case p.Held:
		b = append(b, placeHeld)
		b = binary.AppendUvarint(b, p.Number)
		return binary.AppendUvarint(b, uint64(p.Token))
	case p.Waiting:
		b = append(b, placeWaiting)
		b = binary.AppendUvarint(b, p.Number)
		return binary.AppendUvarint(b, uint64(p.At))
	}
	return append(b, placeNone)
}

func parsePlace(b []byte) (p store.LockPlace, err error) {
	f := field.NewReader(b)
	switch f.Byte() {
	case placeNone:
	case placeHeld:
		p = store.LockPlace{Held: true, Number: f.Uvarint(), Token: store.Revision(f.Uvarint())}
	case placeWaiting:
		p = store.LockPlace{Waiting: true, Number: f.Uvarint(), At: store.Revision(f.Uvarint())}
	default:
		f.Fail()
	}
	if !f.Complete() {
		return store.LockPlace{}, errProtocol
	}
	return p, nil
}

// appendHolder appends whether there is a holder (byte), its token (uvarint) and
// what it is known by.
func appendHolder(b []byte, h store.LockHolder, ok bool) []byte {
	if b = appendFound(b, ok); !ok {
		return b
	}
	b = binary.AppendUvarint(b, uint64(h.Token))
	return append(b, h.Owner...)
}

// nameless returns who holds a lock with zeros for what it is known by: who knows that can
// release the lock.
func nameless(h store.LockHolder) store.LockHolder {
	h.Owner = blank(h.Owner)
	return h
}

// namelessEvents is nameless for the events of a space.
func namelessEvents(space engine.Space, events []store.Event) []store.Event {
	if space != engine.Locks {
		return events
	}
	events = slices.Clone(events) // they may be shared with other watches
	for i := range events {
		events[i].Value = blank(events[i].Value)
	}
	return events
}

func blank(owner []byte) []byte {
	owner = bytes.Clone(owner)
	clear(owner[:min(len(owner), store.OwnerSize)])
	return owner
}

func parseHolder(b []byte) (h store.LockHolder, ok bool, err error) {
	b, ok, err = cutFound(b)
	if err == nil && !ok && len(b) > 0 {
		err = errProtocol
	}
	if !ok {
		return h, false, err
	}
	f := field.NewReader(b)
	h.Token = store.Revision(f.Uvarint())
	h.Owner = f.Rest()
	if f.Bad() {
		return h, false, errProtocol
	}
	return h, true, nil
}

// AwaitLock implements lock.Backend.
func (c *Client) AwaitLock(ctx context.Context, key string, owner []byte, at store.LockPlace, wait time.Duration) (store.LockPlace, error) {
	if err := cmp.Or(store.CheckKey(key), store.CheckOwner(owner)); err != nil {
		return store.LockPlace{}, err
	}
	var place store.LockPlace
	err := c.wait(ctx, wait, request{method: methodAwaitLock, arg: await{key, owner, at, wait}.append(nil)}, func(w *waiter) (err error) {
		place, err = parsePlace(w.resp.result)
		return err
	})
	return place, err
}

// LockHolder implements lock.Backend. A server does not tell what the holder is known by:
// the first bytes of the owner are zeros.
func (c *Client) LockHolder(ctx context.Context, key string) (h store.LockHolder, ok bool, err error) {
	err = c.read(ctx, methodLockHolder, key, func(w *waiter) (err error) {
		h, ok, err = parseHolder(w.resp.result)
		h.Owner = w.keep(h.Owner)
		return err
	})
	return h, ok, err
}
