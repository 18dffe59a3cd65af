// Command metrics writes the page of the operator's metrics, from what they say of themselves:
//
//	metrics PAGE
package main

import (
	"bytes"
	_ "embed"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/appisolation/appisolation/controllers"
)

//go:embed page.md.tmpl
var page string

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: metrics PAGE")
		os.Exit(2)
	}
	text, err := write()
	if err == nil {
		err = os.WriteFile(os.Args[1], text, 0o644) //nolint:gosec // it is published
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// metric is a row of the page.
type metric struct{ Name, Type, Labels, Help string }

func write() ([]byte, error) {
	metrics, err := own()
	if err != nil {
		return nil, err
	}
	parsed, err := template.New("page").Parse(page)
	if err != nil {
		return nil, err
	}
	var text bytes.Buffer
	err = parsed.Execute(&text, metrics)
	return text.Bytes(), err
}

// own are the operator's own metrics, by name.
func own() ([]metric, error) {
	descs := make(chan *prometheus.Desc, 100)
	for _, collector := range controllers.Metrics(nil) {
		collector.Describe(descs)
	}
	close(descs)
	var metrics []metric
	for desc := range descs {
		m, err := read(desc)
		if err != nil {
			return nil, err
		}
		metrics = append(metrics, m)
	}
	slices.SortFunc(metrics, func(a, b metric) int { return strings.Compare(a.Name, b.Name) })
	return metrics, nil
}

// described is how a Desc prints itself, which is all that it tells.
var described = regexp.MustCompile(`^Desc\{fqName: "(\w+)", help: ("(?:[^"\\]|\\.)*"), (?:unit: "", )?constLabels: \{\}, variableLabels: \{([\w,]*)\}`)

func read(desc *prometheus.Desc) (metric, error) {
	match := described.FindStringSubmatch(desc.String())
	if match == nil {
		return metric{}, fmt.Errorf("cannot read %s", desc)
	}
	help, err := strconv.Unquote(match[2])
	if err != nil {
		return metric{}, fmt.Errorf("the help of %s: %w", match[1], err)
	}
	m := metric{Name: match[1], Type: "gauge", Help: help}
	if strings.HasSuffix(m.Name, "_total") {
		m.Type = "counter"
	}
	if match[3] != "" {
		m.Labels = "`" + strings.ReplaceAll(match[3], ",", "`, `") + "`"
	}
	return m, nil
}
