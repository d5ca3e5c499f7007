"""Decode every file of a data set once, so that what cannot be read is known before training starts.

What was found is remembered beside edgecv's other caches, by name and version of the file: the next time only new and
changed files are decoded.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from edgecv.data.dataset import Images, Labels
from edgecv.data.progress import threaded
from edgecv.data.similar import perceptual_hash
from edgecv.data.split import listed
from edgecv.data.tree import File
from edgecv_runtime import files, images
from edgecv_runtime.errors import DatasetError, ImageError, Unavailable

log = logging.getLogger("edgecv.data")


@dataclass(frozen=True)
class Checked:
    """The files that can be decoded, each one's SHA-256, perceptual hash and size by name, and why the others cannot.

    sizes: (height, width) in pixels as decoded, that is, turned upright.
    """

    good: tuple[File, ...]
    stamps: dict[str, str]
    hashes: dict[str, bytes]
    sizes: dict[str, tuple[int, int]]
    bad: tuple[str, ...]  # one "name: reason" each
    max_pixels: int = images.MAX_PIXELS

    def images(self, labels: Labels | None = None) -> Images:
        """The files that can be decoded, as images."""
        return Images(
            names=tuple(file.name for file in self.good),
            stamps=tuple(self.stamps[file.name] for file in self.good),
            read=lambda index: images.decode(self.good[index].read(), self.good[index].name, self.max_pixels),
            truths=labels,
        )


class UnreadableFiles(DatasetError):
    """More files cannot be decoded than were allowed; `unreadable` holds one "name: reason" each."""

    def __init__(self, message: str, unreadable: Sequence[str]) -> None:
        super().__init__(message)
        self.unreadable = tuple(unreadable)


def allow(bad: Sequence[str], skip_bad: int, where: str) -> tuple[str, ...]:
    """A counted note on files that were left out; raises UnreadableFiles when they are more than `skip_bad`.

    bad: one "name: reason" each; the message names the first ten, the file that it points to has them all.
    """
    if not bad:
        return ()
    names = listed(bad) + _whole_list(bad, where)
    if len(bad) > skip_bad:
        allowed = f"skip_bad is {skip_bad}; mend or remove them, or set data.skip_bad={len(bad)}"
        raise UnreadableFiles(f"{where}: {len(bad)} unreadable files ({allowed}): {names}", bad)
    return (f"{len(bad)} unreadable files were left out: {names}",)


class _Known(msgspec.Struct, array_like=True):
    """What is known of a file. reason: why it cannot be decoded, or ""; then the others are empty."""

    version: str = ""
    stamp: str = ""
    reason: str = ""
    hash: bytes = b""
    size: tuple[int, int] = (0, 0)


class _Memory(msgspec.Struct):
    """What is remembered of a data set, by the files' names."""

    decoder: str
    pictures: dict[str, _Known] = {}


def check(found: Sequence[File], root: Path, max_pixels: int = images.MAX_PIXELS) -> Checked:
    """Decode files with threads, none of more than `max_pixels`.

    root: the folder or .zip they are in, under which the answer is remembered.
    """
    place = _memory_file(root)
    known = _remembered(place, f"{decoder_version()}, {max_pixels} pixels, with sizes")
    todo = [file for file in found if known.pictures.get(file.name, _Known()).version != file.version]
    for file, result in zip(todo, threaded(partial(_decode, max_pixels), todo, "checking images"), strict=True):
        known.pictures[file.name] = result
    if todo:
        _remember(place, known)
    of = {file.name: known.pictures[file.name] for file in found}
    good = tuple(file for file in found if not of[file.name].reason)
    bad = tuple(f"{file.name}: {of[file.name].reason}" for file in found if of[file.name].reason)
    return Checked(
        good,
        stamps={file.name: of[file.name].stamp for file in good},
        hashes={file.name: of[file.name].hash for file in good},
        sizes={file.name: of[file.name].size for file in good},
        bad=bad,
        max_pixels=max_pixels,
    )


def decoder_version() -> str:
    """What decodes and resizes: pixels that one version made are not taken for another's."""
    try:
        import cv2
    except ImportError as exc:
        raise Unavailable("reading images needs OpenCV", extra="cpu") from exc
    return f"OpenCV {cv2.__version__}"


def _decode(max_pixels: int, file: File) -> _Known:
    try:
        data = file.read()
        image = images.decode(data, file.name, max_pixels)
    except ImageError as exc:
        return _Known(file.version, reason=str(exc).removeprefix(f"{file.name}: "))
    height, width = image.shape[:2]
    return _Known(file.version, hashlib.sha256(data).hexdigest(), hash=perceptual_hash(image), size=(height, width))


def _memory_file(root: Path) -> Path | None:
    name = hashlib.sha256(os.fsencode(root.expanduser().resolve())).hexdigest()[:16]
    try:
        return files.cache_folder("checked") / f"{name}.json"
    except OSError as exc:
        log.warning("the images will be checked again next time: no cache folder: %s", exc)
        return None


def _remembered(place: Path | None, decoder: str) -> _Memory:
    fresh = _Memory(decoder)
    if place is None or not place.exists():
        return fresh
    try:
        memory = msgspec.json.decode(place.read_bytes(), type=_Memory)
    except (OSError, msgspec.DecodeError) as exc:
        log.warning("%s cannot be used, the images are checked again: %s", place, exc)
        return fresh
    return memory if memory.decoder == fresh.decoder else fresh


def _remember(place: Path | None, memory: _Memory) -> None:
    if place is None:
        return
    try:
        files.write(place, msgspec.json.encode(memory))
    except OSError as exc:
        log.warning("%s: the images will be checked again next time: %s", place, exc)


def _whole_list(bad: Sequence[str], where: str) -> str:
    """Where a list that is too long for a message can be read: " (all in FILE)"."""
    if listed(bad) == ", ".join(bad):
        return ""
    try:
        place = files.cache_folder("checked") / f"unreadable-{hashlib.sha256(where.encode()).hexdigest()[:8]}.txt"
        files.write(place, ("\n".join(bad) + "\n").encode())
    except OSError as exc:
        log.warning("the list of unreadable files could not be written: %s", exc)
        return ""
    return f" (all in {place})"
