package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

var natsSystem = &system{
	name:   "nats",
	module: "github.com/nats-io/nats-server/v2",
	note: "JetStream KV, embedded, three replicas, sync always, one in-process connection per member; " +
		"its Get may be answered by any replica, so it is not linearizable",
	netNote: "JetStream KV, embedded, three replicas, sync always, used by one connection over TCP; " +
		"its Get may be answered by any replica, so it is not linearizable",
	open: func(c memberConfig) (member, error) {
		host, port, err := hostPort(c.Raft[c.Node])
		if err != nil {
			return nil, err
		}
		clientHost, clientPort, err := hostPort(c.Client[c.Node])
		if err != nil {
			return nil, err
		}
		o := &server.Options{
			ServerName: c.Node,
			Host:       clientHost,
			Port:       clientPort,
			JetStream:  true,
			StoreDir:   c.Dir,
			SyncAlways: true,
			NoLog:      true,
			NoSigs:     true,
			Cluster:    server.ClusterOpts{Name: "bench", Host: host, Port: port},
		}
		for node, address := range c.Raft {
			if node != c.Node {
				o.Routes = append(o.Routes, &url.URL{Scheme: "nats-route", Host: address})
			}
		}
		s, err := server.NewServer(o)
		if err != nil {
			return nil, err
		}
		s.Start()
		m := &natsMember{server: s}
		if err := m.connect(); err != nil {
			return nil, errors.Join(err, m.Close())
		}
		return m, nil
	},
	connect: func(endpoints []string) (member, error) {
		conn, err := nats.Connect(strings.Join(addresses(endpoints), ","), nats.MaxReconnects(-1))
		if err != nil {
			return nil, err
		}
		return &natsClient{conn: conn}, nil
	},
}

const natsBucket = "bench"

type natsMember struct {
	server *server.Server
	natsClient
}

func (m *natsMember) connect() (err error) {
	const patience = 10 * time.Second
	if !m.server.ReadyForConnections(patience) {
		return errors.New("nats: not ready for connections")
	}
	m.conn, err = nats.Connect("", nats.InProcessServer(m.server), nats.MaxReconnects(-1))
	return err
}

func (m *natsMember) Leads() bool {
	return m.server.JetStreamIsStreamLeader(server.DEFAULT_GLOBAL_ACCOUNT, "KV_"+natsBucket)
}

func (m *natsMember) Close() error {
	if m.conn != nil {
		m.conn.Close()
	}
	m.server.Shutdown()
	m.server.WaitForShutdown()
	return nil
}

// natsClient is a client within the process of a member, or of servers elsewhere.
type natsClient struct {
	noMember
	conn *nats.Conn
	kv   atomic.Pointer[jetstream.KeyValue] // nil until Ready has found it
}

// Ready waits for the bucket, and makes it if it is not there yet.
func (m *natsClient) Ready(ctx context.Context) error {
	js, err := jetstream.New(m.conn)
	if err != nil {
		return err
	}
	for {
		err := m.ready(ctx, js)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (m *natsClient) ready(ctx context.Context, js jetstream.JetStream) error {
	// Until there is a leader some requests are not answered at all.
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	kv, err := js.KeyValue(ctx, natsBucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		kv, err = js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: natsBucket, Replicas: 3})
	}
	if err != nil {
		return err
	}
	if _, err = kv.Get(ctx, "ready"); err != nil && !errors.Is(err, jetstream.ErrKeyNotFound) {
		return err
	}
	m.kv.Store(&kv)
	return nil
}

func (m *natsClient) Set(ctx context.Context, key string, value []byte) error {
	_, err := (*m.kv.Load()).Put(ctx, key, value)
	return err
}

func (m *natsClient) Get(ctx context.Context, key string) ([]byte, bool, error) {
	e, err := (*m.kv.Load()).Get(ctx, key)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	return e.Value(), true, nil
}

func (m *natsClient) Close() error {
	m.conn.Close()
	return nil
}

func hostPort(address string) (string, int, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, err
	}
	n, err := strconv.Atoi(port)
	return host, n, err
}
