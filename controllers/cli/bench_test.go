package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/gomega"
)

// Eight times as many applications should take eight times as long: what one of a folder costs is the same in each.
// "growth" is how much more one of 2,000 costs than one of 250, measured in one run.
func BenchmarkFolder(b *testing.B) {
	few, thousand, many := folder(b, 250), folder(b, 1000), folder(b, 2000)
	for _, row := range []struct {
		name string
		args func(dir string) []string
		want any
	}{
		{"render", func(dir string) []string { return []string{"render", "-f", dir} }, nil},
		{"can", func(dir string) []string { return []string{"can", "-f", dir, "app-0000/web", "app-0000/db"} }, statusBlocked},
		{"graph", func(dir string) []string { return []string{"graph", "-f", dir} }, nil},
		{"diff", func(dir string) []string { return []string{"diff", "-f", dir, "--base", dir + changed} }, statusDifferent},
	} {
		b.Run(row.name, func(b *testing.B) {
			var fewTime, manyTime, thousandTime time.Duration
			for b.Loop() {
				fewTime += timed(b, row.args(few), row.want)
				manyTime += timed(b, row.args(many), row.want)
				thousandTime += timed(b, row.args(thousand), row.want)
			}
			b.ReportMetric(thousandTime.Seconds()/float64(b.N), "s/1000apps")
			b.ReportMetric(float64(manyTime)/float64(fewTime)/8, "growth")
		})
	}
}

func timed(b *testing.B, args []string, want any) time.Duration {
	b.Helper()
	start := time.Now()
	_, errOut, err := run(args...)
	took := time.Since(start)
	if want == nil {
		NewWithT(b).Expect(err).NotTo(HaveOccurred(), errOut)
	} else {
		NewWithT(b).Expect(err).To(Equal(want), errOut)
	}
	return took
}

// changed is what a folder's twin is called, in which one application is another.
const changed = "-changed"

// folder holds applications, a file each, ten in a namespace; each lets the one before it in.
func folder(b *testing.B, applications int) string {
	b.Helper()
	dir := filepath.Join(b.TempDir(), "apps")
	for _, twin := range []string{dir, dir + changed} {
		NewWithT(b).Expect(os.Mkdir(twin, 0o700)).To(Succeed())
		for i := range applications {
			NewWithT(b).Expect(os.WriteFile(filepath.Join(twin, fmt.Sprintf("app-%04d.yaml", i)), []byte(application(i)), 0o600)).To(Succeed())
		}
	}
	NewWithT(b).Expect(os.WriteFile(filepath.Join(dir+changed, "app-0000.yaml"), []byte(strings.Replace(application(0), "8080", "8081", 1)), 0o600)).To(Succeed())
	return dir
}

func application(i int) string {
	before, after := max(i-1, 0), i+1
	if i == 0 {
		before = after
	}
	return fmt.Sprintf(`apiVersion: appisolation.io/v1alpha1
kind: AppIsolation
metadata: {name: app-%04[1]d, namespace: team-%03[2]d}
spec:
  tiers:
  - {name: web, podSelector: {matchLabels: {app: app-%04[1]d, tier: web}}, ports: [{name: http, port: 8080}]}
  - {name: api, podSelector: {matchLabels: {app: app-%04[1]d, tier: api}}, ports: [{name: http, port: 5000}]}
  - {name: db, podSelector: {matchLabels: {app: app-%04[1]d, tier: db}}, ports: [{name: sql, port: 5432}], dns: Disabled}
  flows:
  - {from: web, to: api}
  - {from: api, to: db}
  ingress:
  - {name: public, from: [{namespace: ingress-nginx}], to: [web]}
  - {name: before, from: [{app: {namespace: team-%03[4]d, name: app-%04[3]d, tier: api}}], to: [api]}
  egress:
  - {name: after, from: [api], to: [{app: {namespace: team-%03[6]d, name: app-%04[5]d, tier: api}}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: app-%04[1]d-web, namespace: team-%03[2]d}
spec:
  selector: {matchLabels: {app: app-%04[1]d, tier: web}}
  template:
    metadata: {labels: {app: app-%04[1]d, tier: web}}
    spec: {containers: [{name: web, image: web}]}
`, i, i/10, before, before/10, after, after/10)
}
