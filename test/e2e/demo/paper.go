package main

import (
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/term"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// width is that of the widest line.
const width = 110

// paper is what the demo is printed on: plain text, or a terminal with colours.
type paper struct {
	io.Writer
	colour bool
}

func newPaper(out *os.File) *paper {
	_, plain := os.LookupEnv("NO_COLOR")
	return &paper{Writer: out, colour: !plain && term.IsTerminal(int(out.Fd()))}
}

func (p *paper) paint(code, text string) string {
	if !p.colour || text == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (p *paper) bold(text string) string { return p.paint("1", text) }
func (p *paper) dim(text string) string  { return p.paint("2", text) }
func (p *paper) good(text string) string { return p.paint("32", text) }
func (p *paper) bad(text string) string  { return p.paint("1;31", text) }

func (p *paper) title(text string) { fmt.Fprintf(p, "\n%s\n", p.bold(text)) }
func (p *paper) note(text string)  { fmt.Fprintf(p, "%s\n", p.dim(text)) }
func (p *paper) says(text string)  { fmt.Fprintf(p, "%s\n", text) }

// command prints what a person would type.
func (p *paper) command(line string) { fmt.Fprintf(p, "    %s\n", p.paint("36", line)) }

// progress prints what is being done; the function that it returns adds how long it took.
func (p *paper) progress(text string) (done func()) {
	start := time.Now()
	fmt.Fprintf(p, "%s ", text)
	return func() {
		fmt.Fprintf(p, "%s %.1fs\n", strings.Repeat(".", max(2, 90-utf8.RuneCountInString(text))), time.Since(start).Seconds())
	}
}

// condition prints one condition with its whole message.
func (p *paper) condition(c metav1.Condition) {
	fmt.Fprintf(p, "    %s  %s  %s\n", c.Type, p.status(c.Status), c.Reason)
	for _, line := range wrap(c.Message, width-4) {
		fmt.Fprintf(p, "    %s\n", line)
	}
}

// connection prints whether a connection passes, at two times.
func (p *paper) connection(from, to, once, first, then, second string) {
	fmt.Fprintf(p, "    %s → %s    %s: %s    %s: %s\n", from, to, once, p.mark(first), then, p.mark(second))
}

func (p *paper) status(status metav1.ConditionStatus) string {
	if status == metav1.ConditionTrue {
		return p.good(string(status))
	}
	return p.bad(string(status))
}

func (p *paper) mark(mark string) string {
	switch mark {
	case passes:
		return p.good(mark)
	case unasked:
		return ""
	default:
		return p.dim(mark)
	}
}

// verdict is a mark; one that is wrong stands out.
func (p *paper) verdict(c cell) string {
	if c.got != c.want {
		return p.bad(c.got + " not " + c.want)
	}
	return p.mark(c.got)
}

// table prints rows in columns, under a title, or else with the first row as their heads. The last column is cut where
// the paper ends.
func (p *paper) table(title string, rows [][]string) {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, text := range row {
			widths[i] = max(widths[i], visible(text))
		}
	}
	fmt.Fprintln(p)
	if title != "" {
		fmt.Fprintf(p, "  %s\n", p.bold(title))
	}
	for n, row := range rows {
		line, used := "", 0
		for i, text := range row {
			if i == len(row)-1 {
				text = cut(text, width-used-2)
			}
			if n == 0 && title == "" {
				text = p.bold(text)
			}
			line += "  " + text + strings.Repeat(" ", max(0, widths[i]-visible(text)))
			used += 2 + widths[i]
		}
		fmt.Fprintln(p, strings.TrimRight(line, " "))
	}
}

var colours = regexp.MustCompile("\x1b\\[[0-9;]*m")

// visible is how many columns a text takes.
func visible(text string) int { return utf8.RuneCountInString(colours.ReplaceAllString(text, "")) }

// cut shortens a text that is too long and has no colours.
func cut(text string, most int) string {
	if visible(text) <= most {
		return text
	}
	return string([]rune(text)[:most-1]) + "…"
}

// wrap breaks a text into lines, between words.
func wrap(text string, most int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && utf8.RuneCountInString(line+" "+word) > most {
			lines, line = append(lines, line), ""
		}
		line = strings.TrimPrefix(line+" "+word, " ")
	}
	return append(lines, line)
}
