"""What is asked of a benchmark by scenario, and what each scenario is called in a report."""

from __future__ import annotations

from typing import Literal

from edgecv_runtime.errors import BadInput, nearest
from edgecv_runtime.records import Record

Act = Literal["single-stream", "multi-stream", "offline", "server", "paced", "flat out", "frames"]

LOADGEN: dict[str, str] = {
    "single-stream": "SingleStream", "multi-stream": "MultiStream", "offline": "Offline", "server": "Server",
}  # fmt: skip
SCENARIOS: dict[str, str] = {
    "single-stream": "one call after the other, by LoadGen",
    "multi-stream": "calls of eight frames, one after the other, by LoadGen",
    "offline": "all frames at once, by LoadGen",
    "server": "requests at random moments, --qps of them a second on average, by LoadGen",
    "paced": "a camera's pace, --fps, with its idle gaps; and flat out beside it",
    "sustained": "flat out for --minutes: drift, throttling",
    "cold": "fresh processes, from their start to the second result",
    "frames": "image files to drawn results, stage by stage",
}
RULES_S = 600.0  # LoadGen's own rules: no test is shorter


class Plan(Record, frozen=True):
    """What is asked: a scenario and its figures.

    seconds: of one run; rules: as long as LoadGen's rules want instead. qps: of "server"; bound_ms: what 99 of 100 of
    its requests may take. feed: what a call is given, a ready tensor or a whole frame. batch: frames a call of
    "offline". starts: pairs of processes of "cold". warm_up_s: of calls that do not count, after those that compile.
    """

    scenario: str
    seconds: float = 10.0
    rules: bool = False
    fps: float = 30.0
    qps: float = 0.0
    bound_ms: float = 15.0
    feed: Literal["tensors", "frames"] = "tensors"
    batch: int = 1
    threads: int = 0
    starts: int = 5
    warm_up_s: float = 0.5

    def __post_init__(self) -> None:
        if self.scenario not in SCENARIOS:
            raise BadInput(f"no scenario '{self.scenario}'{nearest(self.scenario, SCENARIOS)}")
        if self.seconds <= 0 or self.batch < 1 or self.threads < 0 or self.starts < 1:
            raise BadInput(
                "seconds must be positive, batch and starts at least 1, threads at least 0: "
                f"got {self.seconds:g}, {self.batch}, {self.starts}, {self.threads}"
            )
        if not 0 < self.fps <= 10_000:
            raise BadInput(f"fps is a camera's frames a second, up to 10000: got {self.fps:g}")
        if self.scenario == "server" and self.qps <= 0:
            raise BadInput(
                "scenario 'server' wants the requests a second to try: --qps 50, say; what one call after the other "
                "reaches, --scenario single-stream says"
            )
        if self.bound_ms <= 0:
            raise BadInput(f"bound_ms must be positive: got {self.bound_ms:g}")
        if self.rules and self.scenario not in LOADGEN:
            raise BadInput(f"LoadGen's rules are for {', '.join(LOADGEN)}; '{self.scenario}' is edgecv's own")
        if self.batch > 1 and self.scenario != "offline":
            raise BadInput(f"batch is of scenario 'offline' alone; '{self.scenario}' has its own: leave it out")
        if self.feed == "frames" and self.scenario in ("cold", "frames"):
            raise BadInput(f"scenario '{self.scenario}' says itself what a call is given: leave out feed")

    @property
    def acts(self) -> tuple[Act, ...]:
        """What one process plays, in this order; "cold" needs processes of its own."""
        table: dict[str, tuple[Act, ...]] = {
            "single-stream": ("single-stream",),
            "multi-stream": ("multi-stream",),
            "offline": ("offline",),
            "server": ("server",),
            "paced": ("paced", "flat out"),
            "sustained": ("flat out",),
            "cold": (),
            "frames": ("frames",),
        }
        return table[self.scenario]

    @property
    def calls(self) -> int:
        """Frames a call."""
        return {"offline": self.batch, "multi-stream": 8}.get(self.scenario, 1)

    def label(self, act: str) -> str:
        """What it may be called in a report: "LoadGen SingleStream, unofficial, short"."""
        if act in LOADGEN:
            return f"LoadGen {LOADGEN[act]}, unofficial" + ("" if self.rules else ", short")
        if act == "paced":
            return f"paced at {self.fps:g} frames/s"
        if self.scenario == "sustained":
            return f"sustained, {self.seconds / 60:g} min flat out"
        return act
