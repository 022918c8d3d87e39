package enginetest

import (
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestNaiveEngineConforms(t *testing.T) { Run(t, Naive) }
