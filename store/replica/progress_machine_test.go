package replica

import (
	"bytes"
	"fmt"
	"maps"
	"testing"

	"dkv/internal/command"
	"dkv/internal/once"
	"dkv/store/engine"

	sm "github.com/lni/dragonboat/v4/statemachine"
	"pgregory.net/rapid"
)

func TestProgressIsTheMostThatAMembersLastIncarnationTold(t *testing.T) {
	var p progress
	names := map[uint64]string{1: "a", 2: "b", 3: "c"}
	for i, step := range []struct {
		b    command.Batch
		want map[string]uint64
	}{
		{command.Batch{Member: 1, Incarnation: 5, Applied: 0}, map[string]uint64{}},
		{command.Batch{Member: 1, Incarnation: 5, Applied: 10}, map[string]uint64{"a": 10}},
		{command.Batch{Member: 1, Incarnation: 5, Applied: 9}, map[string]uint64{"a": 10}}, // of its other slot
		{command.Batch{Member: 2, Incarnation: 1, Applied: 7}, map[string]uint64{"a": 10, "b": 7}},
		{command.Batch{Member: 1, Incarnation: 4, Applied: 99}, map[string]uint64{"a": 10, "b": 7}}, // late
		{command.Batch{Member: 1, Incarnation: 6, Applied: 0}, map[string]uint64{"b": 7}},
		{command.Batch{Member: 1, Incarnation: 6, Applied: 3}, map[string]uint64{"a": 3, "b": 7}},
		{command.Batch{Member: 9, Incarnation: 1, Applied: 3}, map[string]uint64{"a": 3, "b": 7}}, // no member
	} {
		p.note(&step.b)
		if got := p.byName(names); !maps.Equal(got, step.want) {
			t.Errorf("after batch %d: %v, want %v", i, got, step.want)
		}
	}
}

// TestWhatMembersTellOfTheirProgressLeavesNoTraceInTheState applies batches that
// differ in that alone.
func TestWhatMembersTellOfTheirProgressLeavesNoTraceInTheState(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sim := new(simulated)
		members := []*simMember{sim.start(0), sim.start(0)}
		for n := range rapid.IntRange(1, 20).Draw(t, "batches") {
			b := command.Batch{
				Member:      rapid.Uint64Range(1, 3).Draw(t, "member"),
				Incarnation: rapid.Uint64Range(1, 2).Draw(t, "incarnation"),
				Slot:        rapid.Uint64Range(0, 1).Draw(t, "slot"),
				Seq:         rapid.Uint64Range(1, 5).Draw(t, "seq"),
			}
			op := engine.Op{Kind: engine.Set, Key: fmt.Sprint(n % 5), Value: fmt.Append(nil, n)}
			for _, m := range members {
				b.Applied = rapid.Uint64().Draw(t, "applied")
				entry := command.AppendOp(command.AppendBatchHeader(nil, b, 1), &op, once.ID{})
				m.machine.Update([]sm.Entry{{Index: uint64(n + 1), Cmd: entry}})
			}
		}
		var snapshots [2]bytes.Buffer
		for i, m := range members {
			frozen, err := m.machine.PrepareSnapshot()
			if err == nil {
				err = m.machine.SaveSnapshot(frozen, &snapshots[i], nil, nil)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if one, two := members[0].Checksum(), members[1].Checksum(); one != two {
			t.Errorf("the states differ: %v, %v", one, two)
		}
		if !bytes.Equal(snapshots[0].Bytes(), snapshots[1].Bytes()) {
			t.Error("the snapshots differ")
		}
	})
}
