#!/usr/bin/env python3
"""A client of dkv that uses nothing but what PROTOCOL.md says, and a walk through it.

usage: client.py tcp://host:port|unix:///path|http://host:port shard [token]

It ends with status 0 and the line "ok" if all was as it should be. It waits for one
response at a time but where it says otherwise; a real client would not.
"""

import json
import os
import random
import socket
import struct
import sys

SECOND = 10**9
MAX_FRAME = 8425728

READY, INFO, GET, GET_ENTRY, HAS, ENROL, WRITE, SCAN, SCAN_NEXT, SCAN_STOP = range(1, 11)
GET_STALE, POLL, AWAIT_LOCK, LOCK_HOLDER, CANCEL = range(11, 16)

SET, SET_IF_UNSET, EXPIRE, DELETE, DELETE_IF_VALUE, SET_IF_REVISION = range(1, 7)
DELETE_IF_REVISION, RENEW_IF_VALUE, ADD, TRANSACT, READ = range(7, 12)
JOIN, TRY_JOIN, RENEW, LEAVE, VOID = range(12, 17)

HAS_VALUE = {SET, SET_IF_UNSET, DELETE_IF_VALUE, SET_IF_REVISION, RENEW_IF_VALUE, JOIN, TRY_JOIN, RENEW, LEAVE}
HAS_REVISION = {SET_IF_REVISION, DELETE_IF_REVISION, RENEW, LEAVE}
HAS_DELTA = {ADD, JOIN, TRY_JOIN}

FORGOTTEN = 2


def uvarint(n):
    b = bytearray()
    while n >= 0x80:
        b.append(n & 0x7F | 0x80)
        n >>= 7
    b.append(n)
    return bytes(b)


def varint(n):
    return uvarint(2 * n if n >= 0 else -2 * n - 1)


def string(b):
    return uvarint(len(b)) + b


class Reader:
    """Takes fields off a body."""

    def __init__(self, b):
        self.b = b

    def bytes(self, n):
        if n > len(self.b):
            raise ProtocolError("the body is too short")
        b, self.b = self.b[:n], self.b[n:]
        return b

    def byte(self):
        return self.bytes(1)[0]

    def uvarint(self):
        n = shift = 0
        while True:
            c = self.byte()
            n |= (c & 0x7F) << shift
            if c < 0x80:
                return n
            shift += 7

    def varint(self):
        n = self.uvarint()
        return n // 2 if n % 2 == 0 else -(n + 1) // 2

    def string(self):
        return self.bytes(self.uvarint())

    def rest(self):
        return self.bytes(len(self.b))


class ProtocolError(Exception):
    pass


class Refused(Exception):
    """An error with a code."""

    def __init__(self, code, text):
        super().__init__(f"code {code}: {text.decode(errors='replace')}")
        self.code = code


class Lost(Exception):
    """The connection has ended."""


class Connection:
    def __init__(self, endpoint, shard, token=b""):
        network, address = endpoint.split("://", 1)
        if network == "unix":
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(20)
            self.sock.connect(address)
        else:
            host, port = address.rsplit(":", 1)
            self.sock = socket.create_connection((host.strip("[]"), int(port)), timeout=20)
        if network == "http":
            self.upgrade(address)
        self.last = 0
        self.answers = {}  # those that came before somebody waited for them

        hello = uvarint(shard) + b"\x00" + token
        self.sock.sendall(b"dkv\x00\x04" + struct.pack("<I", len(hello)) + hello)
        head = self.read(5)
        if head[:4] != b"dkv\x00":
            raise ProtocolError("not dkv")
        if head[4] != 4:
            raise ProtocolError(f"version {head[4]}")
        r = Reader(self.read(struct.unpack("<I", self.read(4))[0]))
        code = r.uvarint()
        if code != 0:
            raise Refused(code, r.rest())
        (self.identity,) = struct.unpack("<Q", r.rest())

    def upgrade(self, host):
        self.sock.sendall(
            f"GET /v1/connect HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: dkv\r\n\r\n".encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.read(1)
        if not head.startswith(b"HTTP/1.1 101 "):
            raise ProtocolError(f"no dkv there: {head!r}")

    def read(self, n):
        b = b""
        while len(b) < n:
            more = self.sock.recv(n - len(b))
            if not more:
                raise Lost()
            b += more
        return b

    def send(self, method, arg=b"", timeout=10 * SECOND):
        self.last += 1
        body = uvarint(self.last) + uvarint(timeout) + bytes([method]) + arg
        self.sock.sendall(struct.pack("<I", len(body)) + body)
        return self.last

    def receive(self, id):
        while id not in self.answers:
            size = struct.unpack("<I", self.read(4))[0]
            if size > MAX_FRAME:
                raise ProtocolError("the frame is too long")
            r = Reader(self.read(size))
            got, code = r.uvarint(), r.uvarint()
            if got == 0:
                raise Lost()  # the goodbye; this client takes all that is open for lost
            self.answers[got] = code, r.rest()
        code, result = self.answers.pop(id)
        if code != 0:
            raise Refused(code, result)
        return Reader(result)

    def call(self, method, arg=b"", timeout=10 * SECOND):
        return self.receive(self.send(method, arg, timeout))

    def close(self):
        self.sock.close()


def operation(kind, key=b"", value=b"", revision=0, delta=0, expire=0, delete=0, space=0, body=None, id=None):
    """An operation; id is (client, nonce, seq, low), body what a transaction has instead of a key."""
    flags = (0x80 if expire or delete else 0) | (0x40 if id else 0)
    b = bytes([kind | flags])
    if id:
        b += b"".join(uvarint(n) for n in id)
    if body is not None:
        return b + body
    if kind == VOID:
        return b
    b += bytes([space]) + string(key)
    if kind in HAS_VALUE:
        b += string(value)
    if kind in HAS_REVISION:
        b += uvarint(revision)
    if kind in HAS_DELTA:
        b += varint(delta)
    if expire or delete:
        b += uvarint(expire) + uvarint(delete)
    return b


def transaction(conditions, then, otherwise):
    return b"".join(uvarint(len(part)) + b"".join(part) for part in (conditions, then, otherwise))


class Result:
    def __init__(self, r):
        flags = r.byte()
        self.done = flags & 8 != 0
        self.refusal = flags >> 4
        self.revision = r.uvarint() if flags & 1 else 0
        self.number = r.varint() if flags & 2 else 0
        self.held, self.results = None, None
        if flags & 4:
            n = r.uvarint()
            self.held = n & 1 == 1
            r.uvarint()
            self.results = [part(r) for _ in range(n >> 1)]
        if r.b:
            raise ProtocolError("something follows the result")


def part(r):
    """What one operation of a transaction did: done, revision, number, value."""
    flags = r.byte()
    revision = r.uvarint() if flags & 1 else 0
    number = r.varint() if flags & 2 else 0
    value = None
    if flags & 4:
        value = r.string()
        r.uvarint(), r.uvarint()
        if flags & 0x10:
            value = None
    return flags & 8 != 0, revision, number, value


class Client:
    """Writes that are done once, one at a time."""

    def __init__(self, endpoint, shard, token):
        self.where = endpoint, shard, token
        self.conn = Connection(*self.where)
        self.nonce = random.SystemRandom().randrange(1, 1 << 64)
        self.number = self.conn.call(ENROL, b"\x40" + uvarint(self.nonce)).uvarint()
        self.seq = 0

    def again(self):
        """Goes on with another connection."""
        self.conn.close()
        self.conn = Connection(*self.where)

    def next_id(self):
        self.seq += 1
        return self.number, self.nonce, self.seq, self.seq  # nothing else is waited for

    def attempt(self, op):
        return Result(self.conn.call(WRITE, op))

    def write(self, kind, key=b"", **fields):
        op = operation(kind, key, id=self.next_id(), **fields)
        for _ in range(10):
            try:
                return self.attempt(op)
            except (Lost, OSError):
                self.again()
            except Refused as e:
                if e.code not in (1, 2, 3, 4, 13):
                    raise
        raise Refused(3, b"no answer")

    def get(self, key):
        r = self.conn.call(GET, key)
        return r.rest() if r.byte() == 1 else None

    def scan(self, prefix=b"", after=b"", flags=0, limit=0):
        """Returns the entries, and the revision of the state."""
        id = self.conn.send(SCAN, bytes([flags]) + uvarint(limit) + string(prefix) + string(b"") * 2 + string(after))
        r, entries, pages = self.conn.receive(id), [], 1
        while True:
            more, revision = r.byte(), r.uvarint()
            while r.b:
                key, expired = r.string(), r.byte()
                changed, _, _, value = r.uvarint(), r.uvarint(), r.uvarint(), r.string()
                entries.append((key, changed, None if expired else value))
            if not more:
                return entries, revision, pages
            r, pages = self.conn.call(SCAN_NEXT, uvarint(id)), pages + 1

    def poll(self, start, key=b"", prefix=b"", wait=5 * SECOND, space=0):
        arg = bytes([space]) + uvarint(wait) + uvarint(start) + string(key) + string(prefix)
        return self.events(self.conn.call(POLL, arg, wait + 5 * SECOND))

    @staticmethod
    def events(r):
        start, events = r.uvarint(), []
        while r.b:
            kind, revision, key = r.byte(), r.uvarint(), r.string()
            events.append((kind, revision, key, r.string() if kind & 0x7F == 1 else None))
        return start, events

    def await_lock(self, name, owner, number, revision, wait=5 * SECOND):
        r = self.conn.call(
            AWAIT_LOCK, uvarint(wait) + uvarint(number) + uvarint(revision) + owner[:8] + name, wait + 5 * SECOND)
        state = r.byte()
        return (state, r.uvarint(), r.uvarint()) if state else (0, 0, 0)


def expect(got, want, what):
    if got != want:
        sys.exit(f"{what}: {got!r}, want {want!r}")


def expect_code(code, what, call, *args):
    try:
        call(*args)
    except Refused as e:
        return expect(e.code, code, what)
    sys.exit(f"{what}: no error, want code {code}")


def keys(c):
    expect(c.get(b"py/none"), None, "get of no key")
    first = c.write(SET, b"py/color", value=b"blue")
    expect((first.done, c.get(b"py/color")), (True, b"blue"), "set")
    expect(c.write(SET, b"py/empty").done, True, "set of an empty value")
    expect(c.get(b"py/empty"), b"", "get of an empty value")
    expect(c.write(SET_IF_UNSET, b"py/color", value=b"red").done, False, "set if unset of what is set")
    refused = c.write(SET_IF_REVISION, b"py/color", value=b"red", revision=first.revision + 1000)
    expect((refused.done, refused.revision), (False, first.revision), "set if revision")
    expect(c.write(SET_IF_REVISION, b"py/color", value=b"red", revision=first.revision).done, True, "set if revision")
    expect(c.write(ADD, b"py/hits", delta=5).number, 5, "add")
    expect(c.write(ADD, b"py/hits", delta=-8).number, -3, "add")
    expect_code(14, "add to a word", lambda: c.write(ADD, b"py/color", delta=1))
    expect_code(5, "get of the empty key", c.get, b"")
    expect_code(6, "get of a long key", c.get, b"k" * 4097)

    c.write(SET, b"py/hat", value=b"felt", expire=60 * SECOND, delete=3600 * SECOND)
    c.write(EXPIRE, b"py/hat")
    expect((c.get(b"py/hat"), c.conn.call(HAS, b"py/hat").byte()), (None, 1), "a key that has expired")
    r = c.conn.call(GET_ENTRY, b"py/hat")
    found, expired, _, expire, delete = r.byte(), r.byte(), r.uvarint(), r.uvarint(), r.uvarint()
    expect((found, expired, expire, r.rest()), (1, 1, 0, b""), "get entry")
    expect(3500 * SECOND < delete <= 3600 * SECOND, True, "the time left")
    expect(c.write(DELETE, b"py/hat").done, True, "delete")
    expect(c.write(DELETE, b"py/hat").done, False, "delete of no key")

    txn = transaction(
        [bytes([3, 0]) + string(b"py/color") + string(b"red"), bytes([1, 0]) + string(b"py/none") + uvarint(0)],
        [operation(SET, b"py/done", b"1"), operation(ADD, b"py/hits", delta=1), operation(READ, b"py/color")],
        [operation(READ, b"py/hits")])
    res = c.write(TRANSACT, body=txn)
    expect((res.held, [p[0] for p in res.results]), (True, [True] * 3), "a transaction")
    expect((res.results[1][2], res.results[2][3]), (-2, b"red"), "results of a transaction")
    info = json.loads(c.conn.call(INFO).rest())
    expect(info["Revision"] >= res.revision, True, "info")
    c.conn.call(READY)


def once(c):
    """A write whose answer is lost, and one that is given up."""
    op = operation(ADD, b"py/once", delta=1, id=c.next_id())
    c.conn.send(WRITE, op)
    c.again()  # without a look at the answer
    expect(c.attempt(op).number, 1, "the second attempt")
    expect(c.attempt(op).number, 1, "the third attempt")
    expect(c.get(b"py/once"), b"1", "what three attempts came to")

    given_up = c.next_id()
    expect(c.attempt(operation(VOID, id=given_up)).refusal, FORGOTTEN, "void")
    expect(c.attempt(operation(SET, b"py/late", b"", id=given_up)).refusal, FORGOTTEN, "a void write")
    expect(c.get(b"py/late"), None, "what a void write has done")

    older = c.next_id()
    c.write(SET, b"py/newer", value=b"")
    late = c.attempt(operation(SET, b"py/older", b"", id=older))
    expect((late.refusal, c.get(b"py/older")), (FORGOTTEN, None), "a write below low")
    stranger = c.number, c.nonce ^ 1 or 2, c.seq + 1, c.seq + 1
    expect(c.attempt(operation(SET, b"py/older", b"", id=stranger)).refusal, FORGOTTEN, "another nonce")


def scans(c):
    want = []
    for i in range(300):
        key, value = b"py/scan/%03d" % i, b"%d" % i
        want.append((key, c.write(SET, key, value=value).revision, value))
    got, revision, pages = c.scan(b"py/scan/")
    expect((got, pages > 1), (want, True), "a scan")
    expect(revision, want[-1][1], "the revision of a scan")
    got, _, _ = c.scan(b"py/scan/", flags=3, limit=5)
    expect(got, [(key, rev, b"") for key, rev, _ in want[:-6:-1]], "a scan of keys in reverse")
    got, _, _ = c.scan(b"py/scan/", after=b"py/scan/297")
    expect(got, want[298:], "a scan behind a key")

    whole = bytes([0, 0]) + string(b"py/scan/") + bytes(3)
    id = c.conn.send(SCAN, whole)
    c.conn.receive(id)
    c.conn.call(SCAN_STOP, uvarint(id))
    c.conn.call(SCAN_STOP, uvarint(id))
    expect_code(1, "a scan that was given up", c.conn.call, SCAN_NEXT, uvarint(id))
    return revision


def watches(c, other, revision):
    start, events = c.poll(0, prefix=b"py/watch/")
    expect((start, events), (revision + 1, []), "where a watch begins")
    arg = bytes([0]) + uvarint(30 * SECOND) + uvarint(start) + string(b"") + string(b"py/watch/")
    waits = c.conn.send(POLL, arg, 35 * SECOND)
    set = other.write(SET, b"py/watch/a", value=b"1")
    start, events = c.events(c.conn.receive(waits))
    expect(events, [(1, set.revision, b"py/watch/a", b"1")], "the first event")

    c.again()  # a watch goes on where it was
    other.write(EXPIRE, b"py/watch/a")
    other.write(SET, b"py/elsewhere", value=b"")
    other.write(SET, b"py/watch/b", value=b"2")
    other.write(DELETE, b"py/watch/a")
    seen = []
    while len(seen) < 3:
        start, events = c.poll(start, prefix=b"py/watch/")
        seen += events
    expect([(kind, key, value) for kind, _, key, value in seen], [
        (2, b"py/watch/a", None), (1, b"py/watch/b", b"2"), (3, b"py/watch/a", None)], "the events after")
    expect(c.poll(start, key=b"py/watch/a", wait=SECOND // 100)[1], [], "nothing more")
    expect_code(18, "a revision of the future", c.poll, start + 1000)

    waits = c.conn.send(POLL, bytes([0]) + uvarint(60 * SECOND) + uvarint(start) + string(b"") * 2, 65 * SECOND)
    c.conn.send(CANCEL, uvarint(waits))
    try:
        expect(c.events(c.conn.receive(waits))[1], [], "a poll that was cancelled")
    except Refused as e:
        expect(e.code, 1, "a poll that was cancelled")


def locks(c, other):
    first, second = os.urandom(8), os.urandom(8)
    name, ttl = b"py/lock", 60 * SECOND
    held = c.write(JOIN, name, space=1, value=first + b"worker", delete=ttl)
    expect((held.done, held.number), (True, 0), "join")
    expect(other.write(TRY_JOIN, name, space=1, value=second, delete=ttl).done, False, "try join")
    place = other.write(JOIN, name, space=1, value=second, delete=ttl)
    expect((place.done, place.number > 0), (False, True), "join of who waits")
    r = c.conn.call(LOCK_HOLDER, name)
    expect((r.byte(), r.uvarint(), r.rest()), (1, held.revision, bytes(8) + b"worker"), "lock holder")
    expect(c.write(RENEW, name, space=1, value=first, delete=ttl).revision, held.revision, "renew")
    renewed = other.write(RENEW, name, space=1, value=second, revision=place.number, delete=ttl)
    expect((renewed.done, renewed.number), (False, place.number), "renew of who waits")
    state, number, at = other.await_lock(name, second, place.number, place.revision, SECOND // 100)
    expect((state, number), (2, place.number), "await lock, in vain")

    if_lock = bytes([4, 1]) + string(name) + uvarint(held.revision)
    guarded = c.write(TRANSACT, body=transaction([if_lock], [operation(SET, b"py/guarded", b"1")], []))
    expect(guarded.held, True, "a transaction of the holder")

    arg = uvarint(30 * SECOND) + uvarint(number) + uvarint(at) + second + name
    waits = other.conn.send(AWAIT_LOCK, arg, 35 * SECOND)
    expect(c.write(LEAVE, name, space=1, value=first).done, True, "leave")
    r = other.conn.receive(waits)
    state, number, token = r.byte(), r.uvarint(), r.uvarint()
    expect((state, number, token > held.revision), (1, 0, True), "await lock")
    expect(c.write(LEAVE, name, space=1, value=first).done, False, "leave, a second time")
    guarded = c.write(TRANSACT, body=transaction([if_lock], [operation(SET, b"py/guarded", b"2")], []))
    expect((guarded.held, c.get(b"py/guarded")), (False, b"1"), "a transaction of who held it")
    expect(other.write(LEAVE, name, space=1, value=second).done, True, "leave")
    expect(c.conn.call(LOCK_HOLDER, name).byte(), 0, "lock holder of nobody")

    shared = [c.write(JOIN, b"py/permits", space=1, value=os.urandom(8), delta=2, delete=ttl) for _ in range(3)]
    expect([s.done for s in shared], [True, True, False], "two permits for three")


def main():
    endpoint, shard = sys.argv[1], int(sys.argv[2])
    token = sys.argv[3].encode() if len(sys.argv) > 3 else b""
    if token:
        expect_code(23, "a wrong token", Connection, endpoint, shard, token + b"?")
        expect_code(22, "a wrong shard", Connection, endpoint, shard + 1, token)
    c, other = Client(endpoint, shard, token), Client(endpoint, shard, token)
    expect(c.conn.identity, other.conn.identity, "the identity")
    keys(c)
    once(c)
    revision = scans(c)
    watches(c, other, revision)
    locks(c, other)
    c.conn.close()
    other.conn.close()
    print("ok")


if __name__ == "__main__":
    main()
