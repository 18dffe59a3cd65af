package docs

import (
	"bytes"
	"errors"
	"io"
	"regexp"
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
)

var rightsRow = regexp.MustCompile("(?m)^\\| (everywhere|`[\\w-]+`) \\| `([^`]+)` \\| ([a-z, ]+) \\| .+ \\|$")

// TestSecurityPageHasTheRights: the table of security.md says what config/rbac gives the operator, no more and no less.
func TestSecurityPageHasTheRights(t *testing.T) {
	_, table, found := strings.Cut(read(t, "docs/security.md"), "<!-- rights:")
	table, _, ends := strings.Cut(table, "<!-- end -->")
	if !found || !ends {
		t.Fatal("docs/security.md has no table of rights")
	}
	var said []string
	for _, row := range rightsRow.FindAllStringSubmatch(table, -1) {
		said = append(said, right(row[1], row[2], strings.Split(row[3], ", ")))
	}
	given := rights(t)
	for _, r := range given {
		if !slices.Contains(said, r) {
			t.Errorf("docs/security.md does not say: %s", r)
		}
	}
	for _, r := range said {
		if !slices.Contains(given, r) {
			t.Errorf("config/rbac does not give: %s", r)
		}
	}
}

// rights are what config/rbac/role.yaml gives, a resource each.
func rights(t *testing.T) []string {
	t.Helper()
	var found []string
	decoder := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader([]byte(read(t, "config/rbac/role.yaml"))), 4096)
	for {
		var role rbacv1.Role // a ClusterRole has these fields, too
		if err := decoder.Decode(&role); errors.Is(err, io.EOF) {
			return found
		} else if err != nil {
			t.Fatal(err)
		}
		where := "everywhere"
		if role.Namespace != "" {
			where = "`" + role.Namespace + "`"
		}
		for _, rule := range role.Rules {
			for _, group := range rule.APIGroups {
				for _, resource := range rule.Resources {
					found = append(found, right(where, qualified(resource, group), rule.Verbs))
				}
			}
		}
	}
}

// qualified is how kubectl names a resource: appisolations.appisolation.io/status.
func qualified(resource, group string) string {
	resource, sub, isSub := strings.Cut(resource, "/")
	if group != "" {
		resource += "." + group
	}
	if isSub {
		resource += "/" + sub
	}
	return resource
}

func right(where, what string, verbs []string) string {
	return where + " " + what + ": " + strings.Join(slices.Sorted(slices.Values(verbs)), ", ")
}
