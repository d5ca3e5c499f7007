"""How far outputs are from a reference: agreement, scores with their intervals, distance."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecv_runtime.budget import Z, paired
from edgecv_runtime.errors import BadInput
from edgecv_runtime.evidence import Agreement, Interval, Score
from edgecv_runtime.tasks.scores import Meaning

METRIC = "top-1"
LOGITS = Meaning()  # of classes that exclude each other


def agreement(
    reference: NDArray[np.float32],
    outputs: NDArray[np.float32],
    name: str,
    frames: str = "",
    meaning: Meaning = LOGITS,
) -> Agreement:
    """Compare outputs (N, C) with the reference's: agreement, differences, Kullback-Leibler divergence of the scores.

    name: of the reference; frames: which they are, in words; meaning: what the outputs are.
    """
    difference = np.abs(outputs - reference)
    return Agreement(
        reference=name,
        metric=METRIC,
        share=wilson(int(meaning.same(reference, outputs).sum()), len(reference)),
        divergence=max(0.0, float(meaning.divergence(reference, outputs).mean())),
        max_abs=float(difference.max()),
        mean_abs=float(difference.mean()),
        largest=float(np.abs(reference).max()),
        frames=frames,
    )


def score(
    reference: NDArray[np.float32],
    outputs: NDArray[np.float32],
    labels: NDArray[np.int64],
    frames: str = "",
    meaning: Meaning = LOGITS,
) -> Score | None:
    """Top-1 of both on the same labelled frames, and the drop in points with its paired 95 % interval.

    None where several labels may hold at once: the best one may stay right while the others are lost.
    """
    if meaning.thresholds:
        return None
    good, known = meaning.right(outputs, labels), meaning.right(reference, labels)
    lost, gained = int((known & ~good).sum()), int((good & ~known).sum())
    low, high = paired(lost, gained, len(labels))
    own = wilson(int(good.sum()), len(labels))
    return Score(
        metric=METRIC,
        value=own.value,
        low=own.low,
        high=own.high,
        count=own.count,
        reference=float(known.mean()),
        drop=100 * (lost - gained) / len(labels),
        drop_low=100 * low,
        drop_high=100 * high,
        frames=frames,
    )


def wilson(hits: int, count: int, z: float = Z) -> Interval:
    """Share of hits with its Wilson score interval (Wilson 1927), 95 % by default.

    >>> wilson(50, 100)
    Interval(value=0.5, low=0.4038315..., high=0.5961684..., count=100)
    """
    if count < 1:
        raise BadInput("an interval wants at least one frame")
    share = hits / count
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return Interval(
        value=share, low=min(share, max(0.0, centre - half)), high=max(share, min(1.0, centre + half)), count=count
    )


def distance(wanted: NDArray[Any], got: NDArray[Any], floor: float = 1.0) -> float:
    """Largest difference, relative to the largest wanted value (at least `floor`); infinite for other shapes or NaN."""
    if wanted.shape != got.shape or not np.isfinite(got).all():
        return float("inf")
    return float(np.abs(wanted - got).max(initial=0)) / max(floor, float(np.abs(wanted).max(initial=0)))


def relative_error(wanted: NDArray[Any], got: NDArray[Any]) -> float:
    """Root mean square of the difference over that of the wanted values; infinite for other shapes or NaN."""
    if wanted.shape != got.shape or not np.isfinite(got).all():
        return float("inf")
    size = math.sqrt(float(np.mean(np.square(wanted, dtype=np.float64))))
    return math.sqrt(float(np.mean(np.square(got.astype(np.float64) - wanted)))) / max(size, 1e-12)
