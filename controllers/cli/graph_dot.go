package cli

import (
	"context"
	"fmt"
	"html"
	"io"
	"slices"
	"strings"

	"github.com/appisolation/appisolation/controllers/isolation"
)

// writeDOT writes a graph for Graphviz (https://graphviz.org/doc/info/lang.html). IDs are made up, and every label is in
// Graphviz' own HTML, so that names need no other escapes.
func writeDOT(_ context.Context, graph isolation.Graph, out io.Writer) error {
	_, err := io.WriteString(out, dotText(graph))
	return err
}

func dotText(graph isolation.Graph) string {
	graph = nearby(graph)
	d := dot{ids: map[string]string{}}
	d.line(0, "digraph appisolation {")
	d.line(1, `graph [rankdir=LR bgcolor="#ffffff" pad=0.3 nodesep=0.3 ranksep=0.9 fontname="%s" fontsize=12 labelloc=b label=%s]`, dotFont, legend(graph))
	d.line(1, `node [shape=box style="rounded,filled" penwidth=1.2 margin="0.18,0.08" height=0.45 fontname="%s" fontsize=12]`, dotFont)
	d.line(1, `edge [arrowsize=0.7 penwidth=1.2 fontname="%s" fontsize=10]`, dotFont)
	for _, namespace := range graph.Namespaces {
		d.namespace(namespace)
	}
	for _, box := range graph.Outside {
		name, lines := outsideText(box)
		d.node(1, box.ID, name, lines, outsideStyle)
	}
	for _, arrow := range graph.Arrows {
		style := dotArrows[arrow.Kind]
		d.line(1, `%s -> %s [%s label=<%s> tooltip=%s]`, d.id(arrow.From), d.id(arrow.To), style.attributes,
			htmlLines(style.colour, 10, arrowText(arrow), "<br/>"), quoted(strings.Join(arrow.Because, "\n")))
	}
	d.line(0, "}")
	return d.text.String()
}

// dotFont is one whose letters Graphviz can measure; the SVG names what a browser takes in its stead.
const dotFont = "Helvetica"

// arrowStyle is how an arrow of a kind looks, and what it means. No two differ in colour alone.
type arrowStyle struct{ attributes, colour, legend string }

var dotArrows = map[isolation.ArrowKind]arrowStyle{
	isolation.ArrowOpen:     {attributes: `color="#3b4a5a"`, colour: "#3b4a5a"},
	isolation.ArrowHalfOpen: {`color="#b35c00" style=dashed`, "#b35c00", "dashed: declared at one end only, so not open"},
	isolation.ArrowClosed:   {`color="#b35c00" style=dotted arrowhead=tee`, "#b35c00", "dotted: not known who is meant, so not open"},
	isolation.ArrowForeign:  {`color="#cf222e" penwidth=2.4`, "#cf222e", "red and thick: not declared, opened by somebody else's NetworkPolicy"},
}

// boxStyle is how a box looks.
type boxStyle struct{ attributes, name, text string }

var (
	tierStyle    = boxStyle{`fillcolor="#dbe9f9" color="#2f6fab"`, "#10243a", "#3d5a78"}
	emptyStyle   = boxStyle{`fillcolor="#ececec" color="#8a8a8a" style="rounded,filled,dashed"`, "#5c5c5c", "#6e6e6e"}
	restStyle    = boxStyle{`fillcolor="#ffffff" color="#2f6fab" style="rounded,filled,dashed"`, "#10243a", "#3d5a78"}
	outsideStyle = boxStyle{`fillcolor="#fdf3d8" color="#b58a1b"`, "#3d2f06", "#7a621c"}
)

// dot is a text in the making.
type dot struct {
	text strings.Builder
	ids  map[string]string
}

func (d *dot) line(depth int, format string, args ...any) {
	fmt.Fprintf(&d.text, strings.Repeat("  ", depth)+format+"\n", args...)
}

// id is the ID of what is called so in the graph.
func (d *dot) id(name string) string {
	if d.ids[name] == "" {
		d.ids[name] = fmt.Sprintf("n%d", len(d.ids)+1)
	}
	return d.ids[name]
}

func (d *dot) namespace(namespace isolation.NamespaceFrame) {
	d.line(1, "subgraph cluster_%s {", d.id("namespace/"+namespace.Name))
	d.line(2, `graph [style="rounded,filled" fillcolor="#f6f8fa" color="#c3cad2" labelloc=t labeljust=l margin=14 label=<%s>]`,
		htmlLines("#57606a", 11, namespaceText(namespace), `<br align="left"/>`))
	for _, app := range namespace.Applications {
		d.app(namespace.Name, app)
	}
	d.line(1, "}")
}

func (d *dot) app(namespace string, app isolation.AppFrame) {
	id := d.id("app/" + namespace + "/" + app.Name)
	style := "rounded,filled"
	if app.DryRun {
		style += ",dashed"
	}
	d.line(2, "subgraph cluster_%s {", id)
	d.line(3, `graph [style="%s" fillcolor="#ffffff" color="#8fb4d9" margin=12 label=%s]`, style, htmlLabel("#24527f", appText(app), "", nil))
	if len(app.Tiers) == 0 {
		d.node(3, id+"/none", "no tiers", nil, emptyStyle)
	}
	for _, tier := range app.Tiers {
		d.node(3, tier.ID, tier.Name, tierText(tier), styleOf(tier))
	}
	d.line(2, "}")
}

func styleOf(tier isolation.TierBox) boxStyle {
	switch {
	case tier.Rest:
		return restStyle
	case tier.Empty:
		return emptyStyle
	}
	return tierStyle
}

func (d *dot) node(depth int, id, name string, lines []string, style boxStyle) {
	d.line(depth, "%s [%s label=%s tooltip=%s]", d.id(id), style.attributes, htmlLabel(style.name, name, style.text, lines), quoted(id))
}

// legend says what the marks mean that occur; nothing, if every arrow is open.
func legend(graph isolation.Graph) string {
	var lines string
	for _, kind := range []isolation.ArrowKind{isolation.ArrowHalfOpen, isolation.ArrowClosed, isolation.ArrowForeign} {
		if slices.ContainsFunc(graph.Arrows, func(a isolation.Arrow) bool { return a.Kind == kind }) {
			lines += htmlLines(dotArrows[kind].colour, 11, []string{dotArrows[kind].legend, ""}, `<br align="left"/>`)
		}
	}
	if lines == "" {
		return `""`
	}
	return "<<br/>" + lines + ">"
}

// htmlLabel is a label: a name, and lines in smaller type under it.
func htmlLabel(nameColour, name, textColour string, lines []string) string {
	text := fmt.Sprintf(`<font color="%s"><b>%s</b></font>`, nameColour, htmlText(name))
	if len(lines) > 0 {
		text += "<br/>" + htmlLines(textColour, 10, lines, "<br/>")
	}
	return "<" + text + ">"
}

func htmlLines(colour string, size int, lines []string, end string) string {
	var escaped []string
	for _, line := range lines {
		escaped = append(escaped, htmlText(line))
	}
	return fmt.Sprintf(`<font color="%s" point-size="%d">%s</font>`, colour, size, strings.Join(escaped, end))
}

// htmlText is text for Graphviz' HTML.
func htmlText(text string) string { return html.EscapeString(harmless(text)) }

// quoted is a string of DOT's, which reads HTML's entities there too.
func quoted(text string) string {
	return `"` + strings.NewReplacer(`"`, `\"`, "\n", `\n`, "&", "&amp;").Replace(harmless(text)) + `"`
}

// harmless has a sign that looks like a backslash in its place: Graphviz replaces \N and its like everywhere, however
// they are escaped. No object on a cluster has one in a name or label.
func harmless(text string) string { return strings.ReplaceAll(text, `\`, "∖") }
