package cli

import (
	"fmt"
	"slices"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/resource"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/controllers/isolation"
)

// files are what the flags -f, -R, -k and -n name.
type files struct {
	genericclioptions.FileNameFlags
	namespace string
}

func (f *files) addFlags(command *cobra.Command) {
	f.FileNameFlags = genericclioptions.FileNameFlags{
		Usage:     "Files, folders or URLs that hold AppIsolations and what they refer to; - is the standard input.",
		Filenames: &[]string{}, Kustomize: new(string), Recursive: new(bool),
	}
	f.AddFlags(command.Flags())
	command.Flags().StringVarP(&f.namespace, "namespace", "n", metav1.NamespaceDefault, "The namespace of objects that name none.")
}

// declarations are what files hold.
type declarations struct {
	// apps are the applications, in the order in which they were read.
	apps []*v1alpha1.AppIsolation
	// sources are where each application was read from.
	sources    map[*v1alpha1.AppIsolation]string
	profiles   map[string]*v1alpha1.IsolationProfile
	namespaces map[string]map[string]string
	apiServer  isolation.APIServer
}

// read reads every object that the commands know, strictly, and passes over all others.
func (f *files) read() (*declarations, error) {
	d := &declarations{
		sources:  map[*v1alpha1.AppIsolation]string{},
		profiles: map[string]*v1alpha1.IsolationProfile{}, namespaces: map[string]map[string]string{},
	}
	options := f.ToOptions()
	if err := options.RequireFilenameOrKustomize(); err != nil {
		return nil, err
	}
	result := resource.NewLocalBuilder().Unstructured().ContinueOnError().FilenameParam(false, &options).Flatten().Do()
	return d, result.Visit(func(info *resource.Info, err error) error {
		if err != nil {
			return err
		}
		object := info.Object.(*unstructured.Unstructured)
		if err := d.add(object, f.namespace, info.Source); err != nil {
			return fmt.Errorf("%s: %s %s: %w", info.Source, object.GetKind(), object.GetName(), err)
		}
		return nil
	})
}

func (d *declarations) add(object *unstructured.Unstructured, namespace, source string) error {
	add, known := map[string]func() error{
		v1alpha1.GroupVersion.String() + " AppIsolation": func() error {
			return typed(object, func(app *v1alpha1.AppIsolation) {
				if app.Namespace == "" {
					app.Namespace = namespace
				}
				d.apps, d.sources[app] = append(d.apps, app), source
			})
		},
		v1alpha1.GroupVersion.String() + " IsolationProfile": func() error {
			return typed(object, func(p *v1alpha1.IsolationProfile) { d.profiles[p.Name] = p })
		},
		"v1 Namespace":                      func() error { return typed(object, d.addNamespace) },
		"v1 Service":                        func() error { return typed(object, d.addService) },
		"discovery.k8s.io/v1 EndpointSlice": func() error { return typed(object, d.addEndpoints) },
	}[object.GetAPIVersion()+" "+object.GetKind()]
	if !known {
		return nil
	}
	return add()
}

// typed is an object as its type has it; a field that the type does not know is an error.
func typed[T any](object *unstructured.Unstructured, add func(*T)) error {
	into := new(T)
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(object.Object, into, true); err != nil {
		return err
	}
	add(into)
	return nil
}

// addNamespace adds a namespace with the label that the API server gives to each.
func (d *declarations) addNamespace(namespace *corev1.Namespace) {
	metav1.SetMetaDataLabel(&namespace.ObjectMeta, corev1.LabelMetadataName, namespace.Name)
	d.namespaces[namespace.Name] = namespace.Labels
}

// addEndpoints and addService add where the API servers are, if that is among the files.
func (d *declarations) addEndpoints(slice *discoveryv1.EndpointSlice) {
	if slice.Namespace == metav1.NamespaceDefault && slice.Labels[discoveryv1.LabelServiceName] == isolation.APIServerService {
		d.apiServer.AddEndpoints(slice)
	}
}

func (d *declarations) addService(service *corev1.Service) {
	if service.Namespace == metav1.NamespaceDefault && service.Name == isolation.APIServerService {
		d.apiServer.AddService(service)
	}
}

// facts are what an application's translation depends on, as far as the files say it.
func (d *declarations) facts(app *v1alpha1.AppIsolation) isolation.Facts {
	facts := isolation.Facts{
		Apps: map[types.NamespacedName]*v1alpha1.AppIsolationSpec{}, Namespaces: d.namespaces, Partial: true, APIServer: d.apiServer,
	}
	for _, other := range d.apps {
		if other != app {
			facts.Apps[types.NamespacedName{Namespace: other.Namespace, Name: other.Name}] = &other.Spec
		}
	}
	name, named := isolation.ProfileName(d.namespaces[app.Namespace])
	facts.Profile = d.profiles[name]
	if facts.Profile == nil && named {
		facts.MissingProfile = name
	}
	if first := slices.IndexFunc(d.apps, func(a *v1alpha1.AppIsolation) bool {
		return a.Namespace == app.Namespace && a.Spec.EffectiveScope() == v1alpha1.ScopeNamespace && a.Spec.EffectiveMode() == v1alpha1.ModeEnforce
	}); first >= 0 && d.apps[first] != app {
		facts.ScopeHolder = d.apps[first].Name
	}
	return facts
}
