"""A seeded, stratified division that never puts the same image on both sides."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from edgecv.data.dataset import Images
from edgecv_runtime.errors import DatasetError


def hold_out(images: Images, classes: Sequence[str], share: float, seed: int) -> tuple[Images, Images]:
    """Divide labelled images into those to train on and those to validate on.

    share: of each class that is held out, rounded, at least one image and never all. Which ones follows from the seed
    and the images' content alone, not from names or order, and adding an image hardly moves the others. Copies of an
    image stay on one side.
    Raises DatasetError when a class has fewer than two different images.
    """
    if images.labels is None:
        raise DatasetError("images without labels cannot be divided by class")
    held: dict[str, bool] = {}  # content -> whether it is held out
    short: list[str] = []
    for label, name in enumerate(classes):
        stamps = {images.stamps[index] for index in np.flatnonzero(images.labels == label)}
        wanted = min(max(1, round(len(stamps) * share)), len(stamps) - 1)
        wanted -= sum(held.get(stamp, False) for stamp in stamps)
        free = sorted(stamps - held.keys(), key=lambda stamp: _draw(seed, stamp))
        held.update({stamp: position < wanted for position, stamp in enumerate(free)})
        if len({held[stamp] for stamp in stamps}) < 2:
            short.append(f"'{name}' has {len(stamps)}")
    if short:
        raise DatasetError(
            f"a class wants at least 2 different images, one to train and one to validate on: {listed(short)}; "
            "add images or remove the class"
        )
    side = np.array([held[stamp] for stamp in images.stamps])
    return images.pick(np.flatnonzero(~side)), images.pick(np.flatnonzero(side))


def divide(images: Images, share: float, seed: int) -> tuple[Images, Images]:
    """Divide images without labels likewise; one different image alone goes to the first side."""
    stamps = sorted(set(images.stamps), key=lambda stamp: _draw(seed, stamp))
    held = set(stamps[: min(max(1, round(len(stamps) * share)), max(0, len(stamps) - 1))])
    side = np.array([stamp in held for stamp in images.stamps], bool)
    return images.pick(np.flatnonzero(~side)), images.pick(np.flatnonzero(side))


def calibrated(images: Images, share: float, seed: int) -> tuple[Images, Images]:
    """Divide labelled images, of whatever classes there are, into those to calibrate with and those to judge on.

    As `hold_out` divides them where every class has two images, so that a bundle is judged on none that `build` trained
    on when it divided the same folder in the same share; else without regard to classes.
    """
    assert images.labels is not None
    present, labels = np.unique(images.labels, return_inverse=True)
    contents = [{images.stamps[index] for index in np.flatnonzero(labels == label)} for label in range(len(present))]
    if any(len(each) < 2 for each in contents):
        return divide(images, share, seed)
    train, val = hold_out(images.labelled(labels.astype(np.int64)), [str(label) for label in present], share, seed)
    return train.labelled(present[train.labels]), val.labelled(present[val.labels])


def listed(items: Sequence[str], most: int = 10) -> str:
    """Join items for a message; after `most` of them only their number is given."""
    rest = len(items) - most
    return ", ".join(items[:most]) + (f" ... and {rest} more" if rest > 0 else "")


def _draw(seed: int, stamp: str) -> str:
    return hashlib.sha256(f"{seed}:{stamp}".encode()).hexdigest()
