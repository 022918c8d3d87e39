package replica

import (
	"sync"

	"dkv/internal/command"
)

// progress is what members have told in their batches of how far they are. It is
// for Info, and for Recover.
type progress struct {
	mu struct {
		sync.Mutex
		by map[uint64]report // by member
	}
}

// report is what one member has told last. The batches of its slots may come in
// another order than they were made in, and a batch may come again: within one
// incarnation what counts is the greatest index. A later incarnation begins anew,
// as its member does.
type report struct {
	incarnation, applied uint64
}

// note is called by the state machine for each batch in the log.
func (p *progress) note(b *command.Batch) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := report{b.Incarnation, b.Applied}
	switch last := p.mu.by[b.Member]; {
	case r.incarnation < last.incarnation:
		return
	case r.incarnation == last.incarnation:
		r.applied = max(r.applied, last.applied)
	}
	if p.mu.by == nil {
		p.mu.by = make(map[uint64]report)
	}
	p.mu.by[b.Member] = r
}

// byName is a new map of what members have told.
func (p *progress) byName(names map[uint64]string) map[string]uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	by := make(map[string]uint64)
	for id, name := range names {
		// The first batch of a member whose state is still empty tells nothing.
		if r := p.mu.by[id]; r.applied > 0 {
			by[name] = r.applied
		}
	}
	return by
}

// greatest is the index of the last entry that any member has told to have applied, of
// what it has told last.
func (p *progress) greatest() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	var index uint64
	for _, r := range p.mu.by {
		index = max(index, r.applied)
	}
	return index
}
