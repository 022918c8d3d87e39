package rest

import (
	"net/http"
	"strings"

	"dkv/transport"
)

// ForServer returns a handler for the stores of a server, those too that it gets later,
// to be given to its StartHTTP, which closes it. A request shows its token as
// "Authorization: Bearer SECRET".
func ForServer(s *transport.Server) *Handler {
	h := NewHandler(nil)
	h.find, h.shards, h.checkHost = s.Shard, s.Shards, s.CheckHost
	h.Authorize = func(r *http.Request, a Access) error {
		_, access, err := s.Open(a.Shard, bearer(r))
		switch {
		case err != nil:
			return err
		case a.Info:
			return nil // whoever has a right to something of the shard
		case a.Prefix:
			return access.Prefix(a.Key, a.Write)
		}
		return access.Key(a.Key, a.Write)
	}
	return h
}

// bearer is the token that a request shows, "" if there is none.
func bearer(r *http.Request) transport.Secret {
	scheme, secret, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return transport.Secret(strings.TrimLeft(secret, " "))
}
