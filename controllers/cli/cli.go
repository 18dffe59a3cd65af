// Package cli is the commands for people. Each calls controllers/isolation, as the operator does, and none has a
// translation of its own.
//
//	files ──┐
//	        ├─read─► inventory ─translate─► isolation.Model, NetworkPolicies ─► render · diff · can · graph · explain
//	cluster ┘
package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericiooptions"
)

// New is the command line, reading and writing these streams.
func New(streams genericiooptions.IOStreams) *cobra.Command {
	root := &cobra.Command{
		Use:           "appisolation",
		Short:         "Say once how an application is cut off",
		Version:       version(),
		SilenceUsage:  true,
		SilenceErrors: true, // Exit says them, as kubectl does
	}
	root.SetIn(streams.In)
	root.SetOut(streams.Out)
	root.SetErr(streams.ErrOut)
	root.AddCommand(newRender(streams), newDiff(streams), newCan(streams), newGraph(streams), newExplain(streams), newImport(streams))
	if strings.HasPrefix(filepath.Base(os.Args[0]), "kubectl-") {
		asPlugin(root)
	}
	return root
}

// version is what Go built: the tag of the commit, or what stands for it.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		return info.Main.Version
	}
	return "unknown"
}

// asPlugin makes the help speak of the command as kubectl's users type it.
func asPlugin(root *cobra.Command) {
	root.Annotations = map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl " + root.Name()}
	exampleAsPlugin(root, root.Name())
}

func exampleAsPlugin(command *cobra.Command, name string) {
	command.Example = strings.NewReplacer("  "+name+" ", "  kubectl "+name+" ", "| "+name+" ", "| kubectl "+name+" ").Replace(command.Example)
	for _, sub := range command.Commands() {
		exampleAsPlugin(sub, name)
	}
}

// status is a result that a script reads off the exit status; everything else about it has been said.
type status int

func (s status) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// failure is the exit status of errors: 1 is the negative answer of a command that gives one, as with kubectl diff.
const failure = 2

// Exit is the exit status for what a command returned; an error is said first.
func Exit(err error, errOut io.Writer) int {
	var answer status
	switch {
	case err == nil:
		return 0
	case errors.As(err, &answer):
		return int(answer)
	}
	fmt.Fprintln(errOut, "error:", err)
	return failure
}
