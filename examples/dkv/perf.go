package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"dkv"

	"github.com/spf13/cobra"
)

// perf is a measurement of some servers.
type perf struct {
	*clientFlags
	threads, keys       int
	valueSize, largeKiB int
	duration            seconds
	skip                []string
	csvFile, svgFile    string

	// What prepare makes.
	prefix       string // of its keys, so that they meet no others
	value, large []byte
	largeKeys    int
	progress     io.Writer
	terminal     bool // progress is one
}

// perfTests are the tests in their order.
var perfTests = []string{"set", "get", "has", "set-large", "get-large", "mixed", "delete"}

// maxLargeBytes bounds what the large values take together.
const maxLargeBytes = 64 << 20

func newPerf(c *clientFlags) *cobra.Command {
	p := &perf{clientFlags: c}
	cmd := &cobra.Command{
		Use:   "perf",
		Short: "Measure how fast servers are",
		Long: `Measure how fast servers are: some threads share one client and do one operation after
the other for a while, on keys that are removed at the end. The tests are ` + strings.Join(perfTests, ", ") + `;
mixed is three reads for each write. Large values are of as many keys as take 64 MiB
together.`,
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := p.check(); err != nil {
				return usage(err)
			}
			return p.use(func(db *dkv.DB) error { return p.run(cmd, db) })
		},
	}
	flags := cmd.Flags()
	flags.IntVar(&p.threads, "threads", 10, "how many operations at a time")
	flags.IntVar(&p.keys, "keys", 100, "number of keys")
	flags.IntVar(&p.valueSize, "value-size", 128, "size of values in bytes")
	flags.IntVar(&p.largeKiB, "large-value-size", 128, "size of large values in KiB")
	secondsVar(flags, &p.duration, "duration", 2*time.Second, "how long each test takes, as 2 or 2s")
	flags.StringSliceVar(&p.skip, "skip", nil, "tests to leave out, separated by commas")
	flags.StringVar(&p.csvFile, "csv", "", "write the results to a `file` as CSV")
	flags.StringVar(&p.svgFile, "svg", "", "write a plot of the latencies to a `file` as SVG")
	return cmd
}

func (p *perf) check() error {
	var faults []error
	between := func(flag string, n, least, most int) {
		if n < least || n > most {
			faults = append(faults, fmt.Errorf("--%s: %d is not from %d to %d", flag, n, least, most))
		}
	}
	between("threads", p.threads, 1, 1<<12)
	between("keys", p.keys, 1, 1<<24)
	between("value-size", p.valueSize, 0, dkv.MaxValueSize)
	between("large-value-size", p.largeKiB, 0, dkv.MaxValueSize>>10)
	if p.duration == 0 {
		faults = append(faults, errors.New("--duration: it must not be 0"))
	}
	for _, name := range p.skip {
		if !slices.Contains(perfTests, name) {
			faults = append(faults, fmt.Errorf("--skip: there is no test %q, there are %s", name, strings.Join(perfTests, ", ")))
		}
	}
	return errors.Join(faults...)
}

// run does all tests and reports.
func (p *perf) run(cmd *cobra.Command, db *dkv.DB) error {
	ctx := cmd.Context()
	if err := p.ready(ctx, db); err != nil {
		return err
	}
	p.prepare(cmd.ErrOrStderr())
	defer p.removeAll(db)

	var results []perfResult
	for _, name := range perfTests {
		if slices.Contains(p.skip, name) {
			continue
		}
		if err := p.fill(ctx, db, name); err != nil {
			return err
		}
		r := p.measure(ctx, db, name)
		if ctx.Err() != nil && r.ops == 0 {
			break
		}
		results = append(results, r)
		if ctx.Err() != nil {
			break // interrupted; what there is is reported
		}
	}
	return p.report(cmd, results)
}

func (p *perf) report(cmd *cobra.Command, results []perfResult) error {
	var err error
	if asJSON(cmd) {
		err = printJSON(cmd.OutOrStdout(), results)
	} else {
		_, err = fmt.Fprint(cmd.OutOrStdout(), perfTable(results), "\n", perfGraph(results))
	}
	if err == nil && p.csvFile != "" {
		err = os.WriteFile(p.csvFile, p.csv(results), 0o644)
	}
	if err == nil && p.svgFile != "" {
		err = os.WriteFile(p.svgFile, perfSVG(results), 0o644)
	}
	for _, r := range results {
		if err == nil && r.ops == 0 && r.firstError != nil {
			err = fmt.Errorf("%s: no operation succeeded: %w", r.test, r.firstError)
		}
	}
	return err
}
