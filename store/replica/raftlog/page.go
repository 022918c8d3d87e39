package raftlog

import (
	"errors"
	"io"
	"syscall"
	"unsafe"

	"github.com/lni/vfs"
)

// pageSize is the unit in which a segment is written. No disk asks for a larger one.
const pageSize = 4 << 10

// pageWriter appends to a file in whole pages. The last one, unless it is full, is
// written again with what comes next; what it had does not change.
//
// Few bytes go to the disk past the operating system's memory, where that is
// possible: to write and sync them takes two thirds of the time then. For many
// there is no difference, or it is the other way round.
type pageWriter struct {
	file   vfs.File // syncs with fdatasync where there is one
	raw    vfs.File // what file is made of, to be closed
	direct bool     // past the operating system's memory
	never  bool     // the file system cannot do that

	buf  []byte // aligned; it begins with the page that the next write begins in
	at   int64  // where that page is in the file
	used int    // bytes of it
}

// directMax is how many bytes are few.
const directMax = 16 << 10

// newPageWriter returns one that appends behind end, up to which r has what the
// file holds.
func newPageWriter(raw vfs.File, r io.ReaderAt, end int64) (*pageWriter, error) {
	w := &pageWriter{
		file: vfs.NewSyncingFile(raw, vfs.SyncingFileOptions{}),
		raw:  raw,
		buf:  align(make([]byte, 256<<10+pageSize)),
		at:   pageFloor(end),
	}
	w.used = int(end - w.at)
	if err := readFull(r, w.buf[:w.used], w.at); err != nil {
		return nil, err
	}
	return w, nil
}

func pageFloor(n int64) int64 { return n &^ (pageSize - 1) }
func pageCeil(n int64) int64  { return pageFloor(n + pageSize - 1) }

// align returns the part of b that begins and ends with whole pages of memory.
func align(b []byte) []byte {
	skip := -uintptr(unsafe.Pointer(unsafe.SliceData(b))) % pageSize
	return b[skip : int(skip)+int(pageFloor(int64(len(b))-int64(skip)))]
}

// append writes b, and zeros up to the end of a page.
func (w *pageWriter) append(b []byte) error {
	w.setDirect(len(b) <= directMax)
	for {
		n := copy(w.buf[w.used:], b)
		b, w.used = b[n:], w.used+n
		end := int(pageCeil(int64(w.used)))
		clear(w.buf[w.used:end])
		if _, err := w.writeAt(w.buf[:end], w.at); err != nil {
			return err
		}
		full := int(pageFloor(int64(w.used)))
		w.used = copy(w.buf, w.buf[full:w.used])
		w.at += int64(full)
		if len(b) == 0 {
			return nil
		}
	}
}

// zeros is never written to.
var zeros [64 << 10]byte

// zero writes zeros from one page to another and returns up to where it has.
func (w *pageWriter) zero(from, to int64) (int64, error) {
	w.setDirect(false)
	for from < to {
		n, err := w.writeAt(zeros[:min(to-from, int64(len(zeros)))], from)
		from += pageFloor(int64(n))
		if err != nil {
			return from, err
		}
	}
	return from, nil
}

func (w *pageWriter) setDirect(on bool) {
	if on != w.direct && !w.never {
		if setDirect(w.raw, on) {
			w.direct = on
		} else {
			w.never = true
		}
	}
}

func (w *pageWriter) writeAt(pages []byte, at int64) (int, error) {
	n, err := w.file.WriteAt(pages, at)
	if w.direct && errors.Is(err, syscall.EINVAL) { // it cannot, for all it said
		w.setDirect(false)
		w.never = true
		return w.file.WriteAt(pages, at)
	}
	return n, err
}

func (w *pageWriter) sync() error {
	err := w.file.Sync()
	for errors.Is(err, syscall.EINTR) {
		err = w.file.Sync()
	}
	return err
}

func (w *pageWriter) close() error { return w.raw.Close() }
