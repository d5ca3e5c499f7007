"""What a bundle says of itself and a plain ONNX file does not: how pixels come in, and what its outputs mean.

As a file, YAML or JSON, it lies beside the model:

    labels: [cat, dog]            # or the name of a text file with one label a line
    preprocess: {size: [224, 224], mode: crop, resize: 256}
    normalization: {mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}   # of a float input
    scores: logits                # where the graph does not prove it
    thresholds: [0.5]             # of labels of which several may hold
"""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Any

from edgecv_runtime import records
from edgecv_runtime.errors import BadInput, Unavailable
from edgecv_runtime.head import Scores
from edgecv_runtime.preprocess import Normalization, Preprocess
from edgecv_runtime.records import Record

EXAMPLE = "labels: [cat, dog], preprocess: {size: [224, 224]}, normalization: {mean: [...], std: [...]}"


class Description(Record, frozen=True):
    """What has to be said of a plain ONNX file.

    labels: in the order of the outputs. normalization: None where the input is uint8 and the graph normalizes. scores:
    what the outputs are, None where the graph proves it (see tasks.scores). thresholds: of labels of which several may
    hold, one for all or one a label.
    """

    labels: tuple[str, ...]
    preprocess: Preprocess
    normalization: Normalization | None = None
    scores: Scores | None = None
    thresholds: tuple[float, ...] = ()


def read(path: str | Path) -> Description:
    """Read a description, YAML or (by its suffix) JSON; raises BadInput in one line that names the key."""
    path = Path(path)
    try:
        content = path.read_bytes().removeprefix(codecs.BOM_UTF8)  # which editors on Windows write
    except OSError as exc:
        raise BadInput(f"{path}: cannot be read: {exc.strerror}") from exc
    data = records.decode(content, dict[str, Any], str(path)) if path.suffix == ".json" else _yaml(content, path)
    if isinstance(data.get("labels"), str):
        data["labels"] = _lines(path.parent / data["labels"], path)
    if "labels" in data:
        _check_labels(data["labels"], path)
    return records.convert(data, Description, str(path))


def _check_labels(labels: Any, where: Path) -> None:
    if not isinstance(labels, list):
        raise BadInput(
            f"{where}: labels: a list such as [cat, dog], in the order of the outputs and without their numbers, or "
            f"the name of a text file with one label a line; got {type(labels).__name__}"
        )
    for label in labels:
        if not isinstance(label, str):
            kind = type(label).__name__
            raise BadInput(f"{where}: labels: {label!r} is read as {kind}, not text; put each label in double quotes")


def _yaml(content: bytes, path: Path) -> dict[str, Any]:
    try:
        import yaml
    except ImportError as exc:
        raise Unavailable(f"{path}: YAML needs PyYAML (pip install pyyaml); or write it as JSON, NAME.json") from exc
    try:
        data = yaml.safe_load(content.decode())
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise BadInput(f"{path}: not valid YAML: {' '.join(str(exc).split())}") from exc
    if not isinstance(data, dict):
        raise BadInput(f"{path}: a description is a mapping such as {EXAMPLE}; got {type(data).__name__}")
    return data


def _lines(labels: Path, where: Path) -> list[str]:
    try:
        lines = labels.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else "not UTF-8"
        raise BadInput(
            f"{where}: labels: {labels} cannot be read: {why}; it is a text file, or a list of them"
        ) from exc
    return [line.strip() for line in lines if line.strip()]
