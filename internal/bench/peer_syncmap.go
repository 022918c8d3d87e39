package main

import (
	"sync"
	"time"
)

var syncMapPeer = &peer{
	name: "sync.Map",
	note: "of *entry, used like xsync; SetEIfUnset loads before it stores, to spare an entry that is not needed",
	open: func(config) (engine, error) { return new(syncMapEngine), nil },
}

type syncMapEngine struct{ m sync.Map }

func (e *syncMapEngine) load(key string) (*entry, bool) {
	v, ok := e.m.Load(key)
	if !ok {
		return nil, false
	}
	return v.(*entry), true
}

func (e *syncMapEngine) Get(key string) ([]byte, bool) {
	v, ok := e.load(key)
	if !ok {
		return nil, false
	}
	return v.value, true
}

func (e *syncMapEngine) GetCopy(key string) ([]byte, bool) {
	v, ok := e.load(key)
	if !ok {
		return nil, false
	}
	return clone(v.value), true
}

func (e *syncMapEngine) Has(key string) bool {
	_, ok := e.m.Load(key)
	return ok
}

func (e *syncMapEngine) Set(key string, value []byte) { e.m.Store(key, newEntry(value)) }

func (e *syncMapEngine) SetE(key string, value []byte, expireIn, deleteIn time.Duration) {
	e.m.Store(key, newEntryE(value, expireIn, deleteIn))
}

func (e *syncMapEngine) SetEIfUnset(key string, value []byte, expireIn, deleteIn time.Duration) bool {
	if e.Has(key) {
		return false
	}
	_, there := e.m.LoadOrStore(key, newEntryE(value, expireIn, deleteIn))
	return !there
}

func (e *syncMapEngine) Delete(key string) { e.m.Delete(key) }

func (e *syncMapEngine) Scan(f func(key string, value []byte) bool) {
	e.m.Range(func(key, v any) bool { return f(key.(string), v.(*entry).value) })
}

func (e *syncMapEngine) Close() {}
