// Package block frames a stream of bytes into blocks that carry their length
// and checksum, so that a stream that was cut, damaged or is no such stream at
// all is told from a good one, and where it went wrong.
//
// A block is its payload's length (4 bytes, little-endian), the CRC32C of length
// and payload (4 bytes), and the payload. The reader cannot tell a stream that
// was cut between two blocks from a complete one: the last block must say that
// it is the last.
package block

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// MaxSize is the greatest length of a payload.
const MaxSize = 16 << 20

const headerSize = 8

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrCorrupt is returned for a block that is not as it was written.
var ErrCorrupt = errors.New("corrupt stream")

// Writer writes blocks. It makes one Write call for the header and one for the
// payload of each: give it a buffered writer.
type Writer struct{ w io.Writer }

// NewWriter returns a writer of blocks to w.
func NewWriter(w io.Writer) *Writer { return &Writer{w} }

// Write writes one block.
func (w *Writer) Write(payload []byte) error {
	if len(payload) > MaxSize {
		return fmt.Errorf("block of %d bytes is over the limit of %d", len(payload), MaxSize)
	}
	var h [headerSize]byte
	binary.LittleEndian.PutUint32(h[:4], uint32(len(payload)))
	binary.LittleEndian.PutUint32(h[4:], checksum(h[:4], payload))
	if _, err := w.w.Write(h[:]); err != nil {
		return err
	}
	_, err := w.w.Write(payload)
	return err
}

// Reader reads blocks.
type Reader struct {
	r      io.Reader
	limit  uint32 // to the length of a payload
	buf    []byte
	offset int64
}

// NewReader returns a reader of blocks from r.
func NewReader(r io.Reader) *Reader { return NewReaderLimit(r, MaxSize) }

// NewReaderLimit is NewReader for a stream whose payloads are no longer than limit,
// which is no more than MaxSize: one that claims to be takes no memory.
func NewReaderLimit(r io.Reader, limit int) *Reader {
	return &Reader{r: r, limit: uint32(min(limit, MaxSize))}
}

// Offset is where the next block begins.
func (r *Reader) Offset() int64 { return r.offset }

// Next returns the next payload, which is valid until the next call. At the end
// of the stream it returns io.EOF; for a block that is damaged or cut, an error
// that wraps ErrCorrupt and names the offset of the block.
func (r *Reader) Next() ([]byte, error) {
	var h [headerSize]byte
	switch _, err := io.ReadFull(r.r, h[:]); {
	case err == io.EOF:
		return nil, io.EOF
	case err == io.ErrUnexpectedEOF:
		return nil, r.corrupt("header cut short")
	case err != nil:
		return nil, err
	}
	n := binary.LittleEndian.Uint32(h[:4])
	if n > r.limit {
		return nil, r.corrupt(fmt.Sprintf("length %d is over the limit of %d", n, r.limit))
	}
	if cap(r.buf) < int(n) {
		r.buf = make([]byte, n)
	}
	payload := r.buf[:n]
	switch _, err := io.ReadFull(r.r, payload); {
	case err == io.EOF || err == io.ErrUnexpectedEOF:
		return nil, r.corrupt("block cut short")
	case err != nil:
		return nil, err
	}
	if checksum(h[:4], payload) != binary.LittleEndian.Uint32(h[4:]) {
		return nil, r.corrupt("checksum mismatch")
	}
	r.offset += headerSize + int64(n)
	return payload, nil
}

func (r *Reader) corrupt(what string) error {
	return fmt.Errorf("%w: block at offset %d: %s", ErrCorrupt, r.offset, what)
}

func checksum(length, payload []byte) uint32 {
	return crc32.Update(crc32.Checksum(length, castagnoli), castagnoli, payload)
}
