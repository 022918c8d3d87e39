package transport

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dkv/internal/once"
	"dkv/internal/ops"
	"dkv/store"
	"dkv/store/engine"
	"dkv/store/local"
)

// letOn has writes begin, and go on when they are let.
type letOn struct {
	waits
	began *atomic.Int64
	goOn  chan struct{}
}

func (s letOn) DoOnce(ctx context.Context, op engine.Op, id once.ID) (engine.Result, error) {
	s.began.Add(1)
	select {
	case <-s.goOn:
	case <-ctx.Done():
	}
	return s.waits.DoOnce(ctx, op, id)
}

// letOnTogether has those that come together share a wait.
type letOnTogether struct{ letOn }

func (s letOnTogether) Barrier(ctx context.Context) error { return s.Ready(ctx) }

func (s letOnTogether) GetEntryStale(ctx context.Context, key string) (store.Entry, bool, error) {
	return s.GetEntry(ctx, key)
}

func (s letOnTogether) DoTogether(ctx context.Context, writes []ops.Write) {
	s.began.Add(int64(len(writes)))
	<-s.goOn
	behindBarrier{s.waits}.DoTogether(ctx, writes)
}

// TestLargeArgumentsOfAConnectionAreBounded has more come than may be in memory, which wait
// where they are until there is room, and are all carried out.
func TestLargeArgumentsOfAConnectionAreBounded(t *testing.T) {
	const n, size = 100, 1 << 20
	for name, wrap := range map[string]func(letOn) Backend{
		"goroutines": func(s letOn) Backend { return s },
		"together":   func(s letOn) Backend { return letOnTogether{s} },
	} {
		t.Run(name, func(t *testing.T) {
			s := local.Open(local.Options{})
			defer s.Close()
			gate := letOn{waits{s}, new(atomic.Int64), make(chan struct{})}
			conn := say(t, serveBackend(t, "tcp://127.0.0.1:0", wrap(gate)))
			want := make(map[uint64]bool)
			for id := range uint64(n) {
				want[id+1] = true
			}
			value := strings.Repeat("v", size)
			var sending sync.WaitGroup
			sending.Go(func() {
				for id := range uint64(n) {
					conn.request(request{id: id + 1, method: methodWrite, arg: setting("k", value)})
				}
				conn.w.Flush()
			})
			const most = maxArguments/size - 1 // with their keys
			until(t, "as many as may be are under way", func() bool { return gate.began.Load() >= most })
			time.Sleep(50 * time.Millisecond)
			if got := gate.began.Load(); got != most {
				t.Errorf("%d are under way, which have %d bytes each", got, size)
			}
			close(gate.goOn)
			answered(t, conn, want)
			sending.Wait()
			// None of the room is lost.
			if got := gate.began.Load(); got != n {
				t.Errorf("%d were carried out, of %d", got, n)
			}
			conn.request(request{id: n + 1, method: methodWrite, arg: setting("k", strings.Repeat("v", 8<<20))})
			conn.w.Flush()
			answered(t, conn, map[uint64]bool{n + 1: true})
		})
	}
}
