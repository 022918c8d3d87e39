package replica_test

import (
	"context"
	"errors"
	"sync"

	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/dragonboat/v4/raftio"
	"github.com/lni/dragonboat/v4/raftpb"
)

// wires connect members that run in this process.
type wires struct {
	mu        sync.Mutex
	listening map[string]*wire
}

// wire is how a member hears and speaks. It is the config.TransportFactory and
// the raftio.ITransport of one run of the member.
type wire struct {
	net      *wires
	address  string
	messages raftio.MessageHandler
	chunks   raftio.ChunkHandler

	mu  sync.Mutex
	cut bool // what the member says from now on is not heard
}

var errUnheard = errors.New("nobody hears it")

func (n *wires) connect() *wire { return &wire{net: n} }

// silence has nobody hear what the member says any longer.
func (w *wire) silence() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = true
}

func (w *wire) Create(nhc config.NodeHostConfig, m raftio.MessageHandler, c raftio.ChunkHandler) raftio.ITransport {
	w.address, w.messages, w.chunks = nhc.RaftAddress, m, c
	return w
}

func (*wire) Validate(string) bool { return true }
func (*wire) Name() string         { return "wire" }

func (w *wire) Start() error {
	w.net.mu.Lock()
	defer w.net.mu.Unlock()
	if w.net.listening == nil {
		w.net.listening = make(map[string]*wire)
	}
	w.net.listening[w.address] = w
	return nil
}

func (w *wire) Close() error {
	w.net.mu.Lock()
	defer w.net.mu.Unlock()
	delete(w.net.listening, w.address)
	return nil
}

func (w *wire) GetConnection(_ context.Context, target string) (raftio.IConnection, error) {
	return wireConn{w, target}, w.send(target, func(*wire) {})
}

func (w *wire) GetSnapshotConnection(_ context.Context, target string) (raftio.ISnapshotConnection, error) {
	return wireConn{w, target}, w.send(target, func(*wire) {})
}

// send has the target hear something, unless this member was silenced. It holds
// mu meanwhile, so that nothing is heard that was said afterwards.
func (w *wire) send(target string, hear func(*wire)) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cut {
		return errUnheard
	}
	w.net.mu.Lock()
	defer w.net.mu.Unlock()
	other := w.net.listening[target]
	if other == nil {
		return errUnheard
	}
	hear(other)
	return nil
}

type wireConn struct {
	wire   *wire
	target string
}

func (wireConn) Close() {}

func (c wireConn) SendMessageBatch(b raftpb.MessageBatch) error {
	var copied raftpb.MessageBatch
	raftpb.MustUnmarshal(&copied, raftpb.MustMarshal(&b))
	return c.wire.send(c.target, func(other *wire) { other.messages(copied) })
}

func (c wireConn) SendChunk(chunk raftpb.Chunk) error {
	var copied raftpb.Chunk
	raftpb.MustUnmarshal(&copied, raftpb.MustMarshal(&chunk))
	taken := false
	err := c.wire.send(c.target, func(other *wire) { taken = other.chunks(copied) })
	if err == nil && !taken {
		err = errUnheard
	}
	return err
}
