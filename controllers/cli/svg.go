//go:build !no_svg

package cli

import (
	"context"
	"io"

	"github.com/goccy/go-graphviz"

	"github.com/appisolation/appisolation/controllers/isolation"
)

// writeSVG has Graphviz draw what writeDOT writes. It is Graphviz itself, as WebAssembly, which is made ready whenever the
// program starts: the operator's image is built without it, by the tag no_svg.
func writeSVG(ctx context.Context, graph isolation.Graph, out io.Writer) (err error) {
	parsed, err := graphviz.ParseBytes([]byte(dotText(graph)))
	if err != nil {
		return err
	}
	viz, err := graphviz.New(ctx)
	if err != nil {
		return err
	}
	return viz.Render(ctx, parsed, graphviz.SVG, out)
}
