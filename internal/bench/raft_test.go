package main

import (
	"bytes"
	"context"
	"strings"
	"testing"
)

// TestRaftCommandMeasuresEveryTransport has a short run of it.
func TestRaftCommandMeasuresEveryTransport(t *testing.T) {
	var out, log bytes.Buffer
	if err := runRaft(context.Background(), []string{"-short", "-bars", "-dir", t.TempDir()}, &out, &log); err != nil {
		t.Fatal(err, log.String())
	}
	for _, s := range raftSystems {
		if !strings.Contains(out.String(), s.name) {
			t.Errorf("nothing is told of %v", s)
		}
	}
	lines := 0
	for line := range strings.Lines(out.String()) {
		if strings.HasPrefix(line, "| write/leader/") {
			lines++
			if strings.Contains(line, "–") {
				t.Errorf("not measured: %s", line)
			}
		}
	}
	if lines == 0 {
		t.Errorf("no figures in\n%s", &out)
	}
}

// TestJoinCommandTellsEachBar has a short run of it.
func TestJoinCommandTellsEachBar(t *testing.T) {
	var out, log bytes.Buffer
	if err := runJoin(context.Background(), []string{"-short", "-dir", t.TempDir()}, &out, &log); err != nil {
		t.Fatal(err, log.String())
	}
	if got := strings.Count(out.String(), "| "); !strings.Contains(out.String(), "joi") || got < 4 {
		t.Errorf("told is\n%s", &out)
	}
}
