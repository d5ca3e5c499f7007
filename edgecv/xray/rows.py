"""The table: cost, memory and receptive field of every layer, and the totals."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

from edgecv.xray.extent import Shape
from edgecv.xray.fields import Field, receptive_fields
from edgecv.xray.graph import MOVEMENTS, WEIGHTED, Graph, Layer
from edgecv.xray.memory import peak_memory
from edgecv.xray.relations import Pair, arithmetic_intensity
from edgecv_runtime.records import Record


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

    def _repr_html_(self) -> str:
        from edgecv_runtime import notebook

        def shape(sizes: Shape) -> str:
            return "x".join(map(str, sizes))

        layers = [
            (row.name, row.kind, shape(row.output_shape), row.parameters, row.macs, f"{row.macs_share:.1%}")
            for row in self.rows
        ]
        sums = ("", "", "", self.total.parameters, self.total.macs, "")
        heads = ("layer", "kind", "output", "parameters", "MACs", "share")
        return notebook.table(heads, [*layers, sums], f"{self.name}, {shape(self.input_shape)}")


def moved_bytes(rows: Iterable[Row]) -> int:
    """Bytes that layers read and write: weights, inputs and outputs; a reshape moves none."""
    return sum(row.weight_bytes + row.input_bytes + row.activation_bytes for row in rows if row.kind != "reshape")


def table(graph: Graph) -> Table:
    """Compute the table of a graph."""
    fields = receptive_fields(graph)
    macs = sum(layer.macs for layer in graph.layers)
    parameters = sum(layer.parameters for layer in graph.layers)
    rows = tuple(_row(graph, layer, fields.get(layer.outputs[0]), macs, parameters) for layer in graph.layers)
    seeing = [row.field for row in rows if row.field and max(row.field.jump) > 0 and row.kind not in MOVEMENTS]
    if not seeing or not any(row.kernel for row in rows):  # without windows there are no places: a perceptron sees all
        seeing = [row.field for row in rows if row.field]
    total = Total(
        layers=len(rows),
        parameters=parameters,
        macs=macs,
        weight_bytes=sum(row.weight_bytes for row in rows),
        activation_bytes=sum(row.activation_bytes for row in rows),
        activations=sum(math.prod(row.output_shape) for row in rows if row.kind in WEIGHTED),
        peak_bytes=peak_memory(graph),
        peak_inplace_bytes=peak_memory(graph, in_place=True),
        intensity=arithmetic_intensity(macs, moved_bytes(rows)),
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
