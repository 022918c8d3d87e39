//go:build unix

package transport

import (
	"net"
	"syscall"
)

// rawWriter writes to a connection what the operating system takes at once.
type rawWriter struct {
	conn syscall.RawConn
	call func(fd uintptr) bool // the method once, made a function once
	b    []byte
	n    int
	err  error
}

// newRawWriter returns nil for a connection that it cannot be done with, like one that
// encrypts.
func newRawWriter(conn net.Conn) *rawWriter {
	var sc syscall.Conn
	switch conn := conn.(type) { // no other: it may do something to what is written
	case *net.TCPConn:
		sc = conn
	case *net.UnixConn:
		sc = conn
	default:
		return nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	w := &rawWriter{conn: raw}
	w.call = w.once
	return w
}

func (w *rawWriter) once(fd uintptr) bool {
	w.n, w.err = syscall.Write(int(fd), w.b)
	return true
}

// write returns how much was written, without waiting. Whatever keeps it from writing
// the rest shows when that is written in the usual way.
func (w *rawWriter) write(b []byte) int {
	w.b, w.n, w.err = b, 0, nil
	err := w.conn.Write(w.call)
	w.b = nil
	if err != nil || w.err != nil {
		return 0
	}
	return w.n
}
