package controlplane

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

func TestControlPlane(t *testing.T) {
	g := NewWithT(t)
	t.Setenv("TMPDIR", t.TempDir())
	cp, err := Start(Options{CRDs: []string{"config/crd/bases"}})
	g.Expect(err).NotTo(HaveOccurred())
	defer func() {
		g.Expect(cp.Stop()).To(Succeed())
		expectNothingLeft(t, cp.Dir)
		g.Expect(os.ReadDir(os.TempDir())).To(BeEmpty())
	}()
	admin, err := client.New(cp.Config, client.Options{})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(processesOf(t, cp.Dir)).To(HaveLen(4), "etcd, API server, controller manager and janitor")

	t.Run("collects the garbage", func(t *testing.T) { testGarbage(t, admin) })
	t.Run("gives a user only the rights of RBAC", func(t *testing.T) { testUser(t, cp) })
	t.Run("knows its etcd from another", func(t *testing.T) { testForeignEtcd(t, cp) })
}

func testGarbage(t *testing.T, admin client.Client) {
	g := NewWithT(t)
	owner := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "owner"}}
	g.Expect(admin.Create(t.Context(), owner)).To(Succeed())
	dependent := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{
		Namespace: "default", Name: "dependent",
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: owner.Name, UID: owner.UID}},
	}}
	g.Expect(admin.Create(t.Context(), dependent)).To(Succeed())

	g.Expect(admin.Delete(t.Context(), owner)).To(Succeed())
	g.Eventually(func() error {
		return admin.Get(t.Context(), client.ObjectKeyFromObject(dependent), dependent)
	}, "30s", "50ms").Should(Satisfy(errors.IsNotFound))
}

func testUser(t *testing.T, cp *ControlPlane) {
	g := NewWithT(t)
	kubeconfig, config, err := cp.UserKubeconfig("somebody", "some:group")
	g.Expect(err).NotTo(HaveOccurred())

	somebody, err := client.New(config, client.Options{})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(somebody.List(t.Context(), &corev1.SecretList{})).To(Satisfy(errors.IsForbidden))

	kubectl := exec.CommandContext(t.Context(), filepath.Join(cp.Assets, "kubectl"), "--kubeconfig", kubeconfig, "auth", "whoami")
	answer, err := kubectl.CombinedOutput()
	g.Expect(err).NotTo(HaveOccurred(), string(answer))
	g.Expect(string(answer)).To(And(ContainSubstring("somebody"), ContainSubstring("some:group")))
}

func testForeignEtcd(t *testing.T, cp *ControlPlane) {
	g := NewWithT(t)
	other := &ControlPlane{Dir: t.TempDir()}
	other.plane.Etcd = cp.plane.Etcd
	g.Expect(cp.checkEtcd()).To(Succeed())
	g.Expect(other.checkEtcd()).To(MatchError(ContainSubstring("another etcd answers")))
}

func TestStartSaysWhatToDoWithoutBinaries(t *testing.T) {
	g := NewWithT(t)
	t.Chdir(t.TempDir())
	t.Setenv("KUBEBUILDER_ASSETS", "")
	_, err := Start(Options{})
	g.Expect(err).To(MatchError(ContainSubstring("make controlplane")))
}

func TestFailedStartShowsTheLogAndLeavesNothing(t *testing.T) {
	g := NewWithT(t)
	t.Setenv("TMPDIR", t.TempDir())
	_, err := Start(Options{APIServerArgs: map[string]string{"feature-gates": "NoSuchGate=true"}})
	g.Expect(err).To(MatchError(ContainSubstring("unrecognized feature gate: NoSuchGate")))
	g.Eventually(func() []string { return processesOf(t, os.TempDir()) }, "10s", "20ms").Should(BeEmpty())
	g.Expect(os.ReadDir(os.TempDir())).To(BeEmpty())
}

// The test runs itself a second time, as the process that is killed.
func TestKilledParentLeavesNothing(t *testing.T) {
	const killMe = "APPISOLATION_TEST_KILL_ME"
	g := NewWithT(t)
	if os.Getenv(killMe) != "" {
		cp, err := Start(Options{})
		g.Expect(err).NotTo(HaveOccurred())
		fmt.Println("started:" + cp.Dir)
		<-t.Context().Done()
	}

	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.timeout=1m")
	temp := t.TempDir()
	child.Env = append(os.Environ(), killMe+"=yes", "TMPDIR="+temp)
	output, err := child.StdoutPipe()
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(child.Start()).To(Succeed())

	dir := ""
	for lines := bufio.NewScanner(output); dir == "" && lines.Scan(); {
		_, dir, _ = strings.Cut(lines.Text(), "started:")
	}
	g.Expect(dir).NotTo(BeEmpty())
	g.Expect(processesOf(t, dir)).To(HaveLen(4))
	g.Expect(child.Process.Kill()).To(Succeed())
	_ = child.Wait()
	expectNothingLeft(t, dir)
	g.Expect(os.ReadDir(temp)).To(BeEmpty())
}

func expectNothingLeft(t *testing.T, dir string) {
	t.Helper()
	g := NewWithT(t)
	g.Eventually(func() []string { return processesOf(t, dir) }, "10s", "20ms").Should(BeEmpty())
	g.Eventually(dir, "10s", "20ms").ShouldNot(BeADirectory())
}

// processesOf returns the command lines that name a folder.
func processesOf(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, file := range files {
		line, err := os.ReadFile(file)
		if err == nil && strings.Contains(string(line), dir) { // an error is a process that has ended meanwhile
			found = append(found, strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return found
}
