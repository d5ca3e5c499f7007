"""The table: cost, memory and receptive field of every layer, and the totals."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np

from edgecv.xray import moves
from edgecv.xray.graph import MOVEMENTS, WEIGHTED, Graph, Layer
from edgecv.xray.moves import Extent, Shape
from edgecv.xray.relations import Pair, arithmetic_intensity
from edgecv_runtime.records import Record


class Field(Record, frozen=True):
    """Receptive field of a layer's output, one number per spatial axis of the input, in pixels.

    size: what a place sees through windows; it may be larger than the picture. jump: between neighbouring places, 0
    where no place is left. centre: middle of the first place's field, 0 is the middle of the first pixel.
    whole: some path (global pooling, attention, a gate) lets every place see every pixel.
    """

    size: tuple[float, ...]
    jump: tuple[float, ...]
    centre: tuple[float, ...]
    whole: bool


class Row(Record, frozen=True):
    """One layer at batch 1. The definitions stand in docs/inspect.md.

    padding: (before, after) per axis. macs_share, parameters_share: of the total, 0 to 1.
    intensity: operations per byte, 2 MACs / (weight bytes + bytes of the layer's inputs and outputs).
    """

    name: str
    kind: str
    op: str
    inputs: tuple[str, ...]
    kernel: Shape
    stride: Shape
    padding: tuple[Pair, ...]
    dilation: Shape
    groups: int
    input_shape: Shape
    output_shape: Shape
    dtype: str
    parameters: int
    macs: int
    weight_bytes: int
    input_bytes: int
    activation_bytes: int
    intensity: float
    field: Field | None
    macs_share: float
    parameters_share: float


class Total(Record, frozen=True):
    """The whole network at batch 1.

    activation_bytes: of all layers' outputs. activations: outputs of layers with weights, in numbers (Radosavovic et
    al. 2020). peak_bytes: most activation memory at any time, of a plain executor; peak_inplace_bytes: when
    elementwise layers write over an input that nobody else needs. field: of the last layer that still has places.
    idle_parameters: of layers that inference never runs. uncounted: operations without a known cost, and how many.
    """

    layers: int
    parameters: int
    macs: int
    weight_bytes: int
    activation_bytes: int
    activations: int
    peak_bytes: int
    peak_inplace_bytes: int
    intensity: float
    field: Field | None
    idle_parameters: int
    uncounted: dict[str, int]


class Table(Record, frozen=True):
    """What `edgecv inspect` tells: name, where it was read from, shape of the input at batch 1, rows, total."""

    name: str
    source: str
    input_shape: Shape
    rows: tuple[Row, ...]
    total: Total


def table(graph: Graph) -> Table:
    """Compute the table of a graph."""
    fields = receptive_fields(graph)
    macs = sum(layer.macs for layer in graph.layers)
    parameters = sum(layer.parameters for layer in graph.layers)
    rows = tuple(_row(graph, layer, fields.get(layer.outputs[0]), macs, parameters) for layer in graph.layers)
    moved = sum(row.weight_bytes + row.input_bytes + row.activation_bytes for row in rows if row.kind != "reshape")
    seeing = [row.field for row in rows if row.field and max(row.field.jump) > 0 and row.kind not in MOVEMENTS]
    seeing = seeing or [row.field for row in rows if row.field]
    total = Total(
        layers=len(rows),
        parameters=parameters,
        macs=macs,
        weight_bytes=sum(row.weight_bytes for row in rows),
        activation_bytes=sum(row.activation_bytes for row in rows),
        activations=sum(math.prod(row.output_shape) for row in rows if row.kind in WEIGHTED),
        peak_bytes=peak_memory(graph),
        peak_inplace_bytes=peak_memory(graph, in_place=True),
        intensity=arithmetic_intensity(macs, moved),
        field=seeing[-1] if seeing else None,
        idle_parameters=graph.idle_parameters,
        uncounted=dict(Counter(row.op for row in rows if row.kind == "other")),
    )
    return Table(graph.name, graph.source, graph.tensors[graph.inputs[0]].shape, rows, total)


def _row(graph: Graph, layer: Layer, seen: Field | None, macs: int, parameters: int) -> Row:
    inputs = sum(graph.tensors[name].bytes for name in dict.fromkeys(layer.inputs))
    outputs = 0 if layer.kind == "reshape" else sum(graph.tensors[name].bytes for name in layer.outputs)
    return Row(
        name=layer.name,
        kind=layer.kind,
        op=layer.op,
        inputs=layer.inputs,
        kernel=layer.kernel,
        stride=layer.stride,
        padding=layer.padding,
        dilation=layer.dilation,
        groups=layer.groups,
        input_shape=graph.input_of(layer).shape,
        output_shape=graph.output_of(layer).shape,
        dtype=graph.output_of(layer).dtype,
        parameters=layer.parameters,
        macs=layer.macs,
        weight_bytes=layer.weight_bytes,
        input_bytes=inputs,
        activation_bytes=outputs,
        intensity=arithmetic_intensity(layer.macs, layer.weight_bytes + inputs + outputs),
        field=seen,
        macs_share=layer.macs / macs if macs else 0.0,
        parameters_share=layer.parameters / parameters if parameters else 0.0,
    )


def spatial_axes(shape: Shape) -> Shape:
    """Axes of an input that are space or time: all after the channels, which stand second, or last if fewer there."""
    if len(shape) < 3:
        return ()
    channels_last = len(shape) == 4 and shape[-1] <= 4 < shape[1]
    return tuple(range(1, len(shape) - 1)) if channels_last else tuple(range(2, len(shape)))


def receptive_fields(graph: Graph) -> dict[str, Field]:
    """Receptive field of every activation with respect to the first input, by the name of the tensor."""
    source = graph.inputs[0]
    shape = graph.tensors[source].shape
    found = [_extents(graph, axis) for axis in spatial_axes(shape)]
    return {name: _field([extents[name] for extents in found]) for name in found[0]} if found else {}


def _extents(graph: Graph, axis: int) -> dict[str, Extent]:
    """What every activation sees of one axis of the first input."""
    source = graph.inputs[0]
    known: dict[str, Extent] = {source: moves.of_input(graph.tensors[source].shape, axis)}
    for layer in graph.layers:
        inputs = [name for name in layer.inputs if name in known]
        if not inputs:
            continue
        shapes = [graph.tensors[name].shape for name in inputs]
        for output in layer.outputs:
            found = layer.move.apply([known[name] for name in inputs], shapes, graph.tensors[output].shape)
            only_whole = found.whole and not np.isfinite(found.low).any()  # a class token: it has no place of its own
            known[output] = moves.everything(found, found.low.ndim) if only_whole else found
    return known


def _field(extents: list[Extent]) -> Field:
    return Field(
        size=tuple(extent.size for extent in extents),
        jump=tuple(extent.jump for extent in extents),
        centre=tuple(extent.centre for extent in extents),
        whole=all(extent.whole for extent in extents),
    )


# Layers that may write their result over their input.
_IN_PLACE = ("activation", "norm", "add", "multiply", "softmax")


def peak_memory(graph: Graph, *, in_place: bool = False) -> int:
    """Most bytes of activations that are needed at the same time, inputs and outputs of the network included.

    A tensor lives from the layer that makes it to the last one that reads it; a reshape shares its input's memory.
    in_place: elementwise layers, normalizations and softmax write over an input of the same size that dies with them.
    """
    home = {name: name for name in graph.inputs}  # tensor -> the tensor whose memory it lies in
    last_use: dict[str, int] = {}
    for step, layer in enumerate(graph.layers):
        for name in layer.inputs:
            last_use[home[name]] = step
        for name in layer.outputs:
            home[name] = home[layer.inputs[0]] if layer.kind == "reshape" else name
    for name in graph.outputs:
        last_use[home[name]] = len(graph.layers)
    live = {name: graph.tensors[name].bytes for name in graph.inputs}
    peak = sum(live.values())
    for step, layer in enumerate(graph.layers):
        dying = {name for name in live if last_use.get(name, -1) <= step}
        made = {name: graph.tensors[name].bytes for name in layer.outputs if home[name] == name}
        needed = sum(live.values()) + sum(made.values())
        if in_place and layer.kind in _IN_PLACE:
            reused = [home[name] for name in layer.inputs if home[name] in dying]
            needed -= next((live[name] for name in reused if live[name] == sum(made.values())), 0)
        peak = max(peak, needed)
        live = {name: size for name, size in live.items() if name not in dying}
        live |= {name: size for name, size in made.items() if last_use.get(name, -1) > step}
    return peak
