"""Whether a stream does its work, judged by the time of the last result and not by a living process."""

from __future__ import annotations

import threading
from typing import NamedTuple

from edgecv_runtime.stream.report import StreamReport

RECENT_S = 10.0  # a result is recent; a camera that is lost and comes back needs a few seconds
_LOOP_S = 5.0  # the loop reports twice a second
_FRAMES = 3  # or so many frames of a camera that is asked for few
_GIVING = ("live", "degraded")  # states in which frames come, so that results must


class Verdict(NamedTuple):
    """ok, and one line for each thing that is wrong."""

    ok: bool
    reasons: tuple[str, ...]


class Health:
    """Watches the reports of a run: `look` at each, then ask `alive`, `ready` or `working`; from any thread.

    alive: the loop runs. ready: every source that has not ended has given a result within RECENT_S. working: every
    source whose frames come has; a camera that is away is no reason to start the process anew, and a model that hangs
    is.
    """

    def __init__(self, recent_s: float = RECENT_S) -> None:
        self._recent_s = recent_s
        self._lock = threading.Lock()
        self._looked_s: float | None = None
        self._counts: dict[str, tuple[int, float]] = {}  # results so far, and when the last one was seen
        self._states: dict[str, tuple[str, float]] = {}  # state of each that has not ended, and since when
        self._has_result: set[str] = set()
        self._recent: dict[str, float] = {}  # seconds within which a result is recent

    def look(self, report: StreamReport, now_s: float) -> None:
        """Take a report; now_s: `time.monotonic()`."""
        with self._lock:
            self._looked_s = now_s
            for source in report.sources:
                self._recent[source.name] = max(self._recent_s, _FRAMES / (source.max_fps or float("inf")))
                count, _ = self._counts.get(source.name, (0, now_s))
                if source.inferred != count or source.name not in self._counts:
                    self._counts[source.name] = source.inferred, now_s
                if source.inferred > count:
                    self._has_result.add(source.name)
                known = self._states.get(source.name)
                if known is None or (known[0] in _GIVING) != (source.state in _GIVING):
                    self._states[source.name] = source.state, now_s
                else:
                    self._states[source.name] = source.state, known[1]
            ended = [source.name for source in report.sources if source.ended != "running"]
            for name in [*ended, *(set(self._states) - {source.name for source in report.sources})]:
                self._states.pop(name, None)

    def age_s(self, name: str, now_s: float) -> float | None:
        """Seconds since the last result of a source, None before the first."""
        with self._lock:
            return now_s - self._counts[name][1] if name in self._has_result else None

    def alive(self, now_s: float) -> Verdict:
        """Whether the loop has reported lately."""
        with self._lock:
            if self._looked_s is None or now_s - self._looked_s <= _LOOP_S:
                return Verdict(True, ())
            return Verdict(False, (f"the loop has not reported for {now_s - self._looked_s:.0f} s",))

    def ready(self, now_s: float, only: str | None = None) -> Verdict:
        """Whether each source, or one, has given a recent result; never before the first."""
        with self._lock:
            names = [name for name in self._states if only in (None, name)]
            reasons = [f"{only}: no such source"] if only is not None and not names else []
            if not names and only is None:
                reasons.append("no source runs")
            for name in names:
                if name not in self._has_result:
                    reasons.append(f"{name}: no result yet ({self._states[name][0]})")
                elif now_s - self._counts[name][1] > self._recent[name]:
                    age_s = now_s - self._counts[name][1]
                    reasons.append(f"{name}: no result for {age_s:.0f} s ({self._states[name][0]})")
            return Verdict(not reasons, tuple(reasons))

    def working(self, now_s: float) -> Verdict:
        """Whether the loop runs and gives a result of each source whose frames come."""
        alive = self.alive(now_s)
        with self._lock:
            reasons = [
                f"{name}: frames come, and no result for {now_s - max(since_s, self._counts[name][1]):.0f} s"
                for name, (state, since_s) in self._states.items()
                if state in _GIVING and now_s - max(since_s, self._counts[name][1]) > self._recent[name]
            ]
        return Verdict(alive.ok and not reasons, (*alive.reasons, *reasons))
