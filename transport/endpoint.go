package transport

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"dkv/store"
)

// location is what an endpoint says.
type location struct {
	network string // tcp, http or unix
	address string
	chosen  *Codec // nil if it names none
}

// codec is the one that the endpoint names, or else the usual one.
func (l location) codec(usual Codec) Codec {
	if l.chosen != nil {
		return *l.chosen
	}
	return usual
}

// parseEndpoint splits "tcp://host:port", "http://host:port" or
// "unix:///path/of/socket", with "?codec=name" behind it or not.
func parseEndpoint(endpoint string) (location, error) {
	bad := func(why string) (location, error) {
		return location{}, fmt.Errorf("%w: endpoint %q: %s", store.ErrBadOptions, endpoint, why)
	}
	plain, options, has := strings.Cut(endpoint, "?")
	network, address, ok := strings.Cut(plain, "://")
	if !ok {
		return bad("it is not of the form tcp://host:port, http://host:port or unix:///path")
	}
	switch network {
	case "tcp", "http":
		if _, _, err := net.SplitHostPort(address); err != nil {
			return bad("it is not of the form " + network + "://host:port")
		}
	case "unix":
		if !filepath.IsAbs(address) {
			return bad("the path is not absolute")
		}
	default:
		return bad(fmt.Sprintf("network %q is not known; tcp, http and unix are", network))
	}
	l := location{network: network, address: address}
	if !has {
		return l, nil
	}
	name, value, _ := strings.Cut(options, "=")
	if name != "codec" {
		return bad(fmt.Sprintf("option %q is not known; codec is", name))
	}
	codec, err := ParseCodec(value)
	if err != nil {
		return location{}, fmt.Errorf("endpoint %q: %w", endpoint, err)
	}
	l.chosen = &codec
	return l, nil
}

// CheckEndpoint tells what is wrong with an endpoint, nil if nothing is.
func CheckEndpoint(endpoint string) error {
	_, err := parseEndpoint(endpoint)
	return err
}

// Twice returns an address at which two of some endpoints to listen on are, as far as their
// words say so, "" if there is none. Port 0 is another one each time.
func Twice(endpoints []string) string {
	seen := make(map[string]bool)
	for _, e := range endpoints {
		_, address, _ := strings.Cut(e, "://")
		if seen[address] && !strings.HasSuffix(address, ":0") {
			return address
		}
		seen[address] = true
	}
	return ""
}

// IsAt tells whether an endpoint is at an address host:port, in the same words: a server
// that listens there for other things, too, has to share that port, see SharePort.
func IsAt(endpoint, address string) bool {
	at, err := parseEndpoint(endpoint)
	return err == nil && at.network != "unix" && at.address == address
}

// ListenOptions say how to listen. The zero value listens where nobody but this
// machine's own can connect.
type ListenOptions struct {
	// TLS has what is not a unix socket be encrypted. With ClientAuth and ClientCAs set
	// in it, clients have to show certificates.
	TLS *tls.Config

	// Insecure lets everybody who can reach this machine connect without encryption:
	// they, and all on the way, see and may change what is stored, tokens included.
	Insecure bool

	// Port, if it is set, is listened on already at the endpoint's address: its Clients
	// are listened to.
	Port *Port
}

// Listen listens on an endpoint: "tcp://host:port", "http://host:port" or
// "unix:///path/of/socket". The file of a socket is for its owner alone. Others must
// be of the loopback interface, unless there is TLS, or Insecure says otherwise.
// Errors wrap store.ErrBadOptions.
func Listen(endpoint string, opts ListenOptions) (net.Listener, error) {
	at, err := parseEndpoint(endpoint)
	if err != nil {
		return nil, err
	}
	var l net.Listener
	if at.chosen != nil {
		err = errors.New("the codec is for clients to choose")
	} else if at.network == "unix" {
		l, err = listenUnix(at.address)
	} else if err = opts.check(at.address); err == nil {
		if opts.Port != nil {
			l = opts.Port.Clients()
			err = opts.check(l.Addr().String())
		} else {
			l, err = net.Listen("tcp", at.address)
		}
		if err == nil && opts.TLS != nil {
			l = tls.NewListener(l, opts.TLS)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%w: endpoint %q: %w", store.ErrBadOptions, endpoint, err)
	}
	return l, nil
}

// checkNotOverheard returns an error for an endpoint on the way to which others may
// listen.
func checkNotOverheard(endpoint string) error {
	at, err := parseEndpoint(endpoint)
	if err != nil || at.network == "unix" {
		return err
	}
	if (ListenOptions{}).check(at.address) != nil {
		return fmt.Errorf("%w: endpoint %q: a token would be sent in the clear: TLS is needed, or Insecure to go without", store.ErrBadOptions, endpoint)
	}
	return nil
}

func (o ListenOptions) check(address string) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	if o.TLS != nil || o.Insecure {
		return nil
	}
	if host == "localhost" {
		return nil
	}
	if ip, err := netip.ParseAddr(host); err != nil || !ip.IsLoopback() {
		return errors.New("not a loopback address: TLS is needed, or Insecure to go without")
	}
	return nil
}

// unixListener is a socket under a path that it was moved to.
type unixListener struct {
	*net.UnixListener
	path string
	once sync.Once // for path
}

// listenUnix makes a socket that nobody but its owner can connect to at any
// moment: it is made in a directory of its owner's, and moved when its mode is
// set.
func listenUnix(path string) (net.Listener, error) {
	if err := removeStale(path); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(filepath.Dir(path), ".")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	tmp := filepath.Join(dir, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: tmp, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	err = os.Chmod(tmp, 0o600)
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		l.Close()
		return nil, err
	}
	return &unixListener{UnixListener: l, path: path}, nil
}

// removeStale removes a socket that a process has left behind, and nothing else.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != os.ModeSocket {
		return errors.New("there is a file of another kind")
	}
	conn, err := net.Dial("unix", path)
	if err == nil {
		conn.Close()
		return syscall.EADDRINUSE
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return err
	}
	return os.Remove(path)
}

// Close removes the socket while it still listens: later, the path may be that of
// a successor.
func (l *unixListener) Close() error {
	l.once.Do(func() { os.Remove(l.path) })
	return l.UnixListener.Close()
}

// Addr is where the socket is: the system knows only where it was made.
func (l *unixListener) Addr() net.Addr {
	return &net.UnixAddr{Name: l.path, Net: "unix"}
}
