"""What a bundle says of itself and a plain ONNX file does not: how pixels come in, and what its outputs mean.

As a file, YAML or JSON, it lies beside the model:

    task: classification          # or segmentation, detection
    labels: [cat, dog]            # or the name of a text file with one label a line
    preprocess: {size: [224, 224], mode: crop, resize: 256}
    normalization: {mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}   # of a float input
    scores: logits                # where the graph does not prove it
    thresholds: [0.5]             # of labels of which several may hold

What else a task's head has is said beside its labels, and so is where its outputs stand (see `forms`).
"""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edgecv_runtime import records, task_table
from edgecv_runtime.errors import BadInput, Unavailable, nearest
from edgecv_runtime.head import Head
from edgecv_runtime.preprocess import Normalization, Preprocess
from edgecv_runtime.records import Record

if TYPE_CHECKING:
    from edgecv_runtime.forms import Form

EXAMPLE = "labels: [cat, dog], preprocess: {size: [224, 224]}, normalization: {mean: [...], std: [...]}"


class Description(Record, frozen=True):
    """What has to be said of a plain ONNX file.

    head: what the outputs mean. normalization: None where the input is uint8 and the graph normalizes. outputs: how
    the graph's outputs become those that the task wants; None where they need nothing.
    """

    head: Head
    preprocess: Preprocess
    normalization: Normalization | None = None
    outputs: Form | None = None

    @property
    def form(self) -> Form:
        """What is said of the outputs, or the task's usual form."""
        from edgecv_runtime import forms

        return self.outputs or forms.find(self.head.task)()


class _Pixels(Record, frozen=True):
    """What is said of the input."""

    preprocess: Preprocess
    normalization: Normalization | None = None


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
    return _described(data, path)


def _described(data: dict[str, Any], path: Path) -> Description:
    """A description of what a file says: each key belongs to the input, to the task's head or to its form."""
    from edgecv_runtime import forms

    task = data.pop("task", "classification")
    if not isinstance(task, str):
        raise BadInput(f"{path}: task: a name such as {', '.join(task_table.TASKS)}; got {task!r}")
    try:
        kind = task_table.find(task).head
    except BadInput as exc:
        raise BadInput(f"{path}: task: {exc}") from exc
    form = forms.find(task)
    pixels, outputs, head = (_of(data, each) for each in (_Pixels, form, kind))
    unknown = [name for name in data if not any(name in part for part in (pixels, outputs, head))]
    if unknown:
        known = [name for each in (_Pixels, form, kind) for name in _names(each)]
        raise BadInput(f"{path}: unknown key '{unknown[0]}'{nearest(str(unknown[0]), known)} (task: {task})")
    seen = records.convert(pixels, _Pixels, str(path))
    return Description(
        records.convert({"task": task, **kind.unsaid, **head}, kind, str(path)),
        seen.preprocess,
        seen.normalization,
        records.convert(outputs, form, str(path)),
    )


def _names(kind: Any) -> list[str]:
    return [field.encode_name for field in msgspec.structs.fields(kind)]


def _of(data: dict[str, Any], kind: type[Any]) -> dict[str, Any]:
    """What a mapping says of a record's fields."""
    return {
        field.encode_name: data[field.encode_name]
        for field in msgspec.structs.fields(kind)
        if field.encode_name in data
    }


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

        from edgecv_runtime import yamltext
    except ImportError as exc:
        raise Unavailable(f"{path}: YAML needs PyYAML (pip install pyyaml); or write it as JSON, NAME.json") from exc
    try:
        data = yamltext.load(content.decode())
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
