"""COCO's JSON of instances as class maps: polygons and run lengths, one class for each category."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgecv.data import pairs, polygons
from edgecv.data.cocojson import Instances
from edgecv.data.folder import fold
from edgecv.data.split import listed
from edgecv.data.tree import File, Tree
from edgecv_runtime.errors import DatasetError

BACKGROUND = "background"


@dataclass
class Areas:
    """classes: the background and the categories in the order of their ids; images that the JSON names.

    sizes: (height, width) that it says, by image; areas: (class position, segmentation, is a crowd) of each.
    """

    classes: tuple[str, ...]
    images: list[File] = field(default_factory=list)
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    areas: dict[str, list[tuple[int, Any, int]]] = field(default_factory=lambda: defaultdict(list))
    stamps: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def draw(self, name: str) -> NDArray[np.uint8]:
        """The class map of an image: crowds below, then larger areas below smaller ones, the rest background.

        Raises DatasetError for a segmentation that is none.
        """
        size = self.sizes[name]
        drawn = []
        for position, segmentation, crowd in self.areas[name]:
            inside = polygons.area(segmentation, size)
            drawn.append((not crowd, -int(inside.sum()), position, inside))
        mask = np.zeros(size, np.uint8)
        for _, _, position, inside in sorted(drawn, key=lambda each: each[:3]):
            mask[inside] = position
        return mask


def find(tree: Tree, pattern: str | None) -> list[File]:
    """The files of COCO's instances: those that a pattern ending in .json finds, or all where there are no masks."""
    if pattern is not None and not pattern.endswith(".json"):
        return []
    named = [file for file in tree.files if file.name.lower().endswith(".json")]
    if pattern is not None:
        found = [file for file in named if pairs.form(pattern).fullmatch(file.name)]
        if not found:
            raise DatasetError(f"{tree.root}: data.masks={pattern} finds nothing")
        return found
    return [file for file in named if _has_areas(file)]


def read(files: Sequence[File], tree: Tree, where: str) -> Areas:
    """Read the images and areas that some files name; raises DatasetError in one line for what does not fit."""
    loaded = [(file, _decoded(file)) for file in files]
    categories = {category.id: category.name for _, each in loaded for category in each.categories}
    for file, each in loaded:
        other = [category.name for category in each.categories if categories[category.id] != category.name]
        if other:
            raise DatasetError(
                f"{where}: {file.name} gives '{other[0]}' an id that another file gives another category"
            )
    order = sorted(categories, key=lambda key: (fold(categories[key]) != BACKGROUND, key))
    names = [categories[key] for key in order]
    has_own = bool(names) and fold(names[0]) == BACKGROUND
    classes = tuple(names) if has_own else (BACKGROUND, *names)
    if len(set(classes)) < len(classes):
        raise DatasetError(
            f"{where}: two categories have one name: {listed(sorted({n for n in names if names.count(n) > 1}))}"
        )
    position = {key: index + (not has_own) for index, key in enumerate(order)}
    found = Areas(classes)
    pictures = _Pictures(tree)
    empty = 0
    for file, each in loaded:
        name_of = _images(file, each, pictures, found, where)
        for annotation in each.annotations:
            segmentation = msgspec.json.decode(annotation.segmentation)
            if not segmentation:
                empty += 1
                continue
            for what, number, known in (
                ("image", annotation.image_id, name_of.keys()),
                ("category", annotation.category_id, position.keys()),
            ):
                if number not in known:
                    raise DatasetError(
                        f"{where}: {file.name}: an annotation is of {what} {number}, which it does not name"
                    )
            area = position[annotation.category_id], segmentation, int(annotation.iscrowd or 0)
            found.areas[name_of[annotation.image_id]].append(area)
    found.images.sort(key=lambda file: file.name)
    found.stamps = {name: _stamp(classes, size, found.areas[name]) for name, size in found.sizes.items()}
    if empty:
        found.notes = (f"{empty} annotations without an area (boxes alone) were left out",)
    return found


class _Pictures:
    """The files of a tree, found by the names that a JSON gives them."""

    def __init__(self, tree: Tree) -> None:
        self.by_name = {file.name: file for file in tree.files}
        self.ending: dict[str, list[str]] = defaultdict(list)
        for name in self.by_name:
            self.ending[name.rpartition("/")[2]].append(name)

    def of(self, name: str, beside: File) -> list[str]:
        """What may be meant: the file beside the JSON, else all that end in this name."""
        folder = beside.name.rpartition("/")[0]
        near = f"{folder}/{name}" if folder else name
        if near in self.by_name:
            return [near]
        ends = [each for each in self.ending[name.rpartition("/")[2]] if f"/{each}".endswith(f"/{name}")]
        same = [each for each in ends if (part := pairs.part_of(each, {})) and part == pairs.part_in(beside.name)]
        return same if len(ends) > 1 and same else ends


def _images(file: File, loaded: Instances, pictures: _Pictures, found: Areas, where: str) -> dict[int | str, str]:
    """Add a file's images to what was found; gives their names by id."""
    missing: list[str] = []
    sizeless: list[str] = []
    name_of: dict[int | str, str] = {}
    for image in loaded.images:
        names = pictures.of(image.file_name, file)
        if not names:
            missing.append(image.file_name)
        elif len(names) > 1:
            raise DatasetError(f"{where}: {file.name}: {image.file_name} may be any of {listed(names, 3)}")
        else:
            name_of[image.id] = names[0]
            if names[0] not in found.sizes:
                found.images.append(pictures.by_name[names[0]])
            if image.size:
                found.sizes[names[0]] = image.size
            else:
                sizeless.append(image.file_name)
    if missing:
        raise DatasetError(f"{where}: {len(missing)} images that {file.name} names are not there: {listed(missing, 5)}")
    if sizeless:
        raise DatasetError(
            f"{where}: {file.name} gives {len(sizeless)} images no size, which areas want: {listed(sizeless, 5)}"
        )
    return name_of


def _has_areas(file: File) -> bool:
    """Whether a JSON file is one of COCO's instances with areas."""
    if not all(word in (data := file.read()) for word in (b'"images"', b'"annotations"', b'"categories"')):
        return False
    return b'"segmentation"' in data


def _decoded(file: File) -> Instances:
    try:
        return msgspec.json.decode(file.read(), type=Instances)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise DatasetError(f"{file.name}: not COCO's JSON of instances: {exc}") from exc


def _stamp(classes: Sequence[str], size: tuple[int, int], areas: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps([classes, size, areas], default=list).encode()).hexdigest()
