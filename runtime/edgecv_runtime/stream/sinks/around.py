"""Sinks around a sink."""

from __future__ import annotations

from collections.abc import Sequence

from edgecv_runtime.stream.events import Event
from edgecv_runtime.stream.sinks.base import Output, Sink


class Around(Sink):
    """Hands everything on to another sink; what is around it decides what that gets."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.name = sink.name
        self.own_thread = sink.own_thread
        self.patience_s = sink.patience_s

    def start(self, sources: Sequence[str]) -> None:
        """Start it."""
        self._sink.start(sources)

    def select(self, output: Output) -> Output | None:
        """What it wants of a result."""
        return self._sink.select(output)

    def event(self, event: Event) -> None:
        """Tell it."""
        self._sink.event(event)

    def write(self, output: Output) -> None:
        """Write; raises what it raises."""
        self._sink.write(output)

    def close(self) -> None:
        """Close it."""
        self._sink.close()


class Only(Around):
    """A sink that gets the results and events of one source."""

    def __init__(self, sink: Sink, source: str) -> None:
        super().__init__(sink)
        self._source = source

    def start(self, sources: Sequence[str]) -> None:
        """Start it for this source; others are no business of it."""
        self._sink.start([source for source in sources if source == self._source])

    def select(self, output: Output) -> Output | None:
        """The results of this source."""
        return super().select(output) if output.frame.source == self._source else None

    def event(self, event: Event) -> None:
        """Tell it of this source."""
        if event.about != "source" or event.name == self._source:
            super().event(event)
