package storetest

import (
	"testing"

	"go.uber.org/goleak"

	"dkv/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestNaiveStoreConforms(t *testing.T) {
	Run(t, naiveHarness(1))
}

func TestNaiveStoreConformsFromThreeMembers(t *testing.T) {
	if testing.Short() {
		t.Skip("it is the suite that is tested: the long run has it")
	}
	Run(t, naiveHarness(3))
}

func naiveHarness(n int) Harness {
	return Harness{Open: func(t *testing.T) []store.Store {
		var stores []store.Store
		for _, m := range newNaive(n) {
			t.Cleanup(func() { m.Close() })
			stores = append(stores, m)
		}
		return stores
	}}
}
