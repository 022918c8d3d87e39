package transport

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dkv/store"
	"dkv/store/local"
)

// patterned is a value that shows whose it is, and of which write.
func patterned(caller, n, size int) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(caller))
	b = binary.LittleEndian.AppendUint64(b, uint64(n))
	return append(b, bytes.Repeat([]byte{byte(caller*31 + n)}, size)...)
}

// TestBuffersAreNotMixedUp has callers write and read values of all sizes, some of whom
// give up at any time, and all of whom spoil what they have got.
func TestBuffersAreNotMixedUp(t *testing.T) {
	sizes := []int{0, 100, 5000, 15 << 10, 17 << 10, 70 << 10, 300 << 10, 1200 << 10}
	length := 700 * time.Millisecond
	if testing.Short() {
		length = 200 * time.Millisecond
	}
	for name, backend := range map[string]func(*local.Store) Backend{
		"prompt":     func(s *local.Store) Backend { return s },
		"goroutines": func(s *local.Store) Backend { return waits{s} },
		"barrier":    func(s *local.Store) Backend { return behindBarrier{waits{s}} },
	} {
		t.Run(name, func(t *testing.T) {
			s := local.Open(local.Options{})
			t.Cleanup(func() { s.Close() })
			c := connect(t, serveBackend(t, "tcp://127.0.0.1:0", backend(s)))
			var wg sync.WaitGroup
			var read atomic.Int64
			end := time.Now().Add(length)
			for caller := range 12 {
				wg.Go(func() {
					key := fmt.Sprint("k", caller)
					acknowledged := 0
					for n := 1; time.Now().Before(end) && !t.Failed(); n++ {
						limit, brief := 20*time.Second, rand.IntN(4) == 0
						if brief {
							limit = time.Duration(rand.IntN(2000)) * time.Microsecond
						}
						ctx, cancel := context.WithTimeout(context.Background(), limit)
						err := c.Set(ctx, key, patterned(caller, n, sizes[rand.IntN(len(sizes))]))
						if err == nil {
							acknowledged = n
						} else if kind := store.KindOf(err); !brief || kind != store.KindNotApplied && kind != store.KindUnknown {
							t.Error(err)
						}
						v, ok, err := c.Get(ctx, key)
						cancel()
						switch {
						case err != nil:
							if !brief || store.KindOf(err) != store.KindNotApplied {
								t.Error(err)
							}
							continue
						case !ok:
							if acknowledged > 0 {
								t.Error(key, "is gone")
							}
							continue
						case len(v) < 16:
							t.Errorf("%s: %q", key, v)
							return
						}
						of, at := int(binary.LittleEndian.Uint64(v)), int(binary.LittleEndian.Uint64(v[8:]))
						if of != caller || at < acknowledged || at > n {
							t.Errorf("%s: write %d of caller %d, after %d was acknowledged and %d begun", key, at, of, acknowledged, n)
						} else if !bytes.Equal(v, patterned(of, at, len(v)-16)) {
							t.Errorf("%s: what was read is mixed", key)
						}
						v = append(v, 1)
						clear(v[:cap(v)])
						read.Add(1)
					}
				})
			}
			wg.Wait()
			if read.Load() == 0 {
				t.Error("nothing was read")
			}
		})
	}
}

func TestBuffersThatAreTooLargeAreNotKept(t *testing.T) {
	huge := func() []byte { return make([]byte, 0, 2*store.MaxValueSize) }
	body := huge()
	in := frameReader{body: &body}
	in.giveBackBody()
	new(clientConn).keepLocked(huge())
	for range 2 {
		if b, _ := largeBuffers.Get().(*[]byte); b != nil && cap(*b) >= 2*store.MaxValueSize {
			t.Errorf("one of %d bytes was kept", cap(*b))
		}
	}
}
