package cli

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/controllers/isolation"
)

func newImportFlows(streams genericiooptions.IOStreams) *cobra.Command {
	var files, namespaces []string
	var name string
	command := &cobra.Command{
		Use:   "flows -f FILE",
		Short: "Draft an AppIsolation from connections that Hubble saw",
		Long: `Draft an AppIsolation for each namespace from the connections that Hubble saw: a tier for each group of pods that have
the same app labels, the ports that they were connected to on, and whom they connected to.

It reads what "hubble observe -o json" prints and what Hubble's exporter writes: an object on each line. Only connections
that were let through are drafted; dropped ones are told of. What was never seen is not in the draft: look long enough.
Lines that say nothing are counted, and the header says why.`,
		Example: `  # An hour of a namespace
  hubble observe --namespace shop --since 1h -o json | appisolation import flows -n shop -f - > shop.yaml

  # What the exporter wrote
  appisolation import flows -f events.log`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(command *cobra.Command, _ []string) error {
			if len(files) == 0 {
				return errors.New("name a file of flows with -f; - is the standard input")
			}
			seen := hubbleReader{skipped: map[string]int{}}
			for _, file := range files {
				if err := seen.readFile(file, streams.In); err != nil {
					return err
				}
			}
			drafts, untold := isolation.DraftConnections(seen.connections, namespaces, name)
			notes := seen.notes(untold)
			if drafts == nil {
				return fmt.Errorf("there is no connection to draft from:\n%s", strings.Join(notes, "\n"))
			}
			for n := range drafts {
				for _, note := range notes {
					drafts[n].Notes = append(drafts[n].Notes, isolation.Note{Text: note})
				}
			}
			return writeDrafts(streams.Out, command.CommandPath(), newInventory(), drafts)
		},
	}
	command.Flags().StringSliceVarP(&files, "filename", "f", nil, "Files of flows, an object on each line; - is the standard input.")
	command.Flags().StringSliceVarP(&namespaces, "namespace", "n", nil, "The namespaces to draft. (default: all that are seen, but kube-system)")
	addNameFlag(command, &name)
	return command
}

// hubbleReader gathers connections from what Hubble writes.
type hubbleReader struct {
	connections []isolation.SeenConnection
	// skipped counts the flows that are no connection to draft, by the reason.
	skipped map[string]int
}

func (r *hubbleReader) readFile(name string, stdin io.Reader) error {
	if name == "-" {
		return r.read("standard input", stdin)
	}
	file, err := os.Open(name) //nolint:gosec // a file that the user names
	if err != nil {
		return err
	}
	defer file.Close()
	return r.read(name, file)
}

func (r *hubbleReader) read(name string, from io.Reader) error {
	lines := bufio.NewReader(from)
	for number := 1; ; number++ {
		line, err := lines.ReadBytes('\n')
		if len(strings.TrimSpace(string(line))) > 0 {
			if err := r.readLine(line); err != nil {
				return fmt.Errorf("%s:%d: %w", name, number, err)
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s:%d: %w", name, number, err)
		}
	}
}

// hubbleLine is a line of Hubble's: a flow in an envelope, a flow, or another event.
type hubbleLine struct {
	Flow *hubbleFlow `json:"flow"`
	hubbleFlow
}

// hubbleFlow is what we read of a flow (https://docs.cilium.io/en/stable/_api/v1/flow/README/#flow).
type hubbleFlow struct {
	Verdict string `json:"verdict"`
	IP      struct {
		Source      string `json:"source"`
		Destination string `json:"destination"`
	} `json:"IP"`
	L4 struct {
		TCP, UDP, SCTP *hubblePorts
	} `json:"l4"`
	Source           hubbleEndpoint `json:"source"`
	Destination      hubbleEndpoint `json:"destination"`
	SourceNames      []string       `json:"source_names"`
	DestinationNames []string       `json:"destination_names"`
	// IsReply is absent where it is not known.
	IsReply *bool `json:"is_reply"`
}

type hubblePorts struct {
	Destination int32 `json:"destination_port"`
	Flags       struct{ SYN, ACK bool }
}

type hubbleEndpoint struct {
	Namespace string   `json:"namespace"`
	Labels    []string `json:"labels"`
	Workloads []struct {
		Name string `json:"name"`
	} `json:"workloads"`
}

func (r *hubbleReader) readLine(line []byte) error {
	var read hubbleLine
	if err := json.Unmarshal(line, &read); err != nil {
		return fmt.Errorf("this is no flow of Hubble's: %w", err)
	}
	flow := &read.hubbleFlow
	if read.Flow != nil {
		flow = read.Flow
	}
	if reason := flow.useless(); reason != "" {
		r.skipped[reason]++
		return nil
	}
	port, _ := flow.port()
	r.connections = append(r.connections, isolation.SeenConnection{
		From:    flow.Source.party(flow.IP.Source, flow.SourceNames),
		To:      flow.Destination.party(flow.IP.Destination, flow.DestinationNames),
		Port:    port,
		Dropped: flow.Verdict == "DROPPED",
	})
	return nil
}

// useless says why a flow is no connection to draft; empty if it is one.
func (f *hubbleFlow) useless() string {
	for _, u := range uses {
		if !u.has(f) {
			return u.without
		}
	}
	return ""
}

// uses are what a connection to draft has, and what a flow is that does not.
var uses = []struct {
	has     func(*hubbleFlow) bool
	without string
}{
	{func(f *hubbleFlow) bool { return f.Verdict != "" }, "no flow but another event"},
	{
		func(f *hubbleFlow) bool {
			return slices.Contains([]string{"FORWARDED", "REDIRECTED", "DROPPED"}, f.Verdict)
		},
		"with a verdict that is neither let through nor dropped",
	},
	{func(f *hubbleFlow) bool { return f.reply() != yes }, "a reply, which needs no rule"},
	{func(f *hubbleFlow) bool { _, has := f.port(); return has }, "no TCP, UDP or SCTP port, so no matter of NetworkPolicies"},
	{func(f *hubbleFlow) bool { return f.reply() == no }, "it does not say whether it is a reply"},
	{
		func(f *hubbleFlow) bool {
			return !f.Source.is("host") && !f.Source.is("health") && !f.Destination.is("health")
		},
		"the pod's own node, which may always connect, or Cilium's health check",
	},
	{func(f *hubbleFlow) bool { return f.Source.isKnown() && f.Destination.isKnown() }, "Cilium did not know one of the two ends"},
}

// answer is yes, no, or not known.
type answer int

const (
	unknown answer = iota
	yes
	no
)

// reply says whether it is a reply. Where Hubble does not know, the first packets of TCP do.
func (f *hubbleFlow) reply() answer {
	said := f.IsReply
	if said == nil && f.L4.TCP != nil && f.L4.TCP.Flags.SYN {
		said = &f.L4.TCP.Flags.ACK
	}
	switch {
	case said == nil:
		return unknown
	case *said:
		return yes
	}
	return no
}

func (f *hubbleFlow) port() (isolation.Port, bool) {
	for _, l4 := range []struct {
		protocol v1alpha1.Protocol
		ports    *hubblePorts
	}{{v1alpha1.ProtocolTCP, f.L4.TCP}, {v1alpha1.ProtocolUDP, f.L4.UDP}, {v1alpha1.ProtocolSCTP, f.L4.SCTP}} {
		if l4.ports != nil && l4.ports.Destination > 0 {
			return isolation.Port{Protocol: l4.protocol, Port: intstr.FromInt32(l4.ports.Destination)}, true
		}
	}
	return isolation.Port{}, false
}

func (e *hubbleEndpoint) is(reserved string) bool {
	return slices.Contains(e.Labels, "reserved:"+reserved)
}

type hubbleEntity struct {
	reserved string
	entity   v1alpha1.Entity
}

// hubbleEntities are what Cilium's reserved identities are to us, the narrower first. The world is its addresses.
var hubbleEntities = []hubbleEntity{
	{"kube-apiserver", v1alpha1.EntityKubeAPIServer},
	{"ingress", v1alpha1.EntityIngressController},
	{"remote-node", v1alpha1.EntityNodes},
	{"host", v1alpha1.EntityNodes},
}

// isKnown says whether it is a pod, an entity, or surely an address outside: what Cilium does not know may be any of them.
func (e *hubbleEndpoint) isKnown() bool {
	return e.Namespace != "" || slices.ContainsFunc(e.Labels, func(label string) bool {
		outside := strings.HasPrefix(label, "reserved:world") || strings.HasPrefix(label, "cidr:") || strings.HasPrefix(label, "fqdn:")
		return outside || slices.ContainsFunc(hubbleEntities, func(known hubbleEntity) bool { return label == "reserved:"+known.reserved })
	})
}

func (e *hubbleEndpoint) party(address string, names []string) isolation.SeenEnd {
	if e.Namespace == "" {
		for _, known := range hubbleEntities {
			if e.is(known.reserved) {
				return isolation.SeenEnd{Entity: known.entity}
			}
		}
		return isolation.SeenEnd{Address: address, Names: names}
	}
	party := isolation.SeenEnd{Namespace: e.Namespace, Labels: map[string]string{}}
	for _, label := range e.Labels {
		key, value, _ := strings.Cut(strings.TrimPrefix(label, "k8s:"), "=")
		if !strings.HasPrefix(key, "io.kubernetes.") && !strings.HasPrefix(key, "io.cilium.") {
			party.Labels[key] = value
		}
	}
	if len(e.Workloads) > 0 {
		party.Workload = e.Workloads[0].Name
	}
	return party
}

// notes say what was read and is in no draft.
func (r *hubbleReader) notes(untold []string) []string {
	var notes []string
	for _, reason := range sortedKeys(r.skipped) {
		notes = append(notes, fmt.Sprintf("%d passed over: %s", r.skipped[reason], reason))
	}
	for _, connection := range untold {
		notes = append(notes, "not drafted, as none of the two is a pod of a drafted namespace that has labels: "+connection)
	}
	return notes
}
