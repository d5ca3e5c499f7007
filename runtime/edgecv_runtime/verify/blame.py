"""Name why a file on a backend does not answer as the reference did: what each fault leaves behind, in a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecv_runtime import onnxgraph
from edgecv_runtime.backends import UNKNOWN, Executed, Tensors
from edgecv_runtime.budget import weigh
from edgecv_runtime.errors import EdgecvError
from edgecv_runtime.evidence import Finding
from edgecv_runtime.golden import Golden
from edgecv_runtime.inputs import mismatch, other_labels
from edgecv_runtime.manifest import Manifest, Precision
from edgecv_runtime.offers import is_float32s
from edgecv_runtime.onnxfile import OnnxHeader
from edgecv_runtime.onnxgraph import Node
from edgecv_runtime.preprocess import Image
from edgecv_runtime.target import Target
from edgecv_runtime.tasks.reading import Fault
from edgecv_runtime.verify import faults, trace
from edgecv_runtime.verify.compare import WORST, Comparison, Outputs
from edgecv_runtime.verify.score import relative_error

LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
# Quantized logits this far off, relative to the right ones, are no rounding any more.
QUANTIZED_LOGITS = 0.7
# Times the error of the quantized file itself that a backend must add to be the one to blame: rounding alone can add as
# much as the file has, for where the grid is coarse a tensor that is on the edge of a step goes either way.
_CLEAR = 2.0


@dataclass(frozen=True)
class Case:
    """What ran and what came out, beside what should have."""

    target: Target
    manifest: Manifest
    executed: Executed
    expected: Outputs  # the reference's, and the frames
    comparison: Comparison | None  # None: what came out was not finite
    golden: Golden
    float_file: Path
    broken: Sequence[int] = ()  # frames whose outputs were not finite

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
        if self.comparison is None:
            return True
        found = self.comparison.agreement
        if self.precision == "float32":
            return not is_float32s(found, self.manifest.head, self.manifest.outputs)
        broken = weigh(self.manifest.budget, found, self.comparison.score).broken
        return bool(broken) or self.comparison.error > QUANTIZED_LOGITS

    @cached_property
    def picked(self) -> list[int]:
        """Indices of the frames that differ most: as many as a fixed batch takes, some more than once if need be."""
        worst = self.broken[:WORST] or range(min(WORST, len(self.expected)))
        if self.comparison is not None:
            worst = self.comparison.worst
        return sorted(int(index) for index in np.resize(list(worst), self.target.rows or len(worst)))

    @cached_property
    def feeds(self) -> dict[str, Image]:
        """These frames, as the network takes them."""
        return {self.manifest.input.name: np.ascontiguousarray(self.expected.frames[self.picked])}

    @cached_property
    def inside(self) -> trace.Inside:
        """Every tensor of the file, from the reference executor."""
        return trace.tensors(self.model, self.feeds)

    @cached_property
    def fresh(self) -> Tensors:
        """The outputs of the same backend when it compiles the file anew, under a name it has never seen."""
        return trace.compiled(self.target, self.model, self.feeds)

    @cached_property
    def cached(self) -> Tensors:
        """The outputs of the same frames as the backend gave them under the file's own name."""
        backend = self.target.open()
        try:
            return backend.run(self.feeds)
        finally:
            backend.close()

    @cached_property
    def errors(self) -> tuple[float, float]:
        """How far the backend is off from the reference executor on this file, and that from what should have come."""
        wanted = {each.name: self.inside[each.name] for each in self.manifest.outputs}
        return self.off(wanted, self.fresh), self.off(self.expected.of(self.picked), wanted)

    def off(self, wanted: Tensors, got: Tensors) -> float:
        """How far outputs are off, by the one that is farthest: floats by their error, others by how many differ."""
        return max(_off(wanted[each.name], got[each.name]) for each in self.manifest.outputs if each.name in wanted)


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
    return "an output is NaN or infinite" if case.comparison is None else ""


def _other_model(case: Case) -> str:
    if not case.target.is_remote:  # whose inside cannot be looked at
        return ""
    return f"{case.target.machine.key} does not compute this bundle's {case.target.variant}: {_other_file(case)}"


def _stale(case: Case) -> str:
    if case.off(case.fresh, case.cached) <= trace.FLOAT_ERROR:
        return ""
    return f"{case.target.backend} answers otherwise when it compiles the same file anew"


def _backend(case: Case) -> str:
    off, own = case.errors
    is_float = case.precision == "float32"
    is_right = own <= (trace.STEP_ERROR if is_float else trace.QUANTIZED_ERROR)  # else the file itself is to blame
    is_clear = is_float or off > _CLEAR * own
    if not is_right or not is_clear or off <= (trace.FLOAT_ERROR if is_float else trace.STEP_ERROR):
        return ""
    return f"{case.target.backend} is off by {off:.2%} from the reference executor"


def _undecided(case: Case) -> str:
    if case.precision == "float32":
        return ""
    off, own = case.errors
    if off <= trace.STEP_ERROR or own > trace.QUANTIZED_ERROR:
        return ""
    return (
        f"{case.target.backend} is off by {off:.2%} from the reference executor, which is itself off by {own:.2%} from "
        "float32 on this file: a grid this coarse makes a step of rounding as large"
    )


def _quantization(case: Case) -> str:
    return f"far from float32 in {case.precision}, on every executor" if case.precision != "float32" else ""


def _foreign(case: Case) -> str:
    lacks = f"it lacks {len(case.missing)} of the {len(case.sealed)} constants that were exported"
    return lacks if case.missing else ""


def _other_file(case: Case) -> str:
    if case.comparison is None:
        return "its outputs are not finite"
    found = case.comparison.agreement
    return f"its {found.metric} agreement is {found.share.value:.1%}, its outputs are off by up to {found.max_abs:.3g}"


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
    Row(faults.OTHER_MODEL, _other_model, _nowhere),
    Row(faults.OTHER_FILE, _foreign, _nowhere),
    Row(faults.SCALE, _scale, _reader, needs_disagreement=False),
    Row(faults.NORMALIZATION, _normalization, _reader, needs_disagreement=False),
    Row(faults.OTHER_TRAINING, _other_training, _reader, needs_disagreement=False),
    Row(faults.ONE_LAYER, _damaged, _reader, needs_disagreement=False),
    Row(faults.NOT_FINITE, _not_finite, _overflowing),
    Row(faults.STALE, _stale, _nowhere),
    Row(faults.BACKEND, _backend, _diverging),
    Row(faults.UNDECIDED, _undecided, _losing),
    Row(faults.QUANTIZATION, _quantization, _losing),
    Row(faults.OTHER_FILE, _other_file, _nowhere),
)


def _off(wanted: NDArray[Any], got: NDArray[Any]) -> float:
    if wanted.dtype.kind == "f" or wanted.shape != got.shape:
        return relative_error(wanted, got)
    return float((wanted != got).mean())


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
