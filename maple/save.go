package maple

import (
	"bufio"
	"encoding/binary"
	"io"
	"sync"

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
	streamVersion = 2

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
	spaceShift       = 3
)

// Save writes the state that the view shows. It takes memory for a few blocks,
// not for the state. One goroutine looks the entries up while this one encodes and
// writes those before.
func (v *View) Save(w io.Writer) error {
	bw := bufio.NewWriterSize(w, blockTarget)
	blocks := block.NewWriter(bw)
	if err := blocks.Write(v.header()); err != nil {
		return err
	}
	found := make(chan batch, 2)
	stop := make(chan struct{})
	var finding sync.WaitGroup
	finding.Go(func() {
		defer close(found)
		v.find(found, stop)
	})
	defer finding.Wait()
	defer close(stop)

	var count uint64
	buf := make([]byte, 1, blockTarget+blockTarget/8)
	buf[0] = blockEntries
	flush := func() error {
		if len(buf) == 1 {
			return nil
		}
		err := blocks.Write(buf)
		buf = buf[:1]
		return err
	}
	space, last := engine.Space(0), ""
	for b := range found {
		if b.space != space {
			if err := flush(); err != nil {
				return err
			}
			space, last = b.space, ""
		}
		for _, r := range b.records {
			buf = v.appendRecord(buf, space, r, last)
			last = r.key()
			if len(buf) >= blockTarget {
				if err := flush(); err != nil {
					return err
				}
				last = ""
			}
		}
		count += uint64(len(b.records))
	}
	if err := flush(); err != nil {
		return err
	}
	if err := blocks.Write(binary.AppendUvarint([]byte{blockEnd}, count)); err != nil {
		return err
	}
	return bw.Flush()
}

// batch is some entries of a space, in their order.
type batch struct {
	space   engine.Space
	records []*record
}

// find sends all entries that the view shows, unless it is stopped.
func (v *View) find(found chan<- batch, stop <-chan struct{}) {
	const atOnce = 1024
	for space := range engine.Spaces {
		b := batch{space: space}
		send := func() bool {
			select {
			case found <- b:
				b.records = make([]*record, 0, atOnce)
				return true
			case <-stop:
				return false
			}
		}
		stopped := false
		v.walk(space, "", "", false, func(r *record) bool {
			b.records = append(b.records, r)
			stopped = len(b.records) == atOnce && !send()
			return !stopped
		})
		if stopped || len(b.records) > 0 && !send() {
			return
		}
	}
}

func (v *View) header() []byte {
	b := append([]byte{blockHeader}, magic...)
	b = binary.AppendUvarint(b, streamVersion)
	for space := range engine.Spaces {
		// So many there are now, which may be other than in the view: a hint.
		b = binary.AppendUvarint(b, uint64(v.db.spaces[space].keys.Load()))
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
	flags := byte(space)<<spaceShift | noDeadlines
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
	b = append(b, flags)
	b = binary.AppendUvarint(b, r.rev)
	if r.kind() == expired {
		p := r.past()
		b = binary.AppendUvarint(b, r.rev-r.written())
		b = binary.AppendUvarint(b, r.rev-p.since)
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
