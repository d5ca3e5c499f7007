"""Which pictures there are: a folder, a pattern, a list in a file, one picture, or a URL; always in the same order."""

from __future__ import annotations

import codecs
import glob
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import IO, Any, NamedTuple

import msgspec

from edgecv_runtime import formats, images, jsontext, listing, stores
from edgecv_runtime.errors import BadInput

_MAGIC = "*?["
_STAMPS = ("ETag", "etag", "mtime", "LastModified", "last_modified", "updated", "created")  # as stores name them
_LINE = 4096  # bytes; no line of a list is longer


class Input(NamedTuple):
    """A picture by its path or URL, and what tells its content from another one: size and time, as its store says."""

    name: str
    stamp: str


class Chunk(NamedTuple):
    """Pictures that are computed together and written as one part."""

    number: int
    names: tuple[str, ...]


class Inputs:
    """The pictures behind what was asked for; iterating lists them anew. `left_out` counts what is none."""

    def __init__(self, asked: str) -> None:
        self.asked = asked
        self._others: Counter[str] = Counter()
        self._skipped = 0
        self._special = 0

    def left_out(self) -> str:
        """What the last listing left out, in words; empty when that is nothing."""
        told = []
        if self._others:
            kinds = ", ".join(f"{count} {kind}" for kind, count in self._others.most_common())
            told.append(f"{self._others.total()} files that are no images ({kinds})")
        if self._skipped:
            told.append(f"{self._skipped} hidden or system files and folders")
        if self._special:
            told.append(f"{self._special} pipes, sockets, devices, links to folders or to nothing")
        return ", ".join(told)

    def __iter__(self) -> Iterator[Input]:
        self._others.clear()
        self._skipped = self._special = 0
        path = Path(self.asked)
        if stores.is_url(self.asked):
            return self._of_store()
        if path.is_dir():
            return self._of_folder(path)
        if path.is_file():
            if formats.is_image(path.name, partial(images.head, path)):
                return iter((Input(self.asked, _stamp(self.asked)),))
            return self._of_list(path)
        if any(mark in self.asked for mark in _MAGIC):
            return self._of_pattern()
        raise BadInput(f"{path}: no such file or folder; expected a folder, a pattern ('*.jpg'), a list or a URL")

    def _of_folder(self, folder: Path) -> Iterator[Input]:
        skipped: list[str] = []
        try:
            for entry in listing.walk(folder, skipped):
                if entry.is_dir(follow_symlinks=False):
                    continue
                if not listing.is_file(entry):
                    self._special += 1
                elif self._is_image(entry.name, partial(images.head, Path(entry.path))):
                    yield Input(entry.path, _stamp(entry.path))
        except OSError as exc:
            raise BadInput(f"{exc.filename or folder}: cannot be listed: {exc.strerror}") from exc
        self._skipped = len(skipped)

    def _of_pattern(self) -> Iterator[Input]:
        names = glob.iglob(self.asked, recursive=True)  # noqa: PTH207 - as it was typed, absolute or not
        for name in sorted(_once_each(names)):
            path = Path(name)
            if path.is_file() and self._is_image(path.name, partial(images.head, path)):
                yield Input(name, _stamp(name))

    def _of_list(self, file: Path) -> Iterator[Input]:
        """A path or URL a line; what is not there is a row with an error, as any picture that cannot be read."""
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if number == 1:
                    line = line.removeprefix(codecs.BOM_UTF8)  # as Windows begins text
                if len(line) > _LINE or b"\0" in line:
                    raise BadInput(f"{file}: line {number} is no path: expected a list of pictures, one a line")
                name = os.fsdecode(line.rstrip(b"\r\n"))
                if name.strip():
                    yield Input(name, "" if stores.is_url(name) else _stamp(name))

    def _of_store(self) -> Iterator[Input]:
        system, path = stores.opened(self.asked)
        try:
            if any(mark in path for mark in _MAGIC):
                found = system.glob(path, detail=True)
            else:
                found = system.find(path, detail=True)
        except Exception as exc:  # each store raises what it likes
            raise BadInput(f"{self.asked}: cannot be listed: {type(exc).__name__}: {exc}") from exc
        behind = self.asked.partition("::")[2]
        for name in sorted(found):
            inside = name[len(path) :].strip("/").split("/") if name.startswith(path) else [name.rpartition("/")[2]]
            if any(map(listing.is_left_out, inside)):
                self._skipped += 1
            elif found[name].get("type") != "directory" and self._is_image(name, bytes):
                url = system.unstrip_protocol(name)
                yield Input(f"{url}::{behind}" if behind else url, _store_stamp(found[name]))

    def _is_image(self, name: str, head: Any) -> bool:
        if formats.is_image(name, head):
            return True
        self._others[listing.suffix(name) or "no suffix"] += 1
        return False


def _once_each(names: Iterable[str]) -> Iterable[str]:
    """Of several ways to a picture the shortest: "**" finds some twice, and enters links to folders, in loops, too."""
    real: Callable[[str], str] = lru_cache(maxsize=None)(os.path.realpath)
    found: dict[tuple[str, str], str] = {}
    for name in names:
        folder, _, own = name.rpartition("/")
        key = real(folder or ("/" if name[:1] == "/" else ".")), own
        found[key] = min(name, found.get(key, name), key=lambda each: (each.count("/"), each))
    return found.values()


def _stamp(name: str) -> str:
    try:
        found = os.stat(name)  # noqa: PTH116 - a name, of very many
    except OSError:
        return ""
    return f"{found.st_size} {found.st_mtime_ns}"


def _store_stamp(facts: dict[str, Any]) -> str:
    return " ".join(str(facts[name]) for name in ("size", *_STAMPS) if facts.get(name) is not None)


class Frozen(NamedTuple):
    """What a list of inputs was when it was written: how many, and the hash of all names and stamps."""

    images: int
    sha256: str


def freeze(inputs: Inputs, file: IO[bytes]) -> Frozen:
    """Write the list, an input a line; it is never in memory as a whole, but for what a folder holds itself."""
    digest, count = hashlib.sha256(), 0
    for each in inputs:
        line = jsontext.encode(each) + b"\n"
        digest.update(line)
        file.write(line)
        count += 1
    return Frozen(count, digest.hexdigest())


def chunks(file: Path, size: int) -> Iterator[Chunk]:
    """The chunks of a list that was written, read as they are wanted."""
    with file.open("rb") as lines:
        names: list[str] = []
        number = 0
        for line in lines:
            names.append(_read(line).name)
            if len(names) == size:
                yield Chunk(number, tuple(names))
                names, number = [], number + 1
        if names:
            yield Chunk(number, tuple(names))


def differences(old: Path, new: Path) -> str:
    """How two lists differ, in words."""
    was, now = ({each.name: each.stamp for each in map(_read, file.read_bytes().splitlines())} for file in (old, new))
    changed = sum(1 for name, stamp in now.items() if name in was and was[name] != stamp)
    added = sum(1 for name in now if name not in was)
    counts = ((added, "added"), (sum(1 for name in was if name not in now), "gone"), (changed, "changed"))
    return ", ".join(f"{count} {what}" for count, what in counts if count) or "in another order"


def _read(line: bytes) -> Input:
    try:
        return msgspec.json.decode(line, type=Input)
    except (msgspec.DecodeError, UnicodeDecodeError):  # a name that is no UTF-8
        import json

        return Input(*json.loads(line))
