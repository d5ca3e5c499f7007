"""Pictures with boxes, in a folder or .zip, as COCO JSON, YOLO or Pascal VOC: which one, the files tell.

What a published set holds is not what its readme says: boxes of no area, beyond the picture, drawn twice. What is
harmless is left out or cut and counted; what shows that a set is misread is refused.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgecv.data import coco, voc, yolo
from edgecv.data.annotations import Annotated, Box, Drawn, Pictures
from edgecv.data.checked import Checked, allow, check
from edgecv.data.config import DataConfig
from edgecv.data.dataset import Dataset, Images, NoTruths
from edgecv.data.folder import leaks
from edgecv.data.layout import ALL, TEST, TRAIN, VAL, role_within
from edgecv.data.listing import list_tree
from edgecv.data.parts import Parts, as_labels
from edgecv.data.split import divide, listed
from edgecv_runtime.errors import DatasetError, nearest
from edgecv_runtime.tasks.detections import Boxes

FORMS = {"COCO JSON": coco.read, "YOLO": yolo.read, "Pascal VOC XML": voc.read}
_CUT_FROM = 1.0  # pixels beyond the picture; less is rounding
_LEAST = 1e-3  # pixels: a box with a shorter side has no area


def load(config: DataConfig) -> Dataset:
    """Load pictures whose truths are `Boxes`, in pixels of the picture.

    Raises DatasetError that names the culprits: no form or two of them, no boxes at all, boxes of an unknown class,
    parts that are not clear, more missing or unreadable files than `skip_bad`. Boxes that were left out or cut,
    pictures without boxes and copies in two parts are counted in the notes.
    """
    where = str(config.path)
    parts, form = _read(config)
    images, notes = parts.images, parts.notes
    if divided := ALL in images or (VAL not in images and (TEST not in images or config.train is not None)):
        whole = images.pop(ALL) if ALL in images else images[TRAIN]
        images[TRAIN], images[VAL] = divide(whole, config.share, config.seed)
    elif VAL not in images:
        images[VAL] = images.pop(TEST)
        notes += ("no validation part: the test part is validated on and so chooses the best epoch, too",)
    if not len(images[VAL]):
        raise DatasetError(
            f"{where}: a division wants at least 2 different images, one to train and one to validate on"
        )
    cure = f"; data.seed={config.seed + 1} divides them otherwise" if divided else ""
    _refuse_empty(images, where, form, notes, cure)
    notes += (*_unused(parts.classes, images[TRAIN]), *leaks(images, parts.hashes))
    train, val, test = (_stamped(images[part]) if part in images else None for part in (TRAIN, VAL, TEST))
    assert train is not None
    assert val is not None
    return Dataset(parts.classes, train, val, notes, test, task="detection")


def labelled(config: DataConfig, labels: Sequence[str]) -> Parts:
    """The pictures of a set by part, with the positions of a bundle's labels in their boxes; they may lack classes.

    Raises DatasetError for classes that are no labels, and what `load` raises.
    """
    where = str(config.path)
    parts, form = _read(config, to_train=False)
    _refuse_empty(parts.images, where, form, parts.notes)
    parts = replace(parts, notes=(*parts.notes, *leaks(parts.images, parts.hashes)))
    return as_labels(parts, labels, _renumbered, where)


def _renumbered(boxes: Boxes, positions: NDArray[np.int64]) -> Boxes:
    return msgspec.structs.replace(boxes, class_id=positions[boxes.class_id])


def _read(config: DataConfig, *, to_train: bool = True) -> tuple[Parts, str]:
    """The pictures of each part with their clean boxes, and the form that they are in; to_train: whether one is."""
    where = str(config.path)
    tree = list_tree(where, config.exclude, config.encoding)
    pictures = Pictures(tree)
    forms = [found for read in FORMS.values() if (found := read(tree, where, pictures)) is not None]
    if len(forms) != 1:
        told = " and ".join(each.form for each in forms) or "no boxes"
        cure = "leave out the others by data.exclude" if forms else "expected COCO JSON, YOLO with data.yaml or VOC XML"
        raise (DatasetError if forms else NoTruths)(f"{where}: holds {told}; {cure}")
    (found,) = forms
    parts, names, notes = _parts(found, config, where, to_train)
    files = {each.file.name: each.file for drawn in parts.values() for each in drawn}
    checked = check(list(files.values()), tree.root, config.max_pixels)
    misfits = _misfits(parts, checked)
    bad = (*found.bad, *checked.bad, *misfits.values())
    notes = (*tree.notes, *found.notes, *notes, *_unlisted(found, pictures), *allow(bad, config.skip_bad, where))
    cleaner = _Cleaner(checked)
    images = {
        part: cleaner.images([each for each in drawn if each.file.name not in misfits]) for part, drawn in parts.items()
    }
    return Parts(found.classes, images, checked.hashes, (*notes, *cleaner.notes), names), found.form


def _misfits(parts: Mapping[str, Sequence[Drawn]], checked: Checked) -> dict[str, str]:
    """The pictures that are not of the size that their annotations say, and why; a pixel is rounding.

    Their boxes are in pixels of another picture: one that was larger, cut out or turned.
    """
    told = {}
    for each in (each for drawn in parts.values() for each in drawn):
        size = checked.sizes.get(each.file.name)
        if size and each.size and max(abs(side - said) for side, said in zip(size, each.size, strict=True)) > 1:
            told[each.file.name] = (
                f"{each.file.name}: is {size[1]}x{size[0]}, and its boxes are of a picture of "
                f"{each.size[1]}x{each.size[0]}"
            )
    return told


def _unlisted(found: Annotated, pictures: Pictures) -> tuple[str, ...]:
    """A note on pictures that no annotation, list or folder of the form names."""
    known = {each.file.name for drawn in found.entries.values() for each in drawn}
    names = [file.name for file in pictures.files if file.name not in known]
    return (
        (f"{len(names)} images without a part or an annotation ({found.form}) were left out: {listed(names, 3)}",)
        if names
        else ()
    )


def _parts(
    found: Annotated, config: DataConfig, where: str, to_train: bool
) -> tuple[dict[str, list[Drawn]], dict[str, str], tuple[str, ...]]:
    """The pictures of each part, what it is called, and notes: as the recipe says, or the form itself, or the names of
    its files and folders.
    """
    named = {TRAIN: config.train, VAL: config.val if isinstance(config.val, str) else None, TEST: config.test}
    roles = {part: [name] for part, name in named.items() if name is not None}
    if roles == {TRAIN: ["."]}:
        return {ALL: _once(found, list(found.entries))}, {}, ()
    for part, (name,) in roles.items():
        if name not in found.entries:
            raise DatasetError(f"{where}: data.{part}={name}: nothing of this name{nearest(name, list(found.entries))}")
    if not roles and to_train and TRAIN in found.lost:
        raise DatasetError(f"{where}: {found.lost[TRAIN]}")
    notes = () if roles else tuple(found.lost.values())
    roles = roles or {part: list(names) for part, names in found.roles.items()}
    if not roles and len(found.entries) > 1:
        for name in found.entries:
            role = role_within(name)
            if role is not None:
                roles.setdefault(role, []).append(name)
    if not roles:
        roles = {ALL: list(found.entries)}
    if (len(found.entries) > 1 and ALL in roles) or (to_train and not {TRAIN, ALL} & set(roles)):
        names = list(found.entries)
        raise DatasetError(
            f"{where}: {listed(names, 5)} divide it, and which one is to train on is not clear; "
            f"say data.train={names[0]} and data.val=ANOTHER, or data.train=. for all of them"
        )
    used = {name for names in roles.values() for name in names}
    others = [name for name in found.entries if name not in used]
    notes += (f"{len(others)} that are no part were left out: {listed(others)}",) if others else ()
    called = {part: " and ".join(names) for part, names in roles.items()}
    return {part: _once(found, names) for part, names in roles.items()}, called, notes


def _once(found: Annotated, names: Sequence[str]) -> list[Drawn]:
    """The pictures of some entries, in the order of their names; one that is there twice has the boxes of both."""
    merged: dict[str, Drawn] = {}
    for each in (each for name in names for each in found.entries[name]):
        before = merged.get(each.file.name)
        boxes = each.boxes if before is None else tuple(dict.fromkeys((*before.boxes, *each.boxes)))
        merged[each.file.name] = replace(each, boxes=boxes)
    return [merged[name] for name in sorted(merged)]


class _Cleaner:
    """Boxes as they can be trained on, and a count of what was wrong with the others."""

    def __init__(self, checked: Checked) -> None:
        self._checked = checked
        self._position = {file.name: index for index, file in enumerate(checked.good)}
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, dict[str, None]] = {}

    @property
    def notes(self) -> tuple[str, ...]:
        """What was found, a line each."""
        return tuple(
            f"{count} {what}: {listed(list(self._examples[what]), 3)}" for what, count in sorted(self._counts.items())
        )

    def images(self, drawn: Sequence[Drawn]) -> Images:
        """The readable pictures with their clean boxes as truths."""
        kept = [each for each in drawn if each.file.name in self._position]
        chosen = self._checked.images().pick([self._position[each.file.name] for each in kept])
        truths = [self._clean(each) for each in kept]
        stamps = Counter(chosen.stamps)
        for name, stamp in zip(chosen.names, chosen.stamps, strict=True):
            if stamps[stamp] > 1:
                self._count("images are in a part more than once, under other names", name)
        return Images(chosen.names, chosen.stamps, chosen.read, truths)

    def _clean(self, drawn: Drawn) -> Boxes:
        name = drawn.file.name
        size = self._checked.sizes[name]
        height, width = size
        scale = (width, height) * 2 if drawn.relative else (1, 1, 1, 1)
        kept: dict[tuple[float, ...], Box] = {}
        for box in drawn.boxes:
            edges = tuple(edge * side for edge, side in zip(box[1:5], scale, strict=True))
            clean = self._edges(edges, width, height, name)
            if clean is None:
                continue
            if (box.kind, *clean) in kept:
                self._count("boxes are there twice, and count once", name)
            else:
                kept[(box.kind, *clean)] = box
        if not kept:
            self._count("images are without boxes", name)
        return _boxes(kept)

    def _edges(
        self, edges: tuple[float, ...], width: int, height: int, name: str
    ) -> tuple[float, float, float, float] | None:
        """A box within the picture; None where there is nothing of it."""
        left, top, right, bottom = edges
        if not np.isfinite(edges).all() or min(right - left, bottom - top) < _LEAST:
            self._count("boxes of no area were left out", name)
            return None
        cut = max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height))
        if min(cut[2] - cut[0], cut[3] - cut[1]) < _LEAST:
            self._count("boxes outside the picture were left out", name)
            return None
        if max(abs(one - other) for one, other in zip(edges, cut, strict=True)) > _CUT_FROM:
            self._count("boxes reach beyond the picture and were cut", name)
        return cut

    def _count(self, what: str, name: str) -> None:
        self._counts[what] += 1
        self._examples.setdefault(what, {})[name] = None


def _boxes(kept: Mapping[tuple[float, ...], Box]) -> Boxes:
    xyxy = np.array([edges[1:] for edges in kept], np.float32).reshape(-1, 4)
    kinds = np.array([box.kind for box in kept.values()], np.int64)
    crowd, ignored = (np.array([bool(box[at]) for box in kept.values()], bool) for at in (5, 6))
    own = [float((right - left) * (bottom - top)) for _, left, top, right, bottom in kept]
    area = np.array([each if box.area is None else box.area for each, box in zip(own, kept.values(), strict=True)])
    has_area = any(box.area is not None for box in kept.values())
    return Boxes(
        xyxy,
        kinds,
        crowd if crowd.any() else None,
        ignored if ignored.any() else None,
        area.astype(np.float64) if has_area else None,
    )


def _asked(images: Images) -> list[int]:
    """The class of each box that is to be found: no crowd, and not ignored."""
    found: list[int] = []
    for boxes in images.truths or ():
        flags = [each for each in (boxes.crowd, boxes.ignored) if each is not None]
        found += boxes.class_id[~np.any(flags, axis=0)].tolist() if flags else boxes.class_id.tolist()
    return found


def _refuse_empty(images: Mapping[str, Images], where: str, form: str, notes: Sequence[str], cure: str = "") -> None:
    """Raise DatasetError where a part has no box that is to be found, with what was wrong with those that it had."""
    left_out = "".join(f"; {note}" for note in notes if " boxes " in note and " were left out: " in note)
    for part, held in images.items():
        if not _asked(held):
            told = "" if part == ALL else f" to {'train on' if part == TRAIN else f'use as {part}'}"
            raise DatasetError(
                f"{where}: {len(held)} images{told}, and not one box in them that is to be found ({form})"
                f"{left_out or cure}"
            )


def _unused(classes: Sequence[str], train: Images) -> tuple[str, ...]:
    """A note on classes that nothing can be learned of."""
    there = set(_asked(train))
    missing = [name for kind, name in enumerate(classes) if kind not in there]
    return (f"{len(missing)} classes have no box to train on: {listed(missing)}",) if missing else ()


def _stamped(images: Images) -> Images:
    """The same images; what identifies each covers its boxes, too."""
    assert images.truths is not None
    stamps = []
    for stamp, boxes in zip(images.stamps, images.truths, strict=True):
        digest = hashlib.sha256(stamp.encode())
        for column in (boxes.xyxy, boxes.class_id, boxes.crowd, boxes.ignored, boxes.area):
            digest.update(b"-" if column is None else column.tobytes())
        stamps.append(digest.hexdigest())
    return Images(images.names, tuple(stamps), images.read, images.truths)
