package main

import (
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestQuickstartShowsEveryStep(t *testing.T) {
	start := time.Now()
	var out strings.Builder
	err := run(&out)
	t.Logf("\n%s", out.String())
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("took %v, want less than 20 s", took)
	}
	for _, want := range []string{
		`open     three replicas`,
		`ready    .* leader: [abc]`,
		`write    greeting = hello, through a`,
		`read     greeting = hello, through b`,
		`read     greeting = hello, through c`,
		`write    session = alice, expires in 300ms, is deleted in 900ms`,
		`expire   session`,
		`delete   session`,
		`lock     nightly-report acquired through a, token \d+`,
		`lock     refused through b`,
		`unlock   released through a`,
		`lock     acquired through b, token \d+`,
		`close    [abc], the leader`,
		`write    greeting = still here, through [abc]`,
		`read     greeting = still here, through [abc]`,
		`lock     refused through [abc]`,
		`unlock   released through [abc]`,
		`open     [abc] again`,
		`read     greeting = still here, through [abc], which had missed it`,
		`compare  a, b and c have the same checksum: [0-9a-f]{16}`,
	} {
		if !regexp.MustCompile(`(?m)^` + want + `.*\d(µs|ms|s)$`).MatchString(out.String()) {
			t.Errorf("no line matches %q", want)
		}
	}
	if !regexp.MustCompile(`(?m)^20 steps in .*: 1 key, 0 locks, revision \d+, leader [abc]\.$`).MatchString(out.String()) {
		t.Error("no summary")
	}
}
