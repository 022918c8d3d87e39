package lock

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"dkv/store"
)

// Owner is who holds a lock: one successful Acquire.
type Owner struct {
	id    [store.OwnerSize]byte // random, chosen before the lock is asked for
	token store.Revision
}

// Token is the fencing token: greater than that of every earlier owner of any
// lock of the same store. It is 0 if it is unknown whether the lock was taken.
func (o Owner) Token() store.Revision { return o.token }

// String is the owner as text, which ParseOwner reads.
func (o Owner) String() string {
	return hex.EncodeToString(o.id[:]) + "-" + strconv.FormatUint(uint64(o.token), 10)
}

// ParseOwner reads what String wrote. For other text it returns
// store.ErrBadOwner.
func ParseOwner(s string) (Owner, error) {
	var o Owner
	id, token, _ := strings.Cut(s, "-")
	n, err := strconv.ParseUint(token, 10, 64)
	if err == nil && len(id) == 2*len(o.id) {
		_, err = hex.Decode(o.id[:], []byte(id))
		o.token = store.Revision(n)
	}
	if err != nil || o.String() != s || o == (Owner{}) {
		return Owner{}, fmt.Errorf("%w: %q", store.ErrBadOwner, s)
	}
	return o, nil
}

// MarshalText implements encoding.TextMarshaler.
func (o Owner) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (o *Owner) UnmarshalText(b []byte) (err error) {
	*o, err = ParseOwner(string(b))
	return err
}
