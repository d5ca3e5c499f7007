"""What lies below a folder or inside a .zip, alike: files that are read when they are asked for, and folders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgecv.data.split import listed


@dataclass(frozen=True)
class File:
    """One file: its name below the root with "/", what changes when it changes, and its content."""

    name: str
    version: str  # size and modification time, or size and CRC-32
    read: Callable[[], bytes]
    head: Callable[[], bytes]  # the first bytes, which tell its format


@dataclass(frozen=True)
class Tree:
    """All files and folders below a root, sorted by name; what hides, what systems make and what was excluded is not.

    notes: what was left out, counted, one line each.
    """

    root: Path
    files: tuple[File, ...]
    folders: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def tops(self) -> tuple[str, ...]:
        """The folders directly below the root."""
        return tuple(name for name in self.folders if "/" not in name)


def readable(name: str | Path) -> str:
    """A file's name as text that can be printed and stored: bytes that are not UTF-8 become escapes."""
    return str(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def skipped_note(names: Sequence[str]) -> tuple[str, ...]:
    """A note on hidden and system entries that were left out, whole folders counted as one."""
    return (f"{len(names)} hidden or system files and folders were left out: {listed(names)}",) if names else ()


def by_name(files: Sequence[File]) -> tuple[File, ...]:
    """Files in the order of their names."""
    return tuple(sorted(files, key=lambda file: file.name))
