package main

import (
	"regexp"
	"strings"
	"testing"
)

func TestTotalIsExactThoughTheServerIsRestarted(t *testing.T) {
	var out strings.Builder
	err := run(&out, 3, 300)
	t.Logf("\n%s", out.String())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`^serving at tcp://127\.0\.0\.1:\d+$`,
		`^closed and opened again after \d+ visits$`,
		`^900 visits after `,
	} {
		if !regexp.MustCompile(`(?m)` + want).MatchString(out.String()) {
			t.Errorf("no line matches %q", want)
		}
	}
}
