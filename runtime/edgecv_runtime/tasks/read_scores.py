"""Scores of classes as a deployment gives them: logits or shares, of classes that exclude each other or not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgecv_runtime.backends import Tensors
from edgecv_runtime.errors import BadInput
from edgecv_runtime.geometry import View
from edgecv_runtime.tasks.reading import REORDERED, SHIFTED, Fault, Given, text_order
from edgecv_runtime.tasks.scores import Meaning, Rows, sigmoid, softmax


class Task(Protocol):
    """What of a classifier's task is asked here."""

    def checked(self, output: NDArray[Any], count: int) -> Rows: ...

    def meaning(self, rows: Rows) -> Meaning: ...


TWICE = Fault("softmax twice", "take the scores as they are")

MORE_THAN_SHARES = 1.5  # of a network that gives percent, scores with one beyond this are percent, too
CLOSE = 0.1  # a difference that still lets scores be known again
ROUGH = 0.005  # of a share: what half precision and another decoder make of a label's score
LEAST = 1e-5  # shares below are taken as this: programs print few digits


def reading(task: Task, given: Sequence[Given], outputs: Tensors) -> Exclusive | Single:
    """How these scores are read; raises BadInput for others than a row a picture."""
    rows = task.checked(next(iter(outputs.values())), len(given))
    found = [_row(each) for each in given]
    if len({each.shape for each in found}) > 1:
        raise BadInput(f"the pictures gave {', '.join(str(len(each)) for each in found)} scores")
    seen = np.stack(found)
    meaning = task.meaning(rows)
    if meaning.scores == "percent" and seen.max() > MORE_THAN_SHARES:
        seen = seen / np.float32(100)
    return Single(task, meaning, rows, seen) if meaning.thresholds else Exclusive(task, meaning, rows, seen)


def _row(given: Given) -> Rows:
    row = np.asarray(next(iter(given.values())) if isinstance(given, Mapping) else given, np.float32)
    if row.ndim == 2 and len(row) == 1:
        row = row[0]
    if row.ndim != 1:
        raise BadInput(f"an input is (H, W, C) or (C, H, W), scores are (classes,), got {row.shape}")
    return row


class Exclusive:
    """Of classes that exclude each other: logits less their mean, which is just what softmax leaves of them."""

    def __init__(self, task: Task, meaning: Meaning, rows: Rows, seen: Rows) -> None:
        self._task, self._meaning = task, meaning
        logits = self._logits(rows)
        classes = logits.shape[1]
        self._is_share = bool((seen >= 0).all() and np.abs(seen.sum(axis=1) - 1).max() < 0.01)
        self.shape: tuple[Fault, str] | None = None
        if seen.shape[1] == classes + 1:
            self.shape = SHIFTED, self._background(seen, logits)
            seen = seen[:, 1:]
        elif seen.shape[1] != classes:
            raise BadInput(f"the network has {classes} classes, the pipeline gives {seen.shape[1]} scores")
        self.seen = _plain(seen, self._is_share)
        self._size = _size(self._right(logits))
        self.signal = _size(self.seen) / self._size

    def of(self, outputs: Tensors, views: Sequence[View]) -> Rows:
        """Plain logits (N, classes)."""
        return self._right(self._logits(self._task.checked(next(iter(outputs.values())), len(views))))

    def misread(self, outputs: Tensors, views: Sequence[View]) -> Iterator[tuple[Fault, str, Rows]]:
        """Labels that are shifted or sorted as text, a softmax too many."""
        logits = self._logits(self._task.checked(next(iter(outputs.values())), len(views)))
        classes = logits.shape[1]
        for by in (1, -1, 2, -2):
            if abs(by) < classes / 2:
                yield SHIFTED, _shift(by), self._right(np.roll(logits, by, axis=1))
        if classes > 10:
            yield REORDERED, "sorted as text (1, 10, 100, 2)", self._right(logits[:, text_order(classes)])
        yield TWICE, "the scores went through a second softmax", self._right(np.log(softmax(softmax(logits))))

    def fitted(self, right: Rows) -> Iterator[tuple[Fault, str, Rows]]:
        """The right ones in another order: each class is found again by its scores on all pictures."""
        order = np.abs(self.seen.T[:, np.newaxis] - right.T[np.newaxis]).sum(axis=2).argmin(axis=1)  # (classes,)
        if len(set(order.tolist())) == len(order):
            moved = int((order != np.arange(len(order))).sum())
            yield REORDERED, f"{moved} of {len(order)} classes stand in other places", right[:, order]

    def away(self, read: Rows, other: Rows) -> Rows:
        """Root mean square of each row's difference, relative to that of all right ones."""
        return _apart(read, other) / self._size

    def _right(self, logits: Rows) -> Rows:
        return _plain(logits, False, self._is_share)

    def _logits(self, rows: Rows) -> Rows:
        """Outputs as logits: the logarithms of their scores where they are none."""
        if self._meaning.scores == "logits" and not self._meaning.opposites:
            return rows
        logarithms: Rows = np.log(np.maximum(self._meaning.of(rows), 1e-30))
        return logarithms

    def _background(self, seen: Rows, logits: Rows) -> str:
        rest = seen[:, 1:] / seen[:, 1:].sum(axis=1, keepdims=True) if self._is_share else seen[:, 1:]
        right = self._right(logits)
        close = _apart(_plain(rest, self._is_share), right).max() < CLOSE * _size(right)
        told = f"{seen.shape[1]} scores for {logits.shape[1]} classes"
        return told + (": a background class stands before them" if close else "")


class Single:
    """Of labels that stand each for itself: the logarithm of each one's odds."""

    def __init__(self, task: Task, meaning: Meaning, rows: Rows, seen: Rows) -> None:
        if seen.shape != rows.shape:
            raise BadInput(f"the network gives {rows.shape[1]} scores, the pipeline {seen.shape[1]}")
        self.shape: tuple[Fault, str] | None = None
        self._task, self._meaning = task, meaning
        right = _odds(meaning.of(rows))
        ways = [_odds(seen)] if seen.min() >= 0 and seen.max() <= 1 else []
        ways.append(_odds(sigmoid(seen)))  # they may stand before their sigmoid
        self._size = _size(right)
        self.seen = min(ways, key=lambda each: float(np.abs(each - right).mean()))
        self.signal = _size(self.seen) / self._size

    def of(self, outputs: Tensors, views: Sequence[View]) -> Rows:
        """Odds (N, labels)."""
        return _odds(self._meaning.of(self._task.checked(next(iter(outputs.values())), len(views))))

    def misread(self, outputs: Tensors, views: Sequence[View]) -> Iterator[tuple[Fault, str, Rows]]:
        """Labels that are shifted or sorted as text."""
        right = self.of(outputs, views)
        labels = right.shape[1]
        for by in (1, -1, 2, -2):
            if abs(by) < labels / 2:
                yield SHIFTED, _shift(by), np.roll(right, by, axis=1)
        if labels > 10:
            yield REORDERED, "sorted as text (1, 10, 100, 2)", right[:, text_order(labels)]

    def fitted(self, right: Rows) -> Iterator[tuple[Fault, str, Rows]]:
        """Nothing."""
        del right
        yield from ()

    def away(self, read: Rows, other: Rows) -> Rows:
        """Root mean square of each row's difference, relative to that of all right ones; 0 where no share is off."""
        alike = np.abs(sigmoid(read) - sigmoid(other)).max(axis=1) <= ROUGH
        return np.where(alike, np.float32(0), _apart(read, other) / self._size)


def _shift(by: int) -> str:
    return f"every label is {abs(by)} place{'s' if abs(by) > 1 else ''} too {'high' if by > 0 else 'low'}"


def _odds(scores: Rows) -> Rows:
    """Logarithm of the odds of scores in 0..1, of which three digits count."""
    clipped = np.clip(scores, 1e-3, 1 - 1e-3)
    odds: Rows = np.log(clipped / (1 - clipped))
    return odds


def _plain(scores: Rows, is_share: bool, floored: bool = False) -> Rows:
    """Logits, or the logarithm of shares, less their mean: softmax leaves just this of them.

    Shares below LEAST are taken as it (`floored` does it to logits).
    """
    if not is_share:
        top = scores.max(axis=1, keepdims=True)
        scores = scores - top - np.log(np.exp(scores - top).sum(axis=1, keepdims=True))
    else:
        scores = np.log(np.maximum(scores, 1e-30))
    if is_share or floored:
        scores = np.maximum(scores, np.log(LEAST))
    plain: NDArray[Any] = scores - scores.mean(axis=1, keepdims=True)
    return plain


def _apart(one: Rows, other: Rows) -> Rows:
    rms: Rows = np.sqrt(np.mean((one - other) ** 2, axis=1))
    return rms


def _size(rows: Rows) -> float:
    return max(float(np.sqrt(np.mean(rows**2))), 1e-12)
