//go:build !no_svg

package cli

import (
	"bytes"
	"context"
	"io"

	"github.com/goccy/go-graphviz"

	"github.com/appisolation/appisolation/controllers/cli/cachedir"
	"github.com/appisolation/appisolation/controllers/isolation"
)

func init() { cachedir.Restore() } // what Graphviz has made ready is where it is

// writeSVG has Graphviz draw what writeDOT writes. It is Graphviz itself, as WebAssembly, which is made ready whenever the
// program starts: the operator's image is built without it, by the tag no_svg.
func writeSVG(ctx context.Context, graph isolation.Graph, out io.Writer) error {
	parsed, err := graphviz.ParseBytes([]byte(dotText(graph)))
	if err != nil {
		return err
	}
	viz, err := graphviz.New(ctx)
	if err != nil {
		return err
	}
	var svg bytes.Buffer
	if err := viz.Render(ctx, parsed, graphviz.SVG, &svg); err != nil {
		return err
	}
	_, err = out.Write(bytes.ReplaceAll(svg.Bytes(), []byte(`font-family="Helvetica,sans-Serif"`), []byte(svgFonts)))
	return err
}

// svgFonts are fonts as wide as the one that Graphviz measured, of which every system has one.
const svgFonts = `font-family="Helvetica,Arial,Liberation Sans,sans-serif"`
