package transport

import (
	"context"
	"encoding/binary"

	"dkv/internal/command"
)

// answer carries out a request; scan is what cursors.receive has made of it.
func (c *served) answer(ctx context.Context, req request, scan scanRequest) response {
	result, err := c.do(ctx, nil, req, scan)
	if err != nil {
		return failure(req.id, err)
	}
	return response{id: req.id, method: req.method, result: result}
}

// do carries out a request and appends its encoded result to b.
func (c *served) do(ctx context.Context, b []byte, req request, scan scanRequest) ([]byte, error) {
	switch req.method {
	case methodReady:
		return b, c.backend.Ready(ctx)
	case methodInfo:
		info, err := c.backend.Info(ctx)
		if err != nil {
			return nil, err
		}
		return appendInfo(b, info)
	case methodGet:
		value, ok, err := c.backend.Get(ctx, string(req.arg))
		return append(appendFound(b, ok), value...), err
	case methodGetStale:
		value, ok, err := c.backend.GetStale(ctx, string(req.arg))
		return append(appendFound(b, ok), value...), err
	case methodGetEntry:
		e, ok, err := c.backend.GetEntry(ctx, string(req.arg))
		if !ok {
			return appendFound(b, false), err
		}
		return appendEntry(appendFound(b, true), e), err
	case methodHas:
		ok, err := c.backend.Has(ctx, string(req.arg))
		return appendFound(b, ok), err
	case methodEnrol:
		op, id, err := command.DecodeOp(req.arg)
		if err != nil || op.Kind != 0 {
			return nil, command.ErrMalformed
		}
		client, err := c.backend.Enrol(ctx, id.Nonce)
		return binary.AppendUvarint(b, client), err
	case methodWrite:
		op, id, err := decodeWrite(req.arg)
		if err != nil {
			return nil, err
		}
		res, err := c.backend.DoOnce(ctx, op, id)
		return appendResult(b, res), writeError(res, err)
	case methodPoll:
		p, err := parsePoll(req.arg)
		if err != nil {
			c.polled <- struct{}{}
			return nil, err
		}
		events, next, err := c.backend.Poll(ctx, p.space, p.what, min(p.wait, maxPollWait), pageBytes)
		c.polled <- struct{}{}
		return appendEvents(b, namelessEvents(p.space, events), next), err
	case methodAwaitLock:
		a, err := parseAwait(req.arg)
		if err != nil {
			return nil, err
		}
		place, err := c.backend.AwaitLock(ctx, a.key, a.owner, a.at, min(a.wait, maxPollWait))
		return appendPlace(b, place), err
	case methodLockHolder:
		h, ok, err := c.backend.LockHolder(ctx, string(req.arg))
		return appendHolder(b, nameless(h), ok), err
	case methodScan, methodScanNext, methodScanStop:
		page, err := scan(ctx)
		return append(b, page...), err
	}
	return nil, errProtocol
}
