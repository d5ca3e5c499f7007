"""Images with a class for each pixel: masks as files beside them, or areas in COCO's JSON."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecv.data import cocoareas, maskclasses, pairs, rasters
from edgecv.data.checked import Checked, allow, check
from edgecv.data.classtable import IGNORE, Table
from edgecv.data.config import DataConfig
from edgecv.data.dataset import Dataset, Images, NoTruths
from edgecv.data.folder import given_parts, leaks
from edgecv.data.layout import ALL, TEST, TRAIN, VAL
from edgecv.data.listing import list_tree
from edgecv.data.maskclasses import CLASS_FILES, Seen
from edgecv.data.parts import Parts, as_labels
from edgecv.data.progress import threaded
from edgecv.data.split import divide, listed
from edgecv.data.tree import File, Tree
from edgecv_runtime.errors import DatasetError, ImageError
from edgecv_runtime.listing import kinds

Mask = NDArray[np.uint8]


@dataclass(frozen=True)
class Truths:
    """What is known of the images of a set: the classes, and each image's mask by its name.

    stamps: what identifies each mask's content; pixels: of each class, by image; part: of each image, where lists say
    it.
    """

    classes: tuple[str, ...]
    read: Mapping[str, Callable[[], Mask]]
    stamps: Mapping[str, str]
    pixels: Mapping[str, NDArray[np.int64]]
    notes: tuple[str, ...] = ()
    part: Mapping[str, str] = field(default_factory=dict)


class Masks(Sequence[Mask]):
    """Masks (H, W) uint8 of class positions and IGNORE, each read when it is asked for."""

    def __init__(self, read: Sequence[Callable[[], Mask]]) -> None:
        self._read = read

    def __len__(self) -> int:
        return len(self._read)

    def __getitem__(self, index: Any) -> Any:
        return self._read[index]()


def load(config: DataConfig) -> Dataset:
    """Load images and their masks; `truths` are class maps (H, W) uint8, IGNORE where a pixel does not count.

    Raises DatasetError that names the culprits: an image without a mask, a mask of another size, a value or colour
    without a class, masks without any class, a division that only some folders say, more unreadable files than
    `skip_bad`. What was left out, and images in two parts, are counted in the notes.
    """
    checked, truths, notes = _read(config)
    return _divided(config, checked, truths, notes)


def labelled(config: DataConfig, labels: Sequence[str]) -> Parts:
    """The images of a set by part, with the positions of a bundle's labels in their masks; they may lack classes.

    Raises DatasetError for classes that are no labels, and what `load` raises.
    """
    checked, truths, notes = _read(config)
    images, told = _parts(config, checked, truths.part)
    _refuse_silent(truths, images, str(config.path))
    parts = Parts(
        truths.classes,
        {part: _with_masks(held, truths) for part, held in images.items()},
        checked.hashes,
        (*notes, *told, *leaks(images, checked.hashes)),
        {part: part for part in images},
    )
    return as_labels(parts, labels, _renumbered, str(config.path))


def _renumbered(mask: Mask, positions: NDArray[np.int64]) -> Mask:
    table = np.full(256, IGNORE, np.uint8)
    table[: len(positions)] = positions
    found: Mask = table[mask]
    return found


def _read(config: DataConfig) -> tuple[Checked, Truths, tuple[str, ...]]:
    """The images that can be decoded, what is known of them, and counted warnings."""
    where = str(config.path)
    tree = list_tree(where, config.exclude, config.encoding)
    areas = cocoareas.find(tree, config.masks)
    if areas:
        sources = cocoareas.read(areas, tree, where)
        checked, notes = _checked(config, tree, sources.images)
        truths = _of_areas(sources, checked, where)
    else:
        found = _pairs(tree, config, where)
        checked, notes = _checked(config, tree, found.images, found.lost)
        truths = replace(_of_files(config, tree, found.masks, checked, where), part=found.part)
        notes += _left_out(found)
    return checked, truths, (*tree.notes, *notes, *truths.notes)


def _checked(
    config: DataConfig, tree: Tree, images: Sequence[File], lost: Sequence[str] = ()
) -> tuple[Checked, tuple[str, ...]]:
    """The images that can be decoded, and a note on the others; lost: those that are not there at all."""
    checked = check(images, tree.root, config.max_pixels)
    return checked, allow((*lost, *checked.bad), config.skip_bad, str(config.path))


def _pairs(tree: Tree, config: DataConfig, where: str) -> pairs.Pairs:
    """The images and masks; raises DatasetError when there are none, or an image of a part that has masks has none."""
    found = (
        pairs.by_patterns(tree, config.images, config.masks) if config.images and config.masks else pairs.by_names(tree)
    )
    given = given_parts(config)
    if not given:
        found = pairs.as_listed(tree, found, where)
    if not found.images:
        raise (DatasetError if found.alone else NoTruths)(
            f"{where}: no image has a mask: {len(found.without)} images, {len(found.alone)} masks; folders named "
            "images and masks tell them apart, or two patterns: data.images='images/*.jpg' data.masks='masks/*.png'"
        )
    masked = {_part_of(found, file, given) for file in found.images}
    missing = [file.name for file in found.without if _part_of(found, file, given) in masked]
    if missing:
        raise DatasetError(
            f"{where}: {len(missing)} images without a mask: {listed(missing, 5)}; add the masks or leave the images "
            "out: data.exclude"
        )
    return found


def _part_of(found: pairs.Pairs, file: File, given: dict[str, str]) -> str | None:
    return found.part[file.name] if found.part else pairs.part_of(file.name, given)


def _left_out(found: pairs.Pairs) -> tuple[str, ...]:
    told = {
        "images that no list of ImageSets/Segmentation names": list(found.unlisted),
        "images of parts that have no masks": [file.name for file in found.without],
        "masks without an image": [file.name for file in found.alone],
    }
    notes = tuple(f"{len(names)} {what} were left out: {listed(names, 3)}" for what, names in told.items() if names)
    others = [file.name for file in found.others if file.name.rpartition("/")[2] not in CLASS_FILES]
    return notes + ((f"{len(others)} files that are no images were left out: {kinds(others)}",) if others else ())


# Masks as files


def _of_files(config: DataConfig, tree: Tree, masks: Mapping[str, File], checked: Checked, where: str) -> Truths:
    """Look into every mask, so that what is wrong with one is known before training."""
    names = [file.name for file in checked.good]
    files = [masks[name] for name in names]
    seen: dict[str, Seen] = {}
    bad: list[str] = []
    for name, result in zip(names, threaded(partial(_look, config.max_pixels), files, "checking masks"), strict=True):
        if isinstance(result, str):
            bad.append(result)
        else:
            seen[name] = result
    if bad:
        raise DatasetError(f"{where}: {len(bad)} masks that cannot be read: {listed(bad, 5)}")
    wrong = [
        f"{masks[name].name} is {_size(seen[name].size)}, its image {_size(checked.sizes[name])}"
        for name in names
        if seen[name].size != checked.sizes[name]
    ]
    if wrong:
        raise DatasetError(f"{where}: {len(wrong)} masks of another size than their image: {listed(wrong, 3)}")
    table, notes = maskclasses.table(config, tree, list(seen.values()), where)
    held = {name: each.colours if table.by_colour else each.values for name, each in seen.items()}
    _refuse_strange(table, held, masks, where)
    pixels = {name: _count(table, found) for name, found in held.items()}
    rules = hashlib.sha256(repr((table.names, sorted(table.of.items()))).encode()).hexdigest()
    return Truths(
        table.names,
        {name: partial(_class_map, masks[name], table, config.max_pixels) for name in names},
        {name: seen[name].stamp + rules for name in names},
        pixels,
        notes,
    )


def _look(max_pixels: int, file: File) -> Seen | str:
    try:
        data = file.read()
        raster = rasters.read(data, file.name, max_pixels)
    except ImageError as exc:
        return str(exc)
    height, width = raster.pixels.shape
    values, colours = ({} if raster.is_coloured else _counted(raster.pixels)), _counted(raster.numbers(by_colour=True))
    return Seen(hashlib.sha256(data).hexdigest(), (height, width), raster.is_coloured, values, colours)


def _counted(numbers: NDArray[Any]) -> dict[int, int]:
    found, counts = np.unique(numbers, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


def _class_map(file: File, table: Table, max_pixels: int) -> Mask:
    raster = rasters.read(file.read(), file.name, max_pixels)
    return table.class_map(raster.numbers(table.by_colour))


def _refuse_strange(table: Table, held: Mapping[str, Mapping[int, int]], masks: Mapping[str, File], where: str) -> None:
    """Raise DatasetError for values or colours that no class has."""
    strange = {name: found for name, numbers in held.items() if (found := table.strange(numbers))}
    if not strange:
        return
    told = [
        f"{masks[name].name}: {', '.join(f'{table.told(n)} ({held[name][n]} pixels)' for n in numbers[:3])}"
        for name, numbers in strange.items()
    ]
    what = "colours" if table.by_colour else "values"
    raise DatasetError(
        f"{where}: {len(strange)} masks hold {what} of no class: {listed(told, 3)}; there are {len(table.names)} "
        f"classes ({listed(table.names, 5)}); name these, too, or leave them out: data.ignore"
    )


def _count(table: Table, numbers: Mapping[int, int]) -> NDArray[np.int64]:
    """Pixels of each class -> (C,)."""
    counts = np.zeros(len(table.names), np.int64)
    for number, count in numbers.items():
        if table.of[number] != IGNORE:
            counts[table.of[number]] += count
    return counts


# Areas in COCO's JSON


def _of_areas(sources: cocoareas.Areas, checked: Checked, where: str) -> Truths:
    """Draw every image's areas once, so that what is wrong with one is known before training."""
    names = [file.name for file in checked.good]
    wrong = [
        f"{name} is {_size(checked.sizes[name])}, the JSON says {_size(sources.sizes[name])}"
        for name in names
        if checked.sizes[name] != sources.sizes[name]
    ]
    if wrong:
        raise DatasetError(f"{where}: {len(wrong)} images of another size than their annotations: {listed(wrong, 3)}")

    def look(name: str) -> Mask | str:
        try:
            return sources.draw(name)
        except DatasetError as exc:
            return f"{name}: {exc}"

    bad: list[str] = []
    pixels: dict[str, NDArray[np.int64]] = {}
    for name, mask in zip(names, threaded(look, names, "checking areas"), strict=True):
        if isinstance(mask, str):
            bad.append(mask)
        else:
            pixels[name] = np.bincount(mask.ravel(), minlength=256)[: len(sources.classes)]
    if bad:
        raise DatasetError(f"{where}: {len(bad)} images whose areas cannot be drawn: {listed(bad, 3)}")
    read = {name: partial(sources.draw, name) for name in names}
    return Truths(sources.classes, read, {name: sources.stamps[name] for name in names}, pixels, sources.notes)


# Parts


def _parts(config: DataConfig, checked: Checked, told: Mapping[str, str]) -> tuple[dict[str, Images], tuple[str, ...]]:
    """The images by part, as lists or their folders say, or all of them; and a note on those that are in none."""
    names = [file.name for file in checked.good]
    if told:
        part = {name: told[name] for name in names if told[name] != ALL}
        if TRAIN not in part.values() or len(set(part.values())) < 2:
            part = {}
    else:
        part = pairs.parts_of(names, given_parts(config), str(config.path))
    whole = checked.images()
    if not part:
        return {ALL: whole}, ()
    parts = {
        each: whole.pick([index for index, name in enumerate(names) if part.get(name) == each])
        for each in (TRAIN, VAL, TEST)
        if each in part.values()
    }
    beyond = [name for name in names if name not in part]
    return parts, ((f"{len(beyond)} images in no part were left out: {listed(beyond, 3)}",) if beyond else ())


def _divided(config: DataConfig, checked: Checked, truths: Truths, notes: tuple[str, ...]) -> Dataset:
    """The images by part, as their folders say or as the seed divides them; which ones does not depend on the masks."""
    parts, beyond = _parts(config, checked, truths.part)
    notes += beyond
    if ALL in parts:
        parts[TRAIN] = parts.pop(ALL)
    elif VAL not in parts and config.train is None:
        parts[VAL] = parts.pop(TEST)
        notes += ("no validation folder: the test images are validated on and so choose the best epoch, too",)
    if VAL not in parts:
        parts[TRAIN], parts[VAL] = divide(parts[TRAIN], config.share, config.seed)
    for each, told in ((TRAIN, "training"), (VAL, "validation")):
        if not len(parts[each]):
            raise DatasetError(
                f"{config.path}: there are no {told} images; {len(checked.good)} are there in all: add some"
            )
    notes += leaks(parts, checked.hashes)
    notes += _unseen(truths, parts, str(config.path))
    made = {each: _stamped(_with_masks(images, truths), truths) for each, images in parts.items()}
    return Dataset(truths.classes, made[TRAIN], made[VAL], notes, made.get(TEST), task="segmentation")


def _with_masks(images: Images, truths: Truths) -> Images:
    return Images(images.names, images.stamps, images.read, Masks([truths.read[name] for name in images.names]))


def _stamped(images: Images, truths: Truths) -> Images:
    """The same images; what identifies each covers its mask, too."""
    stamps = tuple(
        hashlib.sha256(f"{stamp} {truths.stamps[name]}".encode()).hexdigest()
        for name, stamp in zip(images.names, images.stamps, strict=True)
    )
    return Images(images.names, stamps, images.read, images.truths)


def _unseen(truths: Truths, parts: Mapping[str, Images], where: str) -> tuple[str, ...]:
    """Notes on classes that no training mask holds; raises DatasetError where they hold fewer than two, and where no
    mask of another part tells anything.
    """
    pixels = sum((truths.pixels[name] for name in parts[TRAIN].names), np.zeros(len(truths.classes), np.int64))
    there = [name for name, count in zip(truths.classes, pixels, strict=True) if count]
    if len(there) < 2:
        told = f"only '{there[0]}'" if there else "none"
        raise DatasetError(f"{where}: masks without classes: the training masks hold {told}; at least 2 are wanted")
    _refuse_silent(truths, {part: images for part, images in parts.items() if part != TRAIN}, where)
    absent = [name for name, count in zip(truths.classes, pixels, strict=True) if not count]
    return (f"{len(absent)} classes occur in no training mask: {listed(absent, 5)}",) if absent else ()


def _refuse_silent(truths: Truths, parts: Mapping[str, Images], where: str) -> None:
    for part, images in parts.items():
        if not any(truths.pixels[name].any() for name in images.names):
            told = "" if part == ALL else f" of the part {part}"
            raise DatasetError(f"{where}: masks without classes: not one pixel of the {len(images)} masks{told} counts")


def _size(size: Sequence[int]) -> str:
    height, width = size
    return f"{width}x{height}"
