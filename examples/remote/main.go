// Command remote shows the network mode: a program that has a durable store and serves it,
// and front ends that have none and are its clients. The server is closed and opened again
// in the middle; the front ends are not told, and no visit is lost or counted twice.
//
//	go run ./examples/remote
//
// All of them share this process only to make the example easy to run. Front ends on other
// machines would have the server's address in Options.Connect, and TLS; what they do with
// the store is what a program does that embeds one.
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"dkv"
)

func main() {
	frontEnds := flag.Int("front-ends", 3, "`number` of front ends")
	visits := flag.Int("visits", 2000, "`number` of visits to each")
	flag.Parse()
	if err := run(os.Stdout, *frontEnds, *visits); err != nil {
		fmt.Fprintln(os.Stderr, "remote:", err)
		os.Exit(1)
	}
}

const visitsKey = "visits"

func run(out io.Writer, frontEnds, visits int) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	var all sync.WaitGroup
	defer all.Wait() // for the front ends, whatever has failed
	defer cancel()
	dir, err := os.MkdirTemp("", "dkv-remote-")
	if err != nil {
		return err
	}
	s, err := newServer(dir)
	defer func() { err = errors.Join(err, s.close(), os.RemoveAll(dir)) }()
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "serving at %s\n", s.endpoint)

	began := time.Now()
	var done atomic.Int64
	errs := make([]error, frontEnds)
	for i := range frontEnds {
		all.Go(func() {
			if errs[i] = s.count(ctx, visits, &done); errs[i] != nil {
				cancel() // the others would never come to the end
			}
		})
	}
	until := func(n int64) {
		for done.Load() < n && ctx.Err() == nil {
			time.Sleep(time.Millisecond)
		}
	}
	until(int64(frontEnds * visits / 3))
	if err := s.restart(); err != nil {
		return err
	}
	fmt.Fprintf(out, "closed and opened again after %d visits\n", done.Load())
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return s.report(ctx, out, int64(frontEnds*visits), began)
}

// server is the program that has the store.
type server struct {
	dir      string
	endpoint string
	writes   dkv.Secret // what front ends show
	reads    dkv.Secret // what whoever makes reports shows
	db       *dkv.DB    // nil while it is closed
}

func newServer(dir string) (*server, error) {
	// A server has an address that its clients know, here one that is free.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return new(server), err
	}
	l.Close()
	s := &server{
		dir:      filepath.Join(dir, "data"),
		endpoint: "tcp://" + l.Addr().String(),
		writes:   dkv.Secret(rand.Text()),
		reads:    dkv.Secret(rand.Text()),
	}
	return s, s.open()
}

// open opens the store and serves it. On other interfaces than loopback it would need TLS.
func (s *server) open() (err error) {
	s.db, err = dkv.Open(dkv.Options{
		Dir:    s.dir,
		Listen: []string{s.endpoint},
		Tokens: []dkv.Token{
			{Secret: s.writes, Rights: []dkv.Right{{Write: true}}},
			{Secret: s.reads, Rights: []dkv.Right{{Prefix: visitsKey}}},
		},
	})
	return err
}

func (s *server) close() error {
	if s.db == nil {
		return nil
	}
	err := s.db.Close()
	s.db = nil
	return err
}

func (s *server) restart() error { return errors.Join(s.close(), s.open()) }

// count is one front end. What the server does is no concern of it: an Add that was not
// answered is sent again under the same number, and the store, which has that in its log,
// adds once.
func (s *server) count(ctx context.Context, visits int, done *atomic.Int64) error {
	db, err := dkv.Open(dkv.Options{Connect: []string{s.endpoint}, Token: s.writes})
	if err != nil {
		return err
	}
	defer db.Close()
	for range visits {
		if _, _, err := db.Add(ctx, visitsKey, 1); err != nil {
			return err
		}
		done.Add(1)
	}
	return nil
}

// report reads the total, by a token that is for nothing else.
func (s *server) report(ctx context.Context, out io.Writer, want int64, began time.Time) error {
	db, err := dkv.Open(dkv.Options{Connect: []string{s.endpoint}, Token: s.reads})
	if err != nil {
		return err
	}
	defer db.Close()
	if err := db.Set(ctx, visitsKey, nil); !errors.Is(err, dkv.ErrForbidden) {
		return fmt.Errorf("a write with the token that is for reading: %v", err)
	}
	total, ok, err := db.Get(ctx, visitsKey)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%s visits after %v\n", total, time.Since(began).Round(time.Millisecond))
	if !ok || string(total) != fmt.Sprint(want) {
		return fmt.Errorf("the total is %q, not %d", total, want)
	}
	return nil
}
