package store

// Range says which entries a scan yields, in which order and how many. The zero
// value is all of them, in the order of their keys' bytes.
//
// What can be set goes together: a key is in the range if it begins with Prefix,
// is no less than From, is less than To, and lies behind After.
type Range struct {
	Prefix string // keys that begin with it
	From   string // the least key
	To     string // the first key that is beyond the range; "" for no end

	// After is the key behind which the scan begins, in its direction: where it
	// was left off, the last key that it yielded.
	After string

	Reverse  bool // from the greatest key to the least
	Limit    int  // entries at most; 0 for no limit
	KeysOnly bool // leaves the values out

	// At, if it is not nil, is set to the revision of the state that the scan
	// shows before its first entry is yielded, and before it ends if it yields
	// none.
	At *Revision
}

// Check returns the error that every scan of such a range returns.
func (r Range) Check() error {
	if r.Limit < 0 {
		return ErrBadRange
	}
	for _, key := range []string{r.Prefix, r.From, r.To, r.After} {
		if len(key) > MaxKeySize {
			return ErrKeyTooLarge
		}
	}
	return nil
}

// Bounds returns the range as the least key and the first key beyond, "" if
// there is none beyond. ok is false if no key can be in the range.
func (r Range) Bounds() (from, to string, ok bool) {
	from, to = max(r.From, r.Prefix), r.To
	atMost := func(limit string) {
		if to == "" || limit < to {
			to = limit
		}
	}
	if end := prefixEnd(r.Prefix); end != "" {
		atMost(end)
	}
	switch {
	case r.After == "":
	case r.Reverse:
		atMost(r.After)
	default:
		from = max(from, r.After+"\x00")
	}
	return from, to, to == "" || from < to
}

// prefixEnd is the first string that is beyond all that begin with prefix, "" if
// there is none.
func prefixEnd(prefix string) string {
	for last := len(prefix) - 1; last >= 0; last-- {
		if c := prefix[last]; c < 0xff {
			return prefix[:last] + string([]byte{c + 1})
		}
	}
	return ""
}
