package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"dkv"
	"dkv/transport"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// clientFlags say which shard of which servers a command is about.
type clientFlags struct {
	shard     uint64
	endpoints []string
	timeout   seconds
	tls       tlsFlags
	useTLS    bool
	insecure  bool
	token     secret
	codec     string
}

const (
	defaultEndpoint  = "localhost:8080"
	defaultShard     = 100
	defaultLockShard = 200
)

func (c *clientFlags) register(flags *pflag.FlagSet, shard uint64) {
	flags.Uint64Var(&c.shard, "shard", shard, "number of the shard")
	flags.StringSliceVar(&c.endpoints, "transport-endpoints", []string{defaultEndpoint},
		"the servers, as host:port, tcp://host:port, http://host:port or unix:///path, separated by commas; also --endpoints")
	secondsVar(flags, &c.timeout, "timeout", 5*time.Second, "how long to wait, as 10 or 10s")
	flags.Var(&c.token, "token", "what shows the servers who this is; better in DKV_TOKEN, where others do not see it")
	flags.BoolVar(&c.insecure, "insecure", false, "send the token to other hosts without encryption, for all on the way to see")
	flags.StringVar(&c.codec, "serializer", "binary", "form of the messages: binary, json or gob")
	flags.BoolVar(&c.useTLS, "tls", false, "encrypt connections; the --tls- flags imply it")
	c.tls.register(flags, "this client's certificate, if the servers want one", "the authorities that the servers' certificates are of; default: those of the system")
}

// open makes a client, which does not connect before it is used.
func (c *clientFlags) open() (*dkv.DB, error) {
	codec, err := transport.ParseCodec(c.codec)
	if err != nil {
		return nil, usage(fmt.Errorf("--serializer: %w", err))
	}
	endpoints := make([]string, len(c.endpoints))
	for i, e := range c.endpoints {
		var err error
		if endpoints[i], err = clientEndpoint(e); err != nil {
			return nil, fmt.Errorf("--transport-endpoints: %w", err)
		}
		if codec != transport.Binary && !strings.Contains(endpoints[i], "?") {
			endpoints[i] += "?codec=" + codec.String()
		}
	}
	conf, err := c.tls.client(c.useTLS)
	if err != nil {
		return nil, usage(err)
	}
	return dkv.Open(dkv.Options{Connect: endpoints, Shard: c.shard, Token: c.token.Secret, TLS: conf, Insecure: c.insecure})
}

// use has f use a client, which it closes.
func (c *clientFlags) use(f func(db *dkv.DB) error) error {
	db, err := c.open()
	if err != nil {
		return err
	}
	err = explain(f(db), c)
	if fault := db.Close(); err == nil {
		err = fault
	}
	return err
}

// do has f use a client for no longer than the timeout.
func (c *clientFlags) do(cmd *cobra.Command, f func(ctx context.Context, db *dkv.DB) error) error {
	return c.use(func(db *dkv.DB) error {
		ctx, cancel := c.limit(cmd.Context())
		defer cancel()
		return f(ctx, db)
	})
}

func (c *clientFlags) limit(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, time.Duration(c.timeout))
}

// ready waits until the servers answer, for no longer than the timeout: it comes
// before what may take as long as it will.
func (c *clientFlags) ready(ctx context.Context, db *dkv.DB) error {
	ctx, cancel := c.limit(ctx)
	defer cancel()
	return db.Ready(ctx)
}

// argument is an argument, or for "-" what stands on the standard input.
func argument(cmd *cobra.Command, arg string) ([]byte, error) {
	if arg != "-" {
		return []byte(arg), nil
	}
	value, err := io.ReadAll(io.LimitReader(cmd.InOrStdin(), dkv.MaxValueSize+1))
	if err == nil && len(value) > dkv.MaxValueSize {
		err = dkv.ErrValueTooLarge
	}
	return value, err
}
