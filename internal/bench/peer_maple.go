package main

import (
	"io"
	"runtime"
	"sync"
	"time"

	"dkv/internal/command"
	"dkv/maple"
	"dkv/store"
)

// This file is the only one that knows Maple. What its engine can do, workloads
// find out from its methods; a Scan joins in once it has one.

var maplePeer = &peer{
	name: subject,
	open: func(conf config) (engine, error) {
		start := time.Now()
		e := &mapleEngine{opts: maple.Options{Now: func() time.Duration { return time.Since(start) }}}
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
	opts    maple.Options
	db      *maple.DB
	stop    chan struct{} // nil if nothing reaps
	reaping sync.WaitGroup
}

func (e *mapleEngine) Get(key string) ([]byte, bool) {
	return e.db.Get(command.Keys, key)
}

func (e *mapleEngine) GetCopy(key string) ([]byte, bool) {
	value, ok := e.db.Get(command.Keys, key)
	if !ok {
		return nil, false
	}
	return clone(value), true
}

func (e *mapleEngine) Has(key string) bool { return e.db.Has(command.Keys, key) }

func (e *mapleEngine) Set(key string, value []byte) {
	e.db.Apply(&command.Op{Kind: command.Set, Key: key, Value: value})
}

func (e *mapleEngine) SetE(key string, value []byte, expireIn, deleteIn time.Duration) {
	e.db.Apply(&command.Op{Kind: command.Set, Key: key, Value: value, ExpireIn: expireIn, DeleteIn: deleteIn})
}

func (e *mapleEngine) SetEIfUnset(key string, value []byte, expireIn, deleteIn time.Duration) bool {
	return e.db.Apply(&command.Op{
		Kind: command.SetIfUnset, Key: key, Value: value, ExpireIn: expireIn, DeleteIn: deleteIn,
	}).Done
}

func (e *mapleEngine) Delete(key string) {
	e.db.Apply(&command.Op{Kind: command.Delete, Key: key})
}

func (e *mapleEngine) Len() int {
	var info store.Info
	e.db.Info(&info)
	return int(info.Keys)
}

func (e *mapleEngine) View() (release func()) { return e.db.View().Release }

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
