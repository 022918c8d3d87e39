package transport

import (
	"bufio"
	"encoding/binary"
	"io"
)

// What both sides of a connection say first.
var (
	hello       = clientHello{}.append(nil)
	serverHello = appendServerHello(nil, 0, nil)
)

func writeFrame(w *bufio.Writer, body []byte) { w.Write(appendFrame(nil, body)) }

func readFrame(r *bufio.Reader) ([]byte, error) {
	var h [frameHeader]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return nil, err
	}
	body := make([]byte, binary.LittleEndian.Uint32(h[:]))
	_, err := io.ReadFull(r, body)
	return body, err
}

// current is a connection of the client's that is in use, nil if there is none.
func (c *Client) current() *clientConn {
	if all := c.servers.usual.Load().few.all; len(all) > 0 {
		return all[0]
	}
	return nil
}
