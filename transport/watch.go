package transport

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"time"

	"dkv/internal/field"
	"dkv/store"
	"dkv/store/engine"
)

const (
	// pollWait is how long a server waits for events. Then it tells how far it
	// has looked, so that a watch that sees nothing can go on at another server
	// without asking for what is long forgotten.
	pollWait = 10 * time.Second

	// maxPollWait bounds how long a server waits, whatever a client says.
	maxPollWait = time.Minute

	// pollGrace is how much longer a client waits for the answer.
	pollGrace = 5 * time.Second
)

// poll is what a client asks for: the space (byte), the time to wait (uvarint, in
// nanoseconds), the revision (uvarint), the key and the prefix (each its length as a
// uvarint and its bytes).
type poll struct {
	space engine.Space
	what  store.Watch
	wait  time.Duration
}

func (p poll) append(b []byte) []byte {
	b = append(b, byte(p.space))
	b = binary.AppendUvarint(b, uint64(p.wait))
	b = binary.AppendUvarint(b, uint64(p.what.From))
	for _, key := range []string{p.what.Key, p.what.Prefix} {
		b = binary.AppendUvarint(b, uint64(len(key)))
		b = append(b, key...)
	}
	return b
}

func parsePoll(b []byte) (poll, error) {
	f := field.NewReader(b)
	p := poll{space: engine.Space(f.Byte()), wait: time.Duration(f.Int63())}
	p.what.From = store.Revision(f.Uvarint())
	p.what.Key = string(f.Bytes(store.MaxKeySize))
	p.what.Prefix = string(f.Bytes(store.MaxKeySize))
	if !f.Complete() || p.space > engine.Locks { // the others tell who shares a lock or waits
		return poll{}, errProtocol
	}
	return p, nil
}

// byDeadline is a bit of the byte of an event's type.
const byDeadline = 1 << 7

// appendEvents appends the revision to go on from (uvarint) and the events: each
// its type (byte), revision (uvarint) and key, and its value if it is that of a key
// that was set, both with their lengths (uvarints).
func appendEvents(b []byte, events []store.Event, next store.Revision) []byte {
	b = binary.AppendUvarint(b, uint64(next))
	for i := range events {
		e := &events[i]
		kind := byte(e.Type)
		if e.ByDeadline {
			kind |= byDeadline
		}
		b = append(b, kind)
		b = binary.AppendUvarint(b, uint64(e.Revision))
		b = binary.AppendUvarint(b, uint64(len(e.Key)))
		b = append(b, e.Key...)
		if e.Type == store.EventSet {
			b = binary.AppendUvarint(b, uint64(len(e.Value)))
			b = append(b, e.Value...)
		}
	}
	return b
}

// parseEvents reads what appendEvents wrote. The values alias b.
func parseEvents(b []byte) (events []store.Event, next store.Revision, err error) {
	f := field.NewReader(b)
	next = store.Revision(f.Uvarint())
	last := store.Revision(0)
	for len(f.Rest()) > 0 {
		kind := f.Byte()
		e := store.Event{
			Type:       store.EventType(kind &^ byDeadline),
			ByDeadline: kind&byDeadline != 0,
			Revision:   store.Revision(f.Uvarint()),
			Key:        string(f.Bytes(store.MaxKeySize)),
		}
		if e.Type == store.EventSet {
			e.Value = f.Bytes(store.MaxValueSize)
		}
		if e.Type == 0 || e.Type > store.EventDeleted || e.Key == "" || e.Revision <= last || e.Revision >= next {
			f.Fail()
		}
		last = e.Revision
		events = append(events, e)
	}
	if !f.Complete() {
		return nil, 0, errProtocol
	}
	return events, next, nil
}

// Watch implements store.Store. It goes on at another server when one is lost, until
// ctx ends; servers of one store number its changes alike. If it comes to another store
// there, one in memory that has been opened anew, it ends with store.ErrCompacted.
func (c *Client) Watch(ctx context.Context, what store.Watch) (iter.Seq2[store.Event, error], error) {
	if err := what.Check(); err != nil {
		return nil, err
	}
	// The first poll finds out whether there is something amiss.
	identity := uint64(0)
	events, next, err := c.pollSame(ctx, engine.Keys, what, 0, &identity)
	if err != nil {
		return nil, err
	}
	return func(yield func(store.Event, error) bool) {
		for {
			for i := range events {
				if !yield(events[i], nil) {
					return
				}
			}
			what.From = next
			if events, next, err = c.poll(ctx, what, &identity); err != nil {
				yield(store.Event{}, err)
				return
			}
		}
	}, nil
}

// poll polls until there are events, something is amiss, or ctx ends.
func (c *Client) poll(ctx context.Context, what store.Watch, identity *uint64) (events []store.Event, next store.Revision, err error) {
	for {
		events, next, err = c.pollSame(ctx, engine.Keys, what, pollWait, identity)
		switch {
		case err == nil && len(events) > 0:
			return events, next, nil
		case err == nil:
			what.From = next
		case errors.Is(err, store.ErrFutureRevision): // of a history that is shorter
			return nil, 0, errAnotherStore
		case ctx.Err() != nil || store.KindOf(err) != store.KindNotApplied:
			return nil, 0, err
		default:
			select { // a server that is busy may not be for long
			case <-time.After(maxBackoff / 4):
			case <-ctx.Done():
			}
		}
	}
}

// Poll implements [Backend]. A server decides how much it returns.
func (c *Client) Poll(ctx context.Context, space engine.Space, what store.Watch, wait time.Duration, _ int64) ([]store.Event, store.Revision, error) {
	return c.pollSame(ctx, space, what, wait, new(uint64))
}

// pollSame polls the store that has the identity, or any if that is 0, which then
// becomes that of the one that has answered.
func (c *Client) pollSame(ctx context.Context, space engine.Space, what store.Watch, wait time.Duration, identity *uint64) (events []store.Event, next store.Revision, err error) {
	another := false
	r := request{method: methodPoll, arg: poll{space, what, wait}.append(nil)}
	err = c.wait(ctx, wait, r, func(w *waiter) (err error) {
		another = *identity != 0 && w.identity != *identity
		*identity = w.identity
		if events, next, err = parseEvents(w.resp.result); err == nil {
			for i := range events { // each its own, so that one may be kept without the others
				events[i].Value = bytes.Clone(events[i].Value)
			}
		}
		return err
	})
	if another {
		return nil, 0, errAnotherStore
	}
	return events, next, err
}

var errAnotherStore = fmt.Errorf("%w: another store answers now", store.ErrCompacted)

// wait is call for a request that a server answers only after the time that it says.
func (c *Client) wait(ctx context.Context, wait time.Duration, r request, parse func(*waiter) error) error {
	if wait > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, wait+pollGrace)
		defer cancel()
	}
	return c.call(ctx, r, parse)
}
