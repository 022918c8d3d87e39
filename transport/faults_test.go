package transport

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dkv/internal/once"
	"dkv/store"
	"dkv/store/engine"
	"dkv/store/local"
)

// deaf is a server that says hello and then reads nothing, like one that was
// stopped.
func deaf(t *testing.T) (endpoint string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var done sync.WaitGroup
	stop := make(chan struct{})
	done.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			done.Go(func() {
				defer conn.Close()
				readClientHello(conn)
				conn.Write(serverHello)
				<-stop
			})
		}
	})
	t.Cleanup(func() {
		close(stop)
		l.Close()
		done.Wait()
	})
	return "tcp://" + l.Addr().String()
}

func TestOperationsEndWithTheirContextWhateverTheServerDoes(t *testing.T) {
	const limit = time.Second // shorter than silence
	// A machine that is busy with other tests may not get a write under way in
	// that time.
	for tries := 1; !writesGetStuck(t, limit) && !t.Failed(); tries++ {
		if tries == 5 {
			t.Fatal("no write got under way")
		}
	}
}

// writesGetStuck has more written to a deaf server than the sockets hold, and
// tells whether any of it was sent.
func writesGetStuck(t *testing.T, limit time.Duration) bool {
	t.Helper()
	c, err := NewClient(ClientOptions{Endpoints: []string{deaf(t)}, Conns: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.enrolment.Store(&enrolment{client: 1, nonce: 1, next: 1, low: 1}) // which the server would not answer
	var stuck atomic.Int64
	var wg sync.WaitGroup
	for i := range 3 {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), limit)
			defer cancel()
			began := time.Now()
			err := c.Set(ctx, fmt.Sprint(i), make([]byte, store.MaxValueSize))
			if kind := store.KindOf(err); kind != store.KindUnknown && kind != store.KindNotApplied {
				t.Error(err)
			} else if kind == store.KindUnknown {
				stuck.Add(1)
			}
			if took := time.Since(began); took > limit+5*time.Second {
				t.Errorf("a write with %v to go took %v", limit, took)
			}
		})
	}
	wg.Wait()
	if stuck.Load() == 0 {
		return false
	}
	// Nothing gets past the large values: a small one is never sent.
	ctx, cancel := context.WithTimeout(context.Background(), limit/10)
	defer cancel()
	if err := c.Set(ctx, "k", nil); store.KindOf(err) != store.KindNotApplied {
		t.Errorf("a write that was not sent: %v", err)
	}
	return true
}

func TestClientLeavesAServerThatIsSilent(t *testing.T) {
	c := connect(t, deaf(t), serve(t, "tcp://127.0.0.1:0"))
	for began := time.Now(); ; {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		_, _, err := c.Get(ctx, "k")
		cancel()
		if err == nil {
			return
		}
		if time.Since(began) > 20*time.Second {
			t.Fatal(err)
		}
	}
}

func TestServerAnswersWhatIsUnderWayWhenItCloses(t *testing.T) {
	for range 5 {
		s := local.Open(local.Options{})
		server := newServer(slow{s})
		l, err := Listen("tcp://127.0.0.1:0", ListenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		server.Start(l)
		c := connect(t, "tcp://"+l.Addr().String())
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()

		var done, acknowledged, unknown atomic.Int64
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Go(func() {
				for n := 0; ctx.Err() == nil; n++ {
					err := c.Set(ctx, fmt.Sprint(i, n), nil)
					switch store.KindOf(err) {
					case store.KindUnknown:
						unknown.Add(1)
					case store.KindNone:
						acknowledged.Add(1)
						continue
					}
					done.Add(1)
					return
				}
			})
		}
		for acknowledged.Load() < 500 {
			if ctx.Err() != nil {
				t.Fatalf("%d writes in a minute", acknowledged.Load())
			}
			time.Sleep(time.Millisecond)
		}
		server.Close()
		s.Close()
		cancel()
		wg.Wait()
		if n := unknown.Load(); n > 0 {
			t.Fatalf("the outcome of %d operations is unknown", n)
		}
	}
}

// slow takes a moment for each write.
type slow struct{ *local.Store }

func (slow) Prompt() bool { return false }

func (s slow) DoOnce(ctx context.Context, op engine.Op, id once.ID) (engine.Result, error) {
	time.Sleep(time.Millisecond)
	return s.Store.DoOnce(ctx, op, id)
}

func TestThousandCallersShareOneConnection(t *testing.T) {
	s := local.Open(local.Options{})
	defer s.Close()
	server := newServer(s)
	defer server.Close()
	l, err := Listen("tcp://127.0.0.1:0", ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	counted := &counting{Listener: l}
	server.Start(counted)
	c := connect(t, "tcp://"+l.Addr().String())
	ctx := background(t)
	var wg sync.WaitGroup
	for i := range 1000 {
		wg.Go(func() {
			if err := c.Set(ctx, fmt.Sprint(i), nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := counted.accepted.Load(); n != 1 {
		t.Fatalf("%d connections", n)
	}
}

type counting struct {
	net.Listener
	accepted atomic.Int64
}

func (c *counting) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err == nil {
		c.accepted.Add(1)
	}
	return conn, err
}
