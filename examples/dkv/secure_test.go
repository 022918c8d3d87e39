package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// certificate writes one that is its own authority, and its key.
func certificate(t *testing.T, dir string) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		NotAfter:              time.Now().Add(time.Hour),
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	public, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "cert"), filepath.Join(dir, "key")
	write(t, cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: public}))
	write(t, key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}))
	return cert, key
}

func write(t *testing.T, file string, text []byte) {
	t.Helper()
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestTokensAndCertificatesKeepStrangersOut(t *testing.T) {
	dir := t.TempDir()
	cert, key := certificate(t, dir)
	tokens := filepath.Join(dir, "tokens")
	write(t, tokens, []byte(`[
		{"token": "s3cret-all", "rights": [{"write": true}]},
		{"token": "s3cret-app", "rights": [{"shard": 100, "prefix": "app/"}]}
	]`))
	s := serve(t, "--tls-cert="+cert, "--tls-key="+key, "--tls-ca="+cert, "--tokens-file="+tokens, "--log-level=debug")
	with := []string{"--tls-ca=" + cert, "--tls-cert=" + cert, "--tls-key=" + key, "--timeout=20"}
	for _, c := range []struct {
		token, args string
		flags       []string
		stdout      string
		code        int
		stderr      string
	}{
		{"s3cret-all", "kv set app/a x", with, "set=true\n", 0, ""},
		{"s3cret-app", "kv get app/a", with, "found=true, value=x\n", 0, ""},
		{"s3cret-app", "kv set app/a x", with, "", 2, "forbidden"},
		{"s3cret-app", "kv get b", with, "", 2, "forbidden"},
		{"s3cret-app", "lock acquire a", with, "", 2, "forbidden"},
		{"s3cret-not", "kv get app/a", with, "", 2, "--token"},
		{"", "kv get app/a", with, "", 2, "not authenticated"},
		{"s3cret-all", "kv get app/a --timeout 2", with[:1], "", 3, "certificate"}, // has none
		{"s3cret-all", "kv get app/a --timeout 2", []string{"--tls"}, "", 3, "certificate"},
		{"s3cret-all", "kv get app/a --timeout 0.3", nil, "", 3, "unavailable"},
	} {
		args := append(strings.Fields(c.args), c.flags...)
		cmd := command(t, append(args, "--endpoints="+s.endpoint)...)
		cmd.Env = append(cmd.Env, "DKV_TOKEN="+c.token)
		o := finish(t, cmd)
		if o.stdout != c.stdout || o.code != c.code || !strings.Contains(o.stderr, c.stderr) || strings.Contains(o.stderr, "s3cret") {
			t.Errorf("%s as %q: %+v, want %+v", c.args, c.token, o, c)
		}
	}
	if s.stop(); strings.Contains(s.log.String(), "s3cret") {
		t.Errorf("the log has a secret:\n%s", s.log.String())
	}
}

func TestHTTPEndpointsAnswerPlainClientsToo(t *testing.T) {
	s := serve(t, "--transport=http")
	expect(t, "set=true", 0, "kv", "set", "--endpoints="+s.endpoint, "foo", "bar")
	resp, err := http.Get(s.endpoint + "/v1/shards/100/keys/foo")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); string(body) != "bar" || err != nil {
		t.Errorf("GET: %q, %v", body, err)
	}
}
