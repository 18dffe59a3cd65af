package judged

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	. "github.com/onsi/gomega"
	networkingv1 "k8s.io/api/networking/v1"
	"pgregory.net/rapid"
	"sigs.k8s.io/yaml"

	"github.com/appisolation/appisolation/test/declared"
)

// worlds is how many random worlds are judged, of two applications on average. It is rapid's -rapid.checks by another
// default: that many in each of as many tests as there are processors, which together make the number.
var worlds = 3000 / raceDivisor

func TestMain(m *testing.M) {
	set := func(name, value string) {
		if err := flag.Set(name, value); err != nil {
			panic(err)
		}
	}
	set("rapid.checks", fmt.Sprint(1+worlds/runtime.GOMAXPROCS(0))) // the command line comes after and wins
	set("rapid.nofailfile", "true")                                 // a failure prints its seed
	os.Exit(m.Run())
}

// What the operator writes for any applications means to a network exactly what their lines say.
func TestWorlds(t *testing.T) {
	var n count
	t.Run("at once", func(t *testing.T) {
		for i := range runtime.GOMAXPROCS(0) {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				rapid.Check(t, func(t *rapid.T) {
					s := declared.DrawSample(t)
					if err := n.judge(s, translate(s.World)); err != nil {
						t.Fatal(err)
					}
				})
			})
		}
	})
	t.Log(&n)
}

// So do the goldens, which people have read.
func TestGoldens(t *testing.T) {
	const testdata = "../../../controllers/isolation/testdata"
	var n count
	inputs, err := filepath.Glob(testdata + "/*/in.yaml")
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	NewWithT(t).Expect(inputs).NotTo(BeEmpty())
	total := len(inputs)
	inputs = inputs[:max(1, total/raceDivisor)]
	t.Run("at once", func(t *testing.T) {
		for _, input := range inputs {
			dir := filepath.Dir(input)
			t.Run(filepath.Base(dir), func(t *testing.T) {
				t.Parallel()
				w, err := declared.Load(dir)
				NewWithT(t).Expect(err).NotTo(HaveOccurred())
				policies := readPolicies(t, filepath.Join(dir, "out.yaml"))
				if err := n.judge(w.Sample(), policies); err != nil {
					t.Fatal(err)
				}
			})
		}
	})
	t.Logf("%d of %d goldens: %v", len(inputs), total, &n)
}

// readPolicies are the policies of a golden; without a file there are none.
func readPolicies(t *testing.T, path string) []networkingv1.NetworkPolicy {
	t.Helper()
	text, err := os.ReadFile(path) //nolint:gosec // a golden
	NewWithT(t).Expect(err).To(Or(BeNil(), MatchError(os.ErrNotExist)))
	var policies []networkingv1.NetworkPolicy
	err = declared.EachDocument(text, func(document []byte) error {
		var policy networkingv1.NetworkPolicy
		if err := yaml.UnmarshalStrict(document, &policy); err != nil || policy.Name == "" {
			return err
		}
		policies = append(policies, policy)
		return nil
	})
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	return policies
}
