package main

import (
	"bytes"
	"math/rand"
	"runtime"
	"syscall"
	"unsafe"
)

const keySize = 17 // of "key-" and 13 digits

// appendKey appends key number n.
func appendKey(b []byte, n int) []byte {
	const prefix = "key-"
	b = append(b, prefix...)
	at := len(b)
	b = append(b, "0000000000000"...)
	for i := len(b) - 1; i >= at; i-- {
		b[i] = byte('0' + n%10)
		n /= 10
	}
	return b
}

// stream is keys in the order in which one worker asks for them. They lie one
// behind the other, as those of a caller who has just got them lie in its cache:
// walking them costs next to nothing, while an array of a million strings in
// random order would cost two misses that no engine can do anything about.
type stream struct{ slab []byte }

func (s stream) len() int { return len(s.slab) / keySize }

// key returns key i, counted round and round.
func (s stream) key(i int) string { return unsafe.String(&s.slab[i*keySize], keySize) }

// distributions are the ways to choose among keys.
var distributions = []string{"uniform", "zipf"}

const (
	zipfS = 1.01 // the skew that math/rand can do next to YCSB's 0.99
	seed  = 1
)

// keyset is all keys of a run, in an order that has nothing to do with their
// numbers.
type keyset struct {
	order   []uint32            // numbers of the keys, in the order in which they are set first
	streams map[string][]stream // by distribution, one per worker
	deletes stream              // all keys, in another order
}

// newKeyset makes n keys, numbered from first on, and the streams of so many
// workers.
func newKeyset(first, n, workers int) *keyset {
	rng := rand.New(rand.NewSource(seed))
	ks := &keyset{order: make([]uint32, n), streams: make(map[string][]stream)}
	for i, p := range rng.Perm(n) {
		ks.order[i] = uint32(first + p)
	}
	length := min(max(1<<22/workers, 1<<16), 8*n)
	for _, distribution := range distributions {
		for w := range workers {
			rng := rand.New(rand.NewSource(seed + 1 + int64(w)))
			next := func() int { return rng.Intn(n) }
			if distribution == "zipf" {
				zipf := rand.NewZipf(rng, zipfS, 1, uint64(n-1))
				// Numbers, not places in the order: what is asked for most was
				// not set first.
				next = func() int { return int(zipf.Uint64()) }
			}
			slab := offHeap(length * keySize)[:0]
			for range length {
				slab = appendKey(slab, first+next())
			}
			ks.streams[distribution] = append(ks.streams[distribution], stream{slab})
		}
	}
	slab := offHeap(n * keySize)[:0]
	for _, p := range rng.Perm(n) {
		slab = appendKey(slab, first+p)
	}
	ks.deletes = stream{slab}
	return ks
}

func (ks *keyset) len() int { return len(ks.order) }

// key returns key i in the order of setting, as a string of its own.
func (ks *keyset) key(i int) string {
	var b [keySize]byte
	return string(appendKey(b[:0], int(ks.order[i])))
}

// keys returns all keys, each a string of its own, so that an engine that keeps
// them keeps these alone alive.
func (ks *keyset) keys() []string {
	keys := make([]string, ks.len())
	for i := range keys {
		keys[i] = ks.key(i)
	}
	return keys
}

// values are parts of some random bytes, few enough to stay in a cache, as a
// value that somebody sets does, and different enough for none to be of use in
// compressing its neighbours.
type values struct {
	random []byte
	size   int
}

const valuesPool = 64 << 10

func newValues(size int) values {
	v := values{make([]byte, valuesPool+size), size}
	rand.New(rand.NewSource(seed)).Read(v.random)
	return v
}

func (v values) at(i int) []byte {
	from := uint(i*v.size) % valuesPool
	return v.random[from:][:v.size:v.size]
}

// has tells whether value is one of them.
func (v values) has(value []byte) bool {
	return len(value) == v.size && bytes.Contains(v.random, value)
}

// offHeap returns memory that the garbage collector does not count, so that the
// harness's own data does not slow its pace. It is all there: touching it
// faults no page in.
func offHeap(size int) []byte {
	b, err := syscall.Mmap(-1, 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		panic("bench: out of memory: " + err.Error())
	}
	clear(b)
	return b
}

// freeOffHeap gives back what offHeap returned. No engine may hold a key of it
// any more.
func freeOffHeap(b []byte) {
	if err := syscall.Munmap(b[:cap(b)]); err != nil {
		panic("bench: " + err.Error())
	}
}

func procs() int { return runtime.GOMAXPROCS(0) }
