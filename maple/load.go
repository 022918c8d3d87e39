package maple

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"sync"

	"dkv/internal/block"
	"dkv/internal/field"
	"dkv/store/engine"
)

// ErrCorrupt is returned for a stream that is not one that Save wrote, whole and
// unharmed.
var ErrCorrupt = block.ErrCorrupt

var (
	errForeign   = errors.New("not a saved state")
	errMalformed = errors.New("malformed")
	errDisorder  = errors.New("a key is not in its order")
)

// Load returns a DB with the state that Save wrote. With a clock, what time was
// left to each entry when it was saved is left to it now.
//
// The blocks are read by one goroutine and made into records in the table by as
// many as there are processors; they are few at a time, so that Load takes little
// memory beside the state. What depends on the order of the keys is done by one
// more, block after block.
func Load(r io.Reader, opts engine.Options) (*DB, error) {
	l := loader{db: New(opts), stop: make(chan struct{})}
	l.spare = make(chan []byte, 2*runtime.GOMAXPROCS(0)+2)
	parsing := make(chan *section)
	linking := make(chan *section, cap(l.spare)-2)

	var working sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		working.Go(func() {
			for s := range parsing {
				s.err = l.parse(s)
				close(s.parsed)
			}
		})
	}
	var linked error
	working.Go(func() { linked = l.link(linking) })

	err := l.read(r, parsing, linking)
	close(parsing)
	close(linking)
	working.Wait()
	if linked != nil {
		err = linked // of an earlier block
	}
	if err != nil {
		return nil, fmt.Errorf("maple: load: %w", err)
	}
	return l.db, nil
}

// loader is a Load under way.
type loader struct {
	db     *DB
	header header
	ended  bool          // the stream has come to its end
	count  uint64        // of entries, as its end has it
	stop   chan struct{} // closed when a block has turned out to be no good
	spare  chan []byte   // memory of blocks that are done with
}

// section is a block of entries on its way.
type section struct {
	offset  int64
	payload []byte
	parsed  chan struct{} // closed when what follows is set

	space   engine.Space
	records []*record
	places  []place
	err     error
}

// read hands out the blocks of entries, and takes in what stands around them.
func (l *loader) read(r io.Reader, parsing, linking chan<- *section) error {
	blocks := block.NewReader(bufio.NewReaderSize(r, blockTarget))
	for started := false; ; {
		offset := blocks.Offset()
		payload, err := blocks.Next()
		switch {
		case err == io.EOF && l.ended:
			return nil
		case err == io.EOF:
			return fmt.Errorf("%w: no end at offset %d", ErrCorrupt, offset)
		case err != nil:
			return err
		case l.ended:
			return fmt.Errorf("%w: more behind the end at offset %d", ErrCorrupt, offset)
		case len(payload) == 0:
			return corrupt(offset, errMalformed)
		}
		kind, payload := payload[0], payload[1:]
		switch {
		case !started && kind != blockHeader:
			return corrupt(offset, errForeign)
		case !started:
			if err := l.begin(payload); err != nil {
				return corrupt(offset, err)
			}
			started = true
		case kind == blockEntries && len(payload) > 0:
			s := &section{offset: offset, payload: l.copy(payload), parsed: make(chan struct{})}
			select {
			case <-l.stop:
				return nil
			case parsing <- s:
			}
			linking <- s
		case kind == blockEnd:
			n := 0
			if l.count, n = binary.Uvarint(payload); n <= 0 || n != len(payload) {
				return corrupt(offset, errMalformed)
			}
			l.ended = true
		default:
			return corrupt(offset, errMalformed)
		}
	}
}

func corrupt(offset int64, err error) error {
	return fmt.Errorf("%w: block at offset %d: %w", ErrCorrupt, offset, err)
}

// copy copies a payload, whose memory the next one has, to memory that a block
// before has left.
func (l *loader) copy(payload []byte) []byte {
	select {
	case b := <-l.spare:
		return append(b[:0], payload...)
	default:
		return append(make([]byte, 0, blockTarget+blockTarget/4), payload...)
	}
}

// parse makes the entries of a block and puts them in the table.
func (l *loader) parse(s *section) error {
	const usual = blockTarget / 128
	s.records = make([]*record, 0, usual)
	s.places = make([]place, 0, usual)
	p := parser{header: &l.header, clock: l.db.clock, b: s.payload}
	if p.clock != nil {
		p.now = l.db.now()
	}
	for len(p.b) > 0 {
		space, r, err := p.next()
		if err != nil {
			return err
		}
		if len(s.records) == 0 {
			s.space = space
		} else if space != s.space {
			return errMalformed
		}
		s.records = append(s.records, r)
	}
	t := l.db.spaces[s.space].table
	for _, r := range s.records {
		t.touch(t.place(r.key()))
	}
	for _, r := range s.records {
		place := t.lock(r.key())
		place.put(r)
		place.unlock()
		s.places = append(s.places, place.place)
	}
	if cap(s.payload) <= 2*blockTarget {
		select {
		case l.spare <- s.payload:
		default:
		}
	}
	s.payload = nil
	return nil
}

// link does with block after block what remains to be done: their keys get their
// order, their deadlines their reminders. After an error it goes on only so that
// nobody waits for it.
func (l *loader) link(sections <-chan *section) (err error) {
	var orders [engine.Spaces]orderBuilder
	var count uint64
	last := engine.Space(0)
	for s := range sections {
		<-s.parsed
		if err == nil {
			if err = s.err; err == nil && s.space < last {
				err = errDisorder
			}
			if last = max(last, s.space); err == nil {
				err = l.add(s, &orders[s.space])
			}
			if err != nil {
				err = corrupt(s.offset, err)
				close(l.stop)
			}
			count += uint64(len(s.records))
		}
	}
	if err != nil {
		return err
	}
	for space := range orders {
		orders[space].finish(l.db.spaces[space].order)
	}
	if l.ended && count != l.count {
		return fmt.Errorf("%w: %d entries read, %d were written", ErrCorrupt, count, l.count)
	}
	return nil
}

func (l *loader) add(s *section, order *orderBuilder) error {
	db, sp := l.db, &l.db.spaces[s.space]
	var bytes, size int64
	for i, r := range s.records {
		key := r.key()
		if key <= order.last {
			return errDisorder
		}
		order.add(key, s.places[i])
		db.schedule(s.space, s.places[i], r)
		bytes += int64(r.keyLen() + r.valueLen())
		size += r.size()
	}
	sp.keys.Add(int64(len(s.records)))
	if s.space == engine.Keys {
		db.bytes.Add(bytes)
	}
	db.size.Add(size)
	return nil
}

// header is what a stream says before its entries.
type header struct {
	revision uint64
	now      int64 // the reading of the clock when the state was saved

	// The revisions after which the epochs of the saved state began.
	settling, open uint64
}

// begin reads the header.
func (l *loader) begin(b []byte) error {
	if len(b) < len(magic) || string(b[:len(magic)]) != magic {
		return errForeign
	}
	f := field.NewReader(b[len(magic):])
	version := f.Uvarint()
	if !f.Bad() && version != streamVersion {
		return fmt.Errorf("version %d is not known, %d is", version, streamVersion)
	}
	var hints [engine.Spaces]uint64
	for space := range hints {
		hints[space] = f.Uvarint()
	}
	h := &l.header
	h.revision = f.Uvarint()
	now := f.Uvarint()
	h.settling, h.open = f.Uvarint(), f.Uvarint()
	if !f.Complete() || now > math.MaxInt64 || h.settling > h.open || h.open > h.revision {
		return errMalformed
	}
	h.now = int64(now)
	db := l.db
	for space, n := range hints {
		// However great the number may be, the entries have yet to come.
		const atMost = 1 << 21
		db.spaces[space].table.reserve(int(min(n, atMost)))
	}
	db.revision.Store(h.revision)
	if db.clock == nil {
		db.ticked.Store(h.now)
		db.epochs.Store(&epochs{settling: newEpoch(h.settling), open: newEpoch(h.open)})
	}
	return nil
}
