"""A comparison of outputs with a reference's: a fold over batches, whose memory does not grow with the frames."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecv_runtime import geometry, tasks
from edgecv_runtime.backends import Tensors
from edgecv_runtime.errors import BadInput, EdgecvError, InvalidOutput
from edgecv_runtime.evidence import Agreement, Score
from edgecv_runtime.geometry import View
from edgecv_runtime.head import ClassificationHead
from edgecv_runtime.manifest import Manifest, TensorSpec
from edgecv_runtime.offers import by_rounding
from edgecv_runtime.preprocess import Image
from edgecv_runtime.tasks.base import Task
from edgecv_runtime.tasks.classification import ClassificationTask
from edgecv_runtime.tasks.scores import Meaning
from edgecv_runtime.verify.score import Figure, Metric, interval, lost

BATCH = 8
REMEMBERED_BYTES = 64 << 20  # of outputs that are asked for again
WORST = 2  # frames that are looked into when something is wrong
WHOLE = geometry.whole((1, 1))  # where geometry does not matter
TINY = 1e-12

Arrays = Mapping[str, NDArray[Any]]
Compute = Callable[[Image], Arrays]
Truths = Sequence[Any] | NDArray[Any]
LOGITS = Meaning()  # of classes that exclude each other


class Outputs:
    """What somebody computes of frames, batch by batch: the first batches are remembered, the others computed again.

    frames: (N, H, W, C) uint8, preprocessed. Give `compute`, or arrays with one row a frame that are there already.
    """

    def __init__(self, frames: Image, compute: Compute | Arrays, remembered: int = REMEMBERED_BYTES) -> None:
        self.frames = frames
        self._compute = compute if callable(compute) else None
        self._given = None if callable(compute) else compute
        # One block each: many small ones between what a backend takes and frees keep its memory from being used again.
        self._known: dict[str, NDArray[Any]] = {}
        self._rows = 0  # that are in it
        self._bytes = remembered
        for each in (self._given or {}).values():
            if len(each) != len(frames):
                raise BadInput(f"{len(frames)} frames, {len(each)} reference outputs: there must be one for each frame")

    def __len__(self) -> int:
        return len(self.frames)

    def batches(self) -> Iterator[tuple[slice, Arrays]]:
        """Which frames, and their outputs."""
        return ((part, self[part]) for part in self.parts())

    def parts(self) -> Iterator[slice]:
        """Which frames, batch by batch."""
        return (slice(start, min(start + BATCH, len(self))) for start in range(0, len(self), BATCH))

    def __getitem__(self, part: slice) -> Arrays:
        """The outputs of a batch, one of `parts`."""
        if self._given is not None:
            return {name: each[part] for name, each in self._given.items()}
        if part.stop <= self._rows:
            return {name: each[part] for name, each in self._known.items()}
        assert self._compute is not None
        found = self._compute(np.ascontiguousarray(self.frames[part]))
        self._remember(part, found)
        return found

    def _remember(self, part: slice, found: Arrays) -> None:
        """Keep a batch that follows what is kept, where there is room; a copy, for a backend may reuse its own."""
        if not self._known and part.start == 0:
            row_bytes = sum(each[0].nbytes for each in found.values())
            rows = min(len(self), self._bytes // max(1, row_bytes))
            self._known = {name: np.empty((rows, *each.shape[1:]), each.dtype) for name, each in found.items()}
        if part.start == self._rows and all(part.stop <= len(each) for each in self._known.values()):
            for name, each in found.items():
                self._known[name][part] = each
            self._rows = part.stop

    def of(self, indices: Sequence[int]) -> dict[str, NDArray[Any]]:
        """The outputs of single frames."""
        batches = {part.start: self[part] for part in self.parts() if any(part.start <= i < part.stop for i in indices)}
        rows = [(batches[index // BATCH * BATCH], index % BATCH) for index in indices]
        return {name: np.stack([batch[name][place] for batch, place in rows]) for name in rows[0][0]}

    def kept(self) -> dict[str, NDArray[Any]]:
        """The outputs of the first frames, as many as are remembered."""
        if self._given is not None:
            return dict(self._given)
        return {name: each[: self._rows] for name, each in self._known.items()} if self._rows else {}


def task_of(manifest: Manifest) -> Task[Any]:
    """The task of a bundle that shows of the reference what the float32 variant shows."""
    return tasks.create(manifest.head, manifest.outputs).at(manifest.thresholds("float32"))


class Known:
    """What the reference is worth on the frames' truths, whatever is compared with it: each frame is tallied once."""

    def __init__(self) -> None:
        self._tallies: dict[int, Any] = {}
        self._figure: tuple[list[int], Figure] | None = None

    def tally(self, index: int, make: Callable[[], Any]) -> None:
        """Take in a frame, by its number, unless it is known."""
        if index not in self._tallies:
            self._tallies[index] = make()

    def tallies(self, indices: Sequence[int]) -> list[Any]:
        """What these frames add."""
        return [self._tallies[index] for index in indices]

    def figure(self, metric: Metric, indices: list[int]) -> Figure:
        """The metric over these frames; the last one is kept, with what was computed of it."""
        if self._figure is None or self._figure[0] != indices:
            self._figure = list(indices), Figure(metric, self.tallies(indices))
        return self._figure[1]


class Comparison:
    """Outputs beside the reference's, frame by frame: agreement, score, and the worst frames.

    reference, frames: what is compared with, and which frames these are, in words. views: how the network saw each
    frame, or all of them. truths: what is known to be right of each frame, or None. thresholds: the confidences from
    which on results are shown, () for the task's own. known: of the comparisons of the same reference, frames, truths
    and task, which share it.
    """

    def __init__(
        self,
        task: Task[Any],
        reference: str,
        frames: str = "",
        views: Sequence[View] | View = WHOLE,
        truths: Truths | None = None,
        thresholds: Sequence[float] = (),
        known: Known | None = None,
    ) -> None:
        self.task = task
        self._ranking, self._alike = task.ranking(), task.agreement(thresholds)
        self._reference, self._frames, self._views = reference, frames, views
        self._truths = truths if task.judged else None
        self._kept: list[Any] = []  # tallies of the outputs with the reference's results as truths
        self._agreed: list[Any] = []  # the same of their agreement
        self._right: list[Any] = []  # of the outputs with the truths
        self._known, self._frame = known or Known(), list[int]()  # of the reference with the truths, of these frames
        self._divergences: list[NDArray[np.float32]] = []
        self._spans: dict[str, _Span] = {}
        self._wrong = self._signal = 0.0  # sums of squares: of the difference, of the reference's
        self._worst: list[tuple[float, int]] = []

    def add(self, start: int, wanted: Arrays, got: Arrays) -> None:
        """Take in a batch of frames, of which the first is number `start`."""
        count = len(next(iter(wanted.values())))
        views = [self._views] * count if isinstance(self._views, View) else self._views[start : start + count]
        truths: list[Any] = []
        with of_reference():
            right = self._ranking.decode(wanted, views)
            if self._truths is not None:
                truths = [self.task.truth(self._truths[index]) for index in range(start, start + count)]
                for index, pair in enumerate(zip(right, truths, strict=True), start):
                    self._known.tally(index, partial(self.task.tally, *pair))
                self._frame += range(start, start + count)
        found = self._ranking.decode(got, views)
        self._agreed += [self._alike.tally(*pair) for pair in zip(found, right, strict=True)]
        if self._truths is None:
            self._kept += [self.task.tally(*pair) for pair in zip(found, right, strict=True)]
        else:
            self._right += [self.task.tally(*pair) for pair in zip(found, truths, strict=True)]
        divergences = np.asarray(self.task.divergence(wanted, got), np.float32)
        self._divergences.append(divergences)
        for name in wanted:
            if wanted[name].dtype.kind == "f":
                self._spans.setdefault(name, _Span()).add(wanted[name], got[name])
        wrong, signal = self.task.squares(wanted, got)
        self._wrong, self._signal = self._wrong + wrong, self._signal + signal
        for found_before in ("agreement", "score"):
            self.__dict__.pop(found_before, None)
        apart = _apart(wanted, got) if self._spans else divergences
        self._worst = sorted([*self._worst, *((-float(each), start + i) for i, each in enumerate(apart))])[:WORST]

    @property
    def tallies(self) -> list[Any]:
        """What each frame adds to the score of the outputs; where there are no truths, of the reference's as such."""
        return self._kept if self._truths is None else self._right

    @property
    def reference_tallies(self) -> list[Any]:
        """The same of the reference; [] where there are no truths."""
        return self._known.tallies(self._frame)

    @property
    def worst(self) -> list[int]:
        """The frames that differ most, in their order."""
        return sorted(index for _, index in self._worst)

    @property
    def error(self) -> float:
        """Root mean square of the difference of what matters in the outputs, relative to the reference's."""
        return math.sqrt(self._wrong) / max(math.sqrt(self._signal), TINY)

    @cached_property
    def agreement(self) -> Agreement:
        """How far the outputs are from the reference's: the score with its results as truths, differences."""
        metric = self._alike.metric
        span = max(self._spans.values(), key=lambda each: each.excess(metric), default=_Span())
        return Agreement(
            reference=self._reference,
            metric=metric,
            share=interval(Figure(self._alike, self._agreed)),
            divergence=max(0.0, float(np.concatenate(self._divergences).mean(dtype=np.float64))),
            max_abs=span.max_abs,
            mean_abs=span.sum_abs / max(1, span.count),
            largest=span.largest,
            frames=self._frames,
        )

    @cached_property
    def score(self) -> Score | None:
        """The metric on the frames' truths, and what is lost of the reference's; None without truths, or a use of them,
        or where they say nothing of any frame.

        Where several labels may hold at once, a class folder is no truth: the best one may stay right while the others
        are lost.
        """
        if self._truths is None:
            return None
        before, after = self._known.figure(self.task, self._frame), Figure(self.task, self._right)
        if math.isnan(before.value):
            return None
        own = interval(after)
        drop, low, high = lost(before, after)
        return Score(
            metric=self.task.metric,
            value=own.value,
            low=own.low,
            high=own.high,
            count=own.count,
            reference=before.value,
            drop=100 * drop,
            drop_low=100 * low,
            drop_high=100 * high,
            frames=self._frames,
        )


class _Span:
    """How far one output is from the reference's, over all frames."""

    def __init__(self) -> None:
        self.max_abs = self.sum_abs = self.largest = 0.0
        self.count = 0

    def add(self, wanted: NDArray[Any], got: NDArray[Any]) -> None:
        difference = np.abs(got.astype(np.float32, copy=False) - wanted)
        self.max_abs = max(self.max_abs, float(difference.max(initial=0)))
        self.sum_abs += float(difference.sum(dtype=np.float64))
        self.count += difference.size
        self.largest = max(self.largest, float(np.abs(wanted).max(initial=0)))

    def excess(self, metric: str) -> float:
        """How many times what rounding may do to the outputs of a task with that metric."""
        return self.max_abs / by_rounding(self.largest, metric)


def compare(
    task: Task[Any],
    reference: Outputs,
    compute: Compute | Arrays,
    *,
    name: str,
    frames: str = "",
    views: Sequence[View] | None = None,
    truths: Truths | None = None,
    thresholds: Sequence[float] = (),
    known: Known | None = None,
    key: str = "",
) -> tuple[Comparison, dict[str, NDArray[Any]]]:
    """Compute all frames and compare with the reference -> with the outputs of the first frames that fit in memory.

    name: of the reference; thresholds, known: as in `Comparison`; key: of what computes, for messages.
    Raises InvalidOutput for NaN or infinite outputs, BadInput where there are not as many truths or views as frames; an
    error of the reference or of a truth says so (`EdgecvError.of_reference`).
    """
    check_counts(len(reference), labels=truths, views=views)
    whole = geometry.whole(reference.frames.shape[1:3])
    found = Comparison(task, name, frames, whole if views is None else views, truths, thresholds, known)
    own = Outputs(reference.frames, compute)
    broken: list[int] = []
    for part in reference.parts():
        with of_reference():
            wanted = reference[part]
        got = own[part]
        bad = broken_frames(got)
        broken += [part.start + int(index) for index in bad]
        if not len(bad):
            found.add(part.start, wanted, got)
    if broken:
        error = InvalidOutput(f"{key}: {len(broken)} of {len(reference)} outputs hold NaN or infinite values")
        error.frames = tuple(broken)
        raise error
    return found, own.kept()


@contextmanager
def of_reference() -> Iterator[None]:
    """What is raised here is not the fault of what is compared with the reference."""
    try:
        yield
    except EdgecvError as exc:
        exc.of_reference = True
        raise


def check_counts(frames: int, *, labels: Truths | None, views: Sequence[View] | None) -> None:
    """Raise BadInput where there are not as many labels, or views, as frames."""
    for what, given in (("labels", labels), ("views", views)):
        if given is not None and len(given) != frames:
            raise BadInput(f"{frames} frames, {len(given)} {what}: there must be one for each frame")


def broken_frames(outputs: Arrays) -> NDArray[np.intp]:
    """Which frames of a batch hold NaN or infinite values, by index."""
    rows = len(next(iter(outputs.values())))
    finite = np.ones(rows, bool)
    for each in outputs.values():
        if each.dtype.kind == "f":
            finite &= np.isfinite(each).reshape(rows, -1).all(axis=1)
    return np.flatnonzero(~finite)


def _apart(wanted: Tensors, got: Tensors) -> NDArray[np.float32]:
    """The largest difference of each frame, of all outputs that are floats -> (N,)."""
    floats = [name for name in wanted if wanted[name].dtype.kind == "f"]
    each = [np.abs(got[name] - wanted[name]).reshape(len(wanted[name]), -1).max(axis=1, initial=0) for name in floats]
    return np.asarray(np.max(each, axis=0), np.float32)


# Classifiers whose outputs are in memory


def agreement(
    reference: NDArray[np.float32],
    outputs: NDArray[np.float32],
    name: str,
    frames: str = "",
    meaning: Meaning = LOGITS,
) -> Agreement:
    """Compare a classifier's outputs (N, C) with the reference's: agreement, differences, divergence of the scores.

    name: of the reference; frames: which they are, in words; meaning: what the outputs are.
    """
    return _of_rows(reference, outputs, None, name, frames, meaning).agreement


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
    return _of_rows(reference, outputs, labels, "", frames, meaning).score


def _of_rows(
    reference: NDArray[np.float32],
    outputs: NDArray[np.float32],
    labels: NDArray[np.int64] | None,
    name: str,
    frames: str,
    meaning: Meaning,
) -> Comparison:
    classes = reference.shape[1]
    names = tuple(f"class {index}" for index in range(2 if meaning.opposites else classes))
    head = ClassificationHead(names, meaning.scores, meaning.thresholds)
    task = ClassificationTask(head, (TensorSpec("rows", "float32", ("N", classes)),))
    found = Comparison(task, name, frames, truths=labels)
    found.add(0, {"rows": reference}, {"rows": outputs})
    return found
