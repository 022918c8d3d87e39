package replica

import (
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/lni/vfs"
)

// TestSnapshotsAreWrittenBack looks whether what is asked to be written back has a descriptor:
// if it has none, nothing is asked for, and nobody told.
func TestSnapshotsAreWrittenBack(t *testing.T) {
	fs := raftFiles(&patientFS{FS: vfs.Default}, slog.New(slog.DiscardHandler))
	for name, inner := range map[string]func(vfs.File) vfs.File{
		"snapshot-1-1.generating": func(f vfs.File) vfs.File { return f.(*abortedFile).File },
		"snapshot-1-2.receiving":  func(f vfs.File) vfs.File { return f },
	} {
		dir := filepath.Join(t.TempDir(), name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		f, err := fs.Create(filepath.Join(dir, "snapshot-1.gbsnap"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		back, ok := inner(f).(*writtenBackFile)
		if !ok {
			t.Errorf("%s: a file of a snapshot is a %T", name, inner(f))
			continue
		}
		if _, ok := back.File.(syscall.Conn); !ok {
			t.Errorf("%s: a %T is asked to be written back", name, back.File)
		}
	}
}
