// Package restore undoes what capnslog does to the standard logger, right after
// it has done it; see package stdlog.
package restore

import (
	"dkv/internal/stdlog"

	_ "github.com/lni/goutils/logutil/capnslog"
)

func init() { stdlog.Restore() }
