package cli

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/controllers/isolation"
)

const shop = "../../config/samples/web-api-db.yaml"

// The whole page, as a person reads it.
func TestCanSaysWhy(t *testing.T) {
	out, errOut, err := run("can", "-f", shop, "shop/web", "shop/db:mysql")
	g := NewWithT(t)
	g.Expect(err).To(Equal(statusBlocked))
	g.Expect(errOut).To(BeEmpty())
	g.Expect(out).To(Equal(`shop/web → shop/db:3306/TCP  Blocked
  egress of shop/web   Blocked   NetworkPolicy shop/shop-web isolates it, and no rule lets this out
  ingress of shop/db   Blocked   NetworkPolicy shop/shop-db isolates it, and no rule lets this in

To open it, add to AppIsolation shop/shop (` + shop + `:25)

    spec:
      flows:
      - {from: web, to: db, ports: [mysql]}
`))
	out, _, err = run("can", "-f", shop, "shop/web", "shop/api")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(out).To(Equal(`shop/web → shop/api:5000/TCP  Open
  egress of shop/web    Open   flow web -> api (spec.flows[0], ` + shop + `:25): NetworkPolicy shop/shop-web egress[1]
  ingress of shop/api   Open   flow web -> api (spec.flows[0], ` + shop + `:25): NetworkPolicy shop/shop-api ingress[0]
`))
}

// Beside what an application declares: others' policies, pods, namespaces, addresses, entities.
const cluster = `
apiVersion: v1
kind: Namespace
metadata: {name: edge, labels: {team: net}}
---
apiVersion: appisolation.io/v1alpha1
kind: IsolationProfile
metadata: {name: default}
spec:
  baseline: None
  entities:
    ingressController: [{namespaceSelector: {matchLabels: {team: net}}}]
    nodes: [10.1.0.0/24]
---
apiVersion: appisolation.io/v1alpha1
kind: AppIsolation
metadata: {name: shop, namespace: shop}
spec:
  tiers:
  - {name: web, podSelector: {matchLabels: {tier: web}}, ports: [{name: http, port: 80}, {port: 81}]}
  - {name: db, podSelector: {matchLabels: {tier: db}}, ports: [{name: mysql, port: 3306}]}
  flows: []
  ingress:
  - {name: public, from: [{entity: IngressController}], to: [web], ports: [http]}
  egress:
  - {name: pay, from: [web], to: [{ipBlock: {cidr: 203.0.113.0/24, except: [203.0.113.7/32]}}], ports: [{port: 443}]}
  - {name: api, from: [web], to: [{entity: KubeAPIServer}]}
---
apiVersion: appisolation.io/v1alpha1
kind: AppIsolation
metadata: {name: dry, namespace: shop}
spec:
  mode: DryRun
  tiers:
  - {name: cache, podSelector: {matchLabels: {tier: cache}}, ports: [{port: 6379}]}
  flows: []
  ingress:
  - {name: web, from: [{app: {name: shop, tier: web}}], to: [cache]}
  egress: []
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: legacy, namespace: shop}
spec:
  podSelector: {matchLabels: {tier: db}}
  policyTypes: [Ingress]
  ingress: [{from: [{namespaceSelector: {matchLabels: {team: net}}}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: other}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: odd, namespace: shop}
spec: {podSelector: {matchLabels: {canary: "yes"}}, policyTypes: [Ingress], ingress: [{}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  selector: {matchLabels: {tier: web}}
  template:
    metadata: {labels: {tier: web}}
    spec: {containers: [{name: web, ports: [{name: admin, containerPort: 81}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: agent, namespace: other}
spec: {hostNetwork: true, containers: [{name: agent}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web-canary, namespace: shop, labels: {tier: web, canary: "yes"}}
spec: {containers: [{name: web}]}
`

func TestCan(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cluster.yaml")
	NewWithT(t).Expect(os.WriteFile(path, []byte(cluster), 0o600)).To(Succeed())
	for question, want := range map[string][]string{
		"namespace/edge shop/web:http":      {"Open", "no NetworkPolicy isolates it", "ingress public (spec.ingress[0], " + path + ":24)"},
		"IngressController shop/web:80":     {"Open"},
		"IngressController shop/web":        {"Unknown", ":80/TCP  Open", ":81/TCP  Unknown", "{name: tcp-81, port: 81}"},
		"namespace/edge shop/db":            {"Open", "ingress of shop/db         Open   NetworkPolicy shop/legacy ingress[0]"},
		"namespace/edge pod/agent:1":        {"Unknown", "its pods use their nodes' network"},
		"namespace/edge shop/web:81":        {"Unknown", "These connections are not all alike. From pods with any labels in namespace edge to pods with tier=web in namespace shop:", "ports: [tcp-81]"},
		"namespace/edge pod/web:admin":      {"Blocked", "- {name: edge, from: [{namespace: edge}], to: [web], ports: [admin]}", "- {name: web, ports: [{name: admin, port: admin}]}"},
		"namespace/nosuch shop/web:80":      {"Unknown", "shop-web ingress[0]"},
		"namespace/nosuch shop/db":          {"Unknown", "NetworkPolicy shop/odd ingress[0], perhaps"},
		"pod/web 203.0.113.8:443":           {"Open", "egress pay (spec.egress[0], " + path + ":26)"},
		"pod/web 203.0.113.7:443":           {"Blocked", "{ipBlock: {cidr: 203.0.113.7/32}}"},
		"pod/web 203.0.113.0/24:443":        {"Unknown", "perhaps"},
		"pod/web [2001:db8::7]:443":         {"Blocked", "pod/web → [2001:db8::7]:443/TCP"},
		"pod/web 2001:db8::7":               {"Blocked", "on every port"},
		"pod/web 203.0.113.8":               {"Open", "443/TCP"},
		"pod/web namespace/other:80":        {"Blocked", "{name: other, from: [web], to: [{namespace: other}], ports: [{port: 80}]}", "NetworkPolicy other/closed"},
		"namespace/other namespace/edge":    {"Blocked"},
		"namespace/edge namespace/nosuch":   {"Open", "on every port"},
		"pod/web pod/web:80":                {"Blocked"},
		"pod/agent 203.0.113.7:443":         {"Unknown", "its pods use their nodes' network"},
		"pod/agent pod/web:81":              {"Unknown", "Each node reaches the pods that run on it"},
		"Nodes shop/db":                     {"Unknown", "Each node reaches the pods that run on it"},
		"All shop/web:80":                   {"Unknown", "ingress public"},
		"all shop/db:1":                     {"Unknown", "shop/legacy"},
		"shop/web dry/cache":                {"Blocked", "{name: dry-cache, from: [web], to: [{app: {name: dry, tier: cache}}]}"},
		"pod/web dry/cache":                 {"Blocked", "egress of pod/web"},
		"shop/pod/web shop/shop/db:3306":    {"Blocked", "{from: web, to: db, ports: [mysql]}"},
		"namespace/shop 203.0.113.8:443":    {"Unknown"},
		"World shop/db:3306":                {"Unknown"},
		"shop/web kubeapiserver":            {"error: KubeAPIServer: the EndpointSlices of default/kubernetes say where it is, and are not known here"},
		"nosuch/web shop/db":                {"error: there is no AppIsolation nosuch in these files"},
		"other/shop/web shop/db":            {"error: there is no AppIsolation shop in namespace other"},
		"shop/nosuch shop/db":               {"error: AppIsolation shop/shop has no tier nosuch: it has web, db"},
		"pod/nosuch shop/db":                {"error: there is no pod nosuch in these files"},
		"web shop/db":                       {`error: "web": write APP/TIER, pod/NAME, namespace/NAME, an address or an entity`},
		"shop/web shop/db:nosuch_":          {`error: port "nosuch_": write a number`},
		"shop/web Monitoring":               {"error: Monitoring: nobody has said what it is here"},
		"nosuch/web nosuch/db":              {"error: there is no AppIsolation nosuch in these files\n"},
		"shop/web 10.0.0.0/33":              {`error: "10.0.0.0/33": write APP/TIER, pod/NAME, namespace/NAME, an address`},
		"shop/web":                          {"error: accepts 2 arg(s), received 1"},
		"shop/web shop/db -o nosuch":        {"error: -o nosuch: write json, yaml or name"},
		"shop/web shop/db -o name":          {"Blocked"},
		"pod/web 203.0.113.8:443 -o json":   {"Open", `"lines": "egress pay"`, `"state": "Open"`, `"policy": "shop/shop-web"`},
		"pod/web 203.0.113.7:443 -o yaml":   {"Blocked", "state: Blocked", "isolatedBy:\n    - shop/shop-web", "yaml: |"},
		"shop/web shop/db --context nosuch": {"Blocked"},
	} {
		t.Run(question, func(t *testing.T) {
			out, errOut, err := run(append([]string{"can", "-f", path}, strings.Fields(question)...)...)
			var said bytes.Buffer
			status := Exit(err, &said)
			g := NewWithT(t)
			g.Expect(status).To(Equal(map[string]int{"Open": 0, "Blocked": 1, "Unknown": 3}[want[0]]+map[bool]int{true: 2}[strings.HasPrefix(want[0], "error")]), out+said.String())
			g.Expect(strings.Count(said.String(), "there is no AppIsolation")).To(BeNumerically("<", 2), "once is enough")
			for _, text := range want {
				g.Expect(out + errOut + said.String()).To(ContainSubstring(text))
			}
		})
	}
}

func TestCanSaysWhatItCannotAsk(t *testing.T) {
	t.Setenv("KUBECONFIG", "/nowhere")
	sample := "../../config/samples/web-api-db.yaml"
	_, _, err := run("can", "shop/web", "shop/db")
	NewWithT(t).Expect(err).To(MatchError("name files with -f or -k, or a cluster: there is no kubeconfig"))
	_, _, err = run("can", "-f", sample, "-f", sample, "shop/web", "shop/db")
	NewWithT(t).Expect(err).To(MatchError("these files have AppIsolation shop/shop more than once: which of them is meant?"))
}

func TestCanCompletesWhatItUnderstands(t *testing.T) {
	samples := "../../config/samples/two-namespaces.yaml"
	out, _, err := run("__complete", "can", "-f", samples, "-n", "default", "")
	g := NewWithT(t)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(strings.Fields(out)).To(ContainElements("site/backend", "cassandra/store/cassandra", "World"))
	g.Expect(strings.Count(out, "site/backend")).To(Equal(1), out)
	for _, name := range []string{"site/backend", "cassandra/store/cassandra"} {
		_, _, err := run("can", "-f", samples, "-n", "default", name, "World:443")
		g.Expect(Exit(err, io.Discard)).NotTo(Equal(failure), name)
	}
}

// An address is given again when its pod has ended.
func TestAnAddressIsThatOfAPodThatRuns(t *testing.T) {
	pod := func(name string, phase corev1.PodPhase) *corev1.Pod {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}}
		pod.Status = corev1.PodStatus{Phase: phase, PodIPs: []corev1.PodIP{{IP: "10.0.0.7"}}}
		return pod
	}
	found := newInventory()
	found.pods = []*corev1.Pod{pod("ended", corev1.PodSucceeded), pod("runs", corev1.PodRunning)}
	NewWithT(t).Expect(found.addressSide(parseWho("10.0.0.7")).Parties[0].String()).To(Equal("pod shop/runs"))
}

// An entity is what the profile of the other side's namespace says, wherever that is found.
func TestCanAsksTheProfileOfTheOtherSide(t *testing.T) {
	const files = `
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {appisolation.io/profile: strict}}}
---
{apiVersion: appisolation.io/v1alpha1, kind: IsolationProfile, metadata: {name: default}, spec: {entities: {monitoring: [{namespace: a}]}}}
---
{apiVersion: appisolation.io/v1alpha1, kind: IsolationProfile, metadata: {name: strict}, spec: {entities: {monitoring: [{namespace: b}]}}}
---
apiVersion: appisolation.io/v1alpha1
kind: AppIsolation
metadata: {name: shop, namespace: shop}
spec:
  tiers: [{name: web, podSelector: {matchLabels: {tier: web}}, ports: [{name: metrics, port: 9090}]}]
  flows: []
  ingress: [{name: metrics, from: [{entity: Monitoring}], to: [web]}]
  egress: [{name: metrics, from: [web], to: [{entity: Monitoring}], ports: [{port: 9090}]}]
`
	path := filepath.Join(t.TempDir(), "files.yaml")
	NewWithT(t).Expect(os.WriteFile(path, []byte(files), 0o600)).To(Succeed())
	for _, question := range []string{"Monitoring shop/web:9090", "shop/web Monitoring:9090"} {
		out, errOut, err := run(append([]string{"can", "-f", path}, strings.Fields(question)...)...)
		NewWithT(t).Expect(err).NotTo(HaveOccurred(), out+errOut)
	}

	found := read(t, files)
	found.namespaces["a"] = map[string]string{v1alpha1.LabelProfile: "strict"}
	one, other, err := found.sides("current", "Monitoring", "Monitoring")
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	NewWithT(t).Expect([]isolation.Side{one, other}).To(HaveEach(HaveField("Parties", HaveEach(HaveField("Namespace", "a")))), "both are as the current namespace's profile says")

	wrong := strings.Replace(files, "[{namespace: b}]", "[{}]", 1)
	NewWithT(t).Expect(os.WriteFile(path, []byte(wrong), 0o600)).To(Succeed())
	_, _, err = run("can", "-f", path, "Monitoring", "shop/web:9090")
	NewWithT(t).Expect(err).To(MatchError(ContainSubstring("IsolationProfile strict: ")))
}

// What another application in the files would say is not passed over in silence.
func TestCanSaysWhatItLeavesOut(t *testing.T) {
	paths := written(t, twoTiers, strings.NewReplacer("name: shop,", "name: other,", "to: db", "to: nosuch").Replace(twoTiers))
	_, errOut, err := run("can", "-f", paths[0], "-f", paths[1], "shop/web", "shop/db")
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	NewWithT(t).Expect(errOut).To(HavePrefix("warning: left out: not accepted:\n" + paths[1] + ":10: AppIsolation shop/other: spec.flows[0].to"))
}

// What is proposed is text to every reader of YAML.
func TestProposalsAreQuoted(t *testing.T) {
	g := NewWithT(t)
	text, err := fragment(v1alpha1.AppIsolationSpec{Ingress: []v1alpha1.Ingress{{Name: "on", From: []v1alpha1.Peer{{
		PodSelector: &v1alpha1.LabelSelector{MatchLabels: map[string]v1alpha1.LabelValue{"canary": "yes", "version": "1", "tier": "web"}},
	}}}}})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(text).To(And(ContainSubstring(`name: "on"`), ContainSubstring(`canary: "yes"`), ContainSubstring(`version: "1"`), ContainSubstring("tier: web")))
}
