package storetest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"

	"dkv/store"
)

// A plan says what the clients of a history do.
type plan struct {
	kinds []opKind      // chosen from at random
	spans []span        // likewise, for operations with durations
	think time.Duration // at most so long between two operations of a client
	// impatient is how many operations on each key may have a context that
	// ends while they are under way. Each one of unknown outcome makes the
	// check harder, so there are few.
	impatient int
}

const (
	historyKeys    = 3
	historyClients = 8
	historyOps     = 60 // of each client: 160 on each key
	historyRounds  = 20 // at most
	historyTime    = 150 * time.Millisecond
	checking       = 60 * time.Second // how long the checker may take for one key
)

var historyChecks = []check{
	{"HistoryOfConcurrentOperationsIsLinearizable", func(s *session) {
		s.history(plan{
			kinds: []opKind{opGet, opGet, opHas, opEntry, opScan, opSet, opSet, opSetEIfUnset, opSetEIfUnset, opDelete, opDelete, opExpire},
			spans: []span{{}, {time.Hour, time.Hour}},
		})
	}},
	{"HistoryOfReadsAndSetsIsLinearizable", func(s *session) {
		s.history(plan{kinds: []opKind{opGet, opGet, opEntry, opScan, opSet, opSet}, think: time.Millisecond})
	}},
	{"HistoryWithDeadlinesIsLinearizableAndNeverEarly", func(s *session) {
		const ms = time.Millisecond
		s.history(plan{
			kinds: []opKind{opGet, opGet, opHas, opHas, opEntry, opEntry, opScan, opScan, opSetE, opSetE, opSetEIfUnset, opSetEIfUnset, opSet, opDelete, opExpire},
			spans: []span{{5 * ms, 0}, {0, 10 * ms}, {10 * ms, 30 * ms}, {20 * ms, 20 * ms}, {40 * ms, 15 * ms}, {}},
			think: 8 * ms,
		})
	}},
	{"ImpatientCallersAreToldTheTruth", func(s *session) {
		s.history(plan{
			kinds:     []opKind{opGet, opHas, opEntry, opScan, opSet, opSetEIfUnset, opDelete, opExpire},
			spans:     []span{{}, {time.Hour, time.Hour}},
			impatient: 10,
		})
	}},
	{"HistoryOfConditionalWritesIsLinearizable", func(s *session) {
		s.history(plan{
			kinds: []opKind{
				opGet, opHas, opEntry, opEntry, opScan, opSet, opSetEIfUnset, opDelete, opExpire,
				opCompareAndSet, opCompareAndSet, opCompareAndSet, opCompareAndDelete, opTxn, opTxn,
			},
			spans: []span{{}, {time.Hour, time.Hour}},
		})
	}},
	{"HistoryOfConditionalWritesWithDeadlinesIsLinearizable", func(s *session) {
		const ms = time.Millisecond
		s.history(plan{
			kinds: []opKind{opGet, opEntry, opEntry, opHas, opSetE, opSet, opDelete, opExpire, opCompareAndSet, opCompareAndSet, opCompareAndSet, opCompareAndDelete, opTxn, opTxn},
			spans: []span{{5 * ms, 0}, {0, 10 * ms}, {10 * ms, 30 * ms}, {40 * ms, 15 * ms}, {}},
			think: 8 * ms,
		})
	}},
	{"ImpatientCallersOfConditionalWritesAreToldTheTruth", func(s *session) {
		s.history(plan{
			kinds:     []opKind{opGet, opEntry, opEntry, opSet, opDelete, opCompareAndSet, opCompareAndSet, opCompareAndDelete, opTxn, opTxn},
			spans:     []span{{}, {time.Hour, time.Hour}},
			impatient: 10,
		})
	}},
}

// sight is what a client has last seen of a key.
type sight struct {
	revision store.Revision
	value    string
}

// see takes note of what an operation has returned.
func (was sight) see(in input, out output) sight {
	switch in.kind {
	case opSet, opSetE, opSetEIfUnset, opCompareAndSet, opTxn:
		if out.ok || in.kind == opSet || in.kind == opSetE {
			was.value = in.value
		}
	}
	if out.value != "" {
		was.value = out.value
	}
	switch in.kind {
	case opEntry, opScan, opCompareAndSet, opTxn:
		was.revision = out.revision // 0 if there is no such key
	}
	return was
}

// A recorder collects what the clients do to one key.
type recorder struct {
	key       string
	begin     time.Time
	impatient chan struct{} // holds one for each operation that may yet be impatient
	mu        struct {
		sync.Mutex
		ops []porcupine.Operation
	}
}

// history has clients on all members work on a few keys and ends the check if
// no order of their operations explains what they saw. A store that is so fast
// that its clients hardly meet gets more rounds.
func (s *session) history(p plan) {
	s.Helper()
	seed := rand.Uint64()
	s.Logf("seed %d", seed)
	var busy time.Duration
	for round := uint64(0); round < historyRounds && busy < historyTime; round++ {
		begin := time.Now()
		keys := make([]*recorder, historyKeys)
		for i := range keys {
			keys[i] = &recorder{key: s.key("%d-%d", round, i), begin: begin, impatient: make(chan struct{}, p.impatient)}
			for range p.impatient {
				keys[i].impatient <- struct{}{}
			}
		}
		start := make(chan struct{})
		time.AfterFunc(time.Millisecond, func() { close(start) })
		s.together(historyClients, func(client int) error {
			random := rand.New(rand.NewPCG(seed+round, uint64(client)))
			<-start
			return s.client(p, client, random, keys)
		})
		busy += time.Since(begin)
		for _, r := range keys {
			for client, st := range s.stores {
				for _, kind := range []opKind{opEntry, opScan, opGet, opHas} {
					_, err := s.record(r, client, st, input{kind: kind}, nil)
					s.must(err)
				}
			}
			switch result := porcupine.CheckOperationsTimeout(model, r.mu.ops, checking); result {
			case porcupine.Ok:
			case porcupine.Illegal:
				s.Fatalf("no order of these operations on %s explains what they return:\n%s", r.key, list(r.mu.ops))
			default:
				s.Fatalf("the checker gave up on %s after %v; the operations are:\n%s", r.key, checking, list(r.mu.ops))
			}
		}
	}
}

// client does what one client of a history does.
func (s *session) client(p plan, client int, random *rand.Rand, keys []*recorder) error {
	st := s.stores[client%len(s.stores)]
	seen := make([]sight, len(keys))
	for n := range historyOps {
		key := (client + n) % len(keys)
		in := input{kind: p.kinds[random.IntN(len(p.kinds))]}
		switch in.kind {
		case opSetE, opSetEIfUnset, opCompareAndSet:
			in.span = p.spans[random.IntN(len(p.spans))]
			fallthrough
		case opSet, opTxn:
			in.value = fmt.Sprintf("%d-%d", client, n)
		}
		switch in.kind {
		case opCompareAndSet, opCompareAndDelete:
			in.revision = seen[key].revision
		case opTxn:
			in.old = seen[key].value
		}
		out, err := s.record(keys[key], client, st, in, random)
		if err != nil {
			return err
		}
		seen[key] = seen[key].see(in, out)
		if p.think > 0 {
			time.Sleep(time.Duration(random.Int64N(int64(p.think))))
		}
	}
	return nil
}

// record carries out one operation and notes it. Whoever has a random source
// may be impatient.
func (s *session) record(r *recorder, client int, st store.Store, in input, random *rand.Rand) (output, error) {
	ctx, impatient := s.ctx, false
	if random != nil && random.IntN(8) == 0 {
		select {
		case <-r.impatient:
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, time.Duration(random.Int64N(int64(1500*time.Microsecond))))
			defer cancel()
			impatient = true
		default:
		}
	}
	in.call = time.Since(r.begin)
	out, err := in.do(ctx, st, r.key)
	out.ret = time.Since(r.begin)
	op := porcupine.Operation{ClientId: client, Input: in, Call: int64(in.call), Return: int64(out.ret)}
	switch kind := store.KindOf(err); {
	case impatient && out.ret-in.call > s.late:
		return out, fmt.Errorf("%v returned %v after its context ended", in.kind, out.ret-in.call)
	case err == nil:
	case impatient && kind == store.KindNotApplied:
		return output{}, nil // if that is not so, the history shows it
	case kind == store.KindUnknown && in.kind > opHas:
		out = output{unknown: true, ret: never}
		op.Return = never
	default:
		return out, fmt.Errorf("%v(%s): %w (kind: %v)", in.kind, r.key, err, kind)
	}
	op.Output = out
	r.mu.Lock()
	r.mu.ops = append(r.mu.ops, op)
	r.mu.Unlock()
	return out, nil
}

func (in input) do(ctx context.Context, st store.Store, key string) (out output, err error) {
	var value []byte
	switch in.kind {
	case opGet:
		value, out.ok, err = st.Get(ctx, key)
		out.value = string(value)
	case opEntry, opScan:
		var e store.Entry
		if in.kind == opEntry {
			e, out.ok, err = st.GetEntry(ctx, key)
		} else {
			e, out.ok, err = scanOne(ctx, st, key)
		}
		if err == nil {
			err = checkEntry(key, e, out.ok)
		}
		out.value, out.expired, out.revision = string(e.Value), e.Expired, e.Revision
	case opHas:
		out.ok, err = st.Has(ctx, key)
	case opSet:
		err = st.Set(ctx, key, []byte(in.value))
	case opSetE:
		err = st.SetE(ctx, key, []byte(in.value), in.span.expireIn, in.span.deleteIn)
	case opSetEIfUnset:
		out.ok, err = st.SetEIfUnset(ctx, key, []byte(in.value), in.span.expireIn, in.span.deleteIn)
	case opExpire:
		err = st.Expire(ctx, key)
	case opDelete:
		err = st.Delete(ctx, key)
	case opCompareAndSet:
		out.revision, out.ok, err = st.CompareAndSet(ctx, key, in.revision, []byte(in.value), in.span.expireIn, in.span.deleteIn)
	case opCompareAndDelete:
		out.revision, out.ok, err = st.CompareAndDelete(ctx, key, in.revision)
	case opTxn:
		t := store.Txn{
			If:   []store.Cond{store.IfValue(key, []byte(in.old))},
			Then: []store.Op{store.OpSet(key, []byte(in.value))},
			Else: []store.Op{store.OpGet(key)},
		}
		var res store.TxnResult
		if res, err = st.Txn(ctx, t); err != nil {
			break
		}
		if err = checkTxn(t, res); err == nil {
			r := res.Results[0]
			out.ok, out.found = res.Held, !res.Held && r.Done
			out.value, out.expired, out.revision = string(r.Value), r.Expired, r.Revision
		}
	}
	return out, err
}

// list shows a history in the order of its calls.
func list(ops []porcupine.Operation) string {
	ops = slices.Clone(ops)
	slices.SortFunc(ops, func(a, b porcupine.Operation) int { return int(a.Call - b.Call) })
	var b strings.Builder
	for _, op := range ops {
		ret := "never"
		if op.Return != never {
			ret = time.Duration(op.Return).String()
		}
		fmt.Fprintf(&b, "%12v to %12s  client %d  %s\n", time.Duration(op.Call), ret, op.ClientId, describe(op.Input.(input), op.Output.(output)))
	}
	return b.String()
}
