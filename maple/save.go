package maple

import (
	"bufio"
	"encoding/binary"
	"io"
	"runtime"
	"sync"
	"sync/atomic"

	"dkv/internal/block"
	"dkv/store/engine"

	"github.com/cespare/xxhash/v2"
)

// A saved state is a stream of blocks: a header, any number of blocks of entries,
// and an end that counts the entries. The first byte of a block's payload is its
// type. The entries come by space and in the order of their keys, so that whoever
// loads them need not sort; of each key only what differs from the one before it
// in the same block is written.
const (
	blockHeader  = 'H'
	blockEntries = 'E'
	blockEnd     = 'Z'

	magic         = "dkv maple"
	streamVersion = 3

	blockTarget = 128 << 10 // a block of entries is written when it is that long
)

// The flags of a saved entry: when its deadlines count from, and what it is.
const (
	noDeadlines      = iota
	settled          // they are readings of the clock
	fromLastTick     // they are durations in the settling epoch
	fromNextTick     // they are durations in the open epoch
	deadlineClassBit = 3
	expiredFlag      = 1 << 2
	pastFlag         = 1 << 3 // on one that has not expired, too
	spaceShift       = 4
)

// Save writes the state that the view shows. It takes memory for a few blocks for
// each processor, not for the state: segments of the keys are encoded by as many
// goroutines as there are processors, and written by this one in their order.
func (v *View) Save(w io.Writer) error {
	bw := bufio.NewWriterSize(w, blockTarget)
	blocks := block.NewWriter(bw)
	if err := blocks.Write(v.header()); err != nil {
		return err
	}
	s := saver{view: v, stop: make(chan struct{})}
	workers := runtime.GOMAXPROCS(0)
	s.spare = make(chan []byte, 2*workers*(blocksAhead+1))
	next := make(chan *segment)
	inOrder := make(chan *segment, workers)
	var working sync.WaitGroup
	defer working.Wait()
	defer close(s.stop)
	working.Go(func() { s.hand(next, inOrder) })
	for range workers {
		working.Go(func() {
			for seg := range next {
				s.encode(seg)
			}
		})
	}
	for seg := range inOrder {
		for buf := range seg.blocks {
			if err := blocks.Write(buf); err != nil {
				return err
			}
			s.recycle(buf)
		}
	}
	if err := blocks.Write(binary.AppendUvarint([]byte{blockEnd}, s.count.Load())); err != nil {
		return err
	}
	return bw.Flush()
}

// saver is a Save under way.
type saver struct {
	view  *View
	count atomic.Uint64 // entries
	stop  chan struct{} // closed when nothing more is wanted
	spare chan []byte   // memory of blocks that have been written
}

// blocksAhead is how many blocks a goroutine may be ahead of what is written.
const blocksAhead = 4

// segment is the keys of a space from one up to another.
type segment struct {
	space    engine.Space
	from, to string
	blocks   chan []byte // closed when there are no more
}

// hand hands out all segments, to those who encode them and to the one who writes
// them. What is a group of the order now makes a good segment.
func (s *saver) hand(next, inOrder chan<- *segment) {
	defer close(inOrder)
	defer close(next)
	for space := range engine.Spaces {
		lows := s.view.db.spaces[space].order.root.Load().lows
		for i, low := range lows {
			seg := &segment{space: space, from: low, blocks: make(chan []byte, blocksAhead)}
			if i+1 < len(lows) {
				seg.to = lows[i+1]
			}
			for _, to := range []chan<- *segment{inOrder, next} {
				select {
				case to <- seg:
				case <-s.stop:
					return
				}
			}
		}
	}
}

// encode makes the blocks of a segment.
func (s *saver) encode(seg *segment) {
	defer close(seg.blocks)
	var count uint64
	var buf []byte // the block that is being made, nil if none is
	var last string
	stopped := false
	send := func() {
		select {
		case seg.blocks <- buf:
			buf, last = nil, ""
		case <-s.stop:
			stopped = true
		}
	}
	s.view.walk(seg.space, seg.from, seg.to, false, func(r *record) bool {
		if buf == nil {
			buf = s.block()
		}
		buf = s.view.appendRecord(buf, seg.space, r, last)
		last = r.key()
		count++
		if len(buf) >= blockTarget {
			send()
		}
		return !stopped
	})
	if buf != nil && !stopped {
		send()
	}
	s.count.Add(count)
}

// block returns the beginning of a block of entries.
func (s *saver) block() []byte {
	select {
	case b := <-s.spare:
		return append(b[:0], blockEntries)
	default:
		return append(make([]byte, 0, blockTarget+blockTarget/8), blockEntries)
	}
}

// recycle keeps the memory of a block, unless it is a large one.
func (s *saver) recycle(b []byte) {
	if cap(b) > 2*blockTarget {
		return
	}
	select {
	case s.spare <- b:
	default:
	}
}

func (v *View) header() []byte {
	b := append([]byte{blockHeader}, magic...)
	b = binary.AppendUvarint(b, streamVersion)
	for space := range engine.Spaces {
		// So many there are now, which may be other than in the view: a hint.
		b = binary.AppendUvarint(b, uint64(v.db.spaces[space].keys.Value()))
	}
	return v.appendMoment(b)
}

// appendMoment appends what the view shows besides entries.
func (v *View) appendMoment(b []byte) []byte {
	b = binary.AppendUvarint(b, v.revision)
	b = binary.AppendUvarint(b, uint64(v.now))
	settling, open := v.revision, v.revision
	if v.epochs.settling != nil {
		settling, open = v.epochs.settling.after, v.epochs.open.after
	}
	b = binary.AppendUvarint(b, settling)
	return binary.AppendUvarint(b, open)
}

// appendRecord appends one entry. Last is the key of the one before it, or "".
func (v *View) appendRecord(b []byte, space engine.Space, r *record, last string) []byte {
	flags := byte(space) << spaceShift
	d := r.deadlines()
	var expire, delete int64
	if d != nil {
		expire, delete = d.expire.Load(), d.delete.Load()
		switch e := v.epochOf(r); {
		case e == nil:
			flags |= settled
		case e == v.epochs.settling:
			flags |= fromLastTick
			expire, delete = e.duration(expire), e.duration(delete)
		default:
			flags |= fromNextTick
			expire, delete = e.duration(expire), e.duration(delete)
		}
	}
	if r.kind() == expired {
		flags |= expiredFlag
	}
	hasPast := r.past() != nil
	if hasPast {
		flags |= pastFlag
	}
	b = append(b, flags)
	b = binary.AppendUvarint(b, r.rev)
	if hasPast {
		b = binary.AppendUvarint(b, r.rev-r.written())
		b = binary.AppendUvarint(b, r.rev-r.since())
	}
	key := r.key()
	shared := 0
	for shared < min(len(key), len(last)) && key[shared] == last[shared] {
		shared++
	}
	b = binary.AppendUvarint(b, uint64(shared))
	b = binary.AppendUvarint(b, uint64(len(key)-shared))
	b = append(b, key[shared:]...)
	b = binary.AppendUvarint(b, uint64(r.valueLen()))
	b = append(b, r.value()...)
	if d != nil {
		b = binary.AppendUvarint(b, uint64(expire))
		b = binary.AppendUvarint(b, uint64(delete))
	}
	return b
}

// Checksum returns a hash of what the view shows: keys, values, revisions,
// deadlines and time. Equal states have equal checksums, on every replica.
func (v *View) Checksum() uint64 {
	b := v.appendMoment(nil)
	sum := xxhash.Sum64(b)
	for space := range engine.Spaces {
		v.db.spaces[space].table.all(func(sh *shard, head *record) {
			if r := v.version(sh, head); r != nil && r.kind() != tombstone {
				b = v.appendRecord(b[:0], space, r, "")
				sum += xxhash.Sum64(b) // a sum, because the table has no order
			}
		})
	}
	return sum
}
