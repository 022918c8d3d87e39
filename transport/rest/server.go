package rest

import (
	"net/http"
	"strings"

	"dkv/transport"
)

// ForServer returns a handler for the stores of a server, to be given to its StartHTTP,
// which closes it. A request shows its token as "Authorization: Bearer SECRET".
func ForServer(s *transport.Server) *Handler {
	h := NewHandler(s.Shards())
	h.Authorize = func(r *http.Request, a Access) error {
		secret, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		_, access, err := s.Open(a.Shard, transport.Secret(secret))
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
