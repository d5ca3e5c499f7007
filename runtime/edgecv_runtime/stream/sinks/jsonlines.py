"""Results as JSON lines, for files, pipes and other programs."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from typing import Any

import numpy as np

from edgecv_runtime import jsontext
from edgecv_runtime.errors import BadInput, Closed
from edgecv_runtime.stream.sinks.base import Output, Sink

_WRITE = os.O_WRONLY | os.O_CREAT | getattr(os, "O_BINARY", 0)


class JsonLinesSink(Sink):
    """One JSON document per frame and line, complete as soon as it is written.

    Fields: source, index, pts_s, captured_ns (monotonic), age_ms, result, and path for a folder of images.
    A file comes, or is written anew, with the first result: what was there stays where none came. When writing fails
    half-way (a full disk), a regular file is cut back to its last whole line.
    """

    def __init__(self, path: str | Path) -> None:
        """path: a file, or "-" for standard output; raises BadInput when it cannot be written."""
        self.name = "stdout" if str(path) == "-" else str(path)
        self._path = None if str(path) == "-" else Path(path)
        self._end = 0
        self._fd: int | None = None
        self._regular = False
        self._closed = False
        if self._path is not None:
            try:
                _check_writable(self._path)
            except OSError as exc:
                raise BadInput(f"{self.name}: cannot be written: {exc.strerror}") from exc

    def write(self, output: Output) -> None:
        """Write one line; raises OSError when it cannot, TypeError when the result is no JSON."""
        if self._closed:
            raise Closed(f"{self.name}: is closed")
        frame = output.frame
        document = {
            "source": frame.source,
            "index": frame.index,
            "pts_s": frame.pts_s,
            "captured_ns": frame.captured_ns,
            "age_ms": round(output.age_ms, 3),
            "result": output.result.as_dict(),
        }
        if frame.path is not None:
            document["path"] = frame.path
        line = memoryview(jsontext.encode(document, _plain) + b"\n")
        fd = self._open() if self._fd is None else self._fd
        try:
            written = 0
            while written < len(line):
                written += os.write(fd, line[written:])
        except OSError:
            if self._regular:
                os.ftruncate(fd, self._end)
                os.lseek(fd, self._end, os.SEEK_SET)
            raise
        self._end += len(line)

    def close(self) -> None:
        """Close the file; a full disk that the system noticed late raises OSError here."""
        self._closed = True
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def _open(self) -> int:
        if self._path is None:
            self._fd = os.dup(sys.stdout.fileno())
        else:
            self._fd = os.open(self._path, _WRITE | os.O_TRUNC, 0o666)
            self._regular = stat.S_ISREG(os.fstat(self._fd).st_mode)
        return self._fd


def _check_writable(path: Path) -> None:
    """Raise the OSError of opening a file to write it, and leave all as it was."""
    missing = not path.exists()
    if missing or path.is_file() or path.is_dir():  # a pipe that is opened twice would end for its reader
        os.close(os.open(path, _WRITE, 0o666))
    if missing:
        path.resolve().unlink()  # behind a link, too


def _plain(value: Any) -> Any:
    """NumPy's types as JSON's."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"a result's as_dict() gives plain types, got {type(value).__name__}")
