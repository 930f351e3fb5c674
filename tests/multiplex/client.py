"""A plain client of the multiplexed connection: blocking, without any of the gateway's own side."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path
from typing import Any

from gateway.common.multiplex import messages
from gateway.common.multiplex.frames import LAST, PAYLOAD_BYTES, Frame, FrameDecoder, FrameKind, frame
from gateway.common.multiplex.messages import Code, Greeting, Opening
from gateway.common.multiplex.outgoing import Outgoing
from tests.lab.broker import BrokerProcess

MUCH = 1 << 40


def fed(decoder: FrameDecoder, data: bytes) -> list[Frame]:
    """Every frame that is complete with these bytes. Raises BrokenFrameError."""
    frames = []
    while data:
        room = decoder.free
        some = data[: len(room)]
        room[: len(some)] = some
        room.release()
        decoder.received(len(some))
        data = data[len(some) :]
        while (found := decoder.next()) is not None:
            frames.append(found)
    return frames


class Rig(BrokerProcess):
    """A broker with a worker socket."""

    def __init__(self, data: Path, *flags: str, config: str | None = None) -> None:
        self.socket = str(data.parent / "workers.sock")
        super().__init__(data, "--fsync", "off", *flags, worker_socket=self.socket, config=config)

    def worker(self, **given: int) -> MultiplexClient:
        """A connection that has greeted."""
        return MultiplexClient(self.socket, **given)


class MultiplexClient:
    """One connection. A frame that nobody has asked for yet waits in `frames`."""

    def __init__(
        self,
        path: str,
        *,
        lowest: int = 1,
        highest: int = 1,
        item_bytes: int = MUCH,
        incomplete_bytes: int = MUCH,
        open_bytes: int = 0,
        share: int = messages.SHARE_UNITS,
    ) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(10)
        self.socket.connect(path)
        self.decoder = FrameDecoder(MUCH, MUCH)
        self.frames: list[Frame] = []
        self.ids = 0
        self.credits = [0, 0]
        greeting = Greeting(lowest, highest, item_bytes, MUCH, MUCH, incomplete_bytes, open_bytes, share)
        self.send(frame(FrameKind.GREETING, 0, greeting.pack()))
        self.greeting = messages.unpack_greeting(self.next(FrameKind.GREETING).payload)

    def close(self) -> None:
        self.socket.close()

    # Frames

    def send(self, *frames: bytes) -> None:
        self.socket.sendall(b"".join(frames))

    def id(self, count: int = 1) -> int:
        """A new id, the first of `count`."""
        first = self.ids + 1
        self.ids += count
        return first

    def _receive(self) -> bool:
        data = self.socket.recv(1 << 16)
        for found in fed(self.decoder, data):
            if found.kind == FrameKind.CREDIT:
                for number, more in enumerate(messages.unpack_credit(found.payload)):
                    self.credits[number] += more
            else:
                self.frames.append(found)
        return bool(data)

    def next(self, kind: FrameKind | None = None, id_: int | None = None) -> Frame:
        """The first frame of that kind with that id; fails after ten seconds."""
        while True:
            for found in self.frames:
                if kind in {None, found.kind} and id_ in {None, found.id}:
                    self.frames.remove(found)
                    return found
            assert self._receive(), f"the broker has closed the connection; there are {self.frames}"

    def nothing_comes(self, within_s: float = 0.1) -> bool:
        """Whether no frame comes."""
        self.socket.settimeout(within_s)
        with contextlib.suppress(TimeoutError):
            while not self.frames:
                assert self._receive()
        self.socket.settimeout(10)
        return not self.frames

    def is_closed(self) -> bool:
        """Whether the broker closes the connection."""
        try:
            while self._receive():
                pass
        except ConnectionResetError:
            pass
        return True

    # Operations

    def put(self, key: str, *items: bytes, expiry: int = 0) -> list[Code]:
        """The outcomes of a put."""
        id_ = self.start_put(key, *items, expiry=expiry)
        return messages.unpack_outcome(self.next(FrameKind.DONE, id_).payload, len(items))[0]

    def start_put(self, key: str, *items: bytes, expiry: int = 0) -> int:
        id_ = self.id()
        if messages.put_bytes(key.encode(), list(map(len, items))) <= PAYLOAD_BYTES:
            self.send(frame(FrameKind.PUT, id_, messages.pack_put(key.encode(), [(expiry, item) for item in items])))
        else:
            (item,) = items
            self.send(*detached(key, id_, item, expiry))
        return id_

    def open(self, key: str, **given: Any) -> int:
        """Sends an open; the id of its first item."""
        id_ = self.id(given.get("items", 1))
        self.send(frame(FrameKind.OPEN, id_, Opening(key.encode(), **given).pack()))
        return id_

    def take(self, key: str, **given: Any) -> tuple[int, bytes] | Code:
        """The id and data of the next item, or why there is none."""
        id_ = self.open(key, **given)
        return self.answer(id_)

    def item(self, key: str) -> tuple[int, bytes]:
        """The id and data of the next item; fails if there is none."""
        found = self.take(key)
        assert not isinstance(found, Code)
        return found

    def answer(self, id_: int) -> tuple[int, bytes] | Code:
        """How the open of one item ends."""
        found = self.next(None, id_)
        if found.kind == FrameKind.END:
            return messages.unpack_outcome(found.payload, 1)[0][0]
        assert (found.kind, found.flags & LAST) == (FrameKind.ITEM, LAST)
        return found.id, found.payload if found.item is None else found.item

    def settle(self, kind: FrameKind, *ids: int) -> list[Code]:
        """The outcomes of a confirm or abort."""
        id_ = self.id()
        self.send(frame(kind, id_, messages.pack_ids(ids)))
        return messages.unpack_outcome(self.next(FrameKind.DONE, id_).payload, len(ids))[0]

    def confirm(self, *ids: int) -> list[Code]:
        return self.settle(FrameKind.CONFIRM, *ids)

    def abort(self, *ids: int) -> list[Code]:
        return self.settle(FrameKind.ABORT, *ids)

    def cancel(self, id_: int) -> None:
        self.send(frame(FrameKind.CANCEL, id_))

    def drain(self, key: str) -> list[bytes]:
        """Takes and confirms everything."""
        found = []
        while not isinstance(taken := self.take(key), Code):
            found.append(taken[1])
            self.confirm(taken[0])
        return found


def detached(key: str, id_: int, item: bytes, expiry: int = 0) -> list[bytes]:
    """The frames of a put with a large item."""
    out = Outgoing()
    out.allow(MUCH, MUCH, MUCH)
    out.carry_item(key, FrameKind.PUT, id_, messages.pack_detached_put(key.encode(), expiry, len(item)), item)
    return list(iter(out.take, b""))


def mode_of(path: str) -> int:
    """The permissions of a file."""
    return Path(path).stat().st_mode & 0o777
