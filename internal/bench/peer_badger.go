package main

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/dgraph-io/badger/v4"
)

var badgerPeer = &peer{
	name:   "badger",
	module: "github.com/dgraph-io/badger/v4",
	note:   "in memory, default options, one transaction per operation; one deadline per key, to the second; 3 rounds",
	rounds: 3, // it takes half of a run's time as it is
	open: func(config) (engine, error) {
		db, err := badger.Open(badger.DefaultOptions("").WithInMemory(true).WithLogger(nil))
		if err != nil {
			return nil, err
		}
		return &badgerEngine{db}, nil
	},
}

type badgerEngine struct{ db *badger.DB }

// mustWork panics for an error: in memory there is nothing that may fail, and a
// figure would mean nothing if it did.
func mustWork(err error) {
	if err != nil {
		panic(fmt.Sprintf("bench: badger: %v", err))
	}
}

// read looks key up and hands its item to f.
func (e *badgerEngine) read(key string, f func(*badger.Item) error) bool {
	txn := e.db.NewTransaction(false)
	defer txn.Discard()
	item, err := txn.Get([]byte(key))
	if errors.Is(err, badger.ErrKeyNotFound) {
		return false
	}
	mustWork(err)
	mustWork(f(item))
	return true
}

func (e *badgerEngine) Get(key string) (value []byte, ok bool) {
	ok = e.read(key, func(item *badger.Item) error {
		return item.Value(func(v []byte) error {
			value = v
			return nil
		})
	})
	return value, ok
}

func (e *badgerEngine) GetCopy(key string) (value []byte, ok bool) {
	ok = e.read(key, func(item *badger.Item) (err error) {
		value, err = item.ValueCopy(nil)
		return err
	})
	return value, ok
}

func (e *badgerEngine) Has(key string) bool {
	return e.read(key, func(*badger.Item) error { return nil })
}

func (e *badgerEngine) Set(key string, value []byte) {
	mustWork(e.db.Update(func(txn *badger.Txn) error {
		return txn.Set([]byte(key), value)
	}))
}

func (e *badgerEngine) SetE(key string, value []byte, _, deleteIn time.Duration) {
	mustWork(e.db.Update(func(txn *badger.Txn) error {
		return txn.SetEntry(badger.NewEntry([]byte(key), value).WithTTL(deleteIn))
	}))
}

func (e *badgerEngine) SetEIfUnset(key string, value []byte, _, deleteIn time.Duration) (set bool) {
	err := e.db.Update(func(txn *badger.Txn) error {
		set = false
		k := []byte(key)
		_, err := txn.Get(k)
		if !errors.Is(err, badger.ErrKeyNotFound) {
			return err
		}
		set = true
		return txn.SetEntry(badger.NewEntry(k, value).WithTTL(deleteIn))
	})
	if errors.Is(err, badger.ErrConflict) {
		return false // somebody else has just set it
	}
	mustWork(err)
	return set
}

func (e *badgerEngine) Delete(key string) {
	mustWork(e.db.Update(func(txn *badger.Txn) error { return txn.Delete([]byte(key)) }))
}

func (e *badgerEngine) Fill(n int, key func(i int) string, value func(i int) []byte) {
	batch := e.db.NewWriteBatch()
	defer batch.Cancel()
	for i := range n {
		mustWork(batch.Set([]byte(key(i)), value(i)))
	}
	mustWork(batch.Flush())
}

func (e *badgerEngine) Scan(f func(key string, value []byte) bool) {
	txn := e.db.NewTransaction(false)
	defer txn.Discard()
	it := txn.NewIterator(badger.DefaultIteratorOptions)
	defer it.Close()
	for it.Rewind(); it.Valid(); it.Next() {
		item := it.Item()
		more := false
		mustWork(item.Value(func(v []byte) error {
			more = f(string(item.Key()), v)
			return nil
		}))
		if !more {
			return
		}
	}
}

func (e *badgerEngine) View() (release func()) { return e.db.NewTransaction(false).Discard }

func (e *badgerEngine) Save(w io.Writer) error {
	_, err := e.db.Backup(w, 0)
	return err
}

func (e *badgerEngine) Load(r io.Reader) error {
	const pending = 256 // writes under way, as its own documentation has it
	return e.db.Load(r, pending)
}

func (e *badgerEngine) Close() { mustWork(e.db.Close()) }
