"""Pictures as a decoder leaves them: nothing is computed for one that is dropped."""

from __future__ import annotations

import struct
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from edgecv_runtime.errors import SourceUnavailable, Unavailable
from edgecv_runtime.stream.sources import swscale

if TYPE_CHECKING:
    from edgecv_runtime.preprocess import Image

BGR = "bgr24"
_UNSPECIFIED, _RESERVED = 2, 3  # matrix coefficients of ITU-T H.273, table 4, FFmpeg's AVColorSpace
_MATRIX = struct.Struct("=9i")


def import_av() -> ModuleType:
    """Import PyAV, or raise Unavailable with the cure."""
    try:
        import av
    except ImportError as exc:
        raise Unavailable("video files and network streams need PyAV", extra="cpu") from exc
    return av


class Turn(NamedTuple):
    """How an image is made upright: transposed first, then its rows and its columns in reverse order."""

    transposed: bool = False
    rows: bool = False
    columns: bool = False


class Decoded:
    """A decoded picture that is not converted yet."""

    def __init__(self, frame: Any, width: int, source: str) -> None:
        """frame: PyAV's; width: of its image before it is turned upright, with square pixels; source: for messages."""
        if frame.colorspace == _RESERVED:  # says nothing; swscale refuses it
            frame.colorspace = _UNSPECIFIED
        self._frame = frame
        self._width = width
        self._source = source
        self._turn = _turn_of(_display_matrix(frame))

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of its image."""
        size = self._frame.height, self._width
        return size[::-1] if self._turn.transposed else size

    def image(self) -> Image:
        """As (H, W, 3) uint8 BGR, upright; raises SourceUnavailable for colours that FFmpeg cannot convert."""
        _keep_freed_memory()
        frame = self._frame
        if _av_version() == 17:  # it refuses curves and primaries that it does not convert either (PyAV#2208)
            frame.color_trc = frame.color_primaries = _UNSPECIFIED
        try:
            image = frame.to_ndarray(format=BGR, width=self._width, **_one_thread())
        except import_av().FFmpegError as exc:
            raise SourceUnavailable(
                f"{self._source}: its pictures ({frame.format.name}, colour space {int(frame.colorspace)} of H.273) "
                f"cannot be converted to BGR: {exc.strerror}; let it send BT.709 or BT.601",
                kind="no video",
            ) from exc
        return _upright(image, self._turn)

    def write_to(self, memory: memoryview) -> None:
        """Write its image, without a copy where that can be; as many bytes as it has, and swscale.READ_BEYOND more."""
        frame = self._frame
        kind = swscale.kind_of(frame) if frame.width == self._width and self._turn == Turn() else None
        conversion = kind and swscale.conversion(kind)
        if not (conversion and conversion.into(memory, frame)):
            image = self.image()
            memory[: image.nbytes] = image.data.cast("B")


@cache
def _keep_freed_memory() -> None:
    """Let images use the memory of those that were freed.

    glibc gives it back to the kernel, and each new image of 1080p costs 1,500 page faults, 3 ms beside the 1 ms of its
    conversion; unless a block as large as this was freed once, which its thresholds follow (mallopt(3),
    M_MMAP_THRESHOLD, "dynamic"). Nothing is written, so the block itself takes no memory.
    """
    import numpy as np

    np.empty(31 << 20, np.uint8)


@cache
def _one_thread() -> dict[str, int]:
    # PyAV 17 gives swscale threads of its own, which cost more than they win (bikes.mp4: 1,500 against 2,500
    # frames/s on an idle machine, 280 against 1,700 on a busy one); before, it had one and no option.
    return {"threads": 1} if _av_version() >= 17 else {}


@cache
def _av_version() -> int:
    return int(import_av().__version__.partition(".")[0])


def _display_matrix(frame: Any) -> bytes | None:
    """The display matrix that came with a frame.

    `frame.side_data` holds the frame that holds it, which then waits for the garbage collector: a camera of 640x480 had
    ninety of them, 40 MB, and each new frame came into memory that was not mapped yet.
    """
    from av.sidedata import sidedata

    contained: Any = sidedata.SideDataContainer  # PyAV's stubs do not have its constructor
    found = contained(frame)
    return bytes(found["DISPLAYMATRIX"]) if len(found) and "DISPLAYMATRIX" in found else None


def _turn_of(matrix: bytes | None) -> Turn:
    """What a display matrix does (ISO 14496-12, 8.5.3; FFmpeg's libavutil/display.h), by quarter turns and mirrors.

    Other angles are left as they are.
    """
    if matrix is None:
        return Turn()
    a, b, _, c, d = _MATRIX.unpack(matrix)[:5]  # x' = a x + c y, y' = b x + d y, in 16.16 fixed point
    if a == d == 0:
        return Turn(True, rows=b < 0, columns=c < 0)
    return Turn() if b or c else Turn(False, rows=d < 0, columns=a < 0)


def _upright(image: Image, turn: Turn) -> Image:
    """(H, W, 3) -> (H, W, 3), or (W, H, 3) after a quarter turn; contiguous."""
    import numpy as np

    if turn.transposed:
        image = image.transpose(1, 0, 2)
    return np.ascontiguousarray(image[:: -1 if turn.rows else 1, :: -1 if turn.columns else 1])
