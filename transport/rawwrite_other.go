//go:build !unix

package transport

import "net"

// rawWriter is for systems where a write can be tried.
type rawWriter struct{}

func newRawWriter(net.Conn) *rawWriter { return nil }

func (*rawWriter) write([]byte) int { return 0 }
