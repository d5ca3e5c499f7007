"""What `predict` is given: the images in it, what was meant where there are none, and how many labels are right."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgecv.cli.output import say
from edgecv_runtime import formats, images
from edgecv_runtime.errors import BadInput
from edgecv_runtime.listing import suffix

_CLIPS = frozenset((".mp4", ".avi", ".mkv", ".mov", ".m4v", ".webm", ".mpg", ".mpeg", ".wmv", ".ts", ".mjpeg", ".3gp"))


def gather(bundle: Path, paths: Sequence[Path]) -> tuple[list[tuple[Path, Path]], dict[str, str]]:
    """Every image behind the path that it was found by; and what lies in a folder and is none, counted, by the folder.

    Raises BadInput, with what to type, for what is no image: a clip, a camera, a bundle, a run, an empty folder.
    """
    found: list[tuple[Path, Path]] = []
    left: dict[str, str] = {}
    for path in paths:
        _refuse_others(bundle, path)
        inside = images.look(path)
        if not inside.images:
            clips = [each for each in inside.others if suffix(each.name) in _CLIPS]
            meant = f"; clips: edgecv stream {bundle} {clips[0]}" if clips else ""
            known = ", ".join(formats.suffixes())
            raise BadInput(f"{path}: no images in it{_left(inside)}{meant}; known: {known}")
        if inside.left_out():
            say(f"{path}: {len(inside.images)} images{_left(inside)}")
            left[str(path)] = inside.left_out()
        found += [(path, file) for file in inside.images]
    return found, left


@dataclass
class Scores:
    """How many images in folders that are named as labels got that label, by the folder that holds those folders."""

    labels: frozenset[str]
    counts: dict[Path, list[int]] = field(default_factory=dict)  # holder -> [right, all]
    unlabelled: set[Path] = field(default_factory=set)  # paths with an image in no such folder: nothing is scored there
    _roots: dict[Path, Path] = field(default_factory=dict)

    @classmethod
    def of(cls, labels: Iterable[str]) -> Scores:
        """An empty account for a network with these labels."""
        return cls(frozenset(labels))

    def add(self, root: Path, file: Path, label: str) -> None:
        """Count an image, found by `root`, and the label that it got."""
        if root == file:
            return
        above = [root.resolve(), *(root / each for each in reversed(file.relative_to(root).parents) if each.name)]
        own = next((folder for folder in reversed(above) if folder.name in self.labels), None)
        if own is None:
            self.unlabelled.add(root)
            return
        count = self.counts.setdefault(own.parent, [0, 0])
        self._roots[own.parent] = root
        count[0] += own.name == label
        count[1] += 1

    def rows(self) -> list[dict[str, object]]:
        """One row for each holder of labelled folders: its path, how many are right, and of how many."""
        return [
            {"folder": str(holder), "right": right, "count": count}
            for holder, (right, count) in self.counts.items()
            if self._roots[holder] not in self.unlabelled
        ]


def _left(found: images.Found) -> str:
    return f"; left out: {found.left_out()}" if found.left_out() else ""


def _refuse_others(bundle: Path, path: Path) -> None:
    """Refuse what is no image or folder of images, and say what it is for."""
    if re.match(r"\w+:/", str(path)) and not path.exists():
        raise BadInput(f"{path}: predict labels files; a camera or network stream: edgecv stream {bundle} SOURCE")
    if path.is_file() and suffix(path.name) in _CLIPS:
        raise BadInput(f"{path}: a clip, not an image: edgecv stream {bundle} {path}")
    if (path / "bundle.json").is_file():
        raise BadInput(f"{path}: a bundle; images come behind it: edgecv predict {path} IMAGE...")
    if (path / "bundle" / "bundle.json").is_file():
        raise BadInput(
            f"{path}: a run of 'edgecv build'; its bundle comes first: edgecv predict {path}/bundle IMAGE..."
        )
