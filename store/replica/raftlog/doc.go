// Package raftlog is the log of one Raft replica on disk: the entries since the
// last snapshot, the replica's term and vote, and which snapshot there is. It is a
// raftio.ILogDB for a NodeHost that runs one replica, and leaves the snapshots
// themselves to Dragonboat.
//
// # Files
//
// The log is a row of files, segments, to the last of which records are appended.
// An entry is written once, in the record of the batch that it was saved with. A
// segment begins with all that is not an entry, so an older one is of no use but
// for its entries, and removed when a snapshot has the last of them. In memory
// there is an index with 24 bytes per record; entries are read from the files, by
// followers that lag behind and after a restart.
//
// A record's checksum tells it from what a crash leaves of one. Where the valid
// records of the last segment end, the log ends: what is behind is wiped when the log
// is opened, before a record is written over it. It was never acknowledged, unless it is the very
// last record and was damaged later, which looks the same. Damage elsewhere is told
// from that by what each record says of the ones before it: that they were on the
// disk, up to some offset, when it was written. So a record behind an invalid one
// means damage if it knows that the invalid one was there; and each segment's head
// says where the segment before it ended. A damaged log is refused, because a
// replica that has lost what it has acknowledged can make the others lose it too.
//
// # What is synced when
//
// Terms, votes, entries and snapshots are on the disk when the call that saves
// them returns, with one fdatasync for all that one call brings. The index up to
// which the log is committed is written along with what comes next: a replica
// that starts with too low an index learns the right one from the others.
//
// A record that is written over something changes nothing but data, which takes a
// disk half the time of a write that has the file grow, or that fills in a block
// that was only set aside. So a segment grows by zeros, in steps: by 128 KiB for a
// small record, which waits for them, and by 1 MiB for a large one. Better still
// is a file that was a segment before. Up to four of those are kept as spares, if
// the disk has 512 MiB left: a log that has been through a snapshot or two grows no
// more. What such a file holds behind the records is no record of this segment, as
// the checksums tell.
//
// Records are written in whole pages, small ones past the operating system's page
// cache. With three members on one disk of a virtual machine a lone write took 0.53
// ms that way, 0.73 ms otherwise (medians of five runs), and 1,024 writers at a time
// got 167,000 writes per second done in 12 s with spares, 145,000 without.
//
// When a file cannot grow because the disk is full, the spares are given back, and
// then the call waits for room. The replica stands still meanwhile, as if it had failed, and goes on where it was. It
// cannot make that room itself: cutting the log short waits behind the write.
// Any other failure of a write or sync is final: the operating system may have
// dropped what it could not write, and say nothing the next time.
//
// # Why not one of Dragonboat's
//
// Dragonboat comes with a log on Pebble and one named Tan. Pebble writes each entry
// at least twice, syncs twice for a lone write and stalls writers while it
// compacts. Tan closes a full file without syncing it, syncs for each move of the
// commit index, takes a torn record at the end of its log for damage and does not
// start then, and sets 2 GiB aside unless told otherwise. BENCHMARKS.md has what
// this one gains. What it does not do is hold the logs of many replicas, for which
// theirs are made: a dkv member is one replica.
package raftlog
