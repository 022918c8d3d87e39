package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"dkv"
	"dkv/store"

	"github.com/spf13/cobra"
)

func newTxn(c *clientFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "txn [FILE]",
		Short: "Carry out a transaction that is written as JSON",
		Long: `Carry out a transaction that is written as JSON in a file, or on the standard input
without one: the operations of "then" in one step if all conditions of "if" hold, or
those of "else".

  {
    "if": [
      {"key": "a", "revision": 7}, {"key": "b", "exists": false},
      {"key": "c", "value": "x"},  {"lock": "worker", "token": 12}
    ],
    "then": [
      {"op": "set", "key": "a", "value": "new", "expireIn": "10s", "deleteIn": "1m"},
      {"op": "add", "key": "n", "delta": 1}, {"op": "delete", "key": "c"}
    ],
    "else": [{"op": "get", "key": "a"}]
  }

The operations are get, set, setifunset, expire, delete and add. valueBase64 and
keyBase64 are for what is not text. The exit code is 1 if the conditions did not hold.`,
		Args: takes(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			text, err := readTxn(cmd, args)
			if err != nil {
				return err
			}
			txn, err := parseTxn(text)
			if err != nil {
				return usage(fmt.Errorf("transaction: %w", err))
			}
			return c.do(cmd, func(ctx context.Context, db *dkv.DB) error {
				res, err := db.Txn(ctx, txn)
				if err != nil {
					return err
				}
				return printTxn(cmd, txn, res)
			})
		},
	}
}

// maxTxnText is more than any transaction takes as text.
const maxTxnText = 4 * dkv.MaxTxnSize

func readTxn(cmd *cobra.Command, args []string) ([]byte, error) {
	in := cmd.InOrStdin()
	if len(args) > 0 && args[0] != "-" {
		f, err := os.Open(args[0])
		if err != nil {
			return nil, usage(err)
		}
		defer f.Close()
		in = f
	}
	return io.ReadAll(io.LimitReader(in, maxTxnText))
}

// jsonTxn is a transaction as it is written.
type jsonTxn struct {
	If   []jsonCond `json:"if"`
	Then []jsonOp   `json:"then"`
	Else []jsonOp   `json:"else"`
}

type jsonKey struct {
	Key       *string `json:"key"`
	KeyBase64 []byte  `json:"keyBase64"`
}

func (k jsonKey) key() (string, error) {
	switch {
	case k.Key != nil && k.KeyBase64 == nil:
		return *k.Key, nil
	case k.Key == nil && k.KeyBase64 != nil:
		return string(k.KeyBase64), nil
	}
	return "", errors.New("it has to have one of key and keyBase64")
}

type jsonValue struct {
	Value       *string `json:"value"`
	ValueBase64 []byte  `json:"valueBase64"`
}

func (v jsonValue) given() bool { return v.Value != nil || v.ValueBase64 != nil }

func (v jsonValue) value() ([]byte, error) {
	switch {
	case v.Value != nil && v.ValueBase64 == nil:
		return []byte(*v.Value), nil
	case v.Value == nil && v.ValueBase64 != nil:
		return v.ValueBase64, nil
	}
	return nil, errors.New("it has to have one of value and valueBase64")
}

type jsonCond struct {
	jsonKey
	jsonValue
	Revision *dkv.Revision `json:"revision"`
	Exists   *bool         `json:"exists"`
	Lock     *string       `json:"lock"`
	Token    *dkv.Revision `json:"token"`
}

// cond is the condition, of which exactly one is given.
func (c jsonCond) cond() (dkv.Cond, error) {
	n := 0
	for _, given := range []bool{c.Revision != nil, c.Exists != nil, c.given(), c.Lock != nil} {
		if given {
			n++
		}
	}
	if n != 1 || (c.Lock != nil) != (c.Token != nil) {
		return dkv.Cond{}, errors.New("it has to have one of revision, exists, value, and lock with token")
	}
	if c.Lock != nil {
		if c.Key != nil || c.KeyBase64 != nil {
			return dkv.Cond{}, errors.New("a lock goes without key")
		}
		return dkv.IfLock(*c.Lock, *c.Token), nil
	}
	key, err := c.key()
	if err != nil {
		return dkv.Cond{}, err
	}
	switch {
	case c.Revision != nil:
		return dkv.IfRevision(key, *c.Revision), nil
	case c.Exists == nil:
		value, err := c.value()
		return dkv.IfValue(key, value), err
	case *c.Exists:
		return dkv.IfExists(key), nil
	}
	return dkv.IfMissing(key), nil
}

type jsonOp struct {
	Op string `json:"op"`
	jsonKey
	jsonValue
	ExpireIn jsonDuration `json:"expireIn"`
	DeleteIn jsonDuration `json:"deleteIn"`
	Delta    *int64       `json:"delta"`
}

// jsonDuration is "10s", "10" or 10, of seconds.
type jsonDuration seconds

func (d *jsonDuration) UnmarshalJSON(b []byte) error {
	return (*seconds)(d).Set(string(bytes.Trim(b, `"`)))
}

func (o jsonOp) op() (dkv.Op, error) {
	var op dkv.Op
	key, err := o.key()
	if err != nil {
		return op, err
	}
	sets := o.Op == "set" || o.Op == "setifunset"
	var value []byte
	if sets {
		if value, err = o.value(); err != nil {
			return op, err
		}
	}
	switch {
	case !sets && (o.given() || o.ExpireIn != 0 || o.DeleteIn != 0):
		return op, fmt.Errorf("%q takes no value and no deadlines", o.Op)
	case (o.Op == "add") != (o.Delta != nil):
		return op, errors.New("delta goes with add, and add with delta")
	}
	d := deadlines{seconds(o.ExpireIn), seconds(o.DeleteIn)}
	switch o.Op {
	case "get":
		op = dkv.OpGet(key)
	case "set":
		op = dkv.OpSetE(key, value, d.expire(), d.delete())
	case "setifunset":
		op = dkv.OpSetEIfUnset(key, value, d.expire(), d.delete())
	case "expire":
		op = dkv.OpExpire(key)
	case "delete":
		op = dkv.OpDelete(key)
	case "add":
		op = dkv.OpAdd(key, *o.Delta)
	default:
		err = fmt.Errorf("there is no operation %q", o.Op)
	}
	return op, err
}

// parseTxn reads a transaction.
func parseTxn(text []byte) (dkv.Txn, error) {
	var in jsonTxn
	var txn dkv.Txn
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil {
		return txn, err
	}
	if _, err := d.Token(); err != io.EOF {
		return txn, errors.New("there is something behind it")
	}
	for i, c := range in.If {
		cond, err := c.cond()
		if err != nil {
			return txn, fmt.Errorf("condition %d: %w", i+1, err)
		}
		txn.If = append(txn.If, cond)
	}
	var err error
	if txn.Then, err = parseOps("then", in.Then); err != nil {
		return txn, err
	}
	txn.Else, err = parseOps("else", in.Else)
	return txn, err
}

func parseOps(branch string, in []jsonOp) (ops []dkv.Op, err error) {
	for i, o := range in {
		op, err := o.op()
		if err != nil {
			return nil, fmt.Errorf("operation %d of %q: %w", i+1, branch, err)
		}
		ops = append(ops, op)
	}
	return ops, nil
}

var opNames = map[store.OpKind]string{
	store.OpKindGet:        "get",
	store.OpKindSet:        "set",
	store.OpKindSetIfUnset: "setifunset",
	store.OpKindExpire:     "expire",
	store.OpKindDelete:     "delete",
	store.OpKindAdd:        "add",
}

// printTxn prints whether the conditions held, and what each operation did.
func printTxn(cmd *cobra.Command, txn dkv.Txn, res dkv.TxnResult) error {
	ops := txn.Then
	if !res.Held {
		ops = txn.Else
	}
	results := make([]fields, len(res.Results))
	for i, r := range res.Results {
		op := ops[i]
		f := tell("op", opNames[op.Kind], "key", op.Key)
		switch op.Kind {
		case store.OpKindGet:
			e := dkv.Entry{Value: r.Value, Revision: r.Revision, Expired: r.Expired, ExpireIn: r.ExpireIn, DeleteIn: r.DeleteIn}
			f = append(f, entryFields(e, r.Done)...)
		case store.OpKindAdd:
			f = append(f, tell("sum", r.Number)...).detail("revision", r.Revision)
		default:
			f = append(f, tell("done", r.Done)...).detail("revision", r.Revision)
		}
		results[i] = f
	}
	held := tell("held", res.Held).detail("revision", res.Revision, "results", results)
	if !asJSON(cmd) {
		fmt.Fprintln(cmd.OutOrStdout(), held)
		for _, f := range results {
			fmt.Fprintln(cmd.OutOrStdout(), f)
		}
		if !res.Held {
			return errNo
		}
		return nil
	}
	return held.printYes(cmd, res.Held)
}
