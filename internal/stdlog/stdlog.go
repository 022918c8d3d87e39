// Package stdlog remembers how the standard logger was set up when the program
// began. Dragonboat's logging package takes the standard logger over when it is
// imported, and a library may not let that happen to its host program.
//
// It works because packages are initialized in the order of their import paths
// as soon as what they import is: this one imports log alone, so it comes before
// those on github.com.
package stdlog

import "log"

var (
	flags  = log.Flags()
	prefix = log.Prefix()
	writer = log.Writer()
)

// Restore sets the standard logger up as it was.
func Restore() {
	log.SetFlags(flags)
	log.SetPrefix(prefix)
	log.SetOutput(writer)
}
