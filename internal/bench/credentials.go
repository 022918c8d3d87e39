package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"math/big"
	"time"

	"dkv"
	"dkv/internal/raftnet"
)

// credentials are how a member makes sure of the others: by a secret, or by a certificate.
// They go from process to process.
type credentials struct {
	Secret           string `json:",omitempty"`
	Cert, Key, Roots []byte `json:",omitempty"` // PEM
}

func (c *credentials) set(o *dkv.Options) (err error) {
	switch {
	case c == nil:
	case c.Secret != "":
		o.PeerSecret = dkv.Secret(c.Secret)
	default:
		o.PeerTLS, err = c.config()
	}
	return err
}

// security is that of a member with a name.
func (c *credentials) security(name string) (*raftnet.Security, error) {
	switch {
	case c == nil:
		return nil, nil
	case c.Secret != "":
		return raftnet.SharedSecret([]byte(c.Secret), name)
	}
	conf, err := c.config()
	if err != nil {
		return nil, err
	}
	return raftnet.MutualTLS(conf)
}

func (c *credentials) config() (*tls.Config, error) {
	cert, err := tls.X509KeyPair(c.Cert, c.Key)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(c.Roots) {
		return nil, errors.New("no roots")
	}
	return &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: roots}, nil
}

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
	host func(member string) string // the name that a member's certificate is for
}

const authorityName = "dkv group" // as that of a shared secret has it

func newAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return (&authority{key: key, host: func(member string) string { return member }}).sign()
}

// secretAuthority is what those who have a secret derive from it.
func secretAuthority(secret string) (*authority, error) {
	seed, err := hkdf.Key(sha256.New, []byte(secret), nil, "dkv: authority of the members of a group", ed25519.SeedSize)
	if err != nil {
		return nil, err
	}
	return (&authority{
		key:  ed25519.NewKeyFromSeed(seed),
		host: func(member string) string { return hex.EncodeToString([]byte(member)) + ".dkv" },
	}).sign()
}

// sign makes the authority's own certificate.
func (a *authority) sign() (*authority, error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: authorityName},
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	if err != nil {
		return nil, err
	}
	a.cert, err = x509.ParseCertificate(der)
	return a, err
}

// issue makes a certificate for a member.
func (a *authority) issue(member string, change func(*x509.Certificate)) (*credentials, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), DNSNames: []string{a.host(member)},
		NotBefore: time.Now().Add(-12 * time.Hour), NotAfter: time.Now().Add(12 * time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if change != nil {
		change(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return nil, err
	}
	bits, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return &credentials{
		Cert:  pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		Key:   pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: bits}),
		Roots: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}),
	}, nil
}

// The ways in which a certificate is not good.
func expired(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Hour) }
func forClients(c *x509.Certificate) {
	c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
}
func forServers(c *x509.Certificate) {
	c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
}
