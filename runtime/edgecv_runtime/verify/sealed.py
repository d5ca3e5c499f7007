"""What a bundle says of its pictures and labels, compared with what was sealed when it was exported."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import msgspec
import numpy as np

from edgecv_runtime import images
from edgecv_runtime.bundle import Bundle
from edgecv_runtime.errors import BadInput
from edgecv_runtime.evidence import Finding
from edgecv_runtime.golden import Picture
from edgecv_runtime.preprocess import Color, Interpolation, Mode, Preprocess
from edgecv_runtime.verify import faults
from edgecv_runtime.verify.diagnose import same_pixels


def check(bundle: Bundle) -> list[Finding]:
    """What the bundle says of pictures and labels, compared with what was sealed at export; [] when all is well."""
    golden = bundle.golden()
    manifest = bundle.manifest
    found = []
    if golden.labels and golden.labels != manifest.labels:
        found.append(_of_labels(golden.labels, manifest.labels))
    wrong = [_of_record(manifest.preprocess, golden.pictures)] if golden.pictures else []
    return found + [each for each in wrong if each is not None]


@dataclass(frozen=True)
class _Field:
    """A field of the preprocessing record: the fault it makes when it is wrong, and the values to try."""

    fault: str
    values: Callable[[Preprocess, Picture], Sequence[Any]]


_FIELDS = {
    "size": _Field("another input size", lambda _, picture: [tuple(picture.pixels.shape[:2])]),
    "color": _Field("BGR for RGB", lambda _, __: get_args(Color)),
    "interpolation": _Field("another interpolation", lambda _, __: get_args(Interpolation)),
    "mode": _Field("another way to resize", lambda _, __: get_args(Mode)),
    "resize": _Field(
        "another size before the crop",
        lambda _, picture: [None, *range(min(picture.pixels.shape[:2]), 2 * min(picture.pixels.shape[:2]) + 1)],
    ),
    "fill": _Field(
        "another letterbox fill", lambda own, _: range(256) if own.mode == "letterbox" else [own.fill, 0, 114]
    ),
}


def _of_record(own: Preprocess, pictures: Sequence[Picture]) -> Finding | None:
    """Find the record that made the golden pixels, when it is not the bundle's own."""
    if _reproduces(own, pictures):
        return None
    fields = list(_FIELDS)
    choices = [[getattr(own, name), *_FIELDS[name].values(own, pictures[0])] for name in fields]
    for count in (1, 2, 3):
        for names in itertools.combinations(range(len(fields)), count):
            for values in itertools.product(*(choices[index][1:] for index in names)):
                changes = {fields[index]: value for index, value in zip(names, values, strict=True)}
                record = _record(own, changes)
                if record is not None and _reproduces(record, pictures):
                    return _of_changes(own, changes)
    return Finding(
        faults.RECORD.name,
        "it does not make the golden pixels of the golden pictures, nor does one like it",
        faults.RECORD.cure,
    )


def _record(own: Preprocess, changes: dict[str, Any]) -> Preprocess | None:
    if any(getattr(own, name) == value for name, value in changes.items()):
        return None
    if changes.get("mode", own.mode) != "crop":
        changes = {**changes, "resize": None}
    try:
        return msgspec.structs.replace(own, **changes)
    except BadInput:
        return None  # fields that exclude one another


def _reproduces(record: Preprocess, pictures: Sequence[Picture]) -> bool:
    """Whether a record makes of the pictures the pixels that were sealed; the first that differs decides."""
    for picture in pictures:
        pixels = record(images.decode(picture.data, picture.name))
        if pixels.shape != picture.pixels.shape:
            return False
        if not same_pixels(pixels[np.newaxis].astype(np.float32), picture.pixels[np.newaxis], [picture]):
            return False
    return True


def _of_changes(own: Preprocess, changes: dict[str, Any]) -> Finding:
    told = ", ".join(f"{name} is {getattr(own, name)!r} and was {value!r} at export" for name, value in changes.items())
    names = {_FIELDS[name].fault for name in changes if name != "resize" or "mode" not in changes}
    return Finding(names.pop() if len(names) == 1 else faults.RECORD.name, told, faults.RECORD.cure)


def _of_labels(sealed: tuple[str, ...], own: tuple[str, ...]) -> Finding:
    """How the manifest's labels differ from the sealed ones: shifted, in another order, or others."""
    count = len(sealed)
    first = next((index for index, pair in enumerate(zip(sealed, own, strict=False)) if pair[0] != pair[1]), len(own))
    here = own[first] if first < len(own) else "missing"
    was = f"class {first} is {here!r} and was {sealed[first % count]!r} at export"
    for by in range(1, 4):
        for shift in (by, -by):
            kept = sum(own[index] == sealed[index - shift] for index in range(len(own)) if 0 <= index - shift < count)
            if kept >= max(1, min(count, len(own)) - by) and kept > count // 2:
                told = f"every label is {by} place{'s' if by > 1 else ''} too {'high' if shift > 0 else 'low'}: {was}"
                return Finding("shifted labels", told, faults.LABELS.cure)
    if sorted(own) == sorted(sealed):
        moved = sum(a != b for a, b in zip(own, sealed, strict=True))
        return Finding("labels in another order", f"{moved} of {count} have moved: {was}", faults.LABELS.cure)
    return Finding(faults.LABELS.name, was, faults.LABELS.cure)
