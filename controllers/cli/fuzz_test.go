package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/cli-runtime/pkg/genericiooptions"
	"sigs.k8s.io/yaml"
)

// maxPrinted bounds what a command makes of an input of a megabyte at most.
const maxPrinted = 64 << 20

// FuzzCommands gives each command that reads files any text for one: it ends with an error or a result, never with a
// panic, and what is meant for machines is YAML.
func FuzzCommands(f *testing.F) {
	f.Setenv("KUBECONFIG", "/nowhere")
	for _, text := range fuzzSeeds(f) {
		for command := range commandsOnInput {
			f.Add(uint8(command), text) //nolint:gosec // there are few
		}
	}
	f.Fuzz(func(t *testing.T, command uint8, text string) {
		args := strings.Fields(commandsOnInput[int(command)%len(commandsOnInput)])
		streams, in, out, errOut := genericiooptions.NewTestIOStreams()
		in.WriteString(text)
		root := New(streams)
		root.SetArgs(args)
		err := root.Execute()
		switch {
		case out.Len()+errOut.Len() > maxPrinted:
			t.Fatalf("%v prints %d bytes", args, out.Len()+errOut.Len())
		case err != nil && strings.TrimSpace(err.Error()) == "":
			t.Fatalf("%v fails without a word", args)
		case err == nil && (args[0] == "render" || args[0] == "import"):
			checkYAML(t, out.String())
		}
	})
}

func fuzzSeeds(f *testing.F) (texts []string) {
	f.Helper()
	for _, pattern := range []string{goldens + "/*/in.yaml", "testdata/*/*.yaml", "testdata/*/*/in.*", "../../config/samples/*.yaml"} {
		inputs, err := filepath.Glob(pattern)
		if err != nil || len(inputs) == 0 {
			f.Fatal(pattern, err)
		}
		for _, input := range inputs {
			text, err := os.ReadFile(input) //nolint:gosec // a golden
			if err != nil {
				f.Fatal(err)
			}
			texts = append(texts, string(text))
		}
	}
	return texts
}

func checkYAML(t *testing.T, text string) {
	t.Helper()
	for _, document := range strings.Split(text, "\n---\n") {
		var object any
		if err := yaml.Unmarshal([]byte(document), &object); err != nil {
			t.Fatalf("no YAML: %v\n%s", err, document)
		}
	}
}

var commandsOnInput = []string{
	"render -f -", "graph -f -", "graph -f - -o json", "can -f - shop/web shop/db", "can -f - shop/web 203.0.113.7:443", "can -f - Nodes shop/db", "diff -f - --base ../../config/samples",
	"import policies -f -", "import workloads -f -", "import flows -f -",
}
