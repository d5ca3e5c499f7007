"""Results as JSON lines, for files, pipes and other programs."""

from __future__ import annotations

import errno
import os
import select
import stat
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgecv_runtime import jsontext
from edgecv_runtime.errors import BadInput, Closed
from edgecv_runtime.stream.sinks.base import Output, Sink, SinkGone
from edgecv_runtime.stream.sinks.segments import NO_LIMITS, Limits, Part, Segments

_APPEND = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)


class JsonLinesSink(Sink):
    """One JSON document per frame and line, complete as soon as it is written.

    Fields: see `document`. A file comes with the first result; one that is there is appended to. With limits each file
    is a new one, and a name that is taken gets a number. When writing fails half-way (a full disk), what was written
    of the line is taken back, and the next line opens the file anew.
    """

    def __init__(self, path: str | Path, *, limits: Limits = NO_LIMITS) -> None:
        """path: a file, or "-" for standard output; `{source}` and `{time}` in it as in videos.

        limits: of one file. Raises BadInput when it cannot be written.
        """
        self.name = "stdout" if str(path) == "-" else str(path)
        self._limits = limits
        self._segments = None if str(path) == "-" else Segments(path)
        self._files: dict[str, _File] = {}
        self._closed = False
        if self._segments is not None and "{" not in Path(path).name:
            try:
                _check_writable(Path(path))
            except OSError as exc:
                raise BadInput(f"{self.name}: cannot be written: {exc.strerror}") from exc

    def start(self, sources: Sequence[str]) -> None:
        """Name the files of these sources."""
        if self._segments is not None:
            self._segments.expect(sources)

    def write(self, output: Output) -> None:
        """Write one line; raises OSError when it cannot, TypeError when the result is no JSON."""
        if self._closed:
            raise Closed(f"{self.name}: is closed")
        line = line_of(output)
        key = output.frame.source if self._segments is not None and self._segments.by_source else ""
        file = self._files.get(key)
        if file is not None and self._limits.reached(time.monotonic() - file.begun_s, file.size):
            file.close()
            file = None
        if file is None:
            file = self._files[key] = self._begin(output)
        try:
            file.write(line)
        except OSError as exc:
            del self._files[key]
            file.close()
            if self._segments is None and isinstance(exc, BrokenPipeError):
                raise SinkGone(f"BrokenPipeError: {exc}") from exc
            raise

    def close(self) -> None:
        """Close the files; a full disk that the system noticed late raises OSError here."""
        self._closed = True
        while self._files:
            self._files.popitem()[1].close()

    def _begin(self, output: Output) -> _File:
        if self._segments is None:
            return _File(os.dup(sys.stdout.fileno()))
        if self._limits != NO_LIMITS:
            return _File(self._segments.begin(output.frame.source, output.unix_s))
        return _File(os.open(self._segments.name(output.frame.source, output.unix_s), _APPEND, 0o666))


def document(output: Output) -> dict[str, Any]:
    """What is told of one frame: source, index, connection, pts_s, captured_ns (monotonic), time (UTC), age_ms, model,
    result; path for a folder of images; of events the rules, for how long they had held, and what was found.
    """
    frame = output.frame
    told = {
        "source": frame.source,
        "index": frame.index,
        "connection": frame.connection,
        "pts_s": frame.pts_s,
        "captured_ns": frame.captured_ns,
        "time": wall_clock(output.unix_s),
        "age_ms": round(output.age_ms, 3),
        "model": output.model,
        "result": output.result.as_dict(),
    }
    if frame.path is not None:
        told["path"] = frame.path
    if output.happenings:
        told["events"] = [
            {"rule": each.rule, "held_s": each.held_s, "found": list(each.found)} for each in output.happenings
        ]
    return told


def line_of(output: Output) -> bytes:
    """The document as one line of JSON; raises TypeError when the result is no JSON."""
    return jsontext.encode(document(output), plain) + b"\n"


def wall_clock(unix_s: float) -> str:
    """A time in UTC to the millisecond (RFC 3339): 2026-11-28T13:30:00.125Z."""
    whole, rest = divmod(round(unix_s * 1000), 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{rest:03d}Z"


def plain(value: Any) -> Any:
    """NumPy's types as JSON's."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"a result's as_dict() gives plain types, got {type(value).__name__}")


class _File:
    """An open file, pipe or terminal that takes whole lines."""

    def __init__(self, opened: int | Part) -> None:
        self._part = opened if isinstance(opened, Part) else None
        self._fd = opened.fd if isinstance(opened, Part) else opened
        status = os.fstat(self._fd)
        self._regular = stat.S_ISREG(status.st_mode)
        self.size = status.st_size if self._regular else 0
        self.begun_s = time.monotonic()
        self._cut = self._regular and self.size > 0 and not _ends_with_a_line(self._fd, self.size)

    def write(self, line: bytes) -> None:
        """Write one line; raises OSError, and then nothing of it is in a regular file."""
        if self._cut:  # a crash left half a line, which is left as it is
            line = b"\n" + line
        rest = memoryview(line)
        try:
            while rest:
                try:
                    rest = rest[os.write(self._fd, rest) :]
                except BlockingIOError:  # a pipe that does not block, as some parents share it: half a line is in it
                    select.select([], [self._fd], [])
        except OSError:
            written = len(line) - len(rest)
            if self._regular and os.fstat(self._fd).st_size == self.size + written:  # nobody else appends to it
                os.ftruncate(self._fd, self.size)
            raise
        self._cut = False
        self.size += len(line)

    def close(self) -> None:
        """Close it; raises OSError."""
        if self._part is not None:
            self._part.finish()
        else:
            os.close(self._fd)


def _ends_with_a_line(fd: int, size: int) -> bool:
    """Whether the last byte ends a line; of a file that may not be read (a shell's `>>`) it is taken for so."""
    try:
        return os.pread(fd, 1, size - 1) == b"\n"
    except OSError:
        return True


def _check_writable(path: Path) -> None:
    """Raise the OSError of opening a file to write it; nothing is made for that, which another process might find."""
    try:
        kind = path.stat().st_mode
    except FileNotFoundError:
        folder = path.resolve().parent  # of what a link points to
        folder.stat()
        if not os.access(folder, os.W_OK | os.X_OK):
            is_fixed = hasattr(os, "statvfs") and os.statvfs(folder).f_flag & os.ST_RDONLY
            number = errno.EROFS if is_fixed else errno.EACCES
            raise OSError(number, os.strerror(number)) from None
        return
    if stat.S_ISREG(kind) or stat.S_ISDIR(kind):  # a pipe that is opened twice would end for its reader
        os.close(os.open(path, _APPEND & ~os.O_CREAT))
