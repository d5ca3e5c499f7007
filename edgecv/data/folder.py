"""A folder (or a .zip of it) with one folder a class; divided here, or as it is divided already."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from edgecv.data.checked import Checked, allow, check
from edgecv.data.config import DataConfig
from edgecv.data.dataset import Dataset, Images, NoTruths
from edgecv.data.layout import ALL, TEST, TRAIN, VAL, Layout, read_layout
from edgecv.data.listing import list_tree
from edgecv.data.parts import Parts
from edgecv.data.similar import near_copies
from edgecv.data.split import hold_out, listed
from edgecv.data.tree import File, Tree
from edgecv_runtime import formats
from edgecv_runtime.errors import DatasetError
from edgecv_runtime.listing import kinds


def load(config: DataConfig) -> Dataset:
    """Load labelled images; classes are the folders' names, sorted.

    Raises DatasetError that names the culprits: fewer than two classes, empty classes, names that are equal after case
    and Unicode folding, parts with different classes, a level of folders that may be classes or a division, links that
    leave the folder, more unreadable files than `skip_bad`. Left-out files, copies in two parts, and copies under two
    classes are counted in the notes.
    """
    where = str(config.path)
    tree = list_tree(where, config.exclude, config.encoding)
    layout = read_layout(tree, where, given_parts(config))
    first = ALL if ALL in layout.parts else TRAIN
    classes = _classes(layout.parts[first], tree, where)
    for part, found in layout.parts.items():
        _same_classes(classes, tuple(sorted(found)), f"{where}/{layout.names.get(part, '')}")
    read = _read(config, tree, layout, classes)
    parts, notes = read.images, read.notes
    if VAL not in parts and (TEST not in parts or config.train is not None):
        parts[TRAIN], parts[VAL] = hold_out(parts[first], classes, config.share, config.seed)
    elif VAL not in parts:
        parts[VAL] = parts.pop(TEST)
        notes += (_test_validates(layout),)
    notes += leaks(parts, read.hashes)
    return Dataset(classes, parts[TRAIN], parts[VAL], notes, parts.get(TEST))


def labelled(config: DataConfig, labels: Sequence[str]) -> Parts:
    """The images of a folder whose class folders are named as a bundle's labels, by part; their labels are positions.

    Every verb on a finished bundle reads folders so: as `load` does, but a set may lack classes. Raises NoTruths when
    no folder is named as a label, DatasetError when some are and others are not, or when it holds no images, and what
    `load` raises for a layout that is not clear and for unreadable files.
    """
    where = str(config.path)
    tree = list_tree(where, config.exclude, config.encoding)
    known = set(labels)
    if not any(name.rpartition("/")[2] in known for name in tree.folders):
        raise NoTruths(
            f"{where}: no class folders; expected one folder a class, named as the labels: {', '.join(labels[:5])}, ..."
        )
    layout = read_layout(tree, where, given_parts(config), labels)
    found = sorted({name for classes in layout.parts.values() for name in classes})
    unknown = [name for name in found if name not in known]
    if unknown:
        raise DatasetError(
            f"{where}: folders that are no labels: {listed(unknown, 5)}; expected one folder a class, named as the "
            f"labels: {listed(list(labels), 5)}"
        )
    read = _read(config, tree, layout, labels, may_be_empty=True)
    images = {part: held for part, held in read.images.items() if len(held)}
    if not images:
        raise DatasetError(f"{where}: holds no images")
    return replace(read, images=images, notes=(*read.notes, *leaks(images, read.hashes)))


def _read(
    config: DataConfig, tree: Tree, layout: Layout, classes: Sequence[str], *, may_be_empty: bool = False
) -> Parts:
    """Check a tree's images and tell them apart as its layout says; a label is a position in `classes`."""
    where = str(config.path)
    pictures = [file for file in tree.files if is_image(file)]
    known = {file.name for file in pictures}
    files, strays = layout.files(pictures)
    others = [file.name for file in (*strays, *(file for file in tree.files if file.name not in known))]
    others = [name for name in others if name.partition("/")[0] not in layout.others]
    if not may_be_empty:
        _refuse_empty(layout, files, where)
    every = [file for each in files.values() for held in each.values() for file in held]
    checked = check(every, tree.root, config.max_pixels)
    notes = (*tree.notes, *layout.notes, *_left_out(layout, others), *allow(checked.bad, config.skip_bad, where))
    readable = layout.files(checked.good)[0]
    if not may_be_empty:
        _refuse_empty(layout, readable, where)
    parts = {part: _part(checked, held, classes) for part, held in readable.items()}
    told = notes + _two_labels(list(parts.values()))
    return Parts(tuple(classes), parts, checked.hashes, told, layout.names)


def _test_validates(layout: Layout) -> str:
    """A note on a set whose only other part is a test."""
    train, test = layout.names[TRAIN], layout.names[TEST]
    apart = f"; to keep it apart: data.train={train} data.test={test}" if layout.say_again else ""
    return f"no validation folder: '{test}' is validated on and so chooses the best epoch, too{apart}"


def given_parts(config: DataConfig) -> dict[str, str]:
    """The folders that the recipe names, by part."""
    named = {TRAIN: config.train, VAL: config.val if isinstance(config.val, str) else None, TEST: config.test}
    return {part: folder for part, folder in named.items() if folder is not None}


def _part(checked: Checked, files: Mapping[str, list[File]], classes: Sequence[str]) -> Images:
    """The readable images of one part, with their labels, in the order of their names."""
    label_of = {file.name: label for label, name in enumerate(classes) for file in files.get(name, ())}
    chosen = [index for index, file in enumerate(checked.good) if file.name in label_of]
    labels = np.array([label_of[checked.good[index].name] for index in chosen], np.int64)
    return checked.images().pick(chosen).labelled(labels)


def is_image(file: File) -> bool:
    """Whether a file is an image that this machine decodes, by its suffix or else by its first bytes."""
    return formats.is_image(file.name, file.head)


def fold(name: str) -> str:
    """A class name as people tell names apart: case and Unicode forms folded (Unicode TR 15, NFKC, casefold)."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def _classes(found: Mapping[str, str], tree: Tree, where: str) -> tuple[str, ...]:
    classes = tuple(sorted(found))
    if len(classes) < 2:
        told = f"only '{classes[0]}'" if classes else "none"
        inside = [name for name in tree.folders if classes and name.startswith(f"{found[classes[0]]}/")]
        deeper = f"; is it {where}/{found[classes[0]]} that you mean?" if len(inside) > 1 else ""
        raise DatasetError(f"{where}: wants one folder a class and at least 2 classes, found {told}{deeper}")
    alike = defaultdict(list)
    for name in classes:
        alike[fold(name)].append(name)
    twins = [" and ".join(map(repr, names)) for names in alike.values() if len(names) > 1]
    if twins:
        raise DatasetError(
            f"{where}: class names differ only by case or Unicode form: {listed(twins)}; merge or rename them"
        )
    return classes


def _same_classes(train: Sequence[str], val: Sequence[str], where: str) -> None:
    missing, unknown = sorted(set(train) - set(val)), sorted(set(val) - set(train))
    if missing or unknown:
        told = [f"missing {listed(missing)}"] if missing else []
        told += [f"not in train {listed(unknown)}"] if unknown else []
        raise DatasetError(f"{where}: wants the same classes as train: {'; '.join(told)}")


def _refuse_empty(layout: Layout, files: Mapping[str, Mapping[str, Sequence[File]]], where: str) -> None:
    empty = [layout.parts[part][name] for part, classes in files.items() for name, held in classes.items() if not held]
    if empty:
        raise DatasetError(
            f"{where}: {len(empty)} classes without a readable image: {listed(empty)}; "
            f"add images ({' '.join(formats.suffixes())}) or remove the folder"
        )


def _left_out(layout: Layout, others: Sequence[str]) -> tuple[str, ...]:
    """Notes on files that belong to no class or are no images, and on folders that are no part."""
    notes: tuple[str, ...] = ()
    if others:
        notes += (f"{len(others)} files that are no images of a class were left out: {kinds(others)}",)
    if layout.others:
        beside = " and ".join(layout.names.values())
        notes += (f"{len(layout.others)} folders beside {beside} were left out: {listed(layout.others)}",)
    return notes


def _two_labels(parts: Sequence[Images]) -> tuple[str, ...]:
    """A note on images that lie under two classes."""
    found = [
        (name, stamp, int(label))
        for part in parts
        if part.labels is not None
        for name, stamp, label in zip(part.names, part.stamps, part.labels, strict=True)
    ]
    labels = defaultdict(set)
    for _, stamp, label in found:
        labels[stamp].add(label)
    names = [name for name, stamp, _ in found if len(labels[stamp]) > 1]
    return (f"{len(names)} files have a copy under another class: {listed(names)}",) if names else ()


def leaks(parts: Mapping[str, Images], hashes: Mapping[str, bytes]) -> tuple[str, ...]:
    """Notes on images that are in two parts, as they are or as a copy: what is judged on must not be trained on."""
    notes: tuple[str, ...] = ()
    for judged, told in ((VAL, "validation"), (TEST, "test")):
        for seen in (TRAIN, VAL) if judged == TEST else (TRAIN,):
            if judged in parts and seen in parts:
                notes += _shared(parts[judged], parts[seen], hashes, f"of the {told} images", seen)
    return notes


def _shared(judged: Images, seen: Images, hashes: Mapping[str, bytes], told: str, where: str) -> tuple[str, ...]:
    known = dict(zip(seen.stamps, seen.names, strict=True))
    equal = [(name, known[s]) for name, s in zip(judged.names, judged.stamps, strict=True) if s in known]
    found = (
        (equal, "=", f"are also in {where}"),
        (near_copies(judged, seen, hashes), "~", f"are resized or re-encoded copies of images in {where}"),
    )
    return tuple(
        f"{len(pairs)} {told} {what}, so that its accuracy is too high: "
        + listed([f"{name} {sign} {other}" for name, other in pairs])
        for pairs, sign, what in found
        if pairs
    )
