package ops

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"dkv/store"
)

func TestEndedMatchesTheContextsErrorAndTellsItsCause(t *testing.T) {
	ctx, cancel := context.WithTimeoutCause(context.Background(), time.Nanosecond, store.ErrClosed)
	defer cancel()
	<-ctx.Done()
	err := Ended(store.ErrUnknown, ctx)
	if !errors.Is(err, store.ErrUnknown) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v matches neither or one of the two", err)
	}
	if errors.Is(err, store.ErrClosed) || !strings.Contains(err.Error(), store.ErrClosed.Error()) {
		t.Errorf("%v: the cause is text, and nothing to match", err)
	}
}
