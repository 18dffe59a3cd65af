package olm

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	. "github.com/onsi/gomega"
	"sigs.k8s.io/yaml"
)

// TestScorecard: scorecard's own tests of the bundle, which operator-sdk would run as pods, each as a process. They look for
// the bundle at /bundle, so that is the process's root.
func TestScorecard(t *testing.T) {
	g := NewWithT(t)
	dir := t.TempDir()
	// As operator-sdk is built, whose packages these are.
	build := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(dir, "scorecard-test"),
		"-tags=containers_image_openpgp,exclude_graphdriver_btrfs,exclude_graphdriver_devicemapper",
		"github.com/operator-framework/operator-sdk/images/scorecard-test")
	build.Dir, build.Env = root+"/hack/operator-sdk", append(os.Environ(), "CGO_ENABLED=0")
	output, err := build.CombinedOutput()
	g.Expect(err).NotTo(HaveOccurred(), string(output))
	g.Expect(os.CopyFS(filepath.Join(dir, "bundle"), os.DirFS(root+"/bundle"))).To(Succeed())

	for _, test := range scorecardTests(g) {
		t.Run(test[len(test)-1], func(t *testing.T) {
			g := NewWithT(t)
			output, err := in(dir, test...)
			g.Expect(err).NotTo(HaveOccurred(), string(output))
			var status struct {
				Results []struct {
					State               string
					Errors, Suggestions []string
				}
			}
			g.Expect(json.Unmarshal(output, &status)).To(Succeed(), string(output))
			g.Expect(status.Results).To(HaveEach(HaveField("State", "pass")), string(output))
		})
	}
}

// scorecardTests are the commands of the tests that the bundle asks for.
func scorecardTests(g Gomega) [][]string {
	text, err := os.ReadFile(root + "/bundle/tests/scorecard/config.yaml")
	g.Expect(err).NotTo(HaveOccurred())
	var config struct {
		Stages []struct {
			Tests []struct{ Entrypoint []string }
		}
	}
	g.Expect(yaml.Unmarshal(text, &config)).To(Succeed())
	var commands [][]string
	for _, stage := range config.Stages {
		for _, test := range stage.Tests {
			commands = append(commands, test.Entrypoint)
		}
	}
	g.Expect(commands).To(HaveLen(6))
	return commands
}

// in runs a program with a folder as its whole file system; without root, in a user namespace.
func in(dir string, command ...string) ([]byte, error) {
	run := exec.Command("/"+command[0], command[1:]...)
	run.Dir, run.Env = "/", []string{}
	run.SysProcAttr = &syscall.SysProcAttr{Chroot: dir}
	if os.Getuid() != 0 {
		run.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER
		run.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		run.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	return run.Output()
}
