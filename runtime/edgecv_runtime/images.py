"""Decode image files: one implementation for training, calibration, benchmark and device.

What a decoded image is: (H, W, 3) uint8 BGR, EXIF orientation applied, 16-bit scaled to 8, alpha dropped, palettes and
grey expanded, CMYK converted. A file without its end is refused, never half decoded.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from edgecv_runtime.errors import ImageError
from edgecv_runtime.preprocess import Image, import_cv2

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
MAX_PIXELS = 50_000_000
_PNG = b"\x89PNG\r\n\x1a\n"


def read(path: str | Path, max_pixels: int = MAX_PIXELS) -> Image:
    """Decode an image file -> (H, W, 3) uint8 BGR.

    max_pixels: what a picture may have by its header; decoding takes 3 bytes for each.
    Raises ImageError when the file is empty, no image, truncated, or larger than `max_pixels`.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as exc:
        raise ImageError(f"{path}: cannot be read: {exc.strerror}") from exc
    return decode(data, str(path), max_pixels)


def decode(data: bytes, where: str = "image", max_pixels: int = MAX_PIXELS) -> Image:
    """Decode the bytes of an image file -> (H, W, 3) uint8 BGR; raises as `read` does."""
    cv2 = import_cv2()
    if not data:
        raise ImageError(f"{where}: the file is empty")
    size = header_size(data)
    if size is not None and size[0] * size[1] > max_pixels:
        raise ImageError(
            f"{where}: {size[1]}x{size[0]} is more than {max_pixels / 1e6:g} megapixels; scale it down first, or allow "
            "more (max_pixels, --max-megapixels, data.max_megapixels)"
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
        if path.suffix.lower() in SUFFIXES and path.is_file() and not _hidden(path.relative_to(root))
    )


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def header_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) in pixels as the header of a PNG, JPEG, GIF, BMP, WebP or TIFF file says, else None."""
    try:
        if data[:8] == _PNG:
            width, height = struct.unpack(">II", data[16:24])
            return height, width
        if data[:2] == b"\xff\xd8":
            return _jpeg(data)[0]
        if data[:4] == b"GIF8":
            width, height = struct.unpack("<HH", data[6:10])
            return height, width
        if data[:2] == b"BM":
            width, height = struct.unpack("<ii", data[18:26])
            return abs(height), abs(width)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp(data)
        if data[:4] in (b"II*\0", b"MM\0*"):
            return _tiff(data)
    except (struct.error, IndexError):
        return None  # cut off inside its header: the decoder will say so
    return None


def _jpeg(data: bytes) -> tuple[tuple[int, int] | None, int]:
    """Walk the segments of a JPEG file (ITU-T T.81, B.1.1): its size, and where the first scan starts (0: nowhere)."""
    size, at = None, 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            size = (height, width)
        if marker == 0xDA:  # entropy-coded data follows
            return size, at
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return size, 0


def _webp(data: bytes) -> tuple[int, int] | None:
    """Size in a WebP container's first chunk (RFC 9649): extended, lossless or lossy."""
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[27:30], "little"), 1 + int.from_bytes(data[24:27], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack("<HH", data[26:30])
        return height & 0x3FFF, width & 0x3FFF
    return None


def _tiff(data: bytes) -> tuple[int, int] | None:
    """Size in the first directory of a TIFF file (TIFF 6.0, section 2): tags 256 (width) and 257 (height)."""
    order = "<" if data[:2] == b"II" else ">"
    (at,) = struct.unpack(order + "I", data[4:8])
    (count,) = struct.unpack(order + "H", data[at : at + 2])
    sides: dict[int, int] = {}
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        tag, kind = struct.unpack(order + "HH", data[entry : entry + 4])
        if tag in (256, 257):
            (sides[tag],) = struct.unpack(
                order + ("H" if kind == 3 else "I"), data[entry + 8 : entry + (10 if kind == 3 else 12)]
            )
    return (sides[257], sides[256]) if len(sides) == 2 else None


def _complete(data: bytes) -> bool:
    """Whether the end marker of a JPEG, PNG or RIFF file is there; other formats are left to the decoder.

    What cameras append behind the end marker (motion photos, maker's notes) does not matter.
    """
    if data[:2] == b"\xff\xd8":
        scan = _jpeg(data)[1]
        return bool(scan) and data.find(b"\xff\xd9", scan) >= 0
    if data[:8] == _PNG:
        at = 8
        while at + 12 <= len(data):
            if data[at + 4 : at + 8] == b"IEND":
                return True
            at += 12 + int.from_bytes(data[at : at + 4], "big")
        return False
    if data[:4] == b"RIFF":
        return len(data) >= 8 + int.from_bytes(data[4:8], "little")
    return True
