package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"
)

// A folder of testdata/import is a behaviour; its name begins with the command's:
//
//	in.yaml or in.jsonl  what is drafted from
//	out.yaml             the drafts
func TestImportGoldens(t *testing.T) {
	inputs, err := filepath.Glob("testdata/import/*/in.*")
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	NewWithT(t).Expect(inputs).NotTo(BeEmpty())
	for _, input := range inputs {
		dir := filepath.Dir(input)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			g := NewWithT(t)
			command, _, _ := strings.Cut(filepath.Base(dir), "-")
			golden := filepath.Join(dir, "out.yaml")
			got, _, err := run("import", command, "-f", input)
			g.Expect(err).NotTo(HaveOccurred())
			if *update {
				g.Expect(os.WriteFile(golden, []byte(got), 0o600)).To(Succeed())
			}
			want, err := os.ReadFile(golden)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(got).To(Equal(string(want)), "%s is not up to date: go test ./controllers/cli -update", golden)

			_, _, err = run("render", "-f", golden)
			g.Expect(err).NotTo(HaveOccurred(), "a draft is an AppIsolation")
		})
	}
}

// The policies of the samples can be drafted back, and become the same policies.
func TestImportOfRenderedSamples(t *testing.T) {
	g := NewWithT(t)
	before := rendered(t, "-k", "../../config/samples")
	dir := t.TempDir()
	var text bytes.Buffer
	for _, policy := range before {
		policy.Labels, policy.Annotations = nil, nil
		g.Expect(json.NewEncoder(&text).Encode(policy)).To(Succeed())
	}
	policies, drafts := filepath.Join(dir, "policies.json"), filepath.Join(dir, "drafts.yaml")
	g.Expect(os.WriteFile(policies, text.Bytes(), 0o600)).To(Succeed())
	out, _, err := run("import", "policies", "-f", policies)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(out).NotTo(ContainSubstring("Keep them"))
	g.Expect(os.WriteFile(drafts, []byte(out), 0o600)).To(Succeed())
	g.Expect(rulesOf(rendered(t, "-f", drafts))).To(Equal(rulesOf(before)))
}

func rendered(t *testing.T, args ...string) []*networkingv1.NetworkPolicy {
	t.Helper()
	out, _, err := run(append([]string{"render", "-o", "json"}, args...)...)
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	var policies []*networkingv1.NetworkPolicy
	for decoder := json.NewDecoder(strings.NewReader(out)); ; {
		policy := &networkingv1.NetworkPolicy{}
		err := decoder.Decode(policy)
		if errors.Is(err, io.EOF) {
			return policies
		}
		NewWithT(t).Expect(err).NotTo(HaveOccurred())
		policies = append(policies, policy)
	}
}

// rulesOf are the rules of policies by the pods that they select, in an order of their own. The own namespace is
// written out.
func rulesOf(policies []*networkingv1.NetworkPolicy) map[string][]string {
	rules := map[string][]string{}
	add := func(p *networkingv1.NetworkPolicy, rule any) {
		key, _ := json.Marshal(p.Spec.PodSelector)
		text, _ := json.Marshal(rule)
		own := `{"namespaceSelector":{"matchLabels":{"kubernetes.io/metadata.name":"` + p.Namespace + `"}},"podSelector"`
		key = append([]byte(p.Namespace), key...)
		rules[string(key)] = append(rules[string(key)], strings.ReplaceAll(string(text), `{"podSelector"`, own))
		slices.Sort(rules[string(key)])
	}
	for _, p := range policies {
		add(p, p.Spec.PolicyTypes)
		for _, rule := range p.Spec.Ingress {
			add(p, rule)
		}
		for _, rule := range p.Spec.Egress {
			add(p, rule)
		}
	}
	return rules
}

func TestImportReadsFlowsFromItsInput(t *testing.T) {
	g := NewWithT(t)
	text, err := os.ReadFile("testdata/import/flows-shop/in.jsonl")
	g.Expect(err).NotTo(HaveOccurred())
	streams, in, out, _ := genericiooptions.NewTestIOStreams()
	in.Write(text)
	root := New(streams)
	root.SetArgs([]string{"import", "flows", "-n", "shop", "--name", "store", "-f", "-"})
	g.Expect(root.Execute()).To(Succeed())
	g.Expect(out.String()).To(ContainSubstring("  name: store\n  namespace: shop\n"))
	g.Expect(strings.Count(out.String(), "kind: AppIsolation")).To(Equal(1))
}

func TestImportSaysWhatIsWrong(t *testing.T) {
	t.Setenv("KUBECONFIG", "/nowhere")
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		NewWithT(t).Expect(os.WriteFile(path, []byte(text), 0o600)).To(Succeed())
		return path
	}
	for name, row := range map[string]struct {
		args []string
		err  string
	}{
		"no policy":                {[]string{"policies", "-f", write("none.yaml", "{apiVersion: v1, kind: Namespace, metadata: {name: shop}}")}, "there is no NetworkPolicy to draft from"},
		"no workload":              {[]string{"workloads", "-f", filepath.Join(dir, "none.yaml")}, "there is no Deployment, StatefulSet, DaemonSet, Job or CronJob to draft from"},
		"no file and no cluster":   {[]string{"policies"}, "name files with -f or -k, or a cluster: there is no kubeconfig"},
		"no such source":           {[]string{"polices"}, `unknown command "polices" for "appisolation import"`},
		"no file of flows":         {[]string{"flows"}, "name a file of flows with -f"},
		"a line that is no flow":   {[]string{"flows", "-f", write("wrong.jsonl", "\n{}\nFeb 01 00:00:00.000: shop/web -> shop/api\n")}, "wrong.jsonl:3: this is no flow of Hubble's"},
		"nothing but other events": {[]string{"flows", "-f", write("events.jsonl", `{"lost_events":{}}`)}, "there is no connection to draft from:\n1 passed over: no flow but another event"},
		"a name that is none": {
			[]string{"policies", "--name", "My App", "-f", "testdata/import/policies-kept/in.yaml"}, "--name My App: a lowercase RFC 1123 subdomain",
		},
		"a wrong profile": {
			[]string{"policies", "-f", "testdata/import/policies-kept/in.yaml", "-f", write("profile.yaml", "{apiVersion: appisolation.io/v1alpha1, kind: IsolationProfile, metadata: {name: default}, spec: {dns: [{ipBlock: {cidr: x}, ports: [{port: 53}]}]}}")},
			"IsolationProfile default: spec.dns[0].ipBlock.cidr",
		},
		"a draft from what is gone": {[]string{"flows", "-f", filepath.Join(dir, "gone")}, "no such file"},
		"a field that nobody knows": {[]string{"policies", "-f", write("typo.yaml", "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: a}, spec: {podSelecter: {}}}")}, `typo.yaml:1: NetworkPolicy a: spec.podSelecter: there is no such field`},
	} {
		t.Run(name, func(t *testing.T) {
			out, _, err := run(append([]string{"import"}, row.args...)...)
			NewWithT(t).Expect(err).To(MatchError(ContainSubstring(row.err)))
			NewWithT(t).Expect(out).To(BeEmpty())
		})
	}
}
