package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/appisolation/appisolation/test/e2e/oracle"
)

const passes, blocked, unasked = "✓", "·", "-"

func mark(allowed bool) string {
	if allowed {
		return passes
	}
	return blocked
}

// cell is one connection: as the story wants it, and as the judge says that it is.
type cell struct {
	from, to  string
	want, got string
}

// judge asks about every connection of a story's table, row by row, and checks the answers.
func (d *demo) judge(s story, judge *oracle.Oracle) ([][]cell, error) {
	lines := strings.Split(strings.TrimSpace(s.reach), "\n")
	destinations := strings.Fields(lines[0])
	var rows [][]cell
	for _, line := range lines[1:] {
		words := strings.Fields(line)
		var row []cell
		for i, to := range destinations {
			c := cell{from: words[0], to: to, want: words[i+1], got: unasked}
			if c.want != unasked {
				allowed, err := s.ask(judge, c.from, to)
				if err != nil {
					return nil, err
				}
				c.got = mark(allowed)
				d.check(c.got == c.want, fmt.Sprintf("%s: from %s to %s %s", s.file, c.from, to, c.want))
			}
			row = append(row, c)
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// ask asks about one connection: to is a name and a port, "db:3306" or "dns:53/UDP".
func (s story) ask(judge *oracle.Oracle, from, to string) (bool, error) {
	name, port, _ := strings.Cut(to, ":")
	port, protocol, found := strings.Cut(port, "/")
	if !found {
		protocol = string(corev1.ProtocolTCP)
	}
	number, err := strconv.ParseInt(port, 10, 32)
	if err != nil {
		return false, fmt.Errorf("%s: the port of %q: %w", s.file, to, err)
	}
	return judge.Allowed(s.endpoint(from, "1"), s.endpoint(name, "0"), int32(number), corev1.Protocol(protocol))
}

// showReach prints the table of a story. A cell that is not as it should be says so.
func (d *demo) showReach(s story, judge *oracle.Oracle) error {
	rows, err := d.judge(s, judge)
	if err != nil {
		return err
	}
	header := []string{"FROM \\ TO"}
	for _, c := range rows[0] {
		header = append(header, c.to)
	}
	lines := [][]string{header}
	for _, row := range rows {
		line := []string{row[0].from}
		for _, c := range row {
			line = append(line, d.out.verdict(c))
		}
		lines = append(lines, line)
	}
	d.out.table("", lines)
	return nil
}

// ask asks the cluster as it is now, or as it was with the changes.
func (d *demo) ask(
	ctx context.Context, s story, from, to string, changes ...func(networkingv1.NetworkPolicy) *networkingv1.NetworkPolicy,
) (string, error) {
	judge, err := d.cluster.oracle(ctx, changes...)
	if err != nil {
		return "", err
	}
	allowed, err := s.ask(judge, from, to)
	return mark(allowed), err
}

// showOpening prints what a change of the policies opened while it lasted, and expects it to be closed now.
func (d *demo) showOpening(
	ctx context.Context, s story, from, to string, meanwhile func(networkingv1.NetworkPolicy) *networkingv1.NetworkPolicy,
) error {
	during, err := d.ask(ctx, s, from, to, meanwhile)
	if err != nil {
		return err
	}
	now, err := d.ask(ctx, s, from, to)
	if err != nil {
		return err
	}
	d.check(during == passes, fmt.Sprintf("the change opens %s to %s", from, to))
	d.check(now == blocked, fmt.Sprintf("%s to %s is closed again", from, to))
	d.out.connection(from, to, "while it lasted", during, "now", now)
	return nil
}
