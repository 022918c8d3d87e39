package store

import (
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// contains is what the doc comment of Range says, word by word.
func (r Range) contains(key string) bool {
	behind := r.After == "" || !r.Reverse && key > r.After || r.Reverse && key < r.After
	return strings.HasPrefix(key, r.Prefix) && key >= r.From && (r.To == "" || key < r.To) && behind
}

func TestBoundsOfARangeAreThoseOfItsKeys(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := func(name string) string {
			return string(rapid.SliceOfN(rapid.SampledFrom([]byte{0, 'a', 'b', 0xfe, 0xff}), 0, 3).Draw(t, name))
		}
		r := Range{
			Prefix:  text("prefix"),
			From:    text("from"),
			To:      text("to"),
			After:   text("after"),
			Reverse: rapid.Bool().Draw(t, "reverse"),
		}
		from, to, ok := r.Bounds()
		for range 50 {
			key := text("key")
			if in := ok && key >= from && (to == "" || key < to); in != r.contains(key) {
				t.Fatalf("%+v has the bounds %q, %q, %v, but %q in it: %v", r, from, to, ok, key, r.contains(key))
			}
		}
	})
}

func TestBadRangesAreRefused(t *testing.T) {
	long := strings.Repeat("k", MaxKeySize+1)
	for _, c := range []struct {
		r    Range
		want error
	}{
		{Range{}, nil},
		{Range{Prefix: long[1:], From: long[1:], To: long[1:], After: long[1:], Limit: 1}, nil},
		{Range{Limit: -1}, ErrBadRange},
		{Range{Prefix: long}, ErrKeyTooLarge},
		{Range{From: long}, ErrKeyTooLarge},
		{Range{To: long}, ErrKeyTooLarge},
		{Range{After: long}, ErrKeyTooLarge},
	} {
		if err := c.r.Check(); !errors.Is(err, c.want) {
			t.Errorf("%.100v: %v, want %v", c.r, err, c.want)
		}
	}
}
