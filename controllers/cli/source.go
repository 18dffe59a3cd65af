package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/resource"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/pager"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/controllers/isolation"
)

// source is where a command finds what it speaks of: the files that are named, or else a cluster.
type source struct {
	genericclioptions.FileNameFlags
	cluster *genericclioptions.ConfigFlags
	// nearby are namespaces of the cluster that are read too, as far as the user may.
	nearby []string
	// asksAPIServer means that where the API server is has to be known, though no application may name it.
	asksAPIServer bool
}

func (s *source) addFlags(flags *pflag.FlagSet) {
	s.FileNameFlags = genericclioptions.FileNameFlags{
		Usage:     "Files, folders or URLs that hold AppIsolations and what they refer to; - is the standard input. No cluster is asked then.",
		Filenames: &[]string{}, Kustomize: new(string), Recursive: new(bool),
	}
	s.AddFlags(flags)
	s.addClusterFlags(flags)
	flags.Lookup("namespace").Usage = "The namespace: of objects in files that name none, or the one to read on the cluster."
}

// addClusterFlags are the flags of a command that has to do with a cluster only.
func (s *source) addClusterFlags(flags *pflag.FlagSet) {
	s.cluster = genericclioptions.NewConfigFlags(true)
	s.cluster.AddFlags(flags)
}

// hasFiles says whether files are named, so that no cluster is asked.
func (s *source) hasFiles() bool { return len(*s.Filenames) > 0 || *s.Kustomize != "" }

// read reads the files, or else the namespace of the cluster, and more of that.
func (s *source) read(ctx context.Context, warnings io.Writer, more ...schema.GroupVersionResource) (*inventory, error) {
	if s.hasFiles() {
		return s.readFiles()
	}
	namespace, err := s.currentNamespace()
	if err != nil {
		return nil, err
	}
	found, err := s.readCluster(ctx, warnings, []string{namespace}, more...)
	return found, orFiles(err)
}

// orFiles says of a missing cluster that files would do as well.
func orFiles(err error) error {
	if errors.Is(err, errNoCluster) {
		return fmt.Errorf("name files with -f or -k, or a cluster: %w", err)
	}
	return err
}

var errNoCluster = errors.New("there is no kubeconfig")

// readFiles reads every object that the commands know, strictly, and passes over all others.
func (s *source) readFiles() (*inventory, error) {
	i := newInventory()
	i.partial = true
	options := s.ToOptions()
	if err := options.RequireFilenameOrKustomize(); err != nil {
		return nil, err
	}
	namespace := *s.cluster.Namespace
	if namespace == "" {
		namespace = metav1.NamespaceDefault
	}
	result := resource.NewLocalBuilder().Unstructured().ContinueOnError().FilenameParam(false, &options).Flatten().Do()
	err := result.IgnoreErrors(isNoObject).Visit(func(info *resource.Info, err error) error {
		if err != nil {
			return err
		}
		object := info.Object.(*unstructured.Unstructured)
		if err := i.add(object, namespace, info.Source); err != nil {
			return i.located(err, object, info.Source)
		}
		return nil
	})
	i.policies = lastOfEach(i.policies)
	return i, oneByLine(err)
}

// currentNamespace is the one that -n names, or else the kubeconfig.
func (s *source) currentNamespace() (string, error) {
	namespace, _, err := s.cluster.ToRawKubeConfigLoader().Namespace()
	return namespace, err
}

// What is read of a cluster.
var (
	namespacesResource     = corev1.SchemeGroupVersion.WithResource("namespaces")
	profilesResource       = v1alpha1.GroupVersion.WithResource("isolationprofiles")
	appsResource           = v1alpha1.GroupVersion.WithResource("appisolations")
	policiesResource       = networkingv1.SchemeGroupVersion.WithResource("networkpolicies")
	podsResource           = corev1.SchemeGroupVersion.WithResource("pods")
	servicesResource       = corev1.SchemeGroupVersion.WithResource("services")
	endpointSlicesResource = discoveryv1.SchemeGroupVersion.WithResource("endpointslices")
)

// readCluster reads applications, policies, pods, Services and more of these namespaces, or of all if none is named; what
// the user may read of those nearby; the applications that those name; and what the cluster says for all of them. Of
// that, what a user may not read is a warning, and is not known then.
func (s *source) readCluster(ctx context.Context, warnings io.Writer, in []string, more ...schema.GroupVersionResource) (*inventory, error) {
	reader, err := s.connect(ctx, warnings)
	if err != nil {
		return nil, err
	}
	for _, resource := range []schema.GroupVersionResource{namespacesResource, profilesResource} {
		if err := reader.listIfAllowed(resource, metav1.NamespaceAll); err != nil {
			return nil, err
		}
	}
	if reader.found.asked = in; len(in) > 0 {
		reader.found.asked = slices.Concat(in, s.nearby)
	}
	if len(in) == 0 {
		in = []string{metav1.NamespaceAll}
	}
	for _, namespace := range in {
		for _, resource := range append([]schema.GroupVersionResource{appsResource, policiesResource, podsResource, servicesResource}, more...) {
			if err := reader.list(resource, namespace); err != nil {
				return nil, err
			}
		}
	}
	for _, namespace := range s.nearby {
		if err := reader.listNearby(namespace); err != nil {
			return nil, err
		}
	}
	if err := reader.follow(slices.Concat(in, s.nearby), s.asksAPIServer); err != nil {
		return nil, err
	}
	slices.SortStableFunc(reader.found.apps, isolation.Older)
	return reader.found, nil
}

func (s *source) connect(ctx context.Context, warnings io.Writer) (*clusterReader, error) {
	known, err := s.cluster.ToRawKubeConfigLoader().RawConfig()
	if err != nil {
		return nil, err
	}
	if len(known.Clusters) == 0 && *s.cluster.APIServer == "" && os.Getenv("KUBERNETES_SERVICE_HOST") == "" {
		return nil, errNoCluster
	}
	config, err := s.cluster.ToRESTConfig()
	if err != nil {
		return nil, err
	}
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	found := newInventory()
	found.live = true
	return &clusterReader{ctx, client, found, warnings}, nil
}

// clusterReader adds what it reads of a cluster to what is found.
type clusterReader struct {
	ctx    context.Context
	client dynamic.Interface
	found  *inventory
	// warnings is where to say what may not be read.
	warnings io.Writer
}

// listIfAllowed reads the objects of a namespace, unless the user may not: what others have need not be theirs to see.
func (r *clusterReader) listIfAllowed(resource schema.GroupVersionResource, namespace string) error {
	err := r.list(resource, namespace)
	if !apierrors.IsForbidden(err) {
		return err
	}
	r.found.partial = true
	fmt.Fprintf(r.warnings, "warning: %v: what depends on it is not known\n", err)
	return nil
}

// listNearby reads a namespace as far as the user may.
func (r *clusterReader) listNearby(namespace string) error {
	if err := r.list(policiesResource, namespace); apierrors.IsForbidden(err) {
		r.found.unread = append(r.found.unread, namespace)
		fmt.Fprintf(r.warnings, "warning: %v: what they say is not known\n", err)
	} else if err != nil {
		return err
	}
	for _, resource := range []schema.GroupVersionResource{appsResource, podsResource, servicesResource} {
		if err := r.listIfAllowed(resource, namespace); err != nil {
			return err
		}
	}
	return nil
}

// list reads the objects of a namespace. A resource that the cluster does not have has none.
func (r *clusterReader) list(resource schema.GroupVersionResource, namespace string) error {
	each := func(object runtime.Object) error {
		return r.found.add(object.(*unstructured.Unstructured), namespace, "")
	}
	page := func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
		return r.client.Resource(resource).Namespace(namespace).List(ctx, options)
	}
	err := pager.New(page).EachListItem(r.ctx, metav1.ListOptions{}, each)
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// follow reads what the applications name outside of these namespaces: other applications, and the API server.
func (r *clusterReader) follow(namespaces []string, usesAPIServer bool) error {
	elsewhere := map[string]bool{}
	isRead := func(namespace string) bool {
		return slices.Contains(namespaces, namespace) || slices.Contains(namespaces, metav1.NamespaceAll)
	}
	for _, app := range r.found.apps {
		for key := range isolation.NamedApps(app) {
			elsewhere[key.Namespace] = true
		}
		usesAPIServer = usesAPIServer || isolation.UsesAPIServer(app)
	}
	for namespace := range elsewhere {
		if isRead(namespace) {
			continue
		}
		if err := r.listIfAllowed(appsResource, namespace); err != nil {
			return err
		}
	}
	if !usesAPIServer {
		return nil
	}
	if err := r.listIfAllowed(endpointSlicesResource, metav1.NamespaceDefault); err != nil || isRead(metav1.NamespaceDefault) {
		return err
	}
	return r.listIfAllowed(servicesResource, metav1.NamespaceDefault)
}
