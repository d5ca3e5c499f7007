"""List the files below a folder or inside a .zip, alike, without leaving it and without following folder links."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from edgecv.data.split import listed
from edgecv_runtime.errors import DatasetError, ImageError

MAX_BYTES = 500_000_000  # of one file, unpacked: what a zip bomb claims to be
_SYSTEM = ("__MACOSX", "Thumbs.db", "desktop.ini")


@dataclass(frozen=True)
class File:
    """One file: its name below the root with "/", what changes when it changes, and its content."""

    name: str
    version: str  # size and modification time, or size and CRC-32
    read: Callable[[], bytes]


@dataclass(frozen=True)
class Tree:
    """All files and folders below a root, hidden ones left out, sorted by name."""

    root: Path
    files: tuple[File, ...]
    folders: tuple[str, ...]
    notes: tuple[str, ...] = ()
    below: dict[str, list[File]] = field(init=False)  # first folder's name -> files below it, at any depth

    def __post_init__(self) -> None:
        below: dict[str, list[File]] = {name: [] for name in self.folders if "/" not in name}
        for file in self.files:
            top, _, rest = file.name.partition("/")
            if rest:
                below[top].append(file)
        object.__setattr__(self, "below", below)

    def inside(self, folder: str) -> Tree:
        """The part of the tree below one of its folders; files keep their names from the root of the whole."""
        start = folder + "/"
        return Tree(
            self.root / folder,
            tuple(
                File(file.name[len(start) :], file.version, file.read)
                for file in self.files
                if file.name.startswith(start)
            ),
            tuple(name[len(start) :] for name in self.folders if name.startswith(start)),
        )


def list_tree(path: str | Path) -> Tree:
    """List a folder or a .zip file.

    Raises DatasetError when it does not exist, is no readable folder or zip, or holds links that lead out of it (all
    are named). Links to folders are not followed; those that stay inside are noted.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        return _list_folder(path)
    if path.suffix.lower() == ".zip" and path.is_file():
        return _list_zip(path)
    raise DatasetError(f"{path}: {'not a folder or .zip file' if path.exists() else 'no such folder or .zip file'}")


def suffix(name: str) -> str:
    """A file name's suffix in lower case, with its dot."""
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 - four times as fast as pathlib, and data sets are large


def readable(name: str | Path) -> str:
    """A file's name as text that can be printed and stored: bytes that are not UTF-8 become escapes."""
    return str(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _list_folder(path: Path) -> Tree:
    root = path.resolve()
    files: list[File] = []
    folders: list[str] = []
    outside: list[str] = []
    unfollowed: list[str] = []
    for entry in _walk(root):
        name = readable(Path(entry.path).relative_to(root).as_posix())
        if entry.is_symlink() and not Path(os.path.realpath(entry.path)).is_relative_to(root):
            outside.append(name)
        elif entry.is_symlink() and entry.is_dir():
            unfollowed.append(name)
        elif entry.is_dir():
            folders.append(name)
        else:
            files.append(File(name, _version(entry), partial(_read, Path(entry.path), name)))
    if outside:
        raise DatasetError(
            f"{path}: {len(outside)} links lead out of the folder: {listed(sorted(outside))}; "
            "copy the files or remove the links"
        )
    note = f"{len(unfollowed)} links to folders were not followed: {listed(sorted(unfollowed))}"
    return Tree(path, _by_name(files), tuple(sorted(folders)), (note,) if unfollowed else ())


def _walk(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Every entry at any depth; folder links are given, not entered, so that loops of links cannot hang."""
    try:
        with os.scandir(folder) as found:
            entries = [entry for entry in found if not _hidden(entry.name)]
    except OSError as exc:
        raise DatasetError(f"{readable(folder)}: cannot be listed: {exc.strerror}") from exc
    for entry in entries:
        yield entry
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path))


def _list_zip(path: Path) -> Tree:
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as exc:
        raise DatasetError(f"{path}: not a complete zip file: {exc}") from exc
    files: list[File] = []
    folders: set[str] = set()
    for info in archive.infolist():
        parts = [part for part in info.filename.split("/") if part]
        if any(_hidden(part) for part in parts):
            continue
        parents = parts if info.is_dir() else parts[:-1]
        folders.update("/".join(parents[: depth + 1]) for depth in range(len(parents)))
        if not info.is_dir():
            files.append(
                File(
                    "/".join(parts), f"{info.file_size}:{info.CRC:08x}", partial(_unzip, archive, info, "/".join(parts))
                )
            )
    tree = Tree(path, _by_name(files), tuple(sorted(folders)))
    while len(tree.below) == 1 and any("/" in name for name in tree.folders):  # the folder that was zipped
        tree = tree.inside(next(iter(tree.below)))
    return tree


def _hidden(name: str) -> bool:
    return name.startswith(".") or name in _SYSTEM


def _by_name(files: list[File]) -> tuple[File, ...]:
    return tuple(sorted(files, key=lambda file: file.name))


def _version(entry: os.DirEntry[str]) -> str:
    try:
        status = entry.stat()
    except OSError:  # a link whose target is missing; reading it says so
        return "missing"
    return f"{status.st_size}:{status.st_mtime_ns}"


def _read(path: Path, name: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise ImageError(f"{name}: cannot be read: {exc.strerror}") from exc


def _unzip(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> bytes:
    if info.file_size > MAX_BYTES:
        raise ImageError(f"{name}: {info.file_size} bytes is more than {MAX_BYTES}")
    try:
        return archive.read(info)
    except (OSError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile) as exc:  # damaged, encrypted, odd method
        raise ImageError(f"{name}: cannot be unpacked: {exc}") from exc
