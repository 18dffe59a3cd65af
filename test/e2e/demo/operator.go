package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// operator is the operator as a process of its own.
type operator struct {
	command *exec.Cmd
	log     *os.File
	exited  chan error
}

// launcher has the kernel kill the operator when the demo dies, however it dies. Where there is no setpriv (it is
// Linux's), an orphan can stay.
const launcher = `
if command -v setpriv >/dev/null; then
	exec setpriv --pdeathsig KILL -- "$0" "$@"
fi
exec "$0" "$@"`

// startOperator compiles the operator if need be. died is called if it ends before it is stopped.
func startOperator(ctx context.Context, died context.CancelCauseFunc, binary, kubeconfig, logFile string) (*operator, error) {
	if _, err := os.Stat(binary); errors.Is(err, os.ErrNotExist) {
		build := exec.CommandContext(ctx, "go", "build", "-o", binary, ".")
		if output, err := build.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("compile the operator: %w\n%s", err, output)
		}
	}
	log, err := os.Create(logFile)
	if err != nil {
		return nil, fmt.Errorf("make the operator's log: %w", err)
	}
	o := &operator{log: log, exited: make(chan error, 1)}
	o.command = exec.Command("sh", "-c", launcher, binary,
		"--kubeconfig="+kubeconfig, "--metrics-bind-address=0", "--health-probe-bind-address=0")
	o.command.Stdout, o.command.Stderr = log, log
	o.command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // out of reach of the terminal's Ctrl-C: it is stopped in turn
	if err := o.command.Start(); err != nil {
		return nil, fmt.Errorf("start the operator: %w", err)
	}
	go func() {
		err := o.command.Wait()
		died(fmt.Errorf("the operator ended: %s", o.command.ProcessState))
		o.exited <- err
	}()
	return o, nil
}

// stop asks the operator to end, as a cluster would, and insists after a while.
func (o *operator) stop() error {
	defer o.log.Close()
	if err := o.command.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop the operator: %w", err)
	}
	select {
	case err := <-o.exited:
		if err != nil {
			return fmt.Errorf("the operator did not end as asked: %w", err)
		}
		return nil
	case <-time.After(patience):
		return errors.Join(fmt.Errorf("the operator did not end within %s", patience), o.command.Process.Kill())
	}
}
