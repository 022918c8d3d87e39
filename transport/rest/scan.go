package rest

import (
	"context"
	"encoding/base64"
	"net/http"

	"dkv/store"
)

const (
	defaultLimit = 100  // entries of a page
	maxLimit     = 1000 // whatever the client says
	pageBytes    = 4 << 20
	entryShare   = 128 // what an entry counts for besides its key and value
)

// page is a part of a scan as JSON has it. Next is what the next page is asked for
// with; there is none behind the last.
type page struct {
	Entries  []entry        `json:"entries"`
	Revision store.Revision `json:"revision"`
	Next     string         `json:"next,omitempty"`
}

// scanKeys returns a page. It ends with the entry that takes it beyond pageBytes, so
// that it has one at least.
func scanKeys(ctx context.Context, c *call) (*answer, error) {
	r, limit, err := scanRange(&c.params)
	if err != nil {
		return nil, err
	}
	if err := c.authorize(Access{Key: r.Prefix, Prefix: true}); err != nil {
		return nil, err
	}
	p, size := page{Entries: []entry{}}, 0
	r.At, r.Limit = &p.Revision, limit+1
	last := ""
	for e, err := range c.store.Scan(ctx, r) {
		if err != nil {
			return nil, err
		}
		if len(p.Entries) == limit || size > pageBytes {
			p.Next = base64.RawURLEncoding.EncodeToString([]byte(last))
			break
		}
		size += entryShare + len(e.Key) + len(e.Value)
		last = e.Key
		p.Entries = append(p.Entries, entryOf(e, !r.KeysOnly))
	}
	return &answer{http.StatusOK, p}, nil
}

func scanRange(p *params) (r store.Range, limit int, err error) {
	r = store.Range{
		Prefix:   p.text("prefix"),
		From:     p.text("from"),
		To:       p.text("to"),
		After:    p.text("after"),
		Reverse:  p.flag("reverse"),
		KeysOnly: p.flag("keysOnly"),
	}
	limit = defaultLimit
	if p.has("limit") {
		n := p.number("limit")
		if limit = int(min(n, maxLimit)); n == 0 {
			p.bad("limit")
		}
	}
	if p.has("next") {
		after, err := base64.RawURLEncoding.DecodeString(p.text("next"))
		if err != nil || len(after) == 0 {
			p.bad("next")
		}
		r.After = string(after) // the first page began behind the other
	}
	if p.err != nil {
		return r, 0, p.err
	}
	return r, limit, r.Check()
}
