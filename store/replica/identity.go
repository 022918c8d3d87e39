package replica

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"dkv/store"

	"github.com/gofrs/flock"
	"github.com/lni/vfs"
)

// A data directory holds
//
//	LOCK           held by the process that has the directory open
//	IDENTITY.json  what the directory is, see identity
//	raft/          Dragonboat's
const (
	lockFile     = "LOCK"
	identityFile = "IDENTITY.json"
	raftDir      = "raft"

	identityFormat = 4
)

// identity says which member of which group the data in a directory is.
type identity struct {
	Format  int               `json:"format"`
	Node    string            `json:"node"`
	Members map[string]string `json:"members"`

	// Incarnation is greater each time that the directory is opened, so that no
	// two processes that propose to the group are ever taken for one. It is
	// the time in nanoseconds, or one more than the last if that is greater:
	// so it is greater even if an older version of the file was put back.
	Incarnation uint64 `json:"incarnation"`

	// Started is set once the member has been part of the group. If it has
	// then lost its log, it must not begin anew: it has forgotten its votes.
	Started bool `json:"started"`
}

// directory is a data directory that this process has open.
type directory struct {
	path     string
	identity identity
	fresh    bool // it was made by this Open
	lock     *flock.Flock
	fs       vfs.FS // of all but the lock
}

// openDirectory makes or opens the data directory of a member and takes it for
// this process. Its errors are of the kind final; they name the field of
// Options that is at fault.
func openDirectory(opts Options) (*directory, error) {
	path, err := filepath.Abs(opts.Dir)
	if err != nil {
		return nil, badDir(opts.Dir, err)
	}
	if err := makeDirs(path); err != nil {
		return nil, badDir(opts.Dir, err)
	}
	d := &directory{
		path: path,
		lock: flock.New(filepath.Join(path, lockFile), flock.SetPermissions(0o600)),
		fs:   opts.fs,
	}
	switch locked, err := d.lock.TryLock(); {
	case err != nil:
		return nil, badDir(opts.Dir, err)
	case !locked:
		return nil, badDir(opts.Dir, errors.New("in use by another store"))
	}
	if err := d.identify(opts); err != nil {
		d.close()
		return nil, badDir(opts.Dir, err)
	}
	return d, nil
}

// makeDirs makes a directory and those above it, each of which is then on the disk.
func makeDirs(path string) error {
	var made []string
	for p := path; ; p = filepath.Dir(p) {
		if _, err := os.Lstat(p); !errors.Is(err, fs.ErrNotExist) || p == filepath.Dir(p) {
			break
		}
		made = append(made, p)
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return err
	}
	for _, p := range made {
		if err := syncDir(vfs.Default, filepath.Dir(p)); err != nil {
			return err
		}
	}
	return nil
}

func badDir(dir string, err error) error {
	return fmt.Errorf("%w: Dir %q: %w", store.ErrBadOptions, dir, err)
}

func (d *directory) close() { d.lock.Close() }

// undo takes back what this Open has made, because the store did not start: what
// was wrong, the Members for example, may be different next time.
func (d *directory) undo() {
	if d.fresh {
		d.fs.RemoveAll(d.join(raftDir))
		d.fs.Remove(d.join(identityFile))
	}
}

func (d *directory) join(name string) string { return filepath.Join(d.path, name) }

// free is how many bytes the disk has left.
func (d *directory) free() (int64, error) {
	usage, err := d.fs.GetDiskUsage(d.path)
	return int64(min(usage.AvailBytes, math.MaxInt64)), err
}

// identify reads the directory's identity, or gives it one, and begins a new
// incarnation.
func (d *directory) identify(opts Options) error {
	want := identity{Format: identityFormat, Node: opts.Node, Members: opts.Members}
	data, err := readFile(d.fs, d.join(identityFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, err := d.fs.Stat(d.join(raftDir)); err == nil {
			return fmt.Errorf("%s is missing beside %s", identityFile, raftDir)
		}
		d.identity, d.fresh = want, true
	case err != nil:
		return err
	default:
		if err := json.Unmarshal(data, &d.identity); err != nil {
			return fmt.Errorf("%s is damaged: %w", identityFile, err)
		}
		if d.identity.Incarnation == 0 {
			return fmt.Errorf("%s is damaged: it has no incarnation", identityFile)
		}
		if err := d.identity.check(want); err != nil {
			return err
		}
		if _, err := d.fs.Stat(d.join(raftDir)); err != nil && d.identity.Started {
			return fmt.Errorf("%s is missing beside %s", raftDir, identityFile)
		}
	}
	d.identity.Incarnation = max(d.identity.Incarnation+1, uint64(time.Now().UnixNano()))
	return d.save()
}

// started records that the member is part of its group.
func (d *directory) started() error {
	if d.identity.Started {
		return nil
	}
	d.identity.Started = true
	return d.save()
}

func (d *directory) save() error {
	data, err := json.MarshalIndent(d.identity, "", "\t")
	if err != nil {
		return err
	}
	return writeFile(d.fs, d.join(identityFile), append(data, '\n'))
}

// check tells what is different between what a directory is and what it is
// opened as.
func (id identity) check(want identity) error {
	var faults []string
	if id.Format != want.Format {
		faults = append(faults, fmt.Sprintf("it has format %d, this version knows format %d", id.Format, want.Format))
	}
	if id.Node != want.Node {
		faults = append(faults, fmt.Sprintf("it belongs to Node %q, not %q", id.Node, want.Node))
	}
	if !maps.Equal(id.Members, want.Members) {
		faults = append(faults, fmt.Sprintf("it belongs to Members %s, not %s", memberList(id.Members), memberList(want.Members)))
	}
	if faults == nil {
		return nil
	}
	return errors.New(strings.Join(faults, "; "))
}

func memberList(members map[string]string) string {
	if len(members) == 0 {
		return "none"
	}
	var out []string
	for _, name := range slices.Sorted(maps.Keys(members)) {
		out = append(out, name+"="+members[name])
	}
	return strings.Join(out, ",")
}

func readFile(fs vfs.FS, path string) ([]byte, error) {
	f, err := fs.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

// writeFile replaces a file so that a crash leaves the old one or the new one.
func writeFile(fs vfs.FS, path string, data []byte) error {
	tmp := path + ".tmp"
	f, err := fs.Create(tmp)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = fs.Rename(tmp, path)
	}
	if err != nil {
		return err
	}
	return syncDir(fs, fs.PathDir(path))
}

func syncDir(fs vfs.FS, path string) error {
	dir, err := fs.OpenDir(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
