"""What a convolution or pooling is in the terms of the common graph; the readers share it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgecv.xray import moves, relations
from edgecv.xray.extent import Shape
from edgecv.xray.relations import Pair


def conv_facts(
    shape: Shape,
    output: Shape,
    weight: Shape,
    stride: Shape,
    padding: Sequence[Pair],
    dilation: Shape,
    *,
    groups: int,
    bias: bool,
    transposed: bool = False,
) -> dict[str, Any]:
    """A layer's fields for a convolution (N, C_in, ...) -> (N, C_out, ...).

    weight: (C_out, C_in / g, k...), transposed (C_in, C_out / g, k...).
    """
    inputs, outputs, kernel = shape[1], output[1], weight[2:]
    count = relations.transposed_conv_macs if transposed else relations.conv_macs
    places = shape[2:] if transposed else output[2:]
    return {
        "kind": "transposed conv" if transposed else _kind(inputs, kernel, groups),
        "macs": shape[0] * count(inputs, outputs, kernel, places, groups),
        "kernel": kernel,
        "stride": stride,
        "padding": tuple(padding),
        "dilation": dilation,
        "groups": groups,
        "channels": (inputs, outputs),
        "bias": bias,
        "move": _slide(moves.SlideBack if transposed else moves.Slide, len(shape), kernel, stride, padding, dilation),
    }


def pool_facts(rank: int, kernel: Shape, stride: Shape, padding: Sequence[Pair], dilation: Shape) -> dict[str, Any]:
    """A layer's fields for a pooling with windows over the last axes."""
    return {
        "kind": "pool",
        "kernel": kernel,
        "stride": stride,
        "padding": tuple(padding),
        "dilation": dilation,
        "move": _slide(moves.Slide, rank, kernel, stride, padding, dilation),
    }


def _kind(inputs: int, kernel: Shape, groups: int) -> str:
    if groups == inputs and groups > 1:
        return "depthwise conv"
    return "pointwise conv" if set(kernel) == {1} and groups == 1 else "conv"


def _slide(
    kind: type[moves.Slide], rank: int, kernel: Shape, stride: Shape, padding: Sequence[Pair], dilation: Shape
) -> moves.Slide:
    axes = tuple(range(rank - len(kernel), rank))
    return kind(axes, kernel, stride, tuple(before for before, _ in padding), dilation)
