package block

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
)

func write(t *testing.T, payloads ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := NewWriter(&b)
	for _, p := range payloads {
		if err := w.Write([]byte(p)); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

func TestBlocksReadBackAsTheyWereWritten(t *testing.T) {
	r := NewReader(bytes.NewReader(write(t, "one", "", "three")))
	for _, want := range []string{"one", "", "three"} {
		got, err := r.Next()
		if err != nil || string(got) != want {
			t.Fatalf("got %q, %v; want %q", got, err, want)
		}
	}
	if _, err := r.Next(); err != io.EOF {
		t.Fatalf("after the last block: %v", err)
	}
}

func TestEveryFlippedBitAndEveryCutIsFound(t *testing.T) {
	good := write(t, "one", "two")
	second := len(good) / 2
	readAll := func(b []byte) (n int, err error) {
		r := NewReader(bytes.NewReader(b))
		for {
			if _, err := r.Next(); err != nil {
				return n, err
			}
			n++
		}
	}
	for bit := range len(good) * 8 {
		bad := bytes.Clone(good)
		bad[bit/8] ^= 1 << (bit % 8)
		wantBlocks, wantOffset := 0, "offset 0:"
		if bit/8 >= second {
			wantBlocks, wantOffset = 1, "offset 11:"
		}
		n, err := readAll(bad)
		if n != wantBlocks || !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), wantOffset) {
			t.Fatalf("bit %d flipped: %d blocks, then %v", bit, n, err)
		}
	}
	for cut := range len(good) {
		if cut == 0 || cut == second {
			continue // a cut between blocks is for the last block to tell
		}
		if _, err := readAll(good[:cut]); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("cut at %d: %v", cut, err)
		}
	}
}

func TestLengthOverTheLimitAllocatesNothing(t *testing.T) {
	h := make([]byte, headerSize)
	binary.LittleEndian.PutUint32(h, MaxSize+1)
	r := NewReader(bytes.NewReader(h))
	if _, err := r.Next(); !errors.Is(err, ErrCorrupt) || r.buf != nil {
		t.Fatalf("%v, buffer of %d", err, cap(r.buf))
	}
	if err := NewWriter(io.Discard).Write(make([]byte, MaxSize+1)); err == nil {
		t.Fatal("wrote a block over the limit")
	}
}
