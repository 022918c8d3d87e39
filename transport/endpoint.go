package transport

import (
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

// parseEndpoint splits "tcp://host:port" or "unix:///path/of/socket" into what
// package net wants.
func parseEndpoint(endpoint string) (network, address string, err error) {
	network, address, ok := strings.Cut(endpoint, "://")
	bad := func(why string) (string, string, error) {
		return "", "", fmt.Errorf("%w: endpoint %q: %s", store.ErrBadOptions, endpoint, why)
	}
	if !ok {
		return bad("it is not of the form tcp://host:port or unix:///path")
	}
	switch network {
	case "tcp":
		if _, _, err := net.SplitHostPort(address); err != nil {
			return bad("it is not of the form tcp://host:port")
		}
	case "unix":
		if !filepath.IsAbs(address) {
			return bad("the path is not absolute")
		}
	default:
		return bad(fmt.Sprintf("network %q is not known, tcp and unix are", network))
	}
	return network, address, nil
}

// CheckEndpoint tells what is wrong with an endpoint, nil if nothing is.
func CheckEndpoint(endpoint string) error {
	_, _, err := parseEndpoint(endpoint)
	return err
}

// Listen listens on an endpoint: "tcp://host:port" or "unix:///path/of/socket".
//
// Whoever connects may do everything, so a TCP endpoint must be of the loopback
// interface, and the file of a socket is for its owner alone.
func Listen(endpoint string) (net.Listener, error) {
	network, address, err := parseEndpoint(endpoint)
	if err != nil {
		return nil, err
	}
	var l net.Listener
	if network == "unix" {
		l, err = listenUnix(address)
	} else if err = checkLoopback(address); err == nil {
		l, err = net.Listen(network, address)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: endpoint %q: %w", store.ErrBadOptions, endpoint, err)
	}
	return l, nil
}

func checkLoopback(address string) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	if host == "localhost" {
		return nil
	}
	if ip, err := netip.ParseAddr(host); err != nil || !ip.IsLoopback() {
		return errors.New("not a loopback address: there is no authentication yet")
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
