"""Decode image files: one implementation for training, calibration, benchmark and device.

What a decoded image is: (H, W, 3) uint8 BGR, EXIF orientation applied, 16-bit scaled to 8, alpha dropped, palettes and
grey expanded, CMYK converted. A file without its end is refused, never half decoded.
"""

from __future__ import annotations

import struct
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edgecv_runtime import boxes, formats
from edgecv_runtime.errors import ImageError
from edgecv_runtime.listing import is_file, is_folder, kinds, walk
from edgecv_runtime.preprocess import Image, import_cv2

MAX_PIXELS = 50_000_000


class Found(NamedTuple):
    """What lies below a folder: the images, and what was left out.

    skipped: hidden and system entries, a whole folder as one; others: files that are no images; special: pipes,
    sockets, devices and links to folders.
    """

    images: tuple[Path, ...]
    skipped: tuple[Path, ...] = ()
    others: tuple[Path, ...] = ()
    special: tuple[Path, ...] = ()

    def left_out(self) -> str:
        """What was left out, counted, in one line; empty when that is nothing."""
        told = []
        if self.others:
            told.append(f"{len(self.others)} files that are no images ({kinds(path.name for path in self.others)})")
        if self.skipped:
            told.append(f"{len(self.skipped)} hidden or system files and folders")
        if self.special:
            told.append(f"{len(self.special)} pipes, sockets, devices or links to folders")
        return ", ".join(told)


def read(path: str | Path, max_pixels: int = MAX_PIXELS) -> Image:
    """Decode an image file -> (H, W, 3) uint8 BGR.

    max_pixels: what a picture may have by its header; decoding takes 3 bytes for each.
    Raises ImageError when the file is empty, no image, truncated, or larger than `max_pixels`.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():  # reading a pipe would wait for ever
            raise ImageError(
                f"{path}: {'a folder' if path.is_dir() else 'a pipe, socket or device'}, not an image file"
            )
        data = path.read_bytes()
    except OSError as exc:
        raise ImageError(f"{path}: cannot be read: {exc.strerror}") from exc
    return decode(data, str(path), max_pixels)


def decode(data: bytes, where: str = "image", max_pixels: int = MAX_PIXELS) -> Image:
    """Decode the bytes of an image file -> (H, W, 3) uint8 BGR; raises as `read` does."""
    cv2 = import_cv2()
    if not data:
        raise ImageError(f"{where}: the file is empty")
    kind = formats.of(data)
    told = formats.foreign(data) if kind is None else None
    if told is not None:
        raise ImageError(f"{where}: {told}")
    size = formats.header_size(data)
    if size is not None and size[0] * size[1] > max_pixels:
        raise ImageError(
            f"{where}: {size[1]}x{size[0]} is more than {max_pixels / 1e6:g} megapixels; scale it down first, or allow "
            "more (max_pixels, --max-megapixels, data.max_megapixels)"
        )
    if not formats.is_complete(data):
        raise ImageError(f"{where}: the file is truncated: its end marker is missing; copy it again")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as exc:
        raise ImageError(f"{where}: cannot be decoded: {exc.err}") from exc
    if image is None:
        what = f"{kind.name}, which this OpenCV does not decode" if kind else "not an image that can be decoded"
        raise ImageError(f"{where}: {what} (starts with {data[:8]!r})")
    image = np.asarray(image, np.uint8)
    if kind is None or kind.name != "AVIF":
        return image
    try:
        return boxes.avif(data).turned(image)
    except (struct.error, IndexError) as exc:
        raise ImageError(
            f"{where}: how this AVIF is turned cannot be read: its boxes are damaged or unusual; save it as JPEG or PNG"
        ) from exc


def find(root: str | Path) -> list[Path]:
    """All image files below a folder (or the file itself), sorted, by suffix or content; hidden ones are left out."""
    return list(look(root).images)


def look(root: str | Path) -> Found:
    """All files below a folder, told apart; a file is itself. Raises ImageError when there is neither."""
    root = Path(root)
    try:
        if not root.is_dir():
            root.stat()
            return Found((root,))
    except OSError as exc:  # also a name that no file system takes
        missing = isinstance(exc, FileNotFoundError | NotADirectoryError)
        raise ImageError(f"{root}: {'no such file or folder' if missing else exc.strerror}") from exc
    images: list[Path] = []
    others: list[Path] = []
    special: list[Path] = []
    skipped: list[str] = []
    try:
        for entry in walk(root, skipped):
            path = Path(entry.path)
            if entry.is_dir(follow_symlinks=False):
                continue
            if is_folder(entry) or (path.exists() and not is_file(entry)):
                special.append(path)
            else:
                (images if formats.is_image(entry.name, partial(head, path)) else others).append(path)
    except OSError as exc:
        raise ImageError(f"{exc.filename or root}: cannot be listed: {exc.strerror}") from exc
    return Found(tuple(sorted(images)), tuple(map(Path, skipped)), tuple(others), tuple(special))


def head(path: Path) -> bytes:
    """The first bytes of a file, which tell its format; none where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(formats.HEAD)
    except OSError:  # a link to nothing, another's file: no image that could be shown
        return b""
