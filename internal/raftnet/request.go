package raftnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"
)

const (
	// maxRequest and maxAnswer are how large a request and its answer are at most, in
	// bytes. Requests may be those of strangers, of which there are maxRequests at a time.
	maxRequest = 64 << 10
	maxAnswer  = 1 << 20

	// RequestTimeout is how long a request may take from when it is read.
	RequestTimeout = 10 * time.Second
)

// answer reads a request and answers it.
func (t *Transport) answer(c net.Conn, h *hello) error {
	if err := c.SetDeadline(time.Now().Add(helloTimeout)); err != nil {
		return err
	}
	request, err := (&frames{r: c, most: maxRequest}).next()
	if err != nil {
		return err
	}
	if err := c.SetDeadline(time.Time{}); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(t.ctx, RequestTimeout)
	defer cancel()
	t.serving.Go(func() { // until who asks, or whoever closes this, has gone
		c.Read(make([]byte, 1))
		cancel()
	})
	answer := t.Members.Answer(ctx, h.from, request)
	h.taken++
	if err := c.SetWriteDeadline(time.Now().Add(helloTimeout)); err != nil {
		return err
	}
	_, err = c.Write(requestFrame(answer))
	return err
}

func requestFrame(b []byte) []byte { return frame(append(make([]byte, frameHeader), b...)) }

// Asker is who has requests: a member, or a node that wants to be one.
type Asker struct {
	Security *Security
	Self     func() Peer
}

// ErrSent is what Ask returns if it is not known what has become of the request: it may
// have been read.
var ErrSent = errors.New("the request was sent, and not answered")

// Ask sends a request to whatever member is at an address and returns its answer, and who
// it is.
func (a Asker) Ask(ctx context.Context, address string, request []byte) (answer []byte, by Peer, err error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout+greetTimeout+RequestTimeout+helloTimeout)
	defer cancel()
	brief, cancelDial := context.WithTimeout(ctx, dialTimeout)
	defer cancelDial()
	raw, err := new(net.Dialer).DialContext(brief, "tcp", address)
	if err != nil {
		return nil, by, err
	}
	defer raw.Close()
	defer context.AfterFunc(ctx, func() { raw.Close() })()
	if err := raw.SetDeadline(time.Now().Add(greetTimeout)); err != nil {
		return nil, by, err
	}
	c, err := a.Security.clientOfAny(ctx, raw)
	if err != nil {
		return nil, by, err
	}
	h := hello{kind: forRequest, from: a.Self()}
	if _, err := c.Write(h.append(nil)); err != nil {
		return nil, by, err
	}
	by, err = readAnswer(c)
	if err != nil {
		return nil, by, err
	}
	if err := a.Security.check(c, by.Self().Member); err != nil {
		return nil, by, err
	}
	if err := raw.SetDeadline(time.Time{}); err != nil { // the context's end remains
		return nil, by, err
	}
	if len(request) > maxRequest {
		return nil, by, fmt.Errorf("a request of %d bytes is over the limit", len(request))
	}
	if _, err = c.Write(requestFrame(request)); err == nil {
		answer, err = (&frames{r: c, most: maxAnswer}).next()
	}
	if err != nil {
		err = fmt.Errorf("%w: %w", ErrSent, err)
	}
	return answer, by, err
}
