"""A folder (or a .zip of it) with one folder a class; divided here, or with its own train and val folders."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from edgecv.data.checked import allow, check
from edgecv.data.config import DataConfig
from edgecv.data.dataset import Dataset, Images
from edgecv.data.split import hold_out, listed
from edgecv.data.tree import File, Tree, list_tree, suffix
from edgecv_runtime import images
from edgecv_runtime.errors import DatasetError

VALIDATION = ("val", "valid", "validation", "test")  # folders that stand beside "train", the first that exists


def load(config: DataConfig) -> Dataset:
    """Load labelled images; classes are the folders' names, sorted.

    Raises DatasetError that names the culprits: fewer than two classes, empty classes, names that are equal after case
    and Unicode folding, train and val with different classes, links that leave the folder, more unreadable files than
    `skip_bad`. Left-out files, copies in both train and val, and copies under two classes are counted in the notes.
    """
    where = str(config.path)
    tree = list_tree(where)
    own = own_split(tree)
    parts = [tree.inside(name) for name in own] if own else [tree]
    classes = _classes(parts[0], where)
    for part, name in zip(parts[1:], own[1:], strict=True):
        _same_classes(classes, tuple(sorted(part.below)), f"{where}/{name}")

    prefixes = [f"{name}/" for name in own] or [""]
    named = [
        (File(prefix + file.name, file.version, file.read), label)
        for prefix, part in zip(prefixes, parts, strict=True)
        for label, class_name in enumerate(classes)
        for file in part.below[class_name]
        if is_image(file.name)
    ]
    _refuse_empty([prefix + name for prefix in prefixes for name in classes], [file for file, _ in named], where)
    checked = check([file for file, _ in named], tree.root)
    notes = (*tree.notes, *_strays(tree), *allow(checked.bad, config.skip_bad, where))
    _refuse_empty([prefix + name for prefix in prefixes for name in classes], checked.good, where)

    label_of = {file.name: label for file, label in named}
    everything = checked.images(np.array([label_of[file.name] for file in checked.good], np.int64))
    notes += _two_labels(everything)
    if not own:
        return Dataset(classes, *hold_out(everything, classes, config.val, config.seed), notes)
    in_train = np.array([name.startswith(prefixes[0]) for name in everything.names])
    train, val = everything.pick(np.flatnonzero(in_train)), everything.pick(np.flatnonzero(~in_train))
    return Dataset(classes, train, val, (*notes, *_leaks(train, val)))


def own_split(tree: Tree) -> tuple[str, ...]:
    """The names of a tree's own train and validation folders, or () when it has none."""
    val = next((name for name in VALIDATION if name in tree.below), None)
    return ("train", val) if "train" in tree.below and val else ()


def is_image(name: str) -> bool:
    """Whether a file's suffix is one that edgecv decodes."""
    return suffix(name) in images.SUFFIXES


def fold(name: str) -> str:
    """A class name as people tell names apart: case and Unicode forms folded (Unicode TR 15, NFKC, casefold)."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def _classes(tree: Tree, where: str) -> tuple[str, ...]:
    classes = tuple(sorted(tree.below))
    if len(classes) < 2:
        found = f"only '{classes[0]}'" if classes else "none"
        raise DatasetError(f"{where}: wants one folder a class and at least 2 classes, found {found}")
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


def _refuse_empty(folders: Sequence[str], found: Sequence[File], where: str) -> None:
    depth = folders[0].count("/") + 1
    filled = {"/".join(file.name.split("/")[:depth]) for file in found}
    empty = [folder for folder in folders if folder not in filled]
    if empty:
        raise DatasetError(
            f"{where}: {len(empty)} classes without a readable image: {listed(empty)}; "
            f"add images ({' '.join(images.SUFFIXES)}) or remove the folder"
        )


def _strays(tree: Tree) -> tuple[str, ...]:
    """A note on files that belong to no class or are no images."""
    own = own_split(tree)
    depth = 2 if own else 1
    kinds = Counter(
        suffix(file.name) or "no suffix"
        for file in tree.files
        if not is_image(file.name) or file.name.count("/") < depth
    )
    others = [name for name in tree.below if own and name not in own]
    told = [f"{kinds.total()} files that are no images of a class were left out: "] if kinds else []
    notes = tuple(text + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()) for text in told)
    if others:
        notes += (f"{len(others)} folders beside {' and '.join(own)} were left out: {listed(others)}",)
    return notes


def _two_labels(everything: Images) -> tuple[str, ...]:
    """A note on images that lie under two classes."""
    assert everything.labels is not None
    labels = defaultdict(set)
    for stamp, label in zip(everything.stamps, everything.labels, strict=True):
        labels[stamp].add(int(label))
    names = [name for name, stamp in zip(everything.names, everything.stamps, strict=True) if len(labels[stamp]) > 1]
    return (f"{len(names)} files have a copy under another class: {listed(names)}",) if names else ()


def _leaks(train: Images, val: Images) -> tuple[str, ...]:
    """A note on images that are both in train and in val."""
    seen = dict(zip(train.stamps, train.names, strict=True))
    pairs = [f"{name} = {seen[stamp]}" for name, stamp in zip(val.names, val.stamps, strict=True) if stamp in seen]
    told = "of the validation images are also in train, so that its accuracy is too high"
    return (f"{len(pairs)} {told}: {listed(pairs)}",) if pairs else ()
