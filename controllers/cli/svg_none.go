//go:build no_svg

package cli

import (
	"context"
	"errors"
	"io"

	"github.com/appisolation/appisolation/controllers/isolation"
)

func writeSVG(context.Context, isolation.Graph, io.Writer) error {
	return errors.New("-o svg: this build cannot draw: write -o dot and pipe it to Graphviz: appisolation graph -o dot | dot -Tsvg")
}
