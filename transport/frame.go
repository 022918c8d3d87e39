package transport

import (
	"encoding/binary"
	"io"
	"net"
	"runtime"
	"sync"
	"time"

	"dkv/store"
)

// A frame is a length (4 bytes, little-endian, that of what follows) and a body.
const frameHeader = 4

// beginFrame appends room for a frame's header, and endFrame fills that which is at a
// place.
func beginFrame(b []byte) (_ []byte, at int) { return append(b, 0, 0, 0, 0), len(b) }

func endFrame(b []byte, at int) {
	binary.LittleEndian.PutUint32(b[at:], uint32(len(b)-at-frameHeader))
}

func appendFrame(b, body []byte) []byte {
	b, at := beginFrame(b)
	b = append(b, body...)
	endFrame(b, at)
	return b
}

const (
	// idleBuffer is what a connection reads into while little comes, and busyBuffer
	// while much does: it is borrowed for as long as that fills the small one.
	idleBuffer = 2 << 10
	busyBuffer = 64 << 10

	// Memory is taken as a frame arrives, not because a header says so: what does not
	// fit into the small buffer waits until it has filled that, and a frame that is
	// larger than both until so much of it is there.
	largeFrom   = 32 << 10
	firstGrowth = 1 << 20
)

var busyBuffers = sync.Pool{New: func() any { return new([busyBuffer]byte) }}

// largeBuffers are *[]byte that clients have written large values from, and servers have
// read large bodies into.
var largeBuffers sync.Pool

// reuseLarge has a buffer be used again, unless it is too large to be kept.
func reuseLarge(b *[]byte) {
	if cap(*b) < 2*store.MaxValueSize {
		largeBuffers.Put(b)
	}
}

// frameReader reads frames.
type frameReader struct {
	r        io.Reader
	idle     []byte            // idleBuffer long, made when it is needed
	busy     *[busyBuffer]byte // borrowed, or nil
	buf      []byte            // one of the two
	from, to int               // what is in buf and has not been returned
	last     int               // how much came with the last read
	limit    int               // of a body, if it is not maxFrame
	reuse    bool              // nothing is kept of any body
	body     *[]byte           // borrowed for one that does not fit into buf, or nil
}

// ready tells whether the next frame is there, so that next does not wait.
func (f *frameReader) ready() bool {
	n := f.to - f.from
	return n >= frameHeader && n-frameHeader >= int(binary.LittleEndian.Uint32(f.buf[f.from:]))
}

// next returns the body of the next frame, which is good until the one after it is
// asked for. own says that it stays the caller's: it was too large for the buffer.
func (f *frameReader) next() (body []byte, own bool, err error) {
	f.giveBackBody()
	for f.to-f.from < frameHeader {
		if err := f.fill(); err != nil {
			return nil, false, err
		}
	}
	size := int(binary.LittleEndian.Uint32(f.buf[f.from:]))
	if size > maxFrame && size > f.limit {
		return nil, false, errProtocol
	}
	f.from += frameHeader
	if size > busyBuffer {
		body, err := f.large(size)
		return body, !f.reuse, err
	}
	for f.to-f.from < size {
		if err := f.fill(); err != nil {
			return nil, false, err
		}
	}
	body = f.buf[f.from : f.from+size : f.from+size]
	f.from += size
	return body, false, nil
}

// fill reads more, which there is room for.
func (f *frameReader) fill() error {
	switch {
	case f.from == f.to:
		f.from, f.to = 0, 0
		if f.last < idleBuffer {
			f.giveBack()
		}
	case f.to == len(f.buf) || f.busy == nil && f.from > 0:
		f.to = copy(f.buf, f.buf[f.from:f.to])
		f.from = 0
	}
	if f.buf == nil {
		if f.idle == nil {
			f.idle = make([]byte, idleBuffer)
		}
		f.buf = f.idle
	}
	n, err := f.r.Read(f.buf[f.to:])
	f.to += n
	if f.last = n; n > 0 {
		if f.to == len(f.buf) {
			f.borrow() // there may be much more
		}
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// borrow changes to the large buffer.
func (f *frameReader) borrow() {
	if f.busy != nil {
		return
	}
	f.busy = busyBuffers.Get().(*[busyBuffer]byte)
	f.to = copy(f.busy[:], f.buf[f.from:f.to])
	f.from, f.buf = 0, f.busy[:]
}

// giveBack returns the large buffer, in which there is nothing.
func (f *frameReader) giveBack() {
	if f.busy != nil {
		busyBuffers.Put(f.busy)
		f.busy, f.buf = nil, nil
		f.from, f.to = 0, 0
	}
}

// giveBackBody returns the memory of the last body.
func (f *frameReader) giveBackBody() {
	if f.body != nil {
		reuseLarge(f.body)
		f.body = nil
	}
}

// large reads the rest of a frame that does not fit into the buffer.
func (f *frameReader) large(size int) ([]byte, error) {
	for f.to-f.from < largeFrom {
		if err := f.fill(); err != nil {
			return nil, err
		}
	}
	var body []byte
	if f.reuse {
		if f.body, _ = largeBuffers.Get().(*[]byte); f.body == nil {
			f.body = new([]byte)
		}
		body = (*f.body)[:0]
		defer func() { *f.body = body }()
	}
	if cap(body) < min(size, firstGrowth) {
		body = make([]byte, 0, min(size, firstGrowth))
	}
	n := min(size, f.to-f.from)
	body = append(body, f.buf[f.from:f.from+n]...)
	f.from += n
	for len(body) < size {
		if len(body) == cap(body) {
			body = append(make([]byte, 0, min(size, 4*cap(body))), body...)
		}
		n, err := io.ReadFull(f.r, body[len(body):min(size, cap(body))])
		body = body[:len(body)+n]
		if err != nil {
			return nil, err
		}
	}
	return body, nil
}

const (
	writeTimeout = 10 * time.Second // for the other side to take what is written; at least half of it

	// maxUnwritten is how much waits to be written before who has more waits too.
	maxUnwritten = 1 << 20
	keepBuffer   = 256 << 10
)

// frameWriter writes what goroutines append, all that has come together with one
// call: whoever is first writes for the others.
type frameWriter struct {
	conn net.Conn

	mu       sync.Mutex
	room     *sync.Cond  // signalled when there may be room
	parts    net.Buffers // what waits, and buf behind it
	buf      []byte
	waiting  int // bytes of both
	spare    []byte
	writing  bool
	err      error
	deadline time.Time
}

func newFrameWriter(conn net.Conn) *frameWriter {
	w := &frameWriter{conn: conn}
	w.room = sync.NewCond(&w.mu)
	return w
}

// largeValue is from how many bytes on a value is written from where it is.
const largeValue = 16 << 10

// addShared is add of a frame that ends with a value which nobody changes, and which is
// not copied if it is large.
func (w *frameWriter) addShared(frame func(b []byte) []byte, value []byte) {
	if len(value) < largeValue {
		w.add(func(b []byte) []byte {
			b, at := beginFrame(b)
			b = append(frame(b), value...)
			endFrame(b, at)
			return b
		})
		return
	}
	w.add(func(b []byte) []byte {
		b, at := beginFrame(b)
		b = frame(b)
		binary.LittleEndian.PutUint32(b[at:], uint32(len(b)-at-frameHeader+len(value)))
		w.parts = append(w.parts, b, value)
		w.waiting += len(b) + len(value) // b has what was in buf, which is taken off
		return nil
	})
}

// add has frames that add appends be written with the next flush. It waits while too
// much waits already.
func (w *frameWriter) add(frames func(b []byte) []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.waiting > maxUnwritten && w.err == nil {
		if w.writing {
			w.room.Wait()
		} else {
			w.flushLocked()
		}
	}
	if w.err == nil {
		before := len(w.buf)
		w.buf = frames(w.buf)
		w.waiting += len(w.buf) - before
	}
}

// flush writes what waits, unless another does. Then that one writes it.
func (w *frameWriter) flush() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.writing {
		w.flushLocked()
	}
	return w.err
}

// gather is flush for one of many that have something to write at the same time: it
// lets the others go first.
func (w *frameWriter) gather() {
	w.mu.Lock()
	if w.writing || w.err != nil {
		w.mu.Unlock()
		return
	}
	w.writing = true
	w.mu.Unlock()
	runtime.Gosched()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writing = false
	w.flushLocked()
}

func (w *frameWriter) flushLocked() {
	for w.waiting > 0 && w.err == nil {
		b, parts := w.buf, w.parts
		w.buf, w.parts, w.waiting, w.writing = w.spare[:0], nil, 0, true
		w.spare = nil
		w.mu.Unlock()
		err := w.write(parts, b)
		w.mu.Lock()
		w.writing = false
		if cap(b) <= keepBuffer {
			w.spare = b[:0]
		}
		if err != nil {
			w.err, w.buf, w.parts, w.waiting = err, nil, nil, 0
			w.conn.Close()
		}
		w.room.Broadcast()
	}
}

// write writes parts and b within writeTimeout, or a half of that: to set a deadline costs
// something, so one serves for several writes. There is one call at a time.
func (w *frameWriter) write(parts net.Buffers, b []byte) error {
	if now := time.Now(); w.deadline.Sub(now) < writeTimeout/2 {
		w.deadline = now.Add(writeTimeout)
		if err := w.conn.SetWriteDeadline(w.deadline); err != nil {
			return err
		}
	}
	if len(parts) > 0 {
		if len(b) > 0 {
			parts = append(parts, b)
		}
		_, err := parts.WriteTo(w.conn)
		return err
	}
	_, err := w.conn.Write(b)
	return err
}
