"""Masks as they lie in files: a value or a colour a pixel, never blurred, never scaled."""

from __future__ import annotations

import struct
import zlib
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgecv_runtime import formats, images
from edgecv_runtime.errors import ImageError
from edgecv_runtime.preprocess import import_cv2

_LOSSLESS = ("PNG", "BMP", "TIFF")
_SIGNATURE = 8  # bytes that a PNG begins with
_BITS, _KIND, _PALETTE = 24, 25, 3  # of a PNG: where the bits of a sample and the kind of colour stand; indexed colour


class Raster(NamedTuple):
    """A mask file's pixels, numbers (H, W), of which colours are 0xRRGGBB; palette: the colour of each number."""

    pixels: NDArray[Any]
    is_coloured: bool
    palette: NDArray[np.uint32] | None = None

    def numbers(self, by_colour: bool) -> NDArray[Any]:
        """What tells the classes apart: colours, those that a palette or grey levels stand for, too; or values."""
        if not by_colour or self.is_coloured:
            return self.pixels
        if self.palette is None:
            return self.pixels.astype(np.uint32) * 0x010101  # grey
        colours: NDArray[np.uint32] = self.palette[self.pixels]
        return colours


def read(data: bytes, where: str, max_pixels: int = images.MAX_PIXELS) -> Raster:
    """Read the bytes of a mask file: grey levels, indices into a palette, or colours, exactly as they are written.

    A picture of three equal channels is one of grey levels. Transparency is dropped.
    Raises ImageError for a format that blurs borders, for what is damaged, and for more than `max_pixels`.
    """
    kind = formats.of(data)
    if kind is None or kind.name not in _LOSSLESS:
        told = "not an image" if kind is None else f"{kind.name}, which may change the values of pixels"
        raise ImageError(f"{where}: {told if data else 'the file is empty'}; a mask wants PNG, BMP or TIFF")
    size = formats.header_size(data)
    if size is not None and size[0] * size[1] > max_pixels:
        raise ImageError(f"{where}: {size[1]}x{size[0]} is more than {max_pixels / 1e6:g} megapixels")
    if not formats.is_complete(data):
        raise ImageError(f"{where}: the file is truncated: its end marker is missing; copy it again")
    is_png = kind.name == "PNG"
    palette = _palette(data) if is_png and data[_KIND] == _PALETTE else None
    pixels = _decoded(_as_grey(data) if palette is not None else data, where)
    if pixels.ndim == 2:
        bits = data[_BITS] if is_png else 8
        # Grey of fewer bits is decoded as its brightness, 0 to 255; what it was is wanted.
        return Raster(pixels if bits >= 8 else pixels // (255 // ((1 << bits) - 1)), False, palette)
    if pixels.dtype != np.uint8:
        raise ImageError(f"{where}: colours of {8 * pixels.itemsize} bits a channel; a mask has 8")
    blue, green, red = np.moveaxis(pixels[:, :, :3], -1, 0).astype(np.uint32)
    if pixels.shape[2] >= 3 and np.array_equal(blue, green) and np.array_equal(green, red):
        return Raster(pixels[:, :, 0], False)
    return Raster(red << 16 | green << 8 | blue, True)


def _decoded(data: bytes, where: str) -> NDArray[Any]:
    cv2 = import_cv2()
    try:
        found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as exc:
        raise ImageError(f"{where}: cannot be decoded: {exc.err}") from exc
    if found is None:
        raise ImageError(f"{where}: cannot be decoded, it is damaged")
    if found.ndim == 3 and found.shape[2] == 2:  # grey with transparency
        found = found[:, :, 0]
    if found.dtype.kind != "u" or found.itemsize > 2:
        raise ImageError(f"{where}: holds {found.dtype}; a mask holds integers of 8 or 16 bits")
    return np.asarray(found)


def _chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """The chunks of a complete PNG file (RFC 2083, section 3): kind and content."""
    found, at = [], _SIGNATURE
    while at + 12 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def _palette(data: bytes) -> NDArray[np.uint32]:
    """The colours of an indexed PNG, 256 of them: what the file does not name is black."""
    plain = next((content for kind, content in _chunks(data) if kind == b"PLTE"), b"")
    colours = np.zeros((256, 3), np.uint32)
    told = np.frombuffer(plain[: len(plain) // 3 * 3], np.uint8).reshape(-1, 3)
    colours[: len(told)] = told
    numbers: NDArray[np.uint32] = (colours * np.array([1 << 16, 1 << 8, 1], np.uint32)).sum(axis=1, dtype=np.uint32)
    return numbers


def _as_grey(data: bytes) -> bytes:
    """An indexed PNG as one of grey levels, so that a decoder gives the indices: two of them may have one colour."""
    parts = [data[:_SIGNATURE]]
    for kind, content in _chunks(data):
        if kind in (b"PLTE", b"tRNS"):
            continue
        if kind == b"IHDR":
            content = content[:9] + b"\0" + content[10:]
        parts.append(struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content)))
    return b"".join(parts)
