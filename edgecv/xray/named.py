"""What a user names, told apart once: a model of the zoo, a bundle, an ONNX file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgecv_runtime.bundle import ARCHIVE_SUFFIX
from edgecv_runtime.errors import BadInput

FLOAT = "float32"


@dataclass(frozen=True)
class Zoo:
    """A model of the zoo, by its name; whether there is one is found when it is read."""

    name: str


@dataclass(frozen=True)
class Bundled:
    """A variant of a bundle."""

    path: Path
    variant: str = FLOAT


@dataclass(frozen=True)
class File:
    """An ONNX file."""

    path: Path


Named = Zoo | Bundled | File


def parse(what: str | Path | Named, variant: str = FLOAT) -> Named:
    """Tell what is meant; what was told apart before stays. Raises BadInput for a variant of what has none."""
    if isinstance(what, Zoo | Bundled | File):
        return what
    path = Path(what)
    if path.is_dir() or path.suffix == ARCHIVE_SUFFIX:
        return Bundled(path, variant)
    if path.suffix == ".onnx" or path.is_file():
        return File(path)
    if variant != FLOAT:
        raise BadInput(f"'{what}' is no file or bundle: --input-shape and --variant are for those")
    return Zoo(str(what))
