"""SIGTERM and SIGINT end a run between two steps, not in the middle of one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from edgecv_runtime import signals
from edgecv_runtime.errors import EdgecvError


class Interrupted(EdgecvError):
    """A signal ended the run after it was saved; `exit_code` is 143 for SIGTERM, 130 for SIGINT."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signum
        self.exit_code = 128 + signum


class Stop:
    """Which signal has asked for an end, or None."""

    signum: int | None = None


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Note the first SIGTERM or SIGINT instead of dying of it; a second one acts as before: Ctrl-C twice ends."""
    stop = Stop()
    with signals.at_first(lambda number: setattr(stop, "signum", number)):
        yield stop
