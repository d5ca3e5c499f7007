"""The loop: sources, scheduler, model and sinks wired together, and stopped together."""

from __future__ import annotations

import faulthandler
import itertools
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from edgecv_runtime.errors import BadInput
from edgecv_runtime.stream.buffer import WhenLate
from edgecv_runtime.stream.camera import Camera
from edgecv_runtime.stream.delivery import Delivery
from edgecv_runtime.stream.engine import Engine, Inferred, Model, described
from edgecv_runtime.stream.events import Journal
from edgecv_runtime.stream.frame import Frame
from edgecv_runtime.stream.lane import Served
from edgecv_runtime.stream.latest import Latest
from edgecv_runtime.stream.ledger import STOPPED, Ledger
from edgecv_runtime.stream.report import Percentiles, StreamReport
from edgecv_runtime.stream.scheduler import choose, window_ns
from edgecv_runtime.stream.settings import Settings
from edgecv_runtime.stream.sinks.base import Output, Sink
from edgecv_runtime.stream.sources import Source, open_source
from edgecv_runtime.stream.sources.isolated import isolated

_POLL_S = 0.1  # how soon a set `stop` is seen
_PROGRESS_S = 0.5  # least time between two calls of `on_progress`
_STOP_S = 1.5  # how long a stop waits for the model, for sinks to flush and for cameras to let go, together


class Stream:
    """A run whose sources may come and go, and whose model may be exchanged, while it runs.

    ledger: the account of every frame; journal: what happens, as it happens.
    """

    def __init__(
        self,
        model: Model,
        sources: Sequence[str | int | Path | Source],
        sinks: Sequence[Sink] = (),
        settings: Settings | None = None,
    ) -> None:
        """See `run`; nothing is opened before `run` is called. Raises BadInput."""
        self.settings = settings or Settings()
        self.ledger = Ledger()
        self.journal = Journal()
        self._changed = threading.Condition()  # a frame has come, a source has ended, a sink has room
        self._awake = threading.Event()  # the caller's thread has something to do
        if isinstance(model, Latest):
            model.attach(self.journal)
        self._engine = Engine(model, self.settings.batch)
        self._served: list[Served] = []
        self._inferring: list[Frame] = []
        self._delivering = False  # a result is between the model and the sinks
        self._turn = 0
        self._first_failure: str | None = None
        self._stop = threading.Event()
        self._ending = False
        self._hung = False
        self._broken: BaseException | None = None
        self._thread = threading.Thread(target=self._infer, name="edgecv-model", daemon=True)
        self._running = False
        self._start_s = time.monotonic()
        opened = [source if isinstance(source, Source) else open_source(source) for source in sources]
        if len(set(map(id, opened))) < len(opened):
            raise BadInput("the same source was given twice; open_source gives a new one each time")
        for name, source in zip(_unique([source.name for source in opened]), opened, strict=True):
            self._add(name, source)
        self._waiting_sinks = tuple(sinks)  # to be told of the sources
        if opened:
            self._start_sinks()
        accounts = [self.ledger.add_sink(name) for name in _unique([sink.name for sink in sinks])]
        self._deliveries = [
            Delivery(sink, account, self._changed, self.journal, self.settings.waits)
            for sink, account in zip(sinks, accounts, strict=True)
        ]
        for delivery in self._deliveries:
            self.journal.subscribe(delivery.tell)

    def add(
        self,
        source: str | int | Path | Source,
        *,
        when_late: WhenLate | Literal["auto"] | None = None,
        max_fps: float | None = None,
    ) -> str:
        """Take on one more source, from any thread -> its name, which it had before where it was removed.

        when_late: as in the settings, which hold without; max_fps: frames per second that the model gets of it.
        Raises BadInput.
        """
        if max_fps is not None and not 0 < max_fps < float("inf"):
            raise BadInput(f"max_fps must be positive, got {max_fps}")
        opened = source if isinstance(source, Source) else open_source(source)
        with self._changed:
            if self._ending:
                raise BadInput(f"{opened.name}: the stream has ended, and takes no more sources")
            taken = [each.name for each in self._served if not each.camera.finished]
            return self._add(_free(opened.name, taken), opened, when_late, max_fps)

    def remove(self, name: str) -> None:
        """End one source, from any thread; its account stays. Raises BadInput for an unknown name."""
        with self._changed:
            found = [each for each in self._served if each.name == name]
        if not found:
            raise BadInput(f"no source is called {name}; there are {', '.join(each.name for each in self._served)}")
        found[0].camera.stop("stopped", "removed")

    @property
    def cameras(self) -> tuple[Camera, ...]:
        """The cameras of all sources."""
        with self._changed:
            return tuple(each.camera for each in self._served)

    def swap(self, model: Model) -> None:
        """Exchange the model between two batches, from any thread, without losing a frame; a Latest does so itself."""
        self._engine.swap(model)

    def times(self) -> dict[str, tuple[Percentiles, Percentiles]]:
        """Of each source the ages of its results and the durations of inference, as they grow."""
        with self._changed:
            return {each.name: (each.age, each.inference) for each in self._served}

    def processes(self) -> dict[str, int]:
        """The process that reads a source, by the source's name; of those that have one of their own."""
        with self._changed:
            found = {each.name: getattr(each.camera.source, "process_id", None) for each in self._served}
        return {name: number for name, number in found.items() if number is not None}

    def report(self) -> StreamReport:
        """What happened so far."""
        with self._changed:
            served = list(self._served)
        return StreamReport(
            sources=tuple(each.report() for each in served),
            sinks=tuple(delivery.report() for delivery in self._deliveries),
            wall_s=time.monotonic() - self._start_s,
            first_failure=self._first_failure,
            gave_up=any(each.gave_up for each in served),
            hung=self._hung,
        )

    def run(
        self, stop: threading.Event | None = None, on_progress: Callable[[StreamReport], object] | None = None
    ) -> StreamReport:
        """Run until all sources have ended, or `stop` is set: from then on no frame is inferred. To be called once."""
        self._stop = stop or self._stop
        self._start_s = told_s = time.monotonic()
        try:
            self._start_sinks()
            with self._changed:
                self._running = True
                for each in self._served:
                    each.camera.start()
            self._thread.start()
            while not self._over():
                self._awake.wait(_POLL_S)
                self._awake.clear()
                self._look_after()
                if on_progress is not None and time.monotonic() - told_s >= _PROGRESS_S:
                    told_s = time.monotonic()
                    on_progress(self.report())
            if not self._stop.is_set():
                self._finish_sinks()
        finally:
            self._close()
        if self._broken is not None:
            raise self._broken
        self.ledger.check(final=True)
        return self.report()

    def _add(
        self,
        name: str,
        source: Source,
        when_late: WhenLate | Literal["auto"] | None = None,
        max_fps: float | None = None,
    ) -> str:
        if self.settings.isolate:
            source = isolated(source, lossless=(when_late or self.settings.when_late) == "wait")
        source.name = name
        former = next((each for each in self._served if each.name == name), None)
        camera = Camera(
            source,
            when_late=when_late or self.settings.when_late,
            max_frames=self.settings.max_frames,
            max_fps=max_fps,
            first_index=former.camera.next_index if former else 0,
            first_connection=former.camera.connection + 1 if former else 1,
            reconnect=self.settings.reconnect,
            waits=self.settings.waits,
            stall_s=self.settings.stall_s,
            account=former.camera.account if former else self.ledger.add_source(name),
            journal=self.journal,
            changed=self._changed,
        )
        served = Served(camera, self.settings.max_frames, former)
        if former is None:
            self._served.append(served)
        else:  # in its place: who looks at a source by its number does not see another one
            self._served[self._served.index(former)] = served
        if self._running:
            camera.start()
        return name

    def _start_sinks(self) -> None:
        """Tell the sinks of the first sources; raises BadInput where one cannot take them."""
        sinks, self._waiting_sinks = self._waiting_sinks, ()
        for sink in sinks:
            sink.start([each.name for each in self._served])

    def _over(self) -> bool:
        if self._stop.is_set() or self._hung or self._broken is not None:
            return True
        if any(delivery.stop_asked for delivery in self._deliveries):
            return True
        with self._changed:
            if all(each.camera.finished for each in self._served) and not (self._inferring or self._delivering):
                return True
            live = any(each.camera.facts.live for each in self._served)
        return bool(self._deliveries) and all(
            delivery.gone or (delivery.hopeless and not live) for delivery in self._deliveries
        )

    def _look_after(self) -> None:
        """What needs a thread that is stuck in nothing."""
        now_ns = time.monotonic_ns()
        for each in list(self._served):
            each.camera.watch(now_ns)
        for delivery in self._deliveries:
            delivery.pump()
        busy_s = self._engine.busy_s(now_ns)
        if busy_s > self.settings.hang_s:
            self._hung = True
            self.journal.note("model", self._engine.model_name, "hanging", f"one call has taken {busy_s:.1f} s")
            faulthandler.dump_traceback(sys.__stderr__ or 2)

    def _infer(self) -> None:
        """The model's thread."""
        try:
            while not (self._ending or self._stop.is_set()):
                batch = self._gather()
                if batch:
                    self._settle(self._engine.infer([frame for _, frame in batch]), [served for served, _ in batch])
        except BaseException as exc:  # raised by the thread that called `run`
            self._broken = exc
        self._awake.set()

    def _gather(self) -> list[tuple[Served, Frame]]:
        """The next frames for the model; empty when there is none within a moment, or it pays to wait for more."""
        with self._changed:
            served = list(self._served)
            room = min((delivery.room for delivery in self._deliveries), default=1 << 30)
            lanes = [each.lane(room) for each in served]
            chosen = choose(lanes, self._engine.most)
            wait_ns = window_ns(lanes, chosen, self._engine.batch, time.monotonic_ns(), self._engine.typical_ns)
            if not chosen or wait_ns:
                if not self._ending:
                    self._changed.wait(wait_ns / 1e9 if chosen else _POLL_S)
                return []
            taken = []
            for number in chosen:
                self._turn += 1
                frame = served[number].take(self._turn)
                if frame is not None:
                    taken.append((served[number], frame))
            self._inferring = [frame for _, frame in taken]
            return taken

    def _settle(self, results: Sequence[Inferred], served: Sequence[Served]) -> None:
        for each, done in zip(served, results, strict=True):
            with self._changed:
                if self._ending and done.frame not in self._inferring:  # nobody waited for it
                    continue
                self._inferring.remove(done.frame)
                self._delivering = True
                if done.error is not None:
                    self._first_failure = self._first_failure or described(done.error)
                    each.camera.account.failed(done.frame.index)
                else:
                    self.ledger.inferred(each.name, done.frame.index)
            each.count(done, self.settings.max_failures)
            if done.error is None and self._deliveries:
                age_ms = (done.ended_ns - done.frame.captured_ns) / 1e6
                output = Output(done.frame, done.result, age_ms, time.time() - age_ms / 1e3, done.model)
                for delivery in self._deliveries:
                    delivery.put(output, lossless=each.camera.when_late == "wait")
        self._delivering = False
        if self._deliveries and not all(delivery.own_thread for delivery in self._deliveries):
            self._awake.set()
        if all(each.camera.ended for each in served):
            self._awake.set()

    def _finish_sinks(self) -> None:
        """Let the sinks take what waits; without end, as long as nobody stops the run."""
        if self._hung:
            return
        for delivery in self._deliveries:
            delivery.finish()
        for delivery in self._deliveries:
            while not delivery.join(_POLL_S) and not self._stop.is_set():
                pass

    def _close(self) -> None:
        """Stop what still runs, in bounded time."""
        end_s = time.monotonic() + _STOP_S
        failed = bool(self._deliveries) and all(delivery.hopeless for delivery in self._deliveries)
        with self._changed:
            self._ending = True
            served = list(self._served)
            self._changed.notify_all()
        for each in served:
            if self._hung:
                each.camera.stop("error", "the model hangs")
            elif failed:
                each.camera.stop("error", "every sink failed")
            else:
                each.camera.stop()
        if self._thread.ident is not None and not self._hung:
            self._thread.join(max(0.0, end_s - time.monotonic()) / 2)
        with self._changed:
            for frame in self._inferring:
                self.ledger.sources[frame.source].dropped_for(frame.index, STOPPED)
            self._inferring = []
        for delivery in self._deliveries:
            delivery.finish()
        for delivery in self._deliveries:
            if not delivery.join(max(0.0, end_s - time.monotonic())):
                delivery.abandon(f"did not finish within {_STOP_S} s of the stop")
        for each in served:
            each.camera.join(max(0.0, end_s - time.monotonic()))


def _unique(names: Sequence[str]) -> list[str]:
    """The same names, the second of two equal ones as `name#2`."""
    found: list[str] = []
    for name in names:
        found.append(_free(name, found))
    return found


def _free(name: str, taken: Sequence[str]) -> str:
    """The name, or with the first number from 2 on that nobody has."""
    numbered = (f"{name}#{number}" for number in itertools.count(2))
    return next(each for each in itertools.chain([name], numbered) if each not in taken)
