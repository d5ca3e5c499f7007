"""Adopt: an ONNX file from elsewhere becomes a bundle like any other, without PyTorch.

Our input, camera pixels as uint8 (N, H, W, C), is put in front of its graph, and its outputs become those of its task.
What the graph must compute after that is what the file itself computes on ONNX Runtime, in float32, of pixels that were
normalized on the host: another way to the same numbers.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnx.version_converter
from numpy.typing import NDArray

import edgecv_runtime
from edgecv_export import gate, rewrite
from edgecv_export.interface import INPUT, check_frames
from edgecv_export.sealing import Reference, seal
from edgecv_runtime import backends, geometry, onnxfile, tasks
from edgecv_runtime.backends import Backend, Options
from edgecv_runtime.backends.fixed import FixedBatch
from edgecv_runtime.description import Description
from edgecv_runtime.errors import BadInput, ComputationError, EdgecvError
from edgecv_runtime.forms.base import by_frame, spec_of, translate
from edgecv_runtime.inputs import Input, fitting
from edgecv_runtime.manifest import Budget
from edgecv_runtime.preprocess import Image, Normalization
from edgecv_runtime.verify.compare import Arrays

RUNTIME = "onnxruntime"  # that computes the reference
OPSET = 17  # the oldest that int8 is written in
_QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger")


@dataclass(frozen=True)
class Adopted:
    """What was proved: the largest difference from the file itself per backend, relative to the largest output.

    rows: how many frames the graph takes at once, where its batch could not be freed; 0: any number. notes: what was
    done to the graph, and what could not be, one line each.
    """

    path: Path
    parity: dict[str, float]
    rows: int
    notes: tuple[str, ...]


def adopt(
    model: str | Path,
    description: Description,
    path: str | Path,
    *,
    images: Image,
    name: str | None = None,
    budget: Budget | None = None,
    provenance: Mapping[str, str] | None = None,
) -> Adopted:
    """Make a bundle of an ONNX file, behind the parity gate.

    description: what the file does not say of itself. images: at least 8 real images, (N, H, W, C) uint8, preprocessed
    as the description says: the gate runs on them, and the first 8 travel as golden inputs. name: by default the
    file's. Nothing is written when anything is refused.
    Raises ModelFileError, BadInput where file and description do not fit each other, with what is missing, ParityError
    where a backend does not compute what the file does, BackendUnavailable without ONNX Runtime.
    """
    source = Path(model)
    check_frames(images, max(gate.BATCHES), "adopting")
    header = onnxfile.read(source)
    quantized = sorted(set(_QUANTIZED) & set(header.operators))
    if quantized:
        raise BadInput(
            f"{source}: is quantized already ({', '.join(quantized)}): adopt the float file, then 'edgecv quantize'"
        )
    entry = fitting(header.inputs, description.preprocess, description.normalization, str(source))
    try:
        description.form.check(by_frame(header.outputs, entry.rows), description.head, entry.preprocess.size)
        with _Original(source, entry, description, images) as original:
            notes = original.notes
            proto = _readable(source, notes)
            built, rows = _freed(proto, original, images)
            parity = seal(
                built,
                path,
                name=name or source.stem,
                head=description.head,
                preprocess=description.preprocess,
                normalization=description.normalization or _identity(description.preprocess.channels),
                images=images,
                reference=Reference(f"{source.name} itself", original.compute),
                budget=budget,
                provenance=_facts(source, header, notes) | dict(provenance or {}),
                rows=rows,
            )
    except EdgecvError as exc:
        if str(source) in str(exc):
            raise
        raise type(exc)(f"{source}: {exc}") from exc
    return Adopted(Path(path), parity, rows, tuple(notes))


class _Original:
    """The file itself on ONNX Runtime, and what the task makes of it; closed by `with`.

    raw: the file's own outputs of the first images, a row a frame. lacking: those that have no axis for frames.
    rows: how many frames it takes at once; 0: any number. notes: what is to be said of it.
    """

    def __init__(self, source: Path, entry: Input, description: Description, images: Image) -> None:
        backends.get(RUNTIME).probe()  # or says what to install
        self.entry, self.description, self.rows = entry, description, entry.rows
        self.notes: list[str] = []
        self._backend: Backend = backends.get(RUNTIME)(source, Options())
        try:
            self.rows = entry.rows or (0 if self._takes_any(images) else 1)
            first = self._feeds(images[: self.rows or 1])
            self.lacking = {
                name
                for name, each in self._backend.run(first).items()
                if not each.ndim or len(each) != (self.rows or 1)
            }
            self._run = FixedBatch(self._backend, self.rows, str(source)) if self.rows else self._backend
            self.raw = self._run.run(self._feeds(images[: max(gate.BATCHES)]))
            self._check(images[: max(gate.BATCHES)])
        except BaseException:
            self.close()
            raise

    @property
    def batch(self) -> str:
        """What the file's own batch is, in words."""
        return f"fixed to {self.entry.rows}" if self.entry.rows else "free by name only"

    def compute(self, frames: Image) -> Arrays:
        """The task's tensors of frames (N, H, W, C) uint8."""
        head, size = self.description.head, self.entry.preprocess.size
        return translate(self.description.form, head, self._run.run(self._feeds(frames)), size)

    def close(self) -> None:
        """Release the session."""
        self._backend.close()

    def __enter__(self) -> _Original:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _feeds(self, frames: Image) -> dict[str, NDArray[Any]]:
        return {self.entry.spec.name: self.entry.tensor(frames)}

    def _takes_any(self, images: Image) -> bool:
        """Whether a graph that says so computes frames in a batch as it does each alone."""
        count = max(gate.BATCHES)
        single = [self._backend.run(self._feeds(images[index : index + 1])) for index in range(count)]
        try:
            whole = self._backend.run(self._feeds(images[:count]))
        except EdgecvError:  # its axis is free by name only
            return False
        return all(_as_alone([one[name] for one in single], each) for name, each in whole.items())

    def _check(self, frames: Image) -> None:
        """Raise BadInput where real outputs are not what the description says, as far as numbers show it."""
        head, size = self.description.head, self.entry.preprocess.size
        form = self.description.form
        made = translate(form, head, self.raw, size)
        if len(self.raw) and not head.unsaid:  # what is open is settled when the bundle is sealed
            specs = tuple(spec_of(name, each) for name, each in made.items())
            tasks.create(head, specs).decode(made, [geometry.whole(size)] * len(frames))
        doubt = form.doubt(made, size)
        if doubt:
            raise BadInput(doubt)


def _as_alone(single: list[NDArray[Any]], whole: NDArray[Any]) -> bool:
    """Whether a batch gives what its frames give one by one; not where they have no axis for that, or other sizes."""
    if not whole.ndim or not all(each.ndim for each in single) or len({each.shape[1:] for each in single}) > 1:
        return False
    return gate.difference(np.concatenate(single), whole) <= gate.TOLERANCE


def _readable(source: Path, notes: list[str]) -> Any:
    """The graph with its functions inlined, of an opset that int8 can be written in, its nodes named."""
    proto = onnx.load(source)
    try:
        if proto.functions:
            proto = onnx.inliner.inline_local_functions(proto)
        found = next(each.version for each in proto.opset_import if each.domain in ("", "ai.onnx"))
        if found < OPSET:
            proto = onnx.version_converter.convert_version(proto, OPSET)
            notes.append(f"opset {found} was converted to {OPSET}")
    except Exception as exc:  # whatever the converter, which is C++, raises
        first = (str(exc).strip().splitlines() or [type(exc).__name__])[0]
        raise ComputationError(f"cannot be brought to opset {OPSET}: {first}; export it with that opset") from exc
    proto.ir_version = max(proto.ir_version, 8)
    constants = {each.name for each in proto.graph.initializer}
    inputs = [each for each in proto.graph.input if each.name not in constants]
    del proto.graph.input[:]
    proto.graph.input.extend(inputs)
    rewrite.name_nodes(proto.graph)
    return proto


def _freed(proto: Any, original: _Original, images: Image) -> tuple[Any, int]:
    """The graph between our input and the task's outputs, with a free batch where it then still computes right.

    -> with the rows of a batch that stays fixed, or 0.
    """
    if not original.rows:
        return _built(proto, original, 0), 0
    try:
        freed = _built(rewrite.with_free_batch(proto, original.rows), original, 0)
        why = _differs(freed, original, images)
    except (EdgecvError, onnx.shape_inference.InferenceError, onnx.checker.ValidationError) as exc:
        why = str(exc).strip().splitlines()[0]
    if not why:
        original.notes.append(f"its batch, {original.batch}, was freed")
        return freed, 0
    told = f"its batch, {original.batch}, cannot be freed: {why}"
    original.notes.append(f"{told}; it takes {original.rows} at a time, and is not quantized here")
    return _built(proto, original, original.rows), original.rows


def _differs(model: Any, original: _Original, images: Image) -> str:
    """How a graph differs from the file itself at some batch on ONNX Runtime, or ""."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="edgecv-") as folder:
        file = Path(folder) / "freed.onnx"
        file.write_bytes(model.SerializeToString())
        backend: Backend = backends.get(RUNTIME)(file, Options())
        try:
            for batch in gate.BATCHES:
                got = backend.run({INPUT: np.ascontiguousarray(images[:batch])})
                for name, each in original.compute(images[:batch]).items():
                    if each.shape != got[name].shape:
                        return f"it gives {got[name].shape} for {batch} frames"
                    if not gate.difference(each, got[name]) <= gate.TOLERANCE:
                        return f"it computes something else for {batch} frames"
        finally:
            backend.close()
    return ""


def _built(proto: Any, original: _Original, rows: int) -> Any:
    """A copy with our input in front and the task's outputs behind; simplified, where that works."""
    description, entry = original.description, original.entry
    size, channels = entry.preprocess.size, entry.preprocess.channels
    model = onnx.ModelProto()
    model.CopyFrom(proto)
    graph = model.graph
    made = tuple(spec.name for spec in description.form.made(description.head, size))
    theirs = rewrite.free(graph, (INPUT, *made))
    rewrite.put_input(model, size, channels, entry.layout, description.normalization, rows)
    rewrite.put_outputs(
        graph, description.form, description.head, size, original.raw, names=theirs, lacking=original.lacking, rows=rows
    )
    model.doc_string = ""
    del model.metadata_props[:]
    return _simplified(model, original.notes)


def _simplified(model: Any, notes: list[str]) -> Any:
    """Without what computes nothing; as it is where onnxslim cannot take it."""
    import onnxslim

    logging.getLogger("onnxslim").setLevel(logging.ERROR)
    try:
        slim = onnxslim.slim(model)
    except Exception as exc:  # of shape inference, of ONNX Runtime, of its own
        line = (str(exc).strip().splitlines() or [type(exc).__name__])[0]
        notes += [] if any(note.startswith("not simplified") for note in notes) else [f"not simplified: {line}"]
        return model
    del slim.metadata_props[:]
    return slim


def _identity(channels: int) -> Normalization:
    """Of a graph that normalizes by itself: pixels as they are."""
    return Normalization((0.0,) * channels, (1 / 255,) * channels)


def _facts(source: Path, header: onnxfile.OnnxHeader, notes: list[str]) -> dict[str, str]:
    facts = {"edgecv": edgecv_runtime.__version__, "adopted": source.name}
    facts["sha256"] = onnxfile.digest(source, tuple(header.external))
    return facts | ({"changes": "; ".join(notes)} if notes else {})
