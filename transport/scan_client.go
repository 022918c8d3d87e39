package transport

import (
	"cmp"
	"context"
	"fmt"
	"iter"

	"dkv/internal/ops"
	"dkv/store"
)

// Scan implements store.Store. It gets the entries in pages of up to 1024, all of
// one state, which one server holds: if the connection to it is lost, the scan ends
// with store.ErrUnavailable, and it can be gone on with, on another state, behind
// the last key that was yielded. So it does if the loop takes longer than a minute
// over one page. It ends with store.ErrBusy if there are 64 scans under way already
// that do not fit one page.
func (c *Client) Scan(ctx context.Context, r store.Range) iter.Seq2[store.Entry, error] {
	return func(yield func(store.Entry, error) bool) {
		if err := c.scan(ctx, r, func(e store.Entry) bool { return yield(e, nil) }); err != nil {
			yield(store.Entry{}, err)
		}
	}
}

// scan yields entries until there are no more, which is no error, or yield is
// false, which is none either.
func (c *Client) scan(ctx context.Context, r store.Range, yield func(store.Entry) bool) error {
	if err := cmp.Or(r.Check(), ops.CheckContext(ctx)); err != nil {
		return err
	}
	conn, w, _, err := c.ask(ctx, request{method: methodScan, arg: appendRange(nil, r)})
	if err != nil {
		return err
	}
	s := remoteScan{client: c, conn: conn, id: w.id, open: true}
	defer s.giveUp()

	p, err := parsePage(w.keep(w.resp.result), r.KeysOnly)
	w.release()
	if err != nil {
		return garbled(err, store.ErrUnavailable)
	}
	revision := p.revision
	if r.At != nil {
		*r.At = revision
	}
	for {
		if !p.more {
			s.over()
		}
		for e, ok := p.next(); ok; e, ok = p.next() {
			if err := ops.CheckContext(ctx); err != nil {
				return err
			}
			if !yield(e) {
				return nil
			}
		}
		if err := p.err(); err != nil {
			return garbled(err, store.ErrUnavailable)
		}
		if !p.more {
			return nil
		}
		b, err := s.next(ctx)
		if err != nil {
			return err
		}
		p, err = parsePage(b, r.KeysOnly)
		if err == nil && p.revision != revision {
			err = errProtocol
		}
		if err != nil {
			return garbled(err, store.ErrUnavailable)
		}
	}
}

// remoteScan is a scan that a server holds. The connection stays until it is over,
// even if others do not use it any longer.
type remoteScan struct {
	client *Client
	conn   *clientConn
	id     uint64
	open   bool // the server may have a cursor
}

// over lets the connection go, when the server has no cursor.
func (s *remoteScan) over() {
	if s.open {
		s.open = false
		s.conn.exit()
	}
}

// giveUp has the server drop the cursor if there is one.
func (s *remoteScan) giveUp() {
	if s.open {
		s.conn.tell(methodScanStop, s.id)
		s.over()
	}
}

// next returns the next page.
func (s *remoteScan) next(ctx context.Context) ([]byte, error) {
	if err := ops.CheckContext(ctx); err != nil {
		return nil, err
	}
	w, _, err := s.conn.roundTrip(ctx, request{method: methodScanNext, arg: appendScan(nil, s.id)}, false)
	if err == nil {
		resp := w.resp
		resp.result = w.keep(resp.result)
		w.release()
		if resp.code == 0 {
			return resp.result, nil
		}
		s.over()
		if resp.code != uint64(store.ErrClosed.Code()) {
			return nil, resp.err(store.ErrUnavailable)
		}
		err = resp.err(store.ErrUnavailable) // the server closes
	}
	if closed := s.client.Live(); closed != nil {
		return nil, closed
	}
	if ctx.Err() != nil {
		return nil, ops.Ended(store.ErrUnavailable, ctx)
	}
	return nil, fmt.Errorf("%w: the rest of the scan is lost: %v", store.ErrUnavailable, err)
}
