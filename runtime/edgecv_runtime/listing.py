"""What lies below a folder: one way to walk it for data sets, predictions and streams.

Photos come from phones, NAS boxes, cameras' cards and zip tools, which leave thumbnails and records of their own beside
them: a set with `@eaDir` trained on Synology's 160-pixel copies of every photo.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

# Case folded names of what NAS boxes, operating systems, photo browsers, notebooks and zip tools make; what begins with
# a dot (.thumbnails, .DS_Store, .ipynb_checkpoints, .AppleDouble) is left out in any case.
SYSTEM = frozenset(
    {
        *("@eadir", "@tmp", "@recycle", "#recycle", "#snapshot"),
        *("$recycle.bin", "system volume information", "thumbs.db", "ehthumbs.db"),
        *("desktop.ini", "found.000", "lost+found", "__macosx", "network trash folder", "temporary items", "icon\r"),
        *("zbthumbnail.info", "pspbrwse.jbf", "__pycache__"),
    }
)


def is_left_out(name: str) -> bool:
    """Whether a file or folder is hidden, or one that a system and no person made."""
    return name.startswith(".") or name.casefold() in SYSTEM


def walk(folder: str | Path, skipped: list[str]) -> Iterator[os.DirEntry[str]]:
    """Every entry at any depth, sorted within its folder; links to folders are given, not entered: loops end.

    skipped: gets the path of each hidden or system entry, which is neither given nor entered.
    Raises OSError where a folder cannot be listed.
    """
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        if is_left_out(entry.name):
            skipped.append(entry.path)
            continue
        yield entry
        if entry.is_dir(follow_symlinks=False):
            yield from walk(entry.path, skipped)


def is_file(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a file or leads to one; a link to nothing, to itself or to where nobody may look does not."""
    try:
        return entry.is_file()
    except OSError:
        return False


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or leads to one, as `is_file`."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def suffix(name: str) -> str:
    """A file name's suffix in lower case, with its dot."""
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 - four times as fast as pathlib, and data sets are large


def kinds(names: Iterable[str]) -> str:
    """How many files of which suffix, the most frequent first: "3 .txt, 1 .heic"."""
    counts = Counter(suffix(name) or "no suffix" for name in names)
    return ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
