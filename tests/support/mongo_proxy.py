"""A proxy between the operator and a real mongod that knows which messages write, and can be away.

Of MongoDB's messages only OP_MSG without compression is understood; all others are passed on.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import bson

from killer import LOST, Killer, Sockets, Write, shut

MONGODB_WRITES = frozenset({
    "insert", "update", "delete", "findAndModify", "createUser", "updateUser", "dropUser", "createIndexes", "create",
    "drop", "dropDatabase",
})  # fmt: skip


class MongoProxy:
    """A proxy before mongod that knows which messages write; the driver must not look for the server's own address."""

    def __init__(self, port: int, killer: Killer) -> None:
        self._target = port
        self._killer = killer
        self._sockets = Sockets()
        self._refuses = False
        killer.disconnect.append(self.disconnect)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self._listener.getsockname()[1]
        self.uri = f"mongodb://127.0.0.1:{self.port}/?directConnection=true"
        threading.Thread(target=self._serve, daemon=True).start()

    def disconnect(self) -> None:
        """Drop all connections."""
        self._sockets.shut()

    @contextmanager
    def away(self) -> Iterator[None]:
        """Take no connection as long as the block, and drop those that are open."""
        self._refuses = True
        self.disconnect()
        try:
            yield
        finally:
            self._refuses = False

    def close(self) -> None:
        shut(self._listener)
        self._listener.close()
        self.disconnect()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                if self._refuses:
                    near.close()
                    continue
                try:
                    far = socket.create_connection(("127.0.0.1", self._target))
                except OSError:
                    near.close()
                    continue
                pending: dict[int, Write] = {}
                for one in (near, far):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self._sockets.add(one)
                for pump in (self._ask, self._answer):
                    threading.Thread(target=pump, args=(near, far, pending), daemon=True).start()

    def _ask(self, near: socket.socket, far: socket.socket, pending: dict[int, Write]) -> None:
        with suppress(*LOST):
            while message := read_message(near):
                write = mongodb_write(message)
                if write is not None:
                    pending[_head(message)[1]] = write
                far.sendall(message)
        shut(far)
        self._sockets.discard(near)

    def _answer(self, near: socket.socket, far: socket.socket, pending: dict[int, Write]) -> None:
        with suppress(*LOST):
            while message := read_message(far):
                write = pending.pop(_head(message)[2], None)
                answer = lambda message=message: near.sendall(message)  # noqa: E731
                if write is None:
                    answer()
                else:
                    self._killer.pass_on(write, answer)
        shut(near)
        self._sockets.discard(far)


def _head(message: bytes) -> tuple[int, int, int, int]:
    """Length, the message's ID, the ID that it answers, and the kind of message."""
    head: tuple[int, int, int, int] = struct.unpack_from("<iiii", message)
    return head


def read_message(connection: socket.socket) -> bytes:
    """One message of MongoDB's protocol; empty at the end."""
    head = _exactly(connection, 16)
    return head + _exactly(connection, _head(head)[0] - 16) if head else b""


def _exactly(connection: socket.socket, count: int) -> bytes:
    parts = []
    while count:
        part = connection.recv(min(count, 1 << 16))
        if not part:
            return b""
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def mongodb_write(message: bytes) -> Write | None:
    """The write that a message asks for, or None. The body is the first section, as every driver sends it."""
    if _head(message)[3] != 2013 or message[20] != 0:
        return None
    (size,) = struct.unpack_from("<i", message, 21)
    command = bson.decode(message[21 : 21 + size])
    name = next(iter(command))
    return Write(f"mongodb {name} {command[name]}", message) if name in MONGODB_WRITES else None
