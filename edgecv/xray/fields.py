"""Receptive fields: what every activation sees of the network's input."""

from __future__ import annotations

import numpy as np

from edgecv.xray import moves
from edgecv.xray.extent import Extent, Shape, everything, nothing, of_input
from edgecv.xray.graph import Graph
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
    found = [extents(graph, axis) for axis in spatial_axes(shape)]
    return {name: _field([extents[name] for extents in found]) for name in found[0]} if found else {}


def extents(graph: Graph, axis: int) -> dict[str, Extent]:
    """What every activation sees of one axis of the first input."""
    source = graph.inputs[0]
    known: dict[str, Extent] = {source: of_input(graph.tensors[source].shape, axis)}
    for layer in graph.layers:
        if not any(name in known for name in layer.inputs):
            continue
        shapes = [graph.tensors[name].shape for name in layer.inputs]
        seen = [
            known[name] if name in known else nothing(known[source], len(shape))
            for name, shape in zip(layer.inputs, shapes, strict=True)
        ]
        for output in layer.outputs:
            given = moves.Given(seen, shapes, graph.tensors[output].shape)
            found = layer.move.apply(given)
            if not found.fits(given.output):  # an operator that does more than its kind: nothing is known of its places
                found = everything(found, len(given.output))
            only_whole = found.whole and not np.isfinite(found.low).any()  # a class token: it has no place of its own
            known[output] = everything(found, found.low.ndim) if only_whole else found
    return known


def _field(extents: list[Extent]) -> Field:
    return Field(
        size=tuple(extent.size for extent in extents),
        jump=tuple(extent.jump for extent in extents),
        centre=tuple(extent.centre for extent in extents),
        whole=all(extent.whole for extent in extents),
    )
