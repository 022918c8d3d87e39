package main

import (
	"context"
	"fmt"
	"strconv"

	"dkv"

	"github.com/spf13/cobra"
)

func newKV() *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "kv",
		Short: "Read, write and watch keys",
	})
	c := new(clientFlags)
	c.register(cmd.PersistentFlags(), defaultShard)
	cmd.AddCommand(
		newGet(c), newHas(c), newScan(c), newWatch(c),
		newSet(c), newSetE(c), newSetIfUnset(c), newExpire(c), newDelete(c),
		newCas(c), newCad(c), newAdd(c), newTxn(c), newPerf(c),
	)
	return cmd
}

func newGet(c *clientFlags) *cobra.Command {
	var raw, stale bool
	cmd := &cobra.Command{
		Use:   "get KEY",
		Short: "Print a key's value",
		Long: `Print a key's value: "found=true, value=bar", or "found=false" with exit code 1. A
value that is not printable is in quotes; with --raw it is written as it is, and
nothing else.`,
		Args: takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.do(cmd, func(ctx context.Context, db *dkv.DB) error {
				e, found, err := getEntry(ctx, db, args[0], stale)
				if err != nil {
					return err
				}
				if !raw {
					return entryFields(e, found).printYes(cmd, found && !e.Expired)
				}
				if !found || e.Expired {
					return errNo
				}
				_, err = cmd.OutOrStdout().Write(e.Value)
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&raw, "raw", false, "write the value as it is, and nothing else")
	cmd.Flags().BoolVar(&stale, "stale", false, "what the server knows, without asking the others of its cluster")
	return cmd
}

// getEntry reads a key, of which a stale read tells no more than the value.
func getEntry(ctx context.Context, db *dkv.DB, key string, stale bool) (dkv.Entry, bool, error) {
	if !stale {
		return db.GetEntry(ctx, key)
	}
	value, found, err := db.GetStale(ctx, key)
	return dkv.Entry{Key: key, Value: value}, found, err
}

func newHas(c *clientFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "has KEY",
		Short: "Tell whether a key is there, be its value expired or not",
		Args:  takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.do(cmd, func(ctx context.Context, db *dkv.DB) error {
				found, err := db.Has(ctx, args[0])
				if err != nil {
					return err
				}
				return tell("found", found).printYes(cmd, found)
			})
		},
	}
}

func newSet(c *clientFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "set KEY VALUE",
		Short: "Give a key a value",
		Long:  `Give a key a value. For the value "-" it is read from the standard input.`,
		Args:  takes(2, 2),
		RunE:  c.set(new(deadlines)),
	}
}

func newSetE(c *clientFlags) *cobra.Command {
	d := new(deadlines)
	cmd := &cobra.Command{
		Use:   "sete KEY VALUE",
		Short: "Give a key a value that ends",
		Long: `Give a key a value, "-" for the standard input, and deadlines. When it expires the value
goes and the key stays: get does not find it, has does. Then the key is deleted.`,
		Args: takes(2, 2),
		RunE: c.set(d),
	}
	d.register(cmd.Flags())
	return cmd
}

// set carries out set and sete.
func (c *clientFlags) set(d *deadlines) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		value, err := argument(cmd, args[1])
		if err != nil {
			return err
		}
		return c.do(cmd, func(ctx context.Context, db *dkv.DB) error {
			if err := db.SetE(ctx, args[0], value, d.expire(), d.delete()); err != nil {
				return err
			}
			return tell("set", true).print(cmd)
		})
	}
}

func newSetIfUnset(c *clientFlags) *cobra.Command {
	d := new(deadlines)
	cmd := &cobra.Command{
		Use:   "setifunset KEY VALUE",
		Short: "Give a key a value unless it is there",
		Args:  takes(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			value, err := argument(cmd, args[1])
			if err != nil {
				return err
			}
			return c.do(cmd, func(ctx context.Context, db *dkv.DB) error {
				set, err := db.SetEIfUnset(ctx, args[0], value, d.expire(), d.delete())
				if err != nil {
					return err
				}
				return tell("set", set).printYes(cmd, set)
			})
		},
	}
	d.register(cmd.Flags())
	return cmd
}

// each is a command that does something to a key and has nothing to tell of it.
func (c *clientFlags) each(use, short string, f func(*dkv.DB, context.Context, string) error) *cobra.Command {
	return &cobra.Command{
		Use:   use,
		Short: short,
		Args:  takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.do(cmd, func(ctx context.Context, db *dkv.DB) error {
				if err := f(db, ctx, args[0]); err != nil {
					return err
				}
				return tell("ok", true).print(cmd)
			})
		},
	}
}

func newExpire(c *clientFlags) *cobra.Command {
	return c.each("expire KEY", "Have a key's value expire now; the key stays", func(db *dkv.DB, ctx context.Context, key string) error {
		return db.Expire(ctx, key)
	})
}

func newDelete(c *clientFlags) *cobra.Command {
	return c.each("delete KEY", "Remove a key", func(db *dkv.DB, ctx context.Context, key string) error {
		return db.Delete(ctx, key)
	})
}

func newCas(c *clientFlags) *cobra.Command {
	d := new(deadlines)
	cmd := &cobra.Command{
		Use:   "cas KEY REVISION VALUE",
		Short: "Give a key a value if it has a revision",
		Long: `Give a key a value if its revision is REVISION, 0 for a key that is not there. The
revision that it has then, or has instead, is printed. get --json tells a key's.`,
		Args: takes(3, 3),
		RunE: func(cmd *cobra.Command, args []string) error {
			rev, err := parseRevision(args[1])
			if err != nil {
				return err
			}
			value, err := argument(cmd, args[2])
			if err != nil {
				return err
			}
			return c.do(cmd, func(ctx context.Context, db *dkv.DB) error {
				now, ok, err := db.CompareAndSet(ctx, args[0], rev, value, d.expire(), d.delete())
				if err != nil {
					return err
				}
				return tell("set", ok, "revision", now).printYes(cmd, ok)
			})
		},
	}
	d.register(cmd.Flags())
	return cmd
}

func newCad(c *clientFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "cad KEY REVISION",
		Short: "Remove a key if it has a revision",
		Args:  takes(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			rev, err := parseRevision(args[1])
			if err != nil {
				return err
			}
			return c.do(cmd, func(ctx context.Context, db *dkv.DB) error {
				now, ok, err := db.CompareAndDelete(ctx, args[0], rev)
				if err != nil {
					return err
				}
				return tell("deleted", ok, "revision", now).printYes(cmd, ok)
			})
		},
	}
}

func newAdd(c *clientFlags) *cobra.Command {
	var by int64
	cmd := &cobra.Command{
		Use:   "add KEY",
		Short: "Add to the number that a key has as its value",
		Args:  takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.do(cmd, func(ctx context.Context, db *dkv.DB) error {
				sum, rev, err := db.Add(ctx, args[0], by)
				if err != nil {
					return err
				}
				return tell("sum", sum, "revision", rev).print(cmd)
			})
		},
	}
	cmd.Flags().Int64Var(&by, "by", 1, "how much to add; less than 0 to subtract")
	return cmd
}

func parseRevision(text string) (dkv.Revision, error) {
	rev, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, usage(fmt.Errorf("%q is not a revision, a number that get --json tells", text))
	}
	return dkv.Revision(rev), nil
}
