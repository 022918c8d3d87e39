package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"dkv"

	"github.com/spf13/pflag"
)

// tlsFlags are files in PEM form.
type tlsFlags struct{ cert, key, ca string }

func (t *tlsFlags) register(flags *pflag.FlagSet, own, others string) {
	flags.StringVar(&t.cert, "tls-cert", "", "`file` of "+own)
	flags.StringVar(&t.key, "tls-key", "", "`file` of the certificate's private key")
	flags.StringVar(&t.ca, "tls-ca", "", "`file` of "+others)
}

// load reads the files. own is nil without a certificate, and others without
// authorities.
func (t *tlsFlags) load() (own []tls.Certificate, others *x509.CertPool, err error) {
	if (t.cert == "") != (t.key == "") {
		return nil, nil, errors.New("--tls-cert and --tls-key go together")
	}
	if t.cert != "" {
		pair, err := tls.LoadX509KeyPair(t.cert, t.key)
		if err != nil {
			return nil, nil, fmt.Errorf("--tls-cert, --tls-key: %w", err)
		}
		own = []tls.Certificate{pair}
	}
	if t.ca != "" {
		text, err := os.ReadFile(t.ca)
		if err != nil {
			return nil, nil, fmt.Errorf("--tls-ca: %w", err)
		}
		others = x509.NewCertPool()
		if !others.AppendCertsFromPEM(text) {
			return nil, nil, fmt.Errorf("--tls-ca: there is no certificate in %s", t.ca)
		}
	}
	return own, others, nil
}

// server is nil if there is to be no TLS.
func (t *tlsFlags) server() (*tls.Config, error) {
	own, clients, err := t.load()
	switch {
	case err != nil:
		return nil, err
	case own == nil && clients != nil:
		return nil, errors.New("--tls-ca goes with --tls-cert and --tls-key")
	case own == nil:
		return nil, nil
	}
	conf := &tls.Config{Certificates: own}
	if clients != nil {
		conf.ClientAuth, conf.ClientCAs = tls.RequireAndVerifyClientCert, clients
	}
	return conf, nil
}

// client is nil if there is to be no TLS.
func (t *tlsFlags) client(wanted bool) (*tls.Config, error) {
	own, servers, err := t.load()
	if err != nil || !wanted && own == nil && servers == nil {
		return nil, err
	}
	return &tls.Config{Certificates: own, RootCAs: servers}, nil
}

// secret is a flag whose value is not shown.
type secret struct{ dkv.Secret }

func (s *secret) Set(text string) error {
	s.Secret = dkv.Secret(text)
	return nil
}

func (secret) Type() string { return "secret" }

// jsonToken is a token as it stands in a file.
type jsonToken struct {
	Token  string `json:"token"`
	Rights []struct {
		Shard  *uint64 `json:"shard"` // none: all
		Prefix string  `json:"prefix"`
		Write  bool    `json:"write"`
	} `json:"rights"`
}

// parseTokens reads tokens. No error has a part of the text.
func parseTokens(text []byte) ([]dkv.Token, error) {
	var in []jsonToken
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil {
		return nil, fmt.Errorf("it is not a list of tokens with rights, as the help of serve has it (at byte %d)", d.InputOffset())
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("there is something behind the list")
	}
	if len(in) == 0 {
		return nil, errors.New("there is no token in it")
	}
	var tokens []dkv.Token
	for i, t := range in {
		if t.Token == "" || len(t.Rights) == 0 {
			return nil, fmt.Errorf("token %d is empty, or has no right", i+1)
		}
		token := dkv.Token{Secret: dkv.Secret(t.Token)}
		for _, r := range t.Rights {
			right := dkv.Right{AllShards: r.Shard == nil, Prefix: r.Prefix, Write: r.Write}
			if r.Shard != nil {
				right.Shard = *r.Shard
			}
			token.Rights = append(token.Rights, right)
		}
		tokens = append(tokens, token)
	}
	return tokens, nil
}

// loadTokens are those of a file, and one that may do everything, if they are given.
func loadTokens(file string, all dkv.Secret) ([]dkv.Token, error) {
	var tokens []dkv.Token
	if file != "" {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		if tokens, err = parseTokens(text); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
	}
	if all != "" {
		tokens = append(tokens, dkv.Token{Secret: all, Rights: []dkv.Right{{AllShards: true, Write: true}}})
	}
	return tokens, nil
}
