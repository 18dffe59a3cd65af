// Package cachedir keeps what Graphviz compiles out of the temporary folder that all users share. When it is loaded,
// Graphviz's package compiles its code and keeps it in os.TempDir()/go-graphviz, and the next start runs what it finds
// there: on a machine of several users, whoever made that folder first could have others run code of theirs.
//
// Packages are initialized in the order of their import paths, as soon as what they import is
// (https://go.dev/doc/go1.21#language): this one before Graphviz's, and those that import both after it.
package cachedir

import (
	"os"
	"path/filepath"
)

// temporary are the variables that os.TempDir goes by.
var temporary = []string{"TMPDIR", "TMP"}

var before = map[string]string{}

func init() {
	dir := filepath.Join(os.DevNull, "none") // no folder: nothing is kept then
	if cache, err := os.UserCacheDir(); err == nil {
		own := filepath.Join(cache, "appisolation")
		if os.MkdirAll(own, 0o700) == nil {
			dir = own
		}
	}
	for _, name := range temporary {
		if value, set := os.LookupEnv(name); set {
			before[name] = value
		}
		_ = os.Setenv(name, dir) // if it cannot be set, everything stays as it is
	}
}

// Restore makes the temporary folder what it was.
func Restore() {
	for _, name := range temporary {
		if value, set := before[name]; set {
			_ = os.Setenv(name, value)
		} else {
			_ = os.Unsetenv(name)
		}
	}
}
