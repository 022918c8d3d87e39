package main

import (
	"context"
	"fmt"
	"time"

	"dkv"

	"github.com/spf13/cobra"
)

func newLock() *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "lock",
		Short: "Acquire and release locks, and run commands under them",
	})
	c := new(clientFlags)
	c.register(cmd.PersistentFlags(), defaultLockShard)
	cmd.AddCommand(newAcquire(c), newRelease(c), newLockRun(c))
	return cmd
}

func newAcquire(c *clientFlags) *cobra.Command {
	var ttl seconds
	cmd := &cobra.Command{
		Use:   "acquire KEY",
		Short: "Take a lock if nobody holds it",
		Long: `Take a lock if nobody holds it, without waiting: "acquired=true, ownerId=ID", or
"acquired=false" with exit code 1. It ends when it is released by its owner's ID, or
when its time to live is over.`,
		Args: takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.do(cmd, func(ctx context.Context, db *dkv.DB) error {
				life := time.Duration(ttl)
				if life == 0 {
					life = dkv.LockForever
				}
				owner, ok, err := db.Acquire(ctx, args[0], life)
				switch {
				case err != nil && owner != dkv.Owner{}:
					return fmt.Errorf("%w; if it was acquired, its ownerId is %v", err, owner)
				case err != nil:
					return err
				case !ok:
					return tell("acquired", false).printYes(cmd, false)
				}
				return tell("acquired", true, "ownerId", owner.String()).detail("token", owner.Token()).print(cmd)
			})
		},
	}
	secondsVar(cmd.Flags(), &ttl, "ttl", 30*time.Second, "how long the lock lives, as 30 or 30s; 0 for until it is released")
	return cmd
}

func newRelease(c *clientFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "release KEY OWNERID",
		Short: "Give a lock up that acquire has taken",
		Long: `Give a lock up: "released=true", or "released=false" with exit code 1 if that owner
does not hold it.`,
		Args: takes(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			owner, err := dkv.ParseOwner(args[1])
			if err != nil {
				return fmt.Errorf("%w; acquire tells it as ownerId", err)
			}
			return c.do(cmd, func(ctx context.Context, db *dkv.DB) error {
				released, err := db.Release(ctx, args[0], owner)
				if err != nil {
					return err
				}
				return tell("released", released).printYes(cmd, released)
			})
		},
	}
}
