package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"dkv"
)

const joinUsage = `Usage: bench join [flags]

Measures how long it takes until a node that joins a group is a member that votes, all in
this process, on disks that are synced: once that of one member with many small keys, and
once that of three, with a state of which the node needs a snapshot, beside writes.

Flags:
`

// joinSettings are those of a run.
type joinSettings struct {
	dir    string
	log    io.Writer
	rounds int
	keys   int // of the first group
	mib    int // that the values of the second have together
	rate   int // writes per second beside
	calm   time.Duration
	time   time.Duration // for which writes are measured before
}

const (
	joinValue   = 4 << 10 // bytes of a value of the second group
	joinWriters = 128
	joinFillers = 256
)

// joined is what one round has measured.
type joined struct {
	join     time.Duration
	rate     float64 // bytes per second of the state, from the node's Open until it votes
	before   time.Duration
	during   time.Duration // the 99th percentile of writes
	achieved float64       // writes per second meanwhile
}

// group is members in this process.
type joinGroup struct {
	dir    string
	dbs    map[string]*dkv.DB
	leader *dkv.DB
	at     string // where a member is
}

func openJoinGroup(ctx context.Context, dir string, n int) (*joinGroup, error) {
	g := &joinGroup{dir: dir, dbs: make(map[string]*dkv.DB)}
	addresses, err := freeAddresses(n)
	if err != nil {
		return g, err
	}
	members := make(map[string]string)
	for i, address := range addresses {
		members[string(rune('a'+i))] = address
	}
	g.at = addresses[0]
	for name := range members {
		if g.dbs[name], err = dkv.Open(dkv.Options{Dir: filepath.Join(dir, name), Node: name, Members: members}); err != nil {
			delete(g.dbs, name)
			return g, err
		}
	}
	for _, db := range g.dbs {
		if err := db.Ready(ctx); err != nil {
			return g, err
		}
	}
	for _, db := range g.dbs {
		if info, err := db.Info(ctx); err != nil {
			return g, err
		} else if info.Leader == info.Node {
			g.leader = db
		}
	}
	if g.leader == nil {
		return g, errors.New("no leader")
	}
	return g, nil
}

func (g *joinGroup) close() {
	for _, db := range g.dbs {
		db.Close()
	}
	os.RemoveAll(g.dir)
}

// fill sets so many keys.
func (g *joinGroup) fill(ctx context.Context, keys, size int) error {
	failed := make(chan error, joinFillers)
	for w := range joinFillers {
		go func() {
			value := make([]byte, size)
			for i := w; i < keys; i += joinFillers {
				if err := g.leader.Set(ctx, "key"+strconv.Itoa(i), value); err != nil {
					failed <- err
					return
				}
			}
			failed <- nil
		}()
	}
	var err error
	for range joinFillers {
		err = errors.Join(err, <-failed)
	}
	return err
}

// join has a node join, and returns how long that took.
func (g *joinGroup) join(ctx context.Context) (time.Duration, error) {
	own, err := freeAddresses(1)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	db, err := dkv.Open(dkv.Options{Dir: filepath.Join(g.dir, "j"), Node: "j", Address: own[0], Join: []string{g.at}})
	if err != nil {
		return 0, err
	}
	g.dbs["j"] = db
	err = db.Ready(ctx)
	return time.Since(began), err
}

// steadily is writes at a rate.
type steadily struct {
	mu     sync.Mutex
	took   []time.Duration // from when each was due
	failed error
}

// run writes until ctx ends.
func (l *steadily) run(ctx context.Context, db *dkv.DB, rate int) *sync.WaitGroup {
	var working sync.WaitGroup
	every := joinWriters * time.Second / time.Duration(rate)
	for w := range joinWriters {
		working.Go(func() {
			value := make([]byte, valueSize)
			for due := time.Now().Add(every * time.Duration(w) / joinWriters); ; due = due.Add(every) {
				select {
				case <-ctx.Done():
					return
				case <-time.After(time.Until(due)):
				}
				err := db.Set(context.WithoutCancel(ctx), fmt.Sprint("beside", w, due.UnixNano()%64), value)
				l.mu.Lock()
				l.took = append(l.took, time.Since(due))
				l.failed = errors.Join(l.failed, err)
				l.mu.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	return &working
}

// take returns the 99th percentile since the last time, and how many there were.
func (l *steadily) take() (p99 time.Duration, n int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n = len(l.took); n > 0 {
		slices.Sort(l.took)
		p99 = l.took[n*99/100]
	}
	l.took = nil
	return p99, n, l.failed
}

// round measures once.
func (s *joinSettings) round(ctx context.Context, n int) (j joined, err error) {
	dir, err := os.MkdirTemp(s.dir, "bench-join")
	if err != nil {
		return j, err
	}
	g, err := openJoinGroup(ctx, dir, 1)
	defer func() { g.close() }()
	if err == nil {
		err = g.fill(ctx, s.keys, valueSize)
	}
	if err != nil {
		return j, err
	}
	if j.join, err = g.join(ctx); err != nil {
		return j, err
	}
	fmt.Fprintf(s.log, "round %d/%d: %d keys, joined in %.2f s\n", n, s.rounds, s.keys, j.join.Seconds())
	g.close()

	if dir, err = os.MkdirTemp(s.dir, "bench-join"); err != nil {
		return j, err
	}
	g, err = openJoinGroup(ctx, dir, 3)
	if err == nil {
		err = g.fill(ctx, s.mib<<20/joinValue, joinValue)
	}
	if err != nil {
		return j, err
	}
	var l steadily
	writing, stop := context.WithCancel(ctx)
	working := l.run(writing, g.leader, s.rate)
	defer working.Wait()
	defer stop()
	time.Sleep(s.calm) // until what filling it has left behind is written
	l.take()
	time.Sleep(s.time)
	if j.before, _, err = l.take(); err != nil {
		return j, err
	}
	took, err := g.join(ctx)
	if err != nil {
		return j, err
	}
	var writes int
	j.during, writes, err = l.take()
	j.achieved = float64(writes) / took.Seconds()
	j.rate = float64(s.mib<<20) / took.Seconds()
	fmt.Fprintf(s.log, "round %d/%d: %d MiB, joined in %.2f s beside %.0f writes/s, p99 %v, before %v\n",
		n, s.rounds, s.mib, took.Seconds(), j.achieved, j.during, j.before)
	return j, err
}

func runJoin(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("join", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprint(stderr, joinUsage)
		flags.PrintDefaults()
	}
	s := &joinSettings{log: stderr, calm: 15 * time.Second, time: 5 * time.Second}
	var quick bool
	flags.StringVar(&s.dir, "dir", os.TempDir(), "where to make the data directories, which are removed in the end")
	flags.IntVar(&s.rounds, "rounds", 3, "rounds, of which the medians are told")
	flags.IntVar(&s.keys, "keys", 1_000_000, "keys of the first group")
	flags.IntVar(&s.mib, "mib", 1024, "MiB that the values of the second group have")
	flags.IntVar(&s.rate, "rate", 20_000, "writes per second beside")
	flags.BoolVar(&quick, "short", false, "small and short, to see that all works; the figures mean nothing")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if quick {
		s.rounds, s.keys, s.mib, s.rate, s.calm, s.time = 1, 2000, 4, 1000, 0, 500*time.Millisecond
	}
	if flags.NArg() > 0 || s.rounds < 1 || s.keys < 1 || s.mib < 1 || s.rate < joinWriters {
		return fmt.Errorf("a round, a key and a MiB at least, and %d writes per second; no arguments but flags", joinWriters)
	}
	var all []joined
	for n := range s.rounds {
		j, err := s.round(ctx, n+1)
		if err != nil {
			return err
		}
		all = append(all, j)
	}
	middle := func(of func(joined) float64) float64 {
		var values []float64
		for _, j := range all {
			values = append(values, of(j))
		}
		slices.Sort(values)
		return values[len(values)/2]
	}
	var verdicts []verdict
	for _, b := range []struct {
		bar
		figure float64
	}{
		{bar{name: "join until it votes, " + strconv.Itoa(s.keys) + " keys", unit: "s", bar: 10, stretch: 10}, middle(func(j joined) float64 { return j.join.Seconds() })},
		{bar{name: "a state of " + strconv.Itoa(s.mib) + " MiB, from Open until the node votes", unit: "MB/s", least: true, bar: 300, stretch: 300}, middle(func(j joined) float64 { return j.rate / 1e6 })},
		{bar{name: "p99 of writes meanwhile / before", unit: "×", bar: 3, stretch: 3}, middle(func(j joined) float64 { return float64(j.during) / float64(j.before) })},
		{bar{name: "writes per second meanwhile", unit: "/s", least: true, bar: float64(s.rate) * 0.95, stretch: float64(s.rate) * 0.95}, middle(func(j joined) float64 { return j.achieved })},
	} {
		verdicts = append(verdicts, verdict{b.name, b.unit, b.least, b.figure, b.bar.bar, b.stretch, b.verdict(b.figure, true)})
	}
	printBars(stdout, verdicts)
	return nil
}

func joinCommand(args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return runJoin(ctx, args, os.Stdout, os.Stderr)
}
