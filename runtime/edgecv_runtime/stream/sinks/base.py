"""What every sink is: it takes one result after the other, in one thread, and says when it cannot."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from edgecv_runtime.stream.events import Event
from edgecv_runtime.stream.frame import Frame

if TYPE_CHECKING:
    from typing import Self

    from edgecv_runtime.tasks import Result


@dataclass(frozen=True)
class Happening:
    """What made a result an event: the rule, for how many seconds it had held, and what was found."""

    rule: str
    held_s: float
    found: tuple[dict[str, str | float], ...]


@dataclass(frozen=True, eq=False)
class Output:
    """A frame with its result; `frame.source` and `frame.connection` say where it comes from.

    age_ms: from the capture of the frame to its result; unix_s: the wall clock at its capture.
    model: which model made the result. happenings: of a sink that is told of events alone, those that this is.
    """

    frame: Frame
    result: Result
    age_ms: float
    unix_s: float
    model: str
    happenings: tuple[Happening, ...] = ()


class StopStream(Exception):  # a request, not an error
    """Raised by a sink to end the run in order: a window was closed, what was looked for is found."""


class SinkGone(Exception):  # it is told as what happened
    """Raised by a sink that will never work again, as a pipe whose reader left; when all have gone the run ends."""


class Sink(ABC):
    """Where results go: `with JsonLinesSink("out.jsonl") as sink: run(model, source, [sink])`.

    `run` calls `write` in a thread of the sink's own, so that a slow sink does not hold up the model, and closes it. An
    exception from `write` is counted for that frame; after three in a row the sink is down, and asked again after
    0.5 s, 1 s, ... up to 30 s.

    name: in reports; own_thread: False to be called by the thread that called `run`, as windows want it.
    patience_s: how long a recording waits for the sink when it fails, before it goes on without it.
    """

    name: str
    own_thread = True
    patience_s = 5.0

    def start(self, sources: Sequence[str]) -> None:  # noqa: B027  # most sinks take any number
        """Called by `run` before the first frame, with the names of the sources; raises BadInput if they are too many.

        Others may come later, and a source may come back with another size, or another clock: then its frames have
        another `connection`, and a sink whose file cannot hold both begins a new one.
        """

    def select(self, output: Output) -> Output | None:
        """What of a result is to be written, None for nothing; asked for each, in the model's thread: never waits."""
        return output

    def event(self, event: Event) -> None:  # noqa: B027  # most sinks take results only
        """Take one event of a source, sink or model, in the thread that calls `write`; by default nothing."""

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
