package rest

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"dkv/store"
)

// params are the parameters of a query. The first that is wrong sets err.
type params struct {
	values url.Values
	err    error
}

// parseParams refuses parameters that are not known, as a limit or deadline that is
// misspelled would be none, and those that are there twice.
func parseParams(query string, known []string) (params, error) {
	values, err := url.ParseQuery(query)
	if err != nil {
		return params{}, badRequest("bad query: %v", err)
	}
	for name, all := range values {
		if name != "timeout" && !slices.Contains(known, name) {
			return params{}, badRequest("unknown parameter %.30q", name)
		}
		if len(all) > 1 {
			return params{}, badRequest("parameter %s is there %d times", name, len(all))
		}
	}
	return params{values: values}, nil
}

func (p *params) has(name string) bool { return p.values.Has(name) }

func (p *params) text(name string) string { return p.values.Get(name) }

func (p *params) fail(err error) {
	if p.err == nil {
		p.err = err
	}
}

func (p *params) bad(name string) {
	p.fail(badRequest("bad parameter %s=%.60q", name, p.text(name)))
}

// flag is true also for a parameter that is there without a value.
func (p *params) flag(name string) bool {
	if !p.has(name) {
		return false
	}
	if p.text(name) == "" {
		return true
	}
	set, err := strconv.ParseBool(p.text(name))
	if err != nil {
		p.bad(name)
	}
	return set
}

// number is 0 if the parameter is not there.
func (p *params) number(name string) uint64 {
	if !p.has(name) {
		return 0
	}
	n, err := strconv.ParseUint(p.text(name), 10, 64)
	if err != nil {
		p.bad(name)
	}
	return n
}

// integer is that of a parameter that has to be there.
func (p *params) integer(name string) int64 {
	n, err := strconv.ParseInt(p.text(name), 10, 64)
	if err != nil {
		p.bad(name)
	}
	return n
}

// duration is 0 if the parameter is not there.
func (p *params) duration(name string) time.Duration {
	if !p.has(name) {
		return 0
	}
	d, err := parseDuration(p.text(name))
	if err != nil {
		p.fail(fmt.Errorf("%w (parameter %s)", err, name))
	}
	return d
}

// timeout is how long the operation may take, as the query or else a header says.
func (p *params) timeout(r *http.Request) time.Duration {
	text := r.Header.Get("Dkv-Timeout")
	if p.has("timeout") {
		text = p.text("timeout")
	}
	if text == "" {
		return defaultTimeout
	}
	d, err := parseDuration(text)
	if err == nil && d == 0 {
		err = fmt.Errorf("%w: no time at all", store.ErrBadDuration)
	}
	if err != nil {
		p.fail(fmt.Errorf("%w (timeout)", err))
	}
	return min(d, maxTimeout)
}

// parseDuration returns store.ErrBadDuration for what is not the text of a duration,
// or of a negative one.
func parseDuration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%w: %.60q", store.ErrBadDuration, s)
	}
	return d, nil
}

// durationText is a duration as parseDuration reads it, and "" for 0, which is never.
func durationText(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return d.String()
}

// parseShard reads a shard's number as it is printed.
func parseShard(s string) (uint64, bool) {
	n, err := strconv.ParseUint(s, 10, 64)
	return n, err == nil && strconv.FormatUint(n, 10) == s
}

// etag is the entity tag of a revision.
func etag(rev store.Revision) string { return `"` + strconv.FormatUint(uint64(rev), 10) + `"` }

// parseETag reads what etag wrote.
func parseETag(s string) (store.Revision, bool) {
	if len(s) < 2 || s[0] != '"' || s[len(s)-1] != '"' {
		return 0, false
	}
	n, ok := parseShard(s[1 : len(s)-1])
	return store.Revision(n), ok && n > 0
}

// condition is the one under which a write is made: that the key has a revision, or,
// for 0, that it is not there.
func (c *call) condition() (rev store.Revision, set bool, err error) {
	match, noneMatch := c.r.Header.Values("If-Match"), c.r.Header.Values("If-None-Match")
	switch {
	case len(match)+len(noneMatch) == 0:
		return 0, false, nil
	case len(match) == 1 && len(noneMatch) == 0:
		if rev, ok := parseETag(strings.TrimSpace(match[0])); ok {
			return rev, true, nil
		}
		return 0, false, badRequest(`If-Match takes one revision in quotes, as in "7", not %.60q`, match[0])
	case len(match) == 0 && len(noneMatch) == 1 && strings.TrimSpace(noneMatch[0]) == "*":
		return 0, true, nil
	}
	return 0, false, badRequest("a write takes either If-Match or If-None-Match: *")
}

// listed tells whether a header that lists entity tags has that of a revision, or *.
// Proxies may have made the tag weak.
func listed(header []string, rev store.Revision) bool {
	for _, line := range header {
		for tag := range strings.SplitSeq(line, ",") {
			if tag = strings.TrimPrefix(strings.TrimSpace(tag), "W/"); tag == "*" || tag == etag(rev) {
				return true
			}
		}
	}
	return false
}
