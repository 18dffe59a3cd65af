package isolation

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/types"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

// Graph is applications as a picture: namespaces and applications as frames, their tiers as boxes, whoever else is
// named as a box outside, and arrows for who may connect to whom. What has no arrow is denied; the name servers, which
// nearly every tier may ask, have none either (see TierBox.DNS). Everything in it is sorted. Its JSON is for other programs to read.
type Graph struct {
	// Namespaces are the frames, sorted by name.
	Namespaces []NamespaceFrame `json:"namespaces"`
	// Outside are those that the applications connect with and that are no tier in the picture, sorted by ID.
	Outside []OutsideBox `json:"outside"`
	// Arrows are sorted by their ends; between two ends is one of each kind.
	Arrows []Arrow `json:"arrows"`
}

// NamespaceFrame is a namespace with its applications.
type NamespaceFrame struct {
	Name string `json:"name"`
	// DenyRest means that the namespace's pods that are in no tier are denied everything: scope Namespace.
	DenyRest bool `json:"denyRest,omitempty"`
	// Applications are sorted by name.
	Applications []AppFrame `json:"applications"`
}

// AppFrame is an application with its tiers.
type AppFrame struct {
	Name string `json:"name"`
	// DryRun means that nothing of it is in force.
	DryRun bool `json:"dryRun,omitempty"`
	// Tiers are sorted by name.
	Tiers []TierBox `json:"tiers"`
}

// TierBox is a tier.
type TierBox struct {
	// ID is tier/NAMESPACE/APPLICATION/TIER.
	ID   string `json:"id"`
	Name string `json:"name"`
	// Ports are those that it declares, as PORT/PROTOCOL or FIRST-LAST/PROTOCOL.
	Ports []string `json:"ports"`
	// DNS means that it may ask the cluster's name servers.
	DNS bool `json:"dns"`
	// Empty means that it selects no pod. Where no pods are known, no tier is called empty.
	Empty bool `json:"empty,omitempty"`
	// Rest means that it is no tier but the pods of none, which the application denies everything. It is there only if
	// an arrow leads to it or from it.
	Rest bool `json:"rest,omitempty"`
}

// OutsideBox is somebody whom applications connect with and who is no tier in the picture.
type OutsideBox struct {
	// ID is distinct and stable: two pictures that show the same somebody have the same one.
	ID   string      `json:"id"`
	Kind OutsideKind `json:"kind"`
	// Name is the entity, the application (NAMESPACE/NAME), the namespace, the selector of namespaces, or the addresses.
	Name string `json:"name"`
	// Tier is the application's tier.
	Tier string `json:"tier,omitempty"`
	// Pods is the selector of the namespaces' pods; none means all of them.
	Pods string `json:"pods,omitempty"`
	// Except are the addresses that are left out.
	Except []string `json:"except,omitempty"`
}

// OutsideKind says what somebody outside is.
type OutsideKind string

const (
	// OutsideEntity is one that has a name of its own, as World.
	OutsideEntity OutsideKind = "Entity"
	// OutsideApp is a tier of an application that is not in the picture.
	OutsideApp OutsideKind = "Application"
	// OutsideNamespace is a namespace by its name.
	OutsideNamespace OutsideKind = "Namespace"
	// OutsideNamespaces are namespaces by their labels; no label means every namespace.
	OutsideNamespaces OutsideKind = "Namespaces"
	// OutsideAddresses are a range of addresses.
	OutsideAddresses OutsideKind = "Addresses"
)

// Arrow says that one box may open connections to another, or what is missing for that.
type Arrow struct {
	// From and To are IDs.
	From string     `json:"from"`
	To   string     `json:"to"`
	Kind ArrowKind  `json:"kind"`
	Lack ArrowsLack `json:"lack,omitempty"`
	// Ports are those of To, as PORT/PROTOCOL or FIRST-LAST/PROTOCOL. None means every port, but on a closed arrow that
	// they are not known.
	Ports []string `json:"ports"`
	// Because are the lines that say so, as `shop/shop: flow web -> api` or `NetworkPolicy shop/legacy`.
	Because []string `json:"because"`
}

// ArrowKind says how far an arrow is from open. All but ArrowForeign are words of the status, too.
type ArrowKind string

const (
	// ArrowOpen is declared by all who have to.
	ArrowOpen ArrowKind = "Open"
	// ArrowHalfOpen is declared at one end, and the application at the other end lacks its half: it stays closed.
	ArrowHalfOpen = ArrowKind(v1alpha1.FlowHalfOpen)
	// ArrowClosed is declared and has no rule, as who is meant cannot be known: it does not exist, or nobody has said.
	ArrowClosed = ArrowKind(v1alpha1.FlowClosed)
	// ArrowForeign is what somebody else's NetworkPolicy opens and the application does not declare.
	ArrowForeign ArrowKind = "Foreign"
)

// ArrowsLack is the half that a half-open arrow lacks.
type ArrowsLack string

const (
	// LackIngress means that To has no ingress for it.
	LackIngress ArrowsLack = "Ingress"
	// LackEgress means that From has no egress for it.
	LackEgress ArrowsLack = "Egress"
)

// Pictured is an application for a picture, with what is known around it.
type Pictured struct {
	App   *v1alpha1.AppIsolation
	Facts Facts
	// Model is what Resolve makes of them.
	Model Model
	Seen  Seen
	// PodsKnown means that Seen has the pods of the application's namespace.
	PodsKnown bool
}

// NewGraph draws applications.
func NewGraph(apps []Pictured) Graph {
	d := drawing{
		apps: map[types.NamespacedName]Pictured{}, tiers: map[string]farEnd{},
		outside: map[string]OutsideBox{}, arrows: map[arrowKey]*Arrow{}, rest: map[string]bool{},
	}
	for _, p := range apps {
		d.add(p)
	}
	for _, key := range d.keys() {
		d.flows(d.apps[key])
		d.ingress(d.apps[key])
		d.egress(d.apps[key])
		d.foreign(d.apps[key])
	}
	return Graph{Namespaces: d.frames(), Outside: d.outsideBoxes(), Arrows: d.allArrows()}
}

// drawing is a picture in the making.
type drawing struct {
	apps map[types.NamespacedName]Pictured
	// tiers are the tiers in the picture, by the peer that they are to others.
	tiers   map[string]farEnd
	outside map[string]OutsideBox
	arrows  map[arrowKey]*Arrow
	// rest are the applications with an arrow to or from the pods of no tier.
	rest map[string]bool
}

func (d *drawing) add(p Pictured) {
	d.apps[types.NamespacedName{Namespace: p.App.Namespace, Name: p.App.Name}] = p
	for i := range p.App.Spec.Tiers {
		end := tierEnd(p.App, &p.App.Spec.Tiers[i])
		d.tiers[sortKey(Peer{Namespaces: namespaceNamed(p.App.Namespace), Pods: optionalSelector(&end.tier.PodSelector)})] = end
	}
}

func (d *drawing) keys() []types.NamespacedName {
	return slices.SortedFunc(maps.Keys(d.apps), func(a, b types.NamespacedName) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
}

func (d *drawing) frames() []NamespaceFrame {
	frames := []NamespaceFrame{}
	for _, key := range d.keys() {
		p := d.apps[key]
		if last := len(frames) - 1; last < 0 || frames[last].Name != key.Namespace {
			frames = append(frames, NamespaceFrame{Name: key.Namespace})
		}
		frame := &frames[len(frames)-1]
		dryRun := p.App.Spec.EffectiveMode() == v1alpha1.ModeDryRun
		frame.DenyRest = frame.DenyRest || p.Model.DenyRest && !dryRun
		frame.Applications = append(frame.Applications, AppFrame{Name: key.Name, DryRun: dryRun, Tiers: d.tierBoxes(p)})
	}
	return frames
}

func (d *drawing) tierBoxes(p Pictured) []TierBox {
	boxes := []TierBox{}
	populated := newLook(p.App, p.Model, nil, p.Seen).view.Populated
	for _, t := range p.Model.Tiers {
		tier := tierNamed(&p.App.Spec, v1alpha1.TierName(t.Name))
		boxes = append(boxes, TierBox{
			ID: tierID(p.App, t.Name), Name: t.Name, Ports: texts(declaredPorts(tier, nil)), DNS: tier.DNSEnabled(), Empty: p.PodsKnown && !populated[t.Name],
		})
	}
	if id := restID(p.App); d.rest[id] {
		boxes = append(boxes, TierBox{ID: id, Name: "pods of no tier", Ports: []string{}, Rest: true})
	}
	return boxes
}

func tierID(app *v1alpha1.AppIsolation, tier string) string {
	return fmt.Sprintf("tier/%s/%s/%s", app.Namespace, app.Name, tier)
}

// restID has a name that no tier can have.
func restID(app *v1alpha1.AppIsolation) string { return tierID(app, "*") }

func texts(ports []Port) []string {
	texts := []string{}
	for _, port := range ports {
		texts = append(texts, port.String())
	}
	return texts
}

func (d *drawing) outsideBoxes() []OutsideBox {
	boxes := []OutsideBox{}
	for _, id := range slices.Sorted(maps.Keys(d.outside)) {
		boxes = append(boxes, d.outside[id])
	}
	return boxes
}

// arrowKey is what makes two arrows one.
type arrowKey struct {
	from, to string
	kind     ArrowKind
	lack     ArrowsLack
}

func (k arrowKey) compare(other arrowKey) int {
	return cmp.Or(cmp.Compare(k.from, other.from), cmp.Compare(k.to, other.to), cmp.Compare(k.kind, other.kind), cmp.Compare(k.lack, other.lack))
}

// arrow draws an arrow, or adds to the one that is there. No ports means every port.
func (d *drawing) arrow(key arrowKey, ports []Port, because string) {
	known, drawn := d.arrows[key]
	if !drawn {
		d.arrows[key] = &Arrow{From: key.from, To: key.to, Kind: key.kind, Lack: key.lack, Ports: texts(ports), Because: []string{because}}
		return
	}
	known.Because = append(known.Because, because)
	if len(ports) == 0 || len(known.Ports) == 0 {
		known.Ports = []string{}
		return
	}
	known.Ports = append(known.Ports, texts(ports)...)
}

func (d *drawing) allArrows() []Arrow {
	arrows := []Arrow{}
	for _, key := range slices.SortedFunc(maps.Keys(d.arrows), arrowKey.compare) {
		arrow := *d.arrows[key]
		arrow.Ports = sortedTexts(arrow.Ports)
		arrow.Because = sortedTexts(arrow.Because)
		arrows = append(arrows, arrow)
	}
	return arrows
}

// sortedTexts has numbers in their order where they have the same length, as most ports do.
func sortedTexts(texts []string) []string {
	slices.SortFunc(texts, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) })
	return slices.Compact(texts)
}
