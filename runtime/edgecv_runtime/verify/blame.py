"""Name why a file on a backend does not answer as PyTorch did: what each fault leaves behind, in a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgecv_runtime import onnxgraph, tasks
from edgecv_runtime.backends import UNKNOWN, Executed
from edgecv_runtime.budget import weigh
from edgecv_runtime.errors import EdgecvError
from edgecv_runtime.evidence import Finding, Score
from edgecv_runtime.golden import Golden
from edgecv_runtime.inputs import mismatch, other_labels
from edgecv_runtime.manifest import Manifest, Precision
from edgecv_runtime.offers import is_float32s
from edgecv_runtime.onnxfile import OnnxHeader
from edgecv_runtime.onnxgraph import Node
from edgecv_runtime.preprocess import Image
from edgecv_runtime.target import Target
from edgecv_runtime.verify import faults, trace
from edgecv_runtime.verify.faults import Fault
from edgecv_runtime.verify.score import agreement, relative_error

FRAMES = 2  # that are looked into: the ones that differ most
LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
# Quantized logits this far off, relative to the right ones, are no rounding any more.
QUANTIZED_LOGITS = 0.7


@dataclass(frozen=True)
class Case:
    """What ran and what came out, beside what should have."""

    target: Target
    manifest: Manifest
    executed: Executed
    frames: Image
    reference: NDArray[np.float32]
    outputs: NDArray[np.float32] | None  # None: they were not finite
    golden: Golden
    float_file: Path
    score: Score | None = None  # where the frames have labels

    @cached_property
    def model(self) -> bytes:
        """The file that should have run."""
        return self.target.file.read_bytes()

    @cached_property
    def graph(self) -> onnxgraph.Graph:
        """Its nodes and constants."""
        return onnxgraph.read(self.model)

    @property
    def precision(self) -> Precision:
        """What the variant claims to be."""
        variant = self.manifest.variant(self.target.variant)
        assert variant is not None
        return variant.precision if variant.precision != "float32" else self.target.hint

    @property
    def sealed(self) -> Mapping[str, int]:
        """Digests of its constants when it was exported."""
        return self.golden.constants.get(self.target.file.name, {})

    @cached_property
    def altered(self) -> list[str]:
        """Constants of the file whose values are not those that were sealed."""
        return [name for name, digest in self.graph.constants.items() if self.sealed.get(name, digest) != digest]

    @cached_property
    def missing(self) -> list[str]:
        """Constants that were sealed and that the file has not: it is another network's."""
        return [name for name in self.sealed if name not in self.graph.constants]

    @cached_property
    def disagrees(self) -> bool:
        """Whether the outputs differ by more than this precision may, or break the budget as the verdict weighs it."""
        if self.outputs is None:
            return True
        meaning = tasks.create(self.manifest.head, self.manifest.outputs).meaning(self.outputs)
        found = agreement(self.reference, self.outputs, "", meaning=meaning)
        if self.precision == "float32":
            return not is_float32s(found, self.manifest.head)
        shifts = meaning.scores == "logits" and not meaning.thresholds and not meaning.opposites
        centred = _centred if shifts else np.asarray  # a softmax does not see what all logits share
        error = relative_error(centred(self.reference), centred(self.outputs))
        return bool(weigh(self.manifest.budget, found, self.score).broken) or error > QUANTIZED_LOGITS

    @cached_property
    def picked(self) -> NDArray[np.int64]:
        """Indices of the frames that differ most: as many as a fixed batch takes, some more than once if need be."""
        count = self.target.rows or FRAMES
        if self.outputs is None:
            found = np.arange(min(count, len(self.frames)))
        else:
            found = np.argsort(-np.abs(self.outputs - self.reference).max(axis=1), kind="stable")[:count]
        return np.sort(np.resize(found, self.target.rows or len(found)))

    @cached_property
    def feeds(self) -> dict[str, Image]:
        """These frames, as the network takes them."""
        return {self.manifest.input.name: np.ascontiguousarray(self.frames[self.picked])}

    @cached_property
    def inside(self) -> trace.Inside:
        """Every tensor of the file, from the reference executor."""
        return trace.tensors(self.model, self.feeds)

    @cached_property
    def fresh(self) -> NDArray[np.float32]:
        """The outputs of the same backend when it compiles the file anew, under a name it has never seen."""
        found: NDArray[np.float32] = trace.compiled(self.target, self.model, self.feeds)[self.manifest.outputs[0].name]
        return found

    @cached_property
    def cached(self) -> NDArray[np.float32]:
        """The outputs of the same frames as the backend gave them under the file's own name."""
        backend = self.target.open()
        try:
            found: NDArray[np.float32] = backend.run(self.feeds)[self.manifest.outputs[0].name]
        finally:
            backend.close()
        return found


def name(case: Case) -> Finding | None:
    """The fault behind a case, or None when there is none."""
    for row in TABLE:
        if row.needs_disagreement and not case.disagrees:
            continue
        detail = row.shows(case)
        if detail:
            return Finding(row.fault.name, detail, row.fault.cure, _node(case, row))
    return None


def unlike(header: OnnxHeader, manifest: Manifest) -> Finding | None:
    """How a file's input, outputs or labels are not what the manifest says: no backend need run to tell."""
    for fault, told in (
        (faults.INTERFACE, mismatch(header, manifest)),
        (faults.LABELS, other_labels(header, manifest)),
    ):
        if told:
            return Finding(fault.name, told, fault.cure)
    return None


def _node(case: Case, row: Row) -> str:
    """The first node that differs; a fault that has been named stands also where it cannot be told."""
    try:
        node = row.node(case)
    except EdgecvError:
        return ""
    return node.readable if node else ""


# What each fault leaves behind: a sentence when it shows, else ""


def _precision(case: Case) -> str:
    ran = case.executed.precision
    told = ran not in ("", UNKNOWN)
    return f"{ran} ran where float32 was claimed" if case.precision == "float32" != ran and told else ""


def _scale(case: Case) -> str:
    scales = [name for name in case.altered if _readers(case, name, 1, 2)]
    if not scales or len(scales) < len(case.altered):
        return ""
    return f"{_listed(scales)} {'is' if len(scales) == 1 else 'are'} not what quantization wrote"


def _normalization(case: Case) -> str:
    before = _before_layers(case.graph)
    return f"{_listed(case.altered)} differ from the export" if case.altered and set(case.altered) <= before else ""


def _damaged(case: Case) -> str:
    layers, total = _altered_layers(case)
    return f"{_listed(layers)} of {total} layers: not the weights that were exported" if layers else ""


def _other_training(case: Case) -> str:
    layers, total = _altered_layers(case)
    return f"{len(layers)} of {total} layers hold other weights" if len(layers) > max(2, total / 2) else ""


def _not_finite(case: Case) -> str:
    return "an output is NaN or infinite" if case.outputs is None else ""


def _stale(case: Case) -> str:
    cached, fresh = case.cached, case.fresh
    if relative_error(fresh, cached) <= trace.FLOAT_ERROR:
        return ""
    return f"{case.target.backend} answers otherwise when it compiles the same file anew"


def _backend(case: Case) -> str:
    wanted = case.inside[case.manifest.outputs[0].name]
    is_float = case.precision == "float32"
    off, own = relative_error(wanted, case.fresh), relative_error(case.reference[case.picked], wanted)
    is_right = own <= (trace.STEP_ERROR if is_float else trace.QUANTIZED_ERROR)  # else the file itself is to blame
    if not is_right or off <= (trace.FLOAT_ERROR if is_float else trace.STEP_ERROR):
        return ""
    return f"{case.target.backend} is off by {off:.2%} from the reference executor"


def _quantization(case: Case) -> str:
    return f"far from float32 in {case.precision}, on every executor" if case.precision != "float32" else ""


def _foreign(case: Case) -> str:
    lacks = f"it lacks {len(case.missing)} of the {len(case.sealed)} constants that were exported"
    return lacks if case.missing else ""


def _other_file(case: Case) -> str:
    found = agreement(case.reference, case.outputs, "") if case.outputs is not None else None
    return f"its logits are off by up to {found.max_abs:.3g}" if found else "its outputs are not finite"


# Where it starts


def _reader(case: Case) -> Node | None:
    """The first node that reads an altered constant, directly or dequantized."""
    return next((node for node in case.graph.nodes if {*node.inputs} & {*case.altered}), None)


def _diverging(case: Case) -> Node | None:
    """The first node whose output on this backend is not the reference executor's."""
    allowed = trace.FLOAT_ERROR if case.precision == "float32" else trace.STEP_ERROR
    got = trace.compiled_tensors(case.target, case.model, case.feeds)
    return trace.first_difference(case.model, case.inside, got, allowed)


def _losing(case: Case) -> Node | None:
    """The first node that quantization moved far from float."""
    return trace.against_float(case.model, trace.tensors(case.float_file.read_bytes(), case.feeds), case.inside)


def _overflowing(case: Case) -> Node | None:
    """The first node whose output is not finite."""
    return next(
        (
            node
            for node in case.graph.nodes
            if any(each in case.inside and not np.isfinite(case.inside[each]).all() for each in node.outputs)
        ),
        None,
    )


def _nowhere(_: Case) -> Node | None:
    return None


@dataclass(frozen=True)
class Row:
    """A fault, what shows it, and how to find the first node that it changes."""

    fault: Fault
    shows: Callable[[Case], str]
    node: Callable[[Case], Node | None]
    needs_disagreement: bool = True


# Sure signs come first: a constant that was exchanged is a fault also where the golden inputs do not feel it.
TABLE = (
    Row(faults.PRECISION, _precision, _diverging, needs_disagreement=False),
    Row(faults.OTHER_FILE, _foreign, _nowhere),
    Row(faults.SCALE, _scale, _reader, needs_disagreement=False),
    Row(faults.NORMALIZATION, _normalization, _reader, needs_disagreement=False),
    Row(faults.OTHER_TRAINING, _other_training, _reader, needs_disagreement=False),
    Row(faults.ONE_LAYER, _damaged, _reader, needs_disagreement=False),
    Row(faults.NOT_FINITE, _not_finite, _overflowing),
    Row(faults.STALE, _stale, _nowhere),
    Row(faults.BACKEND, _backend, _diverging),
    Row(faults.QUANTIZATION, _quantization, _losing),
    Row(faults.OTHER_FILE, _other_file, _nowhere),
)


def _centred(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    centred: NDArray[np.float32] = logits - logits.mean(axis=1, keepdims=True)
    return centred


def _listed(names: list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _readers(case: Case, constant: str, *places: int) -> list[Node]:
    """Nodes that read a constant as the scale or zero point of a quantization."""
    return [
        node
        for node in case.graph.nodes
        if node.operator in ("QuantizeLinear", "DequantizeLinear")
        and constant in [node.inputs[at] for at in places if at < len(node.inputs)]
    ]


def _before_layers(graph: onnxgraph.Graph) -> set[str]:
    """Constants that the nodes ahead of the first layer read."""
    read: set[str] = set()
    for node in graph.nodes:
        if node.operator in LAYERS:
            break
        read |= {*node.inputs}
    return read & set(graph.constants)


def _altered_layers(case: Case) -> tuple[list[str], int]:
    """Names of the layers of which a constant was altered, and the number of all layers."""
    made = {output: node for node in case.graph.nodes for output in node.outputs}
    altered, layers = [], [node for node in case.graph.nodes if node.operator in LAYERS]
    for node in case.graph.nodes:
        reads = {*node.inputs}
        for each in node.inputs:
            if each in made and made[each].operator == "DequantizeLinear":
                reads |= {*made[each].inputs}
        if reads & set(case.altered) and node.operator not in ("QuantizeLinear", "DequantizeLinear"):
            altered.append(node.name or node.outputs[0])
    return altered, len(layers)
