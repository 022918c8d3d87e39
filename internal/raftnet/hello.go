package raftnet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// A connection begins with a hello of who has dialled, and an answer to it:
//
//	hello   magic (8 bytes), kind (1), group (8), to (string), peer
//	answer  magic (8 bytes), verdict (1), then peer if that is welcome, else why (string)
//	peer    replica (8), directory (8), previous (8), places
//	places  how many (1 byte), and of each: member (string), incarnation (8), address (string)
//	string  length (1 byte), and that many bytes
//
// The first place is that of who says it; the others are where it knows members to be.
// Who has a request may be no member, has the replica 0 then, and need not know the group
// nor whom it reaches: it leaves group and to empty.
// The magic ends with the version of all that follows it. With a Security, the hello and
// the answer are inside TLS.
const magic = "dkvraft3"

// MaxString is how long a name or an address is at most, in bytes.
const MaxString = 255

// What a connection is for.
const (
	forMessages = 'm'
	forSnapshot = 's'
	forRequest  = 'r' // one frame each way, see Ask
)

// What the answer to a hello is.
const (
	welcome = 'w'
	turned  = 't' // away
	removed = 'r' // turned away for ever
)

// Place is where a member is reached.
type Place struct {
	Member string

	// Incarnation is greater each time that the member is started. 0: it has not said
	// so itself.
	Incarnation uint64
	Address     string // host:port
}

// maxPlaces is how many places are told at most.
const maxPlaces = 255

// Peer is what a member tells another of itself.
type Peer struct {
	Replica   uint64 // its number in the group, 0 if it has none yet
	Directory uint64 // the number of its data directory, which no other has
	Previous  uint64 // the incarnation that the directory had before, 0 if none
	Places    []Place
}

// Self is its own place.
func (p *Peer) Self() Place { return p.Places[0] }

// hello is what a member says as it connects to another.
type hello struct {
	kind  byte
	group uint64 // of both
	to    string // the member that it means to reach
	from  Peer
	taken int // of what came behind it, that was handed over or answered
}

var (
	errMalformed = errors.New("malformed")
	errRefused   = errors.New("the snapshot is not wanted any longer")
	errNotLetIn  = errors.New("reached, but not let in")
)

// ErrRemoved is what Members have for a peer that was removed from the group, and what
// they are told when that is said of this member.
var ErrRemoved = errors.New("it was removed from the group")

func (h *hello) append(b []byte) []byte {
	b = append(b, magic...)
	b = append(b, h.kind)
	b = binary.LittleEndian.AppendUint64(b, h.group)
	b = appendString(b, h.to)
	return appendPeer(b, h.from)
}

func readHello(r io.Reader) (h hello, err error) {
	var b [len(magic) + 1 + 8]byte
	if err := readMagic(r, b[:]); err != nil {
		return h, err
	}
	rest := b[len(magic):]
	switch h.kind = rest[0]; h.kind {
	case forMessages, forSnapshot, forRequest:
	default:
		return h, fmt.Errorf("%w: a connection of the kind %q", errMalformed, h.kind)
	}
	h.group = binary.LittleEndian.Uint64(rest[1:])
	if h.to, err = readString(r); err != nil {
		return h, err
	}
	h.from, err = readPeer(r)
	return h, err
}

func appendPeer(b []byte, p Peer) []byte {
	b = binary.LittleEndian.AppendUint64(b, p.Replica)
	b = binary.LittleEndian.AppendUint64(b, p.Directory)
	b = binary.LittleEndian.AppendUint64(b, p.Previous)
	return appendPlaces(b, p.Places)
}

func readPeer(r io.Reader) (p Peer, err error) {
	var b [24]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return p, err
	}
	p.Replica = binary.LittleEndian.Uint64(b[:])
	p.Directory = binary.LittleEndian.Uint64(b[8:])
	p.Previous = binary.LittleEndian.Uint64(b[16:])
	p.Places, err = readPlaces(r)
	return p, err
}

func appendPlaces(b []byte, places []Place) []byte {
	places = places[:min(len(places), maxPlaces)]
	b = append(b, byte(len(places)))
	for _, p := range places {
		b = appendString(b, p.Member)
		b = binary.LittleEndian.AppendUint64(b, p.Incarnation)
		b = appendString(b, p.Address)
	}
	return b
}

// readPlaces reads one place or more.
func readPlaces(r io.Reader) (places []Place, err error) {
	var b [8]byte
	if _, err := io.ReadFull(r, b[:1]); err != nil {
		return nil, err
	}
	if b[0] == 0 {
		return nil, fmt.Errorf("%w: it does not say who it is", errMalformed)
	}
	for range b[0] {
		var p Place
		if p.Member, err = readString(r); err != nil {
			return nil, err
		}
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return nil, err
		}
		p.Incarnation = binary.LittleEndian.Uint64(b[:])
		if p.Address, err = readString(r); err != nil {
			return nil, err
		}
		places = append(places, p)
	}
	return places, nil
}

// readMagic fills b, which begins with the magic, and goes no further if it does not.
func readMagic(r io.Reader, b []byte) error {
	if _, err := io.ReadFull(r, b[:len(magic)]); err != nil {
		return err
	}
	if got := string(b[:len(magic)]); got != magic {
		if got[:len(magic)-1] == magic[:len(magic)-1] {
			return fmt.Errorf("%w: version %q of the protocol, this is %q", errMalformed, got[len(got)-1:], magic[len(magic)-1:])
		}
		return fmt.Errorf("%w: not of dkv", errMalformed)
	}
	_, err := io.ReadFull(r, b[len(magic):])
	return err
}

// appendAnswer appends the answer to a hello: err is why the peer is not welcome, or nil.
func appendAnswer(b []byte, own Peer, err error) []byte {
	b = append(b, magic...)
	if err == nil {
		return appendPeer(append(b, welcome), own)
	}
	verdict := byte(turned)
	if errors.Is(err, ErrRemoved) {
		verdict = removed
	}
	why := err.Error()
	return appendString(append(b, verdict), why[:min(len(why), MaxString)])
}

// readAnswer returns what the answer tells, or why who has said hello is not welcome.
func readAnswer(r io.Reader) (p Peer, err error) {
	var b [len(magic) + 1]byte
	if err := readMagic(r, b[:]); err != nil {
		return p, err
	}
	verdict := b[len(magic)]
	if verdict == welcome {
		return readPeer(r)
	}
	why, err := readString(r)
	switch {
	case err != nil:
		return p, err
	case verdict == turned:
		return p, fmt.Errorf("turned away: %s", why)
	case verdict == removed:
		return p, fmt.Errorf("turned away: %w", ErrRemoved)
	}
	return p, fmt.Errorf("%w: the verdict %q", errMalformed, verdict)
}

// appendString appends a string of up to MaxString bytes.
func appendString(b []byte, s string) []byte {
	return append(append(b, byte(len(s))), s...)
}

func readString(r io.Reader) (string, error) {
	var b [1 + MaxString]byte
	if _, err := io.ReadFull(r, b[:1]); err != nil {
		return "", err
	}
	s := b[1:][:b[0]]
	_, err := io.ReadFull(r, s)
	return string(s), err
}
