"""SIGTERM and SIGINT end a run between two steps, not in the middle of one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

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
    """Note the first SIGTERM or SIGINT instead of dying of it; a second one acts as before, so that Ctrl-C twice ends.

    Outside the main thread, where Python allows no handlers, signals are left alone.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def note(signum: int, _frame: FrameType | None) -> None:
        stop.signum = signum
        restore()

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    try:
        yield stop
    finally:
        restore()
