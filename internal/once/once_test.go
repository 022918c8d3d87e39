package once

import (
	"bytes"
	"testing"
	"time"

	"dkv/store"
	"dkv/store/engine"

	"pgregory.net/rapid"
)

// TestWhatIsRepeatedIsAppliedOnce compares with a twin that forgets nothing: no
// write is applied twice, and what is answered is what came of it the first time.
func TestWhatIsRepeatedIsAppliedOnce(t *testing.T) {
	var repeated, refused, aged int
	rapid.Check(t, func(t *rapid.T) {
		c := new(Clients)
		type write struct{ client, seq uint64 }
		first := make(map[write]engine.Result)
		var enrolled []ID
		var low []uint64 // by client, as it has told
		var now time.Duration
		var revision uint64
		t.Repeat(map[string]func(*rapid.T){
			"enrol": func(t *rapid.T) {
				nonce := rapid.Uint64Range(1, 3).Draw(t, "nonce")
				enrolled = append(enrolled, ID{Client: c.Enrol(nonce, now), Nonce: nonce})
				low = append(low, 1)
			},
			"write": func(t *rapid.T) {
				if len(enrolled) == 0 {
					return
				}
				i := rapid.IntRange(0, len(enrolled)-1).Draw(t, "client")
				id := enrolled[i]
				id.Seq = rapid.Uint64Range(1, 8).Draw(t, "seq")
				id.Low = rapid.Uint64Range(1, id.Seq).Draw(t, "low")
				w := write{id.Client, id.Seq}
				before, again := first[w]
				applied := false
				got := c.Do(id, now, func() engine.Result {
					applied = true
					revision++
					return rapid.SampledFrom([]engine.Result{
						{Done: true, Revision: revision}, {}, {Refusal: engine.Full}, {Revision: 5}, {Done: true, Revision: revision, Number: -3},
					}).Draw(t, "result")
				})
				switch {
				case again && before.Refusal == engine.Forgotten:
					if applied || got.Refusal != engine.Forgotten {
						t.Fatalf("%v is void, and comes to %v", id, got)
					}
					if c.known[id.Client] != nil && id.Seq >= low[i] {
						low[i] = max(low[i], id.Low)
					}
				case got.Refusal == engine.Forgotten:
					refused++
					if applied {
						t.Fatal("applied and refused")
					}
					if c.known[id.Client] != nil && id.Seq >= low[i] {
						t.Fatalf("%v is refused, low is %d", id, low[i])
					}
				case again:
					repeated++
					if applied || got != before {
						t.Fatalf("%v: %v, applied again: %t; want %v", id, got, applied, before)
					}
				case !applied:
					t.Fatalf("%v was not applied", id)
				}
				if applied {
					if id.Seq < low[i] {
						t.Fatalf("%v was given up", id)
					}
					first[w] = got
				}
				if got.Refusal != engine.Forgotten {
					low[i] = max(low[i], id.Low)
				}
			},
			"void": func(t *rapid.T) {
				if len(enrolled) == 0 {
					return
				}
				i := rapid.IntRange(0, len(enrolled)-1).Draw(t, "client")
				id := enrolled[i]
				id.Seq = low[i] + rapid.Uint64Range(0, 3).Draw(t, "above")
				id.Low = low[i]
				w := write{id.Client, id.Seq}
				before, done := first[w]
				got := c.Do(id, now, func() engine.Result { return engine.Result{Refusal: engine.Forgotten} })
				switch {
				case got.Refusal != engine.Forgotten && (!done || got != before):
					t.Fatalf("void %v: %v, want %v", id, got, before)
				case got.Refusal == engine.Forgotten && done && before.Refusal != engine.Forgotten && c.known[id.Client] != nil:
					t.Fatalf("%v was made, and is void", id)
				case c.known[id.Client] != nil && !done:
					first[w] = got
				}
			},
			"another's nonce": func(t *rapid.T) {
				if len(enrolled) == 0 {
					return
				}
				id := enrolled[len(enrolled)-1]
				id.Nonce, id.Seq, id.Low = id.Nonce+10, 9, 9
				if got := c.Do(id, now, func() engine.Result { panic("applied") }); got.Refusal != engine.Forgotten {
					t.Fatal(got)
				}
			},
			"time passes": func(t *rapid.T) {
				passed := time.Duration(rapid.Int64Range(0, int64(Window)).Draw(t, "time"))
				if rapid.Bool().Draw(t, "much") { // rapid likes small numbers
					passed = Window - passed
				}
				now += passed
				before := c.order.Len()
				c.Age(now)
				aged += before - c.order.Len()
				if at, ok := c.NextAge(); ok && at <= now {
					t.Fatal("somebody is left who has been silent for too long")
				}
			},
			"": func(t *rapid.T) {
				b := c.Append(nil)
				again, ok := Read(b)
				if !ok || !bytes.Equal(again.Append(nil), b) || again.kept != c.kept {
					t.Fatalf("%x does not read back", b)
				}
				if rapid.Bool().Draw(t, "go on with") {
					c = again
				} else {
					c = c.Clone()
				}
			},
		})
	})
	// With -short there are too few walks for each to happen for certain.
	if !testing.Short() && (repeated == 0 || refused == 0 || aged == 0) {
		t.Errorf("%d repeated, %d refused, %d aged", repeated, refused, aged)
	}
}

func TestTooMuchIsNotKept(t *testing.T) {
	c := new(Clients)
	busy := c.Enrol(1, 0)
	for i := range 2 * maxKept {
		c.Enrol(1, 0)
		id := ID{Client: busy, Nonce: 1, Seq: uint64(i + 1), Low: uint64(max(0, i-10) + 1)}
		if res := c.Do(id, 0, func() engine.Result { return engine.Result{Done: true, Revision: 1} }); res.Refusal == engine.Forgotten {
			t.Fatalf("the client that was heard of last is refused write %d", i)
		}
		if c.kept > maxKept {
			t.Fatalf("%d are kept", c.kept)
		}
	}
	sum := 0
	for e := c.order.Front(); e != nil; e = e.Next() {
		sum += e.Value.(*client).weight()
	}
	if sum != c.kept || c.order.Len() != len(c.known) {
		t.Errorf("%d are kept, %d by count; %d of %d are known", sum, c.kept, len(c.known), c.order.Len())
	}
	far := ID{Client: busy, Nonce: 1, Seq: 1 << 40, Low: 1}
	if res := c.Do(far, 0, func() engine.Result { panic("applied") }); res.Refusal != engine.Forgotten {
		t.Error("a write far ahead is not refused")
	}
}

// TestWeightFollowsTheBytes has results of many small parts, which a limit by weight has to
// bound as well as those of a few large ones.
func TestWeightFollowsTheBytes(t *testing.T) {
	for _, size := range []int{0, 1, 24, 63, 64, 100, 4000} {
		for _, n := range []int{1, 3, 50, 1024} {
			txn := &store.TxnResult{Held: true}
			for range n {
				txn.Results = append(txn.Results, store.OpResult{Done: true, ExpireIn: 1 << 62, DeleteIn: 1 << 62, Revision: 1 << 62, Value: make([]byte, size)})
			}
			r := engine.Result{Done: true, Revision: 1 << 62, Txn: txn}
			// Half as many again for what comes with each part, in the worst case.
			if bytes, weight := len(AppendResult(nil, r)), Weight(r); bytes > 96*weight {
				t.Errorf("%d parts of %d bytes take %d bytes and weigh %d", n, size, bytes, weight)
			}
		}
	}
}

// TestRoomOfABurstIsGivenUp has a client wait for very many writes, and then for few.
func TestRoomOfABurstIsGivenUp(t *testing.T) {
	c := new(Clients)
	id := ID{Client: c.Enrol(1, 0), Nonce: 1}
	cl := c.known[id.Client].Value.(*client)
	write := func(low uint64) {
		t.Helper()
		id.Seq++
		id.Low = low
		if res := c.Do(id, 0, func() engine.Result { return engine.Result{Done: true, Revision: 1} }); !res.Done {
			t.Fatal(res)
		}
	}
	for _, left := range []uint64{0, 1, 10} {
		low := id.Seq + 1
		for range MaxPending {
			write(low)
		}
		if room := cap(cl.results); room < MaxPending {
			t.Fatalf("there is room for %d results, and %d are kept", room, len(cl.kept()))
		}
		for range 100 {
			write(id.Seq + 1 - left)
		}
		if room := cap(cl.results); room > minRoom {
			t.Errorf("there is room for %d results, and %d are kept", room, len(cl.kept()))
		}
	}
}

func FuzzRead(f *testing.F) {
	c := new(Clients)
	c.Enrol(5, 7)
	c.Enrol(6, 8)
	c.Do(ID{Client: 1, Nonce: 5, Seq: 3, Low: 2}, 9, func() engine.Result { return engine.Result{Refusal: engine.Full} })
	c.Do(ID{Client: 2, Nonce: 6, Seq: 1, Low: 1}, 9, func() engine.Result {
		return engine.Result{Done: true, Revision: 9, Txn: &store.TxnResult{Held: true, Revision: 9, Results: []store.OpResult{
			{Done: true, Revision: 8, Value: []byte("v"), ExpireIn: 5, DeleteIn: 600},
			{Done: true, Revision: 7, Expired: true},
			{Done: true, Revision: 9, Number: -1},
			{},
		}}}
	})
	f.Add(c.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, ok := Read(b); ok && !bytes.Equal(c.Append(nil), b) {
			t.Fatalf("%x was read, %x is how it is written", b, c.Append(nil))
		}
	})
}
