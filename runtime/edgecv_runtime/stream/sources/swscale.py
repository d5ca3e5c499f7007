"""swscale of the FFmpeg that PyAV brings, called directly: PyAV itself converts only into memory that it allocates.

Only 4:2:0 in 8 bits, progressive, of even sizes, which is what nearly every camera sends: its image depends on nothing
but the planes, the colour space and the range. Others depend on what PyAV does not tell of a frame, as where chroma was
sampled. A conversion is used after it gave, for planes of noise, bit for bit what PyAV's gives.
"""

from __future__ import annotations

import ctypes
import hashlib
import weakref
from functools import cache, lru_cache
from typing import Any, NamedTuple

FORMATS = ("yuv420p", "yuvj420p")
_BILINEAR = 2  # SWS_BILINEAR, which PyAV takes
_FULL = 2  # AVCOL_RANGE_JPEG
_ONE = 1 << 16  # of contrast and saturation
READ_BEYOND = 64  # bytes that it may touch behind the last row: it works in whole registers
_NOISE = 1 << 16


class Kind(NamedTuple):
    """What a conversion depends on; colorspace and color_range: FFmpeg's AVColorSpace and AVColorRange."""

    format: str
    height: int
    width: int
    colorspace: int
    color_range: int


def kind_of(frame: Any) -> Kind | None:
    """Of PyAV's frame; None where its planes alone do not determine its image."""
    if frame.format.name not in FORMATS or frame.interlaced_frame or frame.height % 2 or frame.width % 2:
        return None
    return Kind(frame.format.name, frame.height, frame.width, int(frame.colorspace), int(frame.color_range))


@lru_cache(4)
def conversion(kind: Kind) -> Conversion | None:
    """From planes to BGR in memory that is given; None where there is none that gives what PyAV's gives."""
    library = _library()
    if library is None:
        return None
    found = Conversion(library, kind)
    return found if found.usable and _agrees(found, kind) else None


class Conversion:
    """Of one kind of planes, into rows of BGR."""

    def __init__(self, library: Any, kind: Kind) -> None:
        self._scale, self._height, self._stride = library.sws_scale, kind.height, 3 * kind.width
        given, wanted = ((kind.width, kind.height, library.av_get_pix_fmt(name)) for name in (b"yuv420p", b"bgr24"))
        self._context = library.sws_getContext(*given, *wanted, _BILINEAR, None, None, None)
        self.usable = bool(self._context)
        if self.usable:
            weakref.finalize(self, library.sws_freeContext, self._context)
            table = library.sws_getCoefficients(kind.colorspace)
            full = kind.format == "yuvj420p" or kind.color_range == _FULL
            library.sws_setColorspaceDetails(self._context, table, full, table, 1, 0, _ONE, _ONE)

    def into(self, memory: memoryview, frame: Any) -> bool:
        """Write the image of PyAV's frame, as contiguous rows; READ_BEYOND more bytes must be there.

        Whether all was written: else the image that was in the memory before is there still.
        """
        planes = frame.planes
        data = (ctypes.c_void_p * 4)(*(plane.buffer_ptr for plane in planes))
        strides = (ctypes.c_int * 4)(*(plane.line_size for plane in planes))
        first = ctypes.addressof(ctypes.c_uint8.from_buffer(memory))
        rows, stride = (ctypes.c_void_p * 4)(first), (ctypes.c_int * 4)(self._stride)
        written: int = self._scale(self._context, data, strides, 0, self._height, rows, stride)
        return written == self._height


@cache
def _library() -> Any:
    """libswscale, found through the extension of PyAV that is linked against it; None where it cannot be."""
    try:
        import av.video.reformatter

        library = ctypes.CDLL(av.video.reformatter.__file__)
        number, pointer = ctypes.c_int, ctypes.c_void_p
        signatures = {
            "av_get_pix_fmt": (number, [ctypes.c_char_p]),
            "sws_getContext": (pointer, [number] * 7 + [pointer] * 3),
            "sws_getCoefficients": (pointer, [number]),
            "sws_setColorspaceDetails": (number, [pointer, pointer, number, pointer, *[number] * 4]),
            "sws_scale": (number, [pointer, pointer, pointer, number, number, pointer, pointer]),
            "sws_freeContext": (None, [pointer]),
        }
        for name, (result, arguments) in signatures.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (ImportError, OSError, AttributeError):
        return None
    return library


def _agrees(found: Conversion, kind: Kind) -> bool:
    """Whether planes of noise become the same as by PyAV."""
    import av

    frame = av.VideoFrame(kind.width, kind.height, kind.format)
    frame.colorspace, frame.color_range = kind.colorspace, kind.color_range
    noise = hashlib.shake_128(b"edgecv").digest(_NOISE)
    for plane in frame.planes:
        plane.update((noise * (plane.buffer_size // _NOISE + 1))[: plane.buffer_size])
    stride = 3 * kind.width
    memory = memoryview(bytearray(kind.height * stride + READ_BEYOND))
    if not found.into(memory, frame):
        return False
    try:
        (expected,) = frame.reformat(format="bgr24").planes
    except av.FFmpegError:  # of a colour space that it does not know
        return False
    rows = memoryview(expected)
    return all(
        bytes(memory[y * stride : (y + 1) * stride]) == bytes(rows[y * expected.line_size :][:stride])
        for y in range(kind.height)
    )
