"""How commands print and fail: results on stdout, all else on stderr, errors in one line with their exit code."""

from __future__ import annotations

import functools
import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from traceback import clear_frames
from types import FrameType
from typing import Any, NoReturn, ParamSpec, TypeVar

import msgspec
import typer
from rich.console import Console

from edgecv_runtime.errors import EdgecvError, Unavailable

P = ParamSpec("P")
R = TypeVar("R")

EXIT_INTERRUPTED, EXIT_TERMINATED = 130, 143

stdout = Console(highlight=False, markup=False, emoji=False)
stderr = Console(stderr=True, highlight=False, markup=False, emoji=False)


class Mode:
    """What the global options ask for; one instance, set by the app's callback."""

    debug = False
    quiet = False


def say(text: str) -> None:
    """One line of progress on stderr."""
    if not Mode.quiet:
        stderr.print(text, soft_wrap=True)


def show_json(value: Any) -> None:
    """The one JSON document that `--json` promises, on stdout."""
    document = msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"
    sys.stdout.buffer.write(document)
    sys.stdout.buffer.flush()


def start_logging() -> None:
    """Warnings and notices of edgecv's own modules go to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("edgecv")
    logger.handlers = [handler]
    logger.setLevel(logging.WARNING if Mode.quiet else logging.INFO)


class Terminated(KeyboardInterrupt):
    """SIGTERM came: what cleans up after Ctrl-C does so now, too."""


@contextmanager
def _signals_raised() -> Iterator[None]:
    """In the main thread, the only one that may, turn SIGTERM and Ctrl-C into exceptions, once.

    A second one ends the process where it is: raised among what is just being released, it would show a traceback, or
    a runtime would abort.
    """

    def end(signum: int, _frame: FrameType | None) -> NoReturn:
        signal.signal(signum, signal.SIG_DFL)
        raise Terminated if signum == signal.SIGTERM else KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGTERM, signal.SIGINT)
    # a shell's background job, say, ignores Ctrl-C
    before = {number: signal.signal(number, end) for number in numbers if signal.getsignal(number) != signal.SIG_IGN}
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) == end:
                signal.signal(number, handler)


def guarded(command: Callable[P, R]) -> Callable[P, R]:
    """Turn edgecv's errors, Ctrl-C and SIGTERM into one line and their exit code; `--debug` lets errors through."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            with _signals_raised():
                return command(*args, **kwargs)
        except EdgecvError as exc:
            if Mode.debug:
                raise
            stderr.print(f"edgecv: {' '.join(str(exc).split())}", soft_wrap=True)
            raise typer.Exit(exc.exit_code) from exc
        except Terminated as exc:
            clear_frames(exc.__traceback__)  # a runtime that lives until the interpreter ends may abort the process
            stderr.print("edgecv: terminated")
            raise typer.Exit(EXIT_TERMINATED) from exc
        except KeyboardInterrupt as exc:
            clear_frames(exc.__traceback__)
            stderr.print("edgecv: interrupted")
            raise typer.Exit(EXIT_INTERRUPTED) from exc
        except OSError as exc:
            if Mode.debug:
                raise
            reason = f"{exc.filename}: {exc.strerror}" if exc.filename else str(exc)
            stderr.print(f"edgecv: {reason}", soft_wrap=True)
            raise typer.Exit(Unavailable.exit_code) from exc

    return run
