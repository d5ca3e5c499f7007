"""Names of a sink's files, and when the next one begins: nothing that exists is ever overwritten or cut off.

A supervisor that restarts a stream must not erase what was recorded, so a name that is taken is left alone and the
next free number is used: `out.mp4`, `out-2.mp4`, `out-3.mp4`.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import re
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from edgecv_runtime.errors import BadInput

_AMOUNT = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[A-Za-z]+)")
_SECONDS = {"s": 1.0, "sec": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_BYTES = {"kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}
_SLUG = re.compile(r"[^A-Za-z0-9._-]+")
_LONGEST = 100  # characters of a source's name in that of a file, which may have 255 in all


@dataclass(frozen=True)
class Limits:
    """When a file is full: after `seconds`, or from `size` bytes on; None for no limit."""

    seconds: float | None = None
    size: float | None = None

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Limits:
        """From words as "10 min", "1 h", "500 MB", one of each kind at most; raises BadInput."""
        found: dict[str, float] = {}
        for text in texts:
            amount = _AMOUNT.fullmatch(text.strip())
            unit = amount["unit"] if amount else ""
            kind = "seconds" if unit in _SECONDS else "size" if unit in _BYTES else ""
            if amount is None or not kind or float(amount["number"]) <= 0:
                raise BadInput(
                    f"'{text}' is no limit of a file; expected a time ({', '.join(_SECONDS)}) or a size "
                    f"({', '.join(_BYTES)}), as '10 min' or '500 MB'"
                )
            if kind in found:
                raise BadInput(f"'{text}' is a second limit of the same kind; expected a time and a size at most")
            found[kind] = float(amount["number"]) * (_SECONDS | _BYTES)[unit]
        return cls(**found)

    def reached(self, seconds: float, size: float) -> bool:
        """Whether a file of that age and size is full."""
        return (self.seconds is not None and seconds >= self.seconds) or (self.size is not None and size >= self.size)


NO_LIMITS = Limits()


class Segments:
    """The files of one sink, by a path in which `{source}` and `{time}` (UTC, of the first frame) may stand.

    Two sources get two names, also where their names differ only in what a file system cannot hold.
    """

    def __init__(self, path: str | Path) -> None:
        """Raises BadInput for a folder that does not exist, or another word in braces."""
        self.path = Path(path)
        self.by_source = "{source}" in self.path.name
        unknown = set(re.findall(r"\{[^}]*\}?", self.path.name)) - {"{source}", "{time}"}
        if unknown:
            raise BadInput(f"{path}: '{min(unknown)}' means nothing in a file's name; {{source}} and {{time}} do")
        if not self.path.parent.is_dir():
            raise BadInput(f"{path}: there is no folder {self.path.parent}")
        self._slugs = Slugs()

    def expect(self, sources: Iterable[str]) -> None:
        """The sources of a run, before the first file."""
        self._slugs.expect(sources)

    def name(self, source: str, unix_s: float) -> Path:
        """The path for a source and the wall clock of its first frame, whether it is free or not."""
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(unix_s))
        name = self.path.name.replace("{source}", self._slugs.of(source)).replace("{time}", stamp)
        return self.path.with_name(name)

    def begin(self, source: str, unix_s: float, *, parts: bool = False) -> Part:
        """A new file, created, under the first name that is free; raises OSError.

        parts: it is written as `NAME.part.SUFFIX`, and gets its name when it is whole.
        """
        first = self.name(source, unix_s)
        for number in itertools.count(1):
            path = first if number == 1 else first.with_name(f"{first.stem}-{number}{first.suffix}")
            part = part_of(path)
            if os.path.lexists(path) or os.path.lexists(part):
                continue
            with contextlib.suppress(FileExistsError):  # another process was faster
                return Part(path, part if parts else path)
        raise AssertionError("there are always more numbers")

    def left_over(self) -> list[Part]:
        """Files that a process began and did not finish, and that nobody writes now."""
        pattern = re.sub(r"\\\{(source|time)\\\}", ".*", re.escape(self.path.stem))
        shape = re.compile(rf"{pattern}(-\d+)?\.part{re.escape(self.path.suffix)}")
        found = []
        for part in sorted(self.path.parent.iterdir()):
            if shape.fullmatch(part.name) and part.is_file() and not part.is_symlink():
                path = part.with_name(part.name.removesuffix(f".part{part.suffix}") + part.suffix)
                with contextlib.suppress(OSError):  # somebody writes it
                    found.append(Part(path, part, new=False))
        return found


class Slugs:
    """Names of sources as parts of names of files and topics: no two alike, on file systems that know no case either.

    Those that would be called alike are marked by what they are, not by who comes first: the same at every start.
    """

    def __init__(self) -> None:
        self._given: dict[str, str] = {}

    def expect(self, sources: Iterable[str]) -> None:
        """The sources of a run, before the first one is named."""
        new = dict.fromkeys(each for each in sources if each not in self._given)
        plain = Counter(_plain(each).casefold() for each in new)
        for source in new:
            self._name(source, alone=plain[_plain(source).casefold()] == 1)

    def of(self, source: str) -> str:
        """The one of a source, the same each time."""
        if source not in self._given:
            self._name(source, alone=True)
        return self._given[source]

    def _name(self, source: str, *, alone: bool) -> None:
        plain, digest = _plain(source), hashlib.sha256(source.encode("utf-8", "surrogateescape")).hexdigest()
        names = [plain] if alone else []
        names += [f"{plain}-{digest[:6]}", f"{plain}-{digest}"]
        taken = {each.casefold() for each in self._given.values()}
        self._given[source] = next(name for name in names if name.casefold() not in taken)


def _plain(source: str) -> str:
    return _SLUG.sub("-", source if "://" in source else Path(source).name)[:_LONGEST].strip("-") or "source"


class Part:
    """A file that one process writes: locked until it is finished or the process ends.

    final: the name that it gets; path: where it is written, the same or `NAME.part.SUFFIX`.
    """

    def __init__(self, final: Path, path: Path, *, new: bool = True) -> None:
        """Create it, or take over what a process that has ended left; raises OSError where somebody has it."""
        self.final = final
        self.path = path
        self.fd = os.open(path, os.O_RDWR | (os.O_CREAT | os.O_EXCL if new else 0) | getattr(os, "O_BINARY", 0), 0o666)
        try:
            _lock(self.fd)
        except OSError:
            os.close(self.fd)
            raise

    def finish(self) -> Path:
        """Give it its name, or the next free one; returns it. Raises OSError."""
        try:
            os.fsync(self.fd)
            if self.path != self.final:
                self.final = _rename(self.path, self.final)
        finally:
            self.leave()
        return self.final

    def discard(self) -> None:
        """Remove it: there is nothing in it that anybody could use."""
        self.path.unlink(missing_ok=True)
        self.leave()

    def leave(self) -> None:
        """Let go of it as it is; may be repeated."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


def part_of(path: Path) -> Path:
    """The name under which a file is written: `out.mp4` -> `out.part.mp4`."""
    return path.with_name(f"{path.stem}.part{path.suffix}")


def _rename(part: Path, final: Path) -> Path:
    """Rename without replacing anything; a name that was taken meanwhile gets a number."""
    for number in itertools.count(1):
        path = final if number == 1 else final.with_name(f"{final.stem}-{number}{final.suffix}")
        try:
            os.link(part, path)
        except FileExistsError:
            continue
        except OSError:  # a file system without hard links, as on an SD card
            if os.path.lexists(path):
                continue
            part.rename(path)
            return path
        part.unlink()
        return path
    raise AssertionError("there are always more numbers")


def _lock(fd: int) -> None:
    """Lock a file for this process as long as it lives; raises BlockingIOError where another one has it."""
    try:
        import fcntl
    except ImportError:  # Windows opens no file that another process writes
        return
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
