package enginetest

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"dkv/store/engine"

	"github.com/cespare/xxhash/v2"
)

// A state is saved as lines of JSON, a header and then the records in the order of
// their places, and a last line with a hash of the lines before it.

// magic is what a header begins with, so that nothing else is taken for one.
const magic = "dkv naive 1"

type savedHeader struct {
	Magic    string
	Revision uint64
	Now      time.Duration
}

type savedRecord struct {
	Space             engine.Space
	Key, Value        []byte // not strings, which JSON would have be UTF-8
	Expired           bool
	Revision, Written uint64
	Expire, Delete    time.Duration
	Waits             int
}

func (s *state) save(w io.Writer) error {
	sum, err := s.saveLines(w)
	if err != nil {
		return err
	}
	_, err = io.WriteString(w, lastLine(sum))
	return err
}

// checksum is the hash of the saved state, as all that decides what the engine does
// next stands there.
func (s *state) checksum() uint64 {
	sum, err := s.saveLines(io.Discard)
	if err != nil {
		panic(err) // there is nothing here that could fail
	}
	return sum
}

func (s *state) saveLines(w io.Writer) (sum uint64, err error) {
	hash := xxhash.New()
	lines := json.NewEncoder(io.MultiWriter(w, hash))
	if err := lines.Encode(savedHeader{magic, s.revision, s.now}); err != nil {
		return 0, err
	}
	places := slices.SortedFunc(maps.Keys(s.records), func(a, b place) int {
		return cmp.Or(cmp.Compare(a.space, b.space), cmp.Compare(a.key, b.key))
	})
	for _, p := range places {
		r := s.records[p]
		err := lines.Encode(savedRecord{
			p.space, []byte(p.key), r.value, r.expired, r.revision, r.written, r.expire, r.delete, r.waits,
		})
		if err != nil {
			return 0, err
		}
	}
	return hash.Sum64(), nil
}

func lastLine(sum uint64) string { return fmt.Sprintf("%016x\n", sum) }

var errNotSaved = errors.New("enginetest: load: not a state that was saved, whole and unharmed")

// load reads a state. It leaves its ticking to the caller.
func load(r io.Reader) (state, error) {
	b, err := io.ReadAll(r)
	if err != nil {
		return state{}, fmt.Errorf("enginetest: load: %w", err)
	}
	lines, last := b[:max(0, len(b)-len(lastLine(0)))], b[max(0, len(b)-len(lastLine(0))):]
	if string(last) != lastLine(xxhash.Sum64(lines)) {
		return state{}, errNotSaved
	}
	decoder := json.NewDecoder(bytes.NewReader(lines))
	var h savedHeader
	if err := decoder.Decode(&h); err != nil || h.Magic != magic || h.Now < 0 {
		return state{}, errNotSaved
	}
	s := state{now: h.Now, revision: h.Revision, records: make(map[place]record)}
	for {
		var saved savedRecord
		if err := decoder.Decode(&saved); err == io.EOF {
			return s, nil
		} else if err != nil {
			return state{}, errNotSaved
		}
		p := place{saved.Space, string(saved.Key)}
		_, twice := s.records[p]
		r := record{
			value: saved.Value, expired: saved.Expired, revision: saved.Revision, written: saved.Written,
			expire: saved.Expire, delete: saved.Delete, waits: saved.Waits,
		}
		if twice || p.space >= engine.Spaces || !r.isSound(s.revision) {
			return state{}, errNotSaved
		}
		s.records[p] = r
	}
}

// isSound tells whether a state of that revision can have such a record.
func (r record) isSound(revision uint64) bool {
	return 0 < r.written && r.written <= r.revision && r.revision <= revision &&
		0 <= r.waits && r.waits <= 2 &&
		r.expired == (r.value == nil) &&
		(r.expired && r.expire == never || r.expire <= r.delete)
}
