package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"dkv"
)

// guardedSystem is dkv with what strangers come to looked at.
var guardedSystem = &system{
	name: "dkv-guarded",
	note: "dkv that tells what comes in",
	open: func(c memberConfig) (member, error) {
		g := &guarded{watch: &watchman{}}
		o := dkv.Options{Dir: c.Dir, Node: c.Node, Members: c.Raft, Logger: slog.New(g.watch), SnapshotBytes: guardedSnapshots}
		if len(c.Detour) > 0 {
			o.Resolve = func(_ context.Context, node string) (string, error) {
				if g.direct.Load() {
					return "", nil
				}
				return c.Detour[node], nil
			}
		}
		if err := c.Peers.set(&o); err != nil {
			return nil, err
		}
		db, err := dkv.Open(o)
		if err != nil {
			return nil, err
		}
		g.dkvMember = &dkvMember{db}
		return g, nil
	},
}

// guardedSnapshots is so little that snapshots are due while strangers are there.
const guardedSnapshots = 1 << 20

// guarded is a member that strangers come to.
type guarded struct {
	*dkvMember
	watch  *watchman
	direct atomic.Bool // no detours any longer
}

// handle does what a process with such a member is asked for.
func (g *guarded) handle(r request, a *reply) (err error) {
	switch r.Op {
	case "seen":
		a.Seen = g.watch.take()
		info, err := g.db.Info(context.Background())
		a.Seen.Leader = info.Leader
		return err
	case "direct":
		g.direct.Store(true)
	case "files":
		err = limitFiles(r.Count)
	case "paced":
		stop := g.invite(r.Invite)
		a.Writes, a.Outcome = g.paced(r.Count, r.Time)
		stop()
	}
	return err
}

// paced writes so often per second, whether the writes before are answered or not, and
// returns how long each took from when it was due.
func (g *guarded) paced(rate int, d time.Duration) (took []time.Duration, o outcome) {
	ctx, cancel := context.WithTimeout(context.Background(), d+opPatience)
	defer cancel()
	var mu sync.Mutex
	var fails failures
	var working sync.WaitGroup
	every := time.Second / time.Duration(rate)
	end := time.Now().Add(d)
	for due := time.Now(); due.Before(end); due = due.Add(every) {
		time.Sleep(time.Until(due))
		working.Go(func() {
			value := make([]byte, valueSize)
			if err := g.Set(ctx, "honest"+strconv.FormatInt(due.UnixNano()%64, 10), value); err != nil {
				fails.add(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			took = append(took, time.Since(due))
		})
	}
	working.Wait()
	if o.Failed = int(fails.n.Load()); o.Failed > 0 {
		o.Error = fails.text()
	}
	return took, o
}

// strangerName is what a member is asked to add from an address where a stranger listens.
const strangerName = "x"

// invite has the member dial a stranger at an address over and over, until stop.
func (g *guarded) invite(address string) (stop func()) {
	if address == "" {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var working sync.WaitGroup
	working.Go(func() {
		for ctx.Err() == nil {
			brief, done := context.WithTimeout(ctx, time.Second)
			g.db.AddMember(brief, strangerName, address) // which must not come to anything
			done()
			time.Sleep(10 * time.Millisecond)
		}
	})
	return func() {
		cancel()
		working.Wait()
	}
}

// filesAtFirst is the limit of open files that the process began with.
var filesAtFirst = sync.OnceValues(func() (l syscall.Rlimit, err error) {
	return l, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l)
})

// limitFiles lets the process open but so many files more than it has, or, if that is 0,
// as many as at first.
func limitFiles(more int) error {
	l, err := filesAtFirst()
	if err != nil {
		return err
	}
	if more > 0 {
		open, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			return err
		}
		l.Cur = uint64(len(open) - 1 + more) // reading them took one
	}
	return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l)
}

// seen is what a member has told since it was last asked.
type seen struct {
	Leader string
	Term   uint64 // the last
	Terms  int    // how often a term or its leader was another
	Out    int    // how often no connection was accepted, for want of files

	// Of connections of strangers:
	Turned   int            // away
	Ended    int            // that had been let in
	Accepted int            // messages, snapshots and requests that were taken
	Why      map[string]int // they came to an end
}

// watchman is a slog.Handler that counts what it is told.
type watchman struct {
	mu  sync.Mutex
	now seen
}

// mostReasons are kept.
const mostReasons = 64

func (w *watchman) take() *seen {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.now
	w.now = seen{Term: s.Term}
	return &s
}

// Enabled implements slog.Handler.
func (w *watchman) Enabled(context.Context, slog.Level) bool { return true }

// WithAttrs implements slog.Handler.
func (w *watchman) WithAttrs([]slog.Attr) slog.Handler { return w }

// WithGroup implements slog.Handler.
func (w *watchman) WithGroup(string) slog.Handler { return w }

// Handle implements slog.Handler.
func (w *watchman) Handle(_ context.Context, r slog.Record) error {
	switch r.Message {
	case "term", "no connection accepted", "connection turned away", "connection ended":
	default:
		return nil
	}
	var term uint64
	var from, why string
	var taken int
	r.Attrs(func(a slog.Attr) bool {
		switch a.Key {
		case "term":
			term = a.Value.Uint64()
		case "from":
			from = a.Value.String()
		case "taken":
			taken = int(a.Value.Int64())
		case "why":
			if err, ok := a.Value.Any().(error); ok {
				why = reason(err)
			}
		}
		return true
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	switch r.Message {
	case "term":
		w.now.Term = max(w.now.Term, term)
		w.now.Terms++
		return nil
	case "no connection accepted":
		w.now.Out++
		return nil
	}
	if strings.HasPrefix(from, memberHost+":") {
		return nil
	}
	if r.Message == "connection ended" {
		w.now.Ended++
		w.now.Accepted += taken
	} else {
		w.now.Turned++
	}
	if w.now.Why == nil {
		w.now.Why = make(map[string]int)
	}
	if _, ok := w.now.Why[why]; ok || len(w.now.Why) < mostReasons {
		w.now.Why[why]++
	}
	return nil
}

// reason is an error without what is another each time.
func reason(err error) string {
	var net interface{ Timeout() bool }
	if errors.As(err, &net) && net.Timeout() {
		return "it took too long"
	}
	text := err.Error()
	if i := strings.LastIndex(text, memberHost); i >= 0 { // addresses come before the reason
		if _, after, ok := strings.Cut(text[i:], ": "); ok {
			text = after
		}
	}
	return fmt.Sprintf("%.80s", text)
}
