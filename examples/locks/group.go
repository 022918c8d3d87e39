package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sync"

	"dkv"
)

// group is the three members.
type group struct {
	dir     string
	members map[string]string // Raft address by name

	mu   sync.Mutex
	open map[string]*dkv.DB
}

var names = []string{"a", "b", "c"}

// openGroup opens the members and waits until they are ready. What it returns has to
// be closed even after an error.
func openGroup(ctx context.Context, dir string) (*group, error) {
	g := &group{dir: dir, open: make(map[string]*dkv.DB)}
	var err error
	if g.members, err = freeAddresses(); err != nil {
		return g, err
	}
	for _, name := range names {
		if err := g.reopen(name); err != nil {
			return g, err
		}
	}
	for i := range names {
		if err := g.member(i).Ready(ctx); err != nil {
			return g, err
		}
	}
	return g, nil
}

func freeAddresses() (map[string]string, error) {
	addresses := make(map[string]string)
	for _, name := range names {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() // not before all have one, so that no two have the same
		addresses[name] = l.Addr().String()
	}
	return addresses, nil
}

func (g *group) reopen(name string) error {
	db, err := dkv.Open(dkv.Options{Dir: filepath.Join(g.dir, name), Node: name, Members: g.members})
	if err != nil {
		return fmt.Errorf("open %s: %w", name, err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open[name] = db
	return nil
}

// member returns the member with that number, which may be closed.
func (g *group) member(i int) *dkv.DB {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.open[names[i%len(names)]]
}

// closeLeader closes the member that leads, as a program does that is updated, and
// returns its name.
func (g *group) closeLeader(ctx context.Context) (string, error) {
	info, err := g.member(0).Info(ctx)
	if err != nil {
		return "", err
	}
	g.mu.Lock()
	leader := g.open[info.Leader]
	g.mu.Unlock()
	if leader == nil {
		return "", fmt.Errorf("no leader: %+v", info)
	}
	return info.Leader, leader.Close()
}

func (g *group) close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	var errs []error
	for _, db := range g.open {
		errs = append(errs, db.Close())
	}
	return errors.Join(errs...)
}
