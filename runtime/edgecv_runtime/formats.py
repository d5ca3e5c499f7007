"""Formats of image files: which there are, how the first bytes tell them, how large a picture is, whether it is whole.

One table for everything that looks for images: what one verb knows and another does not is lost silently.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from edgecv_runtime import boxes
from edgecv_runtime.listing import suffix
from edgecv_runtime.preprocess import import_cv2

Size = tuple[int, int]  # (height, width) in pixels
HEAD = 64  # bytes that tell a format
_PNG = b"\x89PNG\r\n\x1a\n"


class Format(NamedTuple):
    """A format that OpenCV decodes, in builds that have it.

    suffixes: of its files; writer: the suffix under which OpenCV says whether this build has the format; begins: what
    its first bytes match, a regular expression that is compiled when it is first needed; size: header -> (height,
    width), or None where it does not say; raises struct.error, IndexError or ValueError where a header is cut off.
    """

    name: str
    suffixes: tuple[str, ...]
    writer: str
    begins: bytes
    size: Callable[[bytes], Size | None]


def of(data: bytes) -> Format | None:
    """The format that a file's first bytes tell, whether or not this OpenCV has it."""
    return next((each for each in FORMATS if re.match(each.begins, data, re.S)), None)


@lru_cache(maxsize=1)
def suffixes() -> tuple[str, ...]:
    """The suffixes of all formats that the OpenCV of this machine decodes, in lower case with their dots."""
    return tuple(each for row in FORMATS if _decodes(row) for each in row.suffixes)


def is_image(name: str, head: Callable[[], bytes]) -> bool:
    """Whether a file is an image by its suffix or, when the suffix is none of an image, by its first HEAD bytes.

    A TIFF header counts only under a suffix of its own or without one: cameras' raw formats begin with the same bytes,
    and what would be decoded is their thumbnail.
    """
    own = suffix(name)
    if own in suffixes():
        return True
    found = of(head())
    return found is not None and _decodes(found) and (found.name != "TIFF" or not own)


def header_size(data: bytes) -> Size | None:
    """(height, width) in pixels as a file's header says, else None."""
    found = of(data)
    try:
        return found.size(data) if found else None
    except (struct.error, IndexError, ValueError):
        return None  # cut off inside its header: the decoder will say so


def is_complete(data: bytes) -> bool:
    """Whether the end marker of a JPEG, PNG or RIFF file is there; other formats are left to the decoder.

    What cameras append behind the end marker (motion photos, maker's notes) does not matter.
    """
    if data[:2] == b"\xff\xd8":
        scan = _jpeg(data)[1]
        return bool(scan) and data.rfind(b"\xff\xd9", scan) >= 0  # from the end, where it is
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


def foreign(data: bytes) -> str | None:
    """What a file is that OpenCV does not decode, with what to do about it; None when that is not known."""
    return next((told for begins, told in _FOREIGN if re.match(begins, data, re.S)), None)


def _decodes(row: Format) -> bool:
    return bool(import_cv2().haveImageWriter("x" + row.writer))


def _jpeg(data: bytes) -> tuple[Size | None, int]:
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


def _png(data: bytes) -> Size:
    width, height = struct.unpack(">II", data[16:24])
    return height, width


def _gif(data: bytes) -> Size:
    width, height = struct.unpack("<HH", data[6:10])
    return height, width


def _bmp(data: bytes) -> Size:
    """Size in a bitmap's header: OS/2's first one has 16 bits a side, all later ones 32."""
    width, height = (
        struct.unpack("<HH", data[18:22]) if data[14:18] == b"\x0c\0\0\0" else struct.unpack("<ii", data[18:26])
    )
    return abs(height), abs(width)


def _webp(data: bytes) -> Size | None:
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


def _tiff(data: bytes) -> Size | None:
    """Size in the first directory of a TIFF or BigTIFF file (TIFF 6.0, section 2): tags 256 and 257."""
    order = "<" if data[:2] == b"II" else ">"
    big = 43 in data[2:4]
    offset, number, entry_size, value = ("Q", "Q", 20, 12) if big else ("I", "H", 12, 8)
    (at,) = struct.unpack_from(order + offset, data, 8 if big else 4)
    (count,) = struct.unpack_from(order + number, data, at)
    sides: dict[int, int] = {}
    for entry in range(at + struct.calcsize(number), at + struct.calcsize(number) + entry_size * count, entry_size):
        tag, kind = struct.unpack_from(order + "HH", data, entry)
        if tag in (256, 257):
            (sides[tag],) = struct.unpack_from(order + ("H" if kind == 3 else "I"), data, entry + value)
    return (sides[257], sides[256]) if len(sides) == 2 else None


def _netpbm(data: bytes) -> Size:
    """Size in the text that a PBM, PGM, PPM or PAM file begins with; "#" begins a comment."""
    text = re.sub(rb"#[^\n]*", b"", data[:4096])
    if text[:2] == b"P7":
        facts = dict(line.split()[:2] for line in text.split(b"\n") if len(line.split()) == 2)
        return int(facts.get(b"HEIGHT", b"")), int(facts.get(b"WIDTH", b""))
    _, width, height = text.split()[:3]
    return int(height), int(width)


def _sun(data: bytes) -> Size:
    width, height = struct.unpack(">II", data[4:12])
    return height, width


FORMATS = (
    Format(
        "JPEG",
        (".jpg", ".jpeg", ".jpe", ".jfif", ".jfi", ".jif", ".pjpeg", ".pjp", ".mpo"),
        ".jpg",
        rb"\xff\xd8\xff",
        lambda data: _jpeg(data)[0],
    ),
    Format("PNG", (".png", ".apng"), ".png", rb"\x89PNG\r\n\x1a\n", _png),
    Format("GIF", (".gif",), ".gif", rb"GIF8[79]a", _gif),
    Format("BMP", (".bmp", ".dib"), ".bmp", rb"BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0\0\0", _bmp),
    Format("WebP", (".webp",), ".webp", rb"RIFF.{4}WEBP", _webp),
    Format("TIFF", (".tif", ".tiff"), ".tiff", rb"II[*+]\0|MM\0[*+]", _tiff),
    Format(
        "AVIF",
        (".avif", ".avifs"),
        ".avif",
        rb".{4}ftyp(avi[fs]|.{4}.{4}(.{4}){0,8}avi[fs])",
        lambda data: boxes.avif(data).size,
    ),
    Format(
        "JPEG 2000",
        (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
        ".jp2",
        rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51",
        lambda data: boxes.jpeg2000(data).size,
    ),
    Format(
        "Netpbm",
        (".pbm", ".pgm", ".ppm", ".pnm", ".pam"),
        ".ppm",
        rb"P[1-6]\s+(#[^\n]*\s+)*\d+\s|P7\n",
        _netpbm,
    ),
    Format("Sun raster", (".ras", ".sr"), ".ras", rb"\x59\xa6\x6a\x95", _sun),
)
_AS_JPEG = "save it as JPEG or PNG"
# What people have in their folders and OpenCV has no decoder for, or none to 8 bits.
_FOREIGN = (
    (rb".{4}ftyp(hei[cmsx]|hev[cmsx]|mif1|msf1)", f"HEIC is not decoded here: {_AS_JPEG}"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", f"JPEG XL is not decoded here: {_AS_JPEG}"),
    (rb"8BPS", f"a Photoshop file is not decoded here: {_AS_JPEG}"),
    (rb"\0\0[\1\2]\0[^\0]\0", f"an icon is not decoded here: {_AS_JPEG}"),
    (rb"<\?xml|<svg", f"a drawing is not decoded here: {_AS_JPEG}"),
    (
        rb"#\?RADIANCE|#\?RGBE|PF\n|Pf\n|v/1\x01",
        "floating-point pictures have no 8 bits of their own: " + _AS_JPEG,
    ),
    (rb"%PDF", "a PDF holds pages, no picture: save each as JPEG or PNG"),
)
