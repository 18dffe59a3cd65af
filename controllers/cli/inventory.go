package cli

import (
	"cmp"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/controllers/isolation"
)

// inventory is what files hold, or a cluster.
type inventory struct {
	// live means that it is a cluster's.
	live bool
	// partial means that more may exist: it always may beside files.
	partial bool
	// unread are the namespaces whose policies may not be read.
	unread []string
	// asked are the namespaces that are asked for; none means all.
	asked []string
	// named are the applications that are asked for; none means all.
	named []string
	// apps are the applications, in the order in which they were read, or on a cluster made.
	apps []*v1alpha1.AppIsolation
	// sources are the files that the applications were read from.
	sources    map[*v1alpha1.AppIsolation]string
	profiles   map[string]*v1alpha1.IsolationProfile
	namespaces map[string]map[string]string
	apiServer  isolation.APIServer
	policies   []*networkingv1.NetworkPolicy
	// pods are those that run; in files also one for each Deployment and its like, by its template.
	pods      []*corev1.Pod
	services  []*corev1.Service
	workloads []workload
	// configMaps and ingresses are read of a cluster for import only.
	configMaps []*corev1.ConfigMap
	ingresses  []*networkingv1.Ingress

	byKey map[types.NamespacedName]*v1alpha1.AppIsolation
	texts map[string][]document
}

// workload is what makes pods: a Deployment, or its like.
type workload struct {
	kind string
	metav1.ObjectMeta
	// selector is nil for those that choose their pods themselves, as Jobs do.
	selector *metav1.LabelSelector
	template corev1.PodTemplateSpec
}

func newInventory() *inventory {
	return &inventory{
		sources:  map[*v1alpha1.AppIsolation]string{},
		profiles: map[string]*v1alpha1.IsolationProfile{}, namespaces: map[string]map[string]string{},
		byKey: map[types.NamespacedName]*v1alpha1.AppIsolation{},
		texts: map[string][]document{},
	}
}

// add adds an object, unless it is of a kind that no command knows. One that says no namespace is in the given one.
func (i *inventory) add(object *unstructured.Unstructured, namespace, source string) error {
	add, known := kinds[object.GroupVersionKind()]
	isOurs := object.GroupVersionKind().Group == v1alpha1.GroupVersion.Group || slices.Contains([]string{"AppIsolation", "IsolationProfile"}, object.GetKind())
	if !known && !i.live && isOurs {
		return errUnknownKind
	}
	if !known {
		return nil
	}
	if object.GetNamespace() == "" && !isClusterScoped[object.GetKind()] {
		object.SetNamespace(namespace)
	}
	return add(i, object, source)
}

// kinds are those that the commands know.
var kinds = map[schema.GroupVersionKind]func(i *inventory, object *unstructured.Unstructured, source string) error{
	v1alpha1.GroupVersion.WithKind("AppIsolation"):            kind((*inventory).addApp),
	v1alpha1.GroupVersion.WithKind("IsolationProfile"):        kind((*inventory).addProfile),
	networkingv1.SchemeGroupVersion.WithKind("NetworkPolicy"): kind((*inventory).addPolicy),
	corev1.SchemeGroupVersion.WithKind("Namespace"):           kind((*inventory).addNamespace),
	corev1.SchemeGroupVersion.WithKind("Service"):             kind((*inventory).addService),
	corev1.SchemeGroupVersion.WithKind("Pod"):                 kind((*inventory).addPod),
	corev1.SchemeGroupVersion.WithKind("ConfigMap"): kind(func(i *inventory, c *corev1.ConfigMap, _ string) {
		i.configMaps = append(i.configMaps, c)
	}),
	networkingv1.SchemeGroupVersion.WithKind("Ingress"): kind(func(i *inventory, in *networkingv1.Ingress, _ string) {
		i.ingresses = append(i.ingresses, in)
	}),
	discoveryv1.SchemeGroupVersion.WithKind("EndpointSlice"): kind((*inventory).addEndpoints),
	appsv1.SchemeGroupVersion.WithKind("Deployment"): kind(func(i *inventory, d *appsv1.Deployment, _ string) {
		i.addWorkload(workload{"Deployment", d.ObjectMeta, d.Spec.Selector, d.Spec.Template})
	}),
	appsv1.SchemeGroupVersion.WithKind("StatefulSet"): kind(func(i *inventory, s *appsv1.StatefulSet, _ string) {
		i.addWorkload(workload{"StatefulSet", s.ObjectMeta, s.Spec.Selector, s.Spec.Template})
	}),
	appsv1.SchemeGroupVersion.WithKind("DaemonSet"): kind(func(i *inventory, d *appsv1.DaemonSet, _ string) {
		i.addWorkload(workload{"DaemonSet", d.ObjectMeta, d.Spec.Selector, d.Spec.Template})
	}),
	batchv1.SchemeGroupVersion.WithKind("Job"): kind(func(i *inventory, j *batchv1.Job, _ string) {
		i.addWorkload(workload{"Job", j.ObjectMeta, nil, j.Spec.Template})
	}),
	batchv1.SchemeGroupVersion.WithKind("CronJob"): kind(func(i *inventory, c *batchv1.CronJob, _ string) {
		i.addWorkload(workload{"CronJob", c.ObjectMeta, nil, c.Spec.JobTemplate.Spec.Template})
	}),
}

var isClusterScoped = map[string]bool{"Namespace": true, "IsolationProfile": true}

// strictly are the kinds of which a field that is not known is an error in a file. Others may be newer there than we are,
// as may be everything on a cluster.
var strictly = []string{"AppIsolation", "IsolationProfile", "NetworkPolicy"}

// kind reads an object as its type has it.
func kind[T any](add func(i *inventory, object *T, source string)) func(*inventory, *unstructured.Unstructured, string) error {
	return func(i *inventory, object *unstructured.Unstructured, source string) error {
		into := new(T)
		strict := !i.live && slices.Contains(strictly, object.GetKind())
		if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(object.Object, into, strict); err != nil {
			return cmp.Or(wrongType(object, new(T)), err)
		}
		if err := checkName(object); err != nil && !i.live {
			return err
		}
		add(i, into, source)
		return nil
	}
}

func (i *inventory) addApp(app *v1alpha1.AppIsolation, source string) {
	i.apps, i.sources[app] = append(i.apps, app), source
	i.byKey[keyOf(app)] = app
}

func (i *inventory) addProfile(profile *v1alpha1.IsolationProfile, _ string) {
	i.profiles[profile.Name] = profile
}

func (i *inventory) addPolicy(policy *networkingv1.NetworkPolicy, _ string) {
	if !i.live {
		isolation.SetDefaults(policy)
	}
	i.policies = append(i.policies, policy)
}

// lastOfEach are policies without those that another one of the same name follows: the last one is what is applied.
func lastOfEach(policies []*networkingv1.NetworkPolicy) []*networkingv1.NetworkPolicy {
	last := inForce{}
	last.put(policies...)
	return slices.DeleteFunc(policies, func(policy *networkingv1.NetworkPolicy) bool { return last[keyOf(policy)] != policy })
}

func (i *inventory) addPod(pod *corev1.Pod, _ string) { i.pods = append(i.pods, pod) }

func keyOf(object metav1.Object) types.NamespacedName {
	return types.NamespacedName{Namespace: object.GetNamespace(), Name: object.GetName()}
}

// addNamespace adds a namespace with the label that the API server gives to each.
func (i *inventory) addNamespace(namespace *corev1.Namespace, _ string) {
	metav1.SetMetaDataLabel(&namespace.ObjectMeta, corev1.LabelMetadataName, namespace.Name)
	i.namespaces[namespace.Name] = namespace.Labels
}

// addEndpoints adds where the API servers are, if these are their endpoints.
func (i *inventory) addEndpoints(slice *discoveryv1.EndpointSlice, _ string) {
	if slice.Namespace == metav1.NamespaceDefault && slice.Labels[discoveryv1.LabelServiceName] == isolation.APIServerService {
		i.apiServer.AddEndpoints(slice)
	}
}

func (i *inventory) addService(service *corev1.Service, _ string) {
	i.services = append(i.services, service)
	if service.Namespace == metav1.NamespaceDefault && service.Name == isolation.APIServerService {
		i.apiServer.AddService(service)
	}
}

// addWorkload adds what makes pods and, where the pods themselves are not to be seen, one as it would make it.
func (i *inventory) addWorkload(w workload) {
	i.workloads = append(i.workloads, w)
	if i.live {
		return
	}
	pod := &corev1.Pod{ObjectMeta: *w.template.ObjectMeta.DeepCopy(), Spec: w.template.Spec}
	pod.Namespace, pod.Name, pod.GenerateName = w.Namespace, w.Name, w.Name+"-"
	i.pods = append(i.pods, pod)
}

// asksFor says whether a namespace is one of those that are asked for.
func (i *inventory) asksFor(namespace string) bool {
	return len(i.asked) == 0 || slices.Contains(i.asked, namespace)
}

// asksForApp says whether an application is one of those that are asked for.
func (i *inventory) asksForApp(app *v1alpha1.AppIsolation) bool {
	return i.asksFor(app.Namespace) && (len(i.named) == 0 || slices.Contains(i.named, app.Name))
}

// facts are what an application's translation depends on, as far as it is known.
func (i *inventory) facts(app *v1alpha1.AppIsolation) isolation.Facts {
	facts := isolation.Facts{
		Apps: map[types.NamespacedName]*v1alpha1.AppIsolationSpec{}, Namespaces: i.namespaces, Partial: i.partial, APIServer: i.apiServer,
	}
	for key := range isolation.NamedApps(app) {
		if other := i.byKey[key]; other != nil && other != app {
			facts.Apps[key] = &other.Spec
		}
	}
	name, named := isolation.ProfileName(i.namespaces[app.Namespace])
	facts.Profile = i.profiles[name]
	if facts.Profile == nil && named {
		facts.MissingProfile = name
	}
	facts.ScopeHolder = isolation.ScopeHolder(app, i.apps)
	return facts
}
