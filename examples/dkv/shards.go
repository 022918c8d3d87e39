package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// shard is one store that a server has, and the number that clients know it by.
type shard struct {
	number uint64
	kind   shardKind
}

// shardKind says where a shard's data is. Any shard has keys and locks; one that is
// called lockmgr(...) is meant for locks.
type shardKind string

const (
	lstore        shardKind = "lstore" // in the memory of one server
	dstore        shardKind = "dstore" // replicated, or durable if there is one server
	lockmgrLstore shardKind = "lockmgr(lstore)"
	lockmgrDstore shardKind = "lockmgr(dstore)"
)

var shardKinds = []shardKind{lstore, dstore, lockmgrLstore, lockmgrDstore}

// local tells whether the shard's data is in memory alone.
func (k shardKind) local() bool { return k == lstore || k == lockmgrLstore }

func (s shard) String() string { return fmt.Sprintf("%d=%s", s.number, s.kind) }

// parseShards reads a list as "100=lstore,200=dstore,300=lockmgr(dstore)"; a colon
// serves as well as the equals sign.
func parseShards(list string) ([]shard, error) {
	var shards []shard
	for item := range strings.SplitSeq(list, ",") {
		item = strings.TrimSpace(item)
		at := strings.IndexAny(item, "=:")
		if at < 0 {
			return nil, fmt.Errorf("%q is not number=kind", item)
		}
		number, err := strconv.ParseUint(strings.TrimSpace(item[:at]), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%q: the number of a shard is from 0 to 2^64-1", item)
		}
		kind := shardKind(strings.TrimSpace(item[at+1:]))
		if !slices.Contains(shardKinds, kind) {
			return nil, fmt.Errorf("%q: the kind of a shard is one of %s", item, joinKinds())
		}
		if slices.ContainsFunc(shards, func(s shard) bool { return s.number == number }) {
			return nil, fmt.Errorf("%q: there is a shard %d already", item, number)
		}
		shards = append(shards, shard{number, kind})
	}
	return shards, nil
}

func joinKinds() string {
	names := make([]string, len(shardKinds))
	for i, k := range shardKinds {
		names[i] = string(k)
	}
	return strings.Join(names, ", ")
}
