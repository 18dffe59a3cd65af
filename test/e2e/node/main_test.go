// Package node tests the operator on a real node: its image in pods that a kubelet runs, with the rights of its service
// account, and the sample applications as Deployments and Services. Everything is in namespaces of its own, of
// processes, mounts and networks, and ends with them.
package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	root = "../../.."
	// workshop is where the environment of the process in the namespaces says that the images are; its name is the
	// cgroup's too.
	workshop = "APPISOLATION_NODE"
	// bin is the folder of Debian's CNI plugins.
	bin = "/usr/lib/cni"
)

func TestMain(m *testing.M) {
	if os.Getenv(workshop) != "" {
		os.Exit(inside(m))
	}
	if err := missing(); err != nil {
		fmt.Println("SKIPPED: the test on a real node:", err)
		if os.Getenv("CI") == "true" {
			os.Exit(1)
		}
		return
	}
	code, err := outside()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// missing says what the test cannot do without.
func missing() error {
	if os.Getuid() != 0 {
		return errors.New("a node's processes take root")
	}
	var errs []error
	for _, tool := range []string{"containerd", "ctr", "runc", "iptables"} {
		if _, err := exec.LookPath(tool); err != nil {
			errs = append(errs, err)
		}
	}
	for _, file := range []string{filepath.Join(bin, "ptp"), filepath.Join(bin, "host-local"), filepath.Join(assets(), "kubelet")} {
		if _, err := os.Stat(file); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 {
		errs = append(errs, errors.New("`make e2e` compiles Kubernetes' parts and installs Debian's"))
	}
	groups, err := cgroups("")
	errs = append(errs, err)
	for _, group := range groups {
		if err := unix.Access(group, unix.W_OK); err != nil { // root of a user namespace only
			errs = append(errs, fmt.Errorf("cgroups cannot be made in %s: %w", group, err))
			break
		}
	}
	return errors.Join(errs...)
}

// outside makes the images, runs the test in namespaces of its own, and removes what they don't take with them.
func outside() (code int, err error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	dir, err := os.MkdirTemp("", "appisolation-node-")
	if err != nil {
		return 0, err
	}
	clean, err := startJanitor(dir)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, clean()) }()
	if err := makeImages(ctx, dir); err != nil {
		return 0, err
	}
	test := exec.CommandContext(ctx, "/proc/self/exe", os.Args[1:]...)
	test.Env = append(os.Environ(), workshop+"="+dir, "TMPDIR="+dir)
	test.Stdout, test.Stderr = os.Stdout, os.Stderr
	test.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET,
		Pdeathsig:  syscall.SIGKILL,
	}
	var exit *exec.ExitError
	if err := test.Run(); err != nil && !errors.As(err, &exit) {
		return 0, fmt.Errorf("make namespaces of processes, mounts and networks: %w", err)
	}
	return test.ProcessState.ExitCode(), nil
}

// janitor waits until its input ends, which it does with this process, however that ends, and removes the cgroup of a
// folder's name and the folder. It tries again while the last processes are dying.
const janitor = `cat
for try in 1 2 3 4 5; do
	find /sys/fs/cgroup -depth -type d -path "*/${0##*/}*" -exec rmdir {} + && rm -rf "$0" && exit
	sleep 1
done
exit 1`

func startJanitor(dir string) (clean func() error, err error) {
	command := exec.Command("sh", "-c", janitor, dir)
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // out of reach of the terminal's Ctrl-C
	input, err := command.StdinPipe()
	if err != nil {
		return nil, err
	}
	clean = func() error {
		if err := errors.Join(input.Close(), command.Wait()); err != nil {
			return fmt.Errorf("remove %s and the cgroup: %w", dir, err)
		}
		return nil
	}
	return clean, command.Start()
}

// inside runs the tests as the first process of the namespaces: all others end with it.
func inside(m *testing.M) int {
	for _, mount := range []struct {
		target, kind string
		flags        uintptr
	}{
		{"/", "", syscall.MS_REC | syscall.MS_PRIVATE},
		{"/proc", "proc", 0},
		// Where a node's programs leave something; some of them always there.
		{"/run", "tmpfs", 0},
		{"/var/lib", "tmpfs", 0},
		{"/var/log", "tmpfs", 0},
	} {
		if err := syscall.Mount(mount.kind, mount.target, mount.kind, mount.flags, ""); err != nil {
			fmt.Fprintf(os.Stderr, "mount %s: %v\n", mount.target, err)
			return 1
		}
	}
	if err := makeCgroups(filepath.Base(os.Getenv(workshop))); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// cgroups are the folders of a cgroup: one, or with cgroup v1 one for each controller.
func cgroups(name string) ([]string, error) {
	const mount = "/sys/fs/cgroup"
	if _, err := os.Stat(filepath.Join(mount, "cgroup.procs")); err == nil {
		return []string{filepath.Join(mount, name)}, nil
	}
	found, err := filepath.Glob(filepath.Join(mount, "*", "cgroup.procs"))
	for i := range found {
		found[i] = filepath.Join(filepath.Dir(found[i]), name)
	}
	return found, err
}

// makeCgroups makes the cgroup that all of the node's pods are below.
func makeCgroups(name string) error {
	dirs, err := cgroups(name)
	for _, dir := range dirs {
		if made := os.Mkdir(dir, 0o755); made != nil && !errors.Is(made, fs.ErrExist) { //nolint:gosec // as all cgroups
			err = errors.Join(err, made)
		}
	}
	return err
}

// assets is the folder of Kubernetes' binaries.
func assets() string {
	if dir := os.Getenv("KUBEBUILDER_ASSETS"); dir != "" {
		return dir
	}
	return filepath.Join(root, "bin", "k8s")
}

// run runs a program to its end and returns what it says.
func run(ctx context.Context, dir, name string, args ...string) (string, error) {
	command := exec.CommandContext(ctx, name, args...)
	command.Dir = dir
	output, err := command.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, output)
	}
	return string(output), nil
}
