package raftnet

import (
	"context"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"net"
	"strings"
	"time"
)

// Security is how members make sure of each other, and keep what they say to
// themselves: TLS 1.3 with a certificate on both sides. nil is none of that.
type Security struct {
	conf *tls.Config

	// host is the name that the certificate of a member is for.
	host func(member string) string
}

// MutualTLS has each member show a certificate that is for its name, which a host name
// has to be then. conf has the member's own, and those that the others' are signed
// with in RootCAs, or in ClientCAs if the two are not the same. It is asked for anew for
// each connection: with GetCertificate, GetClientCertificate and GetConfigForClient in
// it, certificates are changed without a restart.
func MutualTLS(conf *tls.Config) (*Security, error) {
	switch {
	case len(conf.Certificates) == 0 && conf.GetCertificate == nil && conf.GetConfigForClient == nil:
		return nil, errors.New("it has no certificate")
	case len(conf.Certificates) == 0 && conf.GetClientCertificate == nil:
		return nil, errors.New("it has no certificate to show to the members that are dialled: GetClientCertificate is not set")
	case conf.InsecureSkipVerify:
		return nil, errors.New("InsecureSkipVerify is set: members would not know each other")
	case conf.RootCAs == nil:
		return nil, errors.New("RootCAs is not set: the certificates of members are signed by an authority of their own")
	}
	return &Security{conf: secure(conf, conf.RootCAs), host: func(member string) string { return member }}, nil
}

// secure returns conf with what has to be so for members. The authorities of those that
// dial are its ClientCAs, or else its RootCAs, or else roots: without any, whoever has a
// certificate of one that the system trusts would be let in.
func secure(conf *tls.Config, roots *x509.CertPool) *tls.Config {
	conf = conf.Clone()
	conf.MinVersion = tls.VersionTLS13
	conf.ClientAuth = tls.RequireAndVerifyClientCert
	conf.InsecureSkipVerify = false
	conf.SessionTicketsDisabled = true
	conf.NextProtos = []string{magic}
	conf.VerifyConnection = speaks(conf.VerifyConnection)
	if conf.ClientCAs == nil {
		conf.ClientCAs = conf.RootCAs
	}
	if conf.ClientCAs == nil {
		conf.ClientCAs = roots
	}
	roots = conf.ClientCAs
	if choose := conf.GetConfigForClient; choose != nil {
		conf.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			chosen, err := choose(hello)
			if chosen == nil || err != nil {
				return nil, err
			}
			return secure(chosen, roots), nil
		}
	}
	return conf
}

// speaks is a check that the other end has said that it speaks this protocol, which package
// tls does without: certificates may be for other protocols as well. Then comes the check
// that there was.
func speaks(verify func(tls.ConnectionState) error) func(tls.ConnectionState) error {
	return func(state tls.ConnectionState) error {
		if state.NegotiatedProtocol != magic {
			return fmt.Errorf("%w: it does not say that it speaks %s", errMalformed, magic)
		}
		if verify == nil {
			return nil
		}
		return verify(state)
	}
}

// MinSecret is how long a shared secret is at least, in bytes. Whoever can connect to a
// member can try secrets as fast as his own machine allows, so it has to be random.
const MinSecret = 16

// SharedSecret has members know each other by a secret that all of them have, without an
// authority for certificates: it is itself what the key of one is derived from, and each
// member signs a certificate for its own name with that, for a key that it makes up when
// it starts. So nothing of the secret is ever sent, nobody without it is listened to, and
// who learns it later cannot read what was said before.
func SharedSecret(secret []byte, name string) (*Security, error) {
	if len(secret) < MinSecret {
		return nil, fmt.Errorf("it has %d bytes, which is too short to be safe: it needs %d random ones at least", len(secret), MinSecret)
	}
	seed, err := hkdf.Key(sha256.New, secret, nil, "dkv: authority of the members of a group", ed25519.SeedSize)
	if err != nil {
		return nil, err
	}
	authority := ed25519.NewKeyFromSeed(seed)
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	signer := template("dkv group")
	signer.IsCA, signer.BasicConstraintsValid, signer.KeyUsage = true, true, x509.KeyUsageCertSign
	root, err := certificate(signer, signer, authority.Public(), authority)
	if err != nil {
		return nil, err
	}
	host := func(member string) string { return hex.EncodeToString([]byte(member)) + ".dkv" }
	own := template("dkv member")
	own.DNSNames, own.KeyUsage = []string{host(name)}, x509.KeyUsageDigitalSignature
	own.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	leaf, err := certificate(own, root, public, authority)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(root)
	conf := &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{leaf.Raw}, PrivateKey: private}},
		RootCAs:      roots,
	}
	return &Security{conf: secure(conf, roots), host: host}, nil
}

// template is what certificates have in common. They end with the process, so their
// time does not: members whose calendars differ know each other all the same.
func template(of string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: of},
		NotBefore:    time.Unix(0, 0),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), // RFC 5280: none
	}
}

func certificate(what, by *x509.Certificate, of any, with ed25519.PrivateKey) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, what, by, of, with)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// client is the connection of one who has dialled a member.
func (s *Security) client(ctx context.Context, c net.Conn, member string) (net.Conn, error) {
	if s == nil {
		return c, nil
	}
	conf := s.conf.Clone()
	conf.ServerName = s.host(Name(member))
	secure := tls.Client(c, conf)
	return secure, secure.HandshakeContext(ctx)
}

// clientOfAny is client for a member whose name is not known: check has to follow.
func (s *Security) clientOfAny(ctx context.Context, c net.Conn) (net.Conn, error) {
	if s == nil {
		return c, nil
	}
	conf := s.conf.Clone()
	conf.InsecureSkipVerify = true // what that skips is made up for here, but for the name
	verifyPeer, verify := conf.VerifyPeerCertificate, conf.VerifyConnection
	conf.VerifyPeerCertificate = nil
	conf.VerifyConnection = func(state tls.ConnectionState) (err error) {
		between := x509.NewCertPool()
		for _, cert := range state.PeerCertificates[1:] {
			between.AddCert(cert)
		}
		opts := x509.VerifyOptions{Roots: conf.RootCAs, Intermediates: between}
		if conf.Time != nil {
			opts.CurrentTime = conf.Time()
		}
		if state.VerifiedChains, err = state.PeerCertificates[0].Verify(opts); err != nil {
			return err
		}
		if verifyPeer != nil {
			var raw [][]byte
			for _, cert := range state.PeerCertificates {
				raw = append(raw, cert.Raw)
			}
			if err := verifyPeer(raw, state.VerifiedChains); err != nil {
				return err
			}
		}
		if verify != nil {
			return verify(state)
		}
		return nil
	}
	secure := tls.Client(c, conf)
	return secure, secure.HandshakeContext(ctx)
}

// server is the connection of one who was dialled.
func (s *Security) server(ctx context.Context, c net.Conn) (net.Conn, error) {
	if s == nil {
		return c, nil
	}
	secure := tls.Server(c, s.conf)
	return secure, secure.HandshakeContext(ctx)
}

// check makes sure that at the other end of what server or clientOfAny has returned is a
// member.
func (s *Security) check(c net.Conn, member string) error {
	if s == nil {
		return nil
	}
	peer := c.(*tls.Conn).ConnectionState().PeerCertificates[0]
	if err := peer.VerifyHostname(s.host(Name(member))); err != nil || strings.HasSuffix(Name(member), ".") {
		return fmt.Errorf("the certificate is not for the member %q", Name(member))
	}
	return nil
}
