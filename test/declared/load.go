package declared

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	yamlutil "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"github.com/appisolation/appisolation/api/v1alpha1"
)

// Load reads the world of a golden, a folder with these files:
//
//	in.yaml       AppIsolations, the oldest first, and what else the cluster has
//	cluster.yaml  (optional) more of what the cluster has
//	problems.txt  (optional) what is wrong, by AppIsolation: it says which are refused
func Load(dir string) (World, error) {
	w := World{Refused: map[types.NamespacedName]bool{}}
	for _, name := range []string{"in.yaml", "cluster.yaml"} {
		path := filepath.Join(dir, name)
		text, err := os.ReadFile(path) //nolint:gosec // a golden
		if name == "cluster.yaml" && errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err == nil {
			err = EachDocument(text, w.addObject)
		}
		if err != nil {
			return w, fmt.Errorf("%s: %w", path, err)
		}
	}
	text, err := os.ReadFile(filepath.Join(dir, "problems.txt")) //nolint:gosec // a golden
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return w, err
	}
	w.addProblems(string(text))
	return w, nil
}

// EachDocument calls a function with each document of a YAML stream.
func EachDocument(text []byte, call func([]byte) error) error {
	reader := yamlutil.NewYAMLReader(bufio.NewReader(bytes.NewReader(text)))
	for {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = call(document)
		}
		if err != nil {
			return err
		}
	}
}

func (w *World) addObject(document []byte) error {
	var meta metav1.TypeMeta
	if err := yaml.Unmarshal(document, &meta); err != nil {
		return err
	}
	add, known := map[string]func([]byte) error{
		"AppIsolation":     func(d []byte) error { return addTo(d, func(a *v1alpha1.AppIsolation) { w.Apps = append(w.Apps, a) }) },
		"IsolationProfile": func(d []byte) error { return addTo(d, w.addProfile) },
		"Namespace":        func(d []byte) error { return addTo(d, w.addNamespace) },
		"EndpointSlice":    func(d []byte) error { return addTo(d, w.addEndpoints) },
		"Service":          func(d []byte) error { return addTo(d, w.addService) },
		"NetworkPolicy": func(d []byte) error {
			return addTo(d, func(p *networkingv1.NetworkPolicy) { w.Policies = append(w.Policies, *p) })
		},
		"Pod": func(d []byte) error { return addTo(d, func(p *corev1.Pod) { w.Pods = append(w.Pods, *p) }) },
	}[meta.Kind]
	if !known {
		return fmt.Errorf("unknown kind %q", meta.Kind)
	}
	return add(document)
}

// addTo reads one object, strictly, and adds it.
func addTo[T any](document []byte, add func(*T)) error {
	var object T
	if err := yaml.UnmarshalStrict(document, &object); err != nil {
		return err
	}
	add(&object)
	return nil
}

func (w *World) addProfile(profile *v1alpha1.IsolationProfile) {
	if w.Profiles == nil {
		w.Profiles = map[string]*v1alpha1.IsolationProfile{}
	}
	w.Profiles[profile.Name] = profile
}

// addService adds a Service. That of the API servers is the only one with addresses.
func (w *World) addService(service *corev1.Service) {
	w.Services = append(w.Services, *service)
	for _, ip := range service.Spec.ClusterIPs {
		w.APIServer.Services = append(w.APIServer.Services, netip.AddrPortFrom(netip.MustParseAddr(ip), uint16(service.Spec.Ports[0].Port)))
	}
}

// addNamespace adds a namespace with the label that the API server gives to each.
func (w *World) addNamespace(namespace *corev1.Namespace) {
	if w.Namespaces == nil {
		w.Namespaces = map[string]map[string]string{}
	}
	w.Namespaces[namespace.Name] = namespace.Labels
	w.Namespaces[namespace.Name] = w.LabelsOf(namespace.Name)
}

// addEndpoints adds an EndpointSlice of default/kubernetes; one with a deletionTimestamp is gone and remembered.
func (w *World) addEndpoints(slice *discoveryv1.EndpointSlice) {
	for _, endpoint := range slice.Endpoints {
		for _, address := range endpoint.Addresses {
			for _, port := range slice.Ports {
				w.APIServer.Endpoints = append(w.APIServer.Endpoints, netip.AddrPortFrom(netip.MustParseAddr(address), uint16(*port.Port)))
			}
		}
	}
	w.APIServer.Stale = slice.DeletionTimestamp != nil
}

// addProblems notes whom problems.txt says to be refused, by itself or by its profile, in lines like these:
//
//	shop/shop
//	  Accepted Invalid: spec.tiers: ...
func (w *World) addProblems(text string) {
	var app types.NamespacedName
	for line := range strings.Lines(text) {
		if problem, indented := strings.CutPrefix(line, "  "); !indented {
			app.Namespace, app.Name, _ = strings.Cut(strings.TrimSpace(line), "/")
		} else if strings.HasPrefix(problem, v1alpha1.ConditionAccepted) && !strings.Contains(problem, v1alpha1.ReasonScopeConflict) {
			w.Refused[app] = true
		}
	}
}
