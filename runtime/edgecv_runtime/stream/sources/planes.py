"""Pictures as a decoder leaves them: half the bytes of an image, and nothing is computed for one that is dropped.

Only 4:2:0 in 8 bits, progressive and with square pixels, of even width and a height that four divides (PyAV's
`from_numpy_buffer` cuts others), which is what nearly every camera sends. Its image depends on nothing but the planes,
the colour space and the range, and so is bit for bit the same from a copy of them. Others (NV12, too) depend on what
PyAV does not tell of a frame, as where chroma was sampled, and are converted where they were decoded.
"""

from __future__ import annotations

import struct
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

import msgspec

from edgecv_runtime.errors import Unavailable

if TYPE_CHECKING:
    from edgecv_runtime.preprocess import Image

BGR = "bgr24"
FORMATS = ("yuv420p", "yuvj420p")
_MATRIX = struct.Struct("=9i")


def import_av() -> ModuleType:
    """Import PyAV, or raise Unavailable with the cure."""
    try:
        import av
    except ImportError as exc:
        raise Unavailable("video files and network streams need PyAV", extra="cpu") from exc
    return av


class Layout(msgspec.Struct, frozen=True):
    """How a picture lies in memory; raises ValueError for one that cannot be, and may come from a damaged process.

    format: BGR or one of FORMATS, plane after plane; stride: bytes from row to row, of chroma half as many.
    colorspace, color_range: FFmpeg's AVColorSpace and AVColorRange; display_matrix: what is to be applied to its image.
    """

    format: str
    height: int
    width: int
    stride: int
    colorspace: int = 0
    color_range: int = 0
    display_matrix: bytes | None = None

    def __post_init__(self) -> None:
        fits = self.format == BGR and self.stride == 3 * self.width
        if self.format in FORMATS:
            fits = self.stride >= self.width and not (self.height % 4 or self.width % 2 or self.stride % 2)
        fits = fits and 0 <= self.colorspace < 256 and 0 <= self.color_range < 256
        turned = self.display_matrix is None or len(self.display_matrix) == _MATRIX.size
        if not (fits and turned) or self.height < 1 or self.width < 1:
            raise ValueError(f"no layout of a picture: {self.width}x{self.height} {self.format}, stride {self.stride}")

    @property
    def nbytes(self) -> int:
        """Of the whole picture."""
        return self.stride * self.height * 3 // 2 if self.format in FORMATS else self.stride * self.height


class Planes:
    """A decoded picture that is not converted yet."""

    def __init__(self, frame: Any, width: int, display_matrix: bytes | None) -> None:
        """frame: PyAV's; width: of its image before it is turned upright, with square pixels."""
        self._frame = frame
        self._width = width
        self._display_matrix = display_matrix

    @classmethod
    def of(cls, frame: Any, width: int) -> Planes:
        """Those that a decoder gave."""
        return cls(frame, width, _display_matrix(frame))

    @classmethod
    def over(cls, rows: Any, layout: Layout) -> Planes:
        """Those that lie in `rows`, an array (3/2 height, stride) uint8, without a copy; it is held while they are."""
        frame = import_av().VideoFrame.from_numpy_buffer(rows, layout.format, width=layout.width)
        frame.colorspace, frame.color_range = layout.colorspace, layout.color_range
        return cls(frame, layout.width, layout.display_matrix)

    def layout(self) -> Layout | None:
        """How a copy of them lies in memory; None where they alone do not determine their image."""
        frame = self._frame
        if frame.format.name not in FORMATS or frame.interlaced_frame or frame.width != self._width:
            return None
        luma, *chroma = (plane.line_size for plane in frame.planes)
        if frame.height % 4 or frame.width % 2 or luma < frame.width or any(2 * each != luma for each in chroma):
            return None
        colours = int(frame.colorspace), int(frame.color_range)
        return Layout(frame.format.name, frame.height, frame.width, luma, *colours, self._display_matrix)

    def write_to(self, memory: memoryview) -> None:
        """Copy them into as many bytes as their layout has."""
        at = 0
        for plane in self._frame.planes:
            data = memoryview(plane)
            memory[at : at + len(data)] = data
            at += len(data)

    def image(self) -> Image:
        """As (H, W, 3) uint8 BGR, upright."""
        _keep_freed_memory()
        return _upright(self._frame.to_ndarray(format=BGR, width=self._width, **_one_thread()), self._display_matrix)


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
    return {"threads": 1} if int(import_av().__version__.partition(".")[0]) >= 17 else {}


def _display_matrix(frame: Any) -> bytes | None:
    """The display matrix that came with a frame.

    `frame.side_data` holds the frame that holds it, which then waits for the garbage collector: a camera of 640x480 had
    ninety of them, 40 MB, and each new frame came into memory that was not mapped yet.
    """
    from av.sidedata import sidedata

    contained: Any = sidedata.SideDataContainer  # PyAV's stubs do not have its constructor
    found = contained(frame)
    return bytes(found["DISPLAYMATRIX"]) if len(found) and "DISPLAYMATRIX" in found else None


def _upright(image: Image, matrix: bytes | None) -> Image:
    """Apply a display matrix (ISO 14496-12, 8.5.3; FFmpeg's libavutil/display.h) by quarter turns and mirrors.

    image: (H, W, 3) -> (H, W, 3), or (W, H, 3) after a quarter turn; contiguous. Other angles are left as they are.
    """
    import numpy as np

    if matrix is not None:
        a, b, _, c, d = _MATRIX.unpack(matrix)[:5]  # x' = a x + c y, y' = b x + d y, in 16.16 fixed point
        if a == d == 0:
            image = image.transpose(1, 0, 2)
            a, d = c, b
        elif b or c:
            return np.ascontiguousarray(image)
        image = image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    return np.ascontiguousarray(image)
