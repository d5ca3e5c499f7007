"""The classes of a set of mask files: as a file beside them names them, else as the masks hold them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgecv.data import classtable
from edgecv.data.classtable import IGNORE, Table
from edgecv.data.config import DataConfig
from edgecv.data.split import listed
from edgecv.data.tree import Tree
from edgecv_runtime.errors import DatasetError

# Files that name classes wherever no `data.classes` says which, by their usual names.
CLASS_FILES = (
    *("classes.txt", "classes.json", "classes.yaml", "classes.yml", "class_dict.csv", "labelmap.txt", "labels.txt"),
    *("label_colors.txt", "codes.txt"),
)


@dataclass(frozen=True)
class Seen:
    """What a mask file holds: how many pixels of which value and, where it has them, of which colour."""

    stamp: str
    size: tuple[int, int]
    is_coloured: bool
    values: dict[int, int]
    colours: dict[int, int]


def table(config: DataConfig, tree: Tree, seen: Sequence[Seen], where: str) -> tuple[Table, tuple[str, ...]]:
    """What each value or colour of the masks stands for, and what was decided.

    Raises DatasetError where the masks hold what is not named, nothing that counts or too much, and for a `data.ignore`
    that means nothing here.
    """
    named = _class_file(config, tree)
    coloured = sum(each.is_coloured for each in seen)
    values = set().union(*(each.values for each in seen))
    is_binary = not coloured and config.ignore is None and values == {0, IGNORE}
    if named is not None:
        name, text = named
        entries, by_colour = classtable.parse(text, name)
        if is_binary and not by_colour:
            numbers = sorted(number for _, number in entries)
            if numbers == [0, IGNORE]:
                return classtable.make(sorted(entries, key=lambda each: each[1]), (), by_colour, name), ()
            if numbers == [0, 1]:
                (below, _), (above, _) = sorted(entries, key=lambda each: each[1])
                told = f"the masks hold 0 and {IGNORE}: {IGNORE} is taken for '{above}'"
                return classtable.make([(below, 0), (above, IGNORE)], (), by_colour, name), (told,)
        if coloured and not by_colour:
            raise DatasetError(
                f"{name}: names values, and {coloured} masks hold colours; name these: 'road: [128, 64, 128]'"
            )
        dropped = [each for each, number in entries if each and number == IGNORE]
        notes: tuple[str, ...] = ()
        if dropped and not by_colour and config.ignore is None:
            notes = (
                f"{name} names {IGNORE} '{dropped[0]}', which does not count; as a class it wants data.ignore to say "
                "what does not count instead: data.ignore=[]",
            )
        return classtable.make(entries, _ignored(config, by_colour, where), by_colour, name), notes
    ignore = _ignored(config, bool(coloured), where)
    found = set().union(*(each.colours for each in seen)) if coloured else values
    counted = [each for each in sorted(found) if is_binary or each not in ignore]
    if not counted:
        raise DatasetError(
            f"{where}: masks without classes: every pixel is {' or '.join(map(str, ignore))}, which does not count"
        )
    if len(counted) > classtable.MOST:
        what = "colours" if coloured else "values"
        raise DatasetError(
            f"{where}: the masks hold {len(counted)} different {what}, more than the {classtable.MOST} classes that "
            "there can be; name those that are classes in a file: data.classes=FILE"
        )
    plain = Table((), {}, bool(coloured))
    made = classtable.make(
        [(plain.told(number), number) for number in counted], () if is_binary else ignore, bool(coloured), where
    )
    return made, (f"no file names the classes, so they are called as the masks hold them: {listed(made.names, 5)}",)


def _ignored(config: DataConfig, by_colour: bool, where: str) -> tuple[int | str, ...]:
    """What does not count, by value or by name; raises DatasetError for values where pixels hold colours."""
    if config.ignore is None:
        return () if by_colour else (IGNORE,)
    numbers = [each for each in config.ignore if not isinstance(each, str)]
    if by_colour and numbers:
        raise DatasetError(
            f"{where}: data.ignore={numbers[0]} is a value, and what the masks hold is read as colours; give the name "
            "of the class, or where no file names it the colour in quotes: '#e0e0e0'"
        )
    return config.ignore


def _class_file(config: DataConfig, tree: Tree) -> tuple[str, str] | None:
    """Name and text of the file that names the classes; None where there is none."""
    at_root = {file.name: file for file in tree.files}
    if config.classes is None:
        name = next((name for name in CLASS_FILES if name in at_root), None)
        data = None if name is None else at_root[name].read()
    elif config.classes in at_root:
        name, data = config.classes, at_root[config.classes].read()
    else:
        name = config.classes
        try:
            data = Path(name).expanduser().read_bytes()
        except OSError as exc:
            raise DatasetError(f"data.classes={name}: cannot be read: {exc.strerror}") from exc
    if name is None or data is None:
        return None
    try:
        return name, data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise DatasetError(f"{name}: not text in UTF-8: {exc}") from exc
