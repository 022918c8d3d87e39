package replica

import (
	"syscall"

	"github.com/lni/vfs"

	"golang.org/x/sys/unix"
)

// startWriteBack asks for what was written to f to be brought to the disk. It does not
// wait for that, but for room among what the disk has been asked for.
func startWriteBack(f vfs.File) {
	c, ok := f.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	const toTheEnd = 0
	raw.Control(func(fd uintptr) { unix.SyncFileRange(int(fd), 0, toTheEnd, unix.SYNC_FILE_RANGE_WRITE) })
}
