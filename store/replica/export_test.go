package replica

import (
	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/vfs"
)

// SetFS has a replica keep all but its lock on another file system.
func (o *Options) SetFS(fs vfs.FS) { o.fs = fs }

// SetTransport has a replica send its messages another way.
func (o *Options) SetTransport(f config.TransportFactory) { o.transport = f }
