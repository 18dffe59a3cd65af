// Command bench measures the operator on a control plane of its own, in units of what the same API server can do at
// all in the same run, and writes the figures to docs/benchmarks.md. It is run by `make bench`.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"sigs.k8s.io/controller-runtime/pkg/log"
)

func main() {
	page := flag.String("page", "", "The Markdown file whose tables are written; none means that they are only printed.")
	only := flag.String("only", ".", "A regular expression: the measurements that run.")
	profile := flag.String("profile", "", "The folder for profiles of the operator, cpu and heap; nothing else is done then.")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	log.SetLogger(logr.Discard())
	if err := run(ctx, *page, *only, *profile); err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}

// figure is a line of the table.
type figure struct{ name, meaning, measured, goal string }

// measurements are in the order in which they are made: the longest come last.
var measurements = []struct {
	name string
	run  func(context.Context, *world) ([]figure, error)
}{
	{"largest", largest},
	{"latency", latency},
	{"throughput", throughput},
	{"memory", memory},
	{"failover", failover},
	{"law", law},
	{"churn", churn},
}

func run(ctx context.Context, page, only, profile string) error {
	which, err := regexp.Compile(only)
	if err != nil {
		return err
	}
	w, err := newWorld(ctx)
	if err != nil {
		return err
	}
	defer w.stop()
	if profile != "" {
		return w.profile(ctx, profile)
	}
	var figures []figure
	for _, m := range measurements {
		if !which.MatchString(m.name) {
			continue
		}
		start := time.Now()
		fmt.Fprintf(os.Stderr, "%s\n", m.name)
		fresh, err := m.run(ctx, w)
		if err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
		fmt.Fprintf(os.Stderr, "  done in %s\n", time.Since(start).Round(time.Second))
		figures = append(figures, fresh...)
		if page != "" { // what is measured is kept, whatever happens to the rest
			if err := replace(page, machine()+"\n"+tabulate(figures)); err != nil {
				return err
			}
		}
	}
	fmt.Print(tabulate(figures))
	return nil
}

// tabulate is the figures as a table in Markdown.
func tabulate(figures []figure) string {
	var out strings.Builder
	fmt.Fprintln(&out, "| figure | meaning | measured | goal |\n|---|---|---|---|")
	for _, f := range figures {
		fmt.Fprintf(&out, "| %s | %s | %s | %s |\n", f.name, f.meaning, f.measured, f.goal)
	}
	return out.String()
}

// The measured part of the page is between these.
const begin, end = "<!-- measured -->\n", "<!-- /measured -->\n"

// replace writes the measured part of a page anew.
func replace(page, measured string) error {
	text, err := os.ReadFile(page)
	if err != nil {
		return err
	}
	before, rest, found := strings.Cut(string(text), begin)
	_, after, ended := strings.Cut(rest, end)
	if !found || !ended {
		return fmt.Errorf("%s has no lines %q and %q", page, strings.TrimSpace(begin), strings.TrimSpace(end))
	}
	return os.WriteFile(page, []byte(before+begin+"\n"+measured+"\n"+end+after), 0o644)
}

// progress shows how far a long measurement is.
func progress(format string, values ...any) {
	fmt.Fprintf(io.Writer(os.Stderr), "  "+format+"\n", values...)
}
