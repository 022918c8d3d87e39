package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// isProcess tells whether this program is to be one with members.
func isProcess() bool { return os.Getenv(processEnv) != "" }

// serve does what a process with members is asked for, until there is nothing
// more to read. It then ends at once, whatever is under way.
func serve() {
	requests := make(chan request)
	go func() {
		in := json.NewDecoder(os.Stdin)
		for {
			var r request
			if err := in.Decode(&r); err != nil {
				os.Exit(0)
			}
			requests <- r
		}
	}()
	out := json.NewEncoder(os.NewFile(3, "replies"))
	var h host
	for r := range requests {
		a, err := h.handle(r)
		if err != nil {
			a.Error = err.Error()
		}
		if out.Encode(a) != nil {
			os.Exit(1)
		}
	}
}

// host is the members of a process, or clients in their place.
type host struct {
	members []member
	probe   *probe      // nil unless one is under way
	idlers  []io.Closer // connections that nobody uses
}

const readyPatience = time.Minute

func (h *host) handle(r request) (a reply, err error) {
	if r.Via >= max(1, len(h.members)) {
		return a, errors.New("there is no such member")
	}
	switch r.Op {
	case "open":
		began := time.Now()
		err = h.open(r)
		a.Took = time.Since(began)
	case "ready":
		began := time.Now()
		err = h.ready()
		a.Took = time.Since(began)
	case "leader":
		a.Leader = -1
		for i, m := range h.members {
			if m.Leads() {
				a.Leader = i
			}
		}
	case "fill":
		began := time.Now()
		err = r.Data.fill(h.members[r.Via])
		a.Took = time.Since(began)
	case "cell":
		if r.Cell.Via >= len(h.members) {
			return a, errors.New("there is no such member")
		}
		a.Outcome = r.Cell.measure(h.members[r.Cell.Via])
	case "cores":
		a.Outcome.Metrics, err = cores(h.members[r.Via], *r.Data, r.Time)
	case "idle":
		a.Outcome.Metrics = idleMetrics(r.Time)
	case "memory":
		a.Outcome.Metrics = residentMetrics()
	case "idlers":
		err = h.openIdlers(r)
	case "gets":
		a.Outcome.Metrics, err = r.Cell.countedGets(h.members[r.Via], r.Count)
	case "probe":
		h.probe = startProbe(h.members[r.Via])
	case "probed":
		a.Outcome = h.probe.stop()
	case "seen", "direct", "paced", "files":
		g, ok := h.members[r.Via].(*guarded)
		if !ok {
			return a, errors.New("no member that strangers come to")
		}
		err = g.handle(r, &a)
	case "attack":
		a.Attacked, err = r.Attack.run()
	case "close":
		began := time.Now()
		err = h.close()
		a.Took = time.Since(began)
	default:
		err = fmt.Errorf("unknown request %q", r.Op)
	}
	return a, err
}

// open opens all members at once: some wait for each other.
func (h *host) open(r request) error {
	chosen, err := named(allSystems, r.System, (*system).String)
	if err != nil {
		return err
	}
	h.members = make([]member, len(r.Members))
	return atOnce(len(r.Members), func(i int) (err error) {
		if c := r.Members[i]; len(c.Connect) > 0 {
			h.members[i], err = chosen[0].connect(c.Connect)
		} else {
			h.members[i], err = chosen[0].open(c)
		}
		return err
	})
}

func (h *host) ready() error {
	ctx, cancel := context.WithTimeout(context.Background(), readyPatience)
	defer cancel()
	return atOnce(len(h.members), func(i int) error { return h.members[i].Ready(ctx) })
}

func (h *host) close() error {
	return atOnce(len(h.members), func(i int) error { return h.members[i].Close() })
}

// atOnce does f for each of n at the same time.
func atOnce(n int, f func(i int) error) error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = f(i) })
	}
	wg.Wait()
	return errors.Join(errs...)
}
