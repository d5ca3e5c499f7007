"""Run folders: which trainings they hold, and how those that were set aside are removed."""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from edgecv.run import journal, trainings
from edgecv.run.folder import read_curves
from edgecv.run.staging import NEXT, RECIPE, STATE, Workplace, discard
from edgecv_runtime.errors import BadInput
from edgecv_runtime.records import Record


class Training(Record, frozen=True):
    """One training of a run: its place in the run folder, and what it is of.

    in_use: whether it is the run's own, which is never pruned. score: on the validation images of its best epoch, 0..1,
    None before the first; metric: of what, as curves.csv names it ("top1", "mIoU"). epochs: how many were run;
    finished: whether weights were written. date: of its last change, as ISO 8601 with the zone. bytes: on the disk,
    decoded images included.
    """

    run: str
    name: str
    in_use: bool
    model: str
    score: float | None
    metric: str
    epochs: int
    finished: bool
    date: str
    bytes: int


def find(folder: Path) -> list[Path]:
    """The run folders in a folder, by name; or the folder itself where it is one. Raises BadInput where none is."""
    if _is_run(folder):
        return [folder]
    found = sorted(each for each in folder.iterdir() if _is_run(each)) if folder.is_dir() else []
    if not found:
        raise BadInput(f"{folder}: no run folder of 'edgecv build', nor a folder of such; name one")
    return found


def of(run: Path) -> list[Training]:
    """The trainings of a run: each in use, after it those that were set aside, then those that wait in `next/`."""
    found = []
    for home in _homes(run):
        found += [_training(run, each) for each in [home, *trainings.aside(home)] if each.is_dir()]
    waiting = [each for each in trainings.homes(run / NEXT) if not _is_copy(run, each)]
    return found + [_training(run, each) for each in waiting]


@dataclass(frozen=True)
class Spare:
    """What `prune` removes: trainings that were set aside or wait in `next/`, and the `next/` of stopped builds."""

    trainings: list[Training]
    stopped: list[Path]

    def __bool__(self) -> bool:
        return bool(self.trainings or self.stopped)

    def __str__(self) -> str:
        named = [f"{len(self.trainings)} trainings"] if self.trainings or not self.stopped else []
        return " and ".join([*named, *(f"what a stopped build left in {folder}" for folder in self.stopped)])


def prune(*runs: Path, agree: Callable[[Spare], object] = bool) -> int:
    """Remove the trainings of runs that were set aside, and what stopped builds left in `next/`; gives their bytes.

    agree: is given what will be removed, while no build can change it, and raises to keep all of it.
    Raises BadInput when a build runs in one of them.
    """
    with ExitStack() as held:
        for run in runs:
            held.enter_context(journal.locked(run))
            Workplace(run, b"").begin()  # what was killed while it took its place is no left-over
        stopped = [run / NEXT for run in runs if (run / NEXT).is_dir()]
        agree(Spare([row for run in runs for row in of(run) if not row.in_use], stopped))
        places = [each for run in runs for home in _homes(run) for each in trainings.aside(home)]
        freed = sum(map(_bytes, [*places, *stopped]))
        for place in places:
            shutil.rmtree(place)
        for folder in stopped:
            discard(folder)
    return freed


def _homes(run: Path) -> list[Path]:
    """Where trainings of a run lie or lay, also those of which only what was set aside is there."""
    found = set(trainings.homes(run))
    for group in trainings.GROUPS:
        found |= {each.with_suffix("") for each in run.glob(f"{group}.*") if each.suffix[1:].isdigit()}
    return sorted(found)


def _is_run(folder: Path) -> bool:
    return any((folder / name).exists() for name in (RECIPE, STATE, "train"))


def _is_copy(run: Path, waiting: Path) -> bool:
    return trainings.inputs_of(waiting) == trainings.inputs_of(run / waiting.relative_to(run / NEXT))


def _training(run: Path, place: Path) -> Training:
    columns = read_curves(place / "curves.csv") or {}
    metric = next((name for name in columns if name.startswith("val_") and name != "val_loss"), "")
    scores = columns.get(metric, [])
    weights = place / "weights.safetensors"
    changed = max(each.stat().st_mtime for each in [place, *place.glob("*")])
    return Training(
        run=run.name,
        name=str(place.relative_to(run)),
        in_use=place in trainings.homes(run),
        model=_model(place, run),
        score=max(scores, default=None),
        metric=metric.removeprefix("val_"),
        epochs=len(scores),
        finished=weights.is_file(),
        date=datetime.datetime.fromtimestamp(changed).astimezone().isoformat(timespec="seconds"),
        bytes=_bytes(place),
    )


def _model(place: Path, run: Path) -> str:
    """The model's name in the recipe beside the weights, or in the run's where an older build wrote none."""
    import yaml

    for recipe in (place / RECIPE, run / RECIPE):
        if recipe.is_file():
            read = yaml.safe_load(recipe.read_bytes())
            return str(read["model"]["name"]) if isinstance(read, dict) else "?"
    return "?"


def _bytes(folder: Path) -> int:
    return sum(each.lstat().st_size for each in folder.rglob("*") if each.is_file())
