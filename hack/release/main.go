// Command release does what is left of a release once its parts are made:
//
//	release notes VERSION           prints that version's section of CHANGELOG.md
//	release seal DIR                writes DIR/checksums.txt
//	release check DIR VERSION IMAGE says what DIR lacks, or what in it is of another version
//
// It runs at the top of the repository. The Makefile makes the parts.
package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 2 && args[0] == "notes":
		changelog, err := os.ReadFile("CHANGELOG.md")
		if err != nil {
			return err
		}
		text, err := notes(string(changelog), args[1])
		fmt.Print(text)
		return err
	case len(args) == 2 && args[0] == "seal":
		return seal(args[1])
	case len(args) == 4 && args[0] == "check":
		return check(args[1], args[2], args[3])
	}
	return errors.New("usage: release notes VERSION | seal DIR | check DIR VERSION IMAGE")
}

// notes are what a changelog says of a version.
func notes(changelog, version string) (string, error) {
	_, after, found := strings.Cut(changelog, "\n## ["+version+"]")
	if !found {
		return "", fmt.Errorf("CHANGELOG.md has no section [%s]: rename Unreleased, with today's date", version)
	}
	_, section, _ := strings.Cut(after, "\n")
	section, _, _ = strings.Cut(section, "\n## [")
	var lines []string
	for line := range strings.Lines(section) {
		if !strings.HasPrefix(line, "[") { // the links at the end
			lines = append(lines, line)
		}
	}
	text := strings.TrimSpace(strings.Join(lines, ""))
	if text == "" {
		return "", fmt.Errorf("CHANGELOG.md says nothing of %s", version)
	}
	return text + "\n", nil
}
