"""What the files of any form say of boxes, before a picture has been looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from edgecv.data.folder import fold, is_image
from edgecv.data.layout import role_within
from edgecv.data.split import listed
from edgecv.data.tree import File, Tree
from edgecv_runtime.errors import DatasetError


class Box(NamedTuple):
    """One box: its class and its edges in pixels of the picture, or in shares of its sides where `relative` is set.

    crowd: a region of many objects; ignored: too hard to be asked for; area: of the object where it is not the box's.
    """

    kind: int
    left: float
    top: float
    right: float
    bottom: float
    crowd: bool = False
    ignored: bool = False
    area: float | None = None


@dataclass(frozen=True)
class Drawn:
    """A picture with its boxes; size: (height, width) in pixels as its annotations say, where they do."""

    file: File
    boxes: tuple[Box, ...]
    relative: bool = False
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Annotated:
    """A whole set in one form.

    entries: annotation file, list or folder -> its pictures; roles: part -> entries, where the form itself says them;
    lost: part -> what the form says of it that is not there, in words.
    bad: one "name: reason" for each picture or annotation that cannot be used; notes: counted warnings.
    """

    form: str
    classes: tuple[str, ...]
    entries: Mapping[str, Sequence[Drawn]]
    roles: Mapping[str, Sequence[str]]
    bad: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    lost: Mapping[str, str] = field(default_factory=dict)


class Pictures:
    """The images of a tree, found by what annotations call them."""

    def __init__(self, tree: Tree) -> None:
        self.files = tuple(file for file in tree.files if is_image(file))
        self._where = tree.root

    @cached_property
    def _by_name(self) -> dict[str, list[File]]:
        return _grouped([(file.name.rpartition("/")[2], file) for file in self.files])

    @cached_property
    def _by_stem(self) -> dict[str, list[File]]:
        return _grouped([(stem(file.name), file) for file in self.files])

    def find(self, name: str, near: str, *, by_stem: bool = False) -> File | None:
        """The picture of that name, in whatever folder; of several the one in the same part as `near`, or near to it.

        by_stem: `name` has no suffix. Raises DatasetError where several are as near.
        """
        path = name.replace("\\", "/").removeprefix("./")
        found = (self._by_stem if by_stem else self._by_name).get(path.rpartition("/")[2], [])
        if len(found) < 2:
            return found[0] if found else None
        folders, role = near.split("/")[:-1], role_within(near)
        rank = {
            file.name: (
                _common(file.name.split("/")[::-1], path.split("/")[::-1]),
                role is not None and role_within(file.name) == role,
                _common(file.name.split("/"), folders),
            )
            for file in found
        }
        best = max(rank.values())
        nearest = [file for file in found if rank[file.name] == best]
        if len(nearest) > 1:
            raise DatasetError(
                f"{self._where}: {near} names '{name}', which could be {listed([file.name for file in nearest], 4)}; "
                "give the files different names"
            )
        return nearest[0]


def stem(name: str) -> str:
    """A file's own name without its suffix."""
    own = name.rpartition("/")[2]
    return own.rpartition(".")[0] or own


def check_classes(classes: Sequence[str], where: str) -> tuple[str, ...]:
    """The names of classes; raises DatasetError where there are none, or two that people cannot tell apart."""
    if not classes:
        raise DatasetError(f"{where}: names no classes")
    told: dict[str, str] = {}
    for name in classes:
        other = told.setdefault(fold(name), name)
        if other is not name:
            raise DatasetError(f"{where}: the classes '{other}' and '{name}' are one name; merge or rename them")
    return tuple(classes)


def _grouped(pairs: Sequence[tuple[str, File]]) -> dict[str, list[File]]:
    found: dict[str, list[File]] = {}
    for key, file in pairs:
        found.setdefault(key, []).append(file)
    return found


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """How many first parts are the same."""
    return next(
        (count for count, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
