package enginetest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"dkv/store"
	"dkv/store/engine"

	"github.com/anishathalye/porcupine"

	"pgregory.net/rapid"
)

var historyChecks = []check{
	{"HistoryOfConcurrentCallsIsLinearizable", func(t rapid.TB, f engine.Factory) {
		checkHistories(t, f, plan{clients: 5, calls: 140, spans: []time.Duration{0, time.Hour}})
	}},
	{"HistoryWithViewsIsLinearizable", func(t rapid.TB, f engine.Factory) {
		checkHistories(t, f, plan{clients: 4, calls: 100, viewers: 2, views: 40, spans: []time.Duration{0}})
	}},
}

// A plan says what the clients of a history do. There are at most 200 calls on each
// key, as more would take the checker long.
type plan struct {
	clients, calls int // and how many calls each
	viewers, views int // and how many views each
	spans          []time.Duration
}

var historyKinds = []engine.Kind{
	engine.Set, engine.SetIfUnset, engine.Expire, engine.Delete, engine.DeleteIfValue, engine.RenewIfValue,
}

var historyKeys = []string{"a", "b", "c", "d"}

// checking is how long the checker may take for one key.
const checking = time.Minute

// call is what a client does to one key.
type call struct {
	key   string
	read  string      // which read it is; "" for an operation
	kind  engine.Kind // of the operation
	value string
}

// answer is what comes back: whether an operation was done, or what a read has
// found.
type answer struct {
	done, found, expired bool
	value                string
}

// register is one key as a linearization has it. Deadlines do not come, as the
// clock stands still.
type register struct {
	there, expired bool
	value          string
}

func (r register) step(c call, a answer) (bool, register) {
	valid := r.there && !r.expired
	switch c.read {
	case "Get":
		return a.found == valid && (!valid || a.value == r.value), r
	case "Has":
		return a.found == r.there, r
	case "Entry", "View":
		return a.found == r.there && a.expired == r.expired && a.value == r.value, r
	}
	done, next := true, register{there: true, value: c.value}
	switch c.kind {
	case engine.SetIfUnset:
		done = !r.there
	case engine.Expire:
		done, next = valid, register{there: true, expired: true}
	case engine.Delete:
		done, next = r.there, register{}
	case engine.DeleteIfValue:
		done, next = valid && r.value == c.value, register{}
	case engine.RenewIfValue:
		done, next = valid && r.value == c.value, r
	}
	if !done {
		next = r
	}
	return a.done == done, next
}

var model = porcupine.Model{
	Init: func() any { return register{} },
	Step: func(state, in, out any) (bool, any) { return state.(register).step(in.(call), out.(answer)) },
}

// history is what clients did.
type history struct {
	engine engine.Engine
	begin  time.Time
	spans  []time.Duration
}

func (h *history) now() int64 { return int64(time.Since(h.begin)) }

// checkHistories has clients work on a few keys, and fails if no order of their
// calls explains what came back. Calls are short, so that the clients of one
// history do not often meet; so there are many.
func checkHistories(t rapid.TB, f engine.Factory, p plan) {
	seed := rand.Uint64()
	for round := range uint64(rounds(60, 15)) {
		h := &history{engine: f.New(standing()), begin: time.Now(), spans: p.spans}
		ops := make([][]porcupine.Operation, p.clients+p.viewers)
		together(len(ops), func(i int) {
			if i < p.clients {
				ops[i] = h.client(i, p.calls, rand.New(rand.NewPCG(seed+round, uint64(i))))
			} else {
				ops[i] = h.viewer(i, p.views)
			}
		})
		if !judge(t, slices.Concat(ops...)) {
			t.Fatalf("seed %d, round %d", seed, round)
		}
		checkInvariants(t, h.engine)
	}
}

// client makes calls, on the keys in turn.
func (h *history) client(id, calls int, random *rand.Rand) (ops []porcupine.Operation) {
	for n := range calls {
		c := call{key: historyKeys[(id+n)%len(historyKeys)], value: fmt.Sprintf("%d-%d", id, n)}
		if random.IntN(2) == 0 {
			c.read = []string{"Get", "Has", "Entry"}[random.IntN(3)]
		} else {
			c.kind = historyKinds[random.IntN(len(historyKinds))]
		}
		op := engine.Op{Kind: c.kind, Key: c.key}
		if c.kind.HasDeadlines() {
			op.ExpireIn = h.spans[random.IntN(len(h.spans))]
			op.DeleteIn = h.spans[random.IntN(len(h.spans))]
		}
		if c.kind == engine.DeleteIfValue || c.kind == engine.RenewIfValue {
			value, _ := h.engine.Get(engine.Keys, c.key) // a guess that is often right
			c.value = string(value)
		}
		if c.kind.HasValue() {
			op.Value = []byte(c.value)
		}
		var a answer
		begin := h.now()
		switch c.read {
		case "Get":
			var value []byte
			value, a.found = h.engine.Get(engine.Keys, c.key)
			a.value = string(value)
		case "Has":
			a.found = h.engine.Has(engine.Keys, c.key)
		case "Entry":
			a = found(h.engine.Entry(engine.Keys, c.key))
		default:
			a.done = h.engine.Apply(&op, 0).Done
		}
		ops = append(ops, porcupine.Operation{ClientId: id, Input: c, Output: a, Call: begin, Return: h.now()})
	}
	return ops
}

// viewer opens views. What one shows was so at one moment while it was opened.
func (h *history) viewer(id, views int) (ops []porcupine.Operation) {
	for range views {
		begin := h.now()
		v := h.engine.View()
		end := h.now()
		for _, key := range historyKeys {
			c := call{key: key, read: "View"}
			ops = append(ops, porcupine.Operation{ClientId: id, Input: c, Output: found(v.Entry(engine.Keys, key)), Call: begin, Return: end})
		}
		v.Release()
	}
	return ops
}

func found(e store.Entry, ok bool) answer {
	return answer{found: ok, expired: e.Expired, value: string(e.Value)}
}

// judge tells whether a history is linearizable; that the checker cannot tell is a
// failure too.
func judge(t rapid.TB, ops []porcupine.Operation) bool {
	t.Helper()
	for _, key := range historyKeys {
		var part []porcupine.Operation
		for _, op := range ops {
			if op.Input.(call).key == key {
				part = append(part, op)
			}
		}
		switch porcupine.CheckOperationsTimeout(model, part, checking) {
		case porcupine.Ok:
		case porcupine.Illegal:
			t.Errorf("no order of these calls explains what came back:\n%s", list(part))
			return false
		default:
			t.Errorf("the checker gave up after %v:\n%s", checking, list(part))
			return false
		}
	}
	return true
}

func list(ops []porcupine.Operation) string {
	slices.SortFunc(ops, func(a, b porcupine.Operation) int { return int(a.Call - b.Call) })
	var b strings.Builder
	for _, op := range ops {
		fmt.Fprintf(&b, "%d-%d client %d: %+v -> %+v\n", op.Call, op.Return, op.ClientId, op.Input, op.Output)
	}
	return b.String()
}
