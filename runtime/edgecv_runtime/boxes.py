"""Boxes of ISO media files (ISO/IEC 14496-12): how large an AVIF or JPEG 2000 picture is, and how it is turned.

OpenCV 5.0 decodes AVIF and leaves out the rotation and mirroring that the file asks for (HEIF, ISO/IEC 23008-12, 6.5.10
and 6.5.12), which phones write instead of an EXIF tag.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from edgecv_runtime.preprocess import Image


class Picture(NamedTuple):
    """What the properties of a file's primary picture say.

    size: (height, width) as it is stored; steps: what is done to show it, in order: ("irot", quarter turns
    counter-clockwise) and ("imir", 0 for top and bottom exchanged or 1 for left and right).
    """

    size: tuple[int, int] | None
    steps: tuple[tuple[str, int], ...] = ()

    def turned(self, image: Image) -> Image:
        """An image (H, W, C) as it shall be seen."""
        for kind, value in self.steps:
            image = np.rot90(image, value) if kind == "irot" else np.flip(image, value)
        return np.ascontiguousarray(image)


def avif(data: bytes) -> Picture:
    """The primary picture of an AVIF file; raises struct.error or IndexError where the file is cut off."""
    meta = next((body for kind, body in boxes(data) if kind == b"meta"), b"")
    inside = dict(boxes(meta[4:]))  # behind version and flags
    item = _primary(inside.get(b"pitm", b""))
    properties = [*boxes(inside.get(b"iprp", b""))]
    listed = [each for kind, body in properties if kind == b"ipco" for each in boxes(body)]
    size, steps = None, []
    for number in (each for kind, body in properties if kind == b"ipma" for each in _associated(body, item)):
        kind, body = listed[number - 1]
        if kind == b"ispe":
            width, height = struct.unpack(">II", body[4:12])
            size = (height, width)
        elif kind == b"irot":
            steps.append(("irot", body[0] & 3))
        elif kind == b"imir":
            steps.append(("imir", body[0] & 1))
    return Picture(size, tuple(steps))


def jpeg2000(data: bytes) -> Picture:
    """The picture of a JP2 file (ISO/IEC 15444-1, I.5.3.1) or of a bare codestream (A.5.1)."""
    if data[:4] == b"\xff\x4f\xff\x51":
        right, bottom, left, top = struct.unpack(">IIII", data[8:24])
        return Picture((bottom - top, right - left))
    header = next((body for kind, body in boxes(data) if kind == b"jp2h"), b"")
    sizes = next((body for kind, body in boxes(header) if kind == b"ihdr"), None)
    return Picture(struct.unpack(">II", sizes[:8]) if sizes else None)


def boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The boxes of one level: (kind, body)."""
    at = 0
    while at + 8 <= len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        start = at + 8
        if size == 1:
            (size,) = struct.unpack(">Q", data[start : start + 8])
            start += 8
        end = at + size if size else len(data)
        if end < start:
            return  # no size that a box can have: what follows cannot be found
        yield kind, data[start:end]
        at = end


def _primary(body: bytes) -> int:
    """The number of the primary item."""
    return int(struct.unpack(">H", body[4:6])[0] if body[:1] == b"\0" else struct.unpack(">I", body[4:8])[0])


def _associated(body: bytes, item: int) -> list[int]:
    """The numbers of an item's properties, from 1, in their order (ISO/IEC 23008-12, 9.3.2)."""
    version, wide = body[0], body[3] & 1
    (entries,) = struct.unpack(">I", body[4:8])
    at = 8
    for _ in range(entries):
        (number,) = struct.unpack(">H" if version < 1 else ">I", body[at : at + (2 if version < 1 else 4)])
        at += 2 if version < 1 else 4
        count = body[at]
        at += 1
        step = 2 if wide else 1
        found = [int.from_bytes(body[at + step * each : at + step * (each + 1)], "big") for each in range(count)]
        at += step * count
        if number == item:
            return [each & (0x7FFF if wide else 0x7F) for each in found if each & (0x7FFF if wide else 0x7F)]
    return []
