package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

const (
	netBaseline  = "redis"
	redisProgram = "redis-server" // in PATH
)

var redisSystem = &system{
	name:   netBaseline,
	module: "github.com/redis/rueidis",
	note:   "the client, default options but for its cache, which is off; the server writes nothing to the disk",
	connect: func(endpoints []string) (member, error) {
		network, address := address(endpoints[0])
		c, err := rueidis.NewClient(rueidis.ClientOption{
			InitAddress:       []string{address},
			ForceSingleClient: true, // it is no cluster
			DisableCache:      true,
			DialCtxFn: func(ctx context.Context, to string, d *net.Dialer, _ *tls.Config) (net.Conn, error) {
				return d.DialContext(ctx, network, to)
			},
		})
		if err != nil {
			return nil, err
		}
		return &redisClient{client: c}, nil
	},
	dial:   dialRedis,
	serve:  startRedis,
	server: redisVersion,
}

// redisVersion is what the server says of itself; empty if it is not in PATH.
func redisVersion() string {
	out, err := exec.Command(redisProgram, "--version").Output()
	if err != nil {
		return ""
	}
	for f := range strings.FieldsSeq(string(out)) {
		if v, ok := strings.CutPrefix(f, "v="); ok {
			return redisProgram + " " + v
		}
	}
	return redisProgram
}

// dialRedis opens a connection and has a PING answered.
func dialRedis(endpoint string) (io.Closer, error) {
	network, to := address(endpoint)
	conn, err := net.Dial(network, to)
	if err != nil {
		return nil, err
	}
	if _, err = conn.Write([]byte("PING\r\n")); err == nil {
		var line string
		line, err = bufio.NewReader(conn).ReadString('\n')
		if err == nil && line != "+PONG\r\n" {
			err = fmt.Errorf("redis answers %q", line)
		}
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// startRedis starts a server and waits until it answers.
func startRedis(ctx context.Context, c memberConfig) (*netServer, error) {
	args := []string{"--save", "", "--appendonly", "no", "--daemonize", "no", "--dir", os.TempDir(), "--port", "0"}
	for _, e := range c.Listen {
		network, address := address(e)
		if network == "unix" {
			args = append(args, "--unixsocket", address)
			continue
		}
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		args = append(args, "--bind", host, "--port", port)
	}
	var said lastWords
	cmd := exec.CommandContext(ctx, redisProgram, args...)
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		cmd.Wait()
	}()
	s := &netServer{pid: cmd.Process.Pid, end: func() {
		cmd.Process.Kill()
		<-exited
	}}
	for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		conn, err := dialRedis(c.Listen[0])
		if err == nil {
			return s, conn.Close()
		}
		select {
		case <-exited:
		default:
			if time.Since(began) < readyPatience {
				continue
			}
		}
		s.end()
		return nil, fmt.Errorf("%s: %w: %s", redisProgram, err, said.String())
	}
}

type redisClient struct {
	noMember
	client rueidis.Client
}

func (m *redisClient) Ready(ctx context.Context) error {
	return m.client.Do(ctx, m.client.B().Ping().Build()).Error()
}

func (m *redisClient) Set(ctx context.Context, key string, value []byte) error {
	return m.client.Do(ctx, m.client.B().Set().Key(key).Value(rueidis.BinaryString(value)).Build()).Error()
}

func (m *redisClient) Get(ctx context.Context, key string) ([]byte, bool, error) {
	value, err := m.client.Do(ctx, m.client.B().Get().Key(key).Build()).AsBytes()
	if rueidis.IsRedisNil(err) {
		return nil, false, nil
	}
	return value, err == nil, err
}

func (m *redisClient) Close() error {
	m.client.Close()
	return nil
}
