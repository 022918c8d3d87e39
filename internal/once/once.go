// Package once has each write of a client of the network mode applied once,
// however often, and through however many servers, it is sent.
//
// A client enrols and gets a number. It numbers its writes from 1 and sends the
// same number with each attempt of one; [Clients], which is part of the store's
// state, answers a write that it has had before with its first result. With each
// write the client tells the lowest number that it still waits for, so results
// are kept no longer than somebody may ask for them; and a write below that is
// refused, so that one that was given up has no effect any longer once a later
// one has. If there are others between, for which it still waits, the client says of
// the one that it is void ([engine.Void], with the ID of that), before it goes on: that
// is kept as the result, unless there is one.
//
// Clients that have been silent for [Window] are forgotten, and before that the
// one that has been silent longest, if too much is kept. What they send is refused
// then and has no effect: numbers are not given twice, so an attempt that was on
// its way for that long finds nobody that it could be mistaken for. A client whose
// write is refused knows that this attempt had no effect, and of an earlier one
// that was not answered, nothing.
//
// The scheme is that of Ongaro's dissertation on Raft, section 6.3, with many
// writes of one client under way at a time.
package once

import (
	"cmp"
	"container/list"
	"encoding/binary"
	"slices"
	"time"

	"dkv/internal/field"
	"dkv/store/engine"
)

const (
	// Window is how long a client may be silent, by the store's clock, before it
	// is forgotten.
	Window = 10 * time.Minute
	// MaxPending is how far the number of a write may lie above the lowest that
	// its client still waits for.
	MaxPending = 1 << 14

	// maxKept bounds the Weight of results, and a client counts as 1. All of them go
	// into one block of a snapshot.
	maxKept = 1 << 17

	// maxWeight is that of the heaviest result that is kept, some 64 KiB. A client
	// that asks again for one that was not is told that the write was made, and no
	// more.
	maxWeight = 1 << 10
)

// ID is what makes a write one write. The zero ID is that of a write that nobody
// repeats. One with a Nonce alone comes with an operation without a kind, and
// enrols.
type ID struct {
	Client uint64 // as [Clients.Enrol] has it
	Nonce  uint64 // which the client has chosen at random when it enrolled
	Seq    uint64 // of this write, from 1
	Low    uint64 // writes with a lower Seq have been given up; no greater than Seq
}

// Clients are those that a store knows. It is not safe for concurrent use. The
// zero value knows none.
type Clients struct {
	last  uint64 // number that was given last
	known map[uint64]*list.Element
	order list.List // of *client, by when they were last heard of
	kept  int       // clients and the weights of results
}

type client struct {
	number, nonce uint64
	heard         time.Duration
	low           uint64
	results       []result // by seq
	over          int      // of results, from the first on, are not kept any longer
}

// kept are the results that are kept.
func (cl *client) kept() []result { return cl.results[cl.over:] }

// minRoom is for how many results a client may have room without needing it.
const minRoom = 64

// forgo keeps the first n results no longer. Their room is used again as soon as they
// are as many as the others, or given up if it is far more than is needed: it would stay
// as it was when most writes were under way.
func (cl *client) forgo(n int) {
	clear(cl.kept()[:n]) // which are not to be kept from the garbage collector
	if cl.over += n; cl.over < len(cl.results)-cl.over {
		return
	}
	kept := cl.kept()
	if room := cap(cl.results); room > minRoom && 4*len(kept) < room {
		cl.results = append(make([]result, 0, 2*len(kept)), kept...)
	} else {
		n := copy(cl.results, kept)
		clear(cl.results[n:])
		cl.results = cl.results[:n]
	}
	cl.over = 0
}

type result struct {
	seq uint64
	engine.Result
}

// Enrol takes a client in and returns its number. To enrol twice, for want of an
// answer, costs an entry that is forgotten in time.
func (c *Clients) Enrol(nonce uint64, now time.Duration) uint64 {
	c.last++
	c.add(&client{number: c.last, nonce: nonce, heard: now, low: 1})
	c.trim()
	return c.last
}

func (c *Clients) add(cl *client) {
	if c.known == nil {
		c.known = make(map[uint64]*list.Element)
	}
	c.known[cl.number] = c.order.PushBack(cl)
	c.kept += cl.weight()
}

// weight is what a client counts for.
func (cl *client) weight() int {
	sum := 1
	for i := range cl.kept() {
		sum += Weight(cl.kept()[i].Result)
	}
	return sum
}

// Do has a write applied, unless it was before, and returns its result. That of a void
// one is that it is Forgotten.
func (c *Clients) Do(id ID, now time.Duration, apply func() engine.Result) engine.Result {
	e := c.known[id.Client]
	if e == nil || e.Value.(*client).nonce != id.Nonce {
		return engine.Result{Refusal: engine.Forgotten}
	}
	cl := e.Value.(*client)
	if id.Seq < cl.low || id.Seq-max(id.Low, cl.low) >= MaxPending {
		return engine.Result{Refusal: engine.Forgotten}
	}
	cl.heard = now
	c.order.MoveToBack(e)
	if id.Low > cl.low {
		cl.low = id.Low
		over, kept := 0, cl.kept()
		for ; over < len(kept) && kept[over].seq < id.Low; over++ {
			c.kept -= Weight(kept[over].Result)
		}
		cl.forgo(over)
	}
	i, found := cl.find(id.Seq)
	if found {
		return cl.kept()[i].Result
	}
	res := apply()
	kept := res
	if w := Weight(res); w > maxWeight || w > 1 && cl.weight()+w > maxKept/2 {
		kept = engine.Result{Refusal: engine.Unkept}
	}
	cl.results = slices.Insert(cl.results, cl.over+i, result{id.Seq, kept})
	c.kept += Weight(kept)
	c.trim()
	return res
}

// find returns where in kept the result of a write is, or would be: near the end, as a
// rule.
func (cl *client) find(seq uint64) (i int, found bool) {
	kept := cl.kept()
	i = len(kept)
	for range 8 {
		if i == 0 || kept[i-1].seq < seq {
			return i, false
		}
		if i--; kept[i].seq == seq {
			return i, true
		}
	}
	return slices.BinarySearchFunc(kept[:i], seq, func(r result, seq uint64) int { return cmp.Compare(r.seq, seq) })
}

// trim forgets who has been silent longest while too much is kept, but not who was
// heard of last.
func (c *Clients) trim() {
	for c.kept > maxKept && c.order.Len() > 1 {
		c.forget(c.order.Front())
	}
}

func (c *Clients) forget(e *list.Element) {
	cl := c.order.Remove(e).(*client)
	delete(c.known, cl.number)
	c.kept -= cl.weight()
}

// Age forgets the clients that have been silent for Window.
func (c *Clients) Age(now time.Duration) {
	for {
		if next, ok := c.NextAge(); !ok || next > now {
			return
		}
		c.forget(c.order.Front())
	}
}

// NextAge is the reading of the clock before which Age has nothing to do; ok is
// false if there is none.
func (c *Clients) NextAge() (at time.Duration, ok bool) {
	e := c.order.Front()
	if e == nil {
		return 0, false
	}
	return e.Value.(*client).heard + Window, true
}

// Clone copies c.
func (c *Clients) Clone() *Clients {
	copied := &Clients{last: c.last}
	for e := c.order.Front(); e != nil; e = e.Next() {
		cl := *e.Value.(*client)
		cl.results, cl.over = slices.Clone(cl.kept()), 0
		copied.add(&cl)
	}
	return copied
}

// Append appends c to b in a form that is the same for the same contents.
func (c *Clients) Append(b []byte) []byte {
	b = binary.AppendUvarint(b, c.last)
	b = binary.AppendUvarint(b, uint64(c.order.Len()))
	for e := c.order.Front(); e != nil; e = e.Next() {
		cl := e.Value.(*client)
		b = binary.AppendUvarint(b, cl.number)
		b = binary.AppendUvarint(b, cl.nonce)
		b = binary.AppendUvarint(b, uint64(cl.heard))
		b = binary.AppendUvarint(b, cl.low)
		b = binary.AppendUvarint(b, uint64(len(cl.kept())))
		for _, r := range cl.kept() {
			b = binary.AppendUvarint(b, r.seq)
			b = AppendResult(b, r.Result)
		}
	}
	return b
}

// Read returns what Append has appended. ok is false if b is not that.
func Read(b []byte) (c *Clients, ok bool) {
	u := field.NewReader(b)
	c = &Clients{last: u.Uvarint()}
	heard := time.Duration(0)
	for range u.Uvarint() {
		cl := &client{
			number: u.Uvarint(),
			nonce:  u.Uvarint(),
			heard:  time.Duration(u.Uvarint()),
			low:    u.Uvarint(),
		}
		seq := cl.low
		for range u.Uvarint() {
			r := result{seq: u.Uvarint()}
			r.Result = ReadResult(&u)
			if u.Bad() || r.seq < seq {
				return nil, false
			}
			seq = r.seq + 1
			cl.results = append(cl.results, r)
		}
		if u.Bad() || cl.number == 0 || cl.number > c.last || c.known[cl.number] != nil || cl.low == 0 || cl.heard < heard {
			return nil, false
		}
		heard = cl.heard
		c.add(cl)
	}
	return c, u.Complete()
}
