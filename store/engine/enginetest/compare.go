package enginetest

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"slices"

	"dkv/store"
	"dkv/store/engine"

	"pgregory.net/rapid"
)

// check compares all that can be seen. It runs after each step of a walk.
func (w *walk) check(t *rapid.T) {
	if !reflect.DeepEqual(w.told, w.twinTold) {
		t.Fatalf("the engine has told of %+v, want %+v", w.told, w.twinTold)
	}
	w.told, w.twinTold = nil, nil
	if err := w.compare(w.engine, w.twin); err != nil {
		t.Fatal(err)
	}
	if err := w.compareUnsettled(w.engine, w.twin); err != nil {
		t.Fatal(err)
	}
	for i, p := range w.views {
		if err := w.compareViews(p); err != nil {
			t.Fatalf("view %d of %d: %v", i, len(w.views), err)
		}
	}
	for _, h := range w.held {
		if string(h.value) != h.copy {
			t.Fatalf("a value that was returned as %q has become %q", h.copy, h.value)
		}
	}
	if w.shadow != nil {
		if a, b := checksumOf(w.engine), checksumOf(w.shadow); a != b {
			t.Fatalf("the checksum is %x, and %x of an engine that had the same calls", a, b)
		}
	}
}

// compare tells in what an engine differs from the twin.
func (w *walk) compare(got, want engine.Engine) error {
	if got, want := got.Now(), want.Now(); got != want {
		return fmt.Errorf("the time is %d, want %d", got, want)
	}
	if got, want := got.Revision(), want.Revision(); got != want {
		return fmt.Errorf("the revision is %d, want %d", got, want)
	}
	if err := w.compareEntries(got, want); err != nil {
		return err
	}
	for space := range engine.Spaces {
		for _, key := range walkKeys {
			e, there := want.Entry(space, key)
			value, ok := got.Get(space, key)
			if wantOK := there && !e.Expired; ok != wantOK || ok && !bytes.Equal(value, e.Value) {
				return fmt.Errorf("Get of %q in space %d: got %q, %v, want %q, %v", key, space, value, ok, e.Value, wantOK)
			}
			if has := got.Has(space, key); has != there {
				return fmt.Errorf("Has of %q in space %d: got %v, want %v", key, space, has, there)
			}
		}
	}
	if err := compareInfo(infoOf(got), infoOf(want)); err != nil {
		return err
	}
	// A deadline that came before the clock could be read is as good as one that
	// comes with its first reading.
	at, ok := got.NextDeadline()
	if wantAt, wantOK := want.NextDeadline(); wantOK && (!ok || at > max(0, wantAt)) {
		return fmt.Errorf("NextDeadline: got %d, %v, want %d at the latest", at, ok, wantAt)
	}
	return nil
}

func compareInfo(got, want store.Info) error {
	switch {
	case got.Revision != want.Revision || got.Keys != want.Keys || got.Locks != want.Locks || got.Waiters != want.Waiters || got.Bytes != want.Bytes || got.Views != want.Views:
		return fmt.Errorf("Info: got %+v, want %+v", got, want)
	case got.Size < 0 || (got.Size == 0) != (got.Keys+got.Locks+got.Waiters == 0):
		return fmt.Errorf("Info: the size is %d with %d keys and %d locks", got.Size, got.Keys, got.Locks)
	case got.Views == 0 && (got.Retained != 0 || got.RetainedBytes != 0):
		return fmt.Errorf("Info: %d versions of %d bytes are kept for no view", got.Retained, got.RetainedBytes)
	case got.Retained < 0 || (got.Retained == 0) != (got.RetainedBytes == 0):
		return fmt.Errorf("Info: %d versions of %d bytes are kept", got.Retained, got.RetainedBytes)
	}
	return nil
}

// compareUnsettled allows an engine to wait for ticks also because of what was
// written and has been superseded since: it costs a tick that nobody needs.
func (w *walk) compareUnsettled(got, want engine.Engine) error {
	if !w.ticks {
		return nil
	}
	open, settling, ok := got.Unsettled()
	wantOpen, wantSettling, wantOK := want.Unsettled()
	switch {
	case wantOpen && !open, open && !w.open.any,
		wantOK && !ok, ok && !w.settling.any,
		wantOK && settling > wantSettling,
		ok && settling < w.settling.shortest:
		return fmt.Errorf("Unsettled: got %v, %d, %v, want %v, %d, %v; written were %+v and %+v",
			open, settling, ok, wantOpen, wantSettling, wantOK, w.open, w.settling)
	}
	return nil
}

// reader is what engines and views have in common.
type reader interface {
	Entry(engine.Space, string) (store.Entry, bool)
}

func (w *walk) compareEntries(got, want reader) error {
	for space := range engine.Spaces {
		for _, key := range walkKeys {
			e, ok := got.Entry(space, key)
			wantE, wantOK := want.Entry(space, key)
			if ok != wantOK || ok && !equalEntries(e, wantE) {
				return fmt.Errorf("key %q in space %d: got %+v, %v, want %+v, %v", key, space, e, ok, wantE, wantOK)
			}
		}
	}
	return nil
}

func (w *walk) compareViews(p viewPair) error {
	if got, want := p.got.Revision(), p.want.Revision(); got != want {
		return fmt.Errorf("the revision is %d, want %d", got, want)
	}
	if err := w.compareEntries(p.got, p.want); err != nil {
		return err
	}
	if err := compareScans(p.got, p.want); err != nil {
		return err
	}
	if sum := p.got.Checksum(); sum != p.checksum {
		return errors.New("the checksum has changed")
	}
	return nil
}

// compareScans compares all entries of two views, in both directions.
func compareScans(got, want engine.View) error {
	for space := range engine.Spaces {
		for _, reverse := range []bool{false, true} {
			got, want := scanned(got, space, "", "", reverse, 0), scanned(want, space, "", "", reverse, 0)
			if !slices.EqualFunc(got, want, equalEntries) {
				return fmt.Errorf("scan of space %d, reverse %v: got %+v, want %+v", space, reverse, got, want)
			}
		}
	}
	return nil
}

func equalEntries(a, b store.Entry) bool {
	return a.Key == b.Key && bytes.Equal(a.Value, b.Value) && a.Revision == b.Revision && a.Expired == b.Expired &&
		a.ExpireIn == b.ExpireIn && a.DeleteIn == b.DeleteIn
}
