//go:build !linux

package raftlog

import "github.com/lni/vfs"

// setDirect can do nothing here.
func setDirect(vfs.File, bool) bool { return false }
