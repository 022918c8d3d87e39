package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.uber.org/zap"
)

var etcdSystem = &system{
	name:      clusterBaseline,
	module:    "go.etcd.io/etcd/server/v3",
	note:      "embedded, used by the in-process client of a member; default options but for a quota of 8 GiB",
	netNote:   "embedded, used by clientv3 over gRPC; default options but for a quota of 8 GiB",
	fillsFast: true,
	open: func(c memberConfig) (member, error) {
		conf := embed.NewConfig()
		conf.Name = c.Node
		conf.Dir = c.Dir
		peers, clients := []url.URL{httpURL(c.Raft[c.Node])}, []url.URL{httpURL(c.Client[c.Node])}
		conf.ListenPeerUrls, conf.AdvertisePeerUrls = peers, peers
		conf.ListenClientUrls, conf.AdvertiseClientUrls = clients, clients
		var initial []string
		for node, address := range c.Raft {
			initial = append(initial, node+"=http://"+address)
		}
		slices.Sort(initial)
		conf.InitialCluster = strings.Join(initial, ",")
		conf.QuotaBackendBytes = 8 << 30
		conf.LogLevel = "panic" // what gRPC logs beside the builder's logger
		conf.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
		e, err := embed.StartEtcd(conf)
		if err != nil {
			return nil, err
		}
		return &etcdMember{e, etcdClient{client: v3client.New(e.Server)}}, nil
	},
	connect: func(endpoints []string) (member, error) {
		c, err := clientv3.New(clientv3.Config{Endpoints: addresses(endpoints), Logger: zap.NewNop()})
		if err != nil {
			return nil, err
		}
		return &etcdClient{client: c}, nil
	},
}

func httpURL(address string) url.URL { return url.URL{Scheme: "http", Host: address} }

type etcdMember struct {
	etcd *embed.Etcd
	etcdClient
}

func (m *etcdMember) Ready(ctx context.Context) error {
	select {
	case <-m.etcd.Server.ReadyNotify():
	case err := <-m.etcd.Err():
		return fmt.Errorf("etcd stopped: %w", err)
	case <-ctx.Done():
		return ctx.Err()
	}
	return m.etcdClient.Ready(ctx)
}

func (m *etcdMember) Leads() bool { return m.etcd.Server.Leader() == m.etcd.Server.MemberID() }

// etcdClient is a client within the process of a member, or of servers elsewhere.
type etcdClient struct {
	noMember
	client *clientv3.Client
}

func (m *etcdClient) Ready(ctx context.Context) error {
	_, err := m.client.Get(ctx, "ready")
	return err
}

func (m *etcdClient) Set(ctx context.Context, key string, value []byte) error {
	_, err := m.client.Put(ctx, key, string(value))
	return err
}

func (m *etcdClient) Get(ctx context.Context, key string) ([]byte, bool, error) {
	return etcdValue(m.client.Get(ctx, key))
}

func (m *etcdClient) GetStale(ctx context.Context, key string) ([]byte, bool, error) {
	return etcdValue(m.client.Get(ctx, key, clientv3.WithSerializable()))
}

func etcdValue(r *clientv3.GetResponse, err error) ([]byte, bool, error) {
	if err != nil || len(r.Kvs) == 0 {
		return nil, false, err
	}
	return r.Kvs[0].Value, true, nil
}

// SetAll sets the keys in transactions of as many as etcd allows.
func (m *etcdClient) SetAll(ctx context.Context, keys []string, values [][]byte) error {
	const most = int(embed.DefaultMaxTxnOps)
	for from := 0; from < len(keys); from += most {
		to := min(from+most, len(keys))
		puts := make([]clientv3.Op, 0, to-from)
		for i := from; i < to; i++ {
			puts = append(puts, clientv3.OpPut(keys[i], string(values[i])))
		}
		r, err := m.client.Txn(ctx).Then(puts...).Commit()
		if err != nil {
			return err
		}
		if !r.Succeeded {
			return errors.New("a transaction without conditions did not succeed")
		}
	}
	return nil
}

func (m *etcdClient) SetInTxn(ctx context.Context, keys []string, values [][]byte) error {
	return m.SetAll(ctx, keys, values) // one transaction, as few as they are
}

// Watches are those of a client of its own. In the in-process client, whose streams
// have no buffers, many watches that end one by one at the same time wait for the
// server, which waits for them; closing the client ends them at once.
func (m *etcdMember) Watches() watches { return &etcdWatches{client: v3client.New(m.etcd.Server)} }

type etcdWatches struct {
	client *clientv3.Client
	closed atomic.Bool
}

func (w *etcdWatches) Watch(key string, opened, changed func()) error {
	changes := w.client.Watch(w.client.Ctx(), key) // returns when the server has the watch
	opened()
	for r := range changes {
		if err := r.Err(); err != nil && !w.closed.Load() {
			return err
		}
		for range r.Events {
			changed()
		}
	}
	if !w.closed.Load() {
		return errors.New("the watch has ended")
	}
	return nil
}

func (w *etcdWatches) Close() error {
	w.closed.Store(true)
	return closeEtcdClient(w.client)
}

// Locks begins a session, whose lease is kept alive until it is closed. It has a
// client of its own for what Watches says: who waits for a lock watches a key.
func (m *etcdMember) Locks(context.Context) (locks, error) {
	client := v3client.New(m.etcd.Server)
	s, err := concurrency.NewSession(client)
	if err != nil {
		return nil, errors.Join(err, closeEtcdClient(client))
	}
	return etcdLocks{s}, nil
}

type etcdLocks struct{ session *concurrency.Session }

func (l etcdLocks) Lock(ctx context.Context, name string) (func(context.Context) error, error) {
	m := concurrency.NewMutex(l.session, name)
	if err := m.Lock(ctx); err != nil {
		return nil, err
	}
	return m.Unlock, nil
}

func (l etcdLocks) Close() error {
	return errors.Join(l.session.Close(), closeEtcdClient(l.session.Client()))
}

// closeEtcdClient leaves out what the in-process client says of being closed.
func closeEtcdClient(c *clientv3.Client) error {
	if err := c.Close(); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

func (m *etcdClient) Close() error { return closeEtcdClient(m.client) }

func (m *etcdMember) Close() error {
	err := m.etcdClient.Close()
	m.etcd.Close()
	return err
}
