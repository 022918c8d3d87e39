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

	"dkv/lock"
	"dkv/store"
	"dkv/store/replica"

	"github.com/lni/dragonboat/v4/config"
)

// childEnv has the options of a child process, as JSON. Its presence is what
// makes a test binary one.
const childEnv = "DKV_TEST_CHILD"

// childOptions are those of replica.Options that go through an environment.
type childOptions struct {
	Dir           string
	Node          string
	Members       map[string]string
	SnapshotBytes int64
	Restore       string
	Address       string
	Join          []string
	Witness       bool
	Cut           map[string]bool // see network
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

	Cut map[string]bool `json:",omitempty"` // see network
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
	Members []store.Member  `json:",omitempty"`

	Dropped  map[string]Dropped `json:",omitempty"` // by node
	Checksum *replica.Checksum
	Code     uint16 `json:",omitempty"` // of the sentinel, 0 if Error is no store's
	Error    string `json:",omitempty"`
}

// A WrapTransport has a member use what a function makes of its transport.
type WrapTransport func(*replica.Options, func(config.TransportFactory) config.TransportFactory)

// Main runs the tests of a package, or, in a child process, a member, whose transport is
// wrapped. Call it from TestMain.
func Main(m *testing.M, wrap WrapTransport) {
	if options, ok := os.LookupEnv(childEnv); ok {
		os.Exit(serve(options, wrap, os.Stdin, os.Stdout))
	}
	os.Exit(m.Run())
}

// serve runs a member until in ends.
func serve(options string, wrap WrapTransport, in io.Reader, out io.Writer) (exit int) {
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
	opts := replica.Options{Dir: o.Dir, Node: o.Node, Members: o.Members, SnapshotBytes: o.SnapshotBytes, Restore: o.Restore, Address: o.Address, Join: o.Join, Witness: o.Witness}
	net := newNetwork(o.Cut)
	wrap(&opts, net.wrap)
	s, err := replica.Open(opts)
	answer(failure(reply{}, err))
	if err != nil {
		return 1
	}
	c := &child{Store: s, locker: lock.New(s), net: net, held: make(map[uint64]*lock.Lock)}
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
	if err := c.close(); err != nil {
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
	*replica.Store
	locker *lock.Locker
	net    *network

	mu   sync.Mutex
	held map[uint64]*lock.Lock
}

func (c *child) close() error {
	c.locker.Close()
	return c.Store.Close()
}

func (c *child) handle(r request) reply {
	s := c.Store
	ctx, cancel := context.WithTimeout(context.Background(), r.Timeout)
	defer cancel()
	a := reply{ID: r.ID}
	var err error
	switch r.Op {
	case "get":
		a.Value, a.OK, err = s.Get(ctx, r.Key)
	case "getstale":
		a.Value, a.OK, err = s.GetStale(ctx, r.Key)
	case "entry":
		var e store.Entry
		e, a.OK, err = s.GetEntry(ctx, r.Key)
		a.Entry = &e
	case "has":
		a.OK, err = s.Has(ctx, r.Key)
	case "set":
		err = s.Set(ctx, r.Key, r.Value)
	case "sete":
		err = s.SetE(ctx, r.Key, r.Value, r.ExpireIn, r.DeleteIn)
	case "seteifunset":
		a.OK, err = s.SetEIfUnset(ctx, r.Key, r.Value, r.ExpireIn, r.DeleteIn)
	case "expire":
		err = s.Expire(ctx, r.Key)
	case "delete":
		err = s.Delete(ctx, r.Key)
	case "compareandset":
		a.Revision, a.OK, err = s.CompareAndSet(ctx, r.Key, r.Revision, r.Value, r.ExpireIn, r.DeleteIn)
	case "compareanddelete":
		a.Revision, a.OK, err = s.CompareAndDelete(ctx, r.Key, r.Revision)
	case "add":
		a.Sum, a.Revision, err = s.Add(ctx, r.Key, r.Delta)
	case "txn":
		var res store.TxnResult
		res, err = s.Txn(ctx, *r.Txn)
		a.Txn = &res
	case "acquire":
		var owner lock.Owner
		owner, a.OK, err = c.locker.Acquire(ctx, r.Key, r.DeleteIn)
		a.Owner = owner.String()
	case "release":
		var owner lock.Owner
		if owner, err = lock.ParseOwner(r.Owner); err == nil {
			a.OK, err = c.locker.Release(ctx, r.Key, owner)
		}
	case "lock":
		var h *lock.Lock
		if h, err = c.locker.Lock(ctx, r.Key, lock.TTL(r.DeleteIn)); err == nil {
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
		info, err = s.Info(ctx)
		a.Info = &info
	case "scan":
		a.At = new(store.Revision)
		r.Range.At = a.At
		for e, failed := range s.Scan(ctx, *r.Range) {
			if err = failed; err == nil {
				a.Entries = append(a.Entries, e)
			}
		}
	case "watch":
		a.Events, a.Revision, err = poll(ctx, s, *r.Watch)
	case "ready":
		err = s.Ready(ctx)
	case "members":
		a.Members, err = s.Members(ctx)
	case "remove":
		err = s.RemoveMember(ctx, r.Key)
	case "transfer":
		err = s.TransferLeadership(ctx, r.Key)
	case "checksum":
		sum := s.Checksum()
		a.Checksum = &sum
	case "cut":
		c.net.setCut(r.Cut)
	case "dropped":
		a.Dropped = c.net.allDropped()
	case "close":
		err = c.close()
	default:
		err = fmt.Errorf("unknown request %q", r.Op)
	}
	return failure(a, err)
}

func (c *child) lock(id uint64) *lock.Lock {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.held[id]
}

// poll returns some events of a watch, and the revision to go on from.
func poll(ctx context.Context, s *replica.Store, what store.Watch) (events []store.Event, next store.Revision, err error) {
	const wait, more, most = 200 * time.Millisecond, time.Millisecond, 256
	if what.From == 0 {
		if err := s.Ready(ctx); err != nil {
			return nil, 0, err
		}
		info, err := s.Info(ctx)
		return nil, info.Revision + 1, err
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	watch, err := s.Watch(ctx, what)
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
