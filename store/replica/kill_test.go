package replica_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dkv/internal/testcluster"
	"dkv/store"
)

// ledger is what writers know about their keys: each key belongs to one writer,
// which gives it rising numbers.
type ledger struct {
	mu    sync.Mutex
	acked map[string]int // the greatest number whose write was acknowledged
	tried map[string]int // the greatest number whose write was tried
	count atomic.Int64   // acknowledgements
}

func newLedger() *ledger {
	return &ledger{acked: make(map[string]int), tried: make(map[string]int)}
}

// write gives keys rising numbers by way of the store that to returns, until
// stop is closed. After an error it goes on with the next number.
func (l *ledger) write(t *testing.T, stop <-chan struct{}, writer string, to func() store.Store) {
	for n := 1; ; n++ {
		select {
		case <-stop:
			return
		default:
		}
		key := fmt.Sprint(writer, "-", n%20)
		l.mu.Lock()
		number := max(l.tried[key]+1, n)
		l.tried[key] = number
		l.mu.Unlock()
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		err := to().Set(ctx, key, []byte(strconv.Itoa(number)))
		cancel()
		switch store.KindOf(err) {
		case store.KindNone:
			if err != nil {
				t.Errorf("set: %v", err)
				return
			}
			l.mu.Lock()
			l.acked[key] = number
			l.mu.Unlock()
			l.count.Add(1)
		case store.KindUnknown, store.KindNotApplied:
			time.Sleep(5 * time.Millisecond)
		case store.KindClosed:
			select {
			case <-stop:
			default:
				t.Errorf("set: %v", err)
			}
			return
		default:
			t.Errorf("set: %v", err)
			return
		}
	}
}

// check compares what s has with what the writers know. Nobody writes meanwhile.
func (l *ledger) check(t *testing.T, s store.Store) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for key, tried := range l.tried {
		value, ok, err := s.Get(ctx, key)
		if err != nil {
			t.Fatalf("get after restart: %v", err)
		}
		n := 0
		if ok {
			if n, err = strconv.Atoi(string(value)); err != nil {
				t.Fatal(err)
			}
		}
		if acked := l.acked[key]; n < acked || n > tried {
			t.Fatalf("%s is %d, though %d was acknowledged and %d the last that was tried", key, n, acked, tried)
		}
	}
}

func TestKilledAloneKeepsEveryAcknowledgedWrite(t *testing.T) {
	t.Parallel()
	// Two stores that have nothing to do with each other take their rounds side
	// by side. Small snapshots, so that some are killed while they write one.
	const stores = 2
	var groups [stores]*testcluster.Processes
	var books [stores]*ledger
	for i := range stores {
		groups[i], books[i] = testcluster.NewProcesses(t, 1, 32<<10), newLedger()
	}
	kills, n := 0, stores*rounds(10, 3)
	for range n / stores {
		stop := make(chan struct{})
		var writers sync.WaitGroup
		end := sync.OnceFunc(func() { close(stop); writers.Wait() })
		defer end() // should the round fail
		for i := range stores {
			p := groups[i].Process(0)
			for w := range 8 {
				writers.Go(func() {
					books[i].write(t, stop, fmt.Sprint("writer", w), func() store.Store { return p })
				})
			}
		}
		for _, book := range books {
			before := book.count.Load()
			eventually(t, 20*time.Second, "ten writes are acknowledged", func() bool { return book.count.Load() >= before+10 })
		}
		for i := range stores {
			time.Sleep(time.Duration(rand.IntN(30_000)) * time.Microsecond)
			if groups[i].Process(0).Kill() {
				kills++
			}
		}
		end()
		for i := range stores {
			groups[i].Start(0)
		}
		for i := range stores {
			books[i].check(t, groups[i].Process(0))
		}
	}
	if kills != n {
		t.Errorf("%d of %d processes died from SIGKILL", kills, n)
	}
	t.Logf("%d kills, %d and %d acknowledged writes", kills, books[0].count.Load(), books[1].count.Load())
}

func TestKilledMembersOfThreeLoseNoAcknowledgedWrite(t *testing.T) {
	t.Parallel()
	c := testcluster.NewProcesses(t, 3, 64<<10)
	c.Ready()
	book := newLedger()
	stop := make(chan struct{})
	var writers sync.WaitGroup
	end := sync.OnceFunc(func() { close(stop); writers.Wait() })
	defer end() // should a round fail
	for w := range 6 {
		writers.Go(func() {
			book.write(t, stop, fmt.Sprint("writer", w), func() store.Store { return c.Process(w % 3) })
		})
	}
	kills, leaders, all := 0, 0, 0
	kill := func(i int) {
		if !c.Process(i).Kill() {
			t.Errorf("member %d did not die from SIGKILL", i)
		}
		kills++
	}
	for round := range rounds(20, 5) {
		before := book.count.Load()
		eventually(t, 20*time.Second, "writes are acknowledged", func() bool { return book.count.Load() > before })
		time.Sleep(time.Duration(rand.IntN(50_000)) * time.Microsecond)
		switch round % 5 {
		case 4:
			var killers sync.WaitGroup
			for i := range 3 {
				killers.Go(func() { c.Process(i).Kill() })
			}
			killers.Wait()
			for i := range 3 {
				kill(i) // it has died: this counts it and looks what of
			}
			all++
			for i := range 3 {
				c.Start(i)
			}
		case 0, 2:
			leader := c.Leader()
			kill(leader)
			leaders++
			// Half of the time the others have to elect a leader first.
			if round%4 == 0 {
				before := book.count.Load()
				eventually(t, 20*time.Second, "two of three go on", func() bool { return book.count.Load() > before+10 })
			}
			c.Start(leader)
		default:
			i := rand.IntN(3)
			kill(i)
			c.Start(i)
		}
	}
	end()
	c.Ready()
	for i := range 3 {
		book.check(t, c.Process(i))
	}
	sum := c.WaitEqual()
	t.Logf("%d kills, of the leader %d times, of all members %d times; %d acknowledged writes, %v", kills, leaders, all, book.count.Load(), sum)
}
