"""List the files below a folder or inside a .zip, alike, without leaving it and without following folder links."""

from __future__ import annotations

import fnmatch
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from edgecv.data.split import listed
from edgecv.data.tree import File, Tree, by_name, readable, skipped_note
from edgecv.data.zips import list_zip
from edgecv_runtime.errors import DatasetError, ImageError
from edgecv_runtime.images import head
from edgecv_runtime.listing import is_folder, walk


def list_tree(path: str | Path, exclude: Sequence[str] = (), encoding: str | None = None) -> Tree:
    """List a folder or a .zip file.

    exclude: patterns as a shell has them; one without "/" is for a file's or folder's own name, at any depth. encoding:
    of names in a .zip that does not say it.
    Raises DatasetError when it does not exist, is no readable folder or zip, holds links that lead out of it (all are
    named), or when a pattern fits nothing. Links to folders are not followed; those that stay inside are noted.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        tree = _list_folder(path)
    elif path.suffix.lower() == ".zip" and path.is_file():
        tree = list_zip(path, encoding)
    else:
        raise DatasetError(f"{path}: {'not a folder or .zip file' if path.exists() else 'no such folder or .zip file'}")
    return _without(tree, exclude) if exclude else tree


def _list_folder(path: Path) -> Tree:
    root = path.resolve()
    files: list[File] = []
    folders: list[str] = []
    outside: list[str] = []
    unfollowed: list[str] = []
    special: list[str] = []
    skipped: list[str] = []
    try:
        for entry in walk(root, skipped):
            name = _below(root, entry.path)
            if entry.is_symlink() and not Path(os.path.realpath(entry.path)).is_relative_to(root):
                outside.append(name)
            elif entry.is_symlink() and is_folder(entry):
                unfollowed.append(name)
            elif is_folder(entry):
                folders.append(name)
            elif (version := _version(entry)) is None:
                special.append(name)
            else:
                files.append(
                    File(name, version, partial(_read, Path(entry.path), name), partial(head, Path(entry.path)))
                )
    except OSError as exc:
        raise DatasetError(f"{readable(exc.filename or path)}: cannot be listed: {exc.strerror}") from exc
    if outside:
        raise DatasetError(
            f"{path}: {len(outside)} links lead out of the folder: {listed(sorted(outside))}; "
            "copy the files or remove the links"
        )
    notes = skipped_note([_below(root, each) for each in skipped])
    if unfollowed:
        notes += (f"{len(unfollowed)} links to folders were not followed: {listed(sorted(unfollowed))}",)
    if special:
        notes += (f"{len(special)} pipes, sockets or devices were left out: {listed(special)}",)
    return Tree(path, by_name(files), tuple(sorted(folders)), notes)


def _without(tree: Tree, exclude: Sequence[str]) -> Tree:
    """A tree without what patterns name, and a note on how much that is."""
    forms = {pattern: re.compile(fnmatch.translate(pattern.strip("/"))) for pattern in exclude}
    used: set[str] = set()

    def fits(name: str) -> bool:
        parts = name.split("/")
        whole = ["/".join(parts[: depth + 1]) for depth in range(len(parts))]
        found = {
            pattern
            for pattern, form in forms.items()
            if any(form.match(each) for each in (whole if "/" in pattern.strip("/") else parts))
        }
        used.update(found)
        return bool(found)

    files = tuple(file for file in tree.files if not fits(file.name))
    folders = tuple(name for name in tree.folders if not fits(name))
    unused = [pattern for pattern in exclude if pattern not in used]
    if unused:
        raise DatasetError(f"{tree.root}: nothing in it fits the pattern {listed(unused)} of data.exclude")
    note = f"{len(tree.files) - len(files)} files were left out as data.exclude says: {listed(list(exclude))}"
    return replace(tree, files=files, folders=folders, notes=(*tree.notes, note))


def _below(root: Path, path: str) -> str:
    return readable(Path(path).relative_to(root).as_posix())


def _version(entry: os.DirEntry[str]) -> str | None:
    """What changes when a file changes; None for what is no file: reading a pipe would wait for ever."""
    try:
        status = entry.stat()
    except OSError:  # a link whose target is missing; reading it says so
        return "missing"
    return f"{status.st_size}:{status.st_mtime_ns}" if stat.S_ISREG(status.st_mode) else None


def _read(path: Path, name: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise ImageError(f"{name}: cannot be read: {exc.strerror}") from exc
