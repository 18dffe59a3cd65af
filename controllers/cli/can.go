package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/controllers/isolation"
)

// The exit statuses of can.
const (
	statusBlocked status = 1
	statusUnknown status = 3
)

func newCan(streams genericiooptions.IOStreams) *cobra.Command {
	var from source
	var output string
	command := &cobra.Command{
		Use:   "can FROM TO[:PORT[/PROTOCOL]]",
		Short: "Say whether FROM can connect to TO, and why",
		Long: `Say whether FROM can connect to TO: Open, Blocked or Unknown, with the line of the declaration that opens it, or what is
missing for it and the YAML to add, and with all other NetworkPolicies that take part.

FROM and TO are each one of

  APP/TIER            the pods of an application's tier
  pod/NAME            a pod, or in files what a Deployment or its like makes
  namespace/NAME      all pods of a namespace
  203.0.113.7         an address, or a range: 203.0.113.0/24; an IPv6 address before a port is in brackets: [2001:db8::7]:443
  World               an entity: All, World, KubeAPIServer, IngressController, Monitoring, Nodes

NAMESPACE/APP/TIER and NAMESPACE/pod/NAME are those of another namespace than -n says. PORT is the pod's, not the
Service's: a number, a range, or a name. Without it, those that TO declares are asked about, or else those that policies speak of.

Without files it judges all NetworkPolicies of the cluster, whoever wrote them, and the pods that run. With files it
judges what the AppIsolations, profiles and NetworkPolicies in them say, and nothing else.

The exit status is 0 for Open, 1 for Blocked, 3 for Unknown, and 2 for an error.`,
		Example: `  # May the web tier reach the database? On a cluster
  appisolation can -n shop shop/web shop/db:3306

  # The same of files
  appisolation can -f config/samples/web-api-db.yaml shop/web shop/db:mysql

  # Who lets the world in?
  appisolation can -k config/samples World shop/web`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: from.completeSides,
		RunE: func(command *cobra.Command, args []string) error {
			show, known := map[string]func(io.Writer, *reply) error{"": showText, "json": showJSON, "yaml": showYAML, "name": showState}[output]
			if !known {
				return fmt.Errorf("-o %s: write json, yaml or name", output)
			}
			reply, err := can(command.Context(), &from, streams.ErrOut, args[0], args[1])
			if err != nil {
				return err
			}
			if err := show(streams.Out, reply); err != nil {
				return err
			}
			return map[isolation.State]error{isolation.Blocked: statusBlocked, isolation.Unknown: statusUnknown}[reply.state()]
		},
	}
	from.addFlags(command.Flags())
	command.Flags().StringVarP(&output, "output", "o", "", "How to print it: json, yaml, or name for the answer alone.")
	return command
}

// reply is all that there is to say to a question.
type reply struct {
	found    *inventory
	from, to string
	a, b     isolation.Side
	answers  []isolation.Answer
	// declared are the answers if what is declared were in force.
	declared []isolation.Answer
}

// state is the answer to the whole: unknown, if ports differ.
func (r *reply) state() isolation.State {
	for _, answer := range r.answers {
		if answer.State != r.answers[0].State {
			return isolation.Unknown
		}
	}
	return r.answers[0].State
}

func can(ctx context.Context, from *source, warnings io.Writer, fromText, toText string) (*reply, error) {
	toText, portText := cutPort(toText)
	found, err := from.readFor(ctx, warnings, fromText, toText)
	if err != nil {
		return nil, err
	}
	namespace, err := from.namespaceOf(found)
	if err != nil {
		return nil, err
	}
	r := &reply{found: found, from: fromText, to: toText}
	if r.a, r.b, err = found.sides(namespace, fromText, toText); err != nil {
		return nil, err
	}
	inForce, declared, err := found.networks(warnings, r.a.App, r.b.App)
	if err != nil {
		return nil, err
	}
	ports := inForce.AskedPorts(r.a, r.b)
	if portText != "" {
		port, err := isolation.ParsePort(portText, r.b)
		if err != nil {
			return nil, err
		}
		ports = []isolation.Port{port}
	}
	if len(ports) == 0 {
		return nil, fmt.Errorf("%s declares no ports: name one, as in %s:8080", toText, toText)
	}
	for _, port := range ports {
		r.answers = append(r.answers, inForce.Ask(r.a, r.b, port))
		r.declared = append(r.declared, declared.Ask(r.a, r.b, port))
	}
	return r, nil
}

// readFor reads the files, or what a question is about on a cluster. Whose an address or an entity is, only the whole
// cluster knows: who may not read that gets the namespaces that are named.
func (s *source) readFor(ctx context.Context, warnings io.Writer, texts ...string) (*inventory, error) {
	if s.hasFiles() {
		return s.readFiles()
	}
	found, err := s.readClusterFor(ctx, warnings, texts...)
	return found, orFiles(err)
}

func (s *source) readClusterFor(ctx context.Context, warnings io.Writer, texts ...string) (*inventory, error) {
	current, err := s.currentNamespace()
	if err != nil {
		return nil, err
	}
	in, everywhere := []string{}, false
	for _, text := range texts {
		w := parseWho(text)
		everywhere = everywhere || w.isAddress() || w.entity != ""
		s.asksAPIServer = s.asksAPIServer || w.entity == v1alpha1.EntityKubeAPIServer
		in = append(in, w.in(current))
	}
	if everywhere {
		found, err := s.readCluster(ctx, warnings, nil)
		if !apierrors.IsForbidden(err) {
			return found, err
		}
		fmt.Fprintf(warnings, "warning: %v: only %s is read, so that an address may be that of a pod elsewhere\n", err, current)
	}
	own := in[0]
	if slices.Contains(in, current) {
		own = current
	}
	slices.Sort(in)
	s.nearby = slices.DeleteFunc(slices.Compact(in), func(namespace string) bool { return namespace == own })
	return s.readCluster(ctx, warnings, []string{own})
}

// namespaceOf is the namespace of whoever is named without one. Among files there is none, unless -n says so.
func (s *source) namespaceOf(found *inventory) (string, error) {
	if found.live {
		return s.currentNamespace()
	}
	return *s.cluster.Namespace, nil
}

// who is one side of a question as it was put.
type who struct {
	// text is the whole. One of the others is set, namespace beside each of the first three.
	text      string
	namespace string
	app, tier string
	pod       string
	all       bool
	entity    v1alpha1.Entity
	addresses netip.Prefix
}

func (w who) isAddress() bool { return w.addresses.IsValid() }

// in is the namespace that it is in, by itself or else by the current one.
func (w who) in(current string) string {
	if w.namespace != "" {
		return w.namespace
	}
	return current
}

var entities = []v1alpha1.Entity{
	v1alpha1.EntityAll, v1alpha1.EntityWorld, v1alpha1.EntityKubeAPIServer,
	v1alpha1.EntityIngressController, v1alpha1.EntityMonitoring, v1alpha1.EntityNodes,
}

// parseWho reads a side of a question; one that is none has nothing set.
func parseWho(text string) who {
	w := who{text: text}
	bare := strings.Trim(text, "[]")
	if address, err := netip.ParseAddr(bare); err == nil {
		w.addresses = netip.PrefixFrom(address.Unmap(), address.Unmap().BitLen())
		return w
	}
	if prefix, err := netip.ParsePrefix(bare); err == nil {
		w.addresses = prefix.Masked()
		return w
	}
	for _, entity := range entities {
		if strings.EqualFold(text, string(entity)) {
			w.entity = entity
			return w
		}
	}
	parts := strings.Split(text, "/")
	if len(parts) == 3 {
		w.namespace, parts = parts[0], parts[1:]
	}
	_, notAddress := netip.ParseAddr(parts[0])
	switch {
	case len(parts) != 2 || notAddress == nil: // 10.0.0.0/33 is a range that is none
	case parts[0] == "pod":
		w.pod = parts[1]
	case parts[0] == "namespace" || parts[0] == "ns":
		w.namespace, w.all = parts[1], true
	default:
		w.app, w.tier = parts[0], parts[1]
	}
	return w
}

// cutPort takes the port off a side of a question; the colons of an IPv6 address are none.
func cutPort(text string) (side, port string) {
	if parseWho(text).isAddress() {
		return text, ""
	}
	if i := strings.LastIndex(text, ":"); i >= 0 {
		return text[:i], text[i+1:]
	}
	return text, ""
}

// sides finds who is meant by both texts. Entities are as the profile of the other side's namespace says, so that the
// other side is found first.
func (i *inventory) sides(namespace, from, to string) (a, b isolation.Side, err error) {
	one, other := parseWho(from), parseWho(to)
	var errA error
	if one.entity == "" {
		a, errA = i.side(one, namespace, "")
	}
	b, errB := i.side(other, namespace, one.whereabouts(a, namespace))
	if one.entity != "" {
		a, errA = i.side(one, namespace, other.whereabouts(b, namespace))
	}
	if errA != nil && errB != nil && errA.Error() == errB.Error() {
		return a, b, errA
	}
	return a, b, errors.Join(errA, errB)
}

// whereabouts is the namespace that a side was found in, or else where it was said to be. An entity says none: its pods
// are anywhere.
func (w who) whereabouts(side isolation.Side, current string) string {
	if w.entity == "" && len(side.Parties) > 0 {
		return cmp.Or(side.Parties[0].Namespace, w.in(current))
	}
	return w.in(current)
}

// side finds who is meant.
func (i *inventory) side(w who, namespace, others string) (isolation.Side, error) {
	switch {
	case w.isAddress():
		return i.addressSide(w), nil
	case w.entity != "":
		return i.entitySide(w.entity, others)
	case w.all && i.live && !i.partial && i.namespaces[w.namespace] == nil:
		return isolation.Side{}, fmt.Errorf("there is no namespace %s: correct the name", w.namespace)
	case w.all:
		return isolation.NamespaceSide(w.namespace, i.namespaces[w.namespace], i.livePods()), nil
	case w.pod != "":
		pod, err := only(i.pods, "pod", types.NamespacedName{Namespace: w.in(namespace), Name: w.pod})
		if err != nil {
			return isolation.Side{}, err
		}
		return isolation.PodSide(pod, i.namespaces[pod.Namespace], i.apps), nil
	case w.app != "":
		return i.tierSide(w, namespace)
	}
	return isolation.Side{}, fmt.Errorf("%q: write APP/TIER, pod/NAME, namespace/NAME, an address or an entity (%s)", w.text, listed(entities))
}

func (i *inventory) tierSide(w who, namespace string) (isolation.Side, error) {
	app, err := only(i.apps, "AppIsolation", types.NamespacedName{Namespace: w.in(namespace), Name: w.app})
	if err != nil {
		return isolation.Side{}, err
	}
	var names []v1alpha1.TierName
	for t := range app.Spec.Tiers {
		tier := &app.Spec.Tiers[t]
		if string(tier.Name) == w.tier {
			return isolation.TierSide(app, tier, i.namespaces[app.Namespace], i.pods), nil
		}
		names = append(names, tier.Name)
	}
	return isolation.Side{}, fmt.Errorf("AppIsolation %s/%s has no tier %s: it has %s", app.Namespace, app.Name, w.tier, listed(names))
}

// addressSide is a range outside and the pods with addresses in it, or the pod that has the one address. A pod on the
// host's network has its node's, and one that has ended none any more.
func (i *inventory) addressSide(w who) isolation.Side {
	outside := isolation.Side{
		Parties: []isolation.Party{isolation.RangeParty(w.addresses)},
		Peer:    v1alpha1.Peer{IPBlock: &v1alpha1.IPBlock{CIDR: w.addresses.String()}},
	}
	for _, pod := range i.pods {
		if pod.Spec.HostNetwork || isolation.HasEnded(pod) {
			continue
		}
		for _, ip := range pod.Status.PodIPs {
			address, err := netip.ParseAddr(ip.IP)
			if err != nil || !w.addresses.Contains(address.Unmap()) {
				continue
			}
			side := isolation.PodSide(pod, i.namespaces[pod.Namespace], i.apps)
			side.Parties[0] = side.Parties[0].At(address)
			if w.addresses.IsSingleIP() {
				return side
			}
			outside.Parties = append(outside.Parties, side.Parties...)
		}
	}
	return outside
}

func (i *inventory) entitySide(entity v1alpha1.Entity, others string) (isolation.Side, error) {
	profile, err := i.profile(others)
	if err != nil {
		return isolation.Side{}, err
	}
	name, _ := isolation.ProfileName(i.namespaces[others])
	facts := isolation.Facts{Namespaces: i.namespaces, APIServer: i.apiServer, Profile: profile}
	side := isolation.EntitySide(entity, facts, i.livePods())
	switch {
	case len(side.Parties) > 0:
		return side, nil
	case entity == v1alpha1.EntityKubeAPIServer:
		return side, fmt.Errorf("%s: the EndpointSlices of default/kubernetes say where it is, and are not known here", entity)
	default:
		return side, fmt.Errorf("%s: nobody has said what it is here: IsolationProfile %s can, or name the namespace or the addresses instead", entity, name)
	}
}

// livePods are the pods, if they are all that there are.
func (i *inventory) livePods() []*corev1.Pod {
	if i.live {
		return i.pods
	}
	return nil
}

// only finds the object of this name, in any namespace if none is said.
func only[T interface {
	comparable
	GetNamespace() string
	GetName() string
}](all []T, kind string, key types.NamespacedName) (T, error) {
	var found T
	var names []string
	for _, object := range all {
		if object.GetName() != key.Name || key.Namespace != "" && object.GetNamespace() != key.Namespace {
			continue
		}
		found = object
		names = append(names, object.GetNamespace())
	}
	switch {
	case len(names) == 1:
		return found, nil
	case len(slices.Compact(slices.Sorted(slices.Values(names)))) == 1:
		return found, fmt.Errorf("these files have %s %s/%s more than once: which of them is meant?", kind, names[0], key.Name)
	case len(names) > 1:
		return found, fmt.Errorf("there is more than one %s %s: write its namespace before it, or -n %s", kind, key.Name, strings.Join(names, " or -n "))
	case key.Namespace == "":
		return found, fmt.Errorf("there is no %s %s in these files", kind, key.Name)
	}
	return found, fmt.Errorf("there is no %s %s in namespace %s: correct the name, or write its namespace before it", kind, key.Name, key.Namespace)
}

func listed[T ~string](names []T) string {
	var texts []string
	for _, name := range names {
		texts = append(texts, string(name))
	}
	return strings.Join(texts, ", ")
}

// networks are what the policies say that are in force, and what they will say once all that is declared is. On a
// cluster the policies are there. In files, they are what the applications and profiles become, beside others. What is
// wrong with the applications that are asked about is said, and which others in files are left out as they are wrong.
func (i *inventory) networks(warnings io.Writer, about ...*v1alpha1.AppIsolation) (inForce, declared isolation.Network, err error) {
	translations := i.translate()
	concerned := slices.DeleteFunc(slices.Clone(translations), func(t translation) bool { return !slices.Contains(about, t.app) })
	err = i.check(concerned, warnings)
	if !i.live {
		others := slices.DeleteFunc(slices.Clone(translations), func(t translation) bool { return slices.Contains(about, t.app) })
		if errOthers := i.check(others, io.Discard); errOthers != nil {
			fmt.Fprintln(warnings, "warning: left out:", errOthers)
		}
	}
	if i.live && err != nil { // its last policies are in force all the same
		fmt.Fprintln(warnings, "warning:", err)
		err = nil
	}
	baselines, profileErr := i.baselines()
	inForcePolicies, declaredPolicies := slices.Clone(i.policies), slices.Clone(i.policies)
	if !i.live {
		inForcePolicies = append(inForcePolicies, baselines...)
		err = errors.Join(err, profileErr)
	}
	for _, t := range translations {
		if !i.live && t.app.Spec.EffectiveMode() == v1alpha1.ModeEnforce {
			inForcePolicies = append(inForcePolicies, t.policies...)
		}
		declaredPolicies = append(declaredPolicies, t.policies...)
	}
	return isolation.NewNetwork(inForcePolicies, i.unread...), isolation.NewNetwork(append(declaredPolicies, baselines...), i.unread...), err
}

// appOf is the application that a policy says it is of; nil, if none.
func (i *inventory) appOf(policy *networkingv1.NetworkPolicy) *v1alpha1.AppIsolation {
	if policy.Labels[isolation.LabelManagedBy] != isolation.ManagedBy {
		return nil
	}
	for _, app := range i.apps {
		if app.Namespace == policy.Namespace && isolation.AppLabel(app.Name) == policy.Labels[isolation.LabelApp] {
			return app
		}
	}
	return nil
}
