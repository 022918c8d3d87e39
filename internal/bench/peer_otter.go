package main

import (
	"io"
	"time"

	"github.com/maypok86/otter/v2"
)

// otterPeer is a cache without a bound. Only one that expires pays for expiry,
// so the workloads without deadlines get one that does not.
var otterPeer = &peer{
	name:   "otter",
	module: "github.com/maypok86/otter/v2",
	note:   "without a bound; expiry only in the workloads that use it; one deadline per key",
	open: func(conf config) (engine, error) {
		if conf.expiring {
			cache, err := otter.New(&otter.Options[string, lasting]{
				ExpiryCalculator: otter.ExpiryWritingFunc(func(e otter.Entry[string, lasting]) time.Duration {
					return e.Value.deleteIn
				}),
			})
			if err != nil {
				return nil, err
			}
			return &otterExpiring{cache}, nil
		}
		cache, err := otter.New(&otter.Options[string, []byte]{})
		if err != nil {
			return nil, err
		}
		return &otterEngine{cache}, nil
	},
}

type otterEngine struct{ c *otter.Cache[string, []byte] }

func (e *otterEngine) Get(key string) ([]byte, bool) { return e.c.GetIfPresent(key) }

func (e *otterEngine) GetCopy(key string) ([]byte, bool) {
	value, ok := e.c.GetIfPresent(key)
	if !ok {
		return nil, false
	}
	return clone(value), true
}

func (e *otterEngine) Has(key string) bool {
	_, ok := e.c.GetIfPresent(key)
	return ok
}

func (e *otterEngine) Set(key string, value []byte) { e.c.Set(key, clone(value)) }
func (e *otterEngine) Delete(key string)            { e.c.Invalidate(key) }

func (e *otterEngine) Scan(f func(key string, value []byte) bool) { e.c.All()(f) }
func (e *otterEngine) Save(w io.Writer) error                     { return otter.SaveCacheTo(e.c, w) }
func (e *otterEngine) Load(r io.Reader) error                     { return otter.LoadCacheFrom(e.c, r) }
func (e *otterEngine) Close()                                     { e.c.StopAllGoroutines() }

// lasting is a value that tells the cache how long it lasts.
type lasting struct {
	value    []byte
	deleteIn time.Duration
}

const forever = 100 * 365 * 24 * time.Hour

type otterExpiring struct{ c *otter.Cache[string, lasting] }

func (e *otterExpiring) Get(key string) ([]byte, bool) {
	v, ok := e.c.GetIfPresent(key)
	return v.value, ok
}

func (e *otterExpiring) GetCopy(key string) ([]byte, bool) {
	v, ok := e.c.GetIfPresent(key)
	if !ok {
		return nil, false
	}
	return clone(v.value), true
}

func (e *otterExpiring) Has(key string) bool {
	_, ok := e.c.GetIfPresent(key)
	return ok
}

func (e *otterExpiring) Set(key string, value []byte) {
	e.c.Set(key, lasting{clone(value), forever})
}

func (e *otterExpiring) SetE(key string, value []byte, _, deleteIn time.Duration) {
	e.c.Set(key, lasting{clone(value), deleteIn})
}

func (e *otterExpiring) SetEIfUnset(key string, value []byte, _, deleteIn time.Duration) bool {
	if e.Has(key) {
		return false // spares a copy that is not needed
	}
	_, set := e.c.SetIfAbsent(key, lasting{clone(value), deleteIn})
	return set
}

func (e *otterExpiring) Delete(key string) { e.c.Invalidate(key) }
func (e *otterExpiring) Len() int          { return e.c.EstimatedSize() }
func (e *otterExpiring) Close()            { e.c.StopAllGoroutines() }
