package transport

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"

	"dkv/internal/command"
	"dkv/internal/once"
	"dkv/internal/ops"
	"dkv/store"
	"dkv/store/engine"
)

// enrolment is a client's number with the servers' store, and the numbers of its
// writes; package once says what they are for.
type enrolment struct {
	client, nonce uint64

	mu    sync.Mutex
	next  uint64                // number of the next write
	low   uint64                // lowest that somebody waits for; next if nobody does
	over  [once.MaxPending]bool // by number: nobody waits for it, though it is above low
	moved chan struct{}         // closed and replaced when low rises while somebody waits for it, else nil
	gone  []uint64              // writes that were given up, and may have an effect yet
}

// begin numbers a write. It waits while too many are under way.
func (e *enrolment) begin(ctx context.Context) (once.ID, error) {
	for {
		e.mu.Lock()
		if e.next-e.low < once.MaxPending {
			id := once.ID{Client: e.client, Nonce: e.nonce, Seq: e.next, Low: e.low}
			e.next++
			e.mu.Unlock()
			return id, nil
		}
		if e.moved == nil {
			e.moved = make(chan struct{})
		}
		moved := e.moved
		e.mu.Unlock()
		select {
		case <-moved:
		case <-ctx.Done():
			return once.ID{}, ops.Ended(store.ErrBusy, ctx)
		}
	}
}

// end is called when nobody waits for a write any longer.
func (e *enrolment) end(id once.ID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.over[id.Seq%once.MaxPending] = true
	for e.low < e.next && e.over[e.low%once.MaxPending] {
		e.over[e.low%once.MaxPending] = false
		e.low++
		if e.moved != nil {
			close(e.moved)
			e.moved = nil
		}
	}
}

// giveUp is called when a write was given up without its outcome being known.
func (e *enrolment) giveUp(id once.ID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.gone = append(e.gone, id.Seq)
}

// oldest is the oldest write that was given up and is not told to be by the Low of
// those to come. ok is false if there is none.
func (e *enrolment) oldest() (id once.ID, ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.gone = slices.DeleteFunc(e.gone, func(seq uint64) bool { return seq < e.low })
	if len(e.gone) == 0 {
		return once.ID{}, false
	}
	seq := slices.Min(e.gone)
	return once.ID{Client: e.client, Nonce: e.nonce, Seq: seq, Low: min(e.low, seq)}, true
}

// voided is called when a write that was given up has no effect any longer.
func (e *enrolment) voided(id once.ID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.gone = slices.DeleteFunc(e.gone, func(seq uint64) bool { return seq == id.Seq })
}

// settle has the writes that were given up be void, before another is made: when that
// is acknowledged, they have happened or never will.
func (c *Client) settle(ctx context.Context, e *enrolment) error {
	for id, ok := e.oldest(); ok; id, ok = e.oldest() {
		if _, _, err := c.write(ctx, &engine.Op{Kind: engine.Void}, id); err != nil {
			switch {
			case store.KindOf(err) != store.KindUnknown:
			case ctx.Err() != nil: // nothing is known of the void one; the caller's was not sent
				err = ops.Ended(store.ErrUnavailable, ctx)
			case c.ctx.Err() != nil:
				err = store.ErrClosed
			default: // an answer that is not understood
				err = fmt.Errorf("%w: a write that was given up before is not settled: %w", store.ErrUnavailable, err)
			}
			return err
		}
		e.voided(id)
	}
	return nil
}

// enrolled returns the client's enrolment, and enrols it if it has none.
func (c *Client) enrolled(ctx context.Context) (*enrolment, error) {
	if e := c.enrolment.Load(); e != nil {
		return e, nil
	}
	select {
	case c.enrolling <- struct{}{}:
		defer func() { <-c.enrolling }()
	case <-ctx.Done():
		return nil, ops.Ended(store.ErrUnavailable, ctx)
	}
	if e := c.enrolment.Load(); e != nil {
		return e, nil
	}
	nonce := rand.Uint64() | 1 // not 0
	client, err := c.Enrol(ctx, nonce)
	if err != nil {
		return nil, err
	}
	e := &enrolment{client: client, nonce: nonce, next: 1, low: 1}
	c.enrolment.Store(e)
	return e, nil
}

// Enrol implements [Backend], for a server that passes on what it is asked.
func (c *Client) Enrol(ctx context.Context, nonce uint64) (client uint64, err error) {
	r := request{method: methodEnrol, arg: command.AppendOp(nil, &engine.Op{}, once.ID{Nonce: nonce})}
	err = c.call(ctx, r, func(w *waiter) (err error) {
		client, err = parseEnrolled(w.resp.result)
		return err
	})
	return client, err
}

// do does one operation, as often as it takes to know what came of it.
func (c *Client) do(ctx context.Context, op *engine.Op, id once.ID) (engine.Result, error) {
	if id != (once.ID{}) || op.Kind == engine.Transact && onlyReads(op.Txn) {
		res, _, err := c.write(ctx, op, id) // whose it is repeats it; or it may be done twice
		return res, err
	}
	for {
		e, err := c.enrolled(ctx)
		if err != nil {
			return engine.Result{}, err
		}
		if err := c.settle(ctx, e); err != nil {
			return engine.Result{}, err
		}
		id, err := e.begin(ctx)
		if err != nil {
			return engine.Result{}, err
		}
		res, exposed, err := c.write(ctx, op, id)
		if store.KindOf(err) == store.KindUnknown {
			e.giveUp(id)
		}
		e.end(id)
		switch {
		case err != nil || res.Refusal != engine.Forgotten:
			return res, err
		case exposed:
			return engine.Result{}, fmt.Errorf("%w: the server's answer was lost, and it has forgotten this client since", store.ErrUnknown)
		}
		c.enrolment.CompareAndSwap(e, nil)
	}
}

// onlyReads tells whether a transaction changes nothing, whichever branch is carried
// out.
func onlyReads(t *engine.Txn) bool {
	changes := func(op engine.Op) bool { return op.Kind != engine.Get }
	return !slices.ContainsFunc(t.Then, changes) && !slices.ContainsFunc(t.Else, changes)
}

// write sends one write until its result is known. exposed tells whether there was
// an attempt, before the one that was answered, that may have had an effect.
func (c *Client) write(ctx context.Context, op *engine.Op, id once.ID) (res engine.Result, exposed bool, err error) {
	conn, w, exposed, err := c.ask(ctx, request{method: methodWrite, op: op, opID: id})
	if err != nil {
		return engine.Result{}, exposed, err
	}
	b := w.resp.result
	if op.Kind == engine.Transact {
		b = w.keep(b) // what it has read is the caller's
	}
	res, err = parseResult(b)
	w.release()
	conn.exit()
	return res, exposed, garbled(err, store.ErrUnknown)
}
