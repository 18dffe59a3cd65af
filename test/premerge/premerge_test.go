// Package premerge does what docs/examples/pre-merge.yaml and .pre-commit-hooks.yaml say, in a repository of its own.
package premerge

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	"sigs.k8s.io/yaml"
)

const root = "../.."

// bin is the folder of the binary, built from this tree.
var bin string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		if bin, err = os.MkdirTemp("", "premerge-"); err != nil {
			panic(err)
		}
		defer os.RemoveAll(bin)
		build := exec.Command("go", "build", "-o", filepath.Join(bin, "appisolation"), ".") //nolint:gosec // ours
		build.Dir = root
		if output, err := build.CombinedOutput(); err != nil {
			panic(string(output))
		}
		return m.Run()
	}())
}

// checkout is somebody's repository, at the merge of a branch.
type checkout struct {
	*testing.T
	*WithT
	dir, temp string
}

// newCheckout makes a repository in which a branch with these files is merged into one with those.
func newCheckout(t *testing.T, base, branch map[string]string) checkout {
	c := checkout{t, NewWithT(t), t.TempDir(), t.TempDir()}
	t.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	t.Setenv("KUBECONFIG", "/nowhere")
	c.must("git init -q -b main && git config user.name x && git config user.email x@example.com && git config commit.gpgsign false")
	c.commit(base)
	c.must("git checkout -q -b branch")
	c.commit(branch)
	c.must("git checkout -q main && git merge -q --no-ff -m merge branch")
	return c
}

func (c checkout) commit(files map[string]string) {
	for name, text := range files {
		path := filepath.Join(c.dir, name)
		c.Expect(os.MkdirAll(filepath.Dir(path), 0o750)).To(Succeed())
		c.Expect(os.WriteFile(path, []byte(text), 0o600)).To(Succeed())
	}
	c.must("git add -A && git commit -q --allow-empty -m commit")
}

// run runs a script in the repository as GitHub's runners do, and returns what it says.
func (c checkout) run(script string, env ...string) (string, error) {
	command := exec.Command("bash", "-e", "-c", script) //nolint:gosec // a test's
	command.Dir = c.dir
	command.Env = append(os.Environ(), env...)
	output, err := command.CombinedOutput()
	return string(output), err
}

func (c checkout) must(script string) {
	c.Helper()
	output, err := c.run(script)
	c.Expect(err).NotTo(HaveOccurred(), "%s: %s", script, output)
}

// step runs the step of the workflow that has this name.
func (c checkout) step(name string) (string, error) {
	c.Helper()
	var workflow struct {
		Env  map[string]string
		Jobs struct {
			Check struct{ Steps []struct{ Name, Run string } }
		}
	}
	c.Expect(yaml.Unmarshal(contents(c, root+"/docs/examples/pre-merge.yaml"), &workflow)).To(Succeed())
	env := []string{"RUNNER_TEMP=" + c.temp, "GITHUB_OUTPUT=" + c.temp + "/output", "GITHUB_STEP_SUMMARY=" + c.temp + "/summary"}
	for key, value := range workflow.Env {
		env = append(env, key+"="+value)
	}
	for _, step := range workflow.Jobs.Check.Steps {
		if step.Name == name {
			return c.run(step.Run, env...)
		}
	}
	c.Fatalf("the workflow has no step %q", name)
	return "", nil
}

func contents(c checkout, path string) []byte {
	c.Helper()
	text, err := os.ReadFile(path) //nolint:gosec // a test's
	c.Expect(err).NotTo(HaveOccurred())
	return text
}

const (
	check = "Check that every declaration is right"
	show  = "Show what would become different"
)

var shop = func() string {
	text, err := os.ReadFile(root + "/config/samples/web-api-db.yaml")
	if err != nil {
		panic(err)
	}
	return string(text)
}()

func TestTheWorkflowRefusesWhatIsWrong(t *testing.T) {
	c := newCheckout(t, map[string]string{"apps/shop.yaml": shop}, map[string]string{
		"apps/blog.yaml": strings.ReplaceAll(strings.ReplaceAll(shop, "name: shop", "name: blog"), "to: api", "to: nosuch"),
	})
	output, err := c.step(check)
	c.Expect(err).To(HaveOccurred())
	c.Expect(output).To(MatchRegexp(`apps/blog\.yaml:\d+: AppIsolation shop/blog: spec\.flows\[0\]\.to`))
}

func TestTheWorkflowShowsWhatBecomesDifferent(t *testing.T) {
	for name, row := range map[string]struct {
		base, branch map[string]string
		different    string
		shows        string
	}{
		"nothing":        {map[string]string{"apps/shop.yaml": shop}, map[string]string{"README.md": "x"}, "0", ""},
		"a port":         {map[string]string{"apps/shop.yaml": shop}, map[string]string{"apps/shop.yaml": strings.ReplaceAll(shop, "port: 5000", "port: 5001")}, "1", "5001"},
		"the first file": {map[string]string{"README.md": "x"}, map[string]string{"apps/shop.yaml": shop}, "1", "3306"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCheckout(t, row.base, row.branch)
			output, err := c.step(check)
			c.Expect(err).NotTo(HaveOccurred(), output)
			output, err = c.step(show)
			c.Expect(err).NotTo(HaveOccurred(), output)
			c.Expect(string(contents(c, c.temp+"/output"))).To(Equal("different=" + row.different + "\n"))
			c.Expect(string(contents(c, c.temp+"/summary"))).To(ContainSubstring(row.shows))
			c.Expect(c.run("git status --porcelain")).To(BeEmpty())
		})
	}
}

// pre-commit puts the arguments behind the entry, and the files behind those if it passes any.
func TestTheHookRefusesWhatIsWrong(t *testing.T) {
	c := newCheckout(t, map[string]string{"apps/shop.yaml": shop}, nil)
	var hooks []struct {
		Entry         string
		Args          []string
		PassFilenames *bool `json:"pass_filenames"`
	}
	c.Expect(yaml.Unmarshal(contents(c, root+"/.pre-commit-hooks.yaml"), &hooks)).To(Succeed())
	c.Expect(hooks).To(HaveLen(1))
	c.Expect(hooks[0].PassFilenames).To(HaveValue(BeFalse()))
	for _, arguments := range [][]string{hooks[0].Args, {"apps"}} {
		entry := hooks[0].Entry + " " + strings.Join(arguments, " ")
		c.must(entry)
		c.commit(map[string]string{"apps/shop.yaml": strings.ReplaceAll(shop, "to: api", "to: nosuch")})
		output, err := c.run(entry)
		c.Expect(err).To(HaveOccurred())
		c.Expect(output).To(ContainSubstring("apps/shop.yaml:"))
		c.commit(map[string]string{"apps/shop.yaml": shop})
	}
}
