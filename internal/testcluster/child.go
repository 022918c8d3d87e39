package testcluster

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"testing"
	"time"

	"dkv"
	"dkv/store"
)

// childEnv has the options of a child process, as JSON. Its presence is what
// makes a test binary one.
const childEnv = "DKV_TEST_CHILD"

// childOptions are those of dkv.Options that go through an environment.
type childOptions struct {
	Dir           string
	Node          string
	Members       map[string]string
	SnapshotBytes int64
}

// A request is one line to a child, a reply one line from it. The reply with ID
// 0 says what came of Open.
type request struct {
	ID       uint64
	Op       string
	Key      string         `json:",omitempty"`
	Value    []byte         `json:",omitempty"`
	ExpireIn time.Duration  `json:",omitempty"`
	DeleteIn time.Duration  `json:",omitempty"`
	Revision store.Revision `json:",omitempty"`
	Delta    int64          `json:",omitempty"`
	Txn      *store.Txn     `json:",omitempty"`
	Lock     uint64         `json:",omitempty"` // the ID of another request
	Owner    string         `json:",omitempty"`
	Watch    *store.Watch   `json:",omitempty"`
	Range    *store.Range   `json:",omitempty"`
	Timeout  time.Duration  `json:",omitempty"`
}

type reply struct {
	ID       uint64
	OK       bool             `json:",omitempty"`
	Value    []byte           `json:",omitempty"`
	Lock     uint64           `json:",omitempty"` // the ID of another request
	Owner    string           `json:",omitempty"`
	Revision store.Revision   `json:",omitempty"`
	Sum      int64            `json:",omitempty"`
	Txn      *store.TxnResult `json:",omitempty"`
	Entry    *store.Entry     `json:",omitempty"`
	Info     *store.Info      `json:",omitempty"`

	Events  []store.Event   `json:",omitempty"`
	Entries []store.Entry   `json:",omitempty"`
	At      *store.Revision `json:",omitempty"`

	Checksum *dkv.Checksum
	Code     uint16 `json:",omitempty"` // of the sentinel, 0 if Error is no store's
	Error    string `json:",omitempty"`
}

// Main runs the tests of a package, or, in a child process, a member. Call it
// from TestMain.
func Main(m *testing.M) {
	if options, ok := os.LookupEnv(childEnv); ok {
		os.Exit(serve(options, os.Stdin, os.Stdout))
	}
	os.Exit(m.Run())
}

// serve runs a member until in ends.
func serve(options string, in io.Reader, out io.Writer) (exit int) {
	var writing sync.Mutex
	answer := func(r reply) {
		line, err := json.Marshal(r)
		if err != nil {
			panic(err)
		}
		writing.Lock()
		defer writing.Unlock()
		out.Write(append(line, '\n'))
	}

	var o childOptions
	if err := json.Unmarshal([]byte(options), &o); err != nil {
		panic(err)
	}
	db, err := dkv.Open(dkv.Options{Dir: o.Dir, Node: o.Node, Members: o.Members, SnapshotBytes: o.SnapshotBytes})
	answer(failure(reply{}, err))
	if err != nil {
		return 1
	}
	c := &child{DB: db, held: make(map[uint64]*dkv.Lock)}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 64<<20)
	var busy sync.WaitGroup
	for lines.Scan() {
		var r request
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			panic(err)
		}
		busy.Go(func() { answer(c.handle(r)) })
	}
	busy.Wait()
	if err := db.Close(); err != nil {
		return 1
	}
	return 0
}

func failure(r reply, err error) reply {
	if err != nil {
		r.Error = err.Error()
		for code := uint16(1); ; code++ {
			e := store.ErrorOf(code)
			if e == nil {
				break
			}
			if errors.Is(err, e) {
				r.Code = code
			}
		}
	}
	return r
}

// child is a member, with the locks that it holds by the ID of the request that has
// taken them.
type child struct {
	*dkv.DB
	mu   sync.Mutex
	held map[uint64]*dkv.Lock
}

func (c *child) handle(r request) reply {
	db := c.DB
	ctx, cancel := context.WithTimeout(context.Background(), r.Timeout)
	defer cancel()
	a := reply{ID: r.ID}
	var err error
	switch r.Op {
	case "get":
		a.Value, a.OK, err = db.Get(ctx, r.Key)
	case "getstale":
		a.Value, a.OK, err = db.GetStale(ctx, r.Key)
	case "entry":
		var e store.Entry
		e, a.OK, err = db.GetEntry(ctx, r.Key)
		a.Entry = &e
	case "has":
		a.OK, err = db.Has(ctx, r.Key)
	case "set":
		err = db.Set(ctx, r.Key, r.Value)
	case "sete":
		err = db.SetE(ctx, r.Key, r.Value, r.ExpireIn, r.DeleteIn)
	case "seteifunset":
		a.OK, err = db.SetEIfUnset(ctx, r.Key, r.Value, r.ExpireIn, r.DeleteIn)
	case "expire":
		err = db.Expire(ctx, r.Key)
	case "delete":
		err = db.Delete(ctx, r.Key)
	case "compareandset":
		a.Revision, a.OK, err = db.CompareAndSet(ctx, r.Key, r.Revision, r.Value, r.ExpireIn, r.DeleteIn)
	case "compareanddelete":
		a.Revision, a.OK, err = db.CompareAndDelete(ctx, r.Key, r.Revision)
	case "add":
		a.Sum, a.Revision, err = db.Add(ctx, r.Key, r.Delta)
	case "txn":
		var res store.TxnResult
		res, err = db.Txn(ctx, *r.Txn)
		a.Txn = &res
	case "acquire":
		var owner dkv.Owner
		owner, a.OK, err = db.Acquire(ctx, r.Key, r.DeleteIn)
		a.Owner = owner.String()
	case "release":
		var owner dkv.Owner
		if owner, err = dkv.ParseOwner(r.Owner); err == nil {
			a.OK, err = db.Release(ctx, r.Key, owner)
		}
	case "lock":
		var h *dkv.Lock
		if h, err = db.Lock(ctx, r.Key, dkv.LockTTL(r.DeleteIn)); err == nil {
			c.mu.Lock()
			c.held[r.ID] = h
			c.mu.Unlock()
			a.Revision = h.Token()
		}
	case "unlock":
		err = c.lock(r.Lock).Unlock(ctx)
	case "trusted":
		a.OK = c.lock(r.Lock).Err() == nil
	case "info":
		var info store.Info
		info, err = db.Info(ctx)
		a.Info = &info
	case "scan":
		a.At = new(store.Revision)
		r.Range.At = a.At
		for e, failed := range db.Scan(ctx, *r.Range) {
			if err = failed; err == nil {
				a.Entries = append(a.Entries, e)
			}
		}
	case "watch":
		a.Events, a.Revision, err = poll(ctx, db, *r.Watch)
	case "ready":
		err = db.Ready(ctx)
	case "checksum":
		var sum dkv.Checksum
		sum, a.OK = db.Checksum()
		a.Checksum = &sum
	case "close":
		err = db.Close()
	default:
		err = fmt.Errorf("unknown request %q", r.Op)
	}
	return failure(a, err)
}

func (c *child) lock(id uint64) *dkv.Lock {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.held[id]
}

// poll returns some events of a watch, and the revision to go on from.
func poll(ctx context.Context, db *dkv.DB, what store.Watch) (events []store.Event, next store.Revision, err error) {
	const wait, more, most = 200 * time.Millisecond, time.Millisecond, 256
	if what.From == 0 {
		if err := db.Ready(ctx); err != nil {
			return nil, 0, err
		}
		info, err := db.Info(ctx)
		return nil, info.Revision + 1, err
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	watch, err := db.Watch(ctx, what)
	if err != nil {
		if ctx.Err() != nil {
			err = nil // it takes its time to get ready
		}
		return nil, what.From, err
	}
	next = what.From
	for e, err := range watch {
		if err != nil {
			if ctx.Err() != nil {
				err = nil
			}
			return events, next, err
		}
		if len(events) == 0 {
			time.AfterFunc(more, cancel)
		}
		events, next = append(events, e), e.Revision+1
		if len(events) == most {
			break
		}
	}
	return events, next, nil
}
