package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"time"

	"dkv/internal/raftnet"

	"github.com/lni/dragonboat/v4/raftio"
	pb "github.com/lni/dragonboat/v4/raftpb"
)

// stranger is a row: what strangers do to the leader of a group.
type stranger struct {
	name   string
	attack attack

	files   int  // the leader may open so many files more meanwhile; 0: as many as it may
	proof   bool // it is let in: that shows that it would be seen
	deposes bool // the same of a change of the term; it is the last
	flood   bool // it takes as much of the machine as it can get
	control bool // it is the flood before it, to somebody else: the machine's part
}

// The ways in which members make sure of each other.
const (
	inTheClear = "clear"
	bySecret   = "secret"
	byTLS      = "TLS"
)

var guards = []string{inTheClear, bySecret, byTLS}

const (
	goodSecret = "of members that strangers come to"
	badSecret  = "of members that strangers come tO"
)

// intelligence is what strangers know of a group: all but how members show who they are.
type intelligence struct {
	group    uint64
	leader   string
	replica  uint64       // of the leader
	peer     raftnet.Peer // what a follower says of itself
	third    string       // the other follower
	replayed [][]byte     // what members have said to the leader
	sizes    strangerSizes

	good, other *authority // that of the members, and one that is not
}

// strangerSizes are how many strangers there are.
type strangerSizes struct {
	rate    int // connections per second
	hold    int // at once
	crowd   int // of those that are thousands
	workers int // that do nothing but dial
}

var (
	strangerSizesOfRun   = strangerSizes{rate: 300, hold: 200, crowd: 5000, workers: 32}
	strangerSizesOfShort = strangerSizes{rate: 200, hold: 80, crowd: 150, workers: 4}
)

// groupNumber is that of a group with founding members, see package replica.
func groupNumber(members map[string]string) uint64 {
	h := fnv.New64a()
	for _, name := range sortedNames(members) {
		fmt.Fprintf(h, "%q=%q\n", name, members[name])
	}
	return h.Sum64()
}

// rows are what strangers do to a group whose members make sure of each other in some way.
func (i *intelligence) rows(guard string) ([]stranger, error) {
	if guard == inTheClear {
		return i.clearRows(), nil
	}
	return i.secureRows(guard)
}

// hello is what a follower would say, but for some change.
func (i *intelligence) hello(kind byte, change func(*greeting)) []byte {
	g := greeting{kind: kind, group: i.group, to: i.leader, from: i.peer}
	g.from.Places = slices.Clone(g.from.Places[:1])
	if change != nil {
		change(&g)
	}
	return g.bytes()
}

// poison is messages that would depose the leader if they were taken, and harmless is one
// that would not.
func (i *intelligence) poison() []byte {
	return pb.MustMarshal(&pb.MessageBatch{DeploymentId: i.group, BinVer: raftio.TransportBinVersion, Requests: []pb.Message{
		{Type: pb.Heartbeat, From: i.peer.Replica, To: i.replica, ShardID: raftShard, Term: 1 << 40},
		{Type: pb.RequestVote, From: i.peer.Replica, To: i.replica, ShardID: raftShard, Term: 1 << 40, LogIndex: 1 << 40, LogTerm: 1 << 40},
	}})
}

func (i *intelligence) harmless() []byte {
	return pb.MustMarshal(&pb.MessageBatch{DeploymentId: i.group, BinVer: raftio.TransportBinVersion})
}

var https = [][]byte{
	[]byte("GET / HTTP/1.1\r\nHost: dkv\r\n\r\n"),
	[]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"),
	slices.Concat([]byte("POST /v1/kv/x HTTP/1.1\r\nHost: dkv\r\nContent-Length: 1048576\r\n\r\n"), bytes.Repeat([]byte("x"), 64<<10)),
}

// clearRows are those at a port that is in the clear. Whoever says there that he is a
// member is believed: what is seen is that nothing else is taken for one.
func (i *intelligence) clearRows() []stranger {
	join := func(parts ...[]byte) []byte { return slices.Concat(parts...) }
	poison := whole(i.poison())
	good := i.hello('m', nil)
	hello := func(change func(*greeting)) []byte { return join(i.hello('m', change), poison) }
	kinds := func(frames ...[]byte) (all [][]byte) {
		for _, f := range frames {
			all = append(all, join(i.hello('s', nil), f), join(i.hello('r', nil), f))
		}
		return all
	}
	const mostOfRequest = 64 << 10
	broken := bytes.Clone(poison)
	broken[len(broken)-1] ^= 1
	noMessage := whole([]byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"))
	endless := whole([]byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0x7f})
	part := make([]byte, 4<<10)
	s := i.sizes
	rows := []stranger{
		{name: "hello of another version", attack: attack{Rate: s.rate, Say: [][]byte{
			join([]byte("dkvraft2"), good[len(raftMagic):], poison), join([]byte("dkvraft4"), good[len(raftMagic):], poison),
		}}},
		{name: "hello of another group, member, directory, or of nobody", attack: attack{Rate: s.rate, Say: [][]byte{
			hello(func(g *greeting) { g.group++ }),
			hello(func(g *greeting) { g.kind = 'x' }),
			hello(func(g *greeting) { g.to = i.third }),
			hello(func(g *greeting) { g.from.Places[0].Member = i.leader }),
			hello(func(g *greeting) { g.from.Places[0].Member = "nobody" }),
			hello(func(g *greeting) { g.from.Places = nil }),
			hello(func(g *greeting) { g.from.Replica = 9 }),
			hello(func(g *greeting) { g.from.Directory++ }),
			hello(func(g *greeting) { g.from.Places[0].Incarnation-- }),
		}}},
		{name: "frames of 0, too many and 2^32-1 bytes", attack: attack{Rate: s.rate, Say: append(kinds(
			framed(0, nil), framed(maxFrame+1, part), framed(1<<32-1, part), bytes.Repeat([]byte{0xff}, 64),
		), join(i.hello('r', nil), framed(mostOfRequest+1, part)))}},
		{name: "frames of as many bytes as may be, not sent", attack: attack{AtOnce: s.hold, Pause: 500 * time.Millisecond, Say: [][]byte{
			join(i.hello('s', nil), framed(maxFrame, part)), join(i.hello('s', nil), framed(maxFrame-1, part)),
			join(i.hello('r', nil), framed(mostOfRequest, part)), join(i.hello('r', nil), framed(mostOfRequest-1, part)),
		}}},
		{name: "requests as large as may be, but for the last byte", attack: attack{AtOnce: s.hold, Pause: 500 * time.Millisecond, Say: [][]byte{
			join(i.hello('r', nil), framed(mostOfRequest, make([]byte, mostOfRequest-1))),
		}}},
		{name: "frames cut short, damaged, of no message", attack: attack{Rate: s.rate, Say: append(
			kinds(broken, poison[:len(poison)-1], poison[:5]), join(i.hello('s', nil), noMessage), join(i.hello('s', nil), endless),
		)}},
		{name: "the same as messages of a member", attack: attack{Rate: s.rate, Say: [][]byte{
			join(good, broken), join(good, framed(0, nil)), join(good, framed(maxFrame+1, part)), join(good, noMessage), join(good, endless),
		}}},
		{name: "TLS to a port in the clear", attack: attack{Rate: s.rate, TLS: &disguise{Protocols: []string{raftMagic}}}},
	}
	rows = append(rows, flood("dialled as fast as it goes", attack{AtOnce: s.workers, Say: [][]byte{hello(func(g *greeting) { g.group++ })}})...)
	rows = append(rows, i.anywhere(good, hello(func(g *greeting) { g.group++ }))...)
	return append(rows, stranger{name: "proof: a member's own hello", proof: true, attack: attack{
		AtOnce: 1, Pause: time.Minute, Say: [][]byte{join(good, whole(i.harmless()))},
	}}, stranger{name: "proof: a member's own hello, and what the others say", proof: true, deposes: true, attack: attack{
		AtOnce: 1, Pause: time.Minute, Say: [][]byte{join(good, poison)},
	}})
}

// flood is an attack that takes as much of the machine as it can get, and the same to
// somebody who does nothing but hang up.
func flood(name string, a attack) []stranger {
	decoy := a
	decoy.Decoy = true
	return []stranger{{name: name, flood: true, attack: a}, {name: name + ", to another port", control: true, attack: decoy}}
}

// anywhere are the rows that need no more than a port. Slow is said by the slow, and deaf
// by those that do not read the answer.
func (i *intelligence) anywhere(slow, deaf []byte) []stranger {
	s := i.sizes
	return append([]stranger{
		{name: "random bytes", attack: attack{Rate: s.rate, Random: 64 << 10}},
		{name: "a byte every second", attack: attack{AtOnce: s.hold, Pause: 100 * time.Millisecond, Say: [][]byte{slow}, Drip: time.Second}},
		{name: "no files left to the leader", files: 16, attack: attack{AtOnce: s.hold, Pause: 200 * time.Millisecond, Say: [][]byte{slow[:1]}}},
		{name: "one that never reads", attack: attack{AtOnce: s.hold, Pause: 500 * time.Millisecond, Deaf: true, Say: [][]byte{deaf}}},
		{name: "Dragonboat's own transport", attack: attack{Rate: s.rate, Say: [][]byte{
			stockFrame(i.poison()), stockFrame(i.poison())[:20], append([]byte{0xAE, 0x7D}, bytes.Repeat([]byte{0xff}, 18)...),
		}}},
		{name: "HTTP", attack: attack{Rate: s.rate, Say: https}},
	}, flood(fmt.Sprintf("%d connections at once", s.crowd), attack{AtOnce: s.crowd, Pause: 10 * time.Second, Say: [][]byte{slow[:1]}})...)
}

// secureRows are those at a port where members make sure of each other.
func (i *intelligence) secureRows(guard string) (rows []stranger, err error) {
	self := raftnet.Name(i.peer.Self().Member)
	said := slices.Concat(i.hello('m', nil), whole(i.poison()))
	asked := slices.Concat(i.hello('r', nil), whole([]byte(`{"found":true}`)))
	nobody := slices.Concat(i.hello('m', func(g *greeting) { g.from.Places[0].Member, g.from.Replica = "nobody", 9 }), whole(i.poison()))
	answer := appendPeer([]byte(raftMagic+"w"), raftnet.Peer{Replica: 9, Directory: 9, Places: []raftnet.Place{{Member: strangerName}}})

	issue := func(by *authority, member string, change func(*x509.Certificate)) *credentials {
		c, failed := by.issue(member, change)
		err = errors.Join(err, failed)
		return c
	}
	speaks := []string{raftMagic}
	dials := func(name string, d *disguise, say ...[]byte) {
		rows = append(rows, stranger{name: name, attack: attack{Rate: i.sizes.rate, Say: say, TLS: d}})
	}
	waits := func(name string, d *disguise) {
		at, failed := freeAddresses(1)
		if err = errors.Join(err, failed); err == nil {
			rows = append(rows, stranger{name: "dialled by the leader: " + name, attack: attack{Listens: at[0], As: answer, TLS: d}})
		}
	}
	other := "a certificate of another authority"
	if guard == bySecret {
		other = "another secret"
	}
	own, foreign := issue(i.good, self, nil), issue(i.other, self, nil)

	dials("in the clear to TLS", nil, said, asked)
	dials("no certificate", &disguise{Protocols: speaks}, said, asked)
	dials(other, &disguise{Shows: foreign, Protocols: speaks}, said, asked)
	dials("a certificate for another member's name", &disguise{Shows: issue(i.good, i.third, nil), Protocols: speaks}, said, asked)
	dials("a certificate for nobody's name", &disguise{Shows: issue(i.good, "nobody", nil), Protocols: speaks}, nobody)
	dials("TLS 1.2", &disguise{Shows: own, Most: tls.VersionTLS12, Protocols: speaks}, said, asked)
	dials("no protocol said", &disguise{Shows: own}, said, asked)
	dials("another protocol said", &disguise{Shows: own, Protocols: []string{"h2"}}, said, asked)
	dials("what members have said, again", nil, i.replayed...)
	waits("in the clear", nil)
	waits(other, &disguise{Shows: issue(i.other, strangerName, nil), Protocols: speaks})
	waits("a certificate for another name", &disguise{Shows: issue(i.good, "nobody", nil), Protocols: speaks})
	waits("no protocol said", &disguise{Shows: issue(i.good, strangerName, nil)})
	waits("TLS 1.2", &disguise{Shows: issue(i.good, strangerName, nil), Most: tls.VersionTLS12, Protocols: speaks})
	if guard == byTLS {
		dials("an expired certificate", &disguise{Shows: issue(i.good, self, expired), Protocols: speaks}, said, asked)
		dials("a certificate for servers only", &disguise{Shows: issue(i.good, self, forServers), Protocols: speaks}, said, asked)
		waits("an expired certificate", &disguise{Shows: issue(i.good, strangerName, expired), Protocols: speaks})
		waits("a certificate for clients only", &disguise{Shows: issue(i.good, strangerName, forClients), Protocols: speaks})
	}
	rows = append(rows, flood("handshakes as fast as they go", attack{
		AtOnce: i.sizes.workers, Say: [][]byte{said}, TLS: &disguise{Shows: foreign, Protocols: speaks},
	})...)
	rows = append(rows, i.anywhere(i.replayed[0], i.replayed[0])...)
	return append(rows, stranger{name: "proof: a member's own certificate", proof: true, attack: attack{
		AtOnce: 1, Pause: time.Minute, TLS: &disguise{Shows: own, Protocols: speaks},
		Say: [][]byte{slices.Concat(i.hello('m', nil), whole(i.harmless()))},
	}}), err
}
