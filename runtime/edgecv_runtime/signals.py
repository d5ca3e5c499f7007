"""SIGTERM and Ctrl-C, once: what streams, trainings and commands do at the first of them."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

ENDING = (signal.SIGTERM, signal.SIGINT)
ECHO_S = 0.25  # `timeout` and shells signal a process and then its group: the same word twice
_ECHO_COMES_S = 0.02
HANG_UP = (signal.SIGHUP,) if hasattr(signal, "SIGHUP") else ()  # the terminal is gone: ssh was closed


@contextmanager
def at_first(act: Callable[[int], object], *numbers: int, then_end: bool = False) -> Iterator[None]:
    """Call `act` with the number of the first signal (SIGTERM or SIGINT, or the given ones) that comes.

    A second one, later than an echo, does what it would have done without this; with `then_end` it ends the process
    where it is, even inside a library. Signals that the process ignores stay ignored, as those of a shell's background
    job. Outside the main thread, where Python allows no handlers, signals are left alone.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {}
    first_s: list[float] = []

    def on_signal(number: int, _: FrameType | None) -> None:
        if first_s:
            if time.monotonic() - first_s[0] > ECHO_S:
                restore()
                signal.raise_signal(number)
            return
        first_s.append(time.monotonic())
        if then_end:
            time.sleep(_ECHO_COMES_S)  # it comes here meanwhile
            signal.signal(number, signal.SIG_DFL)
        act(number)

    def restore() -> None:
        for number, handler in before.items():
            if signal.getsignal(number) is on_signal:
                signal.signal(number, signal.SIG_DFL if handler is None else handler)

    for number in numbers or ENDING:
        if signal.getsignal(number) != signal.SIG_IGN:
            before[number] = signal.signal(number, on_signal)
    try:
        yield
    finally:
        restore()
