package transport

import (
	"testing"

	"dkv/store"
	"dkv/store/local"
	"dkv/store/storetest"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve opens a store in memory and a server of it, and returns the endpoint.
func serve(t *testing.T, endpoint string) string {
	t.Helper()
	s := local.Open(local.Options{})
	server := NewServer(s)
	l, err := Listen(endpoint)
	if err != nil {
		t.Fatal(err)
	}
	server.Start(l)
	t.Cleanup(func() {
		server.Close()
		s.Close()
	})
	if l.Addr().Network() == "tcp" {
		return "tcp://" + l.Addr().String()
	}
	return endpoint
}

func connect(t *testing.T, endpoints ...string) *Client {
	t.Helper()
	c, err := NewClient(endpoints)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestConformanceOfClients(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			storetest.Run(t, storetest.Harness{Open: func(t *testing.T) []store.Store {
				endpoint := "tcp://127.0.0.1:0"
				if network == "unix" {
					endpoint = "unix://" + t.TempDir() + "/s"
				}
				endpoint = serve(t, endpoint)
				return []store.Store{connect(t, endpoint), connect(t, endpoint)}
			}})
		})
	}
}
