"""Recipes: YAML files that say, in one place, what is trained, exported, quantized, verified and timed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from edgecv import recipe_text
from edgecv.data import DataConfig
from edgecv.recipe_train import QuantizedTraining, TrainConfig
from edgecv_export.dialects import DIALECTS
from edgecv_export.quantize import QuantizeConfig
from edgecv_runtime import records
from edgecv_runtime.bundle import MANIFEST
from edgecv_runtime.errors import BadInput
from edgecv_runtime.manifest import Budget
from edgecv_runtime.preprocess import Normalization, Preprocess
from edgecv_runtime.records import Record


class ModelConfig(Record, frozen=True):
    """Which network. weights: a known name ("imagenet") or a path; without it they are fresh and must be trained."""

    name: str
    weights: str | None = None


class VerifyConfig(Record, frozen=True):
    """How to verify. frames: how many validation images are compared, at most."""

    frames: int = 1000

    def __post_init__(self) -> None:
        if self.frames < 8:
            raise BadInput(f"frames must be at least 8, got {self.frames}")


class BenchConfig(Record, frozen=True):
    """How to time. seconds: of one round of one target; rounds: interleaved; threads: 0 leaves them to the backend."""

    seconds: float = 0.5
    rounds: int = 5
    threads: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.seconds < float("inf") or self.rounds < 1 or self.threads < 0:
            raise BadInput(f"seconds must be positive, rounds at least 1, threads at least 0: got {self}")


class Quantizing(QuantizeConfig, frozen=True):
    """The `quantize:` section. train: quantization-aware training of what the search chose; null leaves it out."""

    train: QuantizedTraining | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.train is not None and not self.int8:
            raise BadInput(
                f"quantize.train trains int8 files, and dialects are {', '.join(self.dialects)}: nothing to train; "
                f"add {' or '.join(DIALECTS)}"
            )


class Recipe(Record, frozen=True):
    """Everything `edgecv build` needs.

    preprocess, normalization: by default those of the weights, or the model's own. train: left out, the weights are
    taken as they are. quantize: null leaves int8 out. budget: what int8 may lose and still be offered.
    """

    name: str
    data: DataConfig
    model: ModelConfig
    preprocess: Preprocess | None = None
    normalization: Normalization | None = None
    train: TrainConfig | None = None
    quantize: Quantizing | None = Quantizing()
    budget: Budget = Budget()
    verify: VerifyConfig = VerifyConfig()
    bench: BenchConfig = BenchConfig()

    def __post_init__(self) -> None:
        if not self.name or Path(self.name).name != self.name or self.name.startswith("."):
            raise BadInput(f"name becomes a folder's name, got {self.name!r}")
        if self.train is None and self.model.weights is None:
            raise BadInput("a model without weights must be trained: add a train section, or model.weights")


# Every key of a recipe by its dotted path, with its type.
KEYS = tuple((path, field.type) for path, field in recipe_text.keys(Recipe))


def read(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe and apply `key=value` overrides, where a key may be dotted (`train.epochs=5`) and a value is YAML
    with Python's numbers.

    Raises BadInput in one line for an unknown key (with the nearest one), a wrong type or an impossible value.
    """
    path = Path(path)
    _check_kind(path)
    try:
        data = recipe_text.parse(path.read_text(encoding="utf-8-sig"))
    except OSError as exc:
        raise BadInput(f"{path}: cannot be read: {exc.strerror}") from exc
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise BadInput(f"{path}: not valid YAML: {' '.join(str(exc).split())}") from exc
    if not isinstance(data, dict):
        raise BadInput(f"{path}: a recipe is a mapping with the keys name, data, model, ...; got {type(data).__name__}")
    for override in overrides or []:
        _apply(data, override)
    recipe_text.check_keys(data, Recipe, str(path))
    return records.convert(data, Recipe, str(path))


# What people name in a recipe's place -> what it is and what takes it.
_OTHERS = {
    ".onnx": "an ONNX file: 'edgecv predict', 'stream' and 'inspect' take it; a network of your own becomes a bundle "
    "with edgecv_export.export (docs/api.md)",
    ".edgecv": "a bundle: 'edgecv verify', 'bench', 'quantize' and 'predict' take it",
    **dict.fromkeys(
        (".pt", ".pth", ".ckpt", ".bin", ".tar", ".safetensors"),
        "weights: name them in a recipe, model.weights=PATH; a network of your own becomes a bundle with "
        "edgecv_export.export (docs/api.md)",
    ),
}


def _check_kind(path: Path) -> None:
    """Refuse what is no text at all, with what it is and which verb is meant."""
    kind = _OTHERS.get(path.suffix.lower())
    if path.is_dir():
        is_bundle = (path / MANIFEST).is_file()
        kind = _OTHERS[".edgecv"] if is_bundle else "a folder: photos are named in a recipe, data.path=FOLDER"
    if kind and path.exists():
        raise BadInput(f"{path}: a recipe (YAML) is wanted, this is {kind}")


def _apply(data: dict[str, Any], override: str) -> None:
    """Set one dotted key; sections on the way are made."""
    key, sign, value = override.partition("=")
    if not sign or not key:
        raise BadInput(f"'{override}': an override is key=value, such as train.epochs=5")
    *sections, last = key.split(".")
    for section in sections:
        inner = data.get(section)
        if inner is None:
            inner = data[section] = {}
        if not isinstance(inner, dict):
            raise BadInput(f"'{override}': '{section}' is a value, not a section")
        data = inner
    try:
        data[last] = recipe_text.value(value, dict(KEYS).get(key))
    except yaml.YAMLError as exc:
        raise BadInput(f"'{override}': the value is not valid YAML: {' '.join(str(exc).split())}") from exc
