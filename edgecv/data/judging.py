"""The images that a finished bundle is calibrated with and judged on: one reading for quantize, verify and bench.

The folder that `build` was given is read with the `data` section of the recipe beside the bundle, so that what it
trained on is not judged on. Any other folder is read as a recipe without settings reads it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
import yaml

from edgecv import recipe_text
from edgecv.data.config import DataConfig, Source
from edgecv.data.dataset import Images, NoTruths
from edgecv.data.layout import ALL, TEST, TRAIN, VAL
from edgecv.data.parts import Parts
from edgecv.data.sources import labelled
from edgecv.data.split import calibrated, divide
from edgecv_runtime import records
from edgecv_runtime.errors import BadInput, DatasetError

_RECIPE = "recipe.yaml"


@dataclass(frozen=True)
class Judging:
    """Labelled images: some to calibrate with and others to judge on; told: what was taken, in words."""

    calibration: Images
    judged: Images
    told: tuple[str, ...]


@dataclass(frozen=True)
class _Reading:
    """How a folder is read, and whether `build` read it so; told: that in words; unknown: why it is not known."""

    config: DataConfig
    is_built: bool
    told: tuple[str, ...]
    unknown: str = ""


# A task -> the source that reads its truths from a user's own files.
SOURCES: dict[str, Source] = {"classification": "folder", "segmentation": "masks", "detection": "boxes"}


def everything(
    data: Path, labels: tuple[str, ...], max_megapixels: float, bundle: Path, task: str = "classification"
) -> tuple[Images, tuple[str, ...]]:
    """The images to score a bundle on, with their truths, and what was taken.

    Of a divided folder the test part, else the validation part. Of another one what `build` held out when the recipe
    beside the bundle names it, else all images.
    Raises DatasetError when nothing says what is right of the images, and what reading the folder raises.
    """
    reading = _reading(data, max_megapixels, bundle, task)
    parts = labelled(reading.config, labels)
    told = (*reading.told, *parts.notes)
    if ALL in parts.images and not reading.is_built:
        whole = parts.images[ALL]
        return whole, (*told, f"judged on all {len(whole)} images: {reading.unknown}, so none are held out")
    images, divided_as = _as_built(parts, reading.config)
    part = next(part for part in (TEST, VAL, TRAIN) if part in images)
    if part == VAL and divided_as:
        count = f"judged on {len(images[VAL])} of {len(images[VAL]) + len(images.get(TRAIN, ()))} images"
        return images[VAL], (*told, f"{count}, those that {divided_as} holds out")
    return images[part], (*told, _told(parts, images, part))


def divided(
    data: Path, labels: tuple[str, ...], max_megapixels: float, bundle: Path, task: str = "classification"
) -> Judging | None:
    """The labelled images to calibrate with and those to judge on; None when the folder says nothing of its images.

    A divided folder is calibrated with its training part and judged on its validation part; another one is divided as
    the recipe beside the bundle does it when it names the folder, else as a recipe does it by default, so that none of
    the photos that `build` trained on is judged on.
    """
    if not data.is_dir() and data.suffix.lower() != ".zip":
        return None
    reading = _reading(data, max_megapixels, bundle, task)
    try:
        parts = labelled(reading.config, labels)
    except NoTruths:
        return None
    images, divided_as = _as_built(parts, reading.config)
    part = next((part for part in (VAL, TEST) if part in images), None)
    if TRAIN not in images or part is None:
        raise DatasetError(f"{data}: calibrates on its training part and judges on another; both want images")
    calibration, judged = images[TRAIN], images[part]
    counts = f"{len(calibration)} images to calibrate with, {len(judged)} to judge on"
    told = f"{counts}, as {divided_as} divides" if divided_as else _told(parts, images, TRAIN, part)
    return Judging(calibration, judged, (*reading.told, *parts.notes, told))


def _reading(data: Path, max_megapixels: float, bundle: Path, task: str) -> _Reading:
    """Begin from the recipe of the run that the bundle lies in, where that is of this folder."""
    if task not in SOURCES:
        raise DatasetError(f"{data}: nothing here reads truths for {task}; known: {', '.join(SOURCES)}")
    plain = DataConfig(source=SOURCES[task], path=str(data), max_megapixels=max_megapixels)
    recipe = bundle.absolute().parent / _RECIPE
    if not recipe.is_file():
        return _Reading(plain, False, (), f"no {_RECIPE} beside the bundle says what it was trained on")
    try:
        read = recipe_text.parse(recipe.read_text())
        found = records.convert(read.get("data") if isinstance(read, dict) else None, DataConfig, f"{recipe}: data")
    except (OSError, UnicodeDecodeError, yaml.YAMLError, BadInput) as exc:
        why = f"{recipe} says nothing of data that can be read"
        return _Reading(plain, False, (f"{why}: {' '.join(str(exc).split())}",), why)
    if found.source != plain.source or not _is_same(found, data, recipe.parent):
        return _Reading(plain, False, (), f"{recipe} names {found.path or found.source}, not this folder")
    most = max(max_megapixels, found.max_megapixels)
    config = msgspec.structs.replace(found, path=str(data), max_megapixels=most)
    return _Reading(config, True, (f"read and divided as {recipe} says, of which the bundle was built",))


def _is_same(found: DataConfig, data: Path, run: Path) -> bool:
    """Whether a recipe names a folder; its path may be relative to where `build` ran: here, or above the run folder."""
    if found.path is None:
        return False
    path, asked = Path(found.path).expanduser(), data.expanduser().resolve()
    return any((base / path).resolve() == asked for base in (Path.cwd(), run, *run.parents))


def _as_built(parts: Parts, config: DataConfig) -> tuple[dict[str, Images], str]:
    """The parts that `build` works with; and, where images were divided for them, by which settings."""
    images = dict(parts.images)
    whole = next((part for part in (ALL, TRAIN) if part in images), None)
    if whole is None or VAL in images or (TEST in images and config.train is None):
        return images, ""
    held = images.pop(whole)
    division = divide if held.labels is None else calibrated
    images[TRAIN], images[VAL] = division(held, config.share, config.seed)
    filled = {part: held for part, held in images.items() if len(held)}
    return filled, f"data.val={config.share} data.seed={config.seed}"


def _told(parts: Parts, images: dict[str, Images], *used: str) -> str:
    """What is taken of a divided folder."""
    verbs = {TRAIN: "calibrates on" if len(used) > 1 else "judged on", VAL: "judged on", TEST: "judged on"}
    return ", ".join(f"{verbs[part]} the {len(images[part])} images of '{parts.names.get(part, '.')}'" for part in used)
