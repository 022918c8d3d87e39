package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"dkv/store"
)

// metered is a connection that counts what is written to it. It has the methods of a
// net.TCPConn, that which gives its file descriptor away among them.
type metered struct {
	*net.TCPConn
	written *atomic.Int64
}

func (c metered) Write(b []byte) (int, error) {
	c.written.Add(int64(len(b)))
	return c.TCPConn.Write(b)
}

func TestConnectionsOfDialAreWrittenToByTheirOwnWrite(t *testing.T) {
	var written atomic.Int64
	c, err := NewClient(ClientOptions{
		Endpoints: []string{serve(t, "tcp://127.0.0.1:0")},
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return metered{conn.(*net.TCPConn), &written}, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx := background(t)
	for _, size := range []int{10, 5000, 100 << 10} {
		before := written.Load()
		if err := c.Set(ctx, "k", make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		if n := written.Load() - before; n < int64(size) {
			t.Errorf("of a value of %d bytes, Write has seen %d", size, n)
		}
	}
}

func TestTokensAreNotSentToOtherHostsInTheClear(t *testing.T) {
	const secret = "swordfish"
	for _, c := range []struct {
		endpoint string
		opts     ClientOptions
		good     bool
	}{
		{"tcp://127.0.0.1:1", ClientOptions{Token: secret}, true},
		{"tcp://[::1]:1", ClientOptions{Token: secret}, true},
		{"http://localhost:1", ClientOptions{Token: secret}, true},
		{"unix:///s", ClientOptions{Token: secret}, true},
		{"tcp://192.0.2.1:1", ClientOptions{Token: secret}, false},
		{"tcp://192.0.2.1:1?codec=json", ClientOptions{Token: secret}, false},
		{"http://192.0.2.1:1", ClientOptions{Token: secret}, false},
		{"tcp://example.invalid:1", ClientOptions{Token: secret}, false},
		{"tcp://127.0.0.1.example.invalid:1", ClientOptions{Token: secret}, false},
		{"tcp://192.0.2.1:1", ClientOptions{}, true},
		{"tcp://192.0.2.1:1", ClientOptions{Token: secret, TLS: new(tls.Config)}, true},
		{"http://192.0.2.1:1", ClientOptions{Token: secret, TLS: new(tls.Config)}, true},
		{"tcp://192.0.2.1:1", ClientOptions{Token: secret, Insecure: true}, true},
	} {
		c.opts.Endpoints = []string{"tcp://127.0.0.1:1", c.endpoint}
		client, err := NewClient(c.opts)
		if err == nil {
			client.Close()
		}
		if c.good && err != nil || !c.good && (!errors.Is(err, store.ErrBadOptions) || !strings.Contains(err.Error(), "TLS")) {
			t.Errorf("%s, token: %t, TLS: %t, Insecure: %t: %v", c.endpoint, c.opts.Token != "", c.opts.TLS != nil, c.opts.Insecure, err)
		}
		if err != nil && strings.Contains(err.Error(), secret) {
			t.Errorf("the error has the secret: %v", err)
		}
	}
}
