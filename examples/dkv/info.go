package main

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"

	"dkv"

	"github.com/spf13/cobra"
)

func newInfo() *cobra.Command {
	c := new(clientFlags)
	cmd := &cobra.Command{
		Use:   "info",
		Short: "Describe a shard as a server sees it",
		Long: `Describe the store of a shard as the server does that answers. Replicated shards are
parts of one store, and the numbers are those of the whole.`,
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.do(cmd, func(ctx context.Context, db *dkv.DB) error {
				info, err := db.Info(ctx)
				if err != nil {
					return err
				}
				f := infoFields(info)
				if asJSON(cmd) {
					return f.print(cmd)
				}
				for _, field := range f {
					fmt.Fprintf(cmd.OutOrStdout(), "%s=%s\n", field.name, plain(field.value))
				}
				return nil
			})
		},
	}
	c.register(cmd.Flags(), defaultShard)
	return cmd
}

func infoFields(i dkv.Info) fields {
	f := tell(
		"mode", i.Mode, "revision", i.Revision,
		"keys", i.Keys, "locks", i.Locks, "waiters", i.Waiters, "bytes", i.Bytes, "size", i.Size,
		"watches", i.Watches, "views", i.Views, "retained", i.Retained, "retainedBytes", i.RetainedBytes,
	)
	if i.Mode != "memory" {
		f = append(f, tell("node", i.Node, "leader", i.Leader, "members", i.Members, "applied", i.Applied, "progress", i.Progress)...)
	}
	return f
}

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			version, revision := "unknown", ""
			if b, ok := debug.ReadBuildInfo(); ok {
				version = b.Main.Version
				for _, s := range b.Settings {
					if s.Key == "vcs.revision" {
						revision = s.Value
					}
				}
			}
			f := tell("version", version)
			if revision != "" {
				f = append(f, tell("commit", revision)...)
			}
			f = append(f, tell("go", runtime.Version(), "platform", runtime.GOOS+"/"+runtime.GOARCH)...)
			return f.print(cmd)
		},
	}
}
