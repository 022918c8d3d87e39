package transport

import (
	"crypto/sha256"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"dkv/internal/command"
	"dkv/store"
	"dkv/store/engine"
)

// Secret is what a client shows to say who it is. It does not print.
type Secret string

const redacted = "(secret)"

func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return redacted
}

// Format has no verb print it.
func (s Secret) Format(f fmt.State, verb rune) {
	fmt.Fprintf(f, fmt.FormatString(f, verb), s.String())
}

// LogValue implements slog.LogValuer.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText implements encoding.TextMarshaler, which JSON uses.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Token lets whoever shows its secret do what it has rights to.
type Token struct {
	Secret Secret
	Rights []Right
}

// Right is one to read, and perhaps to write, the keys and the locks of a store whose
// names begin with a prefix.
type Right struct {
	Shard     uint64
	AllShards bool   // whatever Shard says
	Prefix    string // "" is everything
	Write     bool
}

// Access is what a client may do to a store.
type Access struct {
	all    bool
	rights []Right // to this store
}

// Key returns store.ErrForbidden if the client may not read the key or lock, or not
// write it.
func (a Access) Key(key string, write bool) error { return a.check(key, write) }

// Prefix is Key for all that begins with a prefix.
func (a Access) Prefix(prefix string, write bool) error { return a.check(prefix, write) }

func (a Access) check(name string, write bool) error {
	if a.all {
		return nil
	}
	for _, r := range a.rights {
		if strings.HasPrefix(name, r.Prefix) && (r.Write || !write) {
			return nil
		}
	}
	what := "reading"
	if write {
		what = "writing"
	}
	return fmt.Errorf("%w: the token has no right to %s what begins with %.100q", store.ErrForbidden, what, name)
}

// tokens are the rights of each token, by the hash of its secret, so that how long it
// takes to look one up tells nothing of the others. nil: nobody needs one.
type tokens map[[sha256.Size]byte][]Right

func newTokens(all []Token) tokens {
	if len(all) == 0 {
		return nil
	}
	t := make(tokens)
	for _, token := range all {
		h := sha256.Sum256([]byte(token.Secret))
		t[h] = append(t[h], token.Rights...)
	}
	return t
}

// access returns what who shows the secret may do to a shard. There is an error if
// that is nothing.
func (t tokens) access(secret Secret, shard uint64) (Access, error) {
	if t == nil {
		return Access{all: true}, nil
	}
	all, ok := t[sha256.Sum256([]byte(secret))]
	switch {
	case ok:
	case secret == "":
		return Access{}, fmt.Errorf("%w: the server asks for a token", store.ErrUnauthenticated)
	default:
		return Access{}, fmt.Errorf("%w: the server does not know the token", store.ErrUnauthenticated)
	}
	var a Access
	for _, r := range all {
		if r.AllShards || r.Shard == shard {
			a.rights = append(a.rights, r)
		}
	}
	if len(a.rights) == 0 {
		return Access{}, fmt.Errorf("%w: the token has no right to shard %d", store.ErrForbidden, shard)
	}
	return a, nil
}

// request returns the error of a request that the client has no right to. What is
// malformed is for those who carry it out to refuse.
func (a Access) request(req request) error {
	if a.all {
		return nil
	}
	switch req.method {
	case methodGet, methodGetStale, methodGetEntry, methodHas, methodLockHolder:
		return a.Key(string(req.arg), false)
	case methodEnrol:
		if !slices.ContainsFunc(a.rights, func(r Right) bool { return r.Write }) {
			return fmt.Errorf("%w: the token has no right to write", store.ErrForbidden)
		}
	case methodWrite:
		op, _, err := command.DecodeOp(req.arg)
		if err != nil {
			return nil
		}
		return a.op(&op)
	case methodScan:
		r, err := parseRange(req.arg)
		if err != nil {
			return nil
		}
		return a.Prefix(r.Prefix, false)
	case methodPoll:
		p, err := parsePoll(req.arg)
		if err != nil {
			return nil
		}
		if p.what.Key != "" {
			return a.Key(p.what.Key, false)
		}
		return a.Prefix(p.what.Prefix, false)
	case methodAwaitLock:
		w, err := parseAwait(req.arg)
		if err != nil {
			return nil
		}
		return a.Key(w.key, false)
	}
	return nil // about no key, or about what was let through before
}

func (a Access) op(op *engine.Op) error {
	switch op.Kind {
	case engine.Void:
		return nil
	case engine.Transact:
	default:
		return a.Key(op.Key, op.Kind != engine.Get)
	}
	for i := range op.Txn.If {
		if err := a.Key(op.Txn.If[i].Key, false); err != nil {
			return err
		}
	}
	for _, branch := range [][]engine.Op{op.Txn.Then, op.Txn.Else} {
		for i := range branch {
			if err := a.op(&branch[i]); err != nil {
				return err
			}
		}
	}
	return nil
}
