package transport

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"
)

// ConnectPath is where an HTTP client asks to go on with dkv's own protocol on its
// connection, with "Upgrade: dkv". So do clients of endpoints "http://host:port".
const ConnectPath = "/v1/connect"

const (
	upgradeTo   = "dkv"
	maxHead     = 8 << 10 // bytes of an HTTP response's head
	headTimeout = 5 * time.Second
	bodyTimeout = time.Minute // for a request with its body to come
	idleLimit   = 2 * time.Minute
)

// StartHTTP answers HTTP on l, in the background, until the server is closed, which
// also closes l: clients that ask for ConnectPath get dkv's own protocol, and all others
// what h answers, if it is not nil. If h is an io.Closer it is closed first, to end
// requests that would go on for ever.
func (s *Server) StartHTTP(l net.Listener, h http.Handler) {
	if h == nil {
		h = http.NotFoundHandler()
	}
	hs := &httpListener{listener: l, ctx: s.ctx, done: make(chan struct{})}
	hs.mu.silent = make(map[net.Conn]struct{})
	hs.server = &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == ConnectPath {
				s.upgrade(w, r)
				return
			}
			h.ServeHTTP(w, r)
		}),
		ReadHeaderTimeout: headTimeout,
		ReadTimeout:       bodyTimeout,
		IdleTimeout:       idleLimit,
		MaxHeaderBytes:    64 << 10,                   // a key takes three times its bytes
		ErrorLog:          log.New(io.Discard, "", 0), // the host program's output is its own
		ConnState:         hs.watch,
	}
	if c, ok := h.(io.Closer); ok {
		hs.handler = c
	}
	s.run(hs, func() {
		hs.server.Serve(l)
		hs.stop()
		<-hs.done
	})
}

// httpListener is a listener with the HTTP server that has it.
type httpListener struct {
	listener net.Listener // the server knows it only while it serves
	server   *http.Server
	handler  io.Closer       // nil if the handler need not be closed
	ctx      context.Context // of the server that it is part of
	once     sync.Once
	done     chan struct{} // closed when no request is under way

	mu struct {
		sync.Mutex
		stopped bool
		silent  map[net.Conn]struct{} // connections without a whole request as yet
	}
}

func (l *httpListener) stop() {
	l.once.Do(func() {
		go func() { // until the requests are over, or their time is
			defer close(l.done)
			var closing sync.WaitGroup
			if l.handler != nil {
				closing.Go(func() { l.handler.Close() })
			}
			l.hangUp()
			l.server.Shutdown(l.ctx)
			closing.Wait()
		}()
	})
}

func (l *httpListener) Close() error {
	l.listener.Close()
	return l.server.Close()
}

// watch is told of what becomes of connections.
func (l *httpListener) watch(conn net.Conn, state http.ConnState) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case state != http.StateNew:
		delete(l.mu.silent, conn)
	case l.mu.stopped:
		conn.Close()
	default:
		l.mu.silent[conn] = struct{}{}
	}
}

// hangUp closes the connections that have not asked for anything, those to come too.
// Shutdown waits for them: it takes them for idle only after 5 s.
func (l *httpListener) hangUp() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.stopped = true
	for conn := range l.mu.silent {
		conn.Close()
	}
}

// CheckHost returns an error if a request may be one of a page of another site, whose
// name has been made to lead to this machine: it asks for a name that is not localhost,
// has come by way of the loopback interface, without TLS, and the server has no tokens
// to tell strangers by. Handlers of a server's stores ask it first; the answer to
// such a request is 421.
func (s *Server) CheckHost(r *http.Request) error {
	local, _ := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	if s.tokens != nil || r.TLS != nil || local == nil || !local.IP.IsLoopback() {
		return nil
	}
	host := (&url.URL{Host: r.Host}).Hostname()
	if _, err := netip.ParseAddr(host); err == nil || host == "" || strings.EqualFold(host, "localhost") {
		return nil
	}
	return fmt.Errorf("a server without tokens goes by localhost or an address here, not by %.60q", host)
}

// upgrade has a connection go on with dkv's own protocol.
func (s *Server) upgrade(w http.ResponseWriter, r *http.Request) {
	if err := s.CheckHost(r); err != nil {
		http.Error(w, err.Error(), http.StatusMisdirectedRequest)
		return
	}
	if !strings.EqualFold(r.Header.Get("Upgrade"), upgradeTo) {
		w.Header().Set("Upgrade", upgradeTo)
		http.Error(w, "ask for it with the header Upgrade: "+upgradeTo, http.StatusUpgradeRequired)
		return
	}
	h, ok := w.(http.Hijacker)
	if !ok {
		http.Error(w, "HTTP/1.1 is needed", http.StatusHTTPVersionNotSupported)
		return
	}
	conn, buffered, err := h.Hijack()
	if err != nil {
		return
	}
	_, err = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+upgradeTo+"\r\n\r\n")
	if err != nil || buffered.Reader.Buffered() > 0 { // it is to wait for that
		conn.Close()
		return
	}
	s.run(connection{conn}, func() { s.serve(conn) })
}

// askForUpgrade is the client's side of upgrade.
func askForUpgrade(conn net.Conn, host string) error {
	_, err := io.WriteString(conn, "GET "+ConnectPath+" HTTP/1.1\r\nHost: "+host+"\r\nConnection: Upgrade\r\nUpgrade: "+upgradeTo+"\r\n\r\n")
	if err != nil {
		return err
	}
	// A byte at a time: what comes behind the head is not to be read here.
	var head []byte
	for b := make([]byte, 1); !strings.HasSuffix(string(head[max(0, len(head)-4):]), "\r\n\r\n"); {
		if len(head) == maxHead {
			return errProtocol
		}
		if _, err := io.ReadFull(conn, b); err != nil {
			return err
		}
		head = append(head, b[0])
	}
	status, _, _ := strings.Cut(string(head), "\r\n")
	if !strings.HasPrefix(status, "HTTP/1.1 101 ") {
		return fmt.Errorf("%w: it answers %q", errProtocol, status)
	}
	return nil
}
