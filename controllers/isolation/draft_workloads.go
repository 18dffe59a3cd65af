package isolation

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

// Workload is what makes pods: a Deployment or its like.
type Workload struct {
	Kind, Namespace, Name string
	// Selector is nil for those that choose their pods themselves, as Jobs do.
	Selector *metav1.LabelSelector
	Template corev1.PodTemplateSpec
}

func (w Workload) String() string { return w.Kind + " " + w.Name }

// Existing is what runs, and how it finds each other.
type Existing struct {
	Workloads  []Workload
	Pods       []*corev1.Pod
	Services   []*corev1.Service
	ConfigMaps []*corev1.ConfigMap
	Ingresses  []*networkingv1.Ingress
	Apps       []*v1alpha1.AppIsolation
}

// DraftWorkloads drafts an application for each of these namespaces that has workloads: a tier for each workload, and a
// flow wherever the settings of one name a Service of another. An empty name is the namespace's.
func DraftWorkloads(existing Existing, namespaces []string, name string) []Draft {
	i := workloadImport{Existing: existing, services: objectsByName(existing.Services), maps: objectsByName(existing.ConfigMaps), drafts: map[string]*sketch{}}
	for _, namespace := range slices.Sorted(slices.Values(namespaces)) {
		if d := i.draftTiers(namespace, cmp.Or(name, namespace)); len(d.tiers) > 0 {
			i.drafts[namespace] = d
		}
	}
	drafts := slices.Sorted(maps.Keys(i.drafts)) // a tier is known before anybody refers to it
	for _, namespace := range drafts {
		i.connect(i.drafts[namespace])
	}
	for _, namespace := range drafts {
		i.admit(i.drafts[namespace])
	}
	var finished []Draft
	for _, namespace := range drafts {
		finished = append(finished, i.drafts[namespace].finish())
	}
	return finished
}

func objectsByName[T metav1.Object](objects []T) map[types.NamespacedName]T {
	named := map[types.NamespacedName]T{}
	for _, object := range objects {
		named[types.NamespacedName{Namespace: object.GetNamespace(), Name: object.GetName()}] = object
	}
	return named
}

// workloadImport is what is known while workloads are drafted.
type workloadImport struct {
	Existing
	services map[types.NamespacedName]*corev1.Service
	maps     map[types.NamespacedName]*corev1.ConfigMap
	drafts   map[string]*sketch
}

// draftTiers drafts the tiers of a namespace and their ports.
func (i *workloadImport) draftTiers(namespace, name string) *sketch {
	d := newSketch(namespace, name)
	given := tierNames()
	workloads := slices.DeleteFunc(slices.Clone(i.Workloads), func(w Workload) bool { return w.Namespace != namespace })
	slices.SortStableFunc(workloads, func(a, b Workload) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Kind, b.Kind)) })
	for _, w := range workloads {
		if w.Selector == nil {
			w.Selector = &metav1.LabelSelector{MatchLabels: stableLabels(w.Template.Labels)}
		}
		switch {
		case isEmpty(*w.Selector):
			d.note("", "%s has no tier: its pods have no labels", w)
			continue
		case w.Template.Spec.HostNetwork:
			d.note("", "%s has no tier: its pods use the network of their node, where most network plugins do not judge them", w)
			continue
		}
		tier := &sketchTier{name: v1alpha1.TierName(given.give(w.Name)), selector: *w.Selector, ports: newTierPorts(), workload: w, pod: &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: w.Name, Labels: w.Template.Labels}, Spec: w.Template.Spec,
		}}
		tier.addContainerPorts()
		d.tiers = append(d.tiers, tier)
		d.note(tierPart(tier.name), "%s", w)
	}
	i.addServicePorts(d)
	i.noteStrays(d)
	return d
}

// addContainerPorts declares what the containers say that they listen on.
func (t *sketchTier) addContainerPorts() {
	for _, container := range LongRunning(t.pod) {
		for _, p := range container.Ports {
			port := Port{Protocol: v1alpha1.Protocol(cmp.Or(p.Protocol, corev1.ProtocolTCP)), Port: intstr.FromInt32(p.ContainerPort)}
			t.ports.add(port, cmp.Or(p.Name, portName(port)))
		}
	}
}

// addServicePorts declares the ports that Services lead to and no container names.
func (i *workloadImport) addServicePorts(d *sketch) {
	for _, service := range i.sortedServices(d.App.Namespace) {
		tiers := d.behind(service)
		if len(tiers) == 0 && len(service.Spec.Selector) > 0 {
			d.note("", "Service %s leads to the pods of no tier", service.Name)
		}
		for _, tier := range tiers {
			for _, port := range service.Spec.Ports {
				found := targets(port, []*corev1.Pod{tier.pod})
				if len(found) == 0 {
					d.note(tierPart(tier.name), "Service %s leads to port %s, which no container has", service.Name, port.TargetPort.String())
				}
				for _, target := range found {
					tier.ports.add(target, cmp.Or(port.Name, portName(target)))
				}
			}
		}
	}
}

func (i *workloadImport) sortedServices(namespace string) []*corev1.Service {
	found := slices.DeleteFunc(slices.Clone(i.Services), func(s *corev1.Service) bool { return s.Namespace != namespace })
	slices.SortStableFunc(found, func(a, b *corev1.Service) int { return cmp.Compare(a.Name, b.Name) })
	return found
}

// behind are the tiers whose pods a Service leads to.
func (d *sketch) behind(service *corev1.Service) []*sketchTier {
	if len(service.Spec.Selector) == 0 {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(d.tiers), func(t *sketchTier) bool { return !contains(t.pod.Labels, service.Spec.Selector) })
}

// noteStrays says which pods are of several tiers, or of none.
func (i *workloadImport) noteStrays(d *sketch) {
	selects := func(t *sketchTier, set map[string]string) bool { return matches(draftedSelector(t.selector), set) }
	for _, t := range d.tiers {
		for _, other := range d.tiers {
			if other != t && selects(t, other.pod.Labels) {
				d.note(tierPart(t.name), "it also selects the pods of %s, which may then do what either tier may", other.workload)
			}
		}
	}
	var strays []string
	for _, pod := range i.Pods {
		if pod.Namespace == d.App.Namespace && !slices.ContainsFunc(d.tiers, func(t *sketchTier) bool { return selects(t, pod.Labels) }) {
			strays = append(strays, pod.Name)
		}
	}
	if len(strays) > 0 {
		slices.Sort(strays)
		d.note("", "these pods are of no tier: %s", strings.Join(strays, ", "))
	}
}

// connect drafts what the settings of the workloads name.
func (i *workloadImport) connect(d *sketch) {
	for _, tier := range d.tiers {
		settings, missing := settingsOf(tier.workload, i.maps)
		for _, text := range missing {
			d.note(tierPart(tier.name), "it uses %s, which was not read: look there for names of Services", text)
		}
		for _, s := range settings {
			for _, r := range referencesIn(s, d.App.Namespace, i.services) {
				i.refer(d, tier, r)
			}
		}
	}
}

// refer drafts one reference of a tier.
func (i *workloadImport) refer(d *sketch, from *sketchTier, r reference) {
	service := i.services[r.service]
	switch {
	case r.unsure:
		d.note(tierPart(from.name), "%s may name Service %s, or something else: no flow is drafted", r.where, r.service.Name)
	case service == nil:
		d.note(tierPart(from.name), "%s names Service %s, which is not known here: add an egress entry", r.where, r.service)
	case service.Spec.Type == corev1.ServiceTypeExternalName:
		d.note(tierPart(from.name), "%s names Service %s, which stands for %s: add an egress entry with its addresses", r.where, r.service, service.Spec.ExternalName)
	case r.service.Namespace == d.App.Namespace:
		i.referWithin(d, from, r, service)
	default:
		i.referAcross(d, from, r, service)
	}
}

func (i *workloadImport) referWithin(d *sketch, from *sketchTier, r reference, service *corev1.Service) {
	tiers := d.behind(service)
	if len(tiers) == 0 {
		d.note(tierPart(from.name), "%s names Service %s, which leads to the pods of no tier", r.where, service.Name)
	}
	for _, to := range tiers {
		if to == from && to.workload.Kind != "StatefulSet" {
			d.note(tierPart(from.name), "%s names its own Service %s: add a flow if its pods talk to each other", r.where, service.Name)
			continue
		}
		d.flow(from, to).add(portsBehind(service, r.port, to), fmt.Sprintf("%s names Service %s", r.where, service.Name))
	}
}

// portsBehind are the ports of a tier that a Service leads to by one of its ports; by any, if it has no such port.
func portsBehind(service *corev1.Service, port int32, tier *sketchTier) []Port {
	var all, some []Port
	for _, p := range service.Spec.Ports {
		found := targets(p, []*corev1.Pod{tier.pod})
		all = append(all, found...)
		if p.Port == port || slices.Contains(found, Port{Protocol: v1alpha1.ProtocolTCP, Port: intstr.FromInt32(port)}) { // a headless Service translates nothing
			some = append(some, found...)
		}
	}
	switch {
	case len(some) > 0:
		return some
	case len(all) > 0:
		return all
	}
	return tier.ports.sorted()
}

// referAcross drafts a reference to another namespace: both halves, where both are drafted.
func (i *workloadImport) referAcross(d *sketch, from *sketchTier, r reference, service *corev1.Service) {
	why := fmt.Sprintf("%s names Service %s", r.where, r.service)
	if other := i.drafts[r.service.Namespace]; other != nil && len(other.behind(service)) > 0 {
		for _, to := range other.behind(service) {
			ports := portsBehind(service, r.port, to)
			there := &v1alpha1.AppRef{Namespace: v1alpha1.NamespaceName(other.App.Namespace), Name: other.App.Name, Tier: to.name, Ports: to.ports.named(ports)}
			here := &v1alpha1.AppRef{Namespace: v1alpha1.NamespaceName(d.App.Namespace), Name: d.App.Name, Tier: from.name}
			d.entry(v1alpha1.DirectionEgress, service.Name, from, v1alpha1.Peer{App: there}).add(nil, why)
			other.entry(v1alpha1.DirectionIngress, d.App.Namespace+"-"+string(from.name), to, v1alpha1.Peer{App: here}).add(ports, why)
		}
		return
	}
	if ref := i.declaring(service); ref != nil {
		d.entry(v1alpha1.DirectionEgress, service.Name, from, v1alpha1.Peer{App: ref}).add(nil, why+", whose pods are this tier's: it must let you in, too")
		return
	}
	if len(service.Spec.Selector) == 0 || len(service.Spec.Ports) == 0 {
		d.note(tierPart(from.name), "%s, which selects no pods: add an egress entry", why)
		return
	}
	peer := v1alpha1.Peer{
		Namespace:   v1alpha1.NamespaceName(service.Namespace),
		PodSelector: draftedSelector(metav1.LabelSelector{MatchLabels: service.Spec.Selector}),
	}
	d.entry(v1alpha1.DirectionEgress, service.Name, from, peer).add(targetsUnseen(service, r.port), why)
}

// targetsUnseen are the ports that a Service leads to by one of its ports, or by any, on pods that are not known.
func targetsUnseen(service *corev1.Service, number int32) []Port {
	var all, some []Port
	for _, p := range service.Spec.Ports {
		port := Port{Protocol: v1alpha1.Protocol(cmp.Or(p.Protocol, corev1.ProtocolTCP)), Port: p.TargetPort}
		if p.TargetPort == intstr.FromInt32(0) || p.TargetPort == intstr.FromString("") {
			port.Port = intstr.FromInt32(p.Port)
		}
		all = append(all, port)
		if p.Port == number {
			some = append(some, port)
		}
	}
	return portsOr(some, all)
}

// declaring is the tier of an application that selects the pods of a Service.
func (i *workloadImport) declaring(service *corev1.Service) *v1alpha1.AppRef {
	for _, app := range i.Apps {
		for n := range app.Spec.Tiers {
			tier := &app.Spec.Tiers[n]
			if app.Namespace == service.Namespace && len(service.Spec.Selector) > 0 && matches(&tier.PodSelector, service.Spec.Selector) {
				return &v1alpha1.AppRef{Namespace: v1alpha1.NamespaceName(app.Namespace), Name: app.Name, Tier: tier.Name}
			}
		}
	}
	return nil
}

// admit drafts where traffic enters the cluster: by Ingresses, and by Services that have an address outside.
func (i *workloadImport) admit(d *sketch) {
	for _, object := range i.Ingresses {
		if object.Namespace != d.App.Namespace {
			continue
		}
		for _, backend := range backendsOf(object) {
			i.admitBackend(d, object, backend)
		}
	}
	for _, service := range i.sortedServices(d.App.Namespace) {
		if service.Spec.Type != corev1.ServiceTypeLoadBalancer && service.Spec.Type != corev1.ServiceTypeNodePort {
			continue
		}
		for _, tier := range d.behind(service) {
			d.entry(v1alpha1.DirectionIngress, service.Name, tier, sourcesOf(service)...).add(portsBehind(service, 0, tier),
				fmt.Sprintf("Service %s is of type %s; with externalTrafficPolicy Cluster its connections may come from nodes instead", service.Name, service.Spec.Type))
		}
	}
}

func (i *workloadImport) admitBackend(d *sketch, object *networkingv1.Ingress, backend networkingv1.IngressServiceBackend) {
	service := i.services[types.NamespacedName{Namespace: object.Namespace, Name: backend.Name}]
	if service == nil || len(d.behind(service)) == 0 {
		d.note("", "Ingress %s leads to Service %s, which leads to the pods of no tier", object.Name, backend.Name)
		return
	}
	number := backend.Port.Number
	for _, p := range service.Spec.Ports {
		if backend.Port.Name != "" && p.Name == backend.Port.Name {
			number = p.Port
		}
	}
	for _, tier := range d.behind(service) {
		d.entry(v1alpha1.DirectionIngress, object.Name, tier, v1alpha1.Peer{Entity: v1alpha1.EntityIngressController}).add(portsBehind(service, number, tier),
			fmt.Sprintf("Ingress %s leads here; the cluster's IsolationProfile says what IngressController is, else write its namespace", object.Name))
	}
}

func backendsOf(object *networkingv1.Ingress) []networkingv1.IngressServiceBackend {
	var all []networkingv1.IngressServiceBackend
	add := func(backend *networkingv1.IngressBackend) {
		if backend != nil && backend.Service != nil {
			all = append(all, *backend.Service)
		}
	}
	add(object.Spec.DefaultBackend)
	for _, rule := range object.Spec.Rules {
		if rule.HTTP == nil {
			continue
		}
		for n := range rule.HTTP.Paths {
			add(&rule.HTTP.Paths[n].Backend)
		}
	}
	return all
}

// sourcesOf are who may use the outside address of a Service: its ranges, or the world.
func sourcesOf(service *corev1.Service) []v1alpha1.Peer {
	var peers []v1alpha1.Peer
	for _, text := range service.Spec.LoadBalancerSourceRanges {
		if prefix, err := netip.ParsePrefix(strings.TrimSpace(text)); err == nil {
			peers = append(peers, v1alpha1.Peer{IPBlock: &v1alpha1.IPBlock{CIDR: prefix.Masked().String()}})
		}
	}
	if peers == nil {
		return []v1alpha1.Peer{{Entity: v1alpha1.EntityWorld}}
	}
	return peers
}

// stableLabels are the labels of pods that their owners have chosen, and that the next pods will have too.
func stableLabels(set map[string]string) map[string]string {
	stable := map[string]string{}
	for key, value := range set {
		if !slices.Contains(fleetingLabels, key) && len(validation.IsQualifiedName(key)) == 0 {
			stable[key] = value
		}
	}
	return stable
}

// fleetingLabels are those that controllers give to pods.
var fleetingLabels = []string{
	"pod-template-hash", "pod-template-generation", "controller-revision-hash", "controller-uid", "job-name",
	"batch.kubernetes.io/controller-uid", "batch.kubernetes.io/job-name", "batch.kubernetes.io/job-completion-index",
	"statefulset.kubernetes.io/pod-name", "apps.kubernetes.io/pod-index",
}
