package main

import (
	"io"
	"runtime"
	"sync"
	"time"

	"dkv/maple"
	"dkv/store"
	seam "dkv/store/engine"
)

// This file is the only one that knows Maple. What its engine can do, workloads
// find out from its methods.

var maplePeer = &peer{
	name: subject,
	open: func(conf config) (engine, error) {
		start := time.Now()
		e := &mapleEngine{opts: seam.Options{Now: func() time.Duration { return time.Since(start) }}}
		e.db = maple.New(e.opts)
		if conf.expiring {
			e.stop = make(chan struct{})
			e.reaping.Add(1)
			go e.reap()
		}
		return e, nil
	},
}

type mapleEngine struct {
	opts    seam.Options
	db      *maple.DB
	stop    chan struct{} // nil if nothing reaps
	reaping sync.WaitGroup
}

func (e *mapleEngine) Get(key string) ([]byte, bool) {
	return e.db.Get(seam.Keys, key)
}

func (e *mapleEngine) GetCopy(key string) ([]byte, bool) {
	value, ok := e.db.Get(seam.Keys, key)
	if !ok {
		return nil, false
	}
	return clone(value), true
}

func (e *mapleEngine) Has(key string) bool { return e.db.Has(seam.Keys, key) }

func (e *mapleEngine) Set(key string, value []byte) {
	e.db.Apply(&seam.Op{Kind: seam.Set, Key: key, Value: value}, 0)
}

func (e *mapleEngine) SetE(key string, value []byte, expireIn, deleteIn time.Duration) {
	e.db.Apply(&seam.Op{Kind: seam.Set, Key: key, Value: value, ExpireIn: expireIn, DeleteIn: deleteIn}, 0)
}

func (e *mapleEngine) SetEIfUnset(key string, value []byte, expireIn, deleteIn time.Duration) bool {
	return e.db.Apply(&seam.Op{
		Kind: seam.SetIfUnset, Key: key, Value: value, ExpireIn: expireIn, DeleteIn: deleteIn,
	}, 0).Done
}

func (e *mapleEngine) Delete(key string) {
	e.db.Apply(&seam.Op{Kind: seam.Delete, Key: key}, 0)
}

func (e *mapleEngine) Len() int {
	var info store.Info
	e.db.Info(&info)
	return int(info.Keys)
}

func (e *mapleEngine) Size() int64 {
	var info store.Info
	e.db.Info(&info)
	return info.Size
}

func (e *mapleEngine) View() (release func()) { return e.db.View().Release }

func (e *mapleEngine) Scan(f func(key string, value []byte) bool) {
	v := e.db.View()
	defer v.Release()
	v.Scan(seam.Keys, "", "", false, func(en store.Entry) bool { return f(en.Key, en.Value) })
}

func (e *mapleEngine) Save(w io.Writer) error {
	v := e.db.View()
	defer v.Release()
	return v.Save(w)
}

func (e *mapleEngine) Load(r io.Reader) (err error) {
	e.db, err = maple.Load(r, e.opts)
	return err
}

// reap does what the reaper of store/local does: as many deadlines at a time,
// and others come to their turn in between.
func (e *mapleEngine) reap() {
	defer e.reaping.Done()
	const atOnce = 256
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-e.stop:
			return
		case <-tick.C:
		}
		for e.db.Reap(atOnce) == atOnce {
			runtime.Gosched()
		}
	}
}

func (e *mapleEngine) Close() {
	if e.stop != nil {
		close(e.stop)
		e.reaping.Wait()
	}
}
