package transport

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"

	"dkv/internal/field"
	"dkv/store"
)

// A connection begins with both sides' magic and version, and a frame of each. The
// client's says what it wants:
//
//	shard  uvarint  the number of the store
//	codec  byte     how bodies are written from then on
//	token  the rest the secret that shows who it is, if it has one
//
// and the server's whether it gets that:
//
//	code   uvarint  0, or the code of one of store's errors
//
// If the code is 0, 8 bytes follow that tell the store from others, little-endian,
// zero if that is not known; else the text of the error does, and the connection
// ends. A server that speaks another version answers with its magic and version
// alone.
const (
	magic   = "dkv\x00"
	version = 4

	maxHello = 4 << 10 // bytes of either frame
)

var preamble = append([]byte(magic), version)

// clientHello is what a client wants.
type clientHello struct {
	shard uint64
	codec Codec
	token Secret
}

func (h clientHello) append(b []byte) []byte {
	b = append(b, preamble...)
	at := len(b)
	b = append(b, 0, 0, 0, 0)
	b = binary.AppendUvarint(b, h.shard)
	b = append(b, byte(h.codec))
	b = append(b, h.token...)
	binary.LittleEndian.PutUint32(b[at:], uint32(len(b)-at-4))
	return b
}

func readClientHello(r io.Reader) (h clientHello, err error) {
	b, err := readHello(r)
	if err != nil {
		return h, err
	}
	f := field.NewReader(b)
	h.shard, h.codec = f.Uvarint(), Codec(f.Byte())
	h.token = Secret(f.Rest())
	if f.Bad() {
		return clientHello{}, errProtocol
	}
	return h, nil
}

// appendServerHello appends what a server says: that it serves the store with the
// identity, or why not.
func appendServerHello(b []byte, identity uint64, err error) []byte {
	b = append(b, preamble...)
	at := len(b)
	b = append(b, 0, 0, 0, 0)
	if err != nil {
		r := failure(0, err)
		b = binary.AppendUvarint(b, r.code)
		b = append(b, r.result[:min(len(r.result), maxHello-binary.MaxVarintLen64)]...)
	} else {
		b = append(b, 0)
		b = binary.LittleEndian.AppendUint64(b, identity)
	}
	binary.LittleEndian.PutUint32(b[at:], uint32(len(b)-at-4))
	return b
}

// readServerHello returns the identity of the store, or the error that the server
// turns the client away with.
func readServerHello(r io.Reader) (identity uint64, err error) {
	b, err := readHello(r)
	if err != nil {
		return 0, err
	}
	code, n := binary.Uvarint(b)
	switch {
	case n <= 0 || code == 0 && len(b) != n+8:
		return 0, errProtocol
	case code != 0:
		return 0, response{code: code, result: b[n:]}.err(store.ErrUnavailable)
	}
	return binary.LittleEndian.Uint64(b[n:]), nil
}

// readHello reads the other side's preamble and frame, and not a byte more.
func readHello(r io.Reader) ([]byte, error) {
	var b [len(magic) + 1]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return nil, err
	}
	switch {
	case string(b[:len(magic)]) != magic:
		return nil, errProtocol
	case !bytes.Equal(b[:], preamble):
		return nil, &versionError{b[len(magic)]}
	}
	var h [4]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint32(h[:])
	if n > maxHello {
		return nil, errProtocol
	}
	body := make([]byte, n)
	_, err := io.ReadFull(r, body)
	return body, err
}

// versionError is the error of who speaks another version of the protocol.
type versionError struct{ version byte }

func (e *versionError) Error() string {
	return fmt.Sprintf("version %d of dkv's protocol is spoken there, and %d here", e.version, version)
}
