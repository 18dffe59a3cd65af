package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/appisolation/appisolation/controllers/isolation"
)

// writeMermaid writes a graph for Mermaid (https://mermaid.js.org/syntax/flowchart.html), which GitHub draws in Markdown.
// IDs are made up: a node called end, or a name with a dash in the wrong place, would break the picture.
func writeMermaid(_ context.Context, graph isolation.Graph, out io.Writer) error {
	graph = nearby(graph)
	m := mermaid{ids: map[string]string{}}
	m.line(0, "flowchart LR")
	for _, namespace := range graph.Namespaces {
		m.namespace(namespace)
	}
	for _, box := range graph.Outside {
		name, lines := outsideText(box)
		m.line(1, `%s("%s"):::outside`, m.id(box.ID), mermaidText(append([]string{name}, lines...)))
	}
	styled := map[isolation.ArrowKind][]string{}
	for i, arrow := range graph.Arrows {
		m.line(1, `%s %s|"%s"| %s`, m.id(arrow.From), mermaidArrows[arrow.Kind], mermaidText(arrowText(arrow)), m.id(arrow.To))
		styled[arrow.Kind] = append(styled[arrow.Kind], fmt.Sprint(i))
	}
	m.styles(styled)
	_, err := io.WriteString(out, m.text.String())
	return err
}

var mermaidArrows = map[isolation.ArrowKind]string{
	isolation.ArrowOpen: "-->", isolation.ArrowHalfOpen: "-.->", isolation.ArrowClosed: "-.-x", isolation.ArrowForeign: "==>",
}

// mermaidClasses have colours for text and ground both, as the page behind may be light or dark. An application's frame has
// no line: Mermaid would draw it through the title of the namespace's.
var mermaidClasses = []string{
	"classDef tier fill:#dbe9f9,stroke:#2f6fab,color:#10243a",
	"classDef empty fill:#e4e4e4,stroke:#8a8a8a,color:#555555,stroke-dasharray:4 3",
	"classDef rest fill:#ffffff,stroke:#2f6fab,color:#10243a,stroke-dasharray:4 3",
	"classDef outside fill:#fdf3d8,stroke:#b58a1b,color:#3d2f06",
	"classDef namespace fill:none,stroke:#8a8a8a",
	"classDef app fill:#2f6fab1f,stroke:none",
}

// mermaidStrokes are the strokes of arrows that are not plainly open; they differ in their lines, too.
var mermaidStrokes = map[isolation.ArrowKind]string{
	isolation.ArrowHalfOpen: "#c77700,stroke-width:2px", isolation.ArrowClosed: "#c77700,stroke-width:2px", isolation.ArrowForeign: "#d7263d",
}

// mermaid is a text in the making.
type mermaid struct {
	text strings.Builder
	ids  map[string]string
}

func (m *mermaid) line(depth int, format string, args ...any) {
	fmt.Fprintf(&m.text, strings.Repeat("  ", depth)+format+"\n", args...)
}

// id is the ID of what is called so in the graph.
func (m *mermaid) id(name string) string {
	if m.ids[name] == "" {
		m.ids[name] = fmt.Sprintf("n%d", len(m.ids)+1)
	}
	return m.ids[name]
}

func (m *mermaid) namespace(namespace isolation.NamespaceFrame) {
	id := m.id("namespace/" + namespace.Name)
	m.line(1, `subgraph %s["%s"]`, id, mermaidText([]string{strings.Join(namespaceText(namespace), " · ")}))
	m.line(2, "direction LR") // a frame that no arrow crosses would have its own
	for _, app := range namespace.Applications {
		m.app(namespace.Name, app)
	}
	m.line(1, "end")
	m.line(1, "class %s namespace", id)
}

func (m *mermaid) app(namespace string, app isolation.AppFrame) {
	id := m.id("app/" + namespace + "/" + app.Name)
	m.line(2, `subgraph %s["%s"]`, id, mermaidText([]string{appText(app)}))
	m.line(3, "direction LR")
	if len(app.Tiers) == 0 {
		m.line(3, `%s["no tiers"]:::empty`, m.id(id+"/none"))
	}
	for _, tier := range app.Tiers {
		m.line(3, `%s["%s"]:::%s`, m.id(tier.ID), mermaidText(append([]string{tier.Name}, tierText(tier)...)), tierClass(tier))
	}
	m.line(2, "end")
	m.line(2, "class %s app", id)
}

func tierClass(tier isolation.TierBox) string {
	switch {
	case tier.Rest:
		return "rest"
	case tier.Empty:
		return "empty"
	}
	return "tier"
}

func (m *mermaid) styles(arrows map[isolation.ArrowKind][]string) {
	for _, class := range mermaidClasses {
		m.line(1, "%s", class)
	}
	for _, kind := range []isolation.ArrowKind{isolation.ArrowHalfOpen, isolation.ArrowClosed, isolation.ArrowForeign} {
		if len(arrows[kind]) > 0 {
			m.line(1, "linkStyle %s stroke:%s", strings.Join(arrows[kind], ","), mermaidStrokes[kind])
		}
	}
}

// mermaidText is text between quotes, in lines.
func mermaidText(lines []string) string {
	var escaped []string
	for _, line := range lines {
		escaped = append(escaped, mermaidEscapes.Replace(line))
	}
	return strings.Join(escaped, "<br/>")
}

// mermaidEscapes are Mermaid's own, which begin with # (https://mermaid.js.org/syntax/flowchart.html#entity-codes-to-escape-characters).
var mermaidEscapes = strings.NewReplacer(`"`, "#quot;", "#", "#35;", "<", "#lt;", ">", "#gt;", "&", "#amp;", "`", "#96;")
