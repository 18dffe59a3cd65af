// Package cli is the commands for people. Each calls controllers/isolation, as the operator does, and none has a
// translation of its own.
package cli

import (
	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericiooptions"
)

// New are all commands, reading and writing these streams.
func New(streams genericiooptions.IOStreams) []*cobra.Command {
	return []*cobra.Command{newRender(streams)}
}
