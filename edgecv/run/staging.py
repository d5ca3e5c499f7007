"""A build that makes something anew works in `next/` of its run folder, and takes the run's place when it is whole.

A mistyped weights file, a diverging training, a full disk, Ctrl-C: whatever ends a build on the way, the bundle, the
weights and the report of the build before are untouched, and the next one goes on in `next/`. Unchanged files are hard
links, so that `next/` costs what is new.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from edgecv.run import trainings
from edgecv_runtime import files

NEXT = "next"
RECIPE, STATE = "recipe.yaml", "state.json"
_READY = "ready"  # in `next/`: it is whole, and is taking the run's place; lists files that the run no longer has
_RESULTS = {"train": "train/weights.safetensors", "export": "bundle"}
_BOOK = "bundle.trials.json"
_PARTS = (
    "train",
    "train-quantized",
    "bundle",
    "bundle.quantize.json",
    _BOOK,
    "verify.npz",
    "verify.json",
    RECIPE,
    STATE,
)


class Workplace:
    """Where the steps of a build work: `folder`, which is the run folder itself until `protect` is called.

    run: the run folder, held by the caller. recipe: the recipe's file, which tells whether `next/` is of this build.
    """

    def __init__(self, run: Path, recipe: bytes) -> None:
        self.run = run
        self.folder = run
        self._next = run / NEXT
        self._recipe = recipe

    @property
    def cache(self) -> Path:
        """Decoded images, which all trainings of the run share."""
        return self.run / "cache"

    def begin(self) -> None:
        """Go on where an earlier build of this recipe was stopped."""
        if (self._next / _READY).is_file():
            self._take_place()
        elif self._is_of_this_recipe():
            self.folder = self._next

    def holds(self, step: str) -> bool:
        """Whether there is a result of this step that nothing is recorded of."""
        return step in _RESULTS and (self.run / _RESULTS[step]).exists()

    def protect(self) -> None:
        """Work in `next/` from now on, beginning with what the run has; another recipe's `next/` gives up its place.

        Of that one, trainings are set aside and measured int8 files stay known.
        """
        if self.folder != self.run:
            return
        book = (self._next / _BOOK).read_bytes() if (self._next / _BOOK).is_file() else None
        for training in trainings.homes(self._next):
            trainings.set_aside(training, self.run / training.relative_to(self._next))
        if self._next.is_dir():
            discard(self._next)
        self._next.mkdir()
        for part in _parts(self.run):
            trainings.copy(part, self._next / part.name)
        if book is not None:
            files.write(self._next / _BOOK, book)
        files.write(self._next / RECIPE, self._recipe)  # last: without it `next/` is of no recipe
        self.folder = self._next

    def publish(self) -> None:
        """Let what was made take the place of what is in the run; trainings that are replaced are set aside."""
        if self.folder != self.run:
            files.write(self._next / _READY, "\n".join(self._gone()).encode())
            self._take_place()
        else:
            files.write(self.run / RECIPE, self._recipe)

    def _take_place(self) -> None:
        """Move every part; after a kill on the way, `begin` calls it for the rest."""
        for name in (self._next / _READY).read_text().splitlines():
            (self.run / name).unlink(missing_ok=True)
        for training in trainings.homes(self._next):
            _replace_training(training, self.run / training.relative_to(self._next))
        for part in _parts(self._next):
            if part.name == "bundle":
                with files.replacing_folder(self.run / part.name) as folder:
                    for file in part.iterdir():
                        trainings.link(str(file), str(folder / file.name))
            elif part.is_file():
                part.replace(self.run / part.name)
        discard(self._next)
        files.sync_folder(self.run)
        self.folder = self.run

    def _gone(self) -> list[str]:
        """Files of the run that steps removed from `next/`."""
        kept = {part.name for part in _parts(self._next)}
        return [part.name for part in _parts(self.run) if part.is_file() and part.name not in kept]

    def _is_of_this_recipe(self) -> bool:
        recipe = self._next / RECIPE
        return recipe.is_file() and recipe.read_bytes() == self._recipe


def discard(folder: Path) -> None:
    """Remove a `next/`. What a kill on the way leaves of it is of no recipe, and takes nobody's place."""
    for name in (_READY, RECIPE):
        (folder / name).unlink(missing_ok=True)
    files.sync_folder(folder)
    shutil.rmtree(folder)


def _parts(folder: Path) -> list[Path]:
    """What a build's steps make, the record of them last; the report, decoded images and others' files stay out."""
    found = [each for each in folder.iterdir() if each.name in _PARTS]
    return sorted(found, key=lambda each: (each.name == STATE, each.name))


def _replace_training(training: Path, home: Path) -> None:
    if home.is_dir() and trainings.inputs_of(home) == trainings.inputs_of(training):
        home.rename(training.with_name(f".{training.name}.old"))
    else:
        trainings.set_aside(home, home)
    home.parent.mkdir(exist_ok=True)
    training.rename(home)
