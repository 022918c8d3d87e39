package replica

import (
	"bytes"
	"crypto/md5"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"dkv/store/replica/raftlog"

	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/dragonboat/v4/raftio"
	"github.com/lni/dragonboat/v4/raftpb"
	"github.com/lni/vfs"
)

// prepareRaftDir makes of Dragonboat's directory what Dragonboat itself would not:
//
//   - It does not depend on the machine's name, which Dragonboat would make part of it and
//     refuse to see changed: a container that is made anew on its old volume has another
//     name. The directory that has the machine's name is a link, and the file that records
//     the name is written here, without one.
//   - The files that tell whose it is are whole after a crash. Dragonboat writes them in
//     place, and refuses for ever one that it was killed in the middle of.
func prepareRaftDir(nhc config.NodeHostConfig) error {
	const data = "data"
	dir, fs := nhc.NodeHostDir, nhc.Expert.FS
	if err := fs.MkdirAll(filepath.Join(dir, data), 0o700); err != nil {
		return err
	}
	if fs == vfs.Default { // another has no links
		if err := linkHostname(dir, data); err != nil {
			return err
		}
	}
	if err := syncDir(fs, filepath.Dir(dir)); err != nil {
		return err
	}
	status := raftpb.RaftDataStatus{
		Address:         nhc.RaftAddress,
		BinVer:          raftio.PlainLogDBBinVersion,
		LogdbType:       raftlog.Name,
		DeploymentId:    nhc.DeploymentID,
		StepWorkerCount: nhc.Expert.Engine.ExecShards,
		LogdbShardCount: nhc.Expert.LogDB.Shards,
		MaxSessionCount: 4096, // Dragonboat's constant
		EntryBatchSize:  48,   // likewise
	}
	b, err := status.Marshal()
	if err != nil {
		return err
	}
	if err := writeFlag(fs, filepath.Join(dir, "dragonboat.ds"), b, exists); err != nil {
		return err
	}
	// It names the NodeHost where members gossip, which these do not, so that another does
	// as well in the place of one that an earlier version was killed in the middle of.
	var id [16]byte
	rand.Read(id[:])
	if err := writeFlag(fs, filepath.Join(dir, "NODEHOST.ID"), id[:], isFlag); err != nil {
		return err
	}
	return syncDir(fs, dir)
}

// writeFlag writes a file as Dragonboat has its flags, behind a checksum, unless there is
// one that will do.
func writeFlag(fsys vfs.FS, path string, b []byte, willDo func(flag []byte) bool) error {
	switch flag, err := readFile(fsys, path); {
	case err == nil && willDo(flag):
		return nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	}
	return writeFile(fsys, path, append(flagSum(b), b...))
}

func exists([]byte) bool { return true }

// isFlag tells whether a flag is whole.
func isFlag(b []byte) bool { return len(b) >= 8 && bytes.Equal(b[:8], flagSum(b[8:])) }

func flagSum(b []byte) []byte {
	sum := md5.Sum(b)
	return sum[8:]
}

// linkHostname has the machine's name lead to the directory data.
func linkHostname(dir, data string) error {
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	link := filepath.Join(dir, name)
	if _, err := os.Lstat(link); !errors.Is(err, fs.ErrNotExist) || name == data {
		return err
	}
	return os.Symlink(data, link)
}
