"""Images that somebody names for a finished bundle, as its network sees them, with what is known to be right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from edgecv.data import clips
from edgecv.data.config import DataConfig
from edgecv.data.judging import divided, everything
from edgecv_runtime.bundle import Bundle
from edgecv_runtime.geometry import View
from edgecv_runtime.preprocess import Image, Preprocess

if TYPE_CHECKING:
    from edgecv.data.dataset import Images
    from edgecv_runtime.verify import Truths

EVERY_S = 0.1  # between frames of a clip; more in long ones
MEGAPIXELS = 50.0


class Source(Protocol):
    """Network inputs (H, W, C) uint8 by position."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Image: ...


@dataclass(frozen=True)
class Given:
    """Images as the network sees them (N, H, W, C), how it sees each, and what is known to be right of them."""

    frames: Image
    views: list[View]
    truths: Truths | None


@dataclass(frozen=True)
class Preprocessed:
    """Images that are read and preprocessed when they are asked for; `read` gives (H, W, 3) uint8 BGR."""

    preprocess: Preprocess
    read: Callable[[int], Image]
    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int, /) -> Image:
        return self.preprocess(self.read(index))


def preprocessed(preprocess: Preprocess, images: Images) -> Given:
    """Images as the network sees them, one after the other: full-size frames are not held together."""
    frames, views = [], []
    for frame in images:
        frames.append(preprocess(frame))
        views.append(preprocess.view(frame.shape[:2]))
    return Given(np.stack(frames), views, images.truths)


def to_score(opened: Bundle, data: Path, max_megapixels: float = MEGAPIXELS) -> tuple[Given, tuple[str, ...]]:
    """Images whose truths are known: in class folders named as the bundle's labels, with masks or with boxes.

    -> with what was taken, in words. Raises what `edgecv.data.judging.everything` raises.
    """
    manifest = opened.manifest
    images, told = everything(data, tuple(manifest.labels), max_megapixels, opened.path, manifest.task)
    return preprocessed(manifest.preprocess, images), told


def to_quantize(
    opened: Bundle, data: Path, calibrating: int, checking: int, max_megapixels: float = MEGAPIXELS
) -> tuple[Source, Given | None, tuple[str, ...]]:
    """Images to calibrate with; and others to check with, where truths of them are known.

    -> with what was taken, in words. Raises what `edgecv.data.judging.divided` raises.
    """
    manifest = opened.manifest
    labelled = divided(data, tuple(manifest.labels), max_megapixels, opened.path, manifest.task)
    if labelled is None:
        count = calibrating + checking
        source = DataConfig(source="clips", path=str(data), every_s=EVERY_S, max_megapixels=max_megapixels)
        found, notes = clips.spread(source, count, manifest.preprocess)
        return found.take(count), None, tuple(f"warning: {note}" for note in notes)
    calibration = labelled.calibration.take(calibrating)
    read = Preprocessed(manifest.preprocess, calibration.__getitem__, len(calibration))
    check = preprocessed(manifest.preprocess, labelled.judged.take(checking))
    return read, check, tuple(f"{data}: {line}" for line in labelled.told)
