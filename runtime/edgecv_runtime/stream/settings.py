"""How a stream behaves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from edgecv_runtime.errors import BadInput
from edgecv_runtime.stream.backoff import Waits
from edgecv_runtime.stream.buffer import WhenLate


@dataclass(frozen=True)
class Settings:
    """How a stream behaves.

    when_late: "drop-oldest", "drop-newest", "wait"; "auto": cameras drop the oldest, recordings wait.
    max_frames: end each source after this many frames went through the model.
    reconnect: connect cameras again when they are lost; otherwise a lost camera has ended.
    isolate: read each camera in a process of its own, so that a crash of a decoder or driver ends only that.
    batch: frames that the model takes at once, from different sources; None is what it was tuned for.
    max_failures: failures of the model in a row that end a source.
    hang_s: a call of the model that takes longer hangs; the stacks go to stderr and the run ends with exit code 6.
    stall_s: a camera without a sign of life for so long is stalled.
    waits: between tries to reach a camera, or a sink.
    """

    when_late: WhenLate | Literal["auto"] = "auto"
    max_frames: int | None = None
    reconnect: bool = True
    isolate: bool = True
    batch: int | None = None
    max_failures: int = 30
    hang_s: float = 60.0
    stall_s: float = 2.5
    waits: Waits = field(default_factory=Waits)

    def __post_init__(self) -> None:
        if self.max_frames is not None and self.max_frames < 1:
            raise BadInput(f"max_frames must be at least 1, got {self.max_frames}")
        if self.batch is not None and self.batch < 1:
            raise BadInput(f"batch must be at least 1, got {self.batch}")
