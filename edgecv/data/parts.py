"""A data set of one's own by its parts, before what is not divided is divided; and read for a finished bundle."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecv.data.dataset import Images
from edgecv.data.split import listed
from edgecv_runtime.errors import DatasetError


@dataclass(frozen=True)
class Parts:
    """The readable images by part (TRAIN, VAL, TEST, or ALL), hashes by name, and counted warnings.

    names: part -> the folder, list or file that it is.
    """

    classes: tuple[str, ...]
    images: dict[str, Images]
    hashes: dict[str, bytes]
    notes: tuple[str, ...]
    names: Mapping[str, str] = field(default_factory=dict)


def as_labels(
    parts: Parts, labels: Sequence[str], change: Callable[[Any, NDArray[np.int64]], Any], where: str
) -> Parts:
    """The same parts with a bundle's labels for classes; a set may lack some of them, or list them in another order.

    change: (a truth, class position -> label position) -> the truth of these labels, called when it is asked for.
    Raises DatasetError for a class that is no label.
    """
    unknown = [name for name in parts.classes if name not in labels]
    if unknown:
        raise DatasetError(
            f"{where}: classes that are no labels: {listed(unknown, 5)}; the bundle's labels are {listed(labels, 5)}"
        )
    positions = np.array([labels.index(name) for name in parts.classes], np.int64)
    images = {part: held.with_truths(lambda truth: change(truth, positions)) for part, held in parts.images.items()}
    return replace(parts, classes=tuple(labels), images=images)
