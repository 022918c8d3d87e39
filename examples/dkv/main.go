// Command dkv is the command line of dkv: a server of many shards that embeds it, and
// a client for keys and locks.
//
//	go -C examples/dkv install .
//
//	dkv serve
//	dkv kv set foo bar
//	dkv kv get foo
//	dkv lock run nightly -- ./report.sh
//
// Every flag can be set by an environment variable too: --log-level by DKV_LOG_LEVEL.
// The README beside this file has the commands and what their exit codes mean.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // so that a second signal ends the process at once
	os.Exit(run(ctx, os.Args[1:]))
}

// run carries out one command line and returns the exit code.
func run(ctx context.Context, args []string) int {
	var begun bool
	root := newRoot(&begun)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err != nil && !begun {
		err = usage(err) // of cobra's, or of takes
	}
	if text := message(err); text != "" {
		fmt.Fprintln(os.Stderr, text)
	}
	return exitCode(err)
}

// newRoot makes all commands. begun is set when the flags and arguments of one are all
// right.
func newRoot(begun *bool) *cobra.Command {
	root := &cobra.Command{
		Use:   "dkv",
		Short: "A replicated key-value store and lock service",
		Long: `dkv serves key-value stores and locks, and is a client of such a server.

Every flag can be set by an environment variable too: --log-level by DKV_LOG_LEVEL.
What stands on the command line counts.

Exit codes: 0 yes · 1 no: not found, not set, not acquired, not released · 2 bad usage
3 unavailable, nothing was changed · 4 it is unknown whether it was done · 5 it failed`,
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if err := bindEnv(cmd.Flags(), os.LookupEnv); err != nil {
				return usage(err)
			}
			*begun = true
			return nil
		},
	}
	root.PersistentFlags().Bool("json", false, "print the result as JSON")
	root.SetGlobalNormalizationFunc(normalizeFlag)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		if strings.HasPrefix(err.Error(), "unknown shorthand flag") {
			err = fmt.Errorf("%w (put -- before arguments that begin with -)", err)
		}
		return usage(err)
	})
	group(root)
	root.AddCommand(newServe(), newKV(), newLock(), newBackup(), newInfo(), newVersion())
	return root
}

// group makes a command one that does nothing but have others.
func group(cmd *cobra.Command) *cobra.Command {
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		hint := cmd.CommandPath() + " --help lists them"
		if similar := cmd.SuggestionsFor(args[0]); len(similar) > 0 {
			hint = "did you mean " + strings.Join(similar, " or ") + "?"
		}
		return usage(fmt.Errorf("there is no command %q: %s", cmd.CommandPath()+" "+args[0], hint))
	}
	cmd.SuggestionsMinimumDistance = 2
	return cmd
}

// takes has a command take so many arguments.
func takes(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < least || len(args) > most {
			return fmt.Errorf("wrong number of arguments, %d; usage: %s", len(args), cmd.UseLine())
		}
		return nil
	}
}
