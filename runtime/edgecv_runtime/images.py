"""Decode image files: one implementation for training, calibration, benchmark and device.

What a decoded image is: (H, W, 3) uint8 BGR, EXIF orientation applied, 16-bit scaled to 8, alpha dropped, palettes and
grey expanded, CMYK converted. A file that is not complete is refused, never half decoded.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edgecv_runtime.errors import ImageError, Unavailable
from edgecv_runtime.preprocess import Image

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
MAX_PIXELS = 50_000_000


def read(path: str | Path) -> Image:
    """Decode an image file -> (H, W, 3) uint8 BGR.

    Raises ImageError when the file is empty, no image, truncated, or larger than 50 megapixels by its header.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as exc:
        raise ImageError(f"{path}: cannot be read: {exc.strerror}") from exc
    return decode(data, str(path))


def decode(data: bytes, where: str = "image") -> Image:
    """Decode the bytes of an image file -> (H, W, 3) uint8 BGR; raises as `read` does."""
    try:
        import cv2
    except ImportError as exc:
        raise Unavailable("reading images needs OpenCV: pip install 'edgecv[cpu]'") from exc

    if not data:
        raise ImageError(f"{where}: the file is empty")
    size = header_size(data)
    if size is not None and size[0] * size[1] > MAX_PIXELS:
        raise ImageError(
            f"{where}: {size[1]}x{size[0]} is more than {MAX_PIXELS // 10**6} megapixels; scale it down first"
        )
    if not _complete(data):
        raise ImageError(f"{where}: the file is truncated: its end marker is missing; copy it again")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as exc:
        raise ImageError(f"{where}: cannot be decoded: {exc.err}") from exc
    if image is None:
        raise ImageError(f"{where}: not an image that can be decoded (starts with {data[:8]!r})")
    return np.asarray(image, np.uint8)


def find(root: str | Path) -> list[Path]:
    """All image files below a folder (or the file itself), sorted, by suffix; hidden ones are left out."""
    root = Path(root)
    if root.is_file():
        return [root]
    if not root.is_dir():
        raise ImageError(f"{root}: no such file or folder")
    return sorted(
        path
        for path in root.rglob("*")
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def header_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) in pixels as the header of a PNG, JPEG, GIF, BMP or WebP file says, else None."""
    if data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) >= 24:
        width, height = struct.unpack(">II", data[16:24])
        return height, width
    if data[:2] == b"\xff\xd8":
        return next(_jpeg_frames(data), None)
    if data[:4] == b"GIF8" and len(data) >= 10:
        width, height = struct.unpack("<HH", data[6:10])
        return height, width
    if data[:2] == b"BM" and len(data) >= 26:
        width, height = struct.unpack("<ii", data[18:26])
        return abs(height), abs(width)
    if data[:4] == b"RIFF" and data[8:16] == b"WEBPVP8X" and len(data) >= 30:
        width = int.from_bytes(data[24:27], "little") + 1
        height = int.from_bytes(data[27:30], "little") + 1
        return height, width
    return None


def _jpeg_frames(data: bytes) -> Iterator[tuple[int, int]]:
    """Walk the segments of a JPEG file (ITU-T T.81, B.1.1) and yield the size in each start-of-frame."""
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            yield height, width
        if marker == 0xDA:  # entropy-coded data follows
            return
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")


def _complete(data: bytes) -> bool:
    """Whether the end marker of a JPEG, PNG or RIFF file is there; other formats are left to the decoder."""
    if data[:2] == b"\xff\xd8":
        return b"\xff\xd9" in data[-4096:]
    if data[:4] == b"\x89PNG":
        return b"IEND" in data[-4096:]
    if data[:4] == b"RIFF":
        return len(data) >= 8 + int.from_bytes(data[4:8], "little")
    return True
