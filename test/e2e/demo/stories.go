package main

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/test/e2e/oracle"
)

// story is a sample, and who must be able to reach whom once it is applied.
type story struct {
	title, file string
	// reach has a column for each destination and a row for each source. ✓ is a connection that passes, · one that
	// doesn't, - one that is no part of the story.
	reach string

	objects []object
}

var stories = []story{
	{
		title: "Three tiers in a row",
		file:  "web-api-db.yaml",
		reach: `
			                      web:80  web:22  api:5000  db:3306  dns:53/UDP  internet:443
			web                     ·       ·        ✓        ·          ✓            ·
			api                     ·       ·        ·        ✓          ✓            ·
			db                      ·       ·        ·        ·          ·            ·
			ingress-nginx           ✓       ·        ·        ·          -            -
			elsewhere/shop-api      ·       ·        ·        ·          -            -
			internet                ·       ·        ·        ·          -            -`,
	},
	{
		title: "Two namespaces, both closed, each side declaring its half",
		file:  "two-namespaces.yaml",
		reach: `
			                      frontend:8080  backend:8080  cassandra:9042  cassandra:22  dns:53/UDP  internet:443
			frontend                    ·             ✓              ·              ·            ✓            ·
			backend                     ·             ·              ✓              ·            ✓            ·
			cassandra                   ·             ·              ·              ·            ✓            ·
			default/other               ·             ·              ·              ·            ·            ·
			elsewhere/site-backend      ·             ·              ·              ·            -            -
			internet                    ·             ·              ·              ·            -            -`,
	},
	{
		title: "A namespace that somebody else has closed already",
		file:  "ns-app1.yaml",
		reach: `
			                      web:8080  worker:9000  worker:22  dns:53/UDP  internet:443
			web                      ✓           ✓           ·          ✓            ✓
			worker                   ✓           ✓           ·          ✓            ✓
			ns-app1/other            ·           ·           ·          ·            ·
			ingress-nginx            ✓           ·           ·          -            -
			elsewhere/app1-web       ·           ·           ·          -            -
			internet                 ·           ·           ·          -            -`,
	},
}

const legend = `In the tables ✓ is a connection that passes, · one that doesn't. Pods are objects only, nothing runs
in them: the verdicts are by SIG Network's policy engine kube-network-policies on the policies read back from the API
server. A tier has two pods, so that it can be its own peer. "other" is a pod of no tier; a pod in "elsewhere" has all
labels of a tier, but is in another namespace; "dns" is kube-system's k8s-app=kube-dns, "internet" is 203.0.113.9.`

// The strangers: names in the tables that are not tiers.
var (
	strangers = map[string]oracle.Endpoint{
		"ingress-nginx": oracle.Pod("ingress-nginx", "controller"),
		"dns":           oracle.Pod("kube-system", "kube-dns"),
		"internet":      oracle.Address(netip.MustParseAddr("203.0.113.9")),
	}
	strangerPods = []pod{
		{"ingress-nginx", "controller", nil},
		{"kube-system", "kube-dns", map[string]string{"k8s-app": "kube-dns"}},
		{"default", "other", nil},
		{"ns-app1", "other", nil},
	}
)

type pod struct {
	namespace, name string
	labels          map[string]string
}

// pods are two for each tier, and one with the same labels in another namespace.
func (s story) pods() []pod {
	var pods []pod
	for _, app := range s.applications() {
		for _, tier := range app.Spec.Tiers {
			labels := map[string]string{}
			for name, value := range tier.PodSelector.MatchLabels {
				labels[name] = string(value)
			}
			pods = append(pods,
				pod{app.Namespace, string(tier.Name) + "-0", labels},
				pod{app.Namespace, string(tier.Name) + "-1", labels},
				pod{"elsewhere", app.Name + "-" + string(tier.Name), labels})
		}
	}
	return pods
}

// applications are the AppIsolations of the story.
func (s story) applications() []*v1alpha1.AppIsolation {
	var apps []*v1alpha1.AppIsolation
	for _, object := range s.objects {
		if app := object.application(); app != nil {
			apps = append(apps, app)
		}
	}
	return apps
}

// declared is the spec of one of the applications as the file has it, as a patch.
func (s story) declared(name string) (string, error) {
	for _, object := range s.objects {
		if object.application() != nil && object.GetName() == name {
			patch, err := json.Marshal(map[string]any{"spec": object.Object["spec"]})
			return string(patch), err
		}
	}
	return "", fmt.Errorf("%s has no AppIsolation %s", s.file, name)
}

func (s story) namespaces() []string {
	var names []string
	for _, app := range s.applications() {
		if !slices.Contains(names, app.Namespace) {
			names = append(names, app.Namespace)
		}
	}
	return names
}

// endpoint is who a name in the table means: a stranger, a pod, or one of a tier's two pods.
func (s story) endpoint(name, replica string) oracle.Endpoint {
	if stranger, found := strangers[name]; found {
		return stranger
	}
	if namespace, name, found := strings.Cut(name, "/"); found {
		return oracle.Pod(namespace, name)
	}
	for _, app := range s.applications() {
		for _, tier := range app.Spec.Tiers {
			if string(tier.Name) == name {
				return oracle.Pod(app.Namespace, name+"-"+replica)
			}
		}
	}
	return oracle.Pod("", name) // nobody, which the oracle says
}
