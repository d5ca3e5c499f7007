"""What a bundle says of itself and a plain ONNX file does not: how pixels come in, and what its outputs mean.

As a file, YAML or JSON, it lies beside the model:

    labels: [cat, dog]            # or the name of a text file with one label a line
    preprocess: {size: [224, 224], mode: crop, resize: 256}
    normalization: {mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}   # of a float input
    scores: logits                # where the graph does not prove it
    thresholds: [0.5]             # of labels of which several may hold
"""

from __future__ import annotations

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
        content = path.read_bytes()
    except OSError as exc:
        raise BadInput(f"{path}: cannot be read: {exc.strerror}") from exc
    data = records.decode(content, dict[str, Any], str(path)) if path.suffix == ".json" else _yaml(content, path)
    if isinstance(data.get("labels"), str):
        data["labels"] = _lines(path.parent / data["labels"], path)
    for label in data.get("labels") or []:
        if not isinstance(label, str):
            raise BadInput(
                f"{path}: labels: YAML takes {label!r} for a {type(label).__name__}; put the labels in quotes"
            )
    return records.convert(data, Description, str(path))


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
        lines = labels.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else "not UTF-8"
        raise BadInput(
            f"{where}: labels: {labels} cannot be read: {why}; it is a text file, or a list of them"
        ) from exc
    return [line.strip() for line in lines if line.strip()]
