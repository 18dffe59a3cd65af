// Package olm has the Operator Lifecycle Manager itself install, upgrade and uninstall the bundle.
package olm

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/blang/semver/v4"
	. "github.com/onsi/gomega"
	"github.com/operator-framework/api/pkg/operators/v1alpha1"
	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	appisolationv1alpha1 "github.com/appisolation/appisolation/api/v1alpha1"
)

// patience is for a machine that has much else to do: all of it together takes less than a minute on two cores.
const patience = 2 * time.Minute

// One story: each part begins where the one before has ended.
func TestLifecycle(t *testing.T) {
	c := startCluster(t)
	older := olderRelease(t)
	c.create(t, &v1alpha1.CatalogSource{
		ObjectMeta: metav1.ObjectMeta{Namespace: lifecycle, Name: "catalog"},
		Spec:       v1alpha1.CatalogSourceSpec{SourceType: v1alpha1.SourceTypeGrpc, Address: c.serve(t, older)},
	})
	testInstall(t, c, readBundle(t, older).CSV.Name)
	process := c.startOperator(t)
	testExamples(t, c)
	c.create(t,
		&networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "handmade"}},
		&rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "developer"},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "edit"},
			Subjects:   []rbacv1.Subject{{Kind: "User", Name: "developer"}},
		},
		&rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: "editor"},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "edit"},
			Subjects:   []rbacv1.Subject{{Kind: "User", Name: "editor"}},
		},
	)
	testRights(t, c)
	process = testUpgrade(t, c, process, older)
	testUninstall(t, c, process)
}

// testInstall applies what docs/olm.md says.
func testInstall(t *testing.T, c cluster, release string) {
	g := NewWithT(t)
	manifests := page(g, "Install", "yml")
	g.Expect(manifests).To(HaveLen(1))
	c.shell(t, "kubectl apply -f - <<'END'\n"+strings.ReplaceAll(manifests[0], "CATALOG", "catalog")+"END")
	g.Eventually(c.phase(t, release)).WithTimeout(patience).Should(HavePrefix("Succeeded"))
	g.Eventually(func() int32 { return c.deployment(t).Status.AvailableReplicas }).WithTimeout(patience).Should(Equal(int32(2)))
	g.Eventually(c.plans).WithArguments(t).WithTimeout(patience).Should(HaveEach(v1alpha1.InstallPlanPhaseComplete))
}

// plans are how far OLM's InstallPlans are. One that is not marked as complete, though all of it is there, is carried out
// again, and makes anew what an upgrade or an uninstallation has deleted meanwhile.
func (c cluster) plans(t *testing.T) ([]v1alpha1.InstallPlanPhase, error) {
	var list v1alpha1.InstallPlanList
	err := c.List(t.Context(), &list, client.InNamespace(system))
	var phases []v1alpha1.InstallPlanPhase
	for _, plan := range list.Items {
		phases = append(phases, plan.Status.Phase)
	}
	return phases, err
}

// What a console offers to create becomes policies, by nothing but the rights that OLM gave.
func testExamples(t *testing.T, c cluster) {
	g := NewWithT(t)
	applications := 0
	for _, example := range examples(t, readBundle(t, root+"/bundle").CSV) {
		if namespace := example.GetNamespace(); namespace != "" {
			err := c.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}})
			g.Expect(client.IgnoreAlreadyExists(err)).To(Succeed())
			applications++
		}
		c.create(t, example)
	}
	g.Eventually(c.ready).WithArguments(t).WithTimeout(patience).Should(Equal(applications))
	g.Expect(c.policies(t)).To(And(HaveKey("shop/shop-web"), HaveKey("shop/shop-api"), HaveKey("shop/shop-db")))
}

// ready counts the applications that are.
func (c cluster) ready(t *testing.T) (int, error) {
	var applications appisolationv1alpha1.AppIsolationList
	err := c.List(t.Context(), &applications)
	count := 0
	for _, application := range applications.Items {
		if meta.IsStatusConditionTrue(application.Status.Conditions, appisolationv1alpha1.ConditionReady) {
			count++
		}
	}
	return count, err
}

// What docs/olm.md says of rights.
func testRights(t *testing.T, c cluster) {
	const operator = "system:serviceaccount:" + system + ":" + name
	for _, row := range []struct {
		who, group, verb, apiGroup, resource, namespace string
		allowed                                         bool
	}{
		{who: operator, verb: "update", apiGroup: "coordination.k8s.io", resource: "leases", namespace: system, allowed: true},
		{who: operator, verb: "update", apiGroup: "coordination.k8s.io", resource: "leases", namespace: "kube-system"},
		{who: operator, verb: "list", apiGroup: "discovery.k8s.io", resource: "endpointslices", namespace: "default", allowed: true},
		{who: operator, verb: "list", apiGroup: "discovery.k8s.io", resource: "endpointslices", namespace: "kube-system", allowed: true},
		{who: operator, verb: "update", apiGroup: "appisolation.io", resource: "appisolations", namespace: "shop"},
		{who: operator, verb: "get", resource: "secrets", namespace: system},
		{who: "anybody", group: "system:authenticated", verb: "list", apiGroup: "appisolation.io", resource: "isolationprofiles", allowed: true},
		{who: "anybody", group: "system:authenticated", verb: "update", apiGroup: "appisolation.io", resource: "isolationprofiles"},
		{who: "developer", verb: "create", apiGroup: "appisolation.io", resource: "appisolations", namespace: "shop", allowed: true},
		{who: "developer", verb: "update", apiGroup: "appisolation.io", resource: "isolationprofiles"},
		{who: "editor", verb: "update", apiGroup: "appisolation.io", resource: "isolationprofiles", allowed: true}, // it is OLM that grants it
	} {
		review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			User: row.who, Groups: []string{row.group},
			ResourceAttributes: &authorizationv1.ResourceAttributes{
				Namespace: row.namespace, Verb: row.verb, Group: row.apiGroup, Resource: row.resource,
			},
		}}
		NewWithT(t).Eventually(func() (bool, error) {
			review.ResourceVersion = ""
			err := c.Create(t.Context(), review)
			return review.Status.Allowed, err
		}).WithTimeout(5*time.Second).Should(Equal(row.allowed), "%+v", row)
	}
}

// testUpgrade puts the release that is here into the catalog, and returns its operator.
func testUpgrade(t *testing.T, c cluster, process operator, older string) operator {
	g := NewWithT(t)
	before, account := c.policies(t), c.account(t)
	release := readBundle(t, root+"/bundle").CSV

	var catalog v1alpha1.CatalogSource
	g.Expect(c.Get(t.Context(), client.ObjectKey{Namespace: lifecycle, Name: "catalog"}, &catalog)).To(Succeed())
	catalog.Spec.Address = c.serve(t, root+"/bundle")
	g.Expect(c.Update(t.Context(), &catalog)).To(Succeed())
	g.Eventually(c.phase(t, release.Name)).WithTimeout(patience).Should(HavePrefix("Succeeded"))
	g.Eventually(c.gone(t, &v1alpha1.ClusterServiceVersion{}, system, readBundle(t, older).CSV.Name)).WithTimeout(patience).Should(BeTrue())
	g.Eventually(c.plans).WithArguments(t).WithTimeout(patience).Should(HaveEach(v1alpha1.InstallPlanPhaseComplete))
	g.Expect(c.deployment(t).Spec.Template.Spec.Containers[0].Image).To(Equal(imageOf(release)))
	var crd apiextensionsv1.CustomResourceDefinition
	g.Expect(c.Get(t.Context(), client.ObjectKey{Name: "appisolations.appisolation.io"}, &crd)).To(Succeed())
	g.Expect(crd.Spec.Versions[0].AdditionalPrinterColumns).To(Equal(applications(t, root+"/bundle").Spec.Versions[0].AdditionalPrinterColumns))
	g.Expect(c.account(t)).To(Equal(account), "it is the same, so a token of the old pods' is good while they last")

	g.Expect(process.Stop()).To(Succeed()) // and so lets the next one lead
	g.Expect(process.log.String()).NotTo(ContainSubstring("forbidden"), "the bundle gives it all rights that it needs")
	process = c.startOperator(t)
	c.create(t, application("after-upgrade"))
	g.Eventually(c.policies).WithArguments(t).WithTimeout(patience).Should(HaveKey("default/after-upgrade-web"))
	after := c.policies(t)
	delete(after, "default/after-upgrade-web")
	g.Expect(after).To(Equal(before), "not one was rewritten: resource versions are the same too")
	testRights(t, c)
	return process
}

func application(name string) *appisolationv1alpha1.AppIsolation {
	return &appisolationv1alpha1.AppIsolation{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: appisolationv1alpha1.AppIsolationSpec{
			Tiers: []appisolationv1alpha1.Tier{{
				Name: "web", PodSelector: appisolationv1alpha1.LabelSelector{MatchLabels: map[string]appisolationv1alpha1.LabelValue{"app": "after"}},
			}},
			Flows:   []appisolationv1alpha1.Flow{},
			Ingress: []appisolationv1alpha1.Ingress{},
			Egress:  []appisolationv1alpha1.Egress{},
		},
	}
}

// olderRelease is a copy of the bundle that says that it is a candidate for it, with a column less in the table of
// applications.
func olderRelease(t *testing.T) (dir string) {
	t.Helper()
	g := NewWithT(t)
	dir = t.TempDir()
	g.Expect(os.CopyFS(dir, os.DirFS(root+"/bundle"))).To(Succeed())
	csv := readBundle(t, dir).CSV
	version, err := semver.Parse(csv.Spec.Version.String() + "-rc.1")
	g.Expect(err).NotTo(HaveOccurred())
	csv.Spec.Replaces, csv.Spec.Version.Version = "", version
	csv.Name = "appisolation.v" + version.String()
	csv.Spec.InstallStrategy.StrategySpec.DeploymentSpecs[0].Spec.Template.Spec.Containers[0].Image = imageOf(csv) + "-rc.1"
	g.Expect(os.WriteFile(filepath.Join(dir, "manifests", "appisolation.clusterserviceversion.yaml"), marshal(g, csv), 0o600)).To(Succeed())
	crd := applications(t, dir)
	crd.Spec.Versions[0].AdditionalPrinterColumns = crd.Spec.Versions[0].AdditionalPrinterColumns[1:]
	g.Expect(os.WriteFile(filepath.Join(dir, definition), marshal(g, crd), 0o600)).To(Succeed())
	return dir
}

// definition is the file of a bundle that has the CustomResourceDefinition of applications.
const definition = "manifests/appisolation.io_appisolations.yaml"

func applications(t *testing.T, bundle string) *apiextensionsv1.CustomResourceDefinition {
	t.Helper()
	g := NewWithT(t)
	text, err := os.ReadFile(filepath.Join(bundle, definition))
	g.Expect(err).NotTo(HaveOccurred())
	var crd apiextensionsv1.CustomResourceDefinition
	g.Expect(yaml.Unmarshal(text, &crd)).To(Succeed())
	return &crd
}

// imageOf is the operator's.
func imageOf(csv *v1alpha1.ClusterServiceVersion) string {
	return csv.Spec.InstallStrategy.StrategySpec.DeploymentSpecs[0].Spec.Template.Spec.Containers[0].Image
}

// testUninstall runs the commands of docs/olm.md, and finds what it says.
func testUninstall(t *testing.T, c cluster, process operator) {
	g := NewWithT(t)
	g.SetDefaultEventuallyTimeout(patience)
	commands := page(g, "Uninstall", "sh")
	g.Expect(commands).To(HaveLen(3))
	before := c.policies(t)

	c.shell(t, commands[0])
	g.Eventually(c.gone(t, &appsv1.Deployment{}, system, name)).Should(BeTrue())
	g.Eventually(c.gone(t, &corev1.ServiceAccount{}, system, name)).Should(BeTrue())
	g.Expect(process.Kill()).To(Succeed())
	g.Eventually(c.rbac).WithArguments(t).Should(ConsistOf(slices.Concat(bundled(t), made)), "the operator's ClusterRole is gone")
	g.Expect(c.policies(t)).To(Equal(before), "they stay in force")

	testInstall(t, c, readBundle(t, root+"/bundle").CSV.Name)
	process = c.startOperator(t)
	c.create(t, application("again"))
	g.Eventually(c.policies).WithArguments(t).Should(HaveKey("default/again-web"))
	g.Expect(c.Delete(t.Context(), application("again"))).To(Succeed())
	g.Eventually(c.policies).WithArguments(t).Should(Equal(before), "a policy goes with its application, and all others are as they were")
	c.shell(t, commands[0])
	g.Eventually(c.gone(t, &appsv1.Deployment{}, system, name)).Should(BeTrue())
	g.Expect(process.Kill()).To(Succeed())

	c.shell(t, commands[1])
	g.Eventually(c.policies).WithArguments(t).Should(HaveLen(1))
	g.Expect(c.policies(t)).To(HaveKey("shop/handmade"), "it is nobody's but theirs who made it")
	g.Eventually(c.rbac).WithArguments(t).Should(ConsistOf(bundled(t)))
	c.shell(t, commands[2])
	g.Expect(c.rbac(t)).To(BeEmpty())
}

// page are the blocks of one language in one section of docs/olm.md.
func page(g Gomega, section, language string) []string {
	text, err := os.ReadFile(root + "/docs/olm.md")
	g.Expect(err).NotTo(HaveOccurred())
	_, rest, found := strings.Cut(string(text), "\n## "+section+"\n")
	g.Expect(found).To(BeTrue(), section)
	rest, _, _ = strings.Cut(rest, "\n## ")
	var blocks []string
	for block := range strings.SplitSeq(rest, "\n```") {
		if block, found := strings.CutPrefix(block, language+"\n"); found {
			blocks = append(blocks, block+"\n")
		}
	}
	return blocks
}

// shell runs commands as a cluster admin.
func (c cluster) shell(t *testing.T, commands string) {
	t.Helper()
	command := exec.CommandContext(t.Context(), "bash", "-euc", commands)
	command.Env = append(os.Environ(), "KUBECONFIG="+c.plane.Kubeconfig, "PATH="+c.plane.Assets+":"+os.Getenv("PATH"))
	output, err := command.CombinedOutput()
	NewWithT(t).Expect(err).NotTo(HaveOccurred(), "%s\n%s", commands, output)
}

// made are the ClusterRoles that OLM makes for each kind, and that go with its CustomResourceDefinition.
var made = []string{
	"ClusterRole appisolations.appisolation.io-v1alpha1-admin",
	"ClusterRole appisolations.appisolation.io-v1alpha1-crdview",
	"ClusterRole appisolations.appisolation.io-v1alpha1-edit",
	"ClusterRole appisolations.appisolation.io-v1alpha1-view",
	"ClusterRole isolationprofiles.appisolation.io-v1alpha1-admin",
	"ClusterRole isolationprofiles.appisolation.io-v1alpha1-crdview",
	"ClusterRole isolationprofiles.appisolation.io-v1alpha1-edit",
	"ClusterRole isolationprofiles.appisolation.io-v1alpha1-view",
}

// bundled are the objects of the bundle itself that give rights. They stay, whoever they gave them to.
func bundled(t *testing.T) []string {
	var found []string
	for _, object := range readBundle(t, root+"/bundle").Objects {
		if object.GroupVersionKind().Group == rbacv1.GroupName {
			found = append(found, object.GetKind()+" "+object.GetName())
		}
	}
	return found
}

// rbac are the objects that give rights in the name of the project or of its kinds.
func (c cluster) rbac(t *testing.T) ([]string, error) {
	var found []string
	for _, kind := range []string{"ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"} {
		list := &metav1.PartialObjectMetadataList{}
		list.SetGroupVersionKind(rbacv1.SchemeGroupVersion.WithKind(kind + "List"))
		if err := c.List(t.Context(), list); err != nil {
			return nil, err
		}
		for _, object := range list.Items {
			if strings.Contains(object.Name, "appisolation") {
				found = append(found, kind+" "+object.Name)
			}
		}
	}
	return found, nil
}

func (c cluster) account(t *testing.T) string {
	t.Helper()
	var account corev1.ServiceAccount
	NewWithT(t).Expect(c.Get(t.Context(), client.ObjectKey{Namespace: system, Name: name}, &account)).To(Succeed())
	return string(account.UID)
}

func (c cluster) gone(t *testing.T, object client.Object, namespace, name string) func() (bool, error) {
	return func() (bool, error) {
		err := c.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: name}, object)
		return apierrors.IsNotFound(err), client.IgnoreNotFound(err)
	}
}

func marshal(g Gomega, value any) []byte {
	text, err := json.Marshal(value)
	g.Expect(err).NotTo(HaveOccurred())
	return append(text, '\n')
}
