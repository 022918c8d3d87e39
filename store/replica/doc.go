// Package replica is a store that is durable, and replicated if it has peers: a
// Raft group of Dragonboat whose state machine is an engine, Maple unless another
// is asked for, run inside the program that embeds it. It leaves to the engine what
// an operation means, to Dragonboat how members agree on a log, and to package dkv
// how it is presented.
//
// # One write
//
//  1. [Store.Set] and its like check their arguments (internal/ops) and hand an
//     operation to the batcher. It waits there, bounded; if the queue is full, it
//     waits to get in. While the disk is nearly full, it is turned away, unless it
//     frees room.
//  2. One of the batcher's two slots takes all that waits as its next batch and
//     encodes it as one log entry (internal/command), under an identity that is
//     never used twice: member, incarnation, slot, sequence number. The other
//     slot's turn comes if that takes long. With a batch goes which earlier ones
//     were given up, and which operations of those for which others still wait;
//     they have no effect once this one has. So does how far this member has
//     applied the log, for Info of the others.
//  3. host.propose gives the entry to Dragonboat, which sends it to the others
//     (internal/raftnet) while it syncs it to its own disk (package raftlog), and
//     commits it when a majority has done so. If the attempt fails or is not
//     heard of, the same entry is proposed again, until its outcome is known or
//     nobody waits for it any longer.
//  4. machine.Update decodes the entry on every member. The sessions, which are
//     part of the state, recognize a batch that was applied before and answer
//     it with its first results; so do the clients with an operation that has an
//     ID; otherwise the engine applies each operation, or internal/lockqueue if
//     it is about a lock. A transaction is one operation. What the batch tells of
//     its member's progress is noted beside the state, of which it is no part.
//  5. On the member that proposed it, the batcher gives each caller its result.
//     A caller whose context ended before that has returned: with
//     store.ErrUnavailable if the operation was in no attempt that may succeed,
//     else with store.ErrUnknown.
//
// # One read
//
//  1. [Store.Get] and its like join the round of reads that waits for the next
//     barrier.
//  2. One of a few workers takes the round and asks Dragonboat for a read index:
//     the leader makes sure that it still leads, and this member waits until it
//     has applied all that was committed when the leader was asked. If that fails
//     it is tried again.
//  3. The reads of the round look into the engine, each on its own goroutine,
//     beside the writes that are being applied. A scan opens a view, between two
//     log entries, and goes through that.
//
// # One stale read
//
//  1. [Store.GetStale] looks whether this member is current: whether a barrier
//     has been through since Open. A member that starts again is not. It applies
//     its log anew, does not know how much of it is committed, and so cannot tell
//     when it has come to where it was; the stale read then joins a round, as in
//     One read, and the first round that is through makes the member current
//     until Close.
//  2. It looks into the engine that holds the state at this moment, and copies
//     the value. A snapshot that is recovered replaces the engine as a whole.
//
// It never goes back. While the member runs, since each entry is applied before
// the next and a snapshot that Dragonboat recovers is of a later index than what
// was applied. Over a restart, since only what is committed is ever applied, here
// or anywhere, and a barrier waits for all that was committed before it.
//
// # One watch
//
//  1. The engine tells machine.changed of each change, on every member, in the
//     order of the revisions. The feed (internal/feed) puts it at the end of its
//     history and gives it to those who watch its key.
//  2. Store.Watch waits for a barrier, unless it is from a revision that this
//     member knows, and registers with the feed. So a watch from now on sees
//     nothing that was acknowledged before, wherever, and all that is later.
//  3. The loop over the events takes what the feed has for it, on its own
//     goroutine; one that is slow reads on in the history. A snapshot that is
//     recovered leaves a gap in that, and watches who are before it end with
//     store.ErrCompacted.
//
// # One backup, and a beginning with it
//
//  1. [Store.Backup] waits for a barrier and opens a view, as in One read. What the
//     view saves goes into a stream of internal/backup.
//  2. A member whose directory is new verifies the backup that Options.Restore names,
//     copies it there, and only then gives the directory its identity, with the
//     backup's checksum, which is part of the group's ID, too. The copy is the state
//     before the first log entry, but for the revision, which is so far behind that
//     none is given again that was given since the backup: each Open loads it and
//     Dragonboat applies the log to it.
//  3. As soon as an entry has been applied, a snapshot is made that keeps none in the
//     log. From then on Dragonboat recovers that, or a later one, and the copy goes.
//     A member that begins without the log gets the state from a snapshot.
//
// # One recovery
//
//  1. [Recover] takes a directory that no store has open, and reads its log (package
//     raftlog) and the file of its last snapshot (snapfile.go) without Dragonboat, which
//     would go on with the log.
//  2. A state machine begins with the snapshot, or with the copy of a backup, and is
//     given all entries behind it, be they known to be committed or not.
//  3. What it has come to is written as in One backup.
//
// # Members
//
// A group begins with the members that Options.Members names, which number themselves by
// the order of their names. Who joins later gets a number that nobody ever had, through
// the log (join.go says in which steps), and is called by its name, the number of its
// directory and its address. So a directory is one member for ever, and another under
// the same name is another member. What Open does:
//
//	Directory                 Options                What happens
//	new                       Members                it is a founding member; if one that is reached says
//	                                                 that it was that before, Open is refused
//	new                       Join                   it asks those to be taken in
//	new                       Address alone          it waits until AddMember has it do so
//	new                       either, and Witness    the same, as a witness; with Members it is refused
//	of a founding member      Members, or Join       it goes on; the names must be the founding ones, the
//	                                                 addresses may be others
//	of one that joins         Join, Members or none  it goes on, from whatever step it was at
//	of a witness              those, and Witness     it goes on; without Witness Open is refused
//	of any other              Witness                Open is refused
//	of one that was removed   any                    Open is refused with store.ErrRemoved
//	removed, and not told     any                    it is told, and ends with store.ErrRemoved
//	lost, and new again       Members                refused, as above; who has met the member turns it away
//	lost, and new again       Join                   refused while the old one is a member; then it joins
//	any                       another Node           Open is refused
//
// Each member remembers the number of each other's directory from when they first met,
// which all do soon after they start, before it looks at any message. So one that has
// lost its directory, and with it what it has voted for, is no part of a quorum again.
// What remains: a founding member that has lost its directory, while none of those that
// it has been in a quorum with is reached, begins anew, with others that are new as well.
// They become a group of their own kind only if they are a majority; those that have met
// it before do not listen to it.
//
// A change of the members is proposed with the number of the change that it follows,
// and has no effect if another came first. One that has had no answer is looked for in the
// membership, and proposed again if it is not there.
//
// # A witness
//
// A witness (witness.go) is Dragonboat's: it votes, it counts for a majority, and of each
// entry it has the index and the term alone. So it cannot lead, and nobody has it do so; it
// has no state, proposes nothing and has no read barrier. What differs from what Dragonboat
// does:
//
//  1. The leader sends it an entry once that is on the leader's own disk and on that of the
//     other member with data, unless that one is away (savedfirst.go). Otherwise what the
//     leader acknowledges with the witness would be lost with the leader, and the witness
//     would know of entries that nobody else has, and vote for nobody.
//  2. Dragonboat has it keep its log for ever, unless a leader sends it a snapshot, which is
//     one without a state. So it asks another member now and then who the members are, and
//     after which entry; when the log is long enough, it writes down that it has such a
//     snapshot of that entry, and lets go what is before (package raftlog).
//  3. It learns by the same question who the members are, which Dragonboat does not tell it,
//     and answers Members and Ready.
//  4. A member with data is removed while another one leads: that one has all that was
//     acknowledged, and the removal. With the witness alone, the one that goes could carry
//     it out, and the witness would vote for nobody who is left: so it is not told of it
//     before another has it, be that one away.
//  5. The file that Dragonboat makes for each snapshot to a witness is in memory, and gone
//     once it has been read (scratch.go).
//  6. A member that was away is not Ready when it has passed a read barrier: meanwhile the
//     leader and the witness have gone on without it, and if that leader is lost, the witness
//     knows of more than it has. It asks the leader whether that waits for it again.
//
// A group takes a witness in when it has two members with data: beside one, it would be one
// more that must not fail. It takes in one: with two, a write could be acknowledged that is
// on one disk alone, of three or more. It always has a member with data.
//
// So a write that finds the other member gone takes a second, and those after it do not wait
// for that any more. What is acknowledged while it is away is on one disk. That one has to be
// there when the other comes back: until that has caught up, the witness votes for no other.
//
// # One lock
//
//  1. package lock has [Store.JoinLock] propose an operation, as in One write. On
//     every member, lockqueue finds the lock free and gives it to the owner, with
//     the revision of that change as the token; or puts the owner into the queue.
//     The queue is in the engine's state, and what lockqueue keeps besides can be
//     found there again.
//  2. Who waits has a watch on its own place in the queue, [Store.AwaitLock].
//     Meanwhile it renews it, and so does a holder its lock.
//  3. Whoever gives the lock up, or a deadline that ends it (machine.reap), has it
//     granted to the next in the same log entry. That one's place goes from the
//     queue, its watch wakes it, and it finds itself the holder in the state.
//
// # Time
//
// The state has a clock that only log entries move, called ticks. The leader
// proposes them, and only while something has a deadline: at once when new
// deadlines have been written, else when the next one comes.
//
// A tick names the tick before it. It counts only if that is still the last one
// that counted, so the intervals that are measured never overlap. It carries
// two durations by its proposer's monotonic clock. Let b be the instant at which
// the proposer stamped the tick before, if it was the one who did, or else the
// instant at which it applied it; let a be the instant at which it applied it, so
// b <= a; and let now be the instant of the stamp. Then
//
//	Elapsed = now - b, by which the replicated clock moves
//	Lag     = a - b, so that the replicated clock read its last reading + Lag at a
//
// A key that stands in the log between tick k and tick k+1 has its deadline its
// duration after instant a of tick k+1, as tick k+2 tells it.
//
// No deadline comes early. The key precedes tick k+1 in the log, so whoever
// applies that tick at a has applied the key before: a is later than the key's
// call. From a on the replicated clock never runs ahead of real time: tick k+2
// moves it from its reading at a by now - a; each later tick moves it by the
// time between its own stamp and b, and b is no earlier than the stamp of the
// tick before. So when a tick moves it past the deadline, at least the duration
// lies between a and that tick's stamp, whoever proposed the ticks between, and
// however long they were on their way. A proposer that was paused or deposed can
// lose time, never gain it. Neither can one that restarts: it does not remember
// its stamps, and applies the ticks anew, later.
//
// Deadlines are late by the time until tick k+1 is applied (25 ms at most for
// the spacing of ticks, and a commit), by the commit of the tick that passes
// them, and by an election if there is one. What has passed since the last tick,
// 10 s at most, is known only to those who have applied it when it came; a member
// that has restarted has not, so the first thing it does is to put an empty batch
// into the log, which has the leader propose a tick. Time is lost only if such a
// member comes to lead before that, or if all have restarted.
package replica
