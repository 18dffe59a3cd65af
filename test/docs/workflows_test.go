package docs

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	uses   = regexp.MustCompile(`(?m)^\s*(?:- )?uses:\s*(.*)$`)
	byHash = regexp.MustCompile(`^[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$`)
)

// TestActionsArePinned: a tag can be moved to other code, the hash of a commit cannot.
func TestActionsArePinned(t *testing.T) {
	workflows, err := filepath.Glob(filepath.Join(root, ".github/workflows/*"))
	if err != nil || len(workflows) == 0 {
		t.Fatal("no workflows", err)
	}
	for _, workflow := range workflows {
		for _, action := range uses.FindAllStringSubmatch(read(t, strings.TrimPrefix(workflow, root+"/")), -1) {
			if !byHash.MatchString(action[1]) {
				t.Errorf("%s: %q should be OWNER/ACTION@HASH # vX.Y.Z", filepath.Base(workflow), action[1])
			}
		}
	}
}
