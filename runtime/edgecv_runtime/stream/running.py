"""One call that runs a stream to its end, and the signals that stop it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from edgecv_runtime import signals
from edgecv_runtime.errors import BadInput
from edgecv_runtime.stream.backoff import Waits
from edgecv_runtime.stream.buffer import WhenLate
from edgecv_runtime.stream.engine import Model
from edgecv_runtime.stream.events import Event
from edgecv_runtime.stream.loop import Stream
from edgecv_runtime.stream.report import StreamReport
from edgecv_runtime.stream.settings import Settings
from edgecv_runtime.stream.sinks.base import Sink
from edgecv_runtime.stream.sources import Source


def run(
    model: Model,
    sources: str | int | Path | Source | Sequence[str | int | Path | Source],
    sinks: Sequence[Sink] = (),
    *,
    when_late: WhenLate | Literal["auto"] = "auto",
    max_frames: int | None = None,
    stop: threading.Event | None = None,
    on_progress: Callable[[StreamReport], object] | None = None,
    on_event: Callable[[Event], object] | None = None,
    reconnect: bool = True,
    isolate: bool = True,
    batch: int | None = None,
    max_failures: int = 30,
    hang_s: float = 60.0,
    waits: Waits | None = None,
) -> StreamReport:
    """Run a model on every frame of one or several sources and hand the results to sinks, until all sources end.

    model: (H, W, 3) uint8 BGR -> a result with `draw` and `as_dict` (see tasks.Result); it has a thread of its own.
    sources: what `open_source` takes, or sources; each is read by a thread of its own, served in turn, and closed.
    sinks: each in a thread of its own, and closed; results of cameras are dropped, counted, when a sink is too slow.
    stop: when set, the run ends in order within 2 s, whatever the sources are doing (see `stop_on_signals`).
    on_progress: called about twice a second with the report so far.
    on_event: called with each event as it comes (a source connects, is live, ends, ...), by the thread it happens in.
    The others: see `Settings`. `Stream` is the same in parts, for sources that come and go.
    Raises BadInput for sources or sinks that cannot be used; every later trouble stands in the report, whose `check()`
    raises it and whose `exit_code` says it. Raises LedgerError if a frame were lost.
    """
    given = [sources] if isinstance(sources, (str, int, Path, Source)) else list(sources)
    if not given:
        raise BadInput("no sources: expected at least one camera, URL, video file or folder")
    settings = Settings(
        when_late=when_late,
        max_frames=max_frames,
        reconnect=reconnect,
        isolate=isolate,
        batch=batch,
        max_failures=max_failures,
        hang_s=hang_s,
        waits=waits or Waits(),
    )
    stream = Stream(model, given, sinks, settings)
    if on_event is not None:
        stream.journal.subscribe(on_event)
    return stream.run(stop, on_progress)


class SignalEvent(threading.Event):
    """An event that knows which signal set it: `signum`, None before."""

    signum: int | None = None


@contextmanager
def stop_on_signals(*numbers: int) -> Iterator[SignalEvent]:
    """An event for `run(stop=...)` that SIGTERM, SIGINT and SIGHUP (or the given ones) set; in the main thread only.

    A second signal does what it would have done without.
    """
    stop = SignalEvent()

    def note(number: int) -> None:
        stop.signum = number
        stop.set()

    with signals.at_first(note, *(numbers or (*signals.ENDING, *signals.HANG_UP))):
        yield stop
