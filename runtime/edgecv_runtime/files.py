"""Files that are whole or not there: atomic writing, hashing, and edgecv's cache folder."""

from __future__ import annotations

import errno
import glob
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from edgecv_runtime.errors import BadInput, Unavailable

Identity = tuple[int, ...]
_MOST_BYTES = 160  # of a name that a thread, a process, ".tmp" and ".old" are added to: of 255 at most
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def cache_folder(name: str) -> Path:
    """The folder `name` below $EDGECV_CACHE or ~/.cache/edgecv, created when missing; OSError where that cannot be."""
    root = os.environ.get("EDGECV_CACHE")
    try:
        folder = (Path(root) if root else Path.home() / ".cache" / "edgecv") / name
    except RuntimeError as exc:  # in a container, a user that nobody named
        raise OSError("this user has no home folder") from exc
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, as 64 hexadecimal digits."""
    import hashlib

    digest = hashlib.sha256()
    block = memoryview(bytearray(1 << 18))  # stays in the processor's cache
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(block):
            digest.update(block[:size])
    return digest.hexdigest()


def identity(file: Path) -> Identity:
    """What tells a file from another one that takes its name: any write or exchange changes it; () when it is gone."""
    try:
        found = file.stat()
    except OSError:
        return ()
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file beside `path` for writing; it takes the name only when the block ends without an error.

    A reader sees the old file or the new one, also after a crash; a full disk leaves the old one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent, glob.escape(short_name(path.name, _MOST_BYTES)))
    temporary = _temporary(path)
    with _named(path, temporary):
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):  # a read-only disk refuses this, too
                temporary.unlink()
            raise
    sync_folder(path.parent)


def write(path: Path, data: bytes) -> None:
    """Write a file atomically."""
    with replacing(path) as file:
        file.write(data)


def check_place(path: Path) -> None:
    """Refuse a place for a file before the work on it begins; its folder is made.

    Raises BadInput for a folder, Unavailable for what cannot be written.
    """
    if path.is_dir():
        raise BadInput(f"{path} is a folder; name a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        check_replaceable(path)
    except OSError as exc:
        raise Unavailable(f"{path}: cannot be written: {exc.strerror}; name another place") from exc


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Give an empty temporary folder beside `path`; it takes the name, whole, when the block ends without an error.

    An existing folder is exchanged in one system call where the kernel can (Linux), and removed afterwards; of a link,
    the folder that it leads to.
    Left-overs of writers that were killed are removed first.
    """
    import shutil

    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent, glob.escape(short_name(path.name, _MOST_BYTES)))
    temporary = _temporary(path)
    with _named(path, temporary):
        temporary.mkdir()
    try:
        yield temporary
        for each in temporary.rglob("*"):
            if each.is_dir():
                sync_folder(each)
            else:
                with each.open("rb") as opened:
                    os.fsync(opened.fileno())
        sync_folder(temporary)
        if path.is_dir():
            _exchange(temporary, path)
        else:
            temporary.rename(path)
        sync_folder(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_replaceable(path: Path) -> None:
    """Raise the OSError of replacing a file or folder, before minutes go into what shall take its place."""
    path = path.resolve() if path.is_dir() else path.absolute()  # as they are replaced
    if path.is_mount():
        raise OSError(errno.EBUSY, "is a mount point: mount the folder that it lies in", str(path))
    temporary = _temporary(path)
    with _named(path, temporary):
        temporary.mkdir()
    temporary.rmdir()


@contextmanager
def _named(path: Path, temporary: Path) -> Iterator[None]:
    """An error names what was asked for, not the temporary file beside it."""
    try:
        yield
    except OSError as exc:
        if str(exc.filename) == str(temporary):
            exc.filename = str(path)
        raise


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, so that a rename in it outlives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _temporary(path: Path) -> Path:
    """A name beside `path` that tells which thread of which process writes there."""
    return path.with_name(f".{short_name(path.name, _MOST_BYTES)}.{threading.get_ident()}.{os.getpid()}.tmp")


def short_name(name: str, most: int) -> str:
    """A file's name, or one that stands for it where it has more than `most` bytes; file systems take 255."""
    whole = os.fsencode(name)
    if len(whole) <= most:
        return name
    import hashlib

    return f"{whole[: most - 17].decode('utf-8', 'ignore')}-{hashlib.sha256(whole).hexdigest()[:16]}"


def sweep(folder: Path, pattern: str = "*") -> None:
    """Remove what writers left behind in a folder when they were killed; pattern: of the names of what they wrote."""
    import shutil

    for old in folder.glob(f".{pattern}.*.tmp"):
        pid = old.name.split(".")[-2]
        if not pid.isdigit() or _runs(int(pid)):
            continue
        if old.is_dir():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.unlink(missing_ok=True)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def shipped(package: str) -> list[Path]:
    """The files that an installed distribution ships, sorted; raises Unavailable when it is not installed."""
    import importlib.metadata

    try:
        found = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError as exc:
        raise Unavailable(f"package '{package}' is not installed: pip install {package}") from exc
    return sorted(Path(str(file.locate())) for file in found)


def _exchange(new: Path, old: Path) -> None:
    """Swap two folders: renameat2(2) with RENAME_EXCHANGE; where it is missing, two renames with a short gap."""
    if sys.platform == "linux":
        import ctypes

        rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
        if rename and rename(_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(old), _RENAME_EXCHANGE) == 0:
            return
    aside = new.with_name(new.name + ".old")
    old.rename(aside)
    try:
        new.rename(old)
    except BaseException:  # Ctrl-C, too
        aside.rename(old)
        raise
    aside.rename(new)
