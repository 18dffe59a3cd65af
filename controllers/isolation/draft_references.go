package isolation

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// setting is a text that a workload's pods are given, and where it stands. Key is what it is called there.
type setting struct{ where, key, text string }

// reference is a Service that a setting names.
type reference struct {
	service types.NamespacedName
	// port is the port that is named with it; 0 if there is none.
	port int32
	// where is the setting, for people.
	where string
	// unsure means that the word may mean something else.
	unsure bool
}

// settingsOf are the texts that pods are given: environment, arguments and ConfigMaps. What is missing is said; Secrets
// are never read.
func settingsOf(w Workload, known map[types.NamespacedName]*corev1.ConfigMap) (settings []setting, missing []string) {
	r := settingsReader{workload: w, maps: known}
	spec := w.Template.Spec
	for _, container := range slices.Concat(spec.InitContainers, spec.Containers) {
		r.readContainer(container)
	}
	for _, volume := range spec.Volumes {
		if volume.ConfigMap != nil {
			r.readFiles(volume.ConfigMap.Name, volume.ConfigMap.Items)
		}
		if volume.Secret != nil {
			r.miss("Secret", volume.Secret.SecretName)
		}
		if volume.Projected == nil {
			continue
		}
		for _, source := range volume.Projected.Sources {
			if source.ConfigMap != nil {
				r.readFiles(source.ConfigMap.Name, source.ConfigMap.Items)
			}
			if source.Secret != nil {
				r.miss("Secret", source.Secret.Name)
			}
		}
	}
	return r.settings, r.missing
}

type settingsReader struct {
	workload Workload
	maps     map[types.NamespacedName]*corev1.ConfigMap
	settings []setting
	missing  []string
}

func (r *settingsReader) add(key, text, format string, args ...any) {
	where := fmt.Sprintf(format, args...) + " of " + r.workload.String()
	r.settings = append(r.settings, setting{where, key, text})
}

func (r *settingsReader) miss(kind, name string) {
	text := fmt.Sprintf("%s %s", kind, name)
	if !slices.Contains(r.missing, text) {
		r.missing = append(r.missing, text)
	}
}

func (r *settingsReader) readContainer(container corev1.Container) {
	for _, variable := range container.Env {
		r.readVariable(variable)
	}
	for _, from := range container.EnvFrom {
		if from.SecretRef != nil {
			r.miss("Secret", from.SecretRef.Name)
		}
		if from.ConfigMapRef == nil {
			continue
		}
		data := r.dataOf(from.ConfigMapRef.Name)
		for _, key := range slices.Sorted(maps.Keys(data)) {
			r.add(key, data[key], "env %s%s (ConfigMap %s)", from.Prefix, key, from.ConfigMapRef.Name)
		}
	}
	r.readArguments(slices.Concat(container.Command, container.Args))
}

func (r *settingsReader) readVariable(variable corev1.EnvVar) {
	switch from := variable.ValueFrom; {
	case from == nil:
		r.add(variable.Name, variable.Value, "env %s", variable.Name)
	case from.SecretKeyRef != nil:
		r.miss("Secret", from.SecretKeyRef.Name)
	case from.ConfigMapKeyRef != nil:
		if text, found := r.dataOf(from.ConfigMapKeyRef.Name)[from.ConfigMapKeyRef.Key]; found {
			r.add(variable.Name, text, "env %s (ConfigMap %s)", variable.Name, from.ConfigMapKeyRef.Name)
		}
	}
}

// readArguments reads a command line. An argument is called by its flag or its place: in its text there may be a password.
func (r *settingsReader) readArguments(arguments []string) {
	flag := ""
	for n, argument := range arguments {
		name := flagName.FindString(argument)
		where := fmt.Sprint(n + 1)
		if name != "" {
			where = name
		} else if flag != "" {
			where = flag
		}
		r.add(strings.TrimLeft(flag, "-"), argument, "argument %s", where)
		if flag = ""; name == argument {
			flag = name // the next argument may be its value
		}
	}
}

var flagName = regexp.MustCompile(`^--?[A-Za-z][-A-Za-z0-9_.]*`)

func (r *settingsReader) readFiles(name string, items []corev1.KeyToPath) {
	data := r.dataOf(name)
	for _, key := range slices.Sorted(maps.Keys(data)) {
		if len(items) == 0 || slices.ContainsFunc(items, func(item corev1.KeyToPath) bool { return item.Key == key }) {
			r.add(key, data[key], "%s (ConfigMap %s)", key, name)
		}
	}
}

func (r *settingsReader) dataOf(name string) map[string]string {
	found := r.maps[types.NamespacedName{Namespace: r.workload.Namespace, Name: name}]
	if found == nil {
		r.miss("ConfigMap", name)
		return nil
	}
	return found.Data
}

var (
	// host is a word that may be a host's name, and the port after it.
	host = regexp.MustCompile(`[A-Za-z0-9](?:[-A-Za-z0-9.]*[A-Za-z0-9])?(?::[0-9]{1,5})?`)
	// assignment gives one word to a key: `host=db`, `"host": "db"`, `--db-host=db`.
	assignment = regexp.MustCompile(`([A-Za-z_][A-Za-z0-9_.-]*)["']?[ \t]*[:=][ \t]*["']?([A-Za-z0-9][-A-Za-z0-9]*)["']?(?:$|[\s,;&"'}])`)
	// noAddress are the ends of keys whose value is a name of something else.
	noAddress = regexp.MustCompile(`(?i)(name|user|username|database|db|schema|password|tier|env|environment|mode|role|component|id|app|stage|profile|class|type|level)$`)
)

// referencesIn are the Services that a setting of a namespace names. A word without a dot is one only where a host stands: before a
// port, after // or @, or alone as the value of a key; anywhere else it is a word.
func referencesIn(s setting, namespace string, services map[types.NamespacedName]*corev1.Service) []reference {
	var found []reference
	for _, at := range host.FindAllStringIndex(s.text, -1) {
		before, after := s.text[:at[0]], s.text[at[1]:]
		if strings.HasSuffix(before, "_") || strings.HasPrefix(after, "_") {
			continue // a part of a longer word
		}
		name, port, hasPort := strings.Cut(s.text[at[0]:at[1]], ":")
		number, err := strconv.ParseUint(cmp.Or(port, "0"), 10, 16)
		if err != nil {
			continue
		}
		isHost := hasPort && !strings.HasPrefix(after, ".") || strings.HasSuffix(before, "://") || strings.HasSuffix(before, "@")
		if service, named := serviceNamed(name, namespace, isHost, services); named {
			found = append(found, reference{service: service, port: int32(number), where: s.where})
		}
	}
	for _, pair := range append(assignment.FindAllStringSubmatch(s.text, -1), []string{"", s.key, strings.TrimSpace(s.text)}) {
		service, named := serviceNamed(pair[2], namespace, true, services)
		if named && !strings.Contains(pair[2], ".") {
			found = append(found, reference{service: service, where: s.where, unsure: noAddress.MatchString(pair[1])})
		}
	}
	return found
}

// serviceNamed is the Service that a host's name means to the pods of a namespace: db, db.shop, db.shop.svc, and so on,
// or a pod of it: db-0.db. Unknown Services are named by the forms with svc only.
func serviceNamed(name, namespace string, isHost bool, services map[types.NamespacedName]*corev1.Service) (types.NamespacedName, bool) {
	parts := strings.Split(strings.TrimSuffix(strings.ToLower(name), "."), ".")
	if len(parts) == 1 {
		key := types.NamespacedName{Namespace: namespace, Name: parts[0]}
		return key, isHost && services[key] != nil
	}
	for n := 2; n < len(parts); n++ { // from the left: svc is the third label, or, with a pod's name, the fourth
		if parts[n] == "svc" && n <= 3 {
			return types.NamespacedName{Namespace: parts[n-1], Name: parts[n-2]}, true
		}
	}
	for n := range min(2, len(parts)-1) {
		key := types.NamespacedName{Namespace: parts[n+1], Name: parts[n]}
		if len(parts) == n+2 && services[key] != nil {
			return key, true
		}
	}
	key := types.NamespacedName{Namespace: namespace, Name: parts[1]}
	return key, len(parts) == 2 && services[key] != nil && ordinal.MatchString(parts[0])
}

// ordinal is the end of the name of a StatefulSet's pod.
var ordinal = regexp.MustCompile(`-[0-9]+$`)
