package transport

import (
	"bytes"
	"os/exec"
	"strings"
	"testing"

	"dkv/store/local"
)

// TestPythonClientOfThePageWorks runs testdata/client.py, which uses nothing but what
// PROTOCOL.md says, against servers of all networks and of both kinds of stores: those
// that answer at once, and those that may wait.
func TestPythonClientOfThePageWorks(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("there is no python3 in PATH, so the client in Python is not run")
	}
	for name, wrap := range map[string]func(*local.Store) Backend{
		"prompt":  func(s *local.Store) Backend { return s },
		"waiting": func(s *local.Store) Backend { return behindBarrier{waits{s}} },
	} {
		for _, network := range []string{"tcp", "unix", "http"} {
			t.Run(name+"/"+network, func(t *testing.T) {
				s := local.Open(local.Options{})
				t.Cleanup(func() { s.Close() })
				server := NewServer(ServerOptions{Tokens: []Token{{Secret: "open sesame", Rights: []Right{{AllShards: true, Write: true}}}}})
				t.Cleanup(func() { server.Close() })
				server.Handle(3, wrap(s))
				endpoint := network + "://127.0.0.1:0"
				if network == "unix" {
					endpoint = "unix://" + t.TempDir() + "/s"
				}
				l, err := Listen(endpoint, ListenOptions{})
				if err != nil {
					t.Fatal(err)
				}
				if network == "http" {
					server.StartHTTP(l, nil)
				} else {
					server.Start(l)
				}
				if network != "unix" {
					endpoint = network + "://" + l.Addr().String()
				}
				out, err := exec.CommandContext(background(t), python, "testdata/client.py", endpoint, "3", "open sesame").CombinedOutput()
				if err != nil || strings.TrimSpace(string(out)) != "ok" {
					t.Fatalf("%v\n%s", err, out)
				}
				// It was this store that it wrote to.
				if value, ok, err := s.Get(background(t), "py/once"); err != nil || !ok || !bytes.Equal(value, []byte("1")) {
					t.Errorf("%q, %t, %v", value, ok, err)
				}
			})
		}
	}
}
