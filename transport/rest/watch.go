package rest

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"dkv/store"
	"dkv/store/engine"
)

const (
	heartbeat    = 15 * time.Second // of a watch that has nothing to show
	pollBytes    = 256 << 10        // events that are taken from the store at a time
	pollGrace    = 5 * time.Second  // for a store to begin a poll
	writeBytes   = 64 << 10         // written at a time
	writeTimeout = 5 * time.Second  // for a client to take that
)

// event is a store.Event as JSON has it.
type event struct {
	key
	Value      []byte         `json:"value,omitzero"` // what the key was set to
	Revision   store.Revision `json:"revision"`
	ByDeadline bool           `json:"byDeadline,omitempty"`
}

// watch answers with server-sent events. It polls, so that between events it can tell
// the client how far it has looked, and a client that resumes later need not ask for
// what is long forgotten.
func watch(ctx context.Context, c *call) (*answer, error) {
	what := store.Watch{Key: c.params.text("key"), Prefix: c.params.text("prefix")}
	what.From = store.Revision(c.params.number("from"))
	if c.params.err != nil {
		return nil, c.params.err
	}
	if last := c.r.Header.Get("Last-Event-ID"); last != "" {
		n, err := strconv.ParseUint(last, 10, 64)
		if err != nil || n+1 == 0 {
			return nil, badRequest("bad Last-Event-ID %.60q", last)
		}
		what.From = store.Revision(n + 1)
	}
	if err := what.Check(); err != nil {
		return nil, err
	}
	access := Access{Key: what.Key}
	if what.Key == "" {
		access = Access{Key: what.Prefix, Prefix: true}
	}
	if err := c.authorize(access); err != nil {
		return nil, err
	}
	// The first poll finds out whether there is something amiss, while there can
	// still be a status.
	events, next, err := c.store.Poll(ctx, engine.Keys, what, 0, pollBytes)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(c.r.Context())
	defer cancel()
	defer context.AfterFunc(c.waitCtx, cancel)()
	s := newStream(ctx, c.w)
	defer s.end()
	for s.events(events, next) == nil && ctx.Err() == nil {
		what.From = next
		events, next, err = poll(ctx, c, what)
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			_, p := describe(err)
			s.send(fmt.Appendf(nil, "event: error\ndata: %s\n", encode(p)))
			break
		}
	}
	return nil, nil
}

// poll waits for events, for no longer than a heartbeat.
func poll(ctx context.Context, c *call, what store.Watch) ([]store.Event, store.Revision, error) {
	ctx, cancel := context.WithTimeout(ctx, c.heartbeat+pollGrace)
	defer cancel()
	return c.store.Poll(ctx, engine.Keys, what, c.heartbeat, pollBytes)
}

// stream is a response of server-sent events.
type stream struct {
	ctx     context.Context
	w       http.ResponseWriter
	control *http.ResponseController
	buf     bytes.Buffer
}

func newStream(ctx context.Context, w http.ResponseWriter) *stream {
	s := &stream{ctx: ctx, w: w, control: http.NewResponseController(w)}
	// A deadline for reading the request, which is over, would end the watch.
	s.control.SetReadDeadline(time.Time{})
	header := w.Header()
	header.Set("Content-Type", "text/event-stream")
	header.Set("Cache-Control", "no-cache")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("X-Accel-Buffering", "no") // which nginx would do
	w.WriteHeader(http.StatusOK)
	return s
}

// events sends events. If there are none, it sends the revision from behind which a
// watch would go on, which a client takes for the last event's ID and nothing more.
func (s *stream) events(events []store.Event, next store.Revision) error {
	s.buf.Reset()
	for i := range events {
		e := &events[i]
		out := event{key: keyOf(e.Key), Revision: e.Revision, ByDeadline: e.ByDeadline}
		if e.Type == store.EventSet {
			out.Value = present(e.Value)
		}
		fmt.Fprintf(&s.buf, "id: %d\nevent: %v\ndata: %s\n", e.Revision, e.Type, encode(out))
	}
	if len(events) == 0 {
		fmt.Fprintf(&s.buf, ": nothing more up to %d\nid: %[1]d\n\n", next-1)
	}
	return s.send(s.buf.Bytes())
}

// send gives up a client that does not take what it is sent, which would hold up
// Close as well.
func (s *stream) send(b []byte) error {
	for chunk := range slices.Chunk(b, writeBytes) {
		s.control.SetWriteDeadline(time.Now().Add(writeTimeout))
		if _, err := s.w.Write(chunk); err != nil {
			return err
		}
		if err := s.ctx.Err(); err != nil {
			return err
		}
	}
	return s.control.Flush()
}

// end leaves no deadline behind for the next request of the connection.
func (s *stream) end() { s.control.SetWriteDeadline(time.Time{}) }
