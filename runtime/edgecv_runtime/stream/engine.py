"""The model's thread: batches in, results out, one failing frame of a camera told from a failing model."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from edgecv_runtime.errors import ComputationError
from edgecv_runtime.preprocess import Image
from edgecv_runtime.stream.frame import Frame
from edgecv_runtime.stream.latest import Latest, told
from edgecv_runtime.stream.redact import redact

Model = Callable[[Image], Any]


class Inferred(NamedTuple):
    """What became of one frame: its result, or the error.

    begun_ns, ended_ns: of the call that it was part of; calls with several frames count for each.
    """

    frame: Frame
    result: Any
    error: Exception | None
    begun_ns: int
    ended_ns: int
    model: str


class Engine:
    """Runs a model on frames in the thread that calls `infer`, which may hang: others ask `busy_s`.

    batch: how many frames it computes in one call, as the model was tuned (`load(goal="throughput")`), 1 for plain
    functions; it is worth waiting for so many. most: how many it takes at once: a batch for each stream of the model,
    which compute at the same time.
    """

    def __init__(self, model: Model, batch: int | None = None) -> None:
        """batch: None is what the model's own `info` says."""
        self._lock = threading.Lock()
        self._next: Model | None = None
        self._latest: Latest | None = None
        self._fixed_batch = batch is not None
        self.batch = batch or 1
        self.most = self.batch
        self._set(model)
        self._began_ns = 0
        self.typical_ns = 0

    @property
    def model_name(self) -> str:
        """Which model makes the results now."""
        return self._name

    def swap(self, model: Model) -> None:
        """Use another model from the next batch on, from any thread; no frame is lost between."""
        with self._lock:
            self._next = model

    def busy_s(self, now_ns: int) -> float:
        """How long the call at hand has taken, in seconds; 0 without one."""
        began_ns = self._began_ns
        return (now_ns - began_ns) / 1e9 if began_ns else 0.0

    def infer(self, frames: Sequence[Frame]) -> list[Inferred]:
        """Results in the frames' order; a batch that fails is taken frame by frame, so that one does not spoil it."""
        self._take_next()
        results = self._infer(frames)
        error = next((done.error for done in results if done.error is not None), None)
        if self._latest is None:
            return results
        if error is None:
            self._latest.worked(len(frames))
            return results
        former = self._latest.failed(error)
        if former is None:
            return results
        self._use(former)
        return self._infer(frames)

    def _infer(self, frames: Sequence[Frame]) -> list[Inferred]:
        if len(frames) > 1 and self.most == 1:
            pass  # the model was exchanged for one that takes no batches while this one was gathered
        elif len(frames) > 1 and self.most > self.batch:
            images = [frame.image for frame in frames]
            results = self._call(frames, lambda: list(self._model.map(images, errors=True)))  # type: ignore[attr-defined]
            if results[0].error is None:
                return [_unfolded(done) for done in results]
        elif len(frames) > 1:
            results = self._call(frames, lambda: self._model([frame.image for frame in frames]))  # type: ignore[arg-type]
            if results[0].error is None:
                return results
        return [self._call([frame], lambda frame=frame: [self._model(frame.image)])[0] for frame in frames]  # type: ignore[misc]

    def _call(self, frames: Sequence[Frame], call: Callable[[], list[Any]]) -> list[Inferred]:
        begun_ns = self._began_ns = time.monotonic_ns()
        error: Exception | None = None
        results: list[Any]
        try:
            results = _whole(call(), len(frames))
        except Exception as exc:  # a model may raise anything; the frame counts as failed
            error, results = exc, [None] * len(frames)
        finally:
            self._began_ns = 0
        ended_ns = time.monotonic_ns()
        self.typical_ns += (ended_ns - begun_ns - self.typical_ns) // (8 if self.typical_ns else 1)
        return [
            Inferred(frame, result, error, begun_ns, ended_ns, self._name)
            for frame, result in zip(frames, results, strict=True)
        ]

    def _take_next(self) -> None:
        with self._lock:
            model, self._next = self._next, None
        if model is not None:
            self._set(model)
        elif self._latest is not None and (latest := self._latest.current()) is not self._model:
            self._use(latest)

    def _set(self, model: Model) -> None:
        self._latest = model if isinstance(model, Latest) else None
        self._use(self._latest.current() if self._latest is not None else model)

    def _use(self, model: Model) -> None:
        self._model, self._name = model, told(model)
        info = getattr(model, "info", None)
        if not self._fixed_batch:
            self.batch = info.batch if info is not None else 1
        self.most = self.batch * (info.streams if info is not None and not self._fixed_batch else 1)


def _whole(results: Sequence[Any], count: int) -> list[Any]:
    """Results of which there must be one for each frame."""
    if len(results) != count:
        raise ComputationError(f"the model gave {len(results)} results for {count} frames")
    return list(results)


def _unfolded(done: Inferred) -> Inferred:
    """A result in whose place there is an error."""
    return done._replace(result=None, error=done.result) if isinstance(done.result, Exception) else done


def described(error: Exception) -> str:
    """A model's error in one line, without credentials."""
    return redact(f"{type(error).__name__}: {error}")
