package transport

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"sync"
	"testing"
	"time"

	"dkv/internal/clock"
	"dkv/store"
	"dkv/store/local"
)

func TestScanOverTheNetworkIsThatOfTheStore(t *testing.T) {
	// The race detector takes its time over large values.
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	s := serveScans(t)
	c := connect(t, s.endpoint)
	big := bytes.Repeat([]byte("8 MiB..."), store.MaxValueSize/8)
	longest := "z" + strings.Repeat("\xff", store.MaxKeySize-1)
	const n = 5000
	s.fill(t, n, "value")
	s.Set(ctx, "z 1", big[:1<<20])
	s.Set(ctx, "z 2", big[:2<<20])
	s.Set(ctx, longest, big) // an entry of the greatest size
	for i := range 200 {     // pages that bytes fill, not entries
		s.Set(ctx, fmt.Sprintf("large %03d", i), big[:10_000+i])
	}
	s.Set(ctx, "empty", nil)
	s.SetE(ctx, "expires", []byte("v"), time.Hour, 2*time.Hour)
	s.SetE(ctx, "expired", []byte("v"), time.Minute, 0)
	s.SetE(ctx, "deleted", []byte("v"), 0, time.Minute)
	s.Set(ctx, "\x00\xff", []byte("\x00\xff"))
	s.clock.Advance(10 * time.Minute)

	for _, r := range []store.Range{
		{},
		{Prefix: "key "},
		{Prefix: "key 00", Limit: 300},
		{Prefix: "none"},
		{Prefix: "key", From: "key 01000", To: "key 03000"},
		{Prefix: "key", From: "z"},
		{Prefix: "key ", Limit: firstPageEntries},
		{Prefix: "key 0", Limit: firstPageEntries + 1},
		{From: "key 00000", To: fmt.Sprintf("key %05d", firstPageEntries)},
		{From: "key 00000", To: fmt.Sprintf("key %05d", firstPageEntries+pageEntries)},
		{From: "key 00000", Limit: firstPageEntries + pageEntries},
		{Prefix: "large "},
		{After: "key 02499", Prefix: "key"},
		{After: "key 02502", Limit: 1},
		{Prefix: "z 1"},
		{From: "z 2", To: longest},
	} {
		for _, reverse := range []bool{false, true} {
			for _, keysOnly := range []bool{false, true} {
				var at, wantAt store.Revision
				r.Reverse, r.KeysOnly = reverse, keysOnly
				r.At = &wantAt
				want, err := collect(t, s.Store.Scan(ctx, r))
				if err != nil {
					t.Fatal(err)
				}
				r.At = &at
				got, err := collect(t, c.Scan(ctx, r))
				if err == nil {
					err = sameEntries(got, want)
				}
				if err != nil || at != wantAt || at == 0 {
					t.Fatalf("%.100v: at %d, want %d: %v", r, at, wantAt, err)
				}
			}
		}
	}
	s.wantScans(t, 0)
}

func TestWritesDuringAScanAreNotSeen(t *testing.T) {
	ctx := background(t)
	s := serveScans(t)
	c := connect(t, s.endpoint)
	const n = 3000
	s.fill(t, n, "old")
	var at store.Revision
	seen := 0
	for e, err := range c.Scan(ctx, store.Range{At: &at}) {
		if err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf("key %05d", seen); e.Key != want || string(e.Value) != "old" || at != n {
			t.Fatalf("%q = %q at %d, want %q as it was", e.Key, e.Value, at, want)
		}
		if seen == 0 { // by the scan's own loop, over the same connection
			if err := c.Set(ctx, "key 00000x", []byte("new")); err != nil {
				t.Fatal(err)
			}
			s.fill(t, n, "new")
			for i := n / 2; i < n; i++ {
				s.Delete(ctx, fmt.Sprintf("key %05d", i))
			}
		}
		seen++
	}
	if seen != n {
		t.Fatalf("%d of %d entries", seen, n)
	}
	if now, err := collect(t, c.Scan(ctx, store.Range{})); err != nil || len(now) != n/2+1 || string(now[0].Value) != "new" {
		t.Fatal("a scan after the writes:", len(now), err)
	}
}

func TestScansAndWritesAtTheSameTime(t *testing.T) {
	ctx := background(t)
	s := serveScans(t)
	c := connect(t, s.endpoint)
	const n = 400
	s.fill(t, n, "v")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 10 {
				var at store.Revision
				got, err := collect(t, c.Scan(ctx, store.Range{At: &at}))
				if err != nil || len(got) != n {
					t.Error(len(got), err)
				}
				for _, e := range got {
					if e.Revision > at {
						t.Errorf("an entry of revision %d at %d", e.Revision, at)
					}
				}
				for _, err := range c.Scan(ctx, store.Range{Reverse: true}) {
					if err != nil {
						t.Error(err)
					}
					break
				}
			}
		})
		wg.Go(func() {
			for i := range n {
				if err := c.Set(ctx, fmt.Sprintf("key %05d", i), []byte("w")); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	s.wantScans(t, 0)
}

func TestScanOfOnePageTakesOneRequest(t *testing.T) {
	ctx := background(t)
	s := serveScans(t)
	c := connect(t, s.endpoint)
	s.fill(t, firstPageEntries, "value")
	if got, err := collect(t, c.Scan(ctx, store.Range{})); err != nil || len(got) != firstPageEntries {
		t.Fatal(len(got), err)
	}
	s.wantScans(t, 0)
	conn := c.current()
	conn.mu.Lock()
	defer conn.mu.Unlock()
	if conn.mu.last != 1 || conn.pending.Load() != 0 {
		t.Fatalf("%d requests, of which %d are pending", conn.mu.last, conn.pending.Load())
	}
}

func TestBadRangesAreNotSent(t *testing.T) {
	s := serveScans(t)
	c := connect(t, s.endpoint)
	for want, r := range map[error]store.Range{
		store.ErrBadRange:    {Limit: -1},
		store.ErrKeyTooLarge: {After: strings.Repeat("k", store.MaxKeySize+1)},
	} {
		if got, err := collect(t, c.Scan(background(t), r)); len(got) != 0 || !errors.Is(err, want) {
			t.Errorf("%v, want %v", err, want)
		}
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if got, err := collect(t, c.Scan(ended, store.Range{})); len(got) != 0 ||
		!errors.Is(err, store.ErrUnavailable) || !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if c.current() != nil {
		t.Error("the client has connected")
	}
}

func TestValuesOfAScanOfKeysAreNotSent(t *testing.T) {
	s := serveScans(t)
	s.Set(context.Background(), "k", make([]byte, store.MaxValueSize))
	raw := dialRaw(t, s.endpoint)
	resp := raw.ask(request{id: 1, method: methodScan, arg: appendRange(nil, store.Range{KeysOnly: true})})
	if resp.code != 0 || len(resp.result) > 100 {
		t.Fatalf("a page of %d bytes, code %d", len(resp.result), resp.code)
	}
}

func TestErrorOfAScanComesBehindWhatIsRight(t *testing.T) {
	ctx := background(t)
	s := serveScans(t)
	c := connect(t, s.endpoint)
	const n = firstPageEntries + 10
	s.fill(t, 2*n, "value")
	var fail error
	s.scan = func(ctx context.Context, r store.Range) iter.Seq2[store.Entry, error] {
		return func(yield func(store.Entry, error) bool) {
			left := n
			for e, err := range s.Store.Scan(ctx, r) {
				if left--; left < 0 {
					yield(store.Entry{}, fail)
					return
				}
				if !yield(e, err) {
					return
				}
			}
		}
	}
	for _, c2 := range []struct{ fail, want error }{
		{store.ErrBusy, store.ErrBusy},
		{errors.New("some other"), store.ErrUnavailable},
	} {
		fail = c2.fail
		got, err := collect(t, c.Scan(ctx, store.Range{}))
		if len(got) != n || !errors.Is(err, c2.want) || !strings.Contains(err.Error(), fail.Error()) {
			t.Fatalf("%d entries and %v, want %d and %v", len(got), err, n, c2.want)
		}
		s.wantScans(t, 0)
	}
}

// FuzzScan feeds the decoders of scans, and has a server answer what they let
// through.
func FuzzScan(f *testing.F) {
	r := store.Range{Prefix: "p", From: "f", To: "t", After: "a", Reverse: true, KeysOnly: true, Limit: 300}
	f.Add(appendRange(nil, store.Range{}))
	f.Add(appendRange(nil, r))
	f.Add(appendScan(nil, 1))
	f.Add(appendPageHeader(nil, 300))
	p := appendPageHeader(nil, 7)
	p[pageMore] = 1
	p = appendPageEntry(p, store.Entry{Key: "a", Value: []byte("v"), Revision: 3, ExpireIn: 1, DeleteIn: 300})
	f.Add(appendPageEntry(p, store.Entry{Key: "b", Expired: true, Revision: 7}))

	s := local.Open(local.Options{})
	for i := range 300 {
		s.Set(context.Background(), fmt.Sprint(i), nil)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := parseRange(b); err == nil {
			if !bytes.Equal(appendRange(nil, r), b) || r.Check() != nil {
				t.Fatalf("%+v, %v", r, r.Check())
			}
		}
		if id, err := parseScan(b); err == nil && !bytes.Equal(appendScan(nil, id), b) {
			t.Fatal(id)
		}
		for _, keysOnly := range []bool{false, true} {
			p, err := parsePage(b, keysOnly)
			if err != nil {
				continue
			}
			again := appendPageHeader(nil, p.revision)
			if p.more {
				again[pageMore] = 1
			}
			for e, ok := p.next(); ok; e, ok = p.next() {
				again = appendPageEntry(again, e)
				if e.Key == "" || (e.Expired || keysOnly) != (e.Value == nil) || e.ExpireIn < 0 || e.DeleteIn < 0 {
					t.Fatalf("%+v", e)
				}
			}
			if p.err() == nil && !bytes.Equal(again, b) {
				t.Fatalf("%x is written again as %x", b, again)
			}
		}

		ctx := context.Background()
		scans := newCursors(ctx, s, new(clock.Fake))
		open := scans.receive(request{id: 1, method: methodScan, arg: appendRange(nil, store.Range{})})
		if _, err := open(ctx); err != nil {
			t.Fatal(err)
		}
		for i, m := range []method{methodScan, methodScanNext, methodScanStop} {
			scans.receive(request{id: uint64(i) + 2, method: m, arg: b})(ctx)
		}
		scans.close()
		info, err := s.Info(ctx)
		if err != nil || info.Views != 0 || len(scans.mu.open) != 0 || scans.mu.kept != 0 {
			t.Fatal(info.Views, len(scans.mu.open), scans.mu.kept, err)
		}
	})
}
