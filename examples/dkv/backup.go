package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"dkv"

	"github.com/spf13/cobra"
)

func newBackup() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "backup",
		Short: "Look at backups, and make one of what a lost cluster has left",
		Long: `Look at backups, and make one of what a lost cluster has left.

Backups of a cluster that works are made by its servers, with serve --backup-dir; a new
cluster begins with one by serve --restore.`,
	}
	group(cmd)
	cmd.AddCommand(newVerify(), newRecover())
	return cmd
}

func newVerify() *cobra.Command {
	return &cobra.Command{
		Use:   "verify FILE",
		Short: "Tell what is in a backup, and whether it is whole",
		Long: `Read a backup to its end, from the standard input if FILE is -, and tell what is in it. The
exit code is 0 if it is whole, and 5 if it is damaged, of another version or not a backup.`,
		Args: takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			b, err := verify(args[0], cmd.InOrStdin())
			if err != nil {
				return err
			}
			return backupFields(b).print(cmd)
		},
	}
}

func verify(path string, stdin io.Reader) (dkv.Backup, error) {
	if path == "-" {
		return dkv.VerifyBackup(stdin)
	}
	f, err := os.Open(path)
	if err != nil {
		return dkv.Backup{}, usage(err)
	}
	defer f.Close()
	b, err := dkv.VerifyBackup(f)
	if err != nil {
		err = fmt.Errorf("%s: %w", path, err)
	}
	return b, err
}

func backupFields(b dkv.Backup) fields {
	return tell("revision", b.Revision, "keys", b.Keys, "locks", b.Locks, "bytes", b.Bytes, "checksum", b.Checksum)
}

func newRecover() *cobra.Command {
	var dir, out string
	cmd := &cobra.Command{
		Use:   "recover --data-dir=DIR --out=FILE",
		Short: "Make a backup of what one server of a lost cluster has left",
		Long: `Make a backup of what is in the --data-dir of one server, for a cluster that has lost the
data of a majority of its servers for good. A new cluster begins with it, in new
directories: serve --restore. The server must not be running. What is in the directory
stays as it is.

All that stands in the server's log is taken, also what it does not know to be committed.
What the other servers have acknowledged without this one is lost, and nothing tells how
much that is. So do this for all directories that are left, and keep the backup with the
greatest term, or, of those with the same term, the one with the greatest index. Make sure
that no server of the old cluster will ever run again beside the new one.`,
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			for flag, value := range map[string]string{"data-dir": dir, "out": out} {
				if value == "" {
					return usage(fmt.Errorf("--%s is missing; usage: %s", flag, cmd.UseLine()))
				}
			}
			if err := isFree(out); err != nil {
				return err
			}
			var b dkv.Backup
			var loss dkv.Loss
			err := writeFile(out+".tmp", func(w io.Writer) (string, error) {
				var err error
				if b, loss, err = dkv.Recover(cmd.Context(), dir, w); err != nil {
					return "", err
				}
				return out, isFree(out)
			})
			if err != nil {
				return err
			}
			fmt.Fprint(cmd.ErrOrStderr(), inWords(loss))
			f := tell("index", loss.Index, "term", loss.Term, "uncommitted", loss.Uncommitted, "committedRevision", loss.CommittedRevision)
			return append(f, backupFields(b)...).print(cmd)
		},
	}
	cmd.Flags().StringVar(&dir, "data-dir", "", "the server's `directory`; --dir is another name")
	cmd.Flags().StringVar(&out, "out", "", "`file` to write the backup to, which must not be there")
	return cmd
}

// inWords tells what a recovery has taken too much, and what it may lack.
func inWords(loss dkv.Loss) string {
	text := fmt.Sprintf("The last log entry that was taken has index %d and term %d.\n", loss.Index, loss.Term)
	if loss.Uncommitted > 0 {
		text += fmt.Sprintf("The last %d entries were not known to be committed. They may have been acknowledged, so\n"+
			"they were taken; writes in them whose outcome was unknown have their effect now.\n", loss.Uncommitted)
		if loss.Revision > loss.CommittedRevision {
			text += fmt.Sprintf("Their changes have the revisions from %d to %d.\n", loss.CommittedRevision+1, loss.Revision)
		}
	} else {
		text += "All of it was known to be committed.\n"
	}
	return text + "What the other servers have acknowledged without this one is lost; nothing tells how much\n" +
		"that is. Recover from each directory that is left, and take the backup with the greatest\n" +
		"term, or, of those with the same term, the one with the greatest index.\n"
}

// isFree tells whether there is no file of that name.
func isFree(path string) error {
	_, err := os.Lstat(path)
	if err == nil {
		return usage(fmt.Errorf("%s is there already", path))
	}
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// writeFile has write fill a file and return the name that it gets once all of it is on
// the disk. Whatever goes wrong, nothing of that name is left that is not whole.
func writeFile(tmp string, write func(w io.Writer) (path string, err error)) error {
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	path, err := write(f)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		os.Remove(tmp)
		return err
	}
	return syncDir(filepath.Dir(path))
}

// syncDir has the names in a directory be on the disk.
func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// writeBackup writes a backup of db to a directory and returns the path.
func writeBackup(ctx context.Context, db *dkv.DB, dir string) (path string, b dkv.Backup, err error) {
	err = writeFile(filepath.Join(dir, backupTemp), func(w io.Writer) (string, error) {
		if b, err = db.Backup(ctx, w); err != nil {
			return "", err
		}
		path = filepath.Join(dir, backupName(b.Revision))
		return path, nil
	})
	return path, b, err
}
