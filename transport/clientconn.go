package transport

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// clientConn is a connection to a server. One goroutine writes requests, another
// reads responses; both end when it has failed.
type clientConn struct {
	conn   net.Conn
	queue  chan *outgoing
	stops  chan uint64   // scans to be given up, which nobody waits for
	failed chan struct{} // closed when the connection is of no use any longer
	heard  atomic.Int64  // when something was last read, in nanoseconds since began
	began  time.Time

	calls struct {
		sync.Mutex
		pending int // callers, from enter to exit
		failed  bool
		retired bool // takes no new callers, and fails when the last has gone
		parted  bool // the server takes no more requests
		last    uint64
		wait    map[uint64]chan response // of requests that were sent; have room for one
	}
}

// outgoing is a request that waits to be written. Under clientConn.calls, either
// the writer gives it an id and sends it, or its caller leaves first.
type outgoing struct {
	request
	wait chan response // nil if nobody waits
	left bool
}

func dialServer(ctx context.Context, endpoint string) (*clientConn, error) {
	conn, err := dial(ctx, endpoint)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	_, err = conn.Write(hello)
	if err == nil {
		err = readHello(conn)
	}
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	c := &clientConn{
		conn:   conn,
		queue:  make(chan *outgoing, maxQueued),
		stops:  make(chan uint64, maxQueued),
		failed: make(chan struct{}),
		began:  time.Now(),
	}
	c.calls.wait = make(map[uint64]chan response)
	return c, nil
}

// stuck tells whether the server has been silent for so long that it may not be
// there any longer.
func (c *clientConn) stuck() bool {
	return time.Since(c.began)-time.Duration(c.heard.Load()) > silence
}

// fail ends the connection and all that waits for it.
func (c *clientConn) fail() {
	c.calls.Lock()
	defer c.calls.Unlock()
	c.failLocked()
}

func (c *clientConn) failLocked() {
	if !c.calls.failed {
		c.calls.failed = true
		close(c.failed)
		c.conn.Close()
	}
}

// retire ends the connection once nothing waits for it.
func (c *clientConn) retire() {
	c.calls.Lock()
	defer c.calls.Unlock()
	c.calls.retired = true
	if c.calls.pending == 0 {
		c.failLocked()
	}
}

// read hands out responses until the connection fails.
func (c *clientConn) read() {
	defer c.fail()
	for r := bufio.NewReader(c.conn); ; {
		body, err := readFrame(r)
		if err != nil {
			return
		}
		resp, err := parseResponse(body)
		if err != nil {
			return
		}
		c.heard.Store(int64(time.Since(c.began)))
		if resp.id == 0 {
			c.parted(resp)
			return
		}
		c.answered(resp)
	}
}

func (c *clientConn) answered(resp response) {
	c.calls.Lock()
	defer c.calls.Unlock()
	if wait := c.calls.wait[resp.id]; wait != nil {
		delete(c.calls.wait, resp.id)
		wait <- resp
	}
}

// parted tells those whose requests the server has not taken before it closed.
func (c *clientConn) parted(goodbye response) {
	last, n := binary.Uvarint(goodbye.result)
	if n <= 0 {
		return
	}
	c.calls.Lock()
	defer c.calls.Unlock()
	c.calls.parted = true
	for id, wait := range c.calls.wait {
		if id > last {
			delete(c.calls.wait, id)
			wait <- response{id: id, code: goodbye.code}
		}
	}
}

// write writes requests until the connection fails: all that wait with one flush.
func (c *clientConn) write() {
	defer c.fail()
	var body []byte
	for w := bufio.NewWriterSize(c.conn, 64<<10); ; {
		var out *outgoing
		select {
		case out = <-c.queue:
		case scan := <-c.stops:
			out = &outgoing{request: request{method: methodScanStop, arg: appendScan(nil, scan)}}
		case <-c.failed:
			return
		}
		if c.send(out) {
			body = out.append(body[:0])
			c.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
			if writeFrame(w, body) != nil {
				return
			}
			if cap(body) > 1<<20 {
				body = nil
			}
		}
		if len(c.queue) == 0 && len(c.stops) == 0 && w.Flush() != nil {
			return
		}
	}
}

// send gives a request its id, in the order in which requests are written. It is
// false if the caller has left or the server would not take it.
func (c *clientConn) send(out *outgoing) bool {
	c.calls.Lock()
	defer c.calls.Unlock()
	if out.left || c.calls.parted {
		return false
	}
	c.calls.last++
	out.id = c.calls.last
	if out.wait != nil {
		c.calls.wait[out.id] = out.wait
	}
	return true
}

var errConnection = errors.New("the connection has failed")

// enter makes the caller one that the connection stays for until exit, unless it
// fails.
func (c *clientConn) enter() error {
	c.calls.Lock()
	defer c.calls.Unlock()
	if c.calls.failed || c.calls.retired {
		return errConnection
	}
	c.calls.pending++
	return nil
}

// exit undoes enter.
func (c *clientConn) exit() {
	c.calls.Lock()
	defer c.calls.Unlock()
	if c.calls.pending--; c.calls.pending == 0 && c.calls.retired {
		c.failLocked()
	}
}

// giveUp has the server told that a scan is over, and does not wait. If there is
// no room, the server finds out when the scan has been idle for long enough.
func (c *clientConn) giveUp(scan uint64) {
	select {
	case c.stops <- scan:
	default:
	}
}

// roundTrip sends a request and waits for its response, for one who has entered.
// sent says whether the server may have got it.
func (c *clientConn) roundTrip(ctx context.Context, m method, arg []byte) (resp response, sent bool, err error) {
	out := &outgoing{request: request{method: m, arg: arg}, wait: make(chan response, 1)}
	if deadline, ok := ctx.Deadline(); ok {
		out.timeout = max(1, time.Until(deadline))
	}

	select {
	case c.queue <- out:
		select {
		case resp = <-out.wait:
			return resp, true, nil
		case <-ctx.Done():
			err = ctx.Err()
		case <-c.failed:
			err = errConnection
		}
	case <-ctx.Done():
		err = ctx.Err()
	case <-c.failed:
		err = errConnection
	}
	id := c.leave(out)
	select {
	case resp = <-out.wait:
		return resp, true, nil
	default:
	}
	if id != 0 && m == methodScan {
		c.giveUp(id) // the server may have opened it, or be about to
	}
	return response{}, id != 0, err
}

// leave ends a caller's wait and returns the id of its request, 0 if that was not
// sent.
func (c *clientConn) leave(out *outgoing) (id uint64) {
	c.calls.Lock()
	defer c.calls.Unlock()
	out.left = true
	delete(c.calls.wait, out.id)
	return out.id
}
