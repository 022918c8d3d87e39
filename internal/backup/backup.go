// Package backup is the form of a backup: the state of a store at one revision, as
// its engine saves it, in a stream that tells what is in it and whether it is whole.
// What the state is it leaves to the engine, and where the stream goes and when it
// is loaded to package dkv and the stores.
//
// # Format
//
// A backup is a stream of blocks as package block has them, each with its length and
// CRC32C. A payload has 64 KiB at most. Numbers are uvarints.
//
//	first   "dkv backup", the version (1), the revision, how many keys there are
//	        and how many locks are held
//	then    'D' and a part of what the engine has saved, as often as it takes
//	last    'Z', the length of all that is before this block, and the SHA-256 of that
//
// Nothing follows. So whatever is cut off, changed or added is noticed, at the end at
// the latest. The first block is that of all versions.
//
// Neither writing nor reading takes memory for more than a few blocks, besides what
// the engine takes; and none is taken on the word of a length that has not been
// checked but for one block.
package backup

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"

	"dkv/internal/block"
	"dkv/internal/field"
	"dkv/internal/ops"
	"dkv/store"
	"dkv/store/engine"
)

const (
	magic   = "dkv backup"
	version = 1

	dataBlock = 'D'
	endBlock  = 'Z'

	maxPayload = 64 << 10
)

// Write writes a backup of what a view shows. It looks through the view twice: to
// count, and to save.
//
// It ends with its context, as often as w returns: store.ErrUnavailable. An error of w
// is returned as it is. What has been written by then is no backup.
func Write(ctx context.Context, w io.Writer, view engine.View) (store.Backup, error) {
	b := store.Backup{Revision: store.Revision(view.Revision())}
	for space := range engine.Spaces {
		n, err := count(ctx, view, space)
		if err != nil {
			return store.Backup{}, err
		}
		switch space {
		case engine.Keys:
			b.Keys = n
		case engine.Locks, engine.Shared:
			b.Locks += n
		}
	}
	to := &sink{ctx: ctx, w: w, sum: sha256.New()}
	if err := to.write(&b, view); err != nil {
		if to.err != nil {
			err = to.err // as it was before others wrapped it
		}
		return store.Backup{}, err
	}
	return b, nil
}

// count is how many entries a space has.
func count(ctx context.Context, view engine.View, space engine.Space) (n int64, err error) {
	const often = 1 << 12
	view.Scan(space, "", "", false, func(store.Entry) bool {
		if n%often == 0 {
			err = ops.CheckContext(ctx)
		}
		n++
		return err == nil
	})
	return n, err
}

// sink is where a backup is written to.
type sink struct {
	ctx context.Context
	w   io.Writer
	sum hash.Hash // of what has been written
	n   int64     // how much that is
	err error     // the first
}

func (s *sink) Write(p []byte) (n int, err error) {
	if s.err == nil {
		s.err = ops.CheckContext(s.ctx)
	}
	if s.err != nil {
		return 0, s.err
	}
	n, err = s.w.Write(p)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	s.sum.Write(p[:n])
	s.n += int64(n)
	s.err = err
	return n, err
}

func (s *sink) write(b *store.Backup, view engine.View) error {
	const buffer = 4 * maxPayload
	bw := bufio.NewWriterSize(s, buffer)
	blocks := block.NewWriter(bw)

	first := binary.AppendUvarint([]byte(magic), version)
	first = binary.AppendUvarint(first, uint64(b.Revision))
	first = binary.AppendUvarint(first, uint64(b.Keys))
	first = binary.AppendUvarint(first, uint64(b.Locks))
	if err := blocks.Write(first); err != nil {
		return err
	}
	data := chunks{blocks: blocks, buf: append(make([]byte, 0, maxPayload), dataBlock)}
	if err := view.Save(&data); err != nil {
		return err
	}
	if err := data.flush(); err != nil {
		return err
	}
	if err := bw.Flush(); err != nil {
		return err
	}
	sum := s.sum.Sum(nil)
	last := binary.AppendUvarint([]byte{endBlock}, uint64(s.n))
	if err := blocks.Write(append(last, sum...)); err != nil {
		return err
	}
	if err := bw.Flush(); err != nil {
		return err
	}
	b.Bytes, b.Checksum = s.n, hex.EncodeToString(sum)
	return nil
}

// chunks makes blocks of what is written to it.
type chunks struct {
	blocks *block.Writer
	buf    []byte // the payload that is being filled
}

func (c *chunks) Write(p []byte) (n int, err error) {
	for n < len(p) {
		if len(c.buf) == maxPayload {
			if err := c.flush(); err != nil {
				return n, err
			}
		}
		more := min(len(p)-n, maxPayload-len(c.buf))
		c.buf = append(c.buf, p[n:n+more]...)
		n += more
	}
	return n, nil
}

func (c *chunks) flush() error {
	if len(c.buf) == 1 {
		return nil
	}
	err := c.blocks.Write(c.buf)
	c.buf = c.buf[:1]
	return err
}

// Verify reads a backup to its end and tells what is in it. Errors:
// store.ErrBackupDamaged, store.ErrBackupVersion, and those of r.
func Verify(r io.Reader) (store.Backup, error) {
	br, err := newReader(r)
	if err != nil {
		return store.Backup{}, err
	}
	if _, err := io.Copy(io.Discard, br); err != nil {
		return store.Backup{}, err
	}
	return br.told, nil
}

// Load verifies a backup and returns an engine with the state that is in it. Errors
// are those of Verify, and the engine's if it has not saved that state itself.
func Load(r io.Reader, factory engine.Factory, opts engine.Options) (engine.Engine, store.Backup, error) {
	br, err := newReader(r)
	if err != nil {
		return nil, store.Backup{}, err
	}
	db, failed := factory.Load(br, opts)
	if _, err := io.Copy(io.Discard, br); err != nil { // which may be why that has failed
		return nil, store.Backup{}, err
	}
	if failed != nil {
		return nil, store.Backup{}, fmt.Errorf("the backup is whole, but of another engine, or of another version of it: %w", failed)
	}
	if db.Revision() != uint64(br.told.Revision) {
		return nil, store.Backup{}, damaged(fmt.Errorf("it has revision %d, and says %d", db.Revision(), br.told.Revision))
	}
	return db, br.told, nil
}

// Gap is how many revisions a store leaves out that begins with a backup. The store that
// the backup was made of may have given out as many since, as tokens of locks for
// example: a million each second for twelve days. None of them is given again.
const Gap = 1 << 40

// Restore is Load for a store that begins with the backup and goes on from there. What
// it returns follows from the backup, on each member of a group.
func Restore(r io.Reader, factory engine.Factory, opts engine.Options) (engine.Engine, store.Backup, error) {
	db, b, err := Load(r, factory, opts)
	if err != nil {
		return nil, store.Backup{}, err
	}
	if uint64(b.Revision) > math.MaxUint64-Gap {
		return nil, store.Backup{}, fmt.Errorf("the backup is of revision %d, behind which there are too few", b.Revision)
	}
	db.Skip(Gap)
	return db, b, nil
}

// reader reads what an engine has saved out of a backup. It comes to the end only if
// the backup is whole.
type reader struct {
	blocks *block.Reader
	sum    hash.Hash    // of what has been read
	told   store.Backup // all of it once the end has come
	data   []byte       // of the block that is being read, what is left
	err    error        // io.EOF once the end has come
}

var (
	errForeign   = errors.New("not a backup")
	errMalformed = errors.New("malformed")
	errCut       = errors.New("it has no end")
	errMore      = errors.New("there is more behind its end")
	errLength    = errors.New("it is not as long as it says")
	errSum       = errors.New("checksum mismatch")
)

func damaged(err error) error { return fmt.Errorf("%w: %w", store.ErrBackupDamaged, err) }

// newReader reads the first block.
func newReader(r io.Reader) (*reader, error) {
	br := &reader{sum: sha256.New()}
	br.blocks = block.NewReaderLimit(io.TeeReader(bufio.NewReaderSize(r, maxPayload/4), br.sum), maxPayload)
	first, err := br.next()
	if err != nil {
		return nil, err
	}
	if !bytes.HasPrefix(first, []byte(magic)) {
		return nil, damaged(errForeign)
	}
	f := field.NewReader(first[len(magic):])
	if v := f.Uvarint(); !f.Bad() && v != version {
		return nil, fmt.Errorf("%w: it has version %d, this version of dkv knows %d", store.ErrBackupVersion, v, version)
	}
	br.told.Revision = store.Revision(f.Uvarint())
	br.told.Keys = f.Int63()
	br.told.Locks = f.Int63()
	if !f.Complete() {
		return nil, damaged(errMalformed)
	}
	return br, nil
}

// next returns the payload of the next block.
func (r *reader) next() ([]byte, error) {
	payload, err := r.blocks.Next()
	switch {
	case err == io.EOF:
		return nil, damaged(errCut)
	case errors.Is(err, block.ErrCorrupt):
		return nil, damaged(err)
	}
	return payload, err
}

// Read implements io.Reader.
func (r *reader) Read(p []byte) (n int, err error) {
	if len(p) == 0 {
		return 0, nil
	}
	for len(r.data) == 0 && r.err == nil {
		r.err = r.advance()
	}
	if len(r.data) == 0 {
		return 0, r.err
	}
	n = copy(p, r.data)
	r.data = r.data[n:]
	return n, nil
}

// advance goes on to the next block. At the end of a backup that is whole it returns
// io.EOF.
func (r *reader) advance() error {
	before, offset := r.sum.Sum(nil), r.blocks.Offset()
	payload, err := r.next()
	switch {
	case err != nil:
		return err
	case len(payload) > 1 && payload[0] == dataBlock:
		r.data = payload[1:]
		return nil
	case len(payload) == 0 || payload[0] != endBlock:
		return damaged(errMalformed)
	}
	f := field.NewReader(payload[1:])
	length := f.Int63()
	sum := f.Rest()
	switch {
	case f.Bad() || len(sum) != sha256.Size:
		return damaged(errMalformed)
	case length != offset:
		return damaged(errLength)
	case !bytes.Equal(sum, before):
		return damaged(errSum)
	}
	r.told.Bytes, r.told.Checksum = r.blocks.Offset(), hex.EncodeToString(sum)
	switch _, err := r.blocks.Next(); {
	case err == io.EOF:
		return io.EOF
	case err == nil || errors.Is(err, block.ErrCorrupt):
		return damaged(errMore)
	default:
		return err
	}
}
