"""Which mask is of which image: by two patterns with a common stem, or by the names that folders and files have."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from edgecv.data.layout import ALL, TEST, TRAIN, VAL, role_of
from edgecv.data.split import listed
from edgecv.data.tree import File, Tree
from edgecv_runtime import formats
from edgecv_runtime.errors import DatasetError

# Words of folders that say what lies in them: images/train and masks/train, SegNet's train and trainannot,
# JPEGImages and SegmentationClass, leftImg8bit and gtFine.
_IMAGES = frozenset(
    {
        *("image", "images", "img", "imgs", "jpegimages", "jpegimage", "photo", "photos", "picture", "pictures"),
        *("rgb", "input", "inputs"),
    }
)
_MASKS = frozenset(
    {
        *("mask", "masks", "label", "labels", "annotation", "annotations", "annot", "annots", "segmentation"),
        *("segmentations", "segmentationclass", "segmentationclassaug", "gt", "groundtruth", "seg", "segs", "target"),
        *("targets", "labelmap", "labelmaps"),
    }
)
_RUN_TOGETHER = re.compile(r"(annot|masks?|labels?)$")  # trainannot, trainmasks
_MASK_ENDS = re.compile(r"[_\-. ](masks?|labels?|labelids|gt|segmentation|seg|annotation|annot|l)$", re.I)
_IMAGE_ENDS = re.compile(r"[_\-. ](image|img|photo|rgb|sat)$", re.I)

# VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt
_LIST = re.compile(r"(?P<above>.*/)?ImageSets/Segmentation/(?P<name>[^/]+)\.txt", re.I)

Key = tuple[str, ...]


@dataclass(frozen=True)
class Pairs:
    """images: with a mask each, in `masks` by the image's name; without: images that have none; alone: masks that
    have no image; others: files that are neither. Where lists divide the set, part: TRAIN, VAL, TEST or ALL (of a list
    of more than one of them) of each image that is listed; unlisted: images in no list, and in none of the others;
    lost: one "name: reason" for each listed image that is not there.
    """

    images: tuple[File, ...]
    masks: dict[str, File]
    without: tuple[File, ...]
    alone: tuple[File, ...]
    others: tuple[File, ...]
    part: Mapping[str, str] = field(default_factory=dict)
    unlisted: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()


def by_patterns(tree: Tree, images: str, masks: str) -> Pairs:
    """Pair what two patterns find: as often as `*` stands in one it stands in the other, for the same text.

    `**/` stands for any folders. Raises DatasetError when a pattern finds nothing or the wildcards differ in number.
    """
    forms = form(images), form(masks)
    if forms[0].groups != forms[1].groups:
        raise DatasetError(
            f"data.images={images} has {forms[0].groups} wildcards and data.masks={masks} has {forms[1].groups}: "
            "each of one stands for the same text as that of the other"
        )
    found = [
        {file.name: match.groups() for file in tree.files if (match := each.fullmatch(file.name))} for each in forms
    ]
    found[0] = {name: key for name, key in found[0].items() if name not in found[1]}
    for name, pattern, keys in zip(("images", "masks"), (images, masks), found, strict=True):
        if not keys:
            first = f"; the first of its {len(tree.files)} files is {tree.files[0].name}" if tree.files else ""
            raise DatasetError(f"{tree.root}: data.{name}={pattern} finds nothing{first}")
    return _paired(tree, *found)


def by_names(tree: Tree) -> Pairs:
    """Pair by names: what lies in a folder of masks, or ends as masks do, with what is called the same beside it."""
    images: dict[str, Key] = {}
    masks: dict[str, Key] = {}
    for file in tree.files:
        if not formats.is_image(file.name, file.head):
            continue
        *folders, name = file.name.split("/")
        stem = name.rpartition(".")[0] or name
        in_masks = any(_is_of_masks(folder) for folder in folders)
        in_images = any(_words(folder) & _IMAGES for folder in folders) and not in_masks
        is_mask = in_masks or (bool(_MASK_ENDS.search(stem)) and not in_images)
        ends = _MASK_ENDS if is_mask else _IMAGE_ENDS
        kept = [rest for folder in folders if (rest := _rest(folder))]
        (masks if is_mask else images)[file.name] = (*kept, ends.sub("", stem))
    return _paired(tree, images, masks)


def as_listed(tree: Tree, found: Pairs, where: str) -> Pairs:
    """The pairs that Pascal VOC's lists name, ImageSets/Segmentation/train.txt: of its images few have masks.

    All of them where there are no such lists. Raises DatasetError for an image that stands in two lists of parts.
    """
    lists: dict[tuple[str, str], str] = {}  # (folder of the set, name without suffix) -> part
    of: dict[tuple[str, str], str] = {}
    for file in tree.files:
        match = _LIST.fullmatch(file.name)
        part = match and (ALL if match["name"].lower() == "trainval" else role_of(match["name"]))
        if not match or not part:
            continue
        for line in file.read().decode("utf-8", "replace").splitlines():
            if not line.strip():
                continue
            key = match["above"] or "", line.split()[0].rpartition("/")[2]
            before = lists.get(key, ALL)
            if ALL not in (before, part) and before != part:
                raise DatasetError(f"{where}: {file.name} lists {key[1]}, and so does the list of {before}")
            lists[key] = part if before == ALL else before
            of.setdefault(key, file.name)
    if not lists:
        return found
    sets = sorted({above for above, _ in lists}, key=len, reverse=True)  # the innermost one first
    keys = {
        file.name: (above, stem.rpartition(".")[0] or stem)
        for file in (*found.images, *found.without)
        for stem in [file.name.rpartition("/")[2]]
        for above in [next((each for each in sets if file.name.startswith(each)), "")]
    }
    part_of_image = {name: lists[key] for name, key in keys.items() if key in lists}
    there = set(keys.values())
    images = tuple(file for file in found.images if file.name in part_of_image)
    return replace(
        found,
        images=images,
        masks={file.name: found.masks[file.name] for file in images},
        without=tuple(file for file in found.without if file.name in part_of_image),
        part=part_of_image,
        unlisted=tuple(name for name in keys if name not in part_of_image),
        lost=tuple(f"{key[1]}: no such image, but {of[key]} lists it" for key in lists if key not in there),
    )


def part_of(name: str, given: dict[str, str]) -> str | None:
    """The part (train, val, test) that the folders of a file say, or the one whose folder was given; None for none."""
    folders = name.rpartition("/")[0]
    if given:
        return next((part for part, folder in given.items() if f"/{folder.strip('/')}/" in f"/{folders}/"), None)
    roles = {role for folder in folders.split("/") if (role := role_of(_rest(folder) or "-"))}
    return roles.pop() if len(roles) == 1 else None


def part_in(text: str) -> str | None:
    """The part that a word of a path says, wherever it stands: "annotations/instances_val2017.json" says val."""
    found = {role for word in re.findall(r"[^\W\d_]+", text) if (role := role_of(word))}
    return found.pop() if len(found) == 1 else None


def parts_of(names: Iterable[str], given: dict[str, str], where: str) -> dict[str, str]:
    """The part of each name; empty where nothing is divided. Raises DatasetError where only some say theirs."""
    found = {name: part_of(name, given) for name in names}
    told = {part for part in found.values() if part}
    if not given and (TRAIN not in told or len(told) < 2):
        return {}
    silent = [name for name, part in found.items() if part is None]
    missing = [part for part in given if part not in told]
    if missing:
        raise DatasetError(f"{where}: data.{missing[0]}={given[missing[0]]}: no image lies in a folder of that name")
    if silent and not given:
        named = ", ".join(part for part in (TRAIN, VAL, TEST) if part in told)
        raise DatasetError(
            f"{where}: {len(silent)} images lie in no folder of {named}: "
            f"{listed(silent, 3)}; say which is which: data.train=FOLDER data.val=FOLDER"
        )
    return {name: part for name, part in found.items() if part is not None}


def _paired(tree: Tree, images: dict[str, Key], masks: dict[str, Key]) -> Pairs:
    of_key: dict[Key, list[str]] = defaultdict(list)
    for name, key in masks.items():
        of_key[key].append(name)
    files = {file.name: file for file in tree.files}
    twice = [names for key, names in of_key.items() if len(names) > 1 and key in set(images.values())]
    shared: dict[Key, list[str]] = defaultdict(list)
    for name, key in images.items():
        shared[key].append(name)
    twice += [names for key, names in shared.items() if len(names) > 1 and key in of_key]
    if twice:
        told = listed([" and ".join(names[:3]) for names in twice], 3)
        raise DatasetError(f"{tree.root}: one image wants one mask, and cannot be told apart are {told}")
    found = {name: files[of_key[key][0]] for name, key in images.items() if key in of_key}
    used = {file.name for file in found.values()}
    known = images.keys() | masks.keys()
    return Pairs(
        images=tuple(files[name] for name in found),
        masks=found,
        without=tuple(files[name] for name in images if name not in found),
        alone=tuple(files[name] for name in masks if name not in used),
        others=tuple(file for file in tree.files if file.name not in known),
    )


def _words(folder: str) -> set[str]:
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", folder)
    whole = {folder.casefold()}
    return {word.casefold() for word in re.findall(r"[^\W\d_]+", text)} | whole


def _is_of_masks(folder: str) -> bool:
    return bool(_words(folder) & _MASKS) or bool(_RUN_TOGETHER.search(folder.casefold()))


def _rest(folder: str) -> str:
    """What is left of a folder's name without the words that say what lies in it: "train" of "train_images"."""
    if folder.casefold() in _IMAGES | _MASKS:
        return ""
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", folder)
    kept = [word for word in re.findall(r"[^\W_]+", text) if word.casefold() not in _IMAGES | _MASKS]
    return " ".join(_RUN_TOGETHER.sub("", word.casefold()) for word in kept).strip()


def form(pattern: str) -> re.Pattern[str]:
    """A pattern of a shell as an expression whose groups are what its wildcards stand for."""
    parts = re.split(r"(\*\*/|\*|\?|\[[^\]]+\])", pattern.strip("/"))
    told = {"**/": "((?:[^/]+/)*)", "*": "([^/]*)", "?": "([^/])"}
    return re.compile(
        "".join(told.get(p) or (f"({p})" if p.startswith("[") and p.endswith("]") else re.escape(p)) for p in parts)
    )
