"""The images that a finished bundle is calibrated with and judged on: one reading for quantize, verify and bench."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgecv.data.config import DataConfig
from edgecv.data.dataset import Images
from edgecv.data.folder import Parts, labelled
from edgecv.data.layout import ALL, TEST, TRAIN, VAL
from edgecv.data.split import calibrated
from edgecv_runtime.errors import DatasetError


@dataclass(frozen=True)
class Judging:
    """Labelled images: some to calibrate with and others to judge on; told: what was taken, in words."""

    calibration: Images
    judged: Images
    told: tuple[str, ...]


def everything(data: Path, labels: tuple[str, ...], max_megapixels: float) -> tuple[Images, tuple[str, ...]]:
    """The labelled images to score a bundle on, and what was taken: the validation part of a divided folder, else all.

    Raises DatasetError when no folder is named as a label, and what reading the folder raises.
    """
    config = _config(data, max_megapixels)
    parts = labelled(config, labels)
    if parts is None:
        raise DatasetError(
            f"{data}: no class folders; expected one folder a class, named as the labels: {', '.join(labels[:5])}, ..."
        )
    part = _to_judge(parts)
    return parts.images[part], (*parts.notes, *_told(parts, part))


def divided(data: Path, labels: tuple[str, ...], max_megapixels: float) -> Judging | None:
    """The labelled images to calibrate with and those to judge on; None when the folder's images have no labels.

    A divided folder is calibrated with its training part and judged on its validation part; another one is divided as a
    recipe does it by default, so that none of the photos that `build` trained on is judged on.
    """
    if not data.is_dir() and data.suffix.lower() != ".zip":
        return None
    config = _config(data, max_megapixels)
    parts = labelled(config, labels)
    if parts is None:
        return None
    if ALL in parts.images:
        calibration, judged = calibrated(parts.images[ALL], config.share, config.seed)
        counts = f"{len(calibration)} images to calibrate with, {len(judged)} to judge on"
        told = f"{counts}, as data.val={config.share} divides"
        return Judging(calibration, judged, (*parts.notes, told))
    part = _to_judge(parts)
    if TRAIN not in parts.images or part == TRAIN:
        raise DatasetError(f"{data}: calibrates on its training part and judges on another; both want images")
    return Judging(parts.images[TRAIN], parts.images[part], (*parts.notes, *_told(parts, TRAIN, part)))


def _config(data: Path, max_megapixels: float) -> DataConfig:
    return DataConfig(source="folder", path=str(data), max_megapixels=max_megapixels)


def _to_judge(parts: Parts) -> str:
    return next(part for part in (VAL, TEST, ALL, TRAIN) if part in parts.images)


def _told(parts: Parts, *used: str) -> tuple[str, ...]:
    """What is taken of a divided folder; nothing to say about an undivided one."""
    if ALL in used:
        return ()
    verbs = {TRAIN: "calibrates on", VAL: "judged on", TEST: "judged on"}
    return (
        ", ".join(
            f"{verbs[part]} the {len(parts.images[part])} images of '{parts.layout.names[part]}'" for part in used
        ),
    )
