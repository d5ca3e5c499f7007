"""Pascal VOC: one XML file a picture, and lists that divide them (Everingham et al. 2010, the development kit).

Edges are taken as they stand, from 0 to the picture's sides, as LabelImg and the tools after it write them; the
challenge's own files count pixels from 1, which shifts their left and upper edges by one.
"""

from __future__ import annotations

import math
from collections import defaultdict
from xml.etree import ElementTree

from edgecv.data.annotations import Annotated, Box, Drawn, Pictures, check_classes, stem
from edgecv.data.layout import role_of
from edgecv.data.split import listed
from edgecv.data.tree import File, Tree
from edgecv_runtime.errors import DatasetError, ImageError

_MAX_BYTES = 10_000_000  # of one XML file: 50,000 boxes
_TRAINVAL = "trainval"  # the union of two other lists


def read(tree: Tree, where: str, pictures: Pictures) -> Annotated | None:
    """The set as its XML files say; None where there are none with boxes.

    Raises DatasetError that names the file: XML without what a box needs.
    """
    found: dict[str, tuple[File, ElementTree.Element]] = {}
    bad = []
    for file in tree.files:
        if not file.name.lower().endswith(".xml"):
            continue
        try:
            root = _parsed(file)
        except ImageError as exc:
            bad.append(str(exc))
            continue
        if root.tag == "annotation":
            found[file.name] = file, root
    if not found:
        return None
    nameless = [
        name for name, (_, root) in found.items() if not all(_text(each, "name") for each in root.iter("object"))
    ]
    if nameless:
        raise DatasetError(f"{where}: {len(nameless)} files with an object that has no name: {listed(nameless)}")
    classes = check_classes(
        sorted({_text(each, "name") for _, root in found.values() for each in root.iter("object")}), where
    )
    kinds = {name: position for position, name in enumerate(classes)}
    drawn: dict[str, Drawn] = {}
    for name, (_, root) in found.items():
        own = _picture(name, _text(root, "filename"), pictures)
        if own is None:
            bad.append(f"{name}: there is no image of this name")
        else:
            drawn[name] = Drawn(
                own, tuple(_box(each, kinds, where, name) for each in root.iter("object")), size=_size(root)
            )
    entries, missing = _entries(tree, drawn)
    return Annotated("Pascal VOC XML", classes, entries, {}, (*bad, *missing))


def _entries(tree: Tree, drawn: dict[str, Drawn]) -> tuple[dict[str, list[Drawn]], list[str]]:
    """The lists of pictures that there are, or else the folders of the XML files; and what is listed without one."""
    lists = [file for file in tree.files if file.name.lower().endswith(".txt") and "imagesets" in file.name.lower()]
    lists = [file for file in lists if role_of(stem(file.name)) or stem(file.name).lower() == _TRAINVAL]
    # Those beside it (Action, Layout, Segmentation) are of other tasks and divide the pictures otherwise.
    lists = [file for file in lists if "imagesets/main/" in file.name.lower()] or lists
    entries: dict[str, list[Drawn]] = defaultdict(list)
    if not lists:
        for name, each in drawn.items():
            entries[name.rpartition("/")[0] or "."].append(each)
        return dict(entries), []
    by_stem = {stem(name): each for name, each in drawn.items()}
    missing = []
    for file in lists:
        lines = file.read().decode("utf-8", "replace").splitlines()
        for name in (line.split()[0] for line in lines if line.strip()):
            if name in by_stem:
                entries[file.name].append(by_stem[name])
            elif stem(file.name).lower() != _TRAINVAL:
                missing.append(f"{name}: no XML file and image of this name, but {file.name} lists it")
    return dict(entries), missing


def _picture(name: str, told: str, pictures: Pictures) -> File | None:
    """The picture of an XML file: the one that it names, unless another has the XML file's own name.

    Files that were renamed together keep the old name inside; a mask may have the picture's name with another suffix.
    """
    if stem(told) == stem(name) and (found := pictures.find(told, name)) is not None:
        return found
    return pictures.find(stem(name), name, by_stem=True) or pictures.find(told, name)


def _parsed(file: File) -> ElementTree.Element:
    raw = file.read()
    if len(raw) > _MAX_BYTES:
        raise ImageError(f"{file.name}: {len(raw)} bytes is more than {_MAX_BYTES}")
    try:
        return ElementTree.fromstring(raw)
    except (ElementTree.ParseError, ValueError, LookupError) as exc:
        raise ImageError(f"{file.name}: not valid XML: {exc}") from exc


def _box(element: ElementTree.Element, kinds: dict[str, int], where: str, name: str) -> Box:
    edges = [_number(element.findtext(f"bndbox/{edge}")) for edge in ("xmin", "ymin", "xmax", "ymax")]
    if None in edges:
        raise DatasetError(f"{where}: {name}: a '{_text(element, 'name')}' without xmin, ymin, xmax and ymax")
    left, top, right, bottom = (math.nan if edge is None else edge for edge in edges)
    return Box(
        kinds[_text(element, "name")], left, top, right, bottom, ignored=_number(element.findtext("difficult")) == 1
    )


def _size(root: ElementTree.Element) -> tuple[int, int] | None:
    height, width = (_number(root.findtext(f"size/{side}")) for side in ("height", "width"))
    return (int(height), int(width)) if height and width else None


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None


def _text(element: ElementTree.Element, tag: str) -> str:
    return (element.findtext(tag) or "").strip()
