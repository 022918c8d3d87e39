package replica

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"dkv/internal/block"
	"dkv/internal/command"
	"dkv/internal/field"
	"dkv/internal/once"
	"dkv/store/engine"
)

// sessions are the part of the state that keeps a batch from being applied
// twice: for each member its incarnation, and for each of the member's slots the
// last batch that was applied and its results.
//
// That is enough because a slot has one batch under way at a time. A batch whose
// Seq is that of the slot's last is a repetition and gets the same results; one
// with a lower Seq has been given up by its proposer and is refused; so is one
// of an earlier incarnation, whose process has ended.
//
// Each batch also tells which batches of the other slots have been given up, so
// that none of those has an effect any longer once this one has; and of one that
// others still wait for, which operations have been. A caller that does not know the
// outcome of one write and goes on to another can rely on it: when the second is
// acknowledged, the first has happened or never will.
type sessions map[uint64]*session

type session struct {
	incarnation uint64
	slots       [command.MaxSlots]slotState
}

type slotState struct {
	seq     uint64   // 0: no batch yet
	low     uint64   // batches with a lower Seq are refused
	void    []uint64 // operations of the batch low, if it is to come, that have been given up; rising
	results []engine.Result
}

// apply has the operations of a batch applied, each by its index, unless they have
// been before, and returns their results. ok is false if the batch is refused.
func (s sessions) apply(b *command.Batch, apply func(op int) engine.Result) (results []engine.Result, ok bool) {
	ses := s[b.Member]
	if ses == nil || ses.incarnation < b.Incarnation {
		ses = &session{incarnation: b.Incarnation}
		s[b.Member] = ses
	}
	slot := &ses.slots[b.Slot]
	if b.Incarnation < ses.incarnation || b.Seq < slot.seq || b.Seq < slot.low {
		return nil, false
	}
	if b.Seq > slot.seq {
		slot.seq = b.Seq
		results = make([]engine.Result, len(b.Ops))
		for i := range b.Ops {
			if _, void := slices.BinarySearch(slot.void, uint64(i)); void && b.Seq == slot.low {
				results[i].Refusal = engine.Forgotten
			} else {
				results[i] = apply(i)
			}
		}
		slot.results, slot.void = keep(results), nil
	} else {
		results = slot.results
	}
	for i, low := range b.Low {
		if s := &ses.slots[i]; low > s.low {
			s.low, s.void = low, nil
		}
	}
	for _, v := range b.Void {
		ses.slots[v.Slot].giveUp(b.Low[v.Slot], v.Op)
	}
	return results, true
}

// giveUp has an operation of a batch have no effect, unless it has had it.
func (s *slotState) giveUp(seq, op uint64) {
	if seq != s.low || seq <= s.seq {
		return
	}
	if i, found := slices.BinarySearch(s.void, op); !found {
		s.void = slices.Insert(slices.Clone(s.void), i, op) // clones share it
	}
}

// maxKept is the weight, as package once has it, of the results of a batch that are
// kept: some 1 MiB. A session has to fit a block of a snapshot.
const maxKept = 1 << 14

// keep returns those of the results that are kept, in case the batch is repeated: it
// is once in a while, when its proposer has learnt of it from a snapshot.
func keep(results []engine.Result) []engine.Result {
	weight := 0
	for i := range results {
		weight += once.Weight(results[i])
	}
	if weight <= maxKept+len(results) {
		return results
	}
	kept := slices.Clone(results)
	for i := range kept {
		if w := once.Weight(kept[i]); w > 1 && weight > maxKept+len(results) {
			kept[i] = engine.Result{Refusal: engine.Unkept}
			weight -= w - 1
		}
	}
	return kept
}

// clone copies what later batches change; results never do.
func (s sessions) clone() sessions {
	c := make(sessions, len(s))
	for member, ses := range s {
		copied := *ses
		c[member] = &copied
	}
	return c
}

// A snapshot is a header, a block for each session, one for the clients, and the
// engine's state.
const (
	snapshotMagic   = "dkv replica"
	snapshotVersion = 4
)

func (f *frozen) save(w io.Writer) error {
	bw := bufio.NewWriterSize(w, 64<<10)
	blocks := block.NewWriter(bw)

	b := []byte(snapshotMagic)
	b = binary.AppendUvarint(b, snapshotVersion)
	b = binary.AppendUvarint(b, f.applied)
	b = binary.AppendUvarint(b, f.ticks)
	b = binary.AppendUvarint(b, uint64(len(f.sessions)))
	if err := blocks.Write(b); err != nil {
		return err
	}
	for _, member := range slices.Sorted(maps.Keys(f.sessions)) {
		if err := blocks.Write(f.sessions[member].append(nil, member)); err != nil {
			return err
		}
	}
	if err := blocks.Write(f.clients.Append(nil)); err != nil {
		return err
	}
	if err := bw.Flush(); err != nil {
		return err
	}
	return f.view.Save(w)
}

func (ses *session) append(b []byte, member uint64) []byte {
	b = binary.AppendUvarint(b, member)
	b = binary.AppendUvarint(b, ses.incarnation)
	for _, slot := range ses.slots {
		b = binary.AppendUvarint(b, slot.seq)
		b = binary.AppendUvarint(b, slot.low)
		b = binary.AppendUvarint(b, uint64(len(slot.void)))
		for _, op := range slot.void {
			b = binary.AppendUvarint(b, op)
		}
		b = binary.AppendUvarint(b, uint64(len(slot.results)))
		for _, r := range slot.results {
			b = once.AppendResult(b, r)
		}
	}
	return b
}

var errForeignSnapshot = errors.New("not a snapshot of a replica")

// load reads what save wrote, but for the view.
func load(r io.Reader, factory engine.Factory, opts engine.Options) (*frozen, engine.Engine, error) {
	br := bufio.NewReaderSize(r, 64<<10)
	blocks := block.NewReader(br)
	b, err := next(blocks)
	if err != nil {
		return nil, nil, err
	}
	if len(b) < len(snapshotMagic) || string(b[:len(snapshotMagic)]) != snapshotMagic {
		return nil, nil, errForeignSnapshot
	}
	u := field.NewReader(b[len(snapshotMagic):])
	if version := u.Uvarint(); !u.Bad() && version != snapshotVersion {
		return nil, nil, fmt.Errorf("version %d is not known, %d is", version, snapshotVersion)
	}
	f := &frozen{sessions: make(sessions), applied: u.Uvarint(), ticks: u.Uvarint()}
	n := u.Uvarint()
	if !u.Complete() {
		return nil, nil, block.ErrCorrupt
	}
	for range n {
		b, err := next(blocks)
		if err != nil {
			return nil, nil, err
		}
		member, ses, ok := readSession(b)
		if !ok {
			return nil, nil, block.ErrCorrupt
		}
		f.sessions[member] = ses
	}
	if b, err = next(blocks); err != nil {
		return nil, nil, err
	}
	var ok bool
	if f.clients, ok = once.Read(b); !ok {
		return nil, nil, block.ErrCorrupt
	}
	db, err := factory.Load(br, opts)
	return f, db, err
}

func next(blocks *block.Reader) ([]byte, error) {
	b, err := blocks.Next()
	if err == io.EOF {
		err = fmt.Errorf("%w: cut short at offset %d", block.ErrCorrupt, blocks.Offset())
	}
	return b, err
}

func readSession(b []byte) (member uint64, ses *session, ok bool) {
	u := field.NewReader(b)
	member = u.Uvarint()
	ses = &session{incarnation: u.Uvarint()}
	for i := range ses.slots {
		slot := &ses.slots[i]
		slot.seq = u.Uvarint()
		slot.low = u.Uvarint()
		for n := u.Uvarint(); n > 0 && !u.Bad(); n-- {
			op := u.Uvarint()
			if op >= command.MaxOps || len(slot.void) > 0 && op <= slot.void[len(slot.void)-1] {
				return 0, nil, false
			}
			slot.void = append(slot.void, op)
		}
		n := u.Uvarint()
		if n > command.MaxOps {
			return 0, nil, false
		}
		for range n {
			slot.results = append(slot.results, once.ReadResult(&u))
			if u.Bad() {
				return 0, nil, false
			}
		}
	}
	return member, ses, u.Complete()
}
