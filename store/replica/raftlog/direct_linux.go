package raftlog

import (
	"github.com/lni/vfs"
	"golang.org/x/sys/unix"
)

// setDirect has what is written to a file go to the disk past the operating
// system's memory, or not. It returns false if that cannot be done.
func setDirect(f vfs.File, on bool) bool {
	d, ok := f.(interface{ Fd() uintptr })
	if !ok {
		return false
	}
	flags, err := unix.FcntlInt(d.Fd(), unix.F_GETFL, 0)
	if err != nil {
		return false
	}
	if flags &^= unix.O_DIRECT; on {
		flags |= unix.O_DIRECT
	}
	_, err = unix.FcntlInt(d.Fd(), unix.F_SETFL, flags)
	return err == nil
}
