package raftnet

import (
	"net"
	"slices"
	"sync"
)

const (
	// maxStrangers have connected and have not shown yet who they are. When more come,
	// the one that has taken longest goes: a member takes but a moment.
	maxStrangers = 64

	// maxPerMember is how many connections of a kind a member has. When more come, the
	// oldest goes, which may be one whose end has not been noticed.
	maxPerMember = 4

	// maxRequests are under way at a time, whoever has them: they may come from those
	// that are no members, and under any name that they have a certificate for.
	maxRequests = 32
)

// admission has the connections that came in, of which there are only so many.
type admission struct {
	mu     sync.Mutex
	rooms  map[room][]net.Conn // the oldest first
	closed bool
}

// room is where the connections of a kind are that a member has, or of strangers.
type room struct {
	member string
	kind   byte
}

var (
	strangers = room{}
	requests  = room{kind: forRequest}
)

// enter takes a connection into a room, and the oldest out that there is no room for. It
// is false if it is too late.
func (a *admission) enter(c net.Conn, in room) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.enterLocked(c, in)
}

func (a *admission) enterLocked(c net.Conn, in room) bool {
	if a.closed {
		return false
	}
	if a.rooms == nil {
		a.rooms = make(map[room][]net.Conn)
	}
	most := maxPerMember
	switch in {
	case strangers:
		most = maxStrangers
	case requests:
		most = maxRequests
	}
	all := append(a.rooms[in], c)
	for ; len(all) > most; all = slices.Delete(all, 0, 1) {
		all[0].Close()
	}
	a.rooms[in] = all
	return true
}

// move takes a stranger's connection into a member's room. It is false if it has been
// closed.
func (a *admission) move(c net.Conn, to room) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.leaveLocked(c, strangers) && a.enterLocked(c, to)
}

// leave takes a connection that has ended out of a room.
func (a *admission) leave(c net.Conn, of room) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.leaveLocked(c, of)
}

func (a *admission) leaveLocked(c net.Conn, of room) bool {
	all := a.rooms[of]
	i := slices.Index(all, c)
	if i < 0 {
		return false
	}
	if all = slices.Delete(all, i, i+1); len(all) == 0 {
		delete(a.rooms, of)
	} else {
		a.rooms[of] = all
	}
	return true
}

// shed ends the connections of strangers.
func (a *admission) shed() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range a.rooms[strangers] {
		c.Close() // which has its goroutine leave
	}
}

// empty ends the connections of a member.
func (a *admission) empty(member string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for in, all := range a.rooms {
		if in.member == member && in.member != "" {
			for _, c := range all {
				c.Close() // which has its goroutine leave
			}
		}
	}
}

// close ends all connections, and lets no more in.
func (a *admission) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = true
	for _, all := range a.rooms {
		for _, c := range all {
			c.Close()
		}
	}
}
