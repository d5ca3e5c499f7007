"""The trainings of a run: the one in use, and those set aside when their recipe changed (`train.1`, `train.2`, ...).

A training is hours of work and a recipe's key is changed in a second, so a training is never removed by a build. Each
knows what it depends on, and is taken up again when the recipe is set back.
"""

from __future__ import annotations

import fnmatch
import os
import shutil
from pathlib import Path

from edgecv.run.journal import digest
from edgecv_runtime import files

MARKER = "inputs"  # file in a training's folder: the digest of all that it depends on
_QUANTIZED = "train-quantized"
GROUPS = ("train", f"{_QUANTIZED}/*")  # where trainings lie in a run folder


def take_up(folder: Path, home: Path, inputs: object) -> Path | None:
    """Make a folder hold the training of these inputs: its own, else one that was set aside, else a new one.

    folder: where it is trained; home: the training's place in its run, beside which others are set aside: the same
    folder, or one that this folder will replace. Gives the place from which one was taken back.
    """
    wanted = digest(inputs)
    if inputs_of(folder) == wanted:
        return None
    set_aside(folder, home)
    found = next((each for each in [home, *aside(home)] if inputs_of(each) == wanted), None)
    folder.parent.mkdir(parents=True, exist_ok=True)
    if found == home:
        copy(home, folder)
    elif found is not None:
        found.rename(folder)
    files.write(folder / MARKER, wanted.encode())
    return found


def set_aside(folder: Path, home: Path) -> Path | None:
    """Move a training to the next free number beside its home and give that place; a copy of the home's is removed."""
    if not folder.is_dir():
        return None
    if folder != home and inputs_of(folder) and inputs_of(folder) == inputs_of(home):
        shutil.rmtree(folder)
        return None
    if not any(folder.iterdir()):
        folder.rmdir()
        return None
    number = max((int(each.suffix[1:]) for each in aside(home)), default=0) + 1
    place = home.with_name(f"{home.name}.{number}")
    place.parent.mkdir(parents=True, exist_ok=True)
    return folder.rename(place)


def aside(home: Path) -> list[Path]:
    """The trainings that were set aside beside one, the newest first."""
    found = [each for each in home.parent.glob(f"{home.name}.*") if _is_aside(each)]
    return sorted(found, key=lambda each: -int(each.suffix[1:]))


def inputs_of(folder: Path) -> str:
    """The digest of what a training depends on, or "" where that is not known."""
    marker = folder / MARKER
    return marker.read_text() if marker.is_file() else ""


def copy(part: Path, place: Path) -> None:
    """Copy a file or folder of a run by hard links: no file of a run is ever written in place.

    Decoded images, left-overs of killed writers, a bundle's hidden files and trainings that were set aside stay out.
    """

    def left_out(folder: str, names: list[str]) -> set[str]:
        found = {"decoded", *fnmatch.filter(names, ".*" if part.name == "bundle" else ".*.tmp")}
        if part.name == _QUANTIZED and Path(folder) == part:
            found |= {name for name in names if _is_aside(part / name)}
        return found

    if part.is_dir():
        shutil.copytree(part, place, copy_function=link, ignore=left_out)
    else:
        link(str(part), str(place))


def link(source: str, target: str) -> None:
    """Give a file a second name; a copy where the disk has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def homes(run: Path) -> list[Path]:
    """The trainings in use in a folder that is laid out as a run."""
    found = [each for group in GROUPS for each in run.glob(group) if each.is_dir() and not each.name.startswith(".")]
    return sorted(each for each in found if not _is_aside(each))


def _is_aside(place: Path) -> bool:
    return place.suffix[1:].isdigit() and place.is_dir()
