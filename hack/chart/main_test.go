package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"

	"github.com/appisolation/appisolation/test/controlplane"
)

const (
	root      = "../.."
	published = root + "/config/helm/appisolation"
)

func TestTheTemplatesAreUpToDate(t *testing.T) {
	g := NewWithT(t)
	made := t.TempDir()
	g.Expect(os.Mkdir(filepath.Join(made, "templates"), 0o700)).To(Succeed())
	g.Expect(run(root+"/config", made)).To(Succeed())
	output, err := exec.Command("diff", "-r", "--exclude=_helpers.tpl", "--exclude=NOTES.txt", made+"/templates", published+"/templates").CombinedOutput()
	g.Expect(err).NotTo(HaveOccurred(), "make generate\n%s", output)
}

func TestTheChartPassesHelmLint(t *testing.T) {
	g := NewWithT(t)
	output, err := helm("lint", "--strict", published)
	g.Expect(err).NotTo(HaveOccurred(), output)
}

// Every way to install makes the same objects.
func TestTheChartIsWhatKustomizeMakes(t *testing.T) {
	for name, row := range map[string]struct {
		values []string
		// extra are what the values add to config/default.
		resources, components []string
	}{
		"default": {},
		"everything": {
			values:     []string{"protection.enabled=true", "rights.enabled=true", "networkPolicy.enabled=true", "prometheus.enabled=true"},
			resources:  []string{"protection", "rights", "prometheus"},
			components: []string{"network-policy"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			want := kustomized(g, append([]string{"default"}, row.resources...), row.components)
			for key := range want {
				if strings.HasPrefix(key, "Namespace ") {
					delete(want, key) // it is there before the release is
				}
			}
			got := templated(g, row.values...)
			for key, object := range got {
				if strings.HasPrefix(key, "CustomResourceDefinition ") {
					g.Expect(object.GetAnnotations()).To(HaveKeyWithValue("helm.sh/resource-policy", "keep"))
					unstructured.RemoveNestedField(object.Object, "metadata", "annotations", "helm.sh/resource-policy")
				}
				g.Expect(want).To(HaveKey(key), "only the chart has it")
				g.Expect(object.Object).To(Equal(want[key].Object), key)
			}
			g.Expect(got).To(HaveLen(len(want)))
		})
	}
}

// What the pages say to write into a kustomization.yaml of one's own, in a folder beside config.
func TestTheOverlaysOfThePages(t *testing.T) {
	g := NewWithT(t)
	found := func(page, pattern string) string {
		text, err := os.ReadFile(filepath.Join(root, page))
		g.Expect(err).NotTo(HaveOccurred())
		match := regexp.MustCompile(pattern).FindStringSubmatch(string(text))
		g.Expect(match).To(HaveLen(2), "%s has no %s", page, pattern)
		return match[1] + "\n"
	}
	const block = "(?s)kustomization.yaml <<'END'\n(.*?)\nEND\n"
	overlay := found("docs/install.md", block)
	g.Expect(found("README.md", block)).To(Equal(overlay))
	overlay += found("docs/install.md", "`(components: [^`]*)`") + found("docs/install.md", "(?s)  ```\n  (patches:.*?)\n  ```")
	folder, err := os.MkdirTemp(root, ".overlay-")
	g.Expect(err).NotTo(HaveOccurred())
	defer os.RemoveAll(folder)
	objects := overlaid(g, folder, []byte(strings.ReplaceAll(overlay, "\n  ", "\n")))
	g.Expect(objects).To(HaveKey("NetworkPolicy appisolation-system/appisolation-egress"))
	g.Expect(containerOf(g, objects["Deployment appisolation-system/appisolation-manager"])).To(And(
		HaveKeyWithValue("image", "REGISTRY/appisolation:TAG"), HaveKeyWithValue("args", ContainElement("--zap-log-level=debug"))))
}

func TestTheSingleFileIsWhatKustomizeMakes(t *testing.T) {
	g := NewWithT(t)
	text, err := os.ReadFile(installer(g, t.TempDir(), "registry.example/team/appisolation:v9"))
	g.Expect(err).NotTo(HaveOccurred())
	want := kustomized(g, []string{"default"}, nil)
	got := decode(g, string(text))
	g.Expect(got).To(HaveLen(len(want)))
	for key, object := range got {
		g.Expect(want).To(HaveKey(key))
		if strings.HasPrefix(key, "Deployment ") {
			g.Expect(containerOf(g, object)["image"]).To(Equal("registry.example/team/appisolation:v9"))
			containerOf(g, want[key])["image"] = "registry.example/team/appisolation:v9"
		}
		g.Expect(object.Object).To(Equal(want[key].Object), key)
	}
}

// What a Role in another namespace gives, OLM cannot: the bundle gives it in the ClusterRole.
func TestTheBundleHoldsWhatKustomizeMakes(t *testing.T) {
	g := NewWithT(t)
	want := kustomized(g, []string{"default"}, nil)
	files, err := filepath.Glob(root + "/bundle/manifests/*.yaml")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(len(files)).To(BeNumerically(">", 10))
	for _, file := range files {
		text, err := os.ReadFile(file)
		g.Expect(err).NotTo(HaveOccurred())
		for _, object := range decode(g, string(text)) {
			if object.GetKind() == "ClusterServiceVersion" {
				installsTheSame(g, lookUp(object.Object, "spec", "install", "spec"), want)
				continue
			}
			made := want[object.GetKind()+" /"+object.GetName()]
			if made == nil {
				made = want[object.GetKind()+" "+namespace+"/"+object.GetName()]
			}
			g.Expect(made).NotTo(BeNil(), file)
			g.Expect(placeless(g, object)).To(Equal(placeless(g, made)), file)
		}
	}
}

// placeless is an object as it is in a bundle: OLM puts the namespace in.
func placeless(g Gomega, object *unstructured.Unstructured) string {
	unstructured.RemoveNestedField(object.Object, "status")
	unstructured.RemoveNestedField(object.Object, "metadata", "creationTimestamp")
	text, err := yaml.Marshal(object.Object)
	g.Expect(err).NotTo(HaveOccurred())
	return regexp.MustCompile(`(?m)^ +namespace: `+namespace+`\n`).ReplaceAllString(string(text), "")
}

// installsTheSame says that the pod, but for its image, and its rights in the whole cluster are those of kustomize.
func installsTheSame(g Gomega, install map[string]any, want map[string]*unstructured.Unstructured) {
	deployment := want["Deployment "+namespace+"/appisolation-manager"]
	delete(containerOf(g, deployment), "image")
	g.Expect(install["deployments"]).To(HaveLen(1))
	got := &unstructured.Unstructured{Object: install["deployments"].([]any)[0].(map[string]any)}
	delete(containerOf(g, got), "image")
	g.Expect(lookUp(got.Object, "spec")).To(HaveKeyWithValue("strategy", BeEmpty()))
	delete(lookUp(got.Object, "spec"), "strategy")
	g.Expect(got.Object["spec"]).To(Equal(deployment.Object["spec"]))

	g.Expect(install["clusterPermissions"]).To(HaveLen(1))
	permissions := install["clusterPermissions"].([]any)[0].(map[string]any)
	rules := slices.Concat(want["ClusterRole /appisolation-manager"].Object["rules"].([]any), want["Role default/appisolation-manager"].Object["rules"].([]any))
	g.Expect(permissions["rules"]).To(Equal(rules))
	g.Expect(permissions["serviceAccountName"]).To(Equal(lookUp(got.Object, "spec", "template", "spec")["serviceAccountName"]))
}

func TestValuesReachThePod(t *testing.T) {
	g := NewWithT(t)
	digest := "sha256:" + strings.Repeat("0", 64)
	objects := templated(g, "replicas=3", "image.repository=registry.example/a", "image.digest="+digest, "image.pullPolicy=Always",
		"imagePullSecrets[0].name=pull", "extraArgs[0]=--zap-log-level=debug", "nodeSelector.disk=ssd", "tolerations[0].operator=Exists",
		"affinity.nodeAffinity.x=y", "priorityClassName=high", "resources.limits.memory=1Gi",
		"volumes[0].name=cert", "volumes[0].secret.secretName=cert", "volumeMounts[0].name=cert", "volumeMounts[0].mountPath=/cert",
		"prometheus.enabled=true", "prometheus.labels.release=stack")
	deployment := objects["Deployment appisolation-system/appisolation-manager"]
	g.Expect(deployment).NotTo(BeNil())
	g.Expect(lookUp(deployment.Object, "spec")).To(HaveKeyWithValue("replicas", BeEquivalentTo(3)))
	manager := containerOf(g, deployment)
	g.Expect(manager).To(And(
		HaveKeyWithValue("image", "registry.example/a@"+digest), HaveKeyWithValue("imagePullPolicy", "Always"),
		HaveKeyWithValue("args", ConsistOf("manager", "--leader-elect", "--zap-log-level=debug")),
		HaveKeyWithValue("resources", HaveKeyWithValue("limits", HaveKeyWithValue("memory", "1Gi"))),
		HaveKeyWithValue("volumeMounts", HaveLen(1)),
	))
	g.Expect(lookUp(deployment.Object, "spec", "template", "spec")).To(And(
		HaveKeyWithValue("nodeSelector", HaveKeyWithValue("disk", "ssd")), HaveKeyWithValue("priorityClassName", "high"),
		HaveKeyWithValue("tolerations", HaveLen(1)), HaveKeyWithValue("affinity", HaveKey("nodeAffinity")),
		HaveKeyWithValue("imagePullSecrets", HaveLen(1)), HaveKeyWithValue("volumes", HaveLen(1)),
	))
	for _, key := range []string{"ServiceMonitor appisolation-system/appisolation", "PrometheusRule appisolation-system/appisolation"} {
		g.Expect(objects[key].GetLabels()).To(And(HaveKeyWithValue("release", "stack"), HaveKeyWithValue("app.kubernetes.io/name", "appisolation")), key)
	}
}

func TestTheReleasesNamespaceIsEverywhere(t *testing.T) {
	g := NewWithT(t)
	output, err := helm("template", "x", published, "-n", "elsewhere", "--set", "protection.enabled=true,rights.enabled=true,networkPolicy.enabled=true,prometheus.enabled=true")
	g.Expect(err).NotTo(HaveOccurred(), output)
	g.Expect(output).NotTo(ContainSubstring(namespace))
	g.Expect(output).To(ContainSubstring("system:serviceaccount:elsewhere:appisolation-manager"))
}

func TestValuesThatMeanNothingAreRefused(t *testing.T) {
	for name, row := range map[string]struct{ set, words string }{
		"a field that is not there":     {"replica=3", "replica"},
		"a switch that is no boolean":   {"guardrails.enabled=maybe", "guardrails"},
		"a digest that is none":         {"image.digest=latest", "digest"},
		"an argument that is no flag":   {"extraArgs[0]=manager", "extraArgs"},
		"fewer replicas than none":      {"replicas=-1", "replicas"},
		"a volume without a name":       {"volumes[0].secret.secretName=cert", "volumes"},
		"a pull policy that is unknown": {"image.pullPolicy=Sometimes", "pullPolicy"},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			output, err := helm("template", published, "--set", row.set)
			g.Expect(err).To(HaveOccurred())
			g.Expect(output).To(ContainSubstring(row.words))
		})
	}
}

// A release and the single file, each on a real API server, one after the other.
func TestInstalling(t *testing.T) {
	g := NewWithT(t)
	cluster, err := controlplane.Start(controlplane.Options{})
	g.Expect(err).NotTo(HaveOccurred())
	t.Cleanup(func() { _ = cluster.Stop() })
	kubectl := func(args ...string) string {
		output, err := exec.Command(filepath.Join(cluster.Assets, "kubectl"), append([]string{"--kubeconfig", cluster.Kubeconfig}, args...)...).CombinedOutput()
		g.Expect(err).NotTo(HaveOccurred(), "kubectl %v\n%s", args, output)
		return string(output)
	}
	established := func() {
		kubectl("wait", "crd/appisolations.appisolation.io", "crd/isolationprofiles.appisolation.io", "--for=condition=Established", "--timeout=30s")
	}
	onCluster := func(args ...string) {
		output, err := helm(append(args, "--kubeconfig", cluster.Kubeconfig, "-n", namespace)...)
		g.Expect(err).NotTo(HaveOccurred(), "helm %v\n%s", args, output)
	}
	sample := root + "/config/samples/web-api-db.yaml"

	onCluster("install", "appisolation", published, "--create-namespace", "--set", "protection.enabled=true,networkPolicy.enabled=true")
	established()
	kubectl("apply", "-f", sample)
	onCluster("upgrade", "appisolation", published, "--set", "replicas=3")
	g.Expect(kubectl("get", "deployment", "-n", namespace, "-o", "jsonpath={.items[*].spec.replicas}")).To(Equal("3"))
	g.Expect(kubectl("get", "validatingadmissionpolicies", "-o", "name")).NotTo(ContainSubstring("protection"))
	onCluster("uninstall", "appisolation", "--wait")
	established()
	g.Expect(kubectl("get", "appisolations", "-A", "-o", "name")).To(ContainSubstring("/shop"))
	g.Expect(kubectl("get", "deployments,clusterroles", "-A", "-o", "name")).NotTo(ContainSubstring("appisolation"))

	kubectl("delete", "crd", "appisolations.appisolation.io", "isolationprofiles.appisolation.io")
	file := installer(g, t.TempDir(), "appisolation:latest")
	kubectl("apply", "--server-side", "-f", file)
	established()
	kubectl("apply", "-f", sample)
	kubectl("delete", "-f", file)
	g.Expect(kubectl("get", "crds", "-o", "name")).NotTo(ContainSubstring("appisolation"))
}

func helm(args ...string) (string, error) {
	output, err := exec.CommandContext(context.Background(), "go", append([]string{"tool", "-modfile=../helm/go.mod", "helm"}, args...)...).CombinedOutput()
	return string(output), err
}

// installer is the single file with an image.
func installer(g Gomega, dir, image string) string {
	file := filepath.Join(dir, "install.yaml")
	output, err := exec.Command("make", "--no-print-directory", "-C", root, "build-installer", "IMG="+image, "INSTALLER="+file).CombinedOutput()
	g.Expect(err).NotTo(HaveOccurred(), string(output))
	return file
}

func templated(g Gomega, values ...string) map[string]*unstructured.Unstructured {
	args := []string{"template", "appisolation", published, "-n", namespace}
	for _, value := range values {
		args = append(args, "--set", value)
	}
	output, err := helm(args...)
	g.Expect(err).NotTo(HaveOccurred(), output)
	return decode(g, output)
}

// kustomized is what kustomize makes of folders and components of config/.
func kustomized(g Gomega, folders, components []string) map[string]*unstructured.Unstructured {
	overlay, err := os.MkdirTemp("", "chart-")
	g.Expect(err).NotTo(HaveOccurred())
	defer os.RemoveAll(overlay)
	text, err := kustomization(overlay, root+"/config", folders, components)
	g.Expect(err).NotTo(HaveOccurred())
	return overlaid(g, overlay, text)
}

// overlaid is what kustomize makes of a kustomization.yaml in a folder.
func overlaid(g Gomega, overlay string, text []byte) map[string]*unstructured.Unstructured {
	g.Expect(os.WriteFile(filepath.Join(overlay, "kustomization.yaml"), text, 0o600)).To(Succeed())
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), overlay)
	g.Expect(err).NotTo(HaveOccurred())
	all, err := built.AsYaml()
	g.Expect(err).NotTo(HaveOccurred())
	return decode(g, string(all))
}

// decode reads objects, by kind, namespace and name.
func decode(g Gomega, text string) map[string]*unstructured.Unstructured {
	objects := map[string]*unstructured.Unstructured{}
	decoder := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader([]byte(text)), 4096)
	for {
		object := &unstructured.Unstructured{}
		err := decoder.Decode(&object.Object)
		if errors.Is(err, io.EOF) {
			return objects
		}
		g.Expect(err).NotTo(HaveOccurred(), text)
		if len(object.Object) == 0 {
			continue
		}
		key := object.GetKind() + " " + object.GetNamespace() + "/" + object.GetName()
		g.Expect(objects).NotTo(HaveKey(key))
		objects[key] = object
	}
}

func containerOf(g Gomega, deployment *unstructured.Unstructured) map[string]any {
	containers, _, err := unstructured.NestedFieldNoCopy(deployment.Object, "spec", "template", "spec", "containers")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(containers).To(HaveLen(1))
	return containers.([]any)[0].(map[string]any)
}
