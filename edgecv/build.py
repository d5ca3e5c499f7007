"""`edgecv build`: the steps of a recipe, what each depends on and what it makes.

The steps are chained by content: what a step depends on is named by hashes of the outputs before it, so that a change
goes as far down as it matters. The bundle is changed only atomically, so a build can be stopped at any moment, and what
is made anew replaces what is there only when it is whole (`edgecv.run.staging`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgecv import models, steps
from edgecv.data.sources import serves
from edgecv.recipe import Recipe
from edgecv.run import journal
from edgecv.run.context import Context, as_yaml
from edgecv.run.staging import Workplace
from edgecv.tasks import TRAININGS
from edgecv_runtime.errors import BadInput


@dataclass(frozen=True)
class Built:
    """Where a build put things, which steps ran and which were skipped, and what each step that is done took."""

    folder: Path
    ran: tuple[str, ...]
    skipped: tuple[str, ...]
    seconds: dict[str, float]

    @property
    def bundle(self) -> Path:
        """The bundle's folder."""
        return self.folder / "bundle"

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.folder / "report.html"


def build(
    recipe: Recipe,
    folder: str | Path,
    *,
    until: str = "report",
    say: Callable[[str], None] = lambda _: None,
    progress: bool = True,
) -> Built:
    """Run a recipe's steps up to `until` in a run folder.

    say: takes one line per step. progress: whether long steps may draw a progress bar on stderr.
    Raises what the steps raise; what was done before stays done. BadInput when another build uses the folder.
    """
    _check_task(recipe)
    place = Workplace(Path(folder), as_yaml(recipe))
    context = Context(recipe, place, say, progress)
    every = steps.of(context)
    names = [step.name for step in every]
    if until not in names:
        raise BadInput(f"no step '{until}' in this recipe; it has: {', '.join(names)}")
    if recipe.train is None:
        _ = context.deployed  # weights that do not fit are refused before anything is written
    with journal.locked(place.run):
        place.begin()
        record = journal.Journal(place.folder, say)
        ran: list[str] = []
        skipped: list[str] = []
        asked = every[: names.index(until) + 1]
        for number, step in enumerate(asked):
            if record.unchanged(step):
                record.skip(step)
                skipped.append(step.name)
                continue
            if not ran:
                for each in asked[number:]:
                    for note in each.check():
                        say(f"{each.name}: {note}")
            if step.name == "report":
                place.publish()  # it is of what the run holds
            elif record.knows(names[names.index(step.name) :]) or place.holds(step.name):
                place.protect()
            record.folder = place.folder
            record.do(step)
            ran.append(step.name)
        place.publish()
        record.folder = place.run
    return Built(place.run, tuple(ran), tuple(skipped), record.seconds())


def _check_task(recipe: Recipe) -> None:
    """Refuse a network whose outputs no step here understands."""
    spec = models.spec(recipe.model.name)
    if spec.task not in TRAININGS:
        raise BadInput(
            f"recipe '{recipe.name}': {spec.name} is a model for {spec.task}, and recipes are for "
            f"{', '.join(TRAININGS)} (`edgecv models` lists the tasks); use it in Python by edgecv.models.create"
        )
    if not serves(recipe.data.source, spec.task):
        raise BadInput(
            f"recipe '{recipe.name}': {spec.name} is a model for {spec.task}, and data source '{recipe.data.source}' "
            "has truths for another task"
        )
