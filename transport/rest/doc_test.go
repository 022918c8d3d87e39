package rest

import (
	"go/parser"
	"go/token"
	"strconv"
	"strings"
	"testing"

	"dkv/transport"
)

// example is a curl command of the package's documentation and what it says comes
// back.
type example struct {
	command string
	status  int
	body    []string // its first lines, if any are shown
}

func examples(t *testing.T) (all []example) {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), "doc.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.SplitSeq(f.Doc.Text(), "\n") {
		line, shown := strings.CutPrefix(line, "\t")
		if !shown {
			continue
		}
		if strings.HasPrefix(line, "curl ") {
			all = append(all, example{command: line})
			continue
		}
		last := &all[len(all)-1]
		line, ok := strings.CutPrefix(line, "# ")
		if !ok {
			t.Fatalf("%q is neither a command nor what comes back", line)
		}
		if last.status == 0 {
			status, rest, _ := strings.Cut(line, " ")
			last.status, err = strconv.Atoi(status)
			if err != nil {
				t.Fatal(err)
			}
			if line = rest; line == "" {
				continue
			}
		}
		last.body = append(last.body, line)
	}
	return all
}

// words splits a command as a shell does that knows single quotes.
func words(command string) (all []string) {
	for i, part := range strings.Split(command, "'") {
		if i%2 == 1 {
			all = append(all, part)
		} else {
			all = append(all, strings.Fields(part)...)
		}
	}
	return all
}

func TestExamplesOfTheDocumentation(t *testing.T) {
	t.Run("memory", func(t *testing.T) { runExamples(t, memory(t)) })
	t.Run("client", func(t *testing.T) {
		endpoint := "unix://" + t.TempDir() + "/s"
		l, err := transport.Listen(endpoint, transport.ListenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		server := transport.NewServer(transport.ServerOptions{})
		server.Handle(0, memory(t))
		t.Cleanup(func() { server.Close() })
		server.Start(l)
		c, err := transport.NewClient(transport.ClientOptions{Endpoints: []string{endpoint}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		runExamples(t, c)
	})
}

func runExamples(t *testing.T, b transport.Backend) {
	s := open(t, nil, b)
	watching := s.watch("") // so that the example of a watch has something to show
	defer watching.stop()
	all := examples(t)
	if len(all) < 20 {
		t.Fatalf("%d examples", len(all))
	}
	owner := "OWNER"
	for _, e := range all {
		method, body, target, headers, endless := "GET", "", "", []string{"X: y"}, false
		args := words(strings.ReplaceAll(e.command, "OWNER", owner))[1:]
		for i := 0; i < len(args); i++ {
			switch args[i] {
			case "-X":
				i++
				method = args[i]
			case "-H":
				i++
				headers = append(headers, args[i])
			case "-d", "--data-binary":
				i++
				body = args[i]
			case "-i":
			case "-N":
				endless = true
			default:
				var ok bool
				if target, ok = strings.CutPrefix(args[i], "localhost:8080"); !ok {
					t.Fatalf("%s: what is %q?", e.command, args[i])
				}
			}
		}
		want := strings.Join(e.body, "\n")
		var r reply
		if endless {
			r.status = 200
			_, query, _ := strings.Cut(target, "?")
			w := s.watch(query)
			var lines []string
			for range e.body {
				line, err := w.r.ReadString('\n')
				if err != nil {
					t.Fatal(err)
				}
				lines = append(lines, strings.TrimSpace(line))
			}
			r.body = strings.Join(lines, "\n")
			w.stop()
		} else {
			r = s.do(method, target, body, headers...)
		}
		if strings.Contains(want, "OWNER") && owner == "OWNER" {
			var got taken
			r.decode(t, &got)
			owner = got.Owner.String()
		}
		want = strings.ReplaceAll(want, "OWNER", owner)
		if r.status != e.status || want != "" && strings.TrimSpace(r.body) != want {
			t.Errorf("%s\n%d %s, want\n%d %s", e.command, r.status, r.body, e.status, want)
		}
	}
}
