"""Pictures with boxes, in a folder or .zip, as COCO JSON, YOLO or Pascal VOC: which one, the files tell.

What a published set holds is not what its readme says: boxes of no area, beyond the picture, drawn twice. What is
harmless is left out or cut and counted; what shows that a set is misread is refused.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from edgecv.data import coco, voc, yolo
from edgecv.data.annotations import Annotated, Box, Drawn, Pictures
from edgecv.data.checked import Checked, allow, check
from edgecv.data.config import DataConfig
from edgecv.data.dataset import Dataset, Images, NoTruths
from edgecv.data.folder import leaks
from edgecv.data.layout import ALL, TEST, TRAIN, VAL, role_within
from edgecv.data.listing import list_tree
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
    tree = list_tree(where, config.exclude, config.encoding)
    pictures = Pictures(tree)
    forms = [found for read in FORMS.values() if (found := read(tree, where, pictures)) is not None]
    if len(forms) != 1:
        told = " and ".join(each.form for each in forms) or "no boxes"
        cure = "leave out the others by data.exclude" if forms else "expected COCO JSON, YOLO with data.yaml or VOC XML"
        raise (DatasetError if forms else NoTruths)(f"{where}: holds {told}; {cure}")
    (found,) = forms
    parts, notes = _parts(found, config, where)
    files = {each.file.name: each.file for drawn in parts.values() for each in drawn}
    checked = check(list(files.values()), tree.root, config.max_pixels)
    notes = (*tree.notes, *found.notes, *notes, *allow((*found.bad, *checked.bad), config.skip_bad, where))
    cleaner = _Cleaner(checked)
    images = {part: cleaner.images(drawn) for part, drawn in parts.items()}
    _refuse_empty(images, where, found.form)
    notes += (*cleaner.notes, *_unused(found.classes, images))
    if ALL in images:
        images[TRAIN], images[VAL] = divide(images.pop(ALL), config.share, config.seed)
    elif VAL not in images and (TEST not in images or config.train is not None):
        images[TRAIN], images[VAL] = divide(images[TRAIN], config.share, config.seed)
    elif VAL not in images:
        images[VAL] = images.pop(TEST)
        notes += ("no validation part: the test part is validated on and so chooses the best epoch, too",)
    if not len(images[VAL]):
        raise DatasetError(
            f"{where}: a division wants at least 2 different images, one to train and one to validate on"
        )
    notes += leaks(images, checked.hashes)
    train, val, test = (_stamped(images[part]) if part in images else None for part in (TRAIN, VAL, TEST))
    assert train is not None
    assert val is not None
    return Dataset(found.classes, train, val, notes, test, task="detection")


def _parts(found: Annotated, config: DataConfig, where: str) -> tuple[dict[str, list[Drawn]], tuple[str, ...]]:
    """The pictures of each part: as the recipe says, or the form itself, or the names of its files and folders."""
    named = {TRAIN: config.train, VAL: config.val if isinstance(config.val, str) else None, TEST: config.test}
    roles = {part: [name] for part, name in named.items() if name is not None}
    if roles == {TRAIN: ["."]}:
        return {ALL: _once(found, list(found.entries))}, ()
    for part, (name,) in roles.items():
        if name not in found.entries:
            raise DatasetError(f"{where}: data.{part}={name}: nothing of this name{nearest(name, list(found.entries))}")
    roles = roles or {part: list(names) for part, names in found.roles.items()}
    if not roles and len(found.entries) > 1:
        for name in found.entries:
            role = role_within(name)
            if role is not None:
                roles.setdefault(role, []).append(name)
    if not roles:
        roles = {ALL: list(found.entries)}
    if (len(found.entries) > 1 and ALL in roles) or not {TRAIN, ALL} & set(roles):
        names = list(found.entries)
        raise DatasetError(
            f"{where}: {listed(names, 5)} divide it, and which one is to train on is not clear; "
            f"say data.train={names[0]} and data.val=ANOTHER, or data.train=. for all of them"
        )
    used = {name for names in roles.values() for name in names}
    others = [name for name in found.entries if name not in used]
    notes = (f"{len(others)} that are no part were left out: {listed(others)}",) if others else ()
    return {part: _once(found, names) for part, names in roles.items()}, notes


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
        if drawn.size is not None and drawn.size != size:
            self._count("images have another size than their annotations say; boxes are taken in pixels", name)
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


def _refuse_empty(images: Mapping[str, Images], where: str, form: str) -> None:
    for part, held in images.items():
        count = sum(len(boxes) for boxes in held.truths or ())
        if not count:
            told = "" if part == ALL else f" to {'train on' if part == TRAIN else f'use as {part}'}"
            raise DatasetError(f"{where}: {len(held)} images{told}, and not one box in them ({form}): nothing to learn")


def _unused(classes: Sequence[str], images: Mapping[str, Images]) -> tuple[str, ...]:
    """A note on classes that nothing can be learned of."""
    learned = [part for part in (TRAIN, ALL) if part in images]
    there = {int(kind) for part in learned for boxes in images[part].truths or () for kind in boxes.class_id}
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
