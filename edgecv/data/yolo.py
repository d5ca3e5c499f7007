"""YOLO: one text file a picture, a line a box, and a `data.yaml` that names the classes and the parts.

A line is `class x y width height`, the centre and sides in shares of the picture's (docs.ultralytics.com, datasets), or
`class x1 y1 x2 y2 x3 y3 ...`, a polygon, of which the box around it is taken. Where `data.yaml` has a `kpt_shape`, key
points follow the box, and are left.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import yaml

from edgecv.data.annotations import Annotated, Box, Drawn, Pictures, check_classes, stem
from edgecv.data.layout import TEST, TRAIN, VAL
from edgecv.data.split import listed
from edgecv.data.tree import File, Tree
from edgecv_runtime import yamltext
from edgecv_runtime.errors import DatasetError

_NAMES = ("classes.txt", "obj.names", "_darknet.labels")  # a class a line, where there is no data.yaml
_NAMES_KEY = re.compile(rb"^\W*names\W*:", re.M)
_KEYS = {TRAIN: ("train",), VAL: ("val", "valid", "validation"), TEST: ("test",)}
_SHARE_AT_MOST = 1.5  # of a side: what is larger was meant in pixels


def read(tree: Tree, where: str, pictures: Pictures) -> Annotated | None:
    """The set as its text files say; None where no file names YOLO's classes.

    Raises DatasetError that names the file and line: no numbers, classes that are not named, shares that are pixels.
    """
    settings = _settings(tree, where)
    if settings is None:
        return None
    file, given = settings
    classes = check_classes(_class_names(given, f"{where}/{file.name}"), f"{where}/{file.name}")
    labels = {each.name: each for each in tree.files if each.name.lower().endswith(".txt")}
    of = {picture.name: _label_file(picture.name, labels) for picture in pictures.files}
    used = [name for name in of.values() if name]
    if not used and not any(key in given for keys in _KEYS.values() for key in keys):
        return None
    points = _points(given, f"{where}/{file.name}")
    lines = {name: _lines(labels[name], len(classes), points, where) for name in dict.fromkeys(used)}
    drawn = {
        picture.name: Drawn(picture, lines[name] if (name := of[picture.name]) else (), relative=True)
        for picture in pictures.files
    }
    roles, lost = _roles(given, file.name, tree)
    entries, missing = _entries(roles, TRAIN in lost, tree, pictures, drawn)
    empty = [each.file.name for all_in in entries.values() for each in all_in if not of[each.file.name]]
    notes: tuple[str, ...] = (
        (f"{len(empty)} images have no label file and count as empty: {listed(empty, 3)}",) if empty else ()
    )
    shared = [name for name in lines if used.count(name) > 1] if len(set(used)) < len(used) else []
    if shared:
        notes += (f"{len(shared)} label files serve two images of one name: {listed(shared)}",)
    alone = _without_picture(labels, used, [place for places in roles.values() for place in places])
    if alone:
        notes += (f"{len(alone)} label files have no image: {listed(alone, 3)}",)
    return Annotated("YOLO", classes, entries, roles, missing, notes, lost)


def _settings(tree: Tree, where: str) -> tuple[File, dict[str, Any]] | None:
    """The file that names the classes, and what it says."""
    found = []
    for file in tree.files:
        if file.name.lower().endswith((".yaml", ".yml")):
            try:
                given = yamltext.load(file.read())
            except (yaml.YAMLError, ValueError, RecursionError) as exc:  # a date that is none, say
                if not _NAMES_KEY.search(file.read()):  # another tool's
                    continue
                raise DatasetError(f"{where}: {file.name}: not valid YAML: {' '.join(str(exc).split())}") from exc
            if isinstance(given, dict) and "names" in given:
                as_written = yamltext.texts(file.read())["names"]  # a class may be called no, or 1.10
                found.append((file, {**given, "names": as_written}))
    if len(found) > 1:
        names = listed([file.name for file, _ in found])
        raise DatasetError(f"{where}: {len(found)} files name classes: {names}; leave out the others by data.exclude")
    if found:
        return found[0]
    for file in tree.files:
        if file.name.rpartition("/")[2] in _NAMES:
            lines = file.read().decode("utf-8", "replace").splitlines()
            return file, {"names": [line.strip() for line in lines if line.strip()]}
    return None


def _class_names(given: dict[str, Any], where: str) -> list[str]:
    names = given["names"]
    if isinstance(names, dict) and sorted(names) == sorted(map(str, range(len(names)))):
        names = [names[key] for key in sorted(names, key=int)]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DatasetError(f"{where}: 'names' wants a list of classes, or numbers from 0 on with a name each")
    count = given.get("nc", len(names))
    if count != len(names):
        raise DatasetError(f"{where}: nc is {count}, but {len(names)} classes are named")
    return names


def _label_file(picture: str, labels: dict[str, File]) -> str | None:
    """The text file of a picture: in `labels` where it lies in `images`, or beside it."""
    folder, _, own = picture.rpartition("/")
    parts = folder.split("/")
    beside = [picture.rpartition(".")[0] + ".txt"]
    if "images" in parts:
        at = len(parts) - 1 - parts[::-1].index("images")
        beside.insert(0, "/".join([*parts[:at], "labels", *parts[at + 1 :], stem(own) + ".txt"]))
    return next((name for name in beside if name in labels), None)


def _without_picture(labels: dict[str, File], used: Sequence[str], places: Sequence[str]) -> list[str]:
    """The text files beside labels that are of no picture, name no classes and are no lists."""
    folders = {name.rpartition("/")[0] for name in used}
    known = {*used, *places}
    return [
        name
        for name in labels
        if name not in known and (at := name.rpartition("/"))[0] in folders and at[0] and at[2] not in _NAMES
    ]


def _points(given: dict[str, Any], where: str) -> int:
    """How many numbers of key points follow a box."""
    shape = given.get("kpt_shape")
    if shape is None:
        return 0
    if not isinstance(shape, list) or len(shape) != 2 or not all(type(each) is int and each > 0 for each in shape):
        raise DatasetError(f"{where}: kpt_shape wants [key points, 2 or 3 numbers of each], got {shape!r}")
    return int(shape[0] * shape[1])


def _lines(file: File, classes: int, points: int, where: str) -> tuple[Box, ...]:
    found = []
    for number, line in enumerate(file.read().decode("utf-8-sig", "replace").splitlines(), 1):
        if not line.strip():
            continue
        at = f"{where}: {file.name}:{number}"
        try:
            kind, *values = (float(each) for each in line.split())
        except ValueError:
            raise DatasetError(f"{at}: wants numbers, 'class x y width height', got '{line.strip()[:60]}'") from None
        if points:
            if len(values) != 4 + points:
                raise DatasetError(
                    f"{at}: wants a class, a box of 4 and key points of {points} numbers, as kpt_shape says, "
                    f"got {len(values) + 1} numbers"
                )
            values = values[:4]
        if len(values) != 4 and (len(values) < 6 or len(values) % 2):
            raise DatasetError(f"{at}: wants 'class x y width height' or a polygon, got {len(values) + 1} numbers")
        if kind not in range(classes):
            raise DatasetError(f"{at}: class {kind:g}, but {classes} classes are named, from 0 on")
        if max(values) > _SHARE_AT_MOST:
            raise DatasetError(f"{at}: {max(values):g} is no share of the picture's sides; are these pixels?")
        found.append(Box(int(kind), *_edges(values)))
    return tuple(found)


def _edges(values: Sequence[float]) -> tuple[float, float, float, float]:
    if len(values) > 4:
        return min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])
    x, y, width, height = values
    if min(width, height) < 0:
        return math.nan, math.nan, math.nan, math.nan  # no box; it is counted
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _roles(given: dict[str, Any], file: str, tree: Tree) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Part -> the folders or lists that `data.yaml` names for it; and part -> which of them are not there, in words."""
    roles: dict[str, list[str]] = {}
    lost: dict[str, str] = {}
    for part, keys in _KEYS.items():
        values = next((given[key] for key in keys if given.get(key)), None)
        for value in values if isinstance(values, list) else [values] if values else []:
            place = _place(str(value), str(given.get("path") or ""), file, tree)
            if place is None:
                lost[part] = f"{file} names '{value}' for {part}, but there is no such folder or list"
            else:
                roles.setdefault(part, []).append(place)
    return roles, lost


def _entries(
    roles: dict[str, list[str]], also_folders: bool, tree: Tree, pictures: Pictures, drawn: dict[str, Drawn]
) -> tuple[dict[str, list[Drawn]], tuple[str, ...]]:
    """The pictures of each folder or list that is named, or else of all folders; and those that a list names in vain.

    also_folders: all folders beside what is named, for a recipe to choose from.
    """
    entries: dict[str, list[Drawn]] = {}
    missing: list[str] = []
    for place in (place for places in roles.values() for place in places):
        if place in tree.folders:
            entries[place] = [each for name, each in drawn.items() if name.startswith(f"{place}/")]
            continue
        entries[place] = []
        text = next(file for file in tree.files if file.name == place).read().decode("utf-8", "replace")
        for line in (line.strip() for line in text.splitlines() if line.strip()):
            found = pictures.find(line, place)
            if found is None:
                missing.append(f"{line}: no such image, but {place} lists it")
            else:
                entries[place].append(drawn[found.name])
    if not roles or also_folders:
        folders: dict[str, list[Drawn]] = {}
        for name, each in drawn.items():
            folders.setdefault(name.rpartition("/")[0] or ".", []).append(each)
        entries = {**folders, **entries}
    return entries, tuple(missing)


def _place(value: str, path: str, file: str, tree: Tree) -> str | None:
    """The folder or list that is meant, below the root: paths of another machine may begin anywhere."""
    known = {*tree.folders, *(each.name for each in tree.files)}
    wanted = [part for part in f"{path}/{value}".replace("\\", "/").split("/") if part not in ("", ".", "..")]
    above = file.split("/")[:-1]
    for start in range(len(wanted)):
        for folder in (above, []):
            name = "/".join([*folder, *wanted[start:]])
            if name in known:
                return name
    return None
