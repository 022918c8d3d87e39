package transport

import (
	"context"
	"fmt"
	"iter"
	"sync"
	"time"

	"dkv/store"
)

const (
	// maxCursors is how many of a connection's scans may have more than one page
	// at a time.
	maxCursors = 64

	// idleTimeout is how long a cursor waits for its next page to be asked for.
	idleTimeout = time.Minute

	// The first page is small, so that a loop that is soon left has cost little.
	// A page has one entry at least, however large that is.
	firstPageEntries = 128
	firstPageBytes   = 64 << 10
	pageEntries      = 1024
	pageBytes        = 256 << 10
)

// cursors are the scans under way of one connection. What a request does to them
// is settled in receive, by the one goroutine that reads the connection, and so in
// the order in which requests arrive: a scan that is given up makes room for the
// one that is opened next, and is found even if its first page has not been begun.
type cursors struct {
	ctx     context.Context // of the connection
	backend store.Store
	clock   store.Clock
	ending  sync.WaitGroup // of cursors that were idle for too long

	mu struct {
		sync.Mutex
		open map[uint64]*cursor // by the id of the request that opened it
		kept int                // those in open that are kept; kept <= maxCursors
	}
}

// cursor is a scan under way. Whoever has it, a request while it is busy and
// otherwise the one who takes it out of cursors.open, has it alone.
type cursor struct {
	id     uint64
	ctx    context.Context // of the whole scan
	cancel context.CancelFunc

	// Of whoever has it. The entry in hand is the one that the next page begins
	// with: only by taking it does one learn whether there is a next page.
	next     func() (store.Entry, error, bool)
	stop     func()
	revision store.Revision
	entry    store.Entry
	err      error
	ok       bool // there is something in hand, entry or err

	// Under cursors.mu.
	busy   bool        // a request has it
	kept   bool        // it is beyond its first page
	gone   bool        // it is not in open any longer; if busy, the request ends it
	turn   uint64      // counts the times that it has become idle
	disarm func() bool // stops the timer; not nil if and only if idle
}

func newCursors(ctx context.Context, b store.Store, clock store.Clock) *cursors {
	cs := &cursors{ctx: ctx, backend: b, clock: clock}
	cs.mu.open = make(map[uint64]*cursor)
	return cs
}

// scanRequest answers a request about a scan.
type scanRequest func(context.Context) ([]byte, error)

// receive takes in a request and returns what answers it if it is about a scan,
// else nil. What it returns has to be called.
func (cs *cursors) receive(req request) scanRequest {
	switch req.method {
	case methodScan:
		c, err := cs.open(req.id)
		return func(ctx context.Context) ([]byte, error) {
			if err != nil {
				return nil, err
			}
			return cs.first(ctx, c, req.arg)
		}
	case methodScanNext:
		c, err := cs.take(req.arg)
		return func(ctx context.Context) ([]byte, error) {
			if err != nil {
				return nil, err
			}
			return cs.page(ctx, c, pageEntries, pageBytes)
		}
	case methodScanStop:
		c, err := cs.giveUp(req.arg)
		return func(context.Context) ([]byte, error) {
			if c != nil {
				c.end()
			}
			return nil, err
		}
	}
	return nil
}

// open makes a cursor for the request that has the id.
func (cs *cursors) open(id uint64) (*cursor, error) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.mu.open[id] != nil {
		return nil, errProtocol
	}
	c := &cursor{id: id, busy: true}
	c.ctx, c.cancel = context.WithCancel(cs.ctx)
	cs.mu.open[id] = c
	return c, nil
}

// take makes the cursor that arg names busy.
func (cs *cursors) take(arg []byte) (*cursor, error) {
	id, err := parseScan(arg)
	if err != nil {
		return nil, err
	}
	cs.mu.Lock()
	defer cs.mu.Unlock()
	c := cs.mu.open[id]
	switch {
	case c == nil:
		return nil, fmt.Errorf("%w: the scan has been given up", store.ErrUnavailable)
	case c.busy:
		return nil, fmt.Errorf("%w: the scan's last page is still under way", store.ErrBusy)
	}
	c.busy = true
	c.disarm()
	c.disarm = nil
	return c, nil
}

// giveUp takes the cursor that arg names away, and returns it if the caller has to
// end it.
func (cs *cursors) giveUp(arg []byte) (*cursor, error) {
	id, err := parseScan(arg)
	if err != nil {
		return nil, err
	}
	cs.mu.Lock()
	defer cs.mu.Unlock()
	c := cs.mu.open[id]
	if c == nil {
		return nil, nil
	}
	cs.removeLocked(c)
	if c.busy {
		c.cancel() // and the request that has it ends it soon
		return nil, nil
	}
	return c, nil
}

func (cs *cursors) removeLocked(c *cursor) {
	delete(cs.mu.open, c.id)
	c.gone = true
	if c.kept {
		cs.mu.kept--
	}
	if c.disarm != nil {
		c.disarm()
		c.disarm = nil
	}
}

// first begins the scan and returns its first page.
func (cs *cursors) first(ctx context.Context, c *cursor, arg []byte) ([]byte, error) {
	r, err := parseRange(arg)
	if err != nil {
		cs.putBack(c, false)
		return nil, err
	}
	r.At = &c.revision
	c.next, c.stop = iter.Pull2(cs.backend.Scan(c.ctx, r))
	return cs.page(ctx, c, firstPageEntries, firstPageBytes)
}

// page returns the next page of a cursor that the caller has, and puts the cursor
// back.
func (cs *cursors) page(ctx context.Context, c *cursor, maxEntries, maxBytes int) ([]byte, error) {
	// A scan may wait, for a quorum for one; only the end of its own context ends
	// that. So it ends with a page that is late.
	inTime := context.AfterFunc(ctx, c.cancel)
	b, err := c.page(maxEntries, maxBytes)
	inTime()
	if busy := cs.putBack(c, err == nil && c.ok); err == nil {
		err = busy
	}
	return b, err
}

// putBack makes a cursor idle if there is more to come, and otherwise ends it. It
// returns store.ErrBusy if there is no room for another that is idle.
func (cs *cursors) putBack(c *cursor, more bool) (err error) {
	cs.mu.Lock()
	c.busy = false
	if more && !c.gone && !c.kept {
		if cs.mu.kept == maxCursors {
			err = fmt.Errorf("%w: %d scans of the connection are under way", store.ErrBusy, maxCursors)
			more = false
		} else {
			cs.mu.kept++
			c.kept = true
		}
	}
	if more && !c.gone {
		defer cs.mu.Unlock()
		c.turn++
		turn := c.turn
		c.disarm = cs.clock.AfterFunc(idleTimeout, func() { cs.expire(c, turn) })
		return nil
	}
	if !c.gone {
		cs.removeLocked(c)
	}
	cs.mu.Unlock()
	c.end()
	return err
}

// expire ends a cursor that has been idle since the turn.
func (cs *cursors) expire(c *cursor, turn uint64) {
	cs.mu.Lock()
	if c.gone || c.busy || c.turn != turn {
		cs.mu.Unlock()
		return
	}
	cs.removeLocked(c)
	cs.ending.Add(1)
	cs.mu.Unlock()
	defer cs.ending.Done()
	c.end()
}

// close ends all cursors, when no request has one any longer.
func (cs *cursors) close() {
	cs.mu.Lock()
	var left []*cursor
	for _, c := range cs.mu.open {
		cs.removeLocked(c)
		left = append(left, c)
	}
	cs.mu.Unlock()
	for _, c := range left {
		c.end()
	}
	cs.ending.Wait()
}

// page returns the next page, of which there is one at least; c.ok then tells
// whether it is not the last. An error that comes behind an entry is left for the
// page after.
func (c *cursor) page(maxEntries, maxBytes int) ([]byte, error) {
	if !c.ok {
		c.advance()
	}
	if c.err != nil {
		return nil, c.err
	}
	b := appendPageHeader(nil, c.revision)
	for n := 0; c.ok && c.err == nil; n++ {
		size := len(b) + len(c.entry.Key) + len(c.entry.Value) + entryOverhead
		if n > 0 && (n == maxEntries || size > maxBytes) {
			break
		}
		b = appendPageEntry(b, c.entry)
		c.advance()
	}
	if c.ok {
		b[pageMore] = 1
	}
	return b, nil
}

func (c *cursor) advance() { c.entry, c.err, c.ok = c.next() }

// end lets go of what the scan holds.
func (c *cursor) end() {
	c.cancel()
	if c.stop != nil {
		c.stop()
	}
}
