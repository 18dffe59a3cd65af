// Package e2e tests the operator with packets.
package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/appisolation/appisolation/test/e2e/rig"
)

const root = "../.."

var cluster *rig.Cluster

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) (code int) {
	var log bytes.Buffer
	var err error
	if cluster, err = rig.StartCluster(context.Background(), &log); err != nil {
		panic(err)
	}
	defer func() {
		if err := cluster.Stop(); err != nil {
			panic(err)
		}
		if code != 0 {
			fmt.Fprintf(os.Stderr, "the operator's log ends:\n%s", log.Bytes()[max(0, log.Len()-10_000):])
		}
	}()
	return m.Run()
}

// TestScenarios runs every file of the folder scenarios: after each of its steps, exactly the connections that it lists
// pass.
func TestScenarios(t *testing.T) {
	files, err := rig.ScenarioFiles("scenarios")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			scenario, err := rig.LoadScenario(file)
			if err != nil {
				t.Fatal(err)
			}
			run := begin(t, scenario)
			for _, step := range scenario.Steps {
				table, err := run.Step(t.Context(), step)
				if err != nil {
					t.Fatalf("%s\n%v", scenario.About, err)
				}
				if testing.Verbose() { // else a failure would show all tables before its own
					t.Logf("%s\n%s", step.Name, table)
				}
			}
		})
	}
}

// begin starts a scenario that ends with the test.
func begin(t *testing.T, scenario *rig.Scenario) *rig.Run {
	t.Helper()
	run, err := rig.Begin(t.Context(), cluster, scenario, root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := run.End(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return run
}
