package controlplane

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// launcher runs a binary so that the kernel kills it when the process that started it dies, however it dies. envtest
// lets its callers name a binary but not set the attributes of its processes, hence a script. Where there is no
// setpriv (it is Linux's), an orphan can stay. The process keeps the script's number, which is written down.
const launcher = `#!/bin/sh
echo $$ >'%[2]s'
if command -v setpriv >/dev/null; then
	exec setpriv --pdeathsig KILL -- '%[1]s' "$@"
fi
exec '%[1]s' "$@"
`

type process struct {
	path string
	log  *os.File
}

// newProcess writes the launcher of one of the binaries and opens its log. The caller closes the log once the process
// has started.
func (cp *ControlPlane) newProcess(name string) (process, error) {
	path := filepath.Join(cp.Dir, name+".sh")
	script := fmt.Appendf(nil, launcher, filepath.Join(cp.Assets, name), filepath.Join(cp.Dir, name+".pid"))
	if err := os.WriteFile(path, script, 0o700); err != nil {
		return process{}, fmt.Errorf("prepare to start %s: %w", name, err)
	}
	log, err := os.Create(filepath.Join(cp.Dir, name+".log"))
	if err != nil {
		return process{}, fmt.Errorf("prepare to start %s: %w", name, err)
	}
	return process{path: path, log: log}, nil
}

// lastLogLines is an error that ends each log of a control plane that did not start: its folder is removed.
func lastLogLines(dir string) error {
	const keep = 2000
	logs, err := filepath.Glob(filepath.Join(dir, "*.log"))
	for _, path := range logs {
		log, readErr := os.ReadFile(path)
		end := bytes.TrimSpace(log[max(0, len(log)-keep):])
		err = errors.Join(err, readErr, fmt.Errorf("%s ends:\n%s", filepath.Base(path), end))
	}
	return err
}

// janitor is a process that waits until this one is gone, or tells it to go, and then removes a folder. Go's clean-up
// does not run when a test is interrupted, and etcd's data is large.
type janitor struct {
	command *exec.Cmd
	open    io.Closer
}

func startJanitor(dir string) (*janitor, error) {
	// Reading ends when the other end of the pipe, which only this process has, is closed. The second try is for the
	// file that a dying etcd may write during the first.
	command := exec.Command("sh", "-c", `cat; rm -rf "$0" || { sleep 1; rm -rf "$0"; }`, dir)
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // out of reach of the terminal's Ctrl-C
	pipe, err := command.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start what removes %s: %w", dir, err)
	}
	if err := command.Start(); err != nil {
		return nil, fmt.Errorf("start what removes %s: %w", dir, err)
	}
	return &janitor{command: command, open: pipe}, nil
}

func (j *janitor) stop() error {
	return errors.Join(j.open.Close(), j.command.Wait())
}

// patience is how long a process may take to end when asked.
const patience = 20 * time.Second

// Child is a process that the kernel kills when this one dies, however it dies.
type Child struct {
	// Exited is closed when the process has ended.
	Exited <-chan struct{}

	command *exec.Cmd
	started time.Time
	err     error
}

// StartChild starts a command, out of reach of the terminal's Ctrl-C.
func StartChild(command *exec.Cmd) (*Child, error) {
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started, exited := make(chan error), make(chan struct{})
	c := &Child{Exited: exited, command: command, started: time.Now()}
	go func() {
		runtime.LockOSThread() // it is this thread that the process dies with, so it has to last
		defer runtime.UnlockOSThread()
		defer close(exited)
		err := command.Start()
		started <- err
		if err == nil {
			c.err = command.Wait()
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", command, err)
	}
	return c, nil
}

// PID is the process number.
func (c *Child) PID() int { return c.command.Process.Pid }

// Memory is what the process has in memory, in MiB, and what of it is its own: the rest is its binary, which the kernel may
// drop.
func (c *Child) Memory() (all, own float64, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.PID()))
	for line := range strings.Lines(string(text)) {
		var kilobytes float64
		if n, _ := fmt.Sscanf(line, "VmRSS: %f kB", &kilobytes); n == 1 {
			all = kilobytes / 1024
		}
		if n, _ := fmt.Sscanf(line, "RssAnon: %f kB", &kilobytes); n == 1 {
			own = kilobytes / 1024
		}
	}
	return all, own, err
}

// Signal sends a signal: SIGSTOP and SIGCONT, say.
func (c *Child) Signal(signal syscall.Signal) error {
	if err := c.command.Process.Signal(signal); err != nil {
		return fmt.Errorf("send %s to %s: %w", signal, c.command, err)
	}
	return nil
}

// youth is how long a process may take until it listens to signals, on a machine that has much else to do.
const youth = 5 * time.Second

// Stop ends the process as a cluster would: it has to go by itself, unless it is so young that the signal may end it.
func (c *Child) Stop() error {
	young := time.Since(c.started) < youth
	if err := c.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-c.Exited:
		var exit *exec.ExitError
		if young && errors.As(c.err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGTERM {
			return nil
		}
		return c.err
	case <-time.After(patience):
		return errors.Join(fmt.Errorf("%s did not end within %s", c.command, patience), c.Kill())
	}
}

// Kill ends the process as a crash would. It may have ended already.
func (c *Child) Kill() error {
	if err := c.command.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill %s: %w", c.command, err)
	}
	<-c.Exited
	return nil
}
