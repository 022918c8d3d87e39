package replica_test

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"dkv/internal/testcluster"
	"dkv/store"

	"github.com/anishathalye/porcupine"
)

// registerInput is an operation on one key; registerOutput what came of it.
type registerInput struct {
	op    string
	key   string
	value string // no two writes have the same
}

type registerOutput struct {
	unknown bool
	value   string // "" if there is none
	done    bool   // of a conditional write
}

// register is one key: its state is its value, "" if it is not there.
var register = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		byKey := make(map[string][]porcupine.Operation)
		for _, op := range history {
			key := op.Input.(registerInput).key
			byKey[key] = append(byKey[key], op)
		}
		var parts [][]porcupine.Operation
		for _, part := range byKey {
			parts = append(parts, part)
		}
		return parts
	},
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		in, out := input.(registerInput), output.(registerOutput)
		switch in.op {
		case "set":
			return true, in.value
		case "delete":
			return true, ""
		case "get":
			return out.value == state, state
		case "setifunset":
			unset := state == ""
			if unset {
				state = in.value
			}
			return out.unknown || out.done == unset, state
		}
		panic(in.op)
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprint(input, " -> ", output) },
}

// history collects operations as they end.
type history struct {
	start time.Time
	mu    sync.Mutex
	ops   []porcupine.Operation
	kinds map[store.Kind]int
	keys  map[string]bool
}

// do does one operation on s and records it, unless it certainly had no effect.
func (h *history) do(client int, s store.Store, in registerInput, timeout time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	call := time.Since(h.start)
	var out registerOutput
	var err error
	switch in.op {
	case "set":
		err = s.Set(ctx, in.key, []byte(in.value))
	case "delete":
		err = s.Delete(ctx, in.key)
	case "get":
		var value []byte
		value, _, err = s.Get(ctx, in.key)
		out.value = string(value)
	case "setifunset":
		out.done, err = s.SetEIfUnset(ctx, in.key, []byte(in.value), 0, 0)
	}
	back := int64(time.Since(h.start))
	kind := store.KindOf(err)
	if err != nil {
		out = registerOutput{unknown: true}
		back = math.MaxInt64
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.kinds[kind]++
	h.keys[in.key] = true
	if err == nil || in.op != "get" && kind == store.KindUnknown {
		h.ops = append(h.ops, porcupine.Operation{ClientId: client, Input: in, Call: int64(call), Output: out, Return: back})
	}
}

// check has porcupine judge the history.
func (h *history) check(t *testing.T) {
	t.Helper()
	switch result, info := porcupine.CheckOperationsVerbose(register, h.ops, time.Minute); result {
	case porcupine.Ok:
	case porcupine.Unknown:
		t.Error("the checker gave up")
	default:
		path := filepath.Join(os.TempDir(), fmt.Sprintf("dkv-history-%d.html", time.Now().UnixNano()))
		t.Errorf("the history is not linearizable; see %s: %v", path, porcupine.VisualizePath(register, info, path))
	}
}

// TestHistoriesAreLinearizableUnderFaults takes as long as DKV_FAULT_TIME says.
func TestHistoriesAreLinearizableUnderFaults(t *testing.T) {
	t.Parallel()
	c := testcluster.NewProcesses(t, 3, 128<<10)
	c.Ready()
	h := &history{start: time.Now(), kinds: make(map[store.Kind]int), keys: make(map[string]bool)}
	stop := make(chan struct{})
	var clients sync.WaitGroup
	end := sync.OnceFunc(func() { close(stop); clients.Wait() })
	defer end()
	const width, opsPerKey = 4, 120
	var keys struct {
		sync.Mutex
		used [width]int
	}
	nextKey := func() string {
		keys.Lock()
		defer keys.Unlock()
		i := rand.IntN(width)
		keys.used[i]++
		return fmt.Sprint("key", i, ".", keys.used[i]/opsPerKey)
	}
	for client := range 8 {
		clients.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				in := registerInput{
					op:    []string{"set", "set", "get", "get", "get", "setifunset", "delete"}[rand.IntN(7)],
					key:   nextKey(),
					value: fmt.Sprint(client, ".", n),
				}
				h.do(client, c.Process(rand.IntN(3)), in, time.Duration(50+rand.IntN(950))*time.Millisecond)
				// The rate is bounded so that the checker has to look at
				// faults rather than at fair weather.
				time.Sleep(time.Duration(rand.IntN(6)) * time.Millisecond)
			}
		})
	}

	done := func() int {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.kinds[store.KindNone]
	}
	n := newNemesis(t, c, done)
	n.torment(faultTime(t))
	end()
	c.Ready()
	// What is there in the end is part of the history.
	finals := make([]string, 0, len(h.keys))
	for key := range h.keys {
		finals = append(finals, key)
	}
	for _, key := range finals {
		for i := range 3 {
			h.do(100+i, c.Process(i), registerInput{op: "get", key: key}, 20*time.Second)
		}
	}
	sum := c.WaitEqual()
	h.check(t)
	t.Logf("%d operations on %d keys, by kind of error %v; faults %v; %v", len(h.ops), len(finals), h.kinds, n.faults, sum)
	if h.kinds[store.KindFinal] > 0 || h.kinds[store.KindClosed] > 0 {
		t.Errorf("errors of kinds that no fault leads to: %v", h.kinds)
	}
	if h.kinds[store.KindUnknown] == 0 || h.kinds[store.KindNone] < 100 {
		t.Error("that was no test")
	}
	n.check()
}

// TestCheckerFindsWhatItIsThereFor gives the checker histories that are wrong.
func TestCheckerFindsWhatItIsThereFor(t *testing.T) {
	op := func(client int, call, back int64, in registerInput, out registerOutput) porcupine.Operation {
		return porcupine.Operation{ClientId: client, Call: call, Return: back, Input: in, Output: out}
	}
	get := func(call, back int64, value string) porcupine.Operation {
		return op(9, call, back, registerInput{op: "get", key: "k"}, registerOutput{value: value})
	}
	write := func(call, back int64, value string) porcupine.Operation {
		return op(1, call, back, registerInput{op: "set", key: "k", value: value}, registerOutput{unknown: back == math.MaxInt64})
	}
	for name, test := range map[string]struct {
		ops []porcupine.Operation
		ok  bool
	}{
		"a plain history":             {[]porcupine.Operation{write(1, 2, "a"), get(3, 4, "a")}, true},
		"a lost write":                {[]porcupine.Operation{write(1, 2, "a"), get(3, 4, "")}, false},
		"a stale read":                {[]porcupine.Operation{write(1, 2, "a"), write(3, 4, "b"), get(5, 6, "a")}, false},
		"an unknown write that was":   {[]porcupine.Operation{write(1, math.MaxInt64, "a"), get(3, 4, ""), get(5, 6, "a")}, true},
		"an unknown write, undone":    {[]porcupine.Operation{write(1, math.MaxInt64, "a"), get(3, 4, "a"), get(5, 6, "")}, false},
		"a value that nobody wrote":   {[]porcupine.Operation{get(1, 2, "x")}, false},
		"two conditional writes done": {[]porcupine.Operation{op(1, 1, 2, registerInput{"setifunset", "k", "a"}, registerOutput{done: true}), op(2, 3, 4, registerInput{"setifunset", "k", "b"}, registerOutput{done: true})}, false},
	} {
		if got := porcupine.CheckOperations(register, test.ops); got != test.ok {
			t.Errorf("%s: %t", name, got)
		}
	}
}
