package main

import (
	"context"
	"errors"
	"os"
	"runtime/pprof"

	"github.com/appisolation/appisolation/controllers"
)

// profile runs the operator in this process, and writes where its processor time goes while applications are made.
func (w *world) profile(ctx context.Context, path string) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer file.Close()
	mgr, err := controllers.NewManager(w.Config, controllers.Options{MetricsAddress: "0", ProbeAddress: "0"})
	if err != nil {
		return err
	}
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- mgr.Start(running) }()
	l, err := w.newLoad(ctx, "profile", applications)
	if err != nil {
		stop()
		return err
	}
	mgr.GetCache().WaitForCacheSync(ctx)
	if err := pprof.StartCPUProfile(file); err != nil {
		stop()
		return err
	}
	took, err := w.byOperator(ctx, l)
	pprof.StopCPUProfile()
	progress("%d applications in %.1f s", applications, took.Seconds())
	stop()
	return errors.Join(err, <-ended)
}
