package main

import "syscall"

// childAttr has the child killed if this process is, which then cannot do it any more
// when the lock ends.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
