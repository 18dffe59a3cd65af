package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"

	"github.com/appisolation/appisolation/controllers"
)

// profile runs the operator in this process, and writes into a folder where its processor time goes while applications are
// made (cpu), and what it holds at the size of memory (heap), beside what this program itself has.
func (w *world) profile(ctx context.Context, dir string) (err error) {
	mgr, err := controllers.NewManager(w.Config, controllers.Options{MetricsAddress: "0", ProbeAddress: "0"})
	if err != nil {
		return err
	}
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- mgr.Start(running) }()
	defer func() {
		stop()
		err = errors.Join(err, <-ended)
	}()
	mgr.GetCache().WaitForCacheSync(ctx)
	if err := written(filepath.Join(dir, "cpu"), func(cpu io.Writer) error { return w.profileTime(ctx, cpu) }); err != nil {
		return err
	}
	if _, err := w.crowd(ctx); err != nil {
		return err
	}
	runtime.GC()
	return written(filepath.Join(dir, "heap"), pprof.WriteHeapProfile)
}

// profileTime profiles the processor time that is used while applications are made.
func (w *world) profileTime(ctx context.Context, cpu io.Writer) error {
	l, err := w.newLoad(ctx, "profile", applications)
	if err != nil {
		return err
	}
	if err := pprof.StartCPUProfile(cpu); err != nil {
		return err
	}
	took, err := w.byOperator(ctx, l)
	pprof.StopCPUProfile()
	progress("%d applications in %.1f s", applications, took.Seconds())
	return errors.Join(err, w.clear(ctx, l.namespaces))
}

// written writes a file.
func written(path string, write func(io.Writer) error) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(write(file), file.Close())
}
