package transport

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dkv/internal/clock"
	"dkv/store"
	"dkv/store/local"
)

func TestLoopThatIsLeftGivesTheCursorUp(t *testing.T) {
	s := serveScans(t)
	c := connect(t, s.endpoint)
	s.fill(t, severalPages, "value")
	for _, after := range []int{1, firstPageEntries, firstPageEntries + 1, severalPages - 1} {
		n := 0
		for _, err := range c.Scan(background(t), store.Range{}) {
			if n++; err != nil {
				t.Fatal(err)
			} else if n == after {
				break
			}
		}
		s.wantScans(t, 0)
	}
}

func TestScanWhoseContextEndsGivesTheCursorUp(t *testing.T) {
	s := serveScans(t)
	c := connect(t, s.endpoint)
	s.fill(t, severalPages, "value")
	for _, after := range []int{1, firstPageEntries, firstPageEntries + 1} {
		ctx, cancel := context.WithCancel(background(t))
		defer cancel()
		n := 0
		for _, err := range c.Scan(ctx, store.Range{}) {
			if err != nil {
				if n != after || !errors.Is(err, store.ErrUnavailable) || !errors.Is(err, context.Canceled) {
					t.Fatal(n, err)
				}
				break
			}
			if n++; n == after {
				cancel()
			}
		}
		if ctx.Err() == nil {
			t.Fatalf("ended after %d entries", n)
		}
		s.wantScans(t, 0)
	}
}

func TestScanThatIsGivenUpDuringAPageLeavesNothing(t *testing.T) {
	for _, at := range []int{0, firstPageEntries + 1} {
		s := serveScans(t)
		s.fill(t, severalPages, "value")
		reached := s.waiting(at)
		c := connect(t, s.endpoint)
		// Without a deadline, which the server would keep by itself.
		ctx, cancel := context.WithCancel(context.Background())
		go func() {
			<-reached
			cancel()
		}()
		_, err := collect(t, c.Scan(ctx, store.Range{}))
		if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		s.wantScans(t, 0)
	}
}

func TestScanThatIsGivenUpBeforeItBeginsLeavesNothing(t *testing.T) {
	s := serveScans(t)
	s.fill(t, severalPages, "value")
	raw := dialRaw(t, s.endpoint)
	const n = 200 // more than there may be at a time
	for i := range uint64(n) {
		raw.send(
			request{id: 2*i + 1, method: methodScan, arg: appendRange(nil, store.Range{})},
			request{id: 2*i + 2, method: methodScanStop, arg: appendScan(nil, 2*i+1)},
		)
	}
	for range 2 * n {
		raw.receive()
	}
	s.wantScans(t, 0)
}

func TestLatePageEndsItsScan(t *testing.T) {
	s := serveScans(t)
	s.fill(t, severalPages, "value")
	s.waiting(firstPageEntries + 1)
	raw := dialRaw(t, s.endpoint)
	all := appendRange(nil, store.Range{})
	raw.wantMore(raw.ask(request{id: 1, method: methodScan, arg: all}))
	// The scan waits behind the first entry of this page, which is right.
	next := request{id: 2, method: methodScanNext, arg: appendScan(nil, 1), timeout: time.Millisecond}
	raw.wantMore(raw.ask(next))
	for next.id < 4 {
		next.id++
		if err := raw.ask(next).err(store.ErrBusy); !errors.Is(err, store.ErrUnavailable) {
			t.Fatal(err)
		}
	}
	s.wantScans(t, 0)
}

func TestDeadlineOfAPageIsNotThatOfTheScan(t *testing.T) {
	s := local.Open(local.Options{})
	defer s.Close()
	for i := range severalPages {
		s.Set(context.Background(), fmt.Sprint(i), nil)
	}
	scans := newCursors(context.Background(), s, new(clock.Fake))
	defer scans.close()
	req := request{id: 1, method: methodScan, arg: appendRange(nil, store.Range{})}
	entries := 0
	for more := true; more; {
		ctx, cancel := context.WithCancel(context.Background())
		b, err := scans.receive(req)(ctx)
		cancel() // as a deadline does that comes when the page is out
		if err != nil {
			t.Fatal(err)
		}
		p, err := parsePage(b, false)
		if err != nil {
			t.Fatal(err)
		}
		for _, ok := p.next(); ok; _, ok = p.next() {
			entries++
		}
		more = p.more
		req = request{id: req.id + 1, method: methodScanNext, arg: appendScan(nil, 1)}
	}
	if entries != severalPages {
		t.Fatalf("%d entries", entries)
	}
}

func TestIdleScanIsGivenUp(t *testing.T) {
	s := serveScans(t)
	s.fill(t, severalPages, "value")
	c := connect(t, s.endpoint)
	next, _ := begin(t, c)
	n := 1
	s.clock.Advance(idleTimeout - 1)
	for ; n <= firstPageEntries; n++ { // into the second page
		if _, err, _ := next(); err != nil {
			t.Fatal(err)
		}
	}
	s.clock.Advance(idleTimeout - 1)
	s.wantScans(t, 1)
	if timers := s.clock.Timers(); timers != 1 {
		t.Fatalf("%d timers", timers)
	}
	s.clock.Advance(1)
	s.wantScans(t, 0)
	if timers := s.clock.Timers(); timers != 0 {
		t.Fatalf("%d timers of no scan", timers)
	}
	more, err := rest(next)
	if n += more; n != firstPageEntries+pageEntries || !errors.Is(err, store.ErrUnavailable) {
		t.Fatal(n, err)
	}
}

// late is a clock whose timers run out when the test calls them, be it after they
// were stopped.
type late struct {
	clock.System
	timers []func()
}

func (l *late) AfterFunc(_ time.Duration, f func()) (stop func() bool) {
	l.timers = append(l.timers, f)
	return func() bool { return false }
}

func TestTimerThatHasRunOutAsThePageIsAskedForEndsNothing(t *testing.T) {
	s := local.Open(local.Options{})
	defer s.Close()
	for i := range severalPages {
		s.Set(context.Background(), fmt.Sprint(i), nil)
	}
	ctx := context.Background()
	timers := new(late)
	scans := newCursors(ctx, s, timers)
	defer scans.close()
	if _, err := scans.receive(request{id: 1, method: methodScan, arg: appendRange(nil, store.Range{})})(ctx); err != nil {
		t.Fatal(err)
	}
	next := request{id: 2, method: methodScanNext, arg: appendScan(nil, 1)}
	page := scans.receive(next)
	timers.timers[0]() // while a request has it
	if _, err := page(ctx); err != nil {
		t.Fatal(err)
	}
	timers.timers[0]() // when it is idle for another time
	page = scans.receive(next)
	if _, err := page(ctx); err != nil {
		t.Fatal(err)
	}
	if len(timers.timers) != 2 {
		t.Fatalf("%d timers for two pages that are not the last", len(timers.timers))
	}
}

// hasty is a clock whose timers have run out when they are set.
type hasty struct{ clock.System }

func (hasty) AfterFunc(_ time.Duration, f func()) (stop func() bool) {
	return time.AfterFunc(0, f).Stop
}

func TestScanThatIsGivenUpWhileItsNextPageIsAskedForIsRightOrOver(t *testing.T) {
	const limit = firstPageEntries + 1
	s := &watched{Store: local.Open(local.Options{})}
	defer s.Close()
	for i := range limit {
		s.Set(context.Background(), fmt.Sprintf("%05d", i), nil)
	}
	scans := newCursors(context.Background(), s, hasty{})
	ask := func(m method, id uint64, arg []byte) (entries int, more bool, err error) {
		b, err := scans.receive(request{id: id, method: m, arg: arg})(context.Background())
		if err != nil {
			return 0, false, err
		}
		p, err := parsePage(b, false)
		for _, ok := p.next(); ok; _, ok = p.next() {
			entries++
		}
		return entries, p.more, errors.Join(err, p.err())
	}
	var complete, over atomic.Int64
	for round := range uint64(50) {
		var wg sync.WaitGroup
		for i := range uint64(8) {
			id := 8*round + i
			wg.Go(func() {
				n, more, err := ask(methodScan, id, appendRange(nil, store.Range{}))
				if n != firstPageEntries || !more || err != nil {
					t.Error("first page:", n, more, err)
				}
				n, more, err = ask(methodScanNext, id, appendScan(nil, id))
				switch {
				case n == 1 && !more && err == nil:
					complete.Add(1)
				case n == 0 && errors.Is(err, store.ErrUnavailable):
					over.Add(1)
				default:
					t.Error("second page:", n, more, err)
				}
			})
		}
		wg.Wait()
	}
	ask(methodScan, 1000, appendRange(nil, store.Range{}))
	scans.close()
	if n := s.scans.Load(); n != 0 || scans.mu.kept != 0 || len(scans.mu.open) != 0 {
		t.Fatalf("%d scans are under way, %d kept, %d open", n, scans.mu.kept, len(scans.mu.open))
	}
	t.Logf("%d were complete, %d over", complete.Load(), over.Load())
}

func TestTooManyScansAreRefused(t *testing.T) {
	s := serveScans(t)
	s.fill(t, severalPages, "value")
	raw := dialRaw(t, s.endpoint)
	all := appendRange(nil, store.Range{})
	id := uint64(0)
	open := func() response {
		id++
		return raw.ask(request{id: id, method: methodScan, arg: all})
	}
	for range maxCursors {
		raw.wantMore(open())
	}
	for range 2 {
		if err := open().err(store.ErrUnknown); !errors.Is(err, store.ErrBusy) {
			t.Fatalf("one scan more than %d: %v", maxCursors, err)
		}
	}
	s.wantScans(t, maxCursors)
	id++
	small := raw.ask(request{id: id, method: methodScan, arg: appendRange(nil, store.Range{Limit: 5})})
	if p, err := parsePage(small.result, false); err != nil || p.more || small.code != 0 {
		t.Fatal("a scan that needs no cursor:", small.code, err)
	}
	// Others are not affected.
	if got, err := collect(t, connect(t, s.endpoint).Scan(background(t), store.Range{})); err != nil || len(got) != severalPages {
		t.Fatal("on another connection:", len(got), err)
	}
	// One that is given up makes room at once, for those behind it.
	raw.send(
		request{id: id + 1, method: methodScanStop, arg: appendScan(nil, 1)},
		request{id: id + 2, method: methodScan, arg: all},
	)
	for range 2 {
		if resp := raw.receive(); resp.code != 0 {
			t.Fatal(resp.err(store.ErrUnknown))
		}
	}
	id += 2
	if err := open().err(store.ErrUnknown); !errors.Is(err, store.ErrBusy) {
		t.Fatal("there is room for one, not two:", err)
	}
	s.wantScans(t, maxCursors)
}

func TestScanIsOfOneRequestAtATime(t *testing.T) {
	s := serveScans(t)
	s.fill(t, severalPages, "value")
	reached := s.waiting(firstPageEntries + 1)
	raw := dialRaw(t, s.endpoint)
	first := appendScan(nil, 1)
	raw.wantMore(raw.ask(request{id: 1, method: methodScan, arg: appendRange(nil, store.Range{})}))
	raw.send(request{id: 2, method: methodScanNext, arg: first})
	<-reached
	resp := raw.ask(request{id: 3, method: methodScanNext, arg: first})
	if err := resp.err(store.ErrUnknown); !errors.Is(err, store.ErrBusy) {
		t.Fatal("a scan that is in use:", err)
	}
	resp = raw.ask(request{id: 1, method: methodScan, arg: appendRange(nil, store.Range{})})
	if resp.code != uint64(store.ErrMalformed.Code()) {
		t.Fatal("a scan with the id of another: code", resp.code)
	}
	// It can be given up all the same, which ends the page.
	raw.send(request{id: 4, method: methodScanStop, arg: first})
	for range 2 {
		if resp := raw.receive(); resp.id == 4 && resp.code != 0 {
			t.Fatal(resp.err(store.ErrUnknown))
		}
	}
	s.wantScans(t, 0)
	resp = raw.ask(request{id: 5, method: methodScanNext, arg: first})
	if err := resp.err(store.ErrUnknown); !errors.Is(err, store.ErrUnavailable) {
		t.Fatal("a scan that was given up:", err)
	}
	if resp := raw.ask(request{id: 6, method: methodScanStop, arg: first}); resp.code != 0 {
		t.Fatal("given up twice:", resp.err(store.ErrUnknown))
	}
	for i, m := range []method{methodScan, methodScanNext, methodScanStop} {
		if resp := raw.ask(request{id: 7 + uint64(i), method: m, arg: []byte{0x80}}); resp.code != uint64(store.ErrMalformed.Code()) {
			t.Fatalf("method %d with a malformed argument: code %d", m, resp.code)
		}
	}
}
