package command

import (
	"bytes"
	"fmt"
	"math"
	"reflect"
	"slices"
	"testing"
	"time"

	"dkv/internal/once"
	"dkv/store"
	"dkv/store/engine"

	"pgregory.net/rapid"
)

// genOp draws an operation, on one key unless it may be a transaction.
func genOp(t *rapid.T, inTxn bool) engine.Op {
	kind := engine.Kind(rapid.IntRange(1, int(engine.Kinds)-1).Draw(t, "kind"))
	switch {
	case inTxn && (kind == engine.Transact || kind.OnLock()), kind == engine.Get && !inTxn, kind == engine.Void:
		kind = engine.Delete
	case kind == engine.Transact:
		return engine.Op{Kind: kind, Txn: genTxn(t)}
	}
	op := engine.Op{Kind: kind}
	op.Space, op.Key = genPlace(t)
	if op.Kind.HasValue() {
		op.Value = rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "value")
	}
	if op.Kind.HasRevision() {
		op.At = rapid.Uint64().Draw(t, "at")
	}
	if op.Kind.OnLock() {
		op.Value = rapid.SliceOfN(rapid.Byte(), store.OwnerSize, 40).Draw(t, "owner")
		op.Delta = rapid.Int64Min(0).Draw(t, "limit")
	} else if op.Kind.HasDelta() {
		op.Delta = rapid.Int64().Draw(t, "delta")
	}
	if !op.Kind.HasDelta() {
		op.Delta = 0
	}
	if op.Kind.HasDeadlines() {
		op.ExpireIn = time.Duration(rapid.Int64Range(0, math.MaxInt64).Draw(t, "expire"))
		op.DeleteIn = time.Duration(rapid.Int64Range(0, math.MaxInt64).Draw(t, "delete"))
	}
	return op
}

func genPlace(t *rapid.T) (engine.Space, string) {
	space := engine.Space(rapid.IntRange(0, int(engine.Locks)).Draw(t, "space"))
	return space, string(rapid.SliceOfN(rapid.Byte(), 1, 40).Draw(t, "key"))
}

func genTxn(t *rapid.T) *engine.Txn {
	x := new(engine.Txn)
	for range rapid.IntRange(0, 3).Draw(t, "conditions") {
		c := engine.Cond{Kind: engine.CondKind(rapid.IntRange(1, int(engine.CondKinds)-1).Draw(t, "condition"))}
		c.Space, c.Key = genPlace(t)
		switch c.Kind {
		case engine.RevisionIs, engine.TokenIs:
			c.At = rapid.Uint64().Draw(t, "at")
		case engine.ValueIs:
			c.Value = rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "value")
		}
		x.If = append(x.If, c)
	}
	for _, branch := range []*[]engine.Op{&x.Then, &x.Else} {
		for range rapid.IntRange(0, 3).Draw(t, "operations") {
			longer := append(*branch, genOp(t, true))
			if !engine.WritesTwice(longer) {
				*branch = longer
			}
		}
	}
	return x
}

// genID is the ID of an operation, zero as often as not.
func genID(t *rapid.T) once.ID {
	if rapid.Bool().Draw(t, "nobody repeats it") {
		return once.ID{}
	}
	id := once.ID{
		Client: rapid.Uint64Min(1).Draw(t, "client"),
		Nonce:  rapid.Uint64Min(1).Draw(t, "nonce"),
		Seq:    rapid.Uint64Min(1).Draw(t, "seq"),
	}
	id.Low = rapid.Uint64Range(1, id.Seq).Draw(t, "low")
	return id
}

func appendBatch(b Batch) []byte {
	out := AppendBatchHeader(nil, b, len(b.Ops))
	for i := range b.Ops {
		out = AppendOp(out, &b.Ops[i], b.ID(i))
	}
	return out
}

func TestBatchReadsBackAsItWasWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := Batch{
			Member:      rapid.Uint64().Draw(t, "member"),
			Incarnation: rapid.Uint64().Draw(t, "incarnation"),
			Slot:        rapid.Uint64Range(0, MaxSlots-1).Draw(t, "slot"),
			Seq:         rapid.Uint64Min(1).Draw(t, "seq"),
			Limit:       rapid.Int64Min(0).Draw(t, "limit"),
			Applied:     rapid.Uint64().Draw(t, "applied"),
		}
		for i := range in.Low {
			in.Low[i] = rapid.Uint64().Draw(t, "low")
		}
		in.Low[in.Slot] = in.Seq
		for slot := range uint64(MaxSlots) {
			if op := rapid.Uint64Range(0, MaxOps-2).Draw(t, "void"); slot != in.Slot && op%3 == 0 {
				in.Void = append(in.Void, Voided{slot, op}, Voided{slot, op + 1})
			}
		}
		for range rapid.IntRange(0, 5).Draw(t, "n") {
			if rapid.IntRange(0, 9).Draw(t, "enrols") == 0 {
				in.Ops = append(in.Ops, engine.Op{})
				in.IDs = append(in.IDs, once.ID{Nonce: rapid.Uint64Min(1).Draw(t, "nonce")})
				continue
			}
			op, id := genOp(t, false), genID(t)
			if id != (once.ID{}) && rapid.IntRange(0, 9).Draw(t, "void") == 0 {
				op = engine.Op{Kind: engine.Void}
			}
			in.Ops, in.IDs = append(in.Ops, op), append(in.IDs, id)
		}
		var e Entry
		if err := Decode(appendBatch(in), &e); err != nil {
			t.Fatal(err)
		}
		got := e.Batch
		if e.IsTick || got.Member != in.Member || got.Incarnation != in.Incarnation ||
			got.Slot != in.Slot || got.Seq != in.Seq || got.Low != in.Low || got.Limit != in.Limit ||
			got.Applied != in.Applied || !slices.Equal(got.Void, in.Void) || len(got.Ops) != len(in.Ops) {
			t.Fatalf("got %+v, want %+v", got, in)
		}
		for i, op := range got.Ops {
			want := in.Ops[i]
			if !reflect.DeepEqual(op, want) {
				t.Fatalf("operation %d: got %+v, want %+v", i, op, want)
			}
			if got.ID(i) != in.ID(i) {
				t.Fatalf("operation %d: its ID is %v, want %v", i, got.ID(i), in.ID(i))
			}
			alone, id, err := DecodeOp(AppendOp(nil, &want, in.ID(i)))
			if err != nil || alone.Key != op.Key || alone.Kind != op.Kind || id != in.ID(i) {
				t.Fatalf("operation %d alone: %+v, %v, %v", i, alone, id, err)
			}
		}
	})
}

func TestTickReadsBackAsItWasWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := Tick{
			Prev:    rapid.Uint64().Draw(t, "prev"),
			Nonce:   rapid.Uint64().Draw(t, "nonce"),
			Elapsed: time.Duration(rapid.Int64Range(0, math.MaxInt64).Draw(t, "elapsed")),
		}
		in.Lag = time.Duration(rapid.Int64Range(0, int64(in.Elapsed)).Draw(t, "lag"))
		var e Entry
		if err := Decode(AppendTick(nil, in), &e); err != nil {
			t.Fatal(err)
		}
		if !e.IsTick || e.Tick != in {
			t.Fatalf("got %+v, want %+v", e, in)
		}
	})
}

// identified is a batch of one operation with an ID.
func identified(id once.ID) []byte {
	return appendBatch(Batch{Seq: 1, Ops: []engine.Op{{Kind: engine.Delete, Key: "k"}}, IDs: []once.ID{id}})
}

// txn is a transaction with one branch.
func txn(ops ...engine.Op) engine.Op {
	return engine.Op{Kind: engine.Transact, Txn: &engine.Txn{Then: ops}}
}

func many(n int) (ops []engine.Op) {
	for i := range n {
		ops = append(ops, engine.Op{Kind: engine.Expire, Key: fmt.Sprint(i)})
	}
	return ops
}

func TestMalformedEntriesAreRefused(t *testing.T) {
	good := appendBatch(Batch{Member: 1, Slot: 1, Seq: 2, Ops: []engine.Op{
		{Kind: engine.Set, Key: "k", Value: []byte("v"), ExpireIn: 5, DeleteIn: 6},
	}})
	var e Entry
	if err := Decode(good, &e); err != nil {
		t.Fatal(err)
	}
	bad := map[string][]byte{
		"empty":                        nil,
		"unknown type":                 {99},
		"trailing byte":                append(bytes.Clone(good), 0),
		"no sequence number":           appendBatch(Batch{}),
		"unknown slot":                 appendBatch(Batch{Slot: MaxSlots, Low: [MaxSlots]uint64{1}}),
		"negative limit":               AppendBatchHeader(nil, Batch{Seq: 1, Limit: -1}, 0),
		"too many":                     AppendBatchHeader(nil, Batch{Seq: 1}, MaxOps+1),
		"void in its own slot":         AppendBatchHeader(nil, Batch{Slot: 1, Seq: 1, Void: []Voided{{1, 0}}}, 0),
		"void in no slot":              AppendBatchHeader(nil, Batch{Seq: 1, Void: []Voided{{MaxSlots, 0}}}, 0),
		"void twice":                   AppendBatchHeader(nil, Batch{Seq: 1, Void: []Voided{{1, 5}, {1, 5}}}, 0),
		"void beyond a batch":          AppendBatchHeader(nil, Batch{Seq: 1, Void: []Voided{{1, MaxOps}}}, 0),
		"no kind":                      append(AppendBatchHeader(nil, Batch{Seq: 1}, 1), 0, 0, 1, 'k'),
		"enrols no nonce":              appendBatch(Batch{Seq: 1, Ops: []engine.Op{{}}}),
		"no client":                    identified(once.ID{Nonce: 1, Seq: 1, Low: 1}),
		"no nonce":                     identified(once.ID{Client: 1, Seq: 1, Low: 1}),
		"no number":                    identified(once.ID{Client: 1, Nonce: 1}),
		"number below low":             identified(once.ID{Client: 1, Nonce: 1, Seq: 1, Low: 2}),
		"unknown kind":                 appendBatch(Batch{Seq: 1, Ops: []engine.Op{{Kind: engine.Kinds, Key: "k"}}}),
		"locks' own space":             appendBatch(Batch{Seq: 1, Ops: []engine.Op{{Kind: engine.Set, Space: engine.Waiters, Key: "k"}}}),
		"negative limit of a lock":     appendBatch(Batch{Seq: 1, Ops: []engine.Op{{Kind: engine.Join, Space: engine.Locks, Key: "k", Value: make([]byte, store.OwnerSize), Delta: -1}}}),
		"short owner":                  appendBatch(Batch{Seq: 1, Ops: []engine.Op{{Kind: engine.Leave, Space: engine.Locks, Key: "k", Value: make([]byte, store.OwnerSize-1)}}}),
		"unknown space":                appendBatch(Batch{Seq: 1, Ops: []engine.Op{{Kind: engine.Set, Space: engine.Spaces, Key: "k"}}}),
		"empty key":                    appendBatch(Batch{Seq: 1, Ops: []engine.Op{{Kind: engine.Set}}}),
		"key too large":                appendBatch(Batch{Seq: 1, Ops: []engine.Op{{Kind: engine.Delete, Key: string(make([]byte, store.MaxKeySize+1))}}}),
		"negative duration":            appendBatch(Batch{Seq: 1, Ops: []engine.Op{{Kind: engine.Set, Key: "k", ExpireIn: -1}}}),
		"deadlines of other":           appendBatch(Batch{Seq: 1, Ops: []engine.Op{{Kind: engine.Delete, Key: "k", ExpireIn: 1}}}),
		"transaction in a transaction": appendBatch(Batch{Seq: 1, Ops: []engine.Op{txn(engine.Op{Kind: engine.Transact, Txn: new(engine.Txn)})}}),
		"lock in a transaction":        appendBatch(Batch{Seq: 1, Ops: []engine.Op{txn(engine.Op{Kind: engine.Leave, Key: "k"})}}),
		"void of nobody":               appendBatch(Batch{Seq: 1, Ops: []engine.Op{{Kind: engine.Void}}}),
		"void in a transaction":        appendBatch(Batch{Seq: 1, Ops: []engine.Op{txn(engine.Op{Kind: engine.Void})}}),
		"read of its own":              appendBatch(Batch{Seq: 1, Ops: []engine.Op{{Kind: engine.Get, Key: "k"}}}),
		"written twice":                appendBatch(Batch{Seq: 1, Ops: []engine.Op{txn(engine.Op{Kind: engine.Set, Key: "k"}, engine.Op{Kind: engine.Delete, Key: "k"})}}),
		"written twice among many":     appendBatch(Batch{Seq: 1, Ops: []engine.Op{txn(append(many(100), many(1)...)...)}}),
		"too many operations":          appendBatch(Batch{Seq: 1, Ops: []engine.Op{txn(many(store.MaxTxnOps + 1)...)}}),
		"unknown condition":            appendBatch(Batch{Seq: 1, Ops: []engine.Op{{Kind: engine.Transact, Txn: &engine.Txn{If: []engine.Cond{{Kind: engine.CondKinds, Key: "k"}}}}}}),
		"lag above elapsed":            AppendTick(nil, Tick{Elapsed: 1, Lag: 2}),
		"long varint":                  {typeTick, 0x80, 0x00, 0, 0, 0},
	}
	for i := range good {
		bad["cut at "+string(rune('0'+i%10))+" of "+string(rune('a'+i/10))] = good[:i]
	}
	for name, b := range bad {
		if err := Decode(b, &e); err != ErrMalformed {
			t.Errorf("%s: %v", name, err)
		}
		if len(e.Batch.Ops) != 0 || len(e.Batch.IDs) != 0 {
			t.Errorf("%s: operations left over", name)
		}
	}
}

// FuzzDecode: whatever is accepted is exactly what would have been written.
func FuzzDecode(f *testing.F) {
	f.Add(appendBatch(Batch{Member: 1, Incarnation: 7, Slot: 2, Seq: 300, Limit: 1 << 30, Applied: 1 << 40, Ops: []engine.Op{
		{Kind: engine.Set, Key: "k", Value: []byte("v"), ExpireIn: 5, DeleteIn: 6},
		{Kind: engine.DeleteIfValue, Space: engine.Locks, Key: "l", Value: []byte("owner")},
		{Kind: engine.Expire, Key: "e"},
		{},
		{Kind: engine.Transact, Txn: &engine.Txn{
			If:   []engine.Cond{{Kind: engine.RevisionIs, Key: "a", At: 7}, {Kind: engine.ValueIs, Key: "b", Value: []byte("v")}},
			Then: []engine.Op{{Kind: engine.Add, Key: "n", Delta: -300}, {Kind: engine.Get, Key: "b"}},
			Else: []engine.Op{{Kind: engine.SetIfRevision, Key: "c", At: 5, Value: []byte("v"), DeleteIn: 9}},
		}},
	}, IDs: []once.ID{{}, {Client: 1, Nonce: 2, Seq: 400, Low: 3}, {}, {Nonce: 5}}}))
	f.Add(AppendTick(nil, Tick{Prev: 9, Nonce: 1 << 60, Elapsed: time.Hour, Lag: time.Second}))
	f.Fuzz(func(t *testing.T, b []byte) {
		var e Entry
		if err := Decode(b, &e); err != nil {
			return
		}
		var again []byte
		if e.IsTick {
			again = AppendTick(nil, e.Tick)
		} else {
			again = appendBatch(e.Batch)
		}
		if !bytes.Equal(again, b) {
			t.Fatalf("%x was read, %x is how it is written", b, again)
		}
	})
}
