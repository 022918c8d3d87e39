package store

// Watch says which changes are watched. The zero value is those of all keys, from
// now on.
type Watch struct {
	Key    string // that key; "" for all keys that begin with Prefix
	Prefix string // if Key is not set

	// From is the revision of the first change that is of interest: to go on
	// after a scan, the one behind that of the state that the scan has shown
	// (Range.At); to go on where a watch was left off, the one behind that of
	// its last event. 0 is for what changes after the call.
	From Revision
}

// Check returns the error that every watch of such a kind returns.
func (w Watch) Check() error {
	switch {
	case w.Key != "" && w.Prefix != "":
		return ErrBadRange
	case len(w.Key) > MaxKeySize || len(w.Prefix) > MaxKeySize:
		return ErrKeyTooLarge
	}
	return nil
}

// Event is a change of one key.
type Event struct {
	Type     EventType
	Key      string
	Value    []byte // what the key was set to; nil for other types
	Revision Revision

	// ByDeadline tells that a deadline made the change, not a call.
	ByDeadline bool
}

// EventType is what happened to a key.
type EventType uint8

const (
	EventSet     EventType = 1 + iota // it was given a value
	EventExpired                      // its value went, the key is still there
	EventDeleted                      // it went
)

func (t EventType) String() string {
	switch t {
	case EventSet:
		return "set"
	case EventExpired:
		return "expired"
	case EventDeleted:
		return "deleted"
	}
	return "none"
}
