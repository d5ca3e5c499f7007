"""The arithmetic of layers: sizes, parameters, multiply-accumulates (MACs) and receptive fields, each by its formula.

Sizes are of one axis; a layer with several spatial axes applies them to each. Sources: of the convolution arithmetic,
Dumoulin and Visin 2016, arXiv:1603.07285; of the receptive fields, Araujo, Norris and Sim 2019, Distill.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from edgecv_runtime.errors import BadInput

Pair = tuple[int, int]


class Window(NamedTuple):
    """One axis of a convolution or pooling: kernel, stride, padding before and after, dilation, in places."""

    kernel: int
    stride: int = 1
    padding: Pair = (0, 0)
    dilation: int = 1


class ReceptiveField(NamedTuple):
    """What a place of a layer sees of one axis of the input.

    size: pixels. jump: pixels between the fields of neighbouring places. centre: of the first place's field, in pixels,
    where 0 is the middle of the first pixel.
    """

    size: float = 1.0
    jump: float = 1.0
    centre: float = 0.0


def output_size(
    size: int, kernel: int, stride: int = 1, padding: int | Pair = 0, dilation: int = 1, *, ceil: bool = False
) -> int:
    """Places that a convolution or pooling gives: floor((n + p_before + p_after - d (k - 1) - 1) / s) + 1.

    padding: on both sides, or (before, after). ceil: round up, but a window that would begin in the padding after the
    input is left out, as PyTorch and ONNX do it. Raises BadInput when the kernel does not fit once, with the smallest
    size that works.
    """
    before, after = (padding, padding) if isinstance(padding, int) else padding
    span = dilation * (kernel - 1) + 1
    if size + before + after < span:
        smallest = max(1, span - before - after)
        raise BadInput(
            f"a kernel of {span} does not fit into {size} with padding {before} + {after}; at least {smallest} works"
        )
    steps = (size + before + after - span) / stride
    count = (math.ceil(steps) if ceil else math.floor(steps)) + 1
    if ceil and (count - 1) * stride >= size + before:
        count -= 1
    return count


def transposed_output_size(
    size: int, kernel: int, stride: int = 1, padding: int | Pair = 0, dilation: int = 1, output_padding: int = 0
) -> int:
    """Places that a transposed convolution gives: (n - 1) s - p_before - p_after + d (k - 1) + output padding + 1."""
    before, after = (padding, padding) if isinstance(padding, int) else padding
    return (size - 1) * stride - before - after + dilation * (kernel - 1) + output_padding + 1


def conv_parameters(inputs: int, outputs: int, kernel: Sequence[int], groups: int = 1, *, bias: bool = True) -> int:
    """Parameters of a convolution: (C_in / g) C_out prod(k), and C_out more with a bias.

    Depthwise: g = C_in; pointwise: k = 1. A transposed convolution has the same number.
    """
    return inputs // groups * outputs * math.prod(kernel) + (outputs if bias else 0)


def conv_macs(inputs: int, outputs: int, kernel: Sequence[int], places: Sequence[int], groups: int = 1) -> int:
    """MACs of a convolution for one picture: (C_in / g) C_out prod(k) prod(places of the output); the bias is none."""
    return inputs // groups * outputs * math.prod(kernel) * math.prod(places)


def transposed_conv_macs(
    inputs: int, outputs: int, kernel: Sequence[int], places: Sequence[int], groups: int = 1
) -> int:
    """MACs of a transposed convolution: C_in (C_out / g) prod(k) prod(places of the *input*): each is spread once."""
    return inputs * (outputs // groups) * math.prod(kernel) * math.prod(places)


def separable_parameters(inputs: int, outputs: int, kernel: Sequence[int], *, bias: bool = True) -> int:
    """Parameters of a depthwise and a pointwise convolution: C_in prod(k) + C_in C_out (Howard et al. 2017, 3.1)."""
    depthwise = conv_parameters(inputs, inputs, kernel, inputs, bias=bias)
    return depthwise + conv_parameters(inputs, outputs, (1,), bias=bias)


def separable_macs(inputs: int, outputs: int, kernel: Sequence[int], places: Sequence[int]) -> int:
    """MACs of the same: (C_in prod(k) + C_in C_out) prod(places): 1 / C_out + 1 / prod(k) of the convolution's."""
    return conv_macs(inputs, inputs, kernel, places, inputs) + conv_macs(inputs, outputs, (1,), places)


def linear_parameters(inputs: int, outputs: int, *, bias: bool = True) -> int:
    """Parameters of a linear layer: n_in n_out, and n_out more with a bias."""
    return inputs * outputs + (outputs if bias else 0)


def linear_macs(inputs: int, outputs: int, places: int = 1) -> int:
    """MACs of a linear layer at so many places (tokens): n_in n_out places."""
    return inputs * outputs * places


def matmul_macs(rows: int, inner: int, columns: int, batch: int = 1) -> int:
    """MACs of (rows, inner) @ (inner, columns), so many times: rows inner columns batch."""
    return rows * inner * columns * batch


def norm_parameters(channels: int) -> int:
    """Parameters of a normalization: a scale and an offset per channel, 2 C; running statistics are none."""
    return 2 * channels


def receptive_field(windows: Sequence[Window]) -> ReceptiveField:
    """The field of a chain of layers, by the stride product.

    Layer l with kernel k, stride s, padding p, dilation d makes of size r, jump j and centre c
    r' = r + d (k - 1) j,   j' = j s,   c' = c + (d (k - 1) / 2 - p) j,   from r = j = 1, c = 0 for the input.
    """
    field = ReceptiveField()
    for window in windows:
        reach = window.dilation * (window.kernel - 1)
        field = ReceptiveField(
            size=field.size + reach * field.jump,
            jump=field.jump * window.stride,
            centre=field.centre + (reach / 2 - window.padding[0]) * field.jump,
        )
    return field


def arithmetic_intensity(macs: int, moved_bytes: int) -> float:
    """Operations per byte, 2 MACs / bytes read and written: the abscissa of the roofline (Williams et al. 2009)."""
    return 2 * macs / moved_bytes if moved_bytes else 0.0
