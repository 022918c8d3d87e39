package raftlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"

	pb "github.com/lni/dragonboat/v4/raftpb"
)

// A record is a header and a payload:
//
//	checksum  4 bytes  CRC32C of all that follows, begun with the segment's number
//	size      4 bytes  of the payload
//	synced    4 bytes  how much of the segment was on the disk before this was written
//	tag       3 bytes  the segment's
//	kind      1 byte
//
// Numbers in the header are little-endian, in payloads they are uvarints. The
// segment's number in the checksum keeps what a file held before from being taken
// for a part of the segment. The tag is there to find records by, among what else
// there may be.
const (
	headerSize = 16
	tagAt      = 12

	maxPayload = 1 << 30
)

// kind says what a record's payload is.
type kind uint8

const (
	kindHead   kind = 1 + iota // of a segment: the version, what came before, and a meta
	kindMeta                   // all that is not an entry
	kindAppend                 // the Raft state and entries
)

var errRecord = errors.New("malformed record")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// tagOf returns the tag of a segment.
func tagOf(segment uint64) (tag [3]byte) {
	sum := checksum(segment, nil)
	return [3]byte{byte(sum), byte(sum >> 8), byte(sum >> 16)}
}

func checksum(segment uint64, b []byte) uint32 {
	var seed [8]byte
	binary.LittleEndian.PutUint64(seed[:], segment)
	return crc32.Update(crc32.Checksum(seed[:], castagnoli), castagnoli, b)
}

// header is a record's, decoded.
type header struct {
	checksum uint32
	size     uint32
	synced   uint32
	kind     kind
}

func decodeHeader(b []byte) header {
	return header{
		checksum: binary.LittleEndian.Uint32(b),
		size:     binary.LittleEndian.Uint32(b[4:]),
		synced:   binary.LittleEndian.Uint32(b[8:]),
		kind:     kind(b[headerSize-1]),
	}
}

// plausible tells whether there may be such a record with space bytes left for it.
func (h header) plausible(space int64) bool {
	return h.kind >= kindHead && h.kind <= kindAppend &&
		h.size > 0 && h.size <= maxPayload && int64(h.size) <= space-headerSize
}

// beginRecord appends room for a header; endRecord fills it in when the payload is
// there.
func beginRecord(b []byte, k kind) []byte {
	return append(b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, byte(k))
}

func endRecord(record []byte, segment uint64, synced int64) {
	binary.LittleEndian.PutUint32(record[4:], uint32(len(record)-headerSize))
	binary.LittleEndian.PutUint32(record[8:], uint32(synced))
	tag := tagOf(segment)
	copy(record[tagAt:], tag[:])
	binary.LittleEndian.PutUint32(record, checksum(segment, record[4:]))
}

// meta is all that is not an entry. It is written whole each time, so that only
// the last one counts.
type meta struct {
	shard, replica uint64
	bootstrap      *pb.Bootstrap // nil: there is no replica
	state          pb.State
	snapshot       pb.Snapshot

	// cut has all entries dropped; the next one is base+1.
	cut  bool
	base uint64
}

func (m *meta) append(b []byte) []byte {
	b = binary.AppendUvarint(b, m.shard)
	b = binary.AppendUvarint(b, m.replica)
	b = appendState(b, m.state)
	cut := uint64(0)
	if m.cut {
		cut = 1
	}
	b = binary.AppendUvarint(b, cut)
	b = binary.AppendUvarint(b, m.base)
	if m.bootstrap == nil {
		b = binary.AppendUvarint(b, 0)
	} else {
		p := pb.MustMarshal(m.bootstrap)
		b = binary.AppendUvarint(b, uint64(len(p))+1)
		b = append(b, p...)
	}
	p := pb.MustMarshal(&m.snapshot)
	b = binary.AppendUvarint(b, uint64(len(p)))
	return append(b, p...)
}

func decodeMeta(r *reader) (m meta) {
	m.shard, m.replica = r.uvarint(), r.uvarint()
	m.state = r.state()
	m.cut = r.uvarint() != 0
	m.base = r.uvarint()
	if n := r.uvarint(); n > 0 {
		m.bootstrap = new(pb.Bootstrap)
		r.message(n-1, m.bootstrap)
	}
	r.message(r.uvarint(), &m.snapshot)
	return m
}

// head is the first record of a segment.
type head struct {
	version uint64
	// The segment before, and how much of it is valid; none if prev is 0.
	prev    uint64
	prevEnd int64
	meta
}

const version = 1

func (h *head) append(b []byte) []byte {
	b = binary.AppendUvarint(b, h.version)
	b = binary.AppendUvarint(b, h.prev)
	b = binary.AppendUvarint(b, uint64(h.prevEnd))
	return h.meta.append(b)
}

func decodeHead(r *reader) (h head) {
	h.version = r.uvarint()
	if r.err == nil && h.version != version {
		r.err = fmt.Errorf("version %d of the log, this program knows version %d", h.version, version)
		return h
	}
	h.prev, h.prevEnd = r.uvarint(), int64(r.uvarint())
	h.meta = decodeMeta(r)
	return h
}

// appendEntries appends the payload of a kindAppend.
func appendEntries(b []byte, st pb.State, entries []pb.Entry) ([]byte, error) {
	b = appendState(b, st)
	b = binary.AppendUvarint(b, uint64(len(entries)))
	all := 0
	for i := range entries {
		all += binary.MaxVarintLen32 + entries[i].Size()
	}
	b = slices.Grow(b, all)
	for i := range entries {
		size := entries[i].Size()
		b = binary.AppendUvarint(b, uint64(size))
		at := len(b)
		b = b[:at+size]
		if n, err := entries[i].MarshalTo(b[at:]); err != nil || n != size {
			return nil, fmt.Errorf("entry %d took %d bytes of %d: %w", entries[i].Index, n, size, errors.Join(errRecord, err))
		}
	}
	return b, nil
}

// decodeEntries calls each for the entries of a kindAppend, until it returns false.
func decodeEntries(r *reader, each func(e pb.Entry) bool) pb.State {
	st := r.state()
	for range r.uvarint() {
		var e pb.Entry
		r.message(r.uvarint(), &e)
		if r.err != nil || !each(e) {
			break
		}
	}
	return st
}

func appendState(b []byte, st pb.State) []byte {
	b = binary.AppendUvarint(b, st.Term)
	b = binary.AppendUvarint(b, st.Vote)
	return binary.AppendUvarint(b, st.Commit)
}

// reader takes a payload apart. After the first error it returns zeros.
type reader struct {
	b   []byte
	err error
}

func (r *reader) uvarint() uint64 {
	x, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return x
}

func (r *reader) state() pb.State {
	return pb.State{Term: r.uvarint(), Vote: r.uvarint(), Commit: r.uvarint()}
}

func (r *reader) message(size uint64, m pb.Unmarshaler) {
	if size > uint64(len(r.b)) {
		r.fail()
	}
	if r.err != nil {
		return
	}
	if err := unmarshal(m, r.b[:size]); err != nil {
		r.fail()
		return
	}
	r.b = r.b[size:]
}

// unmarshal makes an error of the panic that a malformed message may end in: only
// one whose checksum is right gets here, but that must not end the program.
func unmarshal(m pb.Unmarshaler, b []byte) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = errRecord
		}
	}()
	return m.Unmarshal(b)
}

func (r *reader) fail() {
	if r.err == nil {
		r.err = errRecord
	}
	r.b = nil
}
