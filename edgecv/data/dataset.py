"""What every source gives: lazily read images with names, content stamps and, where there are any, labels."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecv_runtime.errors import BadInput, DatasetError
from edgecv_runtime.preprocess import Image

Labels = NDArray[np.int64]
_NAMED = 10  # classes that a line names; of more, the first seven and the last two


class NoTruths(DatasetError):
    """A folder holds images and nothing that says what is right of them."""


@dataclass(frozen=True, eq=False)
class Images:
    """A sequence of images that are read when they are asked for.

    names: file or frame of each image, for messages; stamps: what identifies each image's content (a SHA-256) and that
    of its truth where it is read lazily, too; read: position -> (H, W, 3) uint8 BGR.
    truths: what is known to be right of each image, by position: (N,) int64 class positions, or a sequence of masks
    (H, W) uint8 or of boxes, in the image's own geometry; None when there are none.
    """

    names: tuple[str, ...]
    stamps: tuple[str, ...]
    read: Callable[[int], Image]
    truths: Labels | Sequence[Any] | None = None

    def __post_init__(self) -> None:
        known = len(self.names) if self.truths is None else len(self.truths)
        if not len(self.names) == len(self.stamps) == known:
            raise BadInput(f"{len(self.names)} names, {len(self.stamps)} stamps and {known} truths do not match")

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Image:
        """Read one image -> (H, W, 3) uint8 BGR; raises IndexError, or ImageError when it cannot be decoded."""
        return self.read(range(len(self))[index])

    def __iter__(self) -> Iterator[Image]:
        return (self.read(index) for index in range(len(self)))

    def name(self, index: int) -> str:
        """The file or frame that an image came from."""
        return self.names[index]

    @property
    def labels(self) -> Labels | None:
        """The truths where each image has a class (N,), else None."""
        return self.truths if isinstance(self.truths, np.ndarray) else None

    def labelled(self, labels: Labels) -> Images:
        """The same images with labels (N,)."""
        return Images(self.names, self.stamps, self.read, labels)

    def with_truths(self, change: Callable[[Any], Any]) -> Images:
        """The same images; each truth, a mask or boxes, is changed when it is asked for."""
        assert self.truths is not None
        assert not isinstance(self.truths, np.ndarray)
        return Images(self.names, self.stamps, self.read, _Changed(self.truths, change))

    def fingerprint(self) -> str:
        """SHA-256 over the content and labels of all images, in their order, as 64 hexadecimal digits."""
        digest = hashlib.sha256("\n".join(self.stamps).encode())
        if self.labels is not None:
            digest.update(self.labels.tobytes())
        return digest.hexdigest()

    def pick(self, indices: Sequence[int] | NDArray[np.int64]) -> Images:
        """The images at some positions, in that order."""
        chosen = [range(len(self))[int(index)] for index in indices]
        return Images(
            names=tuple(self.names[index] for index in chosen),
            stamps=tuple(self.stamps[index] for index in chosen),
            read=lambda position: self.read(chosen[position]),
            truths=None if self.truths is None else _picked(self.truths, chosen),
        )

    def take(self, count: int, seed: int = 0) -> Images:
        """A seeded choice of `count` images (or all, when there are fewer), in their own order.

        Labelled images are balanced: class by class in turn, so that counts differ by at most one while images last.
        """
        order = np.random.default_rng(seed).permutation(len(self))
        if self.labels is not None:
            turn = _rank_in_class(self.labels[order])
            order = order[np.argsort(turn, kind="stable")]
        return self.pick(np.sort(order[:count]))


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images to train or calibrate on, others to validate on and, where the source keeps them apart, some to test with.

    classes: names in the order of the labels, empty when the images have none; notes: counted warnings, one line each;
    test: images that choose nothing (no epoch, no int8 file) and only score what is finished, or None.
    task: what their truths are for: "classification" of labels, "segmentation" of masks, "detection" of boxes.
    """

    classes: tuple[str, ...]
    train: Images
    val: Images
    notes: tuple[str, ...] = ()
    test: Images | None = None
    task: str = "classification"

    def summary(self) -> str:
        """How many images of which classes, in one line: the first classes' names and the last."""
        counts = f"{len(self.train)} training and {len(self.val)} validation images"
        if self.test is not None:
            counts = f"{len(self.train)} training, {len(self.val)} validation and {len(self.test)} test images"
        if not self.classes:
            return f"{counts}, no labels"
        names = ", ".join(self.classes)
        if len(self.classes) > _NAMED:
            names = f"{', '.join(self.classes[: _NAMED - 3])} ... {', '.join(self.classes[-2:])}"
        return f"{counts}, {len(self.classes)} classes: {names}"


def from_arrays(names: Sequence[str], images: Iterable[Image], labels: Labels | None = None) -> Images:
    """Wrap images that are in memory, each (H, W, 3) uint8 BGR; they can be read only from then on."""
    held = [np.ascontiguousarray(image) for image in images]
    for image in held:
        image.flags.writeable = False
    stamps = tuple(hashlib.sha256(str(image.shape).encode() + image.tobytes()).hexdigest() for image in held)
    return Images(tuple(names), stamps, held.__getitem__, labels)


def _picked(truths: Labels | Sequence[Any], chosen: list[int]) -> Labels | Sequence[Any]:
    """The truths at some positions; those that are read lazily are still not read."""
    return truths[np.array(chosen, np.int64)] if isinstance(truths, np.ndarray) else _Picked(truths, chosen)


class _Picked(Sequence[Any]):
    """Some of a sequence, each found when it is asked for."""

    def __init__(self, inner: Sequence[Any], chosen: list[int]) -> None:
        self._inner, self._chosen = inner, chosen

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: Any) -> Any:
        return self._inner[self._chosen[index]]


class _Changed(Sequence[Any]):
    """A sequence whose items are changed when they are asked for."""

    def __init__(self, inner: Sequence[Any], change: Callable[[Any], Any]) -> None:
        self._inner, self._change = inner, change

    def __len__(self) -> int:
        return len(self._inner)

    def __getitem__(self, index: Any) -> Any:
        return self._change(self._inner[index])


def _rank_in_class(labels: Labels) -> Labels:
    """For each position, how many earlier positions hold the same label."""
    order = np.argsort(labels, kind="stable")
    grouped = labels[order]
    starts = np.searchsorted(grouped, grouped)  # first position of each one's group
    rank = np.empty(len(labels), np.int64)
    rank[order] = np.arange(len(labels)) - starts
    return rank
