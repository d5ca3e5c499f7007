"""Predict what a network costs on a surveyed device, layer by layer, and how near the hardware's limit that is."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import msgspec

from edgecv.cost.kernels import Kernel, kernels
from edgecv.cost.model import RUN, quantities
from edgecv.cost.record import Limits, Survey
from edgecv.xray.graph import WEIGHTED, Graph, Layer
from edgecv_runtime.errors import BadInput
from edgecv_runtime.manifest import Precision
from edgecv_runtime.records import Record

Bound = Literal["compute", "memory", "overhead"]
FRAMES = "(frames to tensors)"


class KernelCost(Record, frozen=True):
    """One kernel: what it is predicted to take.

    layers: names of the layers that run in it, the main one first. share: of the predicted total, 0 to 1.
    limit_ms: below which the hardware cannot go. bound: which of its costs is the largest.
    """

    kind: str
    layers: tuple[str, ...]
    ms: float
    share: float
    limit_ms: float
    bound: Bound


class Prediction(Record, frozen=True):
    """What a network costs on a device, at batch 1.

    machine: its short name. error: the survey's own leave-out error. limit_ms: sum of the kernels' limits.
    unknown: operations without a rule, and how many; they are costed by the bytes that they move.
    kernels: in the order in which they run; what the run itself costs is in none of them.
    """

    name: str
    machine: str
    backend: str
    precision: Precision
    error: float
    ms: float
    limit_ms: float
    unknown: dict[str, int]
    kernels: tuple[KernelCost, ...]

    def reached(self, measured_ms: float) -> float:
        """Fraction of the hardware's limit that a real run reached: limit / measured."""
        return self.limit_ms / measured_ms


class Forecast(Record, frozen=True):
    """A prediction, and a real run if there was one: its time and the fraction of the hardware's limit it reached.

    slower: how many times as long the reference network took beside the real run as at the survey.
    """

    prediction: Prediction
    measured_ms: float | None = None
    reached: float | None = None
    slower: float | None = None


def predict(graph: Graph, survey: Survey) -> Prediction:
    """Predict a network's latency on a surveyed device.

    A network of pictures read from PyTorch is predicted as edgecv deploys it: with the cast, transposition and
    normalization of uint8 frames before it. A kernel never takes less than the hardware's limit.
    Raises BadInput for a quantized network.
    """
    if any(_is_quantized(layer, graph) for layer in graph.layers):
        raise BadInput(f"{graph.name} is quantized; surveys are of float networks: give its float32 variant")
    found = kernels(graph, survey.backend)
    if graph.source == "torch" and len(graph.tensors[graph.inputs[0]].shape) == 4:
        found = [*_frames(graph), *found]
    limits, costs = survey.limits, survey.costs
    far = limits.far_share(sum(kernel.weight_bytes for kernel in found))
    rows = [_row(kernel, costs, limits, far) for kernel in found]
    total = costs.get(RUN, 0.0) / 1e3 + sum(row.ms for row in rows)
    return Prediction(
        name=graph.name,
        machine=survey.machine.key,
        backend=survey.backend,
        precision=survey.precision,
        error=survey.error,
        ms=total,
        limit_ms=sum(row.limit_ms for row in rows),
        unknown=dict(Counter(op for kernel in found for op in kernel.unknown)),
        kernels=tuple(msgspec.structs.replace(row, share=row.ms / total) for row in rows),
    )


def _is_quantized(layer: Layer, graph: Graph) -> bool:
    """Whether it quantizes, or multiplies what is stored in one byte: a pair of Q/DQ is a type, no layer."""
    stored = [graph.tensors[name].item_bytes for name in layer.inputs]
    return layer.kind == "quantize" or (layer.kind in WEIGHTED and 1 in stored)


def _row(kernel: Kernel, costs: dict[str, float], limits: Limits, far: float) -> KernelCost:
    """A kernel's cost, its share still open."""
    part = {name: value * costs.get(name, 0.0) / 1e3 for name, value in quantities(kernel, far).items()}
    compute = kernel.macs / limits.gmacs_per_s / 1e6
    near_bytes = kernel.read_bytes + kernel.write_bytes + (1 - far) * kernel.weight_bytes
    memory = max(far * kernel.weight_bytes / limits.memory_gb_per_s, near_bytes / limits.cache_gb_per_s) / 1e6
    overhead = sum(value for name, value in part.items() if name.endswith(": dispatch"))
    bounds: dict[Bound, float] = {"compute": compute, "memory": memory, "overhead": overhead}
    return KernelCost(
        kind=kernel.kind,
        layers=kernel.layers,
        ms=max(sum(part.values()), compute, memory),
        share=0.0,
        limit_ms=max(compute, memory),
        bound=max(bounds, key=lambda name: bounds[name]),
    )


def _frames(graph: Graph) -> Sequence[Kernel]:
    """What stands before every exported network: cast, transposition, scale and offset of uint8 pixels."""
    numbers = math.prod(graph.tensors[graph.inputs[0]].shape)
    return [
        Kernel(kind, (FRAMES,), places=numbers, read_bytes=read * numbers, write_bytes=4 * numbers)
        for kind, read in (("copy", 1), ("transpose", 4), ("affine", 4), ("affine", 4))
    ]
