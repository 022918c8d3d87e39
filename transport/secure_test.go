package transport

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"dkv/lock"
	"dkv/store"
	"dkv/store/local"
)

// authority signs certificates.
type authority struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a.key = newKey(t)
	der, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// issue returns a certificate for 127.0.0.1, as servers and as clients have it.
func (a *authority) issue() tls.Certificate {
	a.t.Helper()
	key := newKey(a.t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// serveOn serves a store with the number 0 on an endpoint of the network, and returns
// the endpoint.
func serveOn(t *testing.T, network string, b Backend, opts ServerOptions, how ListenOptions) string {
	t.Helper()
	s := NewServer(opts)
	s.Handle(0, b)
	l, err := Listen(network+"://127.0.0.1:0", how)
	if err != nil {
		t.Fatal(err)
	}
	if network == "http" {
		s.StartHTTP(l, nil)
	} else {
		s.Start(l)
	}
	t.Cleanup(func() { s.Close() })
	return network + "://" + l.Addr().String()
}

// How long an attempt may take.
const (
	untilAnswered = 20 * time.Second       // it ends at once, well or with an error that is final
	inVain        = 500 * time.Millisecond // it goes on as long as it may
)

// try gets a key with a client of the endpoint.
func try(t *testing.T, limit time.Duration, opts ClientOptions) error {
	t.Helper()
	c, err := NewClient(opts)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	_, _, err = c.Get(ctx, "k")
	return err
}

func TestEncryptedConnections(t *testing.T) {
	s := local.Open(local.Options{})
	defer s.Close()
	ours, theirs := newAuthority(t), newAuthority(t)
	for _, network := range []string{"tcp", "http"} {
		oneWay := &tls.Config{Certificates: []tls.Certificate{ours.issue()}}
		mutual := oneWay.Clone()
		mutual.ClientAuth, mutual.ClientCAs = tls.RequireAndVerifyClientCert, ours.pool()
		for name, c := range map[string]struct {
			server, client *tls.Config
			good           bool
		}{
			"the authority is known":          {oneWay, &tls.Config{RootCAs: ours.pool()}, true},
			"it is another":                   {oneWay, &tls.Config{RootCAs: theirs.pool()}, false},
			"it is that of another host":      {oneWay, &tls.Config{RootCAs: ours.pool(), ServerName: "other"}, false},
			"the client does not encrypt":     {oneWay, nil, false},
			"the server does not":             {nil, &tls.Config{RootCAs: ours.pool()}, false},
			"the client has a certificate":    {mutual, &tls.Config{RootCAs: ours.pool(), Certificates: []tls.Certificate{ours.issue()}}, true},
			"the client has none":             {mutual, &tls.Config{RootCAs: ours.pool()}, false},
			"the client's is of another sign": {mutual, &tls.Config{RootCAs: ours.pool(), Certificates: []tls.Certificate{theirs.issue()}}, false},
		} {
			t.Run(network+"/"+name, func(t *testing.T) {
				endpoint := serveOn(t, network, s, ServerOptions{}, ListenOptions{TLS: c.server})
				limit := inVain
				if c.good {
					limit = untilAnswered
				}
				err := try(t, limit, ClientOptions{Endpoints: []string{endpoint}, TLS: c.client})
				if c.good && err != nil || !c.good && store.KindOf(err) != store.KindNotApplied {
					t.Fatal(err)
				}
			})
		}
	}
}

func TestOtherInterfacesThanLoopbackNeedEncryptionOrAWord(t *testing.T) {
	conf := &tls.Config{Certificates: []tls.Certificate{newAuthority(t).issue()}}
	for _, network := range []string{"tcp", "http"} {
		for _, host := range []string{"", "0.0.0.0", "[::]", "example.invalid"} {
			_, err := Listen(network+"://"+host+":0", ListenOptions{})
			if !errors.Is(err, store.ErrBadOptions) || !strings.Contains(err.Error(), "TLS") || !strings.Contains(err.Error(), "Insecure") {
				t.Errorf("%s, %q: %v", network, host, err)
			}
		}
	}
	for _, opts := range []ListenOptions{{TLS: conf}, {Insecure: true}} {
		l, err := Listen("tcp://:0", opts)
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
	}
}

func TestTokens(t *testing.T) {
	s := local.Open(local.Options{})
	defer s.Close()
	opts := ServerOptions{Tokens: []Token{
		{"everything", []Right{{AllShards: true, Write: true}}},
		{"reader", []Right{{Shard: 0}}},
		{"part", []Right{{Shard: 0, Prefix: "a/", Write: true}, {Shard: 0, Prefix: "b/"}}},
		{"elsewhere", []Right{{Shard: 7, Write: true}}},
	}}
	endpoint := serveOn(t, "tcp", s, opts, ListenOptions{})
	for secret, want := range map[Secret]error{
		"": store.ErrUnauthenticated, "wrong": store.ErrUnauthenticated, "elsewhere": store.ErrForbidden,
		"everything": nil, "reader": nil,
	} {
		if err := try(t, untilAnswered, ClientOptions{Endpoints: []string{endpoint}, Token: secret}); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", string(secret), err, want)
		} else if err != nil && secret != "" && strings.Contains(err.Error(), string(secret)) {
			t.Errorf("the error has the secret: %v", err)
		}
	}

	client := func(secret Secret) *Client {
		c, err := NewClient(ClientOptions{Endpoints: []string{endpoint}, Token: secret})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	ctx := background(t)
	all, reader, part := client("everything"), client("reader"), client("part")
	for _, key := range []string{"a/k", "b/k", "c/k"} {
		if err := all.Set(ctx, key, []byte("v")); err != nil {
			t.Fatal(err)
		}
	}
	txn := func(c *Client, t store.Txn) error {
		_, err := c.Txn(ctx, t)
		return err
	}
	scan := func(c *Client, prefix string) error {
		for _, err := range c.Scan(ctx, store.Range{Prefix: prefix}) {
			if err != nil {
				return err
			}
		}
		return nil
	}
	watch := func(c *Client, w store.Watch) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		_, err := c.Watch(ctx, w)
		return err
	}
	get := func(c *Client, key string) error {
		_, _, err := c.Get(ctx, key)
		return err
	}
	acquire := func(c *Client, key string) error {
		_, _, err := lock.New(c).Acquire(ctx, key, time.Minute)
		return err
	}
	info := func(c *Client) error {
		_, err := c.Info(ctx)
		return err
	}
	for name, c := range map[string]struct {
		err     error
		allowed bool
	}{
		"reader reads":                   {get(reader, "a/k"), true},
		"reader scans everything":        {scan(reader, ""), true},
		"reader asks for info":           {info(reader), true},
		"reader writes":                  {reader.Set(ctx, "k", nil), false},
		"reader deletes":                 {reader.Delete(ctx, "k"), false},
		"reader takes a lock":            {acquire(reader, "l"), false},
		"reader reads in a transaction":  {txn(reader, store.Txn{Then: []store.Op{store.OpGet("c/k")}}), true},
		"reader writes in a transaction": {txn(reader, store.Txn{Else: []store.Op{store.OpDelete("c/k")}}), false},
		"part writes its own":            {part.Set(ctx, "a/k", nil), true},
		"part reads its own":             {get(part, "b/k"), true},
		"part writes what it may read":   {part.Set(ctx, "b/k", nil), false},
		"part reads another's":           {get(part, "c/k"), false},
		"part writes another's":          {part.Set(ctx, "c/k", nil), false},
		"part takes its own lock":        {acquire(part, "a/l"), true},
		"part takes another's lock":      {acquire(part, "c/l"), false},
		"part scans its own":             {scan(part, "a/"), true},
		"part scans a part of its own":   {scan(part, "b/k"), true},
		"part scans everything":          {scan(part, ""), false},
		"part watches a key of its own":  {watch(part, store.Watch{Key: "a/k"}), true},
		"part watches its own":           {watch(part, store.Watch{Prefix: "a/"}), true},
		"part watches everything":        {watch(part, store.Watch{}), false},
		"part watches another's":         {watch(part, store.Watch{Key: "c/k"}), false},
		"part has its own depend on another's": {txn(part, store.Txn{
			If: []store.Cond{store.IfExists("c/k")}, Then: []store.Op{store.OpSet("a/k", nil)},
		}), false},
	} {
		if c.allowed && c.err != nil || !c.allowed && !errors.Is(c.err, store.ErrForbidden) {
			t.Errorf("%s: %v", name, c.err)
		}
	}
	if _, ok, err := all.Get(ctx, "c/k"); !ok || err != nil {
		t.Errorf("what was forbidden has happened: %t, %v", ok, err)
	}
}

// TestWhoMayWriteNothingMayNotEnrol: enrolments have the store forget those of others.
func TestWhoMayWriteNothingMayNotEnrol(t *testing.T) {
	s := local.Open(local.Options{})
	defer s.Close()
	endpoint := serveOn(t, "tcp", s, ServerOptions{Tokens: []Token{
		{"reader", []Right{{}, {Prefix: "a/"}}},
		{"writer elsewhere", []Right{{}, {Shard: 7, Write: true}}},
		{"writer", []Right{{}, {Prefix: "a/", Write: true}}},
	}}, ListenOptions{})
	ctx := background(t)
	for secret, want := range map[Secret]error{
		"reader": store.ErrForbidden, "writer elsewhere": store.ErrForbidden, "writer": nil,
	} {
		c, err := NewClient(ClientOptions{Endpoints: []string{endpoint}, Token: secret})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Enrol(ctx, 1); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", string(secret), err, want)
		}
		// What only reads needs no enrolment.
		if _, err := c.Txn(ctx, store.Txn{Then: []store.Op{store.OpGet("k")}}); err != nil {
			t.Errorf("%q: %v", string(secret), err)
		}
	}
}

func TestSecretsDoNotPrint(t *testing.T) {
	const secret = "swordfish"
	token := Token{Secret: secret, Rights: []Right{{Prefix: "p"}}}
	opts := ClientOptions{Endpoints: []string{"tcp://127.0.0.1:1"}, Token: secret}
	client, err := NewClient(opts)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server := NewServer(ServerOptions{Tokens: []Token{token}})
	defer server.Close()
	var out strings.Builder
	for _, v := range []any{Secret(secret), token, &token, opts, []Token{token}, client, server} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x", "%#x", "% X", "%t", "%c", "%20.3v"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		slog.New(slog.NewTextHandler(&out, nil)).Info("it", "v", v)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("it", "v", v)
	}
	j, err := json.Marshal(token)
	if err != nil {
		t.Fatal(err)
	}
	out.Write(j)
	for _, form := range []string{"%s", "%x", "%X", "% x", "% X", "%d", "%c"} {
		if form := fmt.Sprintf(form, []byte(secret)); strings.Contains(out.String(), form) {
			t.Errorf("there is %q in %s", form, out.String())
		}
	}
}

func TestHTTPListenerAnswersBoth(t *testing.T) {
	s := local.Open(local.Options{})
	defer s.Close()
	server := newServer(s)
	l, err := Listen("http://127.0.0.1:0", ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	server.StartHTTP(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello "+r.URL.Path) }))
	defer server.Close()
	url := "http://" + l.Addr().String()
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	for path, want := range map[string]string{"/x": "200 hello /x", ConnectPath: "426 ask for it with the header Upgrade: dkv\n"} {
		resp, err := client.Get(url + path)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if got := fmt.Sprint(resp.StatusCode, " ", string(body)); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
	if err := try(t, untilAnswered, ClientOptions{Endpoints: []string{url}}); err != nil {
		t.Fatal(err)
	}
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	for tries := 1; ; tries++ { // on a busy machine there may be no answer in time
		err := try(t, inVain, ClientOptions{Endpoints: []string{other.URL}})
		named := err != nil && strings.Contains(err.Error(), "404")
		if !errors.Is(err, store.ErrUnavailable) || !named && tries == 5 {
			t.Errorf("another's HTTP server: %v", err)
		} else if !named {
			continue
		}
		break
	}
}
