"""Where requests are answered, whichever protocol brings them: which model, read, computed, written, within limits."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from edgecv_runtime.backends import DEFAULT_DEVICE
from edgecv_runtime.errors import BadInput, Closed, EdgecvError, Unavailable, nearest
from edgecv_runtime.manifest import TensorSpec
from edgecv_runtime.oneline import one_line
from edgecv_runtime.serve.body import Gone, Limits, Memory, Refusal
from edgecv_runtime.serve.line import Again, Busy, Line, Rows
from edgecv_runtime.serve.metrics import Metrics
from edgecv_runtime.serve.models import Face, Outputs
from edgecv_runtime.serve.protocol import Request
from edgecv_runtime.stream.latest import told

T = TypeVar("T")
W = TypeVar("W", covariant=True)
PLATFORM = "edgecv_onnx"
_TRIES = 3  # of a request whose model is exchanged meanwhile
_QUICK_S, _SMALL = 0.025, 1 << 18  # a request's time and bytes for which no thread is changed
_HERE = ("onnxruntime", "openvino")  # backends of this machine's CPU: what waits for a device or a network may hang
_SLOW_S, _HANGS_S = 10.0, 30.0  # a call that takes so long is not ready for others; does not come back
logger = logging.getLogger("edgecv")


class Elsewhere(EdgecvError):
    """A request may take longer than it looked: the loop's own thread does not compute it."""


class Served(NamedTuple):
    """One model of the protocol: a bundle's line, seen by one of its faces."""

    name: str
    version: str
    line: Line
    face: Face

    @property
    def is_ready(self) -> bool:
        """Whether no call of it takes too long."""
        return self.line.hanging_s(time.monotonic()) < _SLOW_S


class Wire(Protocol[W]):
    """A request as it came, and how its answer goes back."""

    def decoded_bytes(self) -> int:
        """What it takes at most once it is read; raises BadInput."""
        ...

    def read(self, spec: TensorSpec, outputs: Sequence[str]) -> Request:
        """The request of a model with this input and these outputs; raises BadInput."""
        ...

    def write(self, served: Served, content: str, asked: Request, columns: Outputs) -> W:
        """Its answer."""
        ...


class Desk:
    """Answers requests for some models."""

    def __init__(self, served: Sequence[Served], limits: Limits, metrics: Metrics) -> None:
        self._models: dict[str, dict[str, Served]] = {}
        for each in served:
            self._models.setdefault(each.name, {})[each.version] = each
        self._lines = {each.line for each in served}
        self.limits, self.metrics = limits, metrics
        self.memory = Memory(int(limits.memory_mb * 2**20))
        metrics.held(lambda: self.memory.held)

    def all(self) -> list[Served]:
        """Every model and version."""
        return [each for versions in self._models.values() for each in versions.values()]

    @property
    def is_live(self) -> bool:
        """A call that hangs is mended by a new process."""
        now_s = time.monotonic()
        return all(each.line.hanging_s(now_s) < _HANGS_S for each in self.all())

    @property
    def is_ready(self) -> bool:
        """Whether all models are."""
        return all(each.is_ready for each in self.all())

    def find(self, name: str, version: str | None) -> Served:
        """A model, the latest version without one; raises Refusal with the nearest name."""
        versions = self._models.get(name)
        if versions is None:
            raise Refusal(f"there is no model '{name[:80]}'{nearest(name[:80], self._models)}", 404)
        if version is None:
            return max(versions.values(), key=lambda each: _order(each.version))
        if version not in versions:
            raise Refusal(f"model '{name}' has the versions {', '.join(versions)}, not '{version[:40]}'", 404)
        return versions[version]

    def versions(self, name: str) -> list[str]:
        """Those of a model, the latest last."""
        return sorted(self._models[name], key=_order)

    def is_quick(self, served: Served, size: int) -> bool:
        """Whether a request of so many bytes, the only one inside, is soon computed, and by nothing that could hang."""
        line = served.line
        if size > _SMALL or line.request_s > _QUICK_S or sum(each.inside for each in self._lines) > 1:
            return False
        info = getattr(line.source.current(), "info", None)
        return info is not None and info.backend in _HERE and info.device == DEFAULT_DEVICE

    async def answer(
        self,
        served: Served,
        wire: Wire[T],
        take: Callable[[int], None],
        gone: asyncio.Future[None] | None = None,
        *,
        here: bool = False,
    ) -> T:
        """Read, compute, write; again where the model is exchanged meanwhile.

        take: is told the bytes that are held. gone: is done when nobody waits any more; raises Gone then. here: the
        loop's own thread may compute it, because nobody else waits for it (see `is_quick`).
        """
        for _ in range(_TRIES):
            try:
                return await self._once(served, wire, take, gone, here)
            except (Again, Elsewhere):
                here = False  # how long it takes now nobody knows
        raise _exchanged()

    async def _once(
        self, served: Served, wire: Wire[T], take: Callable[[int], None], gone: asyncio.Future[None] | None, here: bool
    ) -> T:
        loop = asyncio.get_running_loop()
        woken = loop.create_future()
        timeout_s = 0.0
        timer: asyncio.TimerHandle | None = None

        def wake(*_: object) -> None:
            if not woken.done():
                woken.set_result(None)

        def later(seconds: float) -> None:
            nonlocal timeout_s
            timeout_s = seconds
            loop.call_soon_threadsafe(limit)

        def limit() -> None:
            nonlocal timer
            if not woken.done():
                timer = loop.call_later(timeout_s, wake)

        waiting = served.line.submit(partial(_rows, served, wire, take, later, only_small=here), here=here)
        if waiting.done():
            wake()  # of no timer
            return waiting.result()  # type: ignore[no-any-return]
        waiting.add_done_callback(lambda _: None if loop.is_closed() else loop.call_soon_threadsafe(wake))
        if gone is not None:
            gone.add_done_callback(wake)
        try:
            await woken
            return _outcome(waiting, gone is not None and gone.done(), timeout_s)  # type: ignore[no-any-return]
        finally:
            waiting.cancel()  # at once: through the loop it would be computed yet
            wake()
            if timer is not None:
                timer.cancel()  # what it holds is free now, not when it would have rung
            if gone is not None:
                gone.remove_done_callback(wake)

    def answer_here(
        self, served: Served, wire: Wire[T], take: Callable[[int], None], gone: threading.Event, wake: threading.Event
    ) -> T:
        """The same by the thread that calls, which computes itself as far as it is its turn.

        wake: is set, after `gone`, when nobody waits any more; raises Gone then.
        """
        timeout_s = 0.0
        timers: list[threading.Timer] = []  # few ask for one

        def later(seconds: float) -> None:
            nonlocal timeout_s
            timeout_s = seconds
            timers.append(threading.Timer(min(seconds, threading.TIMEOUT_MAX), wake.set))
            timers[-1].daemon = True
            timers[-1].start()

        for _ in range(_TRIES):
            wake.clear()
            if gone.is_set():
                raise Gone
            waiting = served.line.submit(partial(_rows, served, wire, take, later), here=True)
            try:
                if not waiting.done():
                    waiting.add_done_callback(lambda _: wake.set())
                    wake.wait()
                return _outcome(waiting, gone.is_set(), timeout_s)  # type: ignore[no-any-return]
            except Again:
                continue
            finally:
                waiting.cancel()
                for timer in timers:
                    timer.cancel()
        raise _exchanged()


def _rows(
    served: Served,
    wire: Wire[T],
    take: Callable[[int], None],
    later: Callable[[float], None],
    *,
    only_small: bool = False,
) -> Rows:
    """Make a request ready; later: is told after how many seconds nobody waits any more, where it says so.

    only_small: raises Elsewhere for what is none.
    """
    model, face = served.line.source.current(), served.face
    size = wire.decoded_bytes()
    take(size)
    asked = wire.read(face.input(model), [spec.name for spec in face.outputs(model)])
    if only_small and not face.is_small(asked.input):
        take(-size)
        raise Elsewhere
    take(len(asked.input) * _row_bytes(model.input) if asked.input.ndim else 0)
    ready = face.ready(model, asked.input)
    if asked.timeout_s is not None:
        later(asked.timeout_s)

    def written(outputs: Outputs) -> T:
        names = [name for name, _ in asked.outputs]
        return wire.write(served, told(model), asked, face.answer(model, ready, outputs, names))

    return Rows(model, ready.tensor, written, is_patient=asked.timeout_s is None)


def _outcome(waiting: Future[Any], is_gone: bool, timeout_s: float) -> Any:
    """The answer that is there, or why nobody waits for it any more."""
    if waiting.done():
        return waiting.result()
    if is_gone:
        raise Gone
    raise Refusal(f"not computed after the {timeout_s:g} s of parameters.timeout", 504)


def _exchanged() -> Closed:
    return Closed("the model was exchanged several times meanwhile; try again")


def content(served: Served) -> Mapping[str, str]:
    """Parameters of a model's metadata and of its answers: which bundle, variant and file it is."""
    return {"content": told(served.line.source.current())}


def refusal(error: Exception, line: Line | None = None) -> Refusal:
    """An error as clients see it, with the status of HTTP that tells whether to try again, and when."""
    if isinstance(error, Refusal):
        return Refusal(one_line(str(error)), error.status, error.headers)
    headers: dict[str, str] = {}
    if isinstance(error, Busy):
        status = 429
        headers["Retry-After"] = str(math.ceil(line.wait_s()) if line is not None and line.wait_s() > 0 else 1)
    elif isinstance(error, BadInput):
        status = 400
    elif isinstance(error, (Closed, Unavailable)):
        status = 503
    else:
        status = 500
    if not isinstance(error, EdgecvError):
        logger.error("a request failed: %s: %s", type(error).__name__, error)
        error = EdgecvError("the computation failed")
    return Refusal(one_line(str(error)), status, headers)


def _row_bytes(spec: TensorSpec) -> int:
    return math.prod(size for size in spec.shape[1:] if isinstance(size, int)) * np.dtype(spec.dtype).itemsize


def _order(version: str) -> tuple[int, str]:
    """The latest last: by number."""
    return (int(version), "") if version.isdecimal() else (-1, version)
