package main

import (
	"regexp"
	"strings"
	"testing"
)

func TestTotalIsExactThoughTheLeaderIsClosed(t *testing.T) {
	var out strings.Builder
	err := run(&out, 6, 40)
	t.Logf("\n%s", out.String())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`^three members, 6 workers, 40 counts each$`,
		`^closed [abc], the leader, after \d+ counts$`,
		`^opened [abc] again after \d+ counts$`,
		`^total 240 after `,
	} {
		if !regexp.MustCompile(`(?m)` + want).MatchString(out.String()) {
			t.Errorf("no line matches %q", want)
		}
	}
}
