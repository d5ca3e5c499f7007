"""COCO JSON: pictures, classes and boxes in one file a part (cocodataset.org/#format-data)."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from edgecv.data.annotations import Annotated, Box, Drawn, Pictures, check_classes
from edgecv.data.cocojson import Image, Instances
from edgecv.data.split import listed
from edgecv.data.tree import File, Tree
from edgecv_runtime import records
from edgecv_runtime.errors import DatasetError


class _Top(msgspec.Struct):
    """What tells COCO's files from other JSON."""

    images: msgspec.Raw = msgspec.Raw()
    annotations: msgspec.Raw = msgspec.Raw()
    categories: msgspec.Raw = msgspec.Raw()


_WORDS = tuple(f'"{name}"'.encode() for name in _Top.__struct_fields__)


def read(tree: Tree, where: str, pictures: Pictures) -> Annotated | None:
    """The set as its JSON files say; None where none of them is COCO's.

    Raises DatasetError that names the file: damaged JSON, other fields than COCO's, classes that are not listed, or
    that differ between the files.
    """
    found = {file.name: content for file in tree.files if (content := _read(file, where)) is not None}
    boxless = [name for name, content in found.items() if not any(each.bbox for each in content.annotations)]
    if len(boxless) < len(found):  # captions and keypoints beside
        found = {name: content for name, content in found.items() if name not in boxless}
    if not found:
        return None
    first = next(iter(found))
    categories = {name: {each.id: each.name for each in content.categories} for name, content in found.items()}
    for name, known in categories.items():
        if known != categories[first]:
            raise DatasetError(f"{where}: {name} lists other categories than {first}; merge them into the same ones")
    order = sorted(categories[first])
    classes = check_classes([categories[first][each] for each in order], f"{where}/{first}")
    positions = {each: position for position, each in enumerate(order)}
    entries, missing, orphans = {}, [], 0
    for name, content in found.items():
        entries[name], lost, unlisted = _drawn(name, content, positions, pictures, where)
        missing += lost
        orphans += unlisted
    notes: tuple[str, ...] = (f"{orphans} boxes of images that are not listed were left out",) if orphans else ()
    lacking = sum(not each.bbox for content in found.values() for each in content.annotations)
    if lacking:
        notes += (f"{lacking} annotations without a box were left out",)
    if boxless and len(boxless) < len(found) + len(boxless):
        notes += (f"{len(boxless)} COCO files without boxes were left out: {listed(boxless)}",)
    return Annotated("COCO JSON", classes, entries, {}, tuple(missing), notes)


def _read(file: File, where: str) -> Instances | None:
    if not file.name.lower().endswith(".json"):
        return None
    raw = file.read()
    try:
        top = msgspec.json.decode(raw, type=_Top)
    except msgspec.ValidationError:  # a list, say
        return None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        if not any(word in raw for word in _WORDS):  # another tool's
            return None
        raise DatasetError(f"{where}: {file.name}: not valid JSON: {exc}") from exc
    if not all(bytes(part) for part in (top.images, top.annotations, top.categories)):
        return None
    return records.decode(raw, Instances, f"{where}: {file.name}", DatasetError)


def _drawn(
    name: str, content: Instances, positions: dict[int, int], pictures: Pictures, where: str
) -> tuple[list[Drawn], list[str], int]:
    """The pictures of one file; which are missing; and how many boxes belong to none that is listed."""
    boxes: dict[int | str, list[Box]] = {each.id: [] for each in content.images}
    if len(boxes) < len(content.images):
        raise DatasetError(f"{where}: {name}: {len(content.images) - len(boxes)} images have an id of another one")
    unknown: set[int] = set()
    orphans = 0
    for each in content.annotations:
        if not each.bbox:
            continue
        if len(each.bbox) != 4:
            raise DatasetError(f"{where}: {name}: a bbox is left, top, width and height, got {each.bbox}")
        if each.category_id not in positions:
            unknown.add(each.category_id)
        elif each.image_id not in boxes:
            orphans += 1
        else:
            left, top, width, height = each.bbox
            kind = positions[each.category_id]
            boxes[each.image_id].append(
                Box(kind, left, top, left + width, top + height, crowd=bool(each.iscrowd), area=each.area)
            )
    if unknown:
        told = listed([str(each) for each in sorted(unknown)])
        raise DatasetError(f"{where}: {name}: boxes of categories that it does not list: {told}")
    return *_placed(content.images, boxes, pictures, name), orphans


def _placed(
    images: Sequence[Image], boxes: dict[int | str, list[Box]], pictures: Pictures, near: str
) -> tuple[list[Drawn], list[str]]:
    drawn, missing = [], []
    for image in images:
        file = pictures.find(image.file_name, near)
        if file is None:
            missing.append(f"{image.file_name}: no such image, but {near} lists it")
        else:
            drawn.append(Drawn(file, tuple(boxes[image.id]), size=image.size))
    return drawn, missing
