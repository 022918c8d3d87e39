package rest

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"dkv/store"
	"dkv/transport"
)

const readyTimeout = time.Second // for all shards to be ready

func health(context.Context, *call) (*answer, error) {
	return &answer{http.StatusOK, struct {
		Live bool `json:"live"`
	}{true}}, nil
}

// ready asks all shards at once.
func ready(ctx context.Context, c *call) (*answer, error) {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	out := struct {
		Ready  bool              `json:"ready"`
		Shards map[uint64]string `json:"shards"`
	}{true, make(map[uint64]string)}
	status := http.StatusOK
	var mu sync.Mutex // guards out and status
	var asked sync.WaitGroup
	for n, s := range c.shards() {
		asked.Go(func() {
			err := canAnswer(ctx, s)
			mu.Lock()
			defer mu.Unlock()
			if out.Shards[n] = "ready"; err != nil {
				out.Ready, status, out.Shards[n] = false, http.StatusServiceUnavailable, err.Error()
			}
		})
	}
	asked.Wait()
	return &answer{status, out}, nil
}

// canAnswer returns an error if reads and writes would fail. A witness is ready to vote.
func canAnswer(ctx context.Context, s transport.Backend) error {
	if err := s.Ready(ctx); err != nil {
		return err
	}
	i, err := s.Info(ctx)
	if err == nil && i.Mode == "witness" {
		err = store.ErrNoData
	}
	return err
}

// listShards lists those whose info the client may read.
func listShards(_ context.Context, c *call) (*answer, error) {
	out := struct {
		Shards []uint64 `json:"shards"`
	}{[]uint64{}}
	for _, c.shard = range slices.Sorted(maps.Keys(c.shards())) {
		if c.authorize(Access{Info: true}) == nil {
			out.Shards = append(out.Shards, c.shard)
		}
	}
	return &answer{http.StatusOK, out}, nil
}

// info is a store.Info as JSON has it.
type info struct {
	Mode          string            `json:"mode"`
	Revision      store.Revision    `json:"revision"`
	Keys          int64             `json:"keys"`
	Locks         int64             `json:"locks"`
	Waiters       int64             `json:"waiters"`
	Bytes         int64             `json:"bytes"`
	Size          int64             `json:"size"`
	Watches       int               `json:"watches"`
	Views         int               `json:"views"`
	Retained      int64             `json:"retained"`
	RetainedBytes int64             `json:"retainedBytes"`
	Node          string            `json:"node,omitempty"`
	Leader        string            `json:"leader,omitempty"`
	Members       []string          `json:"members,omitempty"`
	Applied       uint64            `json:"applied,omitempty"`
	Progress      map[string]uint64 `json:"progress,omitempty"`
}

func getInfo(ctx context.Context, c *call) (*answer, error) {
	i, err := c.store.Info(ctx)
	if err != nil {
		return nil, err
	}
	return &answer{http.StatusOK, info(i)}, nil
}
