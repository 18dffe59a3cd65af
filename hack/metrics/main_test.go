package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	"sigs.k8s.io/yaml"
)

const root = "../.."

func TestThePageIsUpToDate(t *testing.T) {
	g := NewWithT(t)
	want, err := write()
	g.Expect(err).NotTo(HaveOccurred())
	got, err := os.ReadFile(root + "/docs/metrics.md")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(string(got)).To(Equal(string(want)), "make generate")
}

// rule is what is looked at of an alert.
type rule struct {
	Alert       string            `json:"alert"`
	Annotations map[string]string `json:"annotations"`
}

func rules(g Gomega) (plain []byte, rules []rule) {
	text, err := os.ReadFile(root + "/config/prometheus/rules.yaml")
	g.Expect(err).NotTo(HaveOccurred())
	var object struct {
		Spec map[string]any `json:"spec"`
	}
	g.Expect(yaml.Unmarshal(text, &object)).To(Succeed())
	plain, err = yaml.Marshal(object.Spec)
	g.Expect(err).NotTo(HaveOccurred())
	var groups struct {
		Groups []struct {
			Rules []rule `json:"rules"`
		} `json:"groups"`
	}
	g.Expect(yaml.Unmarshal(plain, &groups)).To(Succeed())
	for _, group := range groups.Groups {
		rules = append(rules, group.Rules...)
	}
	g.Expect(rules).NotTo(BeEmpty())
	return plain, rules
}

func TestAlertsFireWhenTheyShould(t *testing.T) {
	g := NewWithT(t)
	dir := t.TempDir()
	plain, alerts := rules(g)
	tests, err := os.ReadFile("rules_test.yaml")
	g.Expect(err).NotTo(HaveOccurred())
	for _, alert := range alerts {
		g.Expect(strings.Count(string(tests), "alertname: "+alert.Alert+",")).To(BeNumerically(">=", 2), "%s: a test that it fires, and one that it doesn't", alert.Alert)
	}
	g.Expect(os.WriteFile(filepath.Join(dir, "rules.yaml"), plain, 0o600)).To(Succeed())
	g.Expect(os.WriteFile(filepath.Join(dir, "tests.yaml"), tests, 0o600)).To(Succeed())
	promtool(g, "check", "rules", "--lint=all", "--lint-fatal", filepath.Join(dir, "rules.yaml"))
	promtool(g, "test", "rules", filepath.Join(dir, "tests.yaml"))
}

// promtool is compiled without the clients of the clouds that Prometheus looks for targets in: they would be most of it.
func promtool(g Gomega, args ...string) {
	command := exec.Command("go", append([]string{"tool", "-modfile=../promtool/go.mod", "promtool"}, args...)...)
	command.Env = append(os.Environ(), "GOFLAGS="+os.Getenv("GOFLAGS")+" -tags=remove_all_sd")
	output, err := command.CombinedOutput()
	g.Expect(err).NotTo(HaveOccurred(), string(output))
}

func TestEveryAlertHasARunbook(t *testing.T) {
	g := NewWithT(t)
	_, alerts := rules(g)
	pages, err := filepath.Glob(root + "/docs/runbooks/*.md")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(pages).To(HaveLen(len(alerts)))
	for _, alert := range alerts {
		page := "docs/runbooks/" + alert.Alert + ".md"
		g.Expect(alert.Annotations["runbook_url"]).To(HaveSuffix("/blob/main/" + page))
		text, err := os.ReadFile(filepath.Join(root, page))
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(string(text)).To(HavePrefix("# " + alert.Alert + "\n"))
	}
}

// TestTheDashboardAsksWhatPrometheusCanParse: its queries, as rules. That the metrics exist, test/integration tests.
func TestTheDashboardAsksWhatPrometheusCanParse(t *testing.T) {
	g := NewWithT(t)
	text, err := os.ReadFile(root + "/config/grafana/appisolation.json")
	g.Expect(err).NotTo(HaveOccurred())
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	g.Expect(yaml.Unmarshal(text, &dashboard)).To(Succeed())
	var asked []map[string]string
	for _, panel := range dashboard.Panels {
		for _, target := range panel.Targets {
			asked = append(asked, map[string]string{
				"record": fmt.Sprintf("dashboard:query_%d", len(asked)),
				"expr":   strings.ReplaceAll(target.Expr, "$__rate_interval", "5m"), // which Grafana fills in
			})
		}
	}
	g.Expect(len(asked)).To(BeNumerically(">", 10))
	rules, err := yaml.Marshal(map[string]any{"groups": []any{map[string]any{"name": "dashboard", "rules": asked}}})
	g.Expect(err).NotTo(HaveOccurred())
	path := filepath.Join(t.TempDir(), "rules.yaml")
	g.Expect(os.WriteFile(path, rules, 0o600)).To(Succeed())
	promtool(g, "check", "rules", path)
}
