package transport

import (
	"reflect"
	"time"

	"dkv/store/engine"
)

// opMessage is an operation. What engine.Op has for a kind, it has too.
type opMessage struct {
	Kind     string      `json:"kind"`            // of kindNames
	Space    string      `json:"space,omitempty"` // of spaceNames; keys if left out
	Key      []byte      `json:"key,omitempty"`
	Value    []byte      `json:"value,omitempty"`
	At       uint64      `json:"at,omitempty"`
	Delta    int64       `json:"delta,omitempty"`
	ExpireIn int64       `json:"expireIn,omitempty"` // nanoseconds, 0 = never
	DeleteIn int64       `json:"deleteIn,omitempty"` // the same
	Txn      *txnMessage `json:"txn,omitempty"`      // of transact, which has none of the others
}

// partMessage is an operation of a transaction. It has no transaction itself, not even
// one to be refused, so that messages are not nested deeply.
type partMessage struct {
	Kind     string `json:"kind"`
	Space    string `json:"space,omitempty"`
	Key      []byte `json:"key,omitempty"`
	Value    []byte `json:"value,omitempty"`
	At       uint64 `json:"at,omitempty"`
	Delta    int64  `json:"delta,omitempty"`
	ExpireIn int64  `json:"expireIn,omitempty"`
	DeleteIn int64  `json:"deleteIn,omitempty"`
}

type txnMessage struct {
	If   list[condMessage] `json:"if,omitempty"`
	Then list[partMessage] `json:"then,omitempty"`
	Else list[partMessage] `json:"else,omitempty"`
}

type condMessage struct {
	Kind  string `json:"kind"` // of condNames
	Space string `json:"space,omitempty"`
	Key   []byte `json:"key,omitempty"`
	Value []byte `json:"value,omitempty"` // of valueIs
	At    uint64 `json:"at,omitempty"`    // of revisionIs and tokenIs
}

var (
	kindNames = names{
		engine.Set: "set", engine.SetIfUnset: "setIfUnset", engine.Expire: "expire",
		engine.Delete: "delete", engine.DeleteIfValue: "deleteIfValue",
		engine.SetIfRevision: "setIfRevision", engine.DeleteIfRevision: "deleteIfRevision",
		engine.RenewIfValue: "renewIfValue", engine.Add: "add", engine.Transact: "transact",
		engine.Get: "get", engine.Join: "join", engine.TryJoin: "tryJoin", engine.Renew: "renew",
		engine.Leave: "leave", engine.Void: "void",
	}
	condNames = names{
		engine.RevisionIs: "revisionIs", engine.Exists: "exists", engine.ValueIs: "valueIs",
		engine.TokenIs: "tokenIs",
	}
	spaceNames = names{
		engine.Keys: "keys", engine.Locks: "locks", engine.Shared: "shared", engine.Waiters: "waiters",
	}
)

// spaceName leaves the usual one out.
func spaceName(s engine.Space) string {
	if s == engine.Keys {
		return ""
	}
	return spaceNames[s]
}

func parseSpace(name string) (engine.Space, error) {
	if name == "" {
		return engine.Keys, nil
	}
	n, err := spaceNames.number(name)
	return engine.Space(n), err
}

func newOpMessage(op *engine.Op) *opMessage {
	m := opMessage{
		Kind: kindNames[op.Kind], Space: spaceName(op.Space), Key: []byte(op.Key), Value: op.Value,
		At: op.At, Delta: op.Delta, ExpireIn: int64(op.ExpireIn), DeleteIn: int64(op.DeleteIn),
	}
	if op.Kind != engine.Transact {
		return &m
	}
	m.Txn = new(txnMessage)
	for i := range op.Txn.If {
		c := &op.Txn.If[i]
		m.Txn.If = append(m.Txn.If, condMessage{condNames[c.Kind], spaceName(c.Space), []byte(c.Key), c.Value, c.At})
	}
	m.Txn.Then, m.Txn.Else = newParts(op.Txn.Then), newParts(op.Txn.Else)
	return &m
}

func newParts(branch []engine.Op) (parts list[partMessage]) {
	for i := range branch {
		m := newOpMessage(&branch[i])
		parts = append(parts, partMessage{m.Kind, m.Space, m.Key, m.Value, m.At, m.Delta, m.ExpireIn, m.DeleteIn})
	}
	return parts
}

// op is the operation. It has nothing that its kind has no use for, so that there is but
// one way to write it.
func (m opMessage) op() (engine.Op, error) {
	kind, err := kindNames.number(m.Kind)
	if err != nil {
		return engine.Op{}, err
	}
	if k := engine.Kind(kind); k == engine.Transact || k == engine.Void {
		m.Kind = ""
		txn := take(&m.Txn)
		if !reflect.ValueOf(m).IsZero() || (txn != nil) != (k == engine.Transact) {
			return engine.Op{}, errProtocol
		}
		op := engine.Op{Kind: k}
		if txn != nil {
			op.Txn, err = txn.txn()
		}
		return op, err
	}
	if m.Txn != nil {
		return engine.Op{}, errProtocol
	}
	return partMessage{m.Kind, m.Space, m.Key, m.Value, m.At, m.Delta, m.ExpireIn, m.DeleteIn}.op()
}

func (m partMessage) op() (engine.Op, error) {
	kind, err := kindNames.number(m.Kind)
	if err != nil {
		return engine.Op{}, err
	}
	space, err := parseSpace(m.Space)
	op := engine.Op{
		Kind: engine.Kind(kind), Space: space, Key: string(m.Key), Value: m.Value, At: m.At, Delta: m.Delta,
		ExpireIn: time.Duration(m.ExpireIn), DeleteIn: time.Duration(m.DeleteIn),
	}
	k := op.Kind
	if k == engine.Transact || k == engine.Void || len(m.Value) > 0 && !k.HasValue() ||
		m.At != 0 && !k.HasRevision() || m.Delta != 0 && !k.HasDelta() {
		err = errProtocol
	}
	return op, err
}

func (m *txnMessage) txn() (*engine.Txn, error) {
	t := new(engine.Txn)
	for _, c := range m.If {
		kind, err := condNames.number(c.Kind)
		if err != nil {
			return nil, err
		}
		space, err := parseSpace(c.Space)
		if err != nil {
			return nil, err
		}
		k := engine.CondKind(kind)
		if len(c.Value) > 0 && k != engine.ValueIs || c.At != 0 && k != engine.RevisionIs && k != engine.TokenIs {
			return nil, errProtocol
		}
		t.If = append(t.If, engine.Cond{Kind: k, Space: space, Key: string(c.Key), Value: c.Value, At: c.At})
	}
	var err error
	if t.Then, err = branch(m.Then); err == nil {
		t.Else, err = branch(m.Else)
	}
	return t, err
}

func branch(parts []partMessage) (ops []engine.Op, err error) {
	for _, m := range parts {
		op, err := m.op()
		if err != nil {
			return nil, err
		}
		ops = append(ops, op)
	}
	return ops, nil
}
