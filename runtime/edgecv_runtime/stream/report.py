"""What a run did: figures with their spread, and the closed account."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence

from edgecv_runtime.errors import BadInput, ComputationError, EdgecvError, SourceUnavailable
from edgecv_runtime.records import Record

_ERRORS: dict[int, type[EdgecvError]] = {kind.exit_code: kind for kind in (BadInput, SourceUnavailable)}
HANGS = 6  # exit code: a call of the model does not come back
LOSSES = 4  # exit code: finished with losses that were reported


class Spread(Record, frozen=True):
    """Percentiles of times in milliseconds, within 1 % of the exact value; `max_ms` is exact."""

    runs: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float


class SourceReport(Record, frozen=True):
    """What became of one source.

    state: what it was in last, see `events.STATES`; connections: how many gave frames; attempts: how many were tried.
    read = inferred + failed + the sum of dropped + in_flight; in_flight is 0 when the run is over.
    fps: inferred frames per second, between the first and the last result; None for fewer than two.
    age: from capture to result; inference: the model call alone. None where no frame was inferred.
    declared_frames: by the container, None if it does not say; damaged: what the decoder reported as broken;
    first_damaged: what was wrong with the first, where that is known.
    ended: "running", "end of file", "ended_early", "stopped", "max_frames" or "error"; detail: the rest of it.
    error_code: exit code of the error, 0 without one. max_fps: frames per second that were asked for, None for all.
    """

    name: str
    live: bool
    when_late: str
    state: str
    connections: int
    attempts: int
    read: int
    inferred: int
    dropped: dict[str, int]
    failed: int
    in_flight: int
    fps: float | None
    age: Spread | None
    inference: Spread | None
    declared_frames: int | None
    damaged: int
    first_damaged: str | None
    ended: str
    detail: str
    error_code: int
    max_fps: float | None = None


class SinkReport(Record, frozen=True):
    """What became of the results in one sink: inferred = delivered + failed + the sum of dropped + in_flight.

    state: "up" or "down"; error: the first one, also from closing; None without.
    """

    name: str
    delivered: int
    dropped: dict[str, int]
    failed: int
    in_flight: int
    state: str
    error: str | None


class StreamReport(Record, frozen=True):
    """What `run` returns, and what it gives to `on_progress` while it runs.

    first_failure: the first error of the model, None without.
    gave_up: it failed for so many frames of a source in a row that the source was ended.
    hung: a call of the model did not come back.
    """

    sources: tuple[SourceReport, ...]
    sinks: tuple[SinkReport, ...]
    wall_s: float
    first_failure: str | None
    gave_up: bool
    hung: bool = False

    @property
    def exit_code(self) -> int:
        """0 fine; 2 or 3 a source's own error; 4 losses that no policy chose; 5 the model failed; 6 it hangs."""
        if self.hung:
            return HANGS
        errors = [source.error_code for source in self.sources if source.error_code]
        if self.gave_up or errors:
            return ComputationError.exit_code if self.gave_up else max(errors)
        return LOSSES if self.losses else 0

    @property
    def failures(self) -> tuple[str, ...]:
        """One line for each thing that went wrong: the errors of sources, and the losses."""
        return (*(source.detail for source in self.sources if source.error_code), *self.losses)

    @property
    def losses(self) -> tuple[str, ...]:
        """One line for each loss that no policy chose: an early end, damage, a failed frame, a sink's error."""
        lines = []
        for source in self.sources:
            if source.ended == "ended_early":
                lines.append(f"{source.name}: ended_early {source.detail}")
            if source.damaged and not source.live:  # a camera that is joined between key frames always has some
                first = f", first: {source.first_damaged}" if source.first_damaged else ""
                lines.append(f"{source.name}: {source.damaged} damaged frames or packets{first}")
            if source.failed:
                lines.append(f"{source.name}: the model failed for {source.failed} frames: {self.first_failure}")
        for sink in self.sinks:
            if sink.failed or sink.error:
                lines.append(f"{sink.name}: {sink.failed} frames not delivered: {sink.error}")
        return tuple(lines)

    def _repr_html_(self) -> str:
        from html import escape

        from edgecv_runtime import notebook

        rows = [
            (each.name, each.read, each.inferred, sum(each.dropped.values()), each.failed, each.ended)
            for each in self.sources
        ]
        heads = ("source", "read", "inferred", "dropped", "failed", "ended")
        return notebook.table(heads, rows, f"{self.wall_s:.1f} s") + "".join(
            f"<p>{escape(line)}</p>" for line in self.failures
        )

    def check(self) -> None:
        """Raise what `exit_code` says: BadInput, SourceUnavailable, ComputationError, or EdgecvError for losses."""
        if self.hung:
            raise ComputationError("a call of the model did not come back")
        if self.gave_up:
            raise ComputationError(f"the model failed for too many frames in a row: {self.first_failure}")
        for source in self.sources:
            if source.error_code:
                raise _ERRORS.get(source.error_code, ComputationError)(source.detail)
        if self.losses:
            raise EdgecvError("; ".join(self.losses))


class Percentiles:
    """Percentiles of a stream without end: a histogram whose bins grow by 2 %, from 1 µs to 20 minutes, in 9 kB."""

    _GROWTH = 1.02
    _LEAST_MS = 1e-3
    _BINS = 1060

    def __init__(self) -> None:
        self._counts = [0] * self._BINS
        self._runs = 0
        self._total_ms = 0.0
        self._max_ms = 0.0

    def add(self, value_ms: float) -> None:
        """Count one time in milliseconds."""
        position = math.log(max(value_ms, self._LEAST_MS) / self._LEAST_MS) / math.log(self._GROWTH)
        self._counts[min(int(position), self._BINS - 1)] += 1
        self._runs += 1
        self._total_ms += value_ms
        self._max_ms = max(self._max_ms, value_ms)

    @property
    def runs(self) -> int:
        """How many times were counted."""
        return self._runs

    @property
    def total_ms(self) -> float:
        """Their sum."""
        return self._total_ms

    def below(self, bounds_ms: Sequence[float]) -> list[tuple[float, int]]:
        """How many lie at or below each bound, to the 2 % of a bin."""
        ends = [self._LEAST_MS * math.pow(self._GROWTH, position + 0.5) for position in range(self._BINS)]
        counts = list(self._counts)
        return [(bound, sum(counts[: bisect.bisect_right(ends, bound)])) for bound in bounds_ms]

    def spread(self) -> Spread | None:
        """The percentiles, or None when nothing was counted."""
        if not self._runs:
            return None
        p50_ms, p90_ms, p99_ms = (round(self._quantile(q), 3) for q in (0.5, 0.9, 0.99))
        return Spread(runs=self._runs, p50_ms=p50_ms, p90_ms=p90_ms, p99_ms=p99_ms, max_ms=round(self._max_ms, 3))

    def _quantile(self, q: float) -> float:
        rank, seen = math.ceil(q * self._runs), 0
        for position, count in enumerate(self._counts):
            seen += count
            if seen >= rank:
                return min(self._max_ms, self._LEAST_MS * math.pow(self._GROWTH, position + 0.5))
        return self._max_ms
