package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"dkv"
)

// The exit codes. lock run has those of its command besides, and those below 128 that
// a shell has for a command that could not be run.
const (
	exitOK          = 0
	exitNo          = 1 // not found, not set, not acquired, not released
	exitUsage       = 2 // flags, arguments, or a key, value, shard or token that is refused
	exitUnavailable = 3 // nothing was changed, it is safe to try again
	exitUnknown     = 4 // it may have been done, or may be yet
	exitFailed      = 5 // anything else
	exitLockLost    = 124
	exitCannotRun   = 126
	exitNoCommand   = 127
	exitSignal      = 128 // and the signal's number
)

// errNo is the error of a command whose answer is no, which it has printed.
var errNo = errors.New("no")

// exitError is an error with an exit code of its own. Its err may be nil.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

func usage(err error) error { return &exitError{exitUsage, err} }

// refused are the errors of what was asked for, not of the asking.
var refused = []error{
	dkv.ErrEmptyKey, dkv.ErrKeyTooLarge, dkv.ErrValueTooLarge, dkv.ErrBadDuration,
	dkv.ErrBadOwner, dkv.ErrBadOptions, dkv.ErrBadRange, dkv.ErrBadTxn,
	dkv.ErrNotNumber, dkv.ErrOutOfRange, dkv.ErrFutureRevision, dkv.ErrNoShard,
	dkv.ErrUnauthenticated, dkv.ErrForbidden,
}

func exitCode(err error) int {
	if err == nil {
		return exitOK
	}
	if err == errNo {
		return exitNo
	}
	if e := (*exitError)(nil); errors.As(err, &e) {
		return e.code
	}
	for _, r := range refused {
		if errors.Is(err, r) {
			return exitUsage
		}
	}
	switch dkv.KindOf(err) {
	case dkv.KindNotApplied, dkv.KindClosed:
		return exitUnavailable
	case dkv.KindUnknown:
		return exitUnknown
	}
	return exitFailed
}

// message is the line that tells of an error, "" if there is nothing to tell.
func message(err error) string {
	if e := (*exitError)(nil); err == nil || err == errNo || errors.As(err, &e) && e.err == nil {
		return ""
	}
	text := strings.ReplaceAll(strings.TrimSpace(err.Error()), "\n", "; ")
	if !strings.HasPrefix(text, "dkv: ") {
		text = "dkv: " + text
	}
	return text
}

// explain adds to the error of an operation what the user can do about it.
func explain(err error, c *clientFlags) error {
	where := strings.Join(c.endpoints, ",")
	var hint string
	switch {
	case err == nil:
		return nil
	case errors.Is(err, dkv.ErrNoShard):
		hint = "choose one with --shard"
	case errors.Is(err, dkv.ErrUnauthenticated) || errors.Is(err, dkv.ErrForbidden):
		hint = "show another token with DKV_TOKEN or --token"
	case dkv.KindOf(err) == dkv.KindUnknown:
		hint = "it may have been done, or may be yet: look before it is done again"
	case errors.Is(err, dkv.ErrUnavailable) && errors.Is(err, context.Canceled):
		hint = "interrupted"
	case errors.Is(err, dkv.ErrUnavailable):
		hint = fmt.Sprintf("waited for --timeout=%v; is a server running at --transport-endpoints=%s, and a majority of its cluster?", c.timeout, where)
	default:
		return err
	}
	return fmt.Errorf("%w; %s", err, hint)
}
