package main

import (
	"os"
	"path/filepath"
	"testing"

	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func TestKeepCreatedAt(t *testing.T) {
	const old = "metadata:\n  annotations:\n    createdAt: \"2026-01-01T00:00:00Z\"\nspec: {version: 0.1.0}\n"
	for name, row := range map[string]struct{ text, want string }{
		"the same again keeps its date": {
			text: "metadata:\n  annotations:\n    createdAt: \"2026-02-02T00:00:00Z\"\nspec: {version: 0.1.0}\n",
			want: old,
		},
		"what is new has its own": {
			text: "metadata:\n  annotations:\n    createdAt: \"2026-02-02T00:00:00Z\"\nspec: {version: 0.2.0}\n",
			want: "metadata:\n  annotations:\n    createdAt: \"2026-02-02T00:00:00Z\"\nspec: {version: 0.2.0}\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			before, after := filepath.Join(t.TempDir(), "before"), filepath.Join(t.TempDir(), "after")
			g.Expect(os.WriteFile(before, []byte(old), 0o600)).To(Succeed())
			g.Expect(os.WriteFile(after, []byte(row.text), 0o600)).To(Succeed())
			g.Expect(keepCreatedAt(before, after)).To(Succeed())
			got, err := os.ReadFile(after)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(string(got)).To(Equal(row.want))
		})
	}
}

func TestRightsOfOneNamespaceNameNone(t *testing.T) {
	g := NewWithT(t)
	objects, err := decode([]byte(`
kind: RoleBinding
metadata: {name: manager, namespace: system}
subjects: [{kind: ServiceAccount, name: manager, namespace: system}]
---
kind: ClusterRole
metadata: {name: manager}
`))
	g.Expect(err).NotTo(HaveOccurred())
	rights, others := namespaced(objects)
	g.Expect(others).To(HaveExactElements(HaveField("GetKind()", "ClusterRole")))
	g.Expect(rights).To(Equal([]*unstructured.Unstructured{{Object: map[string]any{
		"kind":     "RoleBinding",
		"metadata": map[string]any{"name": "manager"},
		"subjects": []any{map[string]any{"kind": "ServiceAccount", "name": "manager"}},
	}}}))
}
