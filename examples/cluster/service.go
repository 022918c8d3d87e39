package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"time"

	"dkv"
)

const (
	// opLimit is how long a request waits for the store, for example while the
	// members elect a leader.
	opLimit = 5 * time.Second

	// readyLimit is how long a node may take to show that it has a quorum.
	readyLimit = time.Second

	// jobLimit is the time to live of a job's lock, and the longest that a job
	// may take.
	jobLimit = 10 * time.Second

	// goneFor is how long a link that has ended is remembered.
	goneFor = time.Minute

	maxURL = 2 << 10
)

// service is the application. All that it remembers is in the store, so that
// every node answers the same.
type service struct {
	db  *dkv.DB
	log *slog.Logger
}

func newService(db *dkv.DB, log *slog.Logger) http.Handler {
	s := &service{db, log}
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /links/{name}", s.putLink)
	mux.HandleFunc("GET /links/{name}", s.getLink)
	mux.HandleFunc("DELETE /links/{name}", s.deleteLink)
	mux.HandleFunc("POST /jobs/{name}/run", s.runJob)
	mux.HandleFunc("GET /members", s.members)
	mux.HandleFunc("DELETE /members/{name}", s.removeMember)
	mux.HandleFunc("POST /members/{name}/lead", s.transferLeadership)
	mux.HandleFunc("GET /status", s.status)
	mux.HandleFunc("GET /live", s.live)
	mux.HandleFunc("GET /ready", s.ready)
	return mux
}

func linkKey(r *http.Request) string { return "link/" + r.PathValue("name") }

// putLink stores the URL in the body, for good or for=<duration>.
func (s *service) putLink(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxURL))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	target, err := url.Parse(string(body))
	if err != nil || target.Scheme != "http" && target.Scheme != "https" || target.Host == "" {
		http.Error(w, "the body must be an http or https URL", http.StatusBadRequest)
		return
	}
	expireIn, err := duration(r, "for", 0)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var deleteIn time.Duration // never
	if expireIn != 0 {
		deleteIn = expireIn + goneFor
	}
	ctx, cancel := context.WithTimeout(r.Context(), opLimit)
	defer cancel()
	if err := s.db.SetE(ctx, linkKey(r), body, expireIn, deleteIn); err != nil {
		fail(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// getLink redirects to the URL.
func (s *service) getLink(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), opLimit)
	defer cancel()
	link, ok, err := s.db.GetEntry(ctx, linkKey(r))
	switch {
	case err != nil:
		fail(w, err)
	case !ok:
		http.Error(w, "no such link", http.StatusNotFound)
	case link.Expired:
		http.Error(w, "this link has ended", http.StatusGone)
	default:
		w.Header().Set("Location", string(link.Value))
		w.WriteHeader(http.StatusFound)
		fmt.Fprintf(w, "%s\n", link.Value)
	}
}

func (s *service) deleteLink(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), opLimit)
	defer cancel()
	if err := s.db.Delete(ctx, linkKey(r)); err != nil {
		fail(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// runJob does a job, unless a node is at it already. The job of this example is
// to take=<duration>.
func (s *service) runJob(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	take, err := duration(r, "take", time.Second)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}

	// The lock lives for jobLimit from the call of Acquire at least. The job's
	// context began before that call, so the job ends before its lock does.
	ctx, cancel := context.WithTimeout(r.Context(), jobLimit)
	defer cancel()
	asked, cancelAsked := context.WithTimeout(ctx, opLimit)
	defer cancelAsked()
	owner, ok, err := s.db.Acquire(asked, name, jobLimit)
	if owner != (dkv.Owner{}) { // also when it is unknown whether it was acquired
		defer s.release(name, owner)
	}
	switch {
	case err != nil:
		fail(w, err)
		return
	case !ok:
		http.Error(w, name+" is running already", http.StatusConflict)
		return
	}

	select {
	case <-time.After(take):
		// A job that writes elsewhere would pass the token on, so that what it
		// writes to can refuse a node that was paused and has lost the lock.
		s.reply(w, map[string]any{"job": name, "took": take.String(), "token": owner.Token()})
	case <-ctx.Done():
		http.Error(w, name+" did not end in time", http.StatusGatewayTimeout)
	}
}

// release gives up a job's lock, even if the client has gone. Should that fail,
// the lock ends by itself after jobLimit.
func (s *service) release(name string, owner dkv.Owner) {
	ctx, cancel := context.WithTimeout(context.Background(), opLimit)
	defer cancel()
	if _, err := s.db.Release(ctx, name, owner); err != nil {
		s.log.Warn("lock not released, it will end by itself", "job", name, "err", err)
	}
}

// members tells which nodes the cluster has.
func (s *service) members(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), opLimit)
	defer cancel()
	all, err := s.db.Members(ctx)
	if err != nil {
		fail(w, err)
		return
	}
	for _, m := range all {
		leads := ""
		if m.Leads {
			leads = " leads"
		}
		fmt.Fprintf(w, "%s %s%s\n", m.Name, m.Address, leads)
	}
}

func (s *service) removeMember(w http.ResponseWriter, r *http.Request) {
	s.changeMember(w, r, s.db.RemoveMember)
}

func (s *service) transferLeadership(w http.ResponseWriter, r *http.Request) {
	s.changeMember(w, r, s.db.TransferLeadership)
}

func (s *service) changeMember(w http.ResponseWriter, r *http.Request, change func(ctx context.Context, name string) error) {
	ctx, cancel := context.WithTimeout(r.Context(), opLimit)
	defer cancel()
	if err := change(ctx, r.PathValue("name")); err != nil {
		fail(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// status tells what this node knows. It asks no other and waits for nothing, so
// that it works on a node that is cut off, too.
func (s *service) status(w http.ResponseWriter, r *http.Request) {
	info, err := s.db.Info(r.Context())
	if err != nil {
		fail(w, err)
		return
	}
	s.reply(w, struct {
		Node     string       `json:"node"`
		Leader   string       `json:"leader"`
		Members  []string     `json:"members"`
		Revision dkv.Revision `json:"revision"`
		Keys     int64        `json:"keys"`
		Locks    int64        `json:"locks"`
		PID      int          `json:"pid"`

		// Progress is how far each node has applied the log: its own, and that
		// of others when they wrote last.
		Progress map[string]uint64 `json:"progress"`
	}{info.Node, info.Leader, info.Members, info.Revision, info.Keys, info.Locks, os.Getpid(), info.Progress})
}

// live is for whoever restarts a node that works no longer. A node without a
// quorum is live: to restart it would not help.
func (s *service) live(w http.ResponseWriter, _ *http.Request) {
	if err := s.db.Live(); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
	}
}

// ready is for whoever chooses the node that a request goes to.
func (s *service) ready(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), readyLimit)
	defer cancel()
	if err := s.db.Ready(ctx); err != nil {
		fail(w, err)
	}
}

func (s *service) reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		s.log.Debug("reply not sent", "err", err)
	}
}

// fail tells the client what became of its request, which the kind of the error
// says.
func fail(w http.ResponseWriter, err error) {
	code := http.StatusInternalServerError
	switch dkv.KindOf(err) {
	case dkv.KindNotApplied, dkv.KindClosed:
		w.Header().Set("Retry-After", "1") // here or on another node
		code = http.StatusServiceUnavailable
	case dkv.KindUnknown:
		code = http.StatusGatewayTimeout // it may have happened, or may yet
	case dkv.KindFinal:
		code = http.StatusBadRequest
	}
	http.Error(w, err.Error(), code)
}

// duration reads a parameter of the query.
func duration(r *http.Request, name string, otherwise time.Duration) (time.Duration, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return otherwise, nil
	}
	d, err := time.ParseDuration(text)
	if err == nil && d <= 0 {
		err = errors.New("it must be positive")
	}
	if err != nil {
		return 0, fmt.Errorf("%s=%s: %w", name, text, err)
	}
	return d, nil
}
