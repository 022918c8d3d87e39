package main

import (
	"hash/maphash"
	"sync"
	"time"
)

var shardedPeer = &peer{
	name: "sharded",
	note: "256 maps of *entry, each under an RWMutex; a scan holds one shard's at a time",
	open: func(config) (engine, error) {
		e := &shardedEngine{seed: maphash.MakeSeed()}
		for i := range e.shards {
			e.shards[i].m = make(map[string]*entry)
		}
		return e, nil
	},
}

type shardedEngine struct {
	seed   maphash.Seed
	shards [256]shard
}

type shard struct {
	sync.RWMutex
	m map[string]*entry
	_ [128 - 32]byte // neighbours share no cache line
}

func (e *shardedEngine) shard(key string) *shard {
	return &e.shards[maphash.String(e.seed, key)%uint64(len(e.shards))]
}

func (e *shardedEngine) load(key string) (*entry, bool) {
	s := e.shard(key)
	s.RLock()
	v, ok := s.m[key]
	s.RUnlock()
	return v, ok
}

func (e *shardedEngine) Get(key string) ([]byte, bool) {
	v, ok := e.load(key)
	if !ok {
		return nil, false
	}
	return v.value, true
}

func (e *shardedEngine) GetCopy(key string) ([]byte, bool) {
	v, ok := e.load(key)
	if !ok {
		return nil, false
	}
	return clone(v.value), true
}

func (e *shardedEngine) Has(key string) bool {
	_, ok := e.load(key)
	return ok
}

func (e *shardedEngine) store(key string, v *entry) {
	s := e.shard(key)
	s.Lock()
	s.m[key] = v
	s.Unlock()
}

func (e *shardedEngine) Set(key string, value []byte) { e.store(key, newEntry(value)) }

func (e *shardedEngine) SetE(key string, value []byte, expireIn, deleteIn time.Duration) {
	e.store(key, newEntryE(value, expireIn, deleteIn))
}

func (e *shardedEngine) SetEIfUnset(key string, value []byte, expireIn, deleteIn time.Duration) bool {
	s := e.shard(key)
	s.Lock()
	defer s.Unlock()
	if _, there := s.m[key]; there {
		return false
	}
	s.m[key] = newEntryE(value, expireIn, deleteIn)
	return true
}

func (e *shardedEngine) Delete(key string) {
	s := e.shard(key)
	s.Lock()
	delete(s.m, key)
	s.Unlock()
}

func (e *shardedEngine) Scan(f func(key string, value []byte) bool) {
	for i := range e.shards {
		if !e.shards[i].scan(f) {
			return
		}
	}
}

func (s *shard) scan(f func(key string, value []byte) bool) bool {
	s.RLock()
	defer s.RUnlock()
	for key, v := range s.m {
		if !f(key, v.value) {
			return false
		}
	}
	return true
}

func (e *shardedEngine) Close() {}
