"""Where requests wait for a model: bounded, answered in batches where batches were measured to be faster.

A batch of 8 takes 8 times as long as one frame on most CPUs, so joining requests by default would only add delay: the
size of a batch is the one that `edgecv tune --goal throughput` found to be faster here, 1 otherwise. And a request
waits for others only while there are some: those that are being read and decoded, never for those that might come.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgecv_runtime.errors import Closed, EdgecvError
from edgecv_runtime.model import Model

T = TypeVar("T")
Outputs = dict[str, NDArray[Any]]
logger = logging.getLogger("edgecv")


class Busy(EdgecvError):
    """So many requests wait already that one more is refused."""


class Again(EdgecvError):
    """The model was exchanged meanwhile: the request is to be made ready for the one that is there now."""


class Source(Protocol):
    """A model that may be exchanged between two batches: `stream.Latest`, or `Always`."""

    def current(self) -> Model[Any]:
        """The model for the next request."""
        ...

    def worked(self, frames: int) -> None:
        """It gave results for so many frames."""
        ...

    def failed(self, error: Exception) -> Model[Any] | None:
        """It raised: the model to go back to, None where there is none."""
        ...

    def close(self) -> None:
        """Close what is open."""
        ...


class Always:
    """A model that is never exchanged."""

    def __init__(self, model: Model[Any]) -> None:
        self._model = model

    def current(self) -> Model[Any]:
        """The model."""
        return self._model

    def worked(self, frames: int) -> None:
        """Nothing follows from that."""

    def failed(self, error: Exception) -> None:
        """There is no other."""

    def close(self) -> None:
        """Close it."""
        self._model.close()


class Job(NamedTuple):
    """Rows for a model, what is made of their outputs, and where that goes."""

    model: Model[Any]
    tensor: NDArray[Any]
    finish: Callable[[Outputs], Any]
    done: Future[Any]


class Line:
    """The queue in front of one model, and the threads that empty it: one for each call that it computes at once."""

    def __init__(
        self,
        source: Source,
        *,
        most: int,
        calls: int,
        delay_s: float,
        ran: Callable[[int, float], object],
    ) -> None:
        """most: requests that may be inside; calls: of the model that compute at once.

        delay_s: the longest that a request waits for others to join its batch.
        ran: is told the rows and the seconds of each call.
        """
        self.source = source
        self.most = most
        self._delay_s = delay_s
        self._ran = ran
        self._inside = 0  # made ready, waiting or computed
        self._jobs: deque[Job] = deque()
        self._lock = threading.Lock()
        self._filled = threading.Condition(self._lock)  # a thread that has nothing to do is wanted
        self._joined = threading.Condition(self._lock)  # one that waits for others to join may go on
        self._gathering = 0
        self._coming = 0  # inside, and not yet in `_jobs`
        self._closing = False
        self._began: dict[int, float] = {}
        self._call_s = 0.0
        self._threads = [
            threading.Thread(target=self._work, args=(number,), name=f"edgecv-serve-{number}", daemon=True)
            for number in range(calls)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def inside(self) -> int:
        """How many requests are being made ready, wait or are computed."""
        return self._inside

    def hanging_s(self, now_s: float) -> float:
        """How long the longest call that goes on has taken so far, in seconds; now_s: `time.monotonic()`."""
        return max((now_s - began_s for began_s in list(self._began.values())), default=0.0)

    def wait_s(self) -> float:
        """About how long it takes until those inside are answered, in seconds."""
        return self._inside * self._call_s / len(self._threads)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Come in, for one request from its decoding to its answer; raises Busy where it is full."""
        with self._lock:
            if self._closing:
                raise Closed("the server is stopping")
            if self._inside >= self.most:
                raise Busy(f"{self._inside} requests wait already; try again later")
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1

    @contextmanager
    def coming(self) -> Iterator[None]:
        """While a request is made ready: others may wait for it to join them."""
        with self._lock:
            self._coming += 1
        try:
            yield
        finally:
            with self._lock:
                self._coming -= 1
                self._joined.notify_all()

    def submit(self, model: Model[Any], tensor: NDArray[Any], finish: Callable[[Outputs], T]) -> Future[T]:
        """What `finish` makes of the outputs of a tensor, when its turn has come; cancelling it leaves the line.

        It is called by the thread that computed: each change of threads costs a small model as much as its own call.
        """
        job = Job(model, tensor, finish, Future())
        with self._lock:
            if self._closing:
                raise Closed("the server is stopping")
            self._jobs.append(job)
            (self._joined if self._gathering else self._filled).notify()
        return job.done

    def close(self, wait_s: float) -> bool:
        """Answer what waits, for so long at most, and close the model; False where a call hangs, which stays as is."""
        with self._lock:
            self._closing = True
            self._filled.notify_all()
            self._joined.notify_all()
        end_s = time.monotonic() + wait_s
        for thread in self._threads:
            thread.join(max(0.0, end_s - time.monotonic()))
        with self._lock:
            left = list(self._jobs)
            self._jobs.clear()
        for job in left:
            job.done.cancel()
        if any(thread.is_alive() for thread in self._threads):
            return False
        self.source.close()
        return True

    def _work(self, number: int) -> None:
        while jobs := self._take():
            jobs = [job for job in jobs if job.done.set_running_or_notify_cancel()]
            if jobs:
                self._began[number] = time.monotonic()
                try:
                    self._compute(jobs)
                finally:
                    del self._began[number]

    def _take(self) -> list[Job]:
        """The next batch; none when the line is closed and empty."""
        with self._lock:
            while not self._jobs:
                if self._closing:
                    return []
                self._filled.wait()
            jobs = [self._jobs.popleft()]
            rows, most, end_s = len(jobs[0].tensor), _batch(jobs[0].model), time.monotonic() + self._delay_s
            while rows < most:
                if self._jobs:
                    if self._jobs[0].model is not jobs[0].model or rows + len(self._jobs[0].tensor) > most:
                        break
                    jobs.append(self._jobs.popleft())
                    rows += len(jobs[-1].tensor)
                    continue
                left_s = end_s - time.monotonic()
                if not self._coming or left_s <= 0 or self._closing:
                    break
                self._gathering += 1
                self._joined.wait(left_s)
                self._gathering -= 1
            if self._jobs:  # what this one was woken for, and does not take
                self._filled.notify()
            return jobs

    def _compute(self, jobs: list[Job]) -> None:
        """One call for all; when it fails one for each, so that one does not spoil the others."""
        model = jobs[0].model
        try:
            tensor = jobs[0].tensor if len(jobs) == 1 else np.concatenate([job.tensor for job in jobs])
            outputs = self._run(model, tensor)
        except Exception as exc:  # a backend may raise anything
            if len(jobs) > 1:
                for job in jobs:
                    self._compute([job])
            else:
                jobs[0].done.set_exception(self._judged(model, exc))
            return
        if model is self.source.current():
            self.source.worked(len(tensor))
        at = 0
        for job in jobs:
            end = at + len(job.tensor)
            own = outputs if len(jobs) == 1 else {name: each[at:end] for name, each in outputs.items()}
            try:
                job.done.set_result(job.finish(own))
            except Exception as exc:  # outputs that cannot be what they were said to be
                job.done.set_exception(exc)
            at = end

    def _run(self, model: Model[Any], tensor: NDArray[Any]) -> Outputs:
        """Outputs of any number of rows, as many a call as were measured to be the fastest."""
        rows = _batch(model)
        pieces = [tensor[at : at + rows] for at in range(0, len(tensor), rows)] if _is_by_row(model) else [tensor]
        found = []
        for piece in pieces:
            began_s = time.monotonic()
            found.append(model.run({model.input.name: piece}))
            took_s = time.monotonic() - began_s
            self._call_s += (took_s - self._call_s) / (8 if self._call_s else 1)
            self._ran(len(piece), took_s)
        if len(found) == 1:
            return found[0]
        return {name: np.concatenate([each[name] for each in found]) for name in found[0]}

    def _judged(self, model: Model[Any], error: Exception) -> Exception:
        """What a request is told; that of a model which has gone, or which its bundle goes back from, is made anew."""
        if model is not self.source.current():
            return Again("the model was exchanged")
        if self.source.failed(error) is not None:
            return Again("the new model failed")
        if not isinstance(error, EdgecvError):
            logger.error("%s failed: %s: %s", model.name, type(error).__name__, error)
        return error


def _batch(model: Model[Any]) -> int:
    """How many rows it takes at once: as it was tuned, and 1 where rows of the outputs are not those of the input."""
    return model.batch if _is_by_row(model) else 1


def _is_by_row(model: Model[Any]) -> bool:
    """Whether each output has a row for each of the input, so that those of several requests can be told apart."""
    return all(spec.shape[:1] == model.input.shape[:1] for spec in model.outputs)
