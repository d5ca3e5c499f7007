"""How commands print and fail: results on stdout, all else on stderr, errors in one line with their exit code."""

from __future__ import annotations

import functools
import io
import logging
import math
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from traceback import clear_frames
from typing import Any, NoReturn, ParamSpec, TypeVar

import typer
from rich.console import Console

from edgecv_runtime import jsontext, signals
from edgecv_runtime.errors import BadInput, EdgecvError, Unavailable
from edgecv_runtime.oneline import one_line

P = ParamSpec("P")
R = TypeVar("R")

EXIT_INTERRUPTED, EXIT_NO_READER, EXIT_TERMINATED = 130, 141, 143
_HAS_MEMFD = hasattr(os, "memfd_create")  # Linux: a file that needs no disk, which may be read-only
_LOGS = ("text", "json")
PIPE_COLUMNS = 1000  # a file or another program has room for every column


class Output(Console):
    """A reader that goes away (`| head`) ends the command; so does a full disk behind stdout, in one line."""

    def print(self, *objects: Any, **how: Any) -> None:
        """Print; what cannot be said on stderr can be said nowhere."""
        with _writing(self.stderr):
            super().print(*objects, **how)

    def on_broken_pipe(self) -> NoReturn:
        """End as other programs do, which SIGPIPE ends; called by Rich."""
        _leave_stdout()
        raise typer.Exit(EXIT_NO_READER)


stdout = Output(highlight=False, markup=False, emoji=False)
stderr = Output(stderr=True, highlight=False, markup=False, emoji=False)
if not stdout.is_terminal:
    stdout.width = PIPE_COLUMNS


def prepare() -> None:
    """Before the first line: names that are no UTF-8 can be printed, and a stream that is closed takes what is said.

    With descriptor 1 free, the next file that is opened would be standard output to every library.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def ending() -> Iterator[None]:
    """Around everything: what Typer itself prints, help say, ends as what commands print."""
    try:
        yield
    except SystemExit as exc:
        if isinstance(exc.__context__, BrokenPipeError):  # Typer's answer is 1
            raise SystemExit(EXIT_NO_READER) from exc
        raise
    except OSError as exc:
        _leave_stdout()
        stderr.print(f"edgecv: standard output cannot be written: {exc.strerror}", soft_wrap=True)
        raise SystemExit(Unavailable.exit_code) from exc


@contextmanager
def _writing(stderr: bool = False) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        stdout.on_broken_pipe()
    except OSError as exc:
        if stderr:
            return
        _leave_stdout()
        raise Unavailable(f"standard output cannot be written: {exc.strerror}") from exc


def _leave_stdout() -> None:
    """What is still to be written goes nowhere: Python would try it once more at its end, and complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


class Mode:
    """What the global options ask for; one instance, set by the app's callback."""

    debug = False
    quiet = False
    json_log = False


def say(text: str, **facts: Any) -> None:
    """One line of progress on stderr; facts: what it says, apart, where the log is JSON."""
    if not Mode.quiet:
        note(text, **facts)


def note(text: str, **facts: Any) -> None:
    """One line on stderr that is asked for, also by those who want no progress."""
    stderr.print(_document("info", text, facts) if Mode.json_log else one_line(text), soft_wrap=True)


def complain(text: str) -> None:
    """One line on stderr for what went wrong."""
    line = one_line(" ".join(text.split()))
    stderr.print(_document("error", line, {}) if Mode.json_log else f"edgecv: {line}", soft_wrap=True)


class TextLines(logging.Formatter):
    """A logged record as one line, and the traceback below it, where there is one."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's name
        """The message alone."""
        return one_line(record.message)


class JsonLines(logging.Formatter):
    """A logged record as one JSON document."""

    def format(self, record: logging.LogRecord) -> str:
        """With the traceback, where there is one, in `traceback`."""
        trace = record.exc_text or (self.formatException(record.exc_info) if record.exc_info else None)
        return _document(record.levelname.lower(), record.getMessage(), {"traceback": trace} if trace else {})


def _document(level: str, message: str, facts: dict[str, Any]) -> str:
    moment = datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return jsontext.encode({"time": moment, "level": level, "message": message, **facts}).decode()


def leave(code: int) -> NoReturn:
    """End the process where it is: a thread that is stuck in a library keeps the interpreter from ending."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(code)


def show_json(value: Any) -> None:
    """The one JSON document that `--json` promises, on stdout."""
    document = jsontext.encode(value, indent=2) + b"\n"
    with _writing():
        sys.stdout.buffer.write(document)
        sys.stdout.buffer.flush()


def start_logging() -> None:
    """Warnings and notices of edgecv's own modules go to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(TextLines())
    logger = logging.getLogger("edgecv")
    logger.handlers = [handler]
    logger.setLevel(logging.WARNING if Mode.quiet else logging.INFO)


def log_as(kind: str) -> None:
    """What is said on stderr is text, or "json": a document a line; without credentials both. Raises BadInput."""
    from edgecv_runtime.stream.redact import RedactingFilter

    if kind not in _LOGS:
        raise BadInput(f"--log is {' or '.join(_LOGS)}; got '{kind}'")
    Mode.json_log = kind == "json"
    for handler in logging.getLogger("edgecv").handlers:
        handler.addFilter(RedactingFilter())
        if Mode.json_log:
            handler.setFormatter(JsonLines())


@contextmanager
def hushed() -> Iterator[list[str]]:
    """Lines that C libraries write to the process's stderr meanwhile, libjpeg and libpng say, instead of showing them.

    For commands of one thread: whatever is written to stderr meanwhile is taken. The list is filled at the end.
    """
    lines: list[str] = []
    try:
        shown = os.dup(2)
    except OSError:  # stderr is closed: nobody would see them
        yield lines
        return
    with open(os.memfd_create("stderr"), "w+b") if _HAS_MEMFD else tempfile.TemporaryFile() as taken:  # noqa: PTH123
        os.dup2(taken.fileno(), 2)
        try:
            yield lines
        finally:
            os.dup2(shown, 2)
            os.close(shown)
            taken.seek(0)
            lines += taken.read().decode(errors="replace").splitlines()


class Terminated(KeyboardInterrupt):
    """SIGTERM came: what cleans up after Ctrl-C does so now, too."""


def interrupt(number: int) -> NoReturn:
    """What a signal raises."""
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


def guarded(command: Callable[P, R]) -> Callable[P, R]:
    """Turn edgecv's errors, Ctrl-C and SIGTERM into one line and their exit code; `--debug` lets errors through."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            # a second one ends the process where it is: raised among what is just being released, it would show a
            # traceback, or a runtime would abort
            with signals.at_first(interrupt, then_end=True):
                _refuse_endless(kwargs)
                return command(*args, **kwargs)
        except EdgecvError as exc:
            if Mode.debug:
                raise
            complain(str(exc))
            raise typer.Exit(exc.exit_code) from exc
        except Terminated as exc:
            clear_frames(exc.__traceback__)  # a runtime that lives until the interpreter ends may abort the process
            complain("terminated")
            raise typer.Exit(EXIT_TERMINATED) from exc
        except KeyboardInterrupt as exc:
            clear_frames(exc.__traceback__)
            complain("interrupted")
            raise typer.Exit(EXIT_INTERRUPTED) from exc
        except OSError as exc:
            if Mode.debug:
                raise
            reason = f"{exc.filename}: {exc.strerror}" if exc.filename else str(exc)
            complain(reason)
            raise typer.Exit(Unavailable.exit_code) from exc

    return run


def _refuse_endless(options: Mapping[str, object]) -> None:
    """Raise BadInput for an option that is not a finite number: Click takes `nan` and `inf` for one."""
    for name, value in options.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise BadInput(f"--{name.replace('_', '-')}: expected a finite number, got {value:g}")
