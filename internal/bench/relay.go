package main

import (
	"bytes"
	"io"
	"net"
	"slices"
	"sync"
)

// relay is a detour to a member that keeps what is said to it, to be said again.
type relay struct {
	listener net.Listener
	working  sync.WaitGroup

	mu    sync.Mutex
	conns []net.Conn
	said  []*bytes.Buffer
}

// mostSaid is kept of a connection.
const mostSaid = 64 << 10

func startRelay(to string) (*relay, error) {
	l, err := net.Listen("tcp", memberHost+":0")
	if err != nil {
		return nil, err
	}
	r := &relay{listener: l}
	r.working.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			r.working.Go(func() { r.pass(c, to) })
		}
	})
	return r, nil
}

func (r *relay) pass(c net.Conn, to string) {
	defer c.Close()
	s, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer s.Close()
	said := new(bytes.Buffer)
	r.mu.Lock()
	r.conns = append(r.conns, c, s)
	r.said = append(r.said, said)
	r.mu.Unlock()
	r.working.Go(func() {
		io.Copy(c, s)
		c.Close()
	})
	b := make([]byte, 32<<10)
	for {
		n, err := c.Read(b)
		if err != nil {
			return
		}
		r.mu.Lock()
		said.Write(b[:min(n, mostSaid-said.Len())])
		r.mu.Unlock()
		if _, err := s.Write(b[:n]); err != nil {
			return
		}
	}
}

// close ends the detour and returns what was said on each connection.
func (r *relay) close() (said [][]byte) {
	r.listener.Close()
	r.mu.Lock()
	for _, c := range r.conns {
		c.Close()
	}
	r.mu.Unlock()
	r.working.Wait()
	for _, b := range r.said {
		if b.Len() > 0 {
			said = append(said, slices.Clone(b.Bytes()))
		}
	}
	return said
}
