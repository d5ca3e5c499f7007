"""Results into the user's own function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgecv_runtime.stream.frame import Frame
from edgecv_runtime.stream.sinks.base import Output, Sink


class CallbackSink(Sink):
    """Call `function(frame, result)` for every result; it may raise StopStream to end the run."""

    def __init__(self, function: Callable[[Frame, Any], object], *, name: str = "callback") -> None:
        self.name = name
        self._function = function

    def write(self, output: Output) -> None:
        """Call the function; what it raises is counted."""
        self._function(output.frame, output.result)

    def close(self) -> None:
        """Nothing to finish."""
