package transport

import (
	"encoding/binary"
	"math"
	"time"

	"dkv/internal/field"
	"dkv/internal/ops"
	"dkv/store"
)

// The encoding of scans: what a client asks for, and the pages that it gets.

// The first byte of a range.
const (
	flagReverse  = 1
	flagKeysOnly = 2
	allFlags     = flagReverse | flagKeysOnly
)

// appendRange appends all of a range but At: flags, limit (uvarint), prefix, from,
// to and after (each its length as a uvarint and its bytes).
func appendRange(b []byte, r store.Range) []byte {
	flags := byte(0)
	if r.Reverse {
		flags |= flagReverse
	}
	if r.KeysOnly {
		flags |= flagKeysOnly
	}
	b = append(b, flags)
	b = binary.AppendUvarint(b, uint64(r.Limit))
	for _, key := range []string{r.Prefix, r.From, r.To, r.After} {
		b = binary.AppendUvarint(b, uint64(len(key)))
		b = append(b, key...)
	}
	return b
}

func parseRange(b []byte) (store.Range, error) {
	d := field.NewReader(b)
	flags, limit := d.Byte(), d.Uvarint()
	r := store.Range{
		Prefix:   string(d.Bytes(store.MaxKeySize)),
		From:     string(d.Bytes(store.MaxKeySize)),
		To:       string(d.Bytes(store.MaxKeySize)),
		After:    string(d.Bytes(store.MaxKeySize)),
		Reverse:  flags&flagReverse != 0,
		KeysOnly: flags&flagKeysOnly != 0,
		Limit:    int(limit),
	}
	if !d.Complete() || flags > allFlags || limit > math.MaxInt {
		return store.Range{}, errProtocol
	}
	return r, nil
}

func appendScan(b []byte, id uint64) []byte { return binary.AppendUvarint(b, id) }

func parseScan(b []byte) (id uint64, err error) {
	d := field.NewReader(b)
	if id = d.Uvarint(); !d.Complete() {
		return 0, errProtocol
	}
	return id, nil
}

// A page is a byte that is 1 if there is more, the revision of the state that the
// scan shows (uvarint), and the entries: each its key (length and bytes), a byte
// that is 1 if it has expired, revision, ExpireIn, DeleteIn (uvarints) and value
// (length and bytes), which is empty if there is none to have.

const (
	pageMore = 0 // where the byte is that tells whether there is more

	// entryOverhead is the most that an entry takes beside its key and value.
	entryOverhead = 1 + 5*binary.MaxVarintLen64
)

func appendPageHeader(b []byte, revision store.Revision) []byte {
	return binary.AppendUvarint(appendFound(b, false), uint64(revision))
}

func appendPageEntry(b []byte, e store.Entry) []byte {
	b = binary.AppendUvarint(b, uint64(len(e.Key)))
	b = append(b, e.Key...)
	b = appendFound(b, e.Expired)
	b = binary.AppendUvarint(b, uint64(e.Revision))
	b = binary.AppendUvarint(b, uint64(e.ExpireIn))
	b = binary.AppendUvarint(b, uint64(e.DeleteIn))
	b = binary.AppendUvarint(b, uint64(len(e.Value)))
	return append(b, e.Value...)
}

// page is a page as its receiver reads it, entry by entry.
type page struct {
	more     bool
	revision store.Revision
	keysOnly bool
	entries  field.Reader
}

func parsePage(b []byte, keysOnly bool) (page, error) {
	b, more, err := cutFound(b)
	if err != nil {
		return page{}, err
	}
	d := field.NewReader(b)
	p := page{more: more, revision: store.Revision(d.Uvarint()), keysOnly: keysOnly}
	if d.Bad() {
		return page{}, errProtocol
	}
	p.entries = d
	return p, nil
}

// next takes an entry off the page. It is false if there is none left or what
// comes is none, which err tells. The entry is a copy, for whoever keeps one is not
// to keep the page with it.
func (p *page) next() (store.Entry, bool) {
	d := &p.entries
	if len(d.Rest()) == 0 {
		return store.Entry{}, false
	}
	key := d.Bytes(store.MaxKeySize)
	expired := d.Byte()
	e := store.Entry{
		Expired:  expired == 1,
		Revision: store.Revision(d.Uvarint()),
		ExpireIn: p.duration(),
		DeleteIn: p.duration(),
	}
	value := d.Bytes(store.MaxValueSize)
	valueless := e.Expired || p.keysOnly
	if len(key) == 0 || expired > 1 || valueless && len(value) != 0 {
		d.Fail()
	}
	if d.Bad() {
		return store.Entry{}, false
	}
	e.Key = string(key)
	if !valueless {
		e.Value = ops.Clone(value)
	}
	return e, true
}

func (p *page) duration() time.Duration {
	v := p.entries.Uvarint()
	if v > math.MaxInt64 {
		p.entries.Fail()
	}
	return time.Duration(v)
}

// err tells whether next found something that is no entry.
func (p *page) err() error {
	if p.entries.Bad() {
		return errProtocol
	}
	return nil
}
