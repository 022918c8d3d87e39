package store

// Member is one of the members of a replicated store's group.
type Member struct {
	Name    string
	Address string // of its Raft port, as host:port; "" if it has none

	// Learner is set for a member that gets all that is written, and is read from, but
	// does not vote: no write waits for it, and it cannot lead.
	Learner bool

	// Witness is set for a member that votes and keeps only the numbers of the log's
	// entries: nothing is read or written there, and it cannot lead.
	Witness bool

	Leads   bool   // as far as the member that was asked knows
	Applied uint64 // index of the last log entry that it has said to have applied, 0 if none
}
