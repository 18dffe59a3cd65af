package judged

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	. "github.com/onsi/gomega"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/appisolation/appisolation/api/v1alpha1"
	"github.com/appisolation/appisolation/controllers/isolation"
	"github.com/appisolation/appisolation/test/declared"
)

// The bounds of what is fuzzed: applications beside each other, their policies, the bytes of one, and, so that an input takes
// milliseconds, connections that are judged.
const maxApps, maxPolicies, maxPolicy, maxJudged = 3, 32 + 1, 1 << 20, 20_000

// FuzzDeclaration takes any YAML for declarations, and makes policies of those that are accepted: without a panic, no
// more and no larger than is bounded, and such that two engines read in them what the declaration says.
func FuzzDeclaration(f *testing.F) {
	inputs, err := filepath.Glob("../../../controllers/isolation/testdata/*/in.yaml")
	if err != nil || len(inputs) == 0 {
		f.Fatal(inputs, err)
	}
	for _, input := range inputs {
		text, err := os.ReadFile(input) //nolint:gosec // a golden
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		g := NewWithT(t)
		w := readWorld(text)
		policies := translate(w)
		for _, policy := range policies {
			size, err := json.Marshal(policy)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(len(size)).To(BeNumerically("<=", maxPolicy))
		}
		g.Expect(len(policies)).To(BeNumerically("<=", maxApps*maxPolicies))
		g.Expect(judgeIfSmall(w, policies)).To(Succeed())
	})
}

// readWorld are the AppIsolations of a text, each with names that an API server would take, and its first profile, for all.
func readWorld(text []byte) declared.World {
	w := declared.World{Refused: map[types.NamespacedName]bool{}}
	_ = declared.EachDocument(text, func(document []byte) error {
		app, profile := &v1alpha1.AppIsolation{}, &v1alpha1.IsolationProfile{}
		switch {
		case yaml.Unmarshal(document, app) == nil && app.Kind == "AppIsolation" && len(w.Apps) < maxApps:
			app.Namespace, app.Name = []string{"shop", "shop", "finance"}[len(w.Apps)], []string{"shop", "web", "ledger"}[len(w.Apps)]
			w.Apps = append(w.Apps, app)
		case yaml.Unmarshal(document, profile) == nil && profile.Kind == "IsolationProfile" && w.Profiles == nil:
			profile.Name = v1alpha1.DefaultProfile
			w.Profiles = map[string]*v1alpha1.IsolationProfile{profile.Name: profile}
		}
		return nil
	})
	for _, app := range w.Apps {
		_, problems := isolation.Resolve(app, factsOf(w, app))
		for _, problem := range problems {
			if problem.Condition == v1alpha1.ConditionAccepted {
				w.Refused[declared.Key(app)] = true
			}
		}
	}
	return w
}

// judgeIfSmall judges with people that the accepted declarations name: the others may name anything.
func judgeIfSmall(w declared.World, policies []networkingv1.NetworkPolicy) error {
	accepted := w
	accepted.Apps = slices.DeleteFunc(slices.Clone(w.Apps), func(app *v1alpha1.AppIsolation) bool { return w.Refused[declared.Key(app)] })
	s := accepted.Sample()
	s.Apps = w.Apps
	if len(pairs(s))*len(s.Connections) > maxJudged {
		return nil
	}
	var n count
	return n.judge(s, policies)
}
