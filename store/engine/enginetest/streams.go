package enginetest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing/iotest"
	"time"

	"dkv/store/engine"

	"pgregory.net/rapid"
)

var streamChecks = []check{
	{"LargeStateIsSavedAndLoaded", func(t rapid.TB, f engine.Factory) {
		old := filled(f, 3000)
		b := savedBy(t, old)
		for name, r := range map[string]io.Reader{
			"at once":     bytes.NewReader(b),
			"in halves":   iotest.HalfReader(bytes.NewReader(b)),
			"with an end": iotest.DataErrReader(bytes.NewReader(b)),
		} {
			e, err := f.Load(r, engine.Options{})
			if err != nil {
				t.Fatalf("%s: load: %v", name, err)
			}
			if a, b := checksumOf(old), checksumOf(e); a != b {
				t.Errorf("%s: the checksum was %x and is %x", name, a, b)
			}
			if a, b := infoOf(old), infoOf(e); fmt.Sprint(a) != fmt.Sprint(b) {
				t.Errorf("%s: Info was %+v and is %+v", name, a, b)
			}
			for space := range engine.Spaces {
				if !slices.EqualFunc(allOf(old, space), allOf(e, space), equalEntries) {
					t.Errorf("%s: space %d has other entries", name, space)
				}
			}
			checkInvariants(t, e)
		}
	}},
	{"DamagedStreamIsRefused", func(t rapid.TB, f engine.Factory) {
		refuse := refuser(t, f)
		small := savedBy(t, filled(f, 3))
		for i := range small {
			refuse(fmt.Sprintf("cut at %d of %d", i, len(small)), small[:i])
			for bit := range 8 {
				bad := bytes.Clone(small)
				bad[i] ^= 1 << bit
				refuse(fmt.Sprintf("bit %d of byte %d of %d flipped", bit, i, len(small)), bad)
			}
		}
		large := savedBy(t, filled(f, 3000))
		for i := 0; i < len(large); i += len(large)/rounds(60, 15) + 1 {
			refuse(fmt.Sprintf("cut at %d of %d", i, len(large)), large[:i])
			bad := bytes.Clone(large)
			bad[i] ^= 1 << (i % 8)
			refuse(fmt.Sprintf("bit flipped in byte %d of %d", i, len(large)), bad)
			// As when a page of a file was never written.
			clear(bad[i:min(len(bad), i+4096)])
			if !bytes.Equal(bad, large) {
				refuse(fmt.Sprintf("zeros from %d of %d", i, len(large)), bad)
			}
		}
	}},
	{"StreamWithMoreBehindItIsRefused", func(t rapid.TB, f engine.Factory) {
		refuse := refuser(t, f)
		b := savedBy(t, filled(f, 3))
		for range 2 { // with a clock and without one
			refuse("a byte behind the end", append(bytes.Clone(b), 0))
		}
		refuse("twice", append(bytes.Clone(b), b...))
	}},
	{"ForeignStreamIsRefused", func(t rapid.TB, f engine.Factory) {
		refuse := refuser(t, f)
		refuse("nothing", nil)
		refuse("a script", []byte("#!/bin/sh\nexit 0\n"))
		refuse("zeros", make([]byte, 1<<16))
		refuse("ones", bytes.Repeat([]byte{0xff}, 1<<16))
		random := rand.NewChaCha8([32]byte{1})
		for n := range 200 {
			b := make([]byte, n*n)
			random.Read(b)
			refuse(fmt.Sprintf("%d random bytes", len(b)), b)
		}
	}},
	{"ErrorOfAStreamIsReturned", func(t rapid.TB, f engine.Factory) {
		broken := errors.New("broken on purpose")
		e := filled(f, 3000)
		b := savedBy(t, e)
		v := e.View()
		defer v.Release()
		for _, n := range []int{0, 1, len(b) / 2, len(b) - 1} {
			r := io.MultiReader(bytes.NewReader(b[:n]), iotest.ErrReader(broken))
			if _, err := f.Load(r, engine.Options{}); !errors.Is(err, broken) {
				t.Errorf("load that cannot read beyond %d of %d: %v", n, len(b), err)
			}
			w := &failingWriter{room: n, err: broken}
			if err := v.Save(w); !errors.Is(err, broken) {
				t.Errorf("save that cannot write beyond %d of %d: %v", n, len(b), err)
			}
		}
	}},
}

// filled returns an engine by ticks that has some of everything.
func filled(f engine.Factory, keys int) engine.Engine {
	e := f.New(engine.Options{})
	for i := range keys {
		set(e, fmt.Sprint("key", i), strings.Repeat("v", i%200), time.Duration(i%3)*time.Minute, time.Duration(i%4)*time.Hour)
		if i%(keys/3+1) == keys/3 {
			e.Tick(time.Second, time.Millisecond)
		}
	}
	change(e, engine.Expire, "key1")
	e.Apply(&engine.Op{Kind: engine.SetIfUnset, Space: engine.Locks, Key: "key1", Value: []byte("me"), DeleteIn: time.Minute}, 0)
	return e
}

// refuser returns a function that fails t if a stream is not refused, and ends it
// when there have been many. Every other engine is by a clock.
func refuser(t rapid.TB, f engine.Factory) func(what string, b []byte) {
	tries, failures := 0, 0
	return func(what string, b []byte) {
		t.Helper()
		opts := engine.Options{}
		if tries++; tries%2 == 0 {
			opts = standing()
		}
		switch err := tryLoad(f, b, opts).(type) {
		case nil:
			t.Errorf("%s: loaded", what)
		case loadPanic:
			t.Errorf("%s: %v", what, err)
		default:
			return
		}
		if failures++; failures == 10 {
			t.FailNow()
		}
	}
}

type loadPanic struct{ value any }

func (p loadPanic) Error() string { return fmt.Sprint("load panicked: ", p.value) }

func tryLoad(f engine.Factory, b []byte, opts engine.Options) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = loadPanic{p}
		}
	}()
	_, err = f.Load(bytes.NewReader(b), opts)
	return err
}

// failingWriter takes so many bytes and no more.
type failingWriter struct {
	room int
	err  error
}

func (w *failingWriter) Write(p []byte) (int, error) {
	n := min(len(p), w.room)
	w.room -= n
	if n < len(p) {
		return n, w.err
	}
	return n, nil
}
