package rest

import (
	"context"
	"net/http"
	"strings"
	"unicode/utf8"

	"dkv/store"
)

// key is a key as JSON has it: text if it is valid UTF-8, else base64.
type key struct {
	Key       string `json:"key,omitempty"`
	KeyBase64 []byte `json:"keyBase64,omitempty"`
}

func keyOf(s string) key {
	if utf8.ValidString(s) {
		return key{Key: s}
	}
	return key{KeyBase64: []byte(s)}
}

// entry is a store.Entry as JSON has it.
type entry struct {
	key
	Value    []byte         `json:"value,omitzero"` // nil: expired, or not asked for
	Revision store.Revision `json:"revision,omitempty"`
	Expired  bool           `json:"expired,omitempty"`
	ExpireIn string         `json:"expireIn,omitempty"`
	DeleteIn string         `json:"deleteIn,omitempty"`
}

func entryOf(e store.Entry, withValue bool) entry {
	out := entry{
		key: keyOf(e.Key), Revision: e.Revision, Expired: e.Expired,
		ExpireIn: durationText(e.ExpireIn), DeleteIn: durationText(e.DeleteIn),
	}
	if withValue && !e.Expired {
		out.Value = present(e.Value)
	}
	return out
}

// present is a value that is there, though it may be empty.
func present(value []byte) []byte {
	if value == nil {
		return []byte{}
	}
	return value
}

var errNoKey = &statusError{http.StatusNotFound, "there is no such key"}

func getKey(ctx context.Context, c *call) (*answer, error) {
	header := c.w.Header()
	header.Set("Vary", "Accept")
	stale := c.params.flag("stale")
	if c.params.err != nil {
		return nil, c.params.err
	}
	e, ok := store.Entry{Key: c.name}, false
	var err error
	if stale {
		e.Value, ok, err = c.store.GetStale(ctx, c.name)
	} else {
		e, ok, err = c.store.GetEntry(ctx, c.name)
	}
	switch {
	case err != nil:
		return nil, err
	case !ok:
		return nil, errNoKey
	}
	e.Key = c.name
	if e.ExpireIn > 0 {
		header.Set("Dkv-Expire-In", e.ExpireIn.String())
	}
	if e.DeleteIn > 0 {
		header.Set("Dkv-Delete-In", e.DeleteIn.String())
	}
	if !stale {
		header.Set("ETag", etag(e.Revision))
	}
	if e.Expired {
		header.Set("Dkv-Expired", "true")
		return nil, &statusError{http.StatusNotFound, "the value of the key has expired"}
	}
	if match := c.r.Header.Values("If-Match"); !stale && len(match) > 0 && !listed(match, e.Revision) {
		return nil, errChanged
	}
	if !stale && listed(c.r.Header.Values("If-None-Match"), e.Revision) {
		return &answer{status: http.StatusNotModified}, nil
	}
	if wantsJSON(c.r) {
		return &answer{http.StatusOK, entryOf(e, true)}, nil
	}
	return &answer{http.StatusOK, present(e.Value)}, nil
}

// wantsJSON tells whether JSON is asked for by name.
func wantsJSON(r *http.Request) bool {
	for _, line := range r.Header.Values("Accept") {
		for media := range strings.SplitSeq(line, ",") {
			media, _, _ = strings.Cut(media, ";")
			if strings.EqualFold(strings.TrimSpace(media), "application/json") {
				return true
			}
		}
	}
	return false
}

var errChanged = &statusError{http.StatusPreconditionFailed, "the key has another revision"}

// changed tells of the revision of a change that the key has now.
func (c *call) changed(rev store.Revision) {
	c.w.Header().Set("ETag", etag(rev))
	c.w.Header().Set("Dkv-Revision", revisionText(rev))
}

func revisionText(rev store.Revision) string { return strings.Trim(etag(rev), `"`) }

// unmet is the error of a write whose condition does not hold for a key that has a
// revision, 0 if it is not there.
func (c *call) unmet(now store.Revision) error {
	if now == 0 {
		return &statusError{http.StatusPreconditionFailed, "there is no such key"}
	}
	c.w.Header().Set("ETag", etag(now))
	return errChanged
}

func putKey(ctx context.Context, c *call) (*answer, error) {
	expireIn, deleteIn := c.params.duration("expireIn"), c.params.duration("deleteIn")
	if c.params.err != nil {
		return nil, c.params.err
	}
	rev, conditional, err := c.condition()
	switch {
	case err != nil:
		return nil, err
	case conditional:
		now, ok, err := c.store.CompareAndSet(ctx, c.name, rev, c.body, expireIn, deleteIn)
		switch {
		case err != nil:
			return nil, err
		case !ok:
			return nil, c.unmet(now)
		}
		c.changed(now)
		if rev == 0 {
			return &answer{status: http.StatusCreated}, nil
		}
		return &answer{status: http.StatusNoContent}, nil
	case len(c.name)+len(c.body) > store.MaxTxnSize:
		if err := c.store.SetE(ctx, c.name, c.body, expireIn, deleteIn); err != nil {
			return nil, err
		}
		return &answer{status: http.StatusNoContent}, nil
	}
	// A transaction tells the revision, which SetE does not.
	res, err := c.store.Txn(ctx, store.Txn{Then: []store.Op{store.OpSetE(c.name, c.body, expireIn, deleteIn)}})
	if err != nil {
		return nil, err
	}
	c.changed(res.Revision)
	return &answer{status: http.StatusNoContent}, nil
}

// deleteKey makes no transaction of a delete without a condition, since that is let
// in when the disk is about to be full and a transaction is not.
func deleteKey(ctx context.Context, c *call) (*answer, error) {
	rev, conditional, err := c.condition()
	switch {
	case err != nil:
		return nil, err
	case conditional && rev == 0:
		return nil, badRequest("If-None-Match is not for DELETE")
	case conditional:
		now, ok, err := c.store.CompareAndDelete(ctx, c.name, rev)
		switch {
		case err != nil:
			return nil, err
		case !ok:
			return nil, c.unmet(now)
		}
		c.w.Header().Set("Dkv-Revision", revisionText(now))
	default:
		if err := c.store.Delete(ctx, c.name); err != nil {
			return nil, err
		}
	}
	return &answer{status: http.StatusNoContent}, nil
}

func postKey(ctx context.Context, c *call) (*answer, error) {
	if _, conditional, err := c.condition(); conditional || err != nil {
		return nil, badRequest("POST takes no condition; a transaction does")
	}
	switch op := c.params.text("op"); op {
	case "expire":
		if c.params.has("delta") {
			return nil, badRequest("delta is for op=add")
		}
		if err := c.store.Expire(ctx, c.name); err != nil {
			return nil, err
		}
		return &answer{status: http.StatusNoContent}, nil
	case "add":
		delta := c.params.integer("delta")
		if c.params.err != nil {
			return nil, c.params.err
		}
		sum, rev, err := c.store.Add(ctx, c.name, delta)
		if err != nil {
			return nil, err
		}
		c.changed(rev)
		return &answer{http.StatusOK, struct {
			Number   int64          `json:"number"`
			Revision store.Revision `json:"revision"`
		}{sum, rev}}, nil
	default:
		return nil, badRequest("op is expire or add, not %.30q", op)
	}
}
