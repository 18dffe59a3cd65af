package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/controllers/isolation"
)

// What stands in the boxes of a picture and on its arrows, line by line. It is short: the JSON has the rest.

func namespaceText(frame isolation.NamespaceFrame) []string {
	lines := []string{"namespace " + frame.Name}
	if frame.DenyRest {
		lines = append(lines, "everything else denied")
	}
	return lines
}

func appText(frame isolation.AppFrame) string {
	if frame.DryRun {
		return frame.Name + " (dry run)"
	}
	return frame.Name
}

// tierText are the lines under a tier's name.
func tierText(tier isolation.TierBox) []string {
	lines := portLines(tier.Ports)
	if tier.Empty {
		lines = append(lines, "no pods")
	}
	return lines
}

// outsideText is the name of a box outside, and the lines under it.
func outsideText(box isolation.OutsideBox) (name string, lines []string) {
	name = box.Name
	switch box.Kind {
	case isolation.OutsideNamespace:
		lines = []string{"namespace"}
	case isolation.OutsideNamespaces:
		name, lines = "namespaces", wrapped("", parts(box.Name))
		if box.Name == "" {
			name = "every namespace"
		}
	case isolation.OutsideApp:
		lines = []string{"tier " + box.Tier}
	case isolation.OutsideEntity:
		lines = slices.Clone(entityLines[box.Name])
	}
	lines = append(lines, wrapped("pods ", parts(box.Pods))...)
	return name, append(lines, wrapped("less ", firsts(box.Except, 4))...)
}

// parts are a selector's, each with its comma.
func parts(selector string) []string {
	if selector == "" {
		return nil
	}
	return strings.SplitAfter(selector, ",")
}

// entityLines are for entities whose name does not say it all.
var entityLines = map[string][]string{
	string(v1alpha1.EntityAll):   {"every pod and address"},
	string(v1alpha1.EntityWorld): {"outside the cluster"},
}

// arrowText are the lines on an arrow.
func arrowText(arrow isolation.Arrow) []string {
	switch arrow.Kind {
	case isolation.ArrowClosed:
		return []string{"not known"}
	case isolation.ArrowHalfOpen:
		return append(arrowPorts(arrow), map[isolation.ArrowsLack]string{
			isolation.LackIngress: "no ingress there", isolation.LackEgress: "no egress there",
		}[arrow.Lack])
	case isolation.ArrowForeign:
		var policies []string
		for _, because := range arrow.Because {
			policies = append(policies, because[strings.LastIndex(because, "/")+1:])
		}
		return append(arrowPorts(arrow), firsts(policies, 2)...)
	}
	return arrowPorts(arrow)
}

func arrowPorts(arrow isolation.Arrow) []string {
	if len(arrow.Ports) == 0 {
		return []string{"every port"}
	}
	return portLines(arrow.Ports)
}

// portLines are ports as people write them, some on a line.
func portLines(ports []string) []string {
	var short []string
	for _, port := range ports {
		short = append(short, shortPort(port))
	}
	return wrapped("", firsts(short, 9))
}

// shortPort is :8080 for 8080/TCP. Other protocols are said.
func shortPort(port string) string {
	number, protocol, _ := strings.Cut(port, "/")
	switch {
	case number == "1-65535":
		return "every " + protocol + " port"
	case protocol == "TCP":
		return ":" + number
	}
	return port
}

// firsts are the first n, and how many more there are.
func firsts(all []string, n int) []string {
	if len(all) <= n+1 {
		return all
	}
	return append(append([]string{}, all[:n]...), fmt.Sprintf("%d more", len(all)-n))
}

// lineLength is how long a line gets before it is broken.
const lineLength = 24

// wrapped are words in lines of some length, if there are any.
func wrapped(first string, words []string) []string {
	if len(words) == 0 {
		return nil
	}
	var lines []string
	line := first
	for i, word := range words {
		if i > 0 && len(line)+len(word) > lineLength {
			lines, line = append(lines, strings.TrimSpace(line)), ""
		}
		line += word + " "
	}
	return append(lines, strings.TrimSpace(line))
}
