"""What every sink is: it takes one result after the other, in one thread, and says when it cannot."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from edgecv_runtime.stream.frame import Frame

if TYPE_CHECKING:
    from typing import Self

    from edgecv_runtime.tasks import Result


@dataclass(frozen=True, eq=False)
class Output:
    """A frame with its result; age_ms: from the capture of the frame to its result."""

    frame: Frame
    result: Result
    age_ms: float


class StopStream(Exception):  # a request, not an error
    """Raised by a sink to end the run in order: a window was closed, what was looked for is found."""


class Sink(ABC):
    """Where results go: `with JsonLinesSink("out.jsonl") as sink: run(model, source, [sink])`.

    `run` calls `write` in a thread of the sink's own, so that a slow sink does not hold up the model, and closes it. An
    exception from `write` is counted for that frame; the sink is asked again for the next.

    name: in reports; own_thread: False to be called by the thread that called `run`, as windows want it.
    """

    name: str
    own_thread = True

    def start(self, sources: int) -> None:  # noqa: B027  # most sinks take any number
        """Called by `run` before the first frame, with the number of sources; raises BadInput if they are too many."""

    @abstractmethod
    def write(self, output: Output) -> None:
        """Take one result; raises what goes wrong, or StopStream."""

    @abstractmethod
    def close(self) -> None:
        """Finish what was written; may be repeated; raises what goes wrong."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
