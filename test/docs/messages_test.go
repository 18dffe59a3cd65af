// Package docs holds the pages to what is true: what they quote, and where they lead.
package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

const root = "../.."

// TestQuotedMessagesExist: a line of troubleshooting.md that begins with ">" is a message of ours, with … for what
// differs from case to case.
func TestQuotedMessagesExist(t *testing.T) {
	texts := messages(t)
	quotes := 0
	for line := range strings.Lines(read(t, "docs/troubleshooting.md")) {
		quote, found := strings.CutPrefix(strings.TrimSpace(line), "> ")
		if !found {
			continue
		}
		quotes++
		if quote = strings.TrimPrefix(quote, "- "); !said(texts, quote) {
			t.Errorf("nothing of ours says: %s", quote)
		}
	}
	if quotes < 20 {
		t.Errorf("found %d quotes: are they still lines that begin with %q?", quotes, "> ")
	}
}

// said says whether some text has all that a quote is sure of, in that order.
func said(texts []string, quote string) bool {
	var parts []string
	for part := range strings.SplitSeq(quote, "…") {
		parts = append(parts, regexp.QuoteMeta(part))
	}
	pattern := regexp.MustCompile("(?s)" + strings.Join(parts, ".{0,60}"))
	for _, text := range texts {
		if pattern.MatchString(text) {
			return true
		}
	}
	return false
}

// messages are all texts in the operator's code, those put together of several as one, and the admission policies.
func messages(t *testing.T) []string {
	t.Helper()
	texts := []string{
		strings.ReplaceAll(read(t, "config/protection/policy.yaml"), `\'`, "'"),
		strings.ReplaceAll(read(t, "config/guardrails/policy.yaml"), `\'`, "'"),
	}
	err := filepath.WalkDir(filepath.Join(root, "controllers"), func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(node ast.Node) bool {
			expression, is := node.(ast.Expr)
			if !is {
				return true
			}
			text, is := constant(expression)
			if is {
				texts = append(texts, text)
			}
			return !is
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return texts
}

// constant is the text of a literal, or of several that are added up.
func constant(expression ast.Expr) (string, bool) {
	switch e := expression.(type) {
	case *ast.BasicLit:
		text, err := strconv.Unquote(e.Value)
		return text, err == nil && e.Kind == token.STRING
	case *ast.BinaryExpr:
		left, isLeft := constant(e.X)
		right, isRight := constant(e.Y)
		return left + right, isLeft && isRight && e.Op == token.ADD
	}
	return "", false
}

var situation = regexp.MustCompile("`([A-Z][A-Za-z]+)=(True|False|Unknown)(?: ([A-Z][A-Za-z]+))?")

// TestConditionsExist: `Accepted=False Invalid` on a page is a condition and a reason of the API.
func TestConditionsExist(t *testing.T) {
	code := read(t, "api/v1alpha1/conditions.go")
	found := 0
	for _, page := range pages(t) {
		for _, match := range situation.FindAllStringSubmatch(read(t, page), -1) {
			found++
			for prefix, word := range map[string]string{"Condition": match[1], "Reason": match[3]} {
				if word != "" && !strings.Contains(code, prefix+word+" = "+strconv.Quote(word)) {
					t.Errorf("%s: there is no %s %s", page, strings.ToLower(prefix), word)
				}
			}
		}
	}
	if found < 20 {
		t.Errorf("found %d conditions", found)
	}
}

// pages are all pages for users.
func pages(t *testing.T) []string {
	t.Helper()
	var found []string
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/runbooks/*.md", "config/samples/profiles/*.md"} {
		paths, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			found = append(found, strings.TrimPrefix(path, root+"/"))
		}
	}
	return found
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
