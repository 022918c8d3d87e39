package main

import (
	"time"

	"github.com/puzpuzpuz/xsync/v3"
)

// xsyncPeer is the map that Maple is built on, bare: the baseline.
var xsyncPeer = &peer{
	name:   baseline,
	module: "github.com/puzpuzpuz/xsync/v3",
	note:   "MapOf[string, *entry]; a write stores a fresh entry with a copied value; SetE stores deadlines that nothing carries out",
	open: func(config) (engine, error) {
		return &xsyncEngine{xsync.NewMapOf[string, *entry]()}, nil
	},
}

type xsyncEngine struct{ m *xsync.MapOf[string, *entry] }

func (e *xsyncEngine) Get(key string) ([]byte, bool) {
	v, ok := e.m.Load(key)
	if !ok {
		return nil, false
	}
	return v.value, true
}

func (e *xsyncEngine) GetCopy(key string) ([]byte, bool) {
	v, ok := e.m.Load(key)
	if !ok {
		return nil, false
	}
	return clone(v.value), true
}

func (e *xsyncEngine) Has(key string) bool {
	_, ok := e.m.Load(key)
	return ok
}

// Load is Has by another name: the same call, for the row that tells what a
// Load costs that leaves the entry unread.
func (e *xsyncEngine) Load(key string) bool {
	v, ok := e.m.Load(key)
	return ok && v != nil
}

func (e *xsyncEngine) Set(key string, value []byte) { e.m.Store(key, newEntry(value)) }

func (e *xsyncEngine) SetE(key string, value []byte, expireIn, deleteIn time.Duration) {
	e.m.Store(key, newEntryE(value, expireIn, deleteIn))
}

func (e *xsyncEngine) SetEIfUnset(key string, value []byte, expireIn, deleteIn time.Duration) bool {
	_, there := e.m.LoadOrCompute(key, func() *entry { return newEntryE(value, expireIn, deleteIn) })
	return !there
}

func (e *xsyncEngine) Delete(key string) { e.m.Delete(key) }

func (e *xsyncEngine) Scan(f func(key string, value []byte) bool) {
	e.m.Range(func(key string, v *entry) bool { return f(key, v.value) })
}

func (e *xsyncEngine) Close() {}
