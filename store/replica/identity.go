package replica

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"dkv/store"

	"github.com/gofrs/flock"
	"github.com/lni/vfs"
)

// A data directory holds
//
//	LOCK           held by the process that has the directory open
//	IDENTITY.json  what the directory is, see identity
//	MEMBERS.json   who and where the others were last, see members; it may be missing
//	BACKUP         what the state begins with, until there is a snapshot, see takeBackup
//	raft/          Dragonboat's
const (
	lockFile     = "LOCK"
	identityFile = "IDENTITY.json"
	membersFile  = "MEMBERS.json"
	backupFile   = "BACKUP"
	raftDir      = "raft"

	identityFormat = 6
)

// identity says which member of which group the data in a directory is.
type identity struct {
	Format   int      `json:"format"`
	Node     string   `json:"node"`
	Founders []string `json:"founders"` // names of the founding members, sorted; none: it joins

	// Directory is a random number that no other directory has. Who meets the member
	// remembers it, so that one whose directory was lost is not taken for the same.
	Directory uint64 `json:"directory"`

	// Member is what Dragonboat takes for the member's address, see membership, and
	// Replica its number in the group. One that joins has the replica 0 and no Group
	// until it is told them.
	Member  string `json:"member"`
	Replica uint64 `json:"replica"`

	// Witness is set for a member that keeps no data, which it is for ever.
	Witness bool `json:"witness,omitempty"`

	// Removed is set once the member has been told that it is one no longer.
	Removed bool `json:"removed,omitempty"`

	// Group tells groups apart, so that members of different ones do not listen to
	// each other. It comes from the names and the addresses that the founding members
	// had when the directory was made, and from the backup that it began with.
	Group uint64 `json:"group"`

	// Incarnation is greater each time that the directory is opened, so that no
	// two processes that propose to the group are ever taken for one. It is
	// the time in nanoseconds, or one more than the last if that is greater:
	// so it is greater even if an older version of the file was put back.
	Incarnation uint64 `json:"incarnation"`

	// Started is set once the member has been part of the group. If it has
	// then lost its log, it must not begin anew: it has forgotten its votes.
	Started bool `json:"started"`

	// Backup is the checksum of the backup that the directory began with, "" if it
	// began empty. BackupNeeded is set as long as no snapshot has what is in it.
	Backup       string `json:"backup,omitempty"`
	BackupNeeded bool   `json:"backup_needed,omitempty"`
}

// directory is a data directory that this process has open.
type directory struct {
	path     string
	fresh    bool   // it was made by this Open
	previous uint64 // the incarnation before this one, 0 if there was none
	lock     *flock.Flock
	fs       vfs.FS // of all but the lock

	changing sync.Mutex // held while the identity is changed
	mu       sync.Mutex // of identity, once there are several goroutines
	identity identity
}

// id is the directory's identity now.
func (d *directory) id() identity {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.identity
}

// change changes the identity, on the disk first.
func (d *directory) change(change func(id *identity)) error {
	d.changing.Lock()
	defer d.changing.Unlock()
	was := d.id()
	is := was
	if change(&is); is.equal(was) {
		return nil
	}
	if err := d.write(is); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.identity = is
	return nil
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
	d := newDirectory(opts.fs, path)
	if err := d.take(); err != nil {
		return nil, badDir(opts.Dir, err)
	}
	if err := d.identify(opts); err != nil {
		d.undo()
		d.close()
		return nil, badDir(opts.Dir, err)
	}
	return d, nil
}

func newDirectory(fs vfs.FS, path string) *directory {
	return &directory{
		path: path,
		lock: flock.New(filepath.Join(path, lockFile), flock.SetPermissions(0o600)),
		fs:   fs,
	}
}

// take takes the directory for this process.
func (d *directory) take() error {
	switch locked, err := d.lock.TryLock(); {
	case err != nil:
		return err
	case !locked:
		return errors.New("in use by another store")
	}
	return nil
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
		if d.fs.RemoveAll(d.join(raftDir)) != nil {
			return // it is no store's without an identity, and can be opened again with it
		}
		d.fs.Remove(d.join(identityFile))
		d.fs.Remove(d.join(membersFile))
		d.fs.Remove(d.join(backupFile))
	}
}

func (d *directory) join(name string) string { return filepath.Join(d.path, name) }

// free is how many bytes the disk has left.
func (d *directory) free() (int64, error) {
	usage, err := d.fs.GetDiskUsage(d.path)
	return int64(min(usage.AvailBytes, math.MaxInt64)), err
}

// readIdentity reads what the directory is, whatever that is.
func (d *directory) readIdentity() error {
	data, err := readFile(d.fs, d.join(identityFile))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, &d.identity); err != nil {
		return fmt.Errorf("%s is damaged: %w", identityFile, err)
	}
	if d.identity.Incarnation == 0 {
		return fmt.Errorf("%s is damaged: it has no incarnation", identityFile)
	}
	return nil
}

// identify reads the directory's identity, or gives it one, and begins a new
// incarnation.
func (d *directory) identify(opts Options) error {
	want := identity{Format: identityFormat, Node: opts.Node, Witness: opts.Witness}
	if !opts.joins() {
		want.Founders = slices.Sorted(maps.Keys(opts.Members))
	}
	err := d.readIdentity()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, err := d.fs.Stat(d.join(raftDir)); err == nil {
			return fmt.Errorf("%s is missing beside %s", identityFile, raftDir)
		}
		if opts.Witness && !opts.joins() {
			return errors.New("it is new, and Witness is set with Members and without Join: a founding member has data")
		}
		if want.Backup, err = d.takeBackup(opts.Restore); err != nil {
			return err
		}
		want.BackupNeeded = want.Backup != ""
		want.Directory = rand.Uint64()
		if want.Member = joinerLabel(opts.Node, want.Directory, opts.address()); !opts.joins() {
			want.found(opts)
		}
		d.identity, d.fresh = want, true
	case err != nil:
		return err
	default:
		if err := d.identity.check(want, opts.joins()); err != nil {
			return err
		}
		if d.identity.Removed {
			return fmt.Errorf("%w; it has what was stored then, and a new directory can join under the same name", store.ErrRemoved)
		}
		if err := d.identity.checkRestore(opts.Restore); err != nil {
			return err
		}
		if _, err := d.fs.Stat(d.join(raftDir)); err != nil && d.identity.Started {
			return fmt.Errorf("%s is missing beside %s", raftDir, identityFile)
		}
	}
	d.previous = d.identity.Incarnation
	d.identity.Incarnation = max(d.identity.Incarnation+1, uint64(time.Now().UnixNano()))
	return d.write(d.identity)
}

// found makes it the identity of a founding member.
func (id *identity) found(opts Options) {
	id.Group = groupID(opts.Members, id.Backup)
	id.Member, id.Replica = opts.Node, 1
	if opts.alone() {
		id.Member = aloneLabel
	} else {
		id.Replica = uint64(slices.Index(id.Founders, opts.Node) + 1)
	}
}

// started records that the member is part of its group.
func (d *directory) started() error {
	return d.change(func(id *identity) { id.Started = true })
}

func (d *directory) write(id identity) error {
	data, err := json.MarshalIndent(id, "", "\t")
	if err != nil {
		return err
	}
	return writeFile(d.fs, d.join(identityFile), append(data, '\n'))
}

func (id identity) checkFormat() error {
	if id.Format != identityFormat {
		return fmt.Errorf("it has format %d, this version knows format %d", id.Format, identityFormat)
	}
	return nil
}

// check tells what is different between what a directory is and what it is
// opened as.
func (id identity) check(want identity, joins bool) error {
	var faults []string
	if err := id.checkFormat(); err != nil {
		faults = append(faults, err.Error())
	}
	if id.Member == aloneLabel && joins {
		faults = append(faults, "it has the data of a store that is alone, and joins no group; DB.Backup and Restore take that into a new one")
	}
	if id.Node != want.Node {
		faults = append(faults, fmt.Sprintf("it belongs to Node %q, not %q", id.Node, want.Node))
	}
	switch {
	case id.Witness && !want.Witness:
		faults = append(faults, "it is a witness' and has no data: set Witness; to have a member with data, remove the witness and join with a new Dir")
	case !id.Witness && want.Witness:
		faults = append(faults, "it has the data of a member: leave Witness out; to have a witness, remove the member and join with a new Dir")
	}
	// One that has joined may be told who founded the group, or not; one that has founded
	// it may be told to join it.
	if !isJoiner(id.Member) && !joins && !slices.Equal(id.Founders, want.Founders) {
		faults = append(faults, fmt.Sprintf("it belongs to Members %s, not %s", nameList(id.Founders), nameList(want.Founders)))
	}
	if faults == nil {
		return nil
	}
	return errors.New(strings.Join(faults, "; "))
}

func (id identity) equal(other identity) bool { return reflect.DeepEqual(id, other) }

func nameList(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ",")
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
