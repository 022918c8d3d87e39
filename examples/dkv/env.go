package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/pflag"
)

const envPrefix = "DKV_"

// aliases are other names of flags.
var aliases = map[string]string{"endpoints": "transport-endpoints", "dir": "data-dir"}

func normalizeFlag(_ *pflag.FlagSet, name string) pflag.NormalizedName {
	if known, ok := aliases[name]; ok {
		name = known
	}
	return pflag.NormalizedName(name)
}

// envName is the environment variable of a flag.
func envName(flag string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// bindEnv sets the flags that are not on the command line from the environment. A
// variable that is empty counts as one that is not there.
func bindEnv(flags *pflag.FlagSet, lookup func(string) (string, bool)) error {
	var faults []error
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Changed || f.Name == "help" {
			return
		}
		names := []string{envName(f.Name)}
		for alias, name := range aliases {
			if name == f.Name {
				names = append(names, envName(alias))
			}
		}
		for _, name := range names {
			value, _ := lookup(name)
			if value == "" {
				continue
			}
			// The text of the error leaves the value out: it may be a secret.
			if err := f.Value.Set(value); err != nil {
				faults = append(faults, fmt.Errorf("environment variable %s: not a value of --%s (%s)", name, f.Name, f.Value.Type()))
			}
			f.Changed = true
			return
		}
	})
	return errors.Join(faults...)
}
