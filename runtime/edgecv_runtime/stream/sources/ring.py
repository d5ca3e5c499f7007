"""What a decoder's process and its parent share: pictures in shared memory, words about them over a socket.

Pictures are never pickled: the child makes each image in one of three slots and sends its number; the parent gives a
slot back when nobody holds the image any more. The memory has no name, so a killed process leaves nothing behind.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import socket
import struct
import sys
import tempfile
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from edgecv_runtime.stream.sources import swscale
from edgecv_runtime.stream.sources.decoded import Decoded

if TYPE_CHECKING:
    from edgecv_runtime.preprocess import Image

GENERATIONS = 8  # numbers that memories get in turn
SLOTS = 3  # one that waits for the model, one that the model has, one to write into
_HEADER = struct.Struct("<I")
_MOST = 1 << 20  # bytes of a message; a longer one is no message
_PAGE = 4096


class Ready(msgspec.Struct, tag=True):
    """The child has what it needs, and opens the source now."""


class Opened(msgspec.Struct, tag=True):
    """The source's Facts."""

    live: bool
    size: tuple[int, int] | None
    fps: float | None
    declared_frames: int | None
    codec: str | None


class Memory(msgspec.Struct, tag=True):
    """The slots are in a new memory, whose descriptor comes with this message."""

    slot_bytes: int


class Picture(msgspec.Struct, tag=True):
    """A Shot whose image is in a slot; size: (height, width)."""

    slot: int
    size: tuple[int, int]
    pts_s: float | None
    captured_ns: int
    path: str | None
    damaged: int
    skipped: dict[str, int]


class Pulse(msgspec.Struct, tag=True):
    """alive_ns: the camera's last sign of life; awake_ns: when the thread that decodes was last seen at work."""

    alive_ns: int
    awake_ns: int


class Ended(msgspec.Struct, tag=True):
    """The source's End."""

    kind: str
    detail: str
    damaged: int
    first_damaged: str | None
    skipped: dict[str, int]


Message = Ready | Opened | Memory | Picture | Pulse | Ended
_decoder = msgspec.msgpack.Decoder(Message)
_encoder = msgspec.msgpack.Encoder()


def send(peer: socket.socket, message: Message, *descriptors: int) -> None:
    """Send one message, with descriptors of open files; raises OSError when nobody listens."""
    body = _encoder.encode(message)
    data = _HEADER.pack(len(body)) + body
    sent = socket.send_fds(peer, [data], list(descriptors)) if descriptors else 0
    if sent < len(data):
        peer.sendall(data[sent:])


def freed(generation: int, slot: int) -> bytes:
    """One byte that says which slot of which memory is free again: below 32."""
    return bytes([generation % GENERATIONS * 4 + slot])


class Inbox:
    """Messages out of a socket, as far as they are there."""

    def __init__(self, peer: socket.socket) -> None:
        self.descriptors: list[int] = []
        self._peer = peer
        self._data = bytearray()

    def receive(self) -> list[Message] | None:
        """What one read of the socket completes; None when the peer is gone. Raises ValueError for no messages."""
        try:
            data, descriptors, _, _ = socket.recv_fds(self._peer, _PAGE, 4)
        except (ConnectionError, OSError):
            return None
        self.descriptors += descriptors
        if not data:
            return None
        self._data += data
        messages = []
        while len(self._data) >= _HEADER.size:
            (length,) = _HEADER.unpack_from(self._data)
            if length > _MOST:
                raise ValueError(f"a message of {length} bytes")
            end = _HEADER.size + length
            if len(self._data) < end:
                break
            messages.append(_decoder.decode(bytes(self._data[_HEADER.size : end])))
            del self._data[:end]
        return messages


class Slots:
    """The memory that holds SLOTS pictures, mapped in this process."""

    def __init__(self, descriptor: int, slot_bytes: int) -> None:
        """Map what another process made; the descriptor is closed."""
        self.slot_bytes = slot_bytes
        try:
            self._memory = mmap.mmap(descriptor, SLOTS * slot_bytes)
        finally:
            os.close(descriptor)

    @classmethod
    def make(cls, size: tuple[int, int]) -> tuple[Slots, int]:
        """New memory for images of (height, width), and a descriptor of it for the other process."""
        slot_bytes = -(-(nbytes(size) + swscale.READ_BEYOND) // _PAGE) * _PAGE
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("edgecv-frames")
        else:
            with tempfile.TemporaryFile() as file:
                descriptor = os.dup(file.fileno())
        os.ftruncate(descriptor, SLOTS * slot_bytes)
        return cls(os.dup(descriptor), slot_bytes), descriptor

    def fit(self, size: tuple[int, int]) -> bool:
        """Whether an image of (height, width) has room in a slot."""
        return nbytes(size) + swscale.READ_BEYOND <= self.slot_bytes

    def array(self, slot: int, size: tuple[int, int]) -> Image:
        """The memory of an image in a slot, (H, W, 3)."""
        import numpy as np

        return np.frombuffer(self._memory, np.uint8, nbytes(size), slot * self.slot_bytes).reshape(*size, 3)

    def write(self, slot: int, picture: Image | Decoded) -> None:
        """Make a picture's image in a slot, where it is not there already."""
        if isinstance(picture, Decoded):
            picture.write_to(memoryview(self._memory)[slot * self.slot_bytes :][: self.slot_bytes])
            return
        import numpy as np

        target = self.array(slot, size_of(picture))
        if target.__array_interface__["data"] != picture.__array_interface__["data"]:
            np.copyto(target, picture)

    def image(self, slot: int, size: tuple[int, int], gone: Callable[[], Any]) -> Image:
        """The image in a slot, without a copy; gone: called when neither it nor a view of it is used any more.

        Raises ValueError for what cannot be there.
        """
        import numpy as np

        height, width = size
        if not (0 <= slot < SLOTS and height > 0 and width > 0 and self.fit(size)):
            raise ValueError(f"an image of {width}x{height} in slot {slot} of {self.slot_bytes} bytes")
        return np.asarray(_Lent(self._memory, slot * self.slot_bytes, size, gone))


class _Lent:
    """The memory of an image, which is given back with the last array that shows a part of it."""

    def __init__(self, memory: mmap.mmap, at: int, size: tuple[int, int], gone: Callable[[], Any]) -> None:
        first = ctypes.addressof(ctypes.c_uint8.from_buffer(memory, at))
        self.__array_interface__ = {"version": 3, "typestr": "|u1", "shape": (*size, 3), "data": (first, False)}
        self._memory, self._gone = memory, gone

    def __del__(self) -> None:
        if not sys.is_finalizing():
            self._gone()


def nbytes(size: tuple[int, int]) -> int:
    """Of an image of (height, width)."""
    return size[0] * size[1] * 3


def size_of(picture: Image | Decoded) -> tuple[int, int]:
    """(height, width) of a picture's image."""
    if isinstance(picture, Decoded):
        return picture.size
    height, width = picture.shape[:2]
    return height, width
