// Package stdlog keeps the standard logger the host program's. Dragonboat's
// logging package, capnslog, takes the standard logger over when it is
// imported, and a library may not let that happen.
//
// Packages are initialized in the order of their import paths, each as soon as
// what it imports is. This one imports what capnslog imports, so it comes right
// before it and remembers how the standard logger is set up then; package
// restore, which imports both, comes right after it and sets it up like that
// again.
package stdlog

import (
	_ "bufio" // what capnslog imports, see above
	_ "bytes"
	_ "errors"
	_ "fmt"
	_ "io"
	"log"
	_ "log/syslog"
	_ "os"
	_ "runtime"
	_ "strconv"
	_ "sync"
	_ "time"
)

var (
	flags  = log.Flags()
	prefix = log.Prefix()
	writer = log.Writer()
)

// Restore sets the standard logger up as it was before capnslog was initialized.
func Restore() {
	log.SetFlags(flags)
	log.SetPrefix(prefix)
	log.SetOutput(writer)
}
