"""What the outputs of a classifier mean, and what follows from it: scores, answers, divergence.

Whether a network gives logits or has already taken a softmax cannot be seen in the shape of its outputs, and a softmax
over probabilities gives scores that look right and are wrong (0.51, 0.43, 0.47 become 0.35, 0.32, 0.33). So what they
mean is told, or proven by the operator that the graph ends in and not contradicted by the first frames; else it is
asked for.
"""

from __future__ import annotations

from typing import get_args

import numpy as np
from numpy.typing import NDArray

from edgecv_runtime.errors import BadInput, nearest
from edgecv_runtime.head import WHOLE, Scores
from edgecv_runtime.onnxending import Ending
from edgecv_runtime.records import Record

Rows = NDArray[np.float32]

MEANINGS: tuple[Scores, ...] = get_args(Scores)
THRESHOLD = 0.5

# By how much a row of probabilities may miss a sum of 1: half precision has three digits, int8 steps of 1/255 each.
_ROUNDED, _QUANTIZED = 0.02, 0.5
_ROUNDING = 1e-4  # of what is 0
# What is told may be missed by this much in its range.
_SLACK = 0.05


def check(scores: str) -> Scores:
    """The meaning of that name; raises BadInput with the nearest one."""
    for known in MEANINGS:
        if scores == known:
            return known
    raise BadInput(f"no scores {scores!r}{nearest(str(scores), MEANINGS)}")


def spread_thresholds(
    thresholds: tuple[float, ...], scores: Scores | None, labels: int, classes: int
) -> tuple[float, ...]:
    """One threshold a label where each label stands for itself, () where classes exclude each other.

    classes: how many outputs there are; one for two labels are a class and its opposite. scores: None: not known yet.
    Raises BadInput when there are thresholds that mean nothing, too few or too many of them, or one outside 0..1.
    """
    one_label, opposites = labels == 1, (classes, labels) == (1, 2)
    if not thresholds:
        independent = one_label or (scores in ("sigmoid", "sigmoid-logits") and not opposites)
        return (THRESHOLD,) * labels if independent else ()
    if opposites:
        raise BadInput("thresholds are for labels of which several may hold; two labels of one output do not: name one")
    if not one_label and scores not in ("sigmoid", "sigmoid-logits", "percent"):
        raise BadInput(
            f"thresholds are for labels of which several may hold, scores={scores and repr(scores)} excludes that: "
            "say scores='sigmoid', 'sigmoid-logits' or 'percent', or leave thresholds out"
        )
    if len(thresholds) not in (1, labels):
        raise BadInput(f"{len(thresholds)} thresholds for {labels} labels: give one for all, or one a label")
    if not all(0 <= threshold <= 1 for threshold in thresholds):
        raise BadInput(f"thresholds lie in 0..1, got {thresholds}")
    return thresholds * (labels if len(thresholds) == 1 else 1)


def told(scores: str, ending: Ending | None) -> Scores:
    """The meaning that was told; raises BadInput when the graph proves another one."""
    meaning = check(scores)
    proven = None if ending is None or ending.behind else _PROVEN.get(ending.operator)
    if proven is not None and meaning not in proven:
        raise BadInput(
            f"scores='{meaning}' was said, but the graph ends in {ending}: say scores='{proven[0]}', "
            "or export the network without it"
        )
    return meaning


# Operator that a graph ends in -> what its outputs may be called; the first is what they are taken for. A sigmoid over
# one output is the probability of the second of two classes.
_PROVEN: dict[str, tuple[Scores, ...]] = {
    "Softmax": ("probabilities",),
    "LogSoftmax": ("logits",),
    "Sigmoid": ("sigmoid", "probabilities"),
    "HardSigmoid": ("sigmoid", "probabilities"),
}


def expected(ending: Ending | None) -> Scores | None:
    """What the graph says of its outputs, before any frame confirms it; None where it says nothing."""
    if ending is None or ending.changed:
        return None
    proven = _PROVEN.get(ending.operator)
    return proven[0] if proven else "logits" if ending.linear else None


def settled(ending: Ending | None, rows: Rows) -> Scores:
    """What the outputs mean that nobody has named: as the graph ends, where the rows (N, C) do not contradict it.

    Raises BadInput with the choice when the graph proves nothing and the rows could be several things.
    """
    operator = ending.operator if ending is not None else ""
    if ending is not None and (ending.changed or ending.bounded):
        raise _unclear(f"the graph ends in {ending}", rows)
    if ending is not None and operator in _PROVEN:
        if operator in ("Softmax", "LogSoftmax") and not _sum_to(
            1, np.exp(rows) if operator == "LogSoftmax" else rows, _QUANTIZED if ending.quantized else _ROUNDED
        ):
            raise _unclear(f"the graph ends in {ending}, but the classes of a frame do not sum to 1 there", rows)
        return _PROVEN[operator][0]
    if (rows < -_ROUNDING).any() or (ending is not None and ending.linear and not _likely(rows)):
        return "logits"
    raise _unclear("nothing in the graph proves it", rows)


def _likely(rows: Rows) -> str:
    """What rows that sum to 1, or to 100, are likely to be."""
    return next((name for name, whole in (("probabilities", 1), ("percent", 100)) if _sum_to(whole, rows, 1e-3)), "")


def _sum_to(whole: int, rows: Rows, tolerance: float) -> bool:
    """Whether every row of several non-negative outputs sums to that, up to a share of it."""
    sums = rows.sum(axis=1, dtype=np.float64)
    return rows.shape[1] > 1 and bool((rows >= -_ROUNDING).all() and (np.abs(sums - whole) <= tolerance * whole).all())


def _unclear(why: str, rows: Rows) -> BadInput:
    likely = _likely(rows)
    if likely:
        looks = f"each frame's outputs sum to {100 if likely == 'percent' else 1}"
    elif (rows < -_ROUNDING).any():
        looks = "some outputs are negative"
    else:
        looks = "its outputs lie in 0..1" if rows.max(initial=0) <= 1 else "no output is negative"
    first = ", ".join(f"{value:.3g}" for value in rows[0, :4]) + (", ..." if rows.shape[1] > 4 else "")
    choice = ", ".join(f"'{each}'" for each in MEANINGS if each != likely)
    say = f"scores='{likely}', or if that is chance {choice}" if likely else f"scores= one of {choice}"
    return BadInput(f"what the outputs mean is not known: {why}, and {looks} ({first}); say {say}")


def check_rows(scores: Scores, rows: Rows, exclusive: bool, ending: Ending | None) -> None:
    """Outputs that cannot be what was told are refused; raises BadInput."""
    whole = WHOLE.get(scores)
    if whole is None:
        return
    beyond = rows[(rows < -_SLACK * whole) | (rows > whole + _SLACK * whole)]
    if beyond.size:
        raise BadInput(f"scores='{scores}' lie in 0..{whole}, but the network gave {beyond[0]:.4g}: say what they are")
    slack = _QUANTIZED if ending is not None and ending.quantized else _SLACK
    if exclusive and scores != "sigmoid" and rows.shape[1] > 1 and not _sum_to(whole, np.maximum(rows, 0), slack):
        instead = "give thresholds=" if scores == "percent" else "say scores='sigmoid'"
        raise BadInput(
            f"scores='{scores}' of classes that exclude each other sum to {whole}, but the network gave "
            f"{rows.sum(axis=1)[0]:.4g}: where each label stands for itself, {instead}"
        )


class Meaning(Record, frozen=True):
    """What outputs mean, settled: the one place where rows (N, C) become scores, answers and divergences.

    thresholds: one a label where each stands for itself, () where classes exclude each other. opposites: there is one
    output for two labels, the second and what it is not, which stands first.
    """

    scores: Scores = "logits"
    thresholds: tuple[float, ...] = ()
    opposites: bool = False

    def of(self, rows: Rows) -> Rows:
        """Outputs (N, C) -> scores (N, labels) in 0..1."""
        if self.scores == "sigmoid-logits" or (self.scores == "logits" and rows.shape[1] == 1):
            found = sigmoid(rows)
        elif self.scores == "logits":
            found = softmax(rows)
        else:
            found = rows / np.float32(100) if self.scores == "percent" else rows
        return np.concatenate([1 - found, found], axis=1) if self.opposites else found

    def divergence(self, wanted: Rows, got: Rows) -> NDArray[np.float32]:
        """Kullback-Leibler divergence of the scores of each row from the wanted ones -> (N,) in nats."""
        return divergence(self.of(wanted), self.of(got), exclusive=not self.thresholds)

    def same(self, wanted: Rows, got: Rows) -> NDArray[np.bool_]:
        """Whether each row has the wanted top-1 label; where several may hold, just those that the wanted one has."""
        right, found = self.of(wanted), self.of(got)
        if not self.thresholds:
            return np.asarray(right.argmax(axis=1) == found.argmax(axis=1))
        return np.asarray(((right >= self.thresholds) == (found >= self.thresholds)).all(axis=1))


def divergence(wanted: Rows, got: Rows, exclusive: bool) -> NDArray[np.float32]:
    """Kullback-Leibler divergence of scores (N, labels) from the wanted ones -> (N,) in nats.

    exclusive: whether the classes exclude each other; else it is the sum over the labels, each with its opposite.
    """
    tiny = np.float32(1e-12)

    def terms(share: Rows, other: Rows) -> Rows:
        summands: Rows = share * (np.log(np.maximum(share, 0) + tiny) - np.log(np.maximum(other, 0) + tiny))
        return summands

    each = terms(wanted, got) if exclusive else terms(wanted, got) + terms(1 - wanted, 1 - got)
    summed: NDArray[np.float32] = each.sum(axis=1)
    return summed


def softmax(logits: Rows) -> Rows:
    """Softmax over the last axis, shifted by the largest logit so that it cannot overflow."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    scores: Rows = shifted / shifted.sum(axis=-1, keepdims=True)
    return scores


def sigmoid(logits: Rows) -> Rows:
    """1 / (1 + exp(-x)), by the logarithm so that it cannot overflow and small ones keep their digits."""
    scores: Rows = np.exp(-np.logaddexp(np.float32(0), -logits))
    return scores
