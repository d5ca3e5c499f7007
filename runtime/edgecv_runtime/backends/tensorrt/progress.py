"""How far a build is: minutes on a Jetson, with nothing to see otherwise."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from edgecv_runtime.backends.tensorrt.api import Library

log = logging.getLogger("edgecv.tensorrt")

EVERY_S = 2.0


@dataclass
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


class Progress:
    """The share of a build that is done, from TensorRT's phases: a phase fills one step of its parent.

    Says so in the log at most every two seconds. Callbacks come from several threads.
    """

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.fraction = 0.0
        self._name = name
        self._clock = clock
        self._said = clock()
        self._phases: dict[str, _Phase] = {}
        self._lock = threading.Lock()

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        """A phase of a number of steps has begun."""
        with self._lock:
            self._phases[phase] = _Phase(parent, steps)

    def step(self, phase: str, step: int) -> None:
        """A step, counted from 0, is done."""
        with self._lock:
            if phase in self._phases:
                self._phases[phase].done = step + 1
            self._update()

    def finish(self, phase: str) -> None:
        """A phase has ended, with all its steps or without."""
        with self._lock:
            ended = self._phases.get(phase)
            if ended is not None:
                ended.done = ended.steps
                self._update()
                del self._phases[phase]

    def _update(self) -> None:
        top = [name for name, phase in self._phases.items() if phase.parent not in self._phases]
        if top:
            self.fraction = max(self.fraction, self._share(top[0]))
        now = self._clock()
        if now - self._said >= EVERY_S and self.fraction < 1:
            self._said = now
            log.info("%s: building its TensorRT engine, %d %% done", self._name, int(100 * self.fraction))

    def _share(self, name: str) -> float:
        phase = self._phases[name]
        inside = sum(self._share(child) for child, each in self._phases.items() if each.parent == name)
        return min(1.0, (phase.done + min(1.0, inside)) / phase.steps)


def monitor(trt: Library, progress: Progress) -> object:
    """TensorRT's IProgressMonitor over a Progress."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            progress.start(phase, parent, steps)

        def step_complete(self, phase: str, step: int) -> bool:
            progress.step(phase, step)
            return True  # go on

        def phase_finish(self, phase: str) -> None:
            progress.finish(phase)

    return Monitor()
