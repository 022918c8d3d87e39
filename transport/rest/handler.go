package rest

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"dkv/store"
	"dkv/transport"
)

const (
	defaultTimeout = 10 * time.Second // for an operation, if the client says nothing
	maxTimeout     = time.Minute      // whatever it says
	drainTimeout   = 2 * time.Second  // for operations under way when the handler closes
	maxRequests    = 1024             // under way at a time, but for waits
	maxWaits       = 1 << 14          // watches, and waits for locks, at a time
)

// Handler answers HTTP requests as the package's documentation says. It has to get
// them as they came: an [http.ServeMux] before it would clean their paths, and what
// looks like an unclean path may be a key.
//
// How long a client may take to send a request and to read the response is for
// [http.Server] to say: a handler bounds only what a watch takes.
type Handler struct {
	// Authorize, unless it is nil, is asked before each operation, and has it refused
	// if it returns an error: for the shard first, with Access.Info, be there such a
	// shard or not, and then for the key, or for each key of a transaction. The status
	// is 403, or that of a store.Error, like 401 of store.ErrUnauthenticated. It is
	// set before the first request.
	Authorize func(r *http.Request, a Access) error

	find        func(shard uint64) transport.Backend // nil if there is none
	shards      func() map[uint64]transport.Backend  // all of them
	checkHost   func(r *http.Request) error          // nil: any host will do
	crossOrigin *http.CrossOriginProtection
	heartbeat   time.Duration // of watches
	requests    chan struct{} // has room for maxRequests
	waits       chan struct{} // has room for maxWaits

	ctx, waitCtx context.Context // of operations; of watches and of waits for locks
	cancel       context.CancelFunc
	endWaits     context.CancelFunc

	mu struct {
		sync.Mutex
		closed bool
		work   sync.WaitGroup // operations; Add only while not closed
	}
}

// Access is what an operation needs to be allowed.
type Access struct {
	Shard  uint64
	Lock   bool   // Key is the name of a lock, not a key
	Key    string // or what all keys begin with, if Prefix
	Prefix bool   // a scan, or a watch of several keys
	Write  bool
	Info   bool // the shard's info, and to be told whether there is the shard
}

// NewHandler returns a handler for some stores, by the numbers of their shards. They
// are closed by others, after the handler.
func NewHandler(shards map[uint64]transport.Backend) *Handler {
	h := &Handler{
		find:        func(shard uint64) transport.Backend { return shards[shard] },
		shards:      func() map[uint64]transport.Backend { return shards },
		crossOrigin: http.NewCrossOriginProtection(),
		heartbeat:   heartbeat,
		requests:    make(chan struct{}, maxRequests),
		waits:       make(chan struct{}, maxWaits),
	}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	h.waitCtx, h.endWaits = context.WithCancel(h.ctx)
	return h
}

// Close ends watches and waits for locks and takes no further operations, which are
// answered as those of a closed store are. Those under way have 2 s; then their
// contexts end. It returns when none is worked on any longer.
func (h *Handler) Close() error {
	h.mu.Lock()
	h.mu.closed = true
	h.mu.Unlock()
	h.endWaits()
	impatient := time.AfterFunc(drainTimeout, h.cancel)
	defer impatient.Stop()
	h.mu.work.Wait()
	h.cancel()
	return nil
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := &call{Handler: h, w: w, r: r}
	a, err := c.answer()
	if err != nil {
		a = failure(w.Header(), err)
	}
	if a != nil {
		a.write(w)
	}
}

// call is a request on its way through the handler.
type call struct {
	*Handler
	w        http.ResponseWriter
	r        *http.Request
	resource resource
	shard    uint64
	store    transport.Backend // of the shard
	name     string            // of a key or lock
	params   params
	body     []byte
}

// answer carries the request out. It returns nil if it has been answered already.
func (c *call) answer() (*answer, error) {
	if c.checkHost != nil {
		if err := c.checkHost(c.r); err != nil {
			return nil, &statusError{http.StatusMisdirectedRequest, err.Error()}
		}
	}
	if err := c.crossOrigin.Check(c.r); err != nil {
		return nil, &statusError{http.StatusForbidden, err.Error()}
	}
	rt, err := c.route()
	if err != nil {
		return nil, err
	}
	if c.params, err = parseParams(c.r.URL.RawQuery, rt.params); err != nil {
		return nil, err
	}
	timeout := c.params.timeout(c.r)
	room := c.requests
	if rt.waits(c) {
		room = c.waits
	}
	if c.params.err != nil {
		return nil, c.params.err
	}
	if c.resource == healthResource { // a process is not restarted for being busy
		return rt.do(c.r.Context(), c)
	}
	if c.resource == keyResource || c.resource == lockResource {
		if err := store.CheckKey(c.name); err != nil {
			return nil, err
		}
		write := c.r.Method != http.MethodGet && c.r.Method != http.MethodHead
		if err := c.authorize(Access{Lock: c.resource == lockResource, Key: c.name, Write: write}); err != nil {
			return nil, err
		}
	}
	select {
	case room <- struct{}{}:
		defer func() { <-room }()
	default:
		return nil, fmt.Errorf("%w: %d requests are under way", store.ErrBusy, cap(room))
	}
	if err := c.readBody(rt); err != nil {
		return nil, err
	}
	if !c.enter() {
		return nil, store.ErrClosed
	}
	defer c.mu.work.Done()
	ctx, cancel := context.WithTimeout(c.r.Context(), timeout)
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)()
	return rt.do(ctx, c)
}

// enter has Close wait for the call. It is false if the handler is closed.
func (h *Handler) enter() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.mu.closed {
		return false
	}
	h.mu.work.Add(1)
	return true
}

// authorize asks whether something may be done with the shard of the call.
func (c *call) authorize(a Access) error {
	if c.Authorize == nil {
		return nil
	}
	a.Shard = c.shard
	if err := c.Authorize(c.r, a); err != nil {
		return &refusal{err}
	}
	return nil
}

// readBody reads the body, if the route wants one. A client that sends too much has
// its connection closed.
func (c *call) readBody(rt route) error {
	if rt.maxBody == 0 {
		return nil
	}
	if c.r.ContentLength > rt.maxBody {
		return rt.tooLarge()
	}
	var err error
	c.body, err = io.ReadAll(http.MaxBytesReader(c.w, c.r.Body, rt.maxBody))
	switch err.(type) {
	case nil:
		return nil
	case *http.MaxBytesError:
		return rt.tooLarge()
	}
	return badRequest("the body did not come whole: %v", err)
}

// resource is what a path leads to.
type resource string

const (
	healthResource resource = "healthz"
	readyResource  resource = "readyz"
	shardsResource resource = "shards"
	infoResource   resource = "info"
	keysResource   resource = "keys"
	keyResource    resource = "keys/"
	lockResource   resource = "locks/"
	txnResource    resource = "txn"
	watchResource  resource = "watch"
)

// route is how a method on a resource is carried out.
type route struct {
	do      func(ctx context.Context, c *call) (*answer, error)
	params  []string // that the query may have, besides timeout
	maxBody int64    // 0: there is none
}

// routes are by method; HEAD goes where GET does.
var routes = map[resource]map[string]route{
	healthResource: {http.MethodGet: {do: health}},
	readyResource:  {http.MethodGet: {do: ready}},
	shardsResource: {http.MethodGet: {do: listShards}},
	infoResource:   {http.MethodGet: {do: getInfo}},
	keysResource: {http.MethodGet: {do: scanKeys, params: []string{
		"prefix", "from", "to", "after", "next", "limit", "reverse", "keysOnly",
	}}},
	keyResource: {
		http.MethodGet:    {do: getKey, params: []string{"stale"}},
		http.MethodPut:    {do: putKey, params: []string{"expireIn", "deleteIn"}, maxBody: store.MaxValueSize},
		http.MethodDelete: {do: deleteKey},
		http.MethodPost:   {do: postKey, params: []string{"op", "delta"}},
	},
	lockResource: {
		http.MethodGet:    {do: getLock},
		http.MethodPost:   {do: takeLock, params: []string{"ttl", "wait"}},
		http.MethodPut:    {do: renewLock, params: []string{"ttl", "owner"}},
		http.MethodDelete: {do: releaseLock, params: []string{"owner"}},
	},
	txnResource:   {http.MethodPost: {do: transact, maxBody: maxTxnBody}},
	watchResource: {http.MethodGet: {do: watch, params: []string{"prefix", "key", "from"}}},
}

// waits tells whether the call may take long though nothing is amiss.
func (rt *route) waits(c *call) bool {
	return c.resource == watchResource || c.resource == lockResource && c.params.has("wait")
}

func (rt *route) tooLarge() error {
	if rt.maxBody == store.MaxValueSize {
		return store.ErrValueTooLarge
	}
	return &statusError{http.StatusRequestEntityTooLarge, fmt.Sprintf("the body is longer than %d bytes", rt.maxBody)}
}

// route finds out what the path leads to. The rest of the path of a key or lock is
// its name, be slashes in it encoded or not.
func (c *call) route() (route, error) {
	found := false
	path := c.r.URL.Path
	if rest, ok := strings.CutPrefix(path, "/v1/shards/"); ok {
		number, rest, _ := strings.Cut(rest, "/")
		if c.shard, found = parseShard(number); found {
			// A stranger learns nothing of the shard, and takes no room.
			if err := c.authorize(Access{Info: true}); err != nil {
				return route{}, err
			}
			c.store = c.find(c.shard)
		}
		if c.store == nil {
			return route{}, &statusError{http.StatusNotFound, fmt.Sprintf("there is no shard %.30q here", number)}
		}
		kind, name, named := strings.Cut(rest, "/")
		c.resource, c.name = resource(kind), name
		if named {
			c.resource += "/"
		}
		switch c.resource {
		case infoResource, keysResource, keyResource, lockResource, txnResource, watchResource:
		default:
			found = false
		}
	} else {
		switch path {
		case "/healthz", "/readyz", "/v1/shards":
			c.resource, found = resource(path[strings.LastIndexByte(path, '/')+1:]), true
		}
	}
	if !found {
		return route{}, &statusError{http.StatusNotFound, "there is no such resource"}
	}
	method := c.r.Method
	if method == http.MethodHead && c.resource != watchResource {
		method = http.MethodGet
	}
	rt, ok := routes[c.resource][method]
	if !ok {
		c.w.Header().Set("Allow", allowed(c.resource))
		return route{}, &statusError{http.StatusMethodNotAllowed, "not a method of this resource"}
	}
	return rt, nil
}

func allowed(r resource) string {
	var methods []string
	for m := range routes[r] {
		methods = append(methods, m)
		if m == http.MethodGet && r != watchResource {
			methods = append(methods, http.MethodHead)
		}
	}
	slices.Sort(methods)
	return strings.Join(methods, ", ")
}
