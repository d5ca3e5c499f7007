"""Where requests wait for a model: bounded, answered in batches where batches were measured to be faster.

A batch of 8 takes 8 times as long as one frame on most CPUs, so joining requests by default would only add delay: the
size of a batch is the one that `edgecv tune --goal throughput` found to be faster here, 1 otherwise. And a request
waits for others only while there are some: those that are being read and decoded, never for those that might come.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from edgecv_runtime.errors import Closed, EdgecvError
from edgecv_runtime.model import Model

Outputs = dict[str, NDArray[Any]]
logger = logging.getLogger("edgecv")
_STOPPING = "the server is stopping"


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


class Rows(NamedTuple):
    """A request made ready: rows for a model, what is made of their outputs; whether it waits as long as it takes."""

    model: Model[Any]
    tensor: NDArray[Any]
    finish: Callable[[Outputs], Any]
    is_patient: bool = True


class Job(NamedTuple):
    """A request as it came: what makes it ready, and where its answer goes."""

    prepare: Callable[[], Rows]
    done: Future[Any]


class Prepared(NamedTuple):
    """One that waits for its call; until: how long for others, by `time.monotonic()`."""

    rows: Rows
    done: Future[Any]
    until_s: float


class Line:
    """The queue in front of one model, and the threads that empty it.

    A thread that has made a request ready computes it, too, and writes its answer, where no other waits before it: each
    change of threads costs a small model as much as its own call. So does a thread that brings a request and may wait
    for it (`here`), where there is room: then no thread is changed at all.
    """

    def __init__(
        self,
        source: Source,
        *,
        most: int,
        calls: int,
        readers: int,
        turns: threading.Semaphore,
        delay_s: float,
        ran: Callable[[int, float], object],
    ) -> None:
        """most: requests that may be inside; calls: of the model that compute at once.

        readers: requests that are made ready at once, and turns: those of all lines together, for pictures are large.
        delay_s: the longest that a request waits for others to join its batch.
        ran: is told the rows and the seconds of each call.
        """
        self.source = source
        self.most = most
        self._calls, self._readers, self._turns = calls, readers, turns
        self._delay_s = delay_s
        self._ran = ran
        self._inside = 0  # from their bodies to their answers
        self._came: deque[Job] = deque()
        self._prepared: deque[Prepared] = deque()
        self._preparing = self._computing = 0
        self._changed = threading.Condition()
        self._closing = False
        self._began: dict[int, float] = {}
        self._prepare_s = self._call_s = 0.0
        self._threads = [
            threading.Thread(target=self._work, name=f"edgecv-serve-{number}", daemon=True)
            for number in range(calls + readers)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def inside(self) -> int:
        """How many requests wait, are made ready or are computed."""
        return self._inside

    @property
    def request_s(self) -> float:
        """How long one takes to be made ready and computed, in seconds, on average lately; infinite before any was."""
        return self._prepare_s + self._call_s if self._call_s else math.inf

    def hanging_s(self, now_s: float) -> float:
        """How long the longest call that goes on has taken so far, in seconds; now_s: `time.monotonic()`."""
        return max((now_s - began_s for began_s in list(self._began.values())), default=0.0)

    def wait_s(self) -> float:
        """About how long it takes until those inside are answered, in seconds."""
        return self._inside * self._call_s / self._calls

    @contextmanager
    def place(self) -> Iterator[None]:
        """Come in, for one request from its decoding to its answer; raises Busy where it is full."""
        with self._changed:
            if self._closing:
                raise Closed(_STOPPING)
            if self._inside >= self.most:
                raise Busy(f"{self._inside} requests wait already; try again later")
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1

    def submit(self, prepare: Callable[[], Rows], *, here: bool = False) -> Future[Any]:
        """What `finish` of its rows makes of their outputs, when its turn has come; cancelling it leaves the line.

        here: the calling thread makes it ready, and computes it, too, where there is room. Where there is none it
        waits: 64 threads that do so at once cost the digits' network a third more CPU than the line's few.
        """
        job = Job(prepare, Future())
        with self._changed:
            if self._closing:
                raise Closed(_STOPPING)
            here = here and not self._came and self._preparing < self._readers
            here = here and self._turns.acquire(blocking=False)  # of all lines, so others' may be taken
            if here:
                self._preparing += 1
            else:
                self._came.append(job)
                self._changed.notify()
        if here:
            self._prepare(job)
            self._turns.release()
            with self._changed:
                is_first = bool(self._prepared) and self._prepared[0].done is job.done
                batch = self._taken() if is_first and self._prepared[0].rows.is_patient else []
                self._wake_others()
            if batch:
                self._call(batch)
                with self._changed:
                    self._wake_others()
        return job.done

    def close(self, wait_s: float) -> bool:
        """Answer what waits, for so long at most, and close the model; False where a call hangs, which stays as is."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        end_s = time.monotonic() + wait_s
        for thread in self._threads:
            thread.join(max(0.0, end_s - time.monotonic()))
        with self._changed:
            is_done = self._changed.wait_for(lambda: not self._busy, max(0.0, end_s - time.monotonic()))
            left = [job.done for job in self._came] + [job.done for job in self._prepared]
            self._came.clear()
            self._prepared.clear()
        for done in left:
            if done.set_running_or_notify_cancel():
                done.set_exception(Closed(_STOPPING))
        if not is_done or any(thread.is_alive() for thread in self._threads):
            return False
        self.source.close()
        return True

    def _work(self) -> None:
        while step := self._next():
            if isinstance(step, Job):
                with self._turns:
                    self._prepare(step)
            else:
                self._call(step)

    def _call(self, batch: list[Prepared]) -> None:
        number = threading.get_ident()
        try:
            if jobs := [job for job in batch if job.done.set_running_or_notify_cancel()]:
                self._began[number] = time.monotonic()
                self._compute(jobs)
        finally:
            self._began.pop(number, None)
            with self._changed:
                self._computing -= 1

    def _next(self) -> Job | list[Prepared] | None:
        """A batch that is due, else a request to be made ready; None when the line is closed and empty.

        Whoever changes what is waited for asks here next, so that others are woken for what is left alone.
        """
        with self._changed:
            while True:
                step: Job | list[Prepared]
                if batch := self._taken():
                    step = batch
                elif self._may_prepare:
                    step = self._came.popleft()
                    self._preparing += 1
                elif self._closing and not self._came and not self._prepared and not self._preparing:
                    self._changed.notify_all()
                    return None
                else:
                    self._changed.wait(self._due()[1])
                    continue
                self._wake_others()
                return step

    def _taken(self) -> list[Prepared]:
        """A batch that is due; empty where none is."""
        count, _ = self._due()
        self._computing += count > 0
        return [self._prepared.popleft() for _ in range(count)]

    def _wake_others(self) -> None:
        if self._closing:
            self._changed.notify_all()
        elif self._may_prepare or (self._prepared and self._computing < self._calls):
            self._changed.notify()

    @property
    def _busy(self) -> int:
        return self._preparing + self._computing

    @property
    def _may_prepare(self) -> bool:
        return bool(self._came) and self._preparing < self._readers

    def _due(self) -> tuple[int, float | None]:
        """How many of those that are ready make a batch now; 0: and how long until they do if no other comes."""
        if not self._prepared or self._computing >= self._calls:
            return 0, None
        first = self._prepared[0]
        most, rows, count = _batch(first.rows.model), 0, 0
        for job in self._prepared:
            rows += len(job.rows.tensor)
            if count and (rows > most or job.rows.model is not first.rows.model):
                return count, None
            count += 1
            if rows >= most:
                return count, None
        left_s = first.until_s - time.monotonic()
        if left_s > 0 and (self._came or self._preparing) and not self._closing:
            return 0, left_s
        return count, None

    def _prepare(self, job: Job) -> None:
        """Make a request ready; who calls has a turn."""
        rows = None
        try:
            began_s = time.monotonic()
            try:
                rows = None if job.done.cancelled() else job.prepare()
            finally:
                self._prepare_s = _lately(self._prepare_s, time.monotonic() - began_s)
        except Exception as exc:  # of a client's making, or a decoder's
            if job.done.set_running_or_notify_cancel():
                job.done.set_exception(exc)
        with self._changed:
            self._preparing -= 1
            if rows is not None:
                self._prepared.append(Prepared(rows, job.done, time.monotonic() + self._delay_s))

    def _compute(self, jobs: list[Prepared]) -> None:
        """One call for all; when it fails one for each, so that one does not spoil the others."""
        model = jobs[0].rows.model
        try:
            tensor = jobs[0].rows.tensor if len(jobs) == 1 else np.concatenate([job.rows.tensor for job in jobs])
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
            end = at + len(job.rows.tensor)
            own = outputs if len(jobs) == 1 else {name: each[at:end] for name, each in outputs.items()}
            try:
                job.done.set_result(job.rows.finish(own))
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
            self._call_s = _lately(self._call_s, took_s)
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


def _lately(mean_s: float, took_s: float) -> float:
    """A mean that forgets."""
    return mean_s + (took_s - mean_s) / (8 if mean_s else 1)


def _batch(model: Model[Any]) -> int:
    """How many rows it takes at once: as it was tuned, and 1 where rows of the outputs are not those of the input."""
    return model.batch if _is_by_row(model) else 1


def _is_by_row(model: Model[Any]) -> bool:
    """Whether each output has a row for each of the input, so that those of several requests can be told apart."""
    return all(spec.shape[:1] == model.input.shape[:1] for spec in model.outputs)
