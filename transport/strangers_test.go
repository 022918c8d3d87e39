package transport

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"dkv/store"
	"dkv/store/local"
)

// frameOf is a frame's header that says so, and some of its body.
func frameOf(size uint32, some ...byte) []byte {
	return append(binary.LittleEndian.AppendUint32(nil, size), some...)
}

// strangers are what may connect to a server by accident, or to do harm.
var strangers = map[string]func(conn net.Conn, stop <-chan struct{}){
	"says nothing": func(_ net.Conn, stop <-chan struct{}) { <-stop },
	"random bytes": func(conn net.Conn, stop <-chan struct{}) {
		b := make([]byte, 64<<10)
		for i := range b {
			b[i] = byte(rand.Uint32())
		}
		conn.Write(b)
	},
	"random bytes behind the hello": func(conn net.Conn, stop <-chan struct{}) {
		b := bytes.Clone(hello)
		for range 64 << 10 {
			b = append(b, byte(rand.Uint32()))
		}
		conn.Write(b)
	},
	"a hello that stops short": func(conn net.Conn, stop <-chan struct{}) {
		conn.Write(hello[:len(hello)-1])
		<-stop
	},
	"a byte at a time": func(conn net.Conn, stop <-chan struct{}) {
		for _, b := range append(bytes.Clone(hello), frameOf(1000)...) {
			if _, err := conn.Write([]byte{b}); err != nil {
				return
			}
			select {
			case <-stop:
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	},
	"a large frame that does not come": func(conn net.Conn, stop <-chan struct{}) {
		size := []uint32{busyBuffer, maxFrame}[rand.IntN(2)]
		conn.Write(append(bytes.Clone(hello), frameOf(size, 1, 0, byte(methodGet))...))
		<-stop
	},
	"frames of all sizes": func(conn net.Conn, stop <-chan struct{}) {
		size := []uint32{0, 1, 2, maxFrame, maxFrame + 1, math.MaxInt32, math.MaxInt32 + 1, math.MaxUint32}[rand.IntN(8)]
		conn.Write(append(bytes.Clone(hello), frameOf(size, 1, 2, 3)...))
		<-stop
	},
	"numbers beyond all bounds": func(conn net.Conn, stop <-chan struct{}) {
		conn.Write(hello)
		for _, n := range []uint64{1, 1 << 32, 1 << 63, math.MaxUint64} {
			b := binary.AppendUvarint(nil, n)
			for m := method(1); m < methods; m++ {
				req := append(binary.AppendUvarint(bytes.Clone(b), n&math.MaxInt64), byte(m))
				conn.Write(appendFrame(nil, append(req, b...)))
			}
		}
		<-stop
	},
	"reads nothing": func(conn net.Conn, stop <-chan struct{}) {
		conn.Write(hello)
		for id := uint64(1); ; id++ {
			m := []method{methodGet, methodGetEntry, methodScan}[id%3]
			arg := []byte("large")
			if m == methodScan {
				arg = appendRange(nil, store.Range{})
			}
			conn.SetWriteDeadline(time.Now().Add(time.Second))
			if _, err := conn.Write(appendFrame(nil, request{id: id, method: m, arg: arg}.append(nil))); err != nil {
				<-stop
				return
			}
		}
	},
	"reads nothing, and asks for one after the other": func(conn net.Conn, stop <-chan struct{}) {
		conn.Write(hello)
		for id := uint64(1); ; id++ {
			conn.SetWriteDeadline(time.Now().Add(time.Second))
			if _, err := conn.Write(appendFrame(nil, request{id: id, method: methodGetEntry, arg: []byte("large")}.append(nil))); err != nil {
				<-stop
				return
			}
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Microsecond):
			}
		}
	},
}

// TestStrangersDoNoHarm has an honest client work beside strangers of all kinds, very
// many of some.
func TestStrangersDoNoHarm(t *testing.T) {
	const mostMemory = 64 << 20
	for name := range strangers {
		for _, prompt := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/prompt=%t", name, prompt), func(t *testing.T) {
				n := 300
				switch {
				case (name == "says nothing" || name == "a large frame that does not come") && !testing.Short():
					n = 5000
				case strings.HasPrefix(name, "reads nothing"):
					n = 1
				}
				s := local.Open(local.Options{})
				defer s.Close()
				s.Set(context.Background(), "large", make([]byte, 512<<10))
				backend := Backend(s)
				if !prompt {
					backend = behindBarrier{waits{s}}
				}
				endpoint := serveBackend(t, "tcp://127.0.0.1:0", backend)
				c := connect(t, endpoint)
				set := func() error { // which has its own time, however long the strangers take to come
					ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
					defer cancel()
					return c.Set(ctx, "k", nil)
				}
				if err := set(); err != nil {
					t.Fatal(err)
				}
				before := memory()

				leave := invite(t, n, strings.TrimPrefix(endpoint, "tcp://"), name)
				grown := int64(0)
				for range 200 {
					if err := set(); err != nil {
						t.Errorf("an honest client: %v", err)
						break
					}
					grown = max(grown, memory()-before)
					time.Sleep(time.Millisecond)
				}
				if grown > mostMemory && !raceEnabled {
					t.Errorf("%d MiB more memory", grown>>20)
				}
				leave()
				if err := set(); err != nil {
					t.Errorf("an honest client, when they have gone: %v", err)
				}
			})
		}
	}
}

// strangersEnv has how many strangers a process is to be, of whom, and their kind.
const strangersEnv = "DKV_TEST_STRANGERS"

// invite has so many strangers of a kind come, whose memory is not this process's, until leave
// is called.
func invite(t *testing.T, n int, address, kind string) (leave func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d %s %s", strangersEnv, n, address, kind))
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	leave = sync.OnceFunc(func() {
		stdin.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("strangers: %v", err)
		}
	})
	t.Cleanup(leave)
	if here, err := bufio.NewReader(stdout).ReadString('\n'); here != "connected\n" {
		t.Fatalf("the strangers have not come: %q, %v", here, err)
	}
	return leave
}

// beStrangers is what the process is that invite starts.
func beStrangers(who string) (exit int) {
	var n int
	var address string
	_, err := fmt.Sscan(who, &n, &address)
	stranger := strangers[strings.SplitN(who, " ", 3)[2]]
	if err != nil || stranger == nil {
		fmt.Fprintln(os.Stderr, who, err)
		return 1
	}
	stop := make(chan struct{})
	var there, connecting sync.WaitGroup
	var failed atomic.Bool
	connecting.Add(n)
	for range n {
		there.Go(func() {
			conn, err := net.Dial("tcp", address)
			connecting.Done()
			if err != nil {
				failed.Store(true)
				fmt.Fprintln(os.Stderr, err)
				return
			}
			defer conn.Close()
			stranger(conn, stop)
		})
	}
	connecting.Wait()
	if failed.Load() {
		return 1
	}
	fmt.Println("connected")
	io.Copy(io.Discard, os.Stdin)
	close(stop)
	there.Wait()
	return 0
}

// memory is what the process has from the system and has not given back.
func memory() int64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.Sys - m.HeapReleased)
}

// exhausted is a listener of a process that has no file descriptors left, for a time.
type exhausted struct {
	net.Listener
	left atomic.Int64
}

func (l *exhausted) Accept() (net.Conn, error) {
	if l.left.Add(-1) >= 0 {
		return nil, &net.OpError{Op: "accept", Err: syscall.EMFILE}
	}
	return l.Listener.Accept()
}

func TestServerOutlivesALackOfFileDescriptors(t *testing.T) {
	s := local.Open(local.Options{})
	defer s.Close()
	without := new(exhausted)
	without.left.Store(5)
	at := startAt(t, newServer(s), "127.0.0.1:0", func(l net.Listener) net.Listener {
		without.Listener = l
		return without
	})
	c := connect(t, "tcp://"+at)
	if err := c.Set(background(t), "k", nil); err != nil {
		t.Fatal(err)
	}
	if without.left.Load() >= 0 {
		t.Error("there was no lack")
	}
}

// TestWritesThatAreCutOffAreDoneOnce cuts the connection a thousand times when the
// server has done a write and not yet answered it. A counter would show a write that
// was done twice, or not at all.
func TestWritesThatAreCutOffAreDoneOnce(t *testing.T) {
	cutsWanted := int64(1000)
	if testing.Short() {
		cutsWanted = 100
	}
	s := local.Open(local.Options{})
	defer s.Close()
	var cuts atomic.Int64
	var endpoints []string
	for range 2 {
		at := startAt(t, newServer(s), "127.0.0.1:0", func(l net.Listener) net.Listener {
			return &answerless{Listener: l, cuts: &cuts}
		})
		endpoints = append(endpoints, "tcp://"+at)
	}
	c := connect(t, endpoints...)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	done := int64(0)
	for cuts.Load() < cutsWanted {
		n, _, err := c.Add(ctx, "counter", 1)
		if err != nil {
			t.Fatalf("after %d cuts: %v", cuts.Load(), err)
		}
		if done++; n != done {
			t.Fatalf("the counter is at %d after %d additions and %d cuts", n, done, cuts.Load())
		}
	}
}

// answerless cuts connections instead of writing what is no hello, every second time.
type answerless struct {
	net.Listener
	cuts *atomic.Int64
	turn atomic.Int64
}

func (l *answerless) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		conn = &answerlessConn{Conn: conn, l: l}
	}
	return conn, err
}

type answerlessConn struct {
	net.Conn
	l       *answerless
	greeted atomic.Bool
}

func (c *answerlessConn) Write(b []byte) (int, error) {
	if c.greeted.Swap(true) && c.l.turn.Add(1)%2 == 0 {
		c.l.cuts.Add(1)
		c.Conn.Close()
		return 0, errors.New("cut")
	}
	return c.Conn.Write(b)
}
