"""What a way to run is chosen for: latency, throughput, or throughput within a bound on latency."""

from __future__ import annotations

import re

from edgecv_runtime.errors import BadInput
from edgecv_runtime.records import Record

_BOUND = re.compile(r"\s*(?P<name>p50|p90|p99)\s*<=?\s*(?P<limit>\d+(\.\d+)?)\s*ms\s*")


class Trial(Record, frozen=True):
    """One way to run, measured with all its streams busy: milliseconds of single calls, and frames per second.

    threads: CPU threads of all streams together, 0 for as many as the backend likes. failed: why it does not run.
    """

    variant: str
    backend: str
    hint: str
    threads: int
    streams: int
    batch: int
    p50_ms: float = 0.0
    p90_ms: float = 0.0
    p99_ms: float = 0.0
    frames_per_s: float = 0.0
    failed: str = ""

    def __post_init__(self) -> None:
        if self.threads < 0 or self.streams < 1 or self.batch < 1:
            raise BadInput(
                f"a trial has threads of at least 0, streams and batch of at least 1, "
                f"got {self.threads}, {self.streams}, {self.batch}"
            )


class Goal(Record, frozen=True):
    """`text`: "latency" (least median), "throughput" (most frames a second), or a bound such as "p99 <= 20 ms".

    A bound (of p50, p90 or p99) asks for the most frames a second whose calls keep to it. Raises BadInput for others.
    """

    text: str = "latency"

    def __post_init__(self) -> None:
        bound = _BOUND.fullmatch(self.text)
        if self.text not in ("latency", "throughput") and (bound is None or not float(bound["limit"])):
            raise BadInput(f"a goal is 'latency', 'throughput' or a bound such as 'p99 <= 20 ms', got '{self.text}'")

    @property
    def is_latency(self) -> bool:
        """Whether one call at a time counts, so that streams and batches cannot help."""
        return self.text == "latency"

    def cost(self, trial: Trial, slack: float = 1.0) -> float:
        """What to make small: milliseconds for latency, else milliseconds a frame; infinite for one that failed.

        One that misses `slack` times the bound costs more than all that keep to it, and the more the further it is off.
        """
        if trial.failed:
            return float("inf")
        if self.is_latency:
            return trial.p50_ms
        excess = self.excess(trial)
        return 1e3 / trial.frames_per_s if excess <= slack else 1e9 * excess

    def kept_by(self, trial: Trial) -> bool:
        """Whether it runs and keeps to the bound, if there is one."""
        return not trial.failed and self.excess(trial) <= 1

    def excess(self, trial: Trial) -> float:
        """The bounded latency over its bound; 0 without a bound."""
        bound = _BOUND.fullmatch(self.text)
        if bound is None:
            return 0.0
        times = {"p50": trial.p50_ms, "p90": trial.p90_ms, "p99": trial.p99_ms}
        return times[bound["name"]] / float(bound["limit"])
