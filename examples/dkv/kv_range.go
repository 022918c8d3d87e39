package main

import (
	"context"
	"fmt"
	"time"

	"dkv"

	"github.com/spf13/cobra"
)

func newScan(c *clientFlags) *cobra.Command {
	var r dkv.Range
	cmd := &cobra.Command{
		Use:   "scan",
		Short: "Print the keys of a range in their order, with their values",
		Long: `Print the keys of a range in their order, with their values, as they were at one moment.
With --json there is one object on each line. The timeout is for each step.`,
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.use(func(db *dkv.DB) error {
				ctx, cancel := context.WithCancelCause(cmd.Context())
				defer cancel(nil)
				timeout := time.AfterFunc(time.Duration(c.timeout), func() { cancel(context.DeadlineExceeded) })
				for e, err := range db.Scan(ctx, r) {
					timeout.Stop() // whoever reads what is printed may take its time
					if err != nil {
						return err
					}
					if err := scanFields(e, r.KeysOnly).print(cmd); err != nil {
						return err
					}
					timeout.Reset(time.Duration(c.timeout))
				}
				return nil
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&r.Prefix, "prefix", "", "keys that begin with it")
	flags.StringVar(&r.From, "from", "", "the least key")
	flags.StringVar(&r.To, "to", "", "the first key beyond")
	flags.StringVar(&r.After, "after", "", "begin behind this key, where a scan was left off")
	flags.BoolVar(&r.Reverse, "reverse", false, "from the greatest key to the least")
	flags.IntVar(&r.Limit, "limit", 0, "how many at most; 0 for no limit")
	flags.BoolVar(&r.KeysOnly, "keys-only", false, "leave the values out")
	return cmd
}

func scanFields(e dkv.Entry, keysOnly bool) fields {
	f := tell("key", e.Key)
	switch {
	case e.Expired:
		f = append(f, tell("expired", true)...)
	case !keysOnly:
		f = append(f, tell("value", e.Value)...)
	}
	return f.detail("revision", e.Revision).deadlines(e.ExpireIn, e.DeleteIn)
}

func newWatch(c *clientFlags) *cobra.Command {
	var w dkv.Watch
	var from uint64
	var count int
	cmd := &cobra.Command{
		Use:   "watch [KEY]",
		Short: "Print changes of a key, a prefix or everything until interrupted",
		Long: `Print changes of a key, of all keys with a prefix, or of everything, until interrupted.
With --json there is one object on each line. "watching" on the standard error output
says that no change is missed from now on.`,
		Args: takes(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				w.Key = args[0]
				if w.Key == "" {
					return dkv.ErrEmptyKey
				}
			}
			w.From = dkv.Revision(from)
			return c.use(func(db *dkv.DB) error {
				if err := c.ready(cmd.Context(), db); err != nil {
					return err
				}
				events, err := db.Watch(cmd.Context(), w)
				if err != nil {
					return err
				}
				fmt.Fprintln(cmd.ErrOrStderr(), "watching")
				n := 0
				for ev, err := range events {
					if cmd.Context().Err() != nil {
						return nil // interrupted, which is how a watch ends
					}
					if err != nil {
						return err
					}
					if err := eventFields(ev).print(cmd); err != nil {
						return err
					}
					if n++; n == count {
						break
					}
				}
				return nil
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&w.Prefix, "prefix", "", "keys that begin with it")
	flags.Uint64Var(&from, "from", 0, "revision of the first change that is of interest; 0 for what changes from now on")
	flags.IntVar(&count, "count", 0, "end after that many; 0 for no end")
	return cmd
}

func eventFields(ev dkv.Event) fields {
	f := tell("revision", ev.Revision, "type", ev.Type.String(), "key", ev.Key)
	if ev.Type == dkv.EventSet {
		f = append(f, tell("value", ev.Value)...)
	}
	return f.detail("byDeadline", ev.ByDeadline)
}
