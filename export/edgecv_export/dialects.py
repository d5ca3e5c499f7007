"""Dialects: the grids on which tensors of an int8 file lie, and the same grids in float arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgecv_runtime.manifest import Precision

WeightRanges = Literal["min-max", "mse"]
Float = NDArray[np.float32]
WEIGHT_STEPS = 127
TINY = float(np.finfo(np.float32).tiny)  # smaller scales are zero to some kernels: what they would hold is zero
LARGEST_HALF = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class Dialect:
    """What the tensors of an int8 file look like; weights are symmetric int8 per output channel in all of them.

    activations: uint8 with a zero point, or int8 around zero; per tensor, for no backend runs them per channel.
    quantized_bias: as int32 with its own DequantizeLinear, which TensorRT refuses. islands: what computes everything
    that is not quantized; in "fp16" scales are float16 too, which makes a DequantizeLinear give float16.
    """

    name: str
    activations: Literal["uint8", "int8"]
    quantized_bias: bool
    islands: Precision = "float32"

    @property
    def symmetric(self) -> bool:
        """Whether activations have their zero point at 0."""
        return self.activations == "int8"

    def scales(self, wanted: Float) -> Float:
        """Scales as the file holds them, at least as large as wanted; what no file holds becomes 1."""
        held = np.where(wanted < TINY, np.float32(1), wanted).astype(np.float32)
        return half_up(held) if self.islands == "fp16" else held


def half_up(scales: Float) -> Float:
    """Scales rounded up to half precision, so that nothing is clipped; those beyond it stay as they are.

    Below 6.1e-5 half precision goes on in steps of 6e-8: the grid becomes coarser than it need be, and stays a grid.
    """
    near = np.minimum(scales, LARGEST_HALF).astype(np.float16)
    up = np.where(near < scales, np.nextafter(near, np.float16(LARGEST_HALF)), near)
    return np.where(scales > LARGEST_HALF, scales, up).astype(np.float32)


DIALECTS = {
    "int8-u8s8": Dialect("int8-u8s8", "uint8", quantized_bias=True),
    "int8-s8s8": Dialect("int8-s8s8", "int8", quantized_bias=False),
    "int8-s8s8-fp16": Dialect("int8-s8s8-fp16", "int8", quantized_bias=False, islands="fp16"),
}


@dataclass(frozen=True)
class Grid:
    """The values that a tensor can take: (q - zero_point) * scale for q in lowest..highest.

    scale, zero_point: scalars, or (channels,) along `axis`.
    """

    scale: Float
    zero_point: NDArray[Any]
    lowest: int
    highest: int
    axis: int | None = None

    def quantize(self, values: Float) -> NDArray[Any]:
        """Values as integers of the grid's type; halves round to even, as ONNX's QuantizeLinear does."""
        scale, zero_point = self.shaped(values.ndim)
        places = np.round(values / scale) + zero_point
        return np.clip(places, self.lowest, self.highest).astype(self.zero_point.dtype)

    def dequantize(self, integers: NDArray[Any]) -> Float:
        """Integers of the grid as values."""
        scale, zero_point = self.shaped(integers.ndim)
        return ((integers.astype(np.int32) - zero_point) * scale).astype(np.float32)

    def fake(self, values: Float) -> Float:
        """Values moved onto the grid."""
        return self.dequantize(self.quantize(values))

    def shaped(self, dimensions: int) -> tuple[Float, NDArray[np.int32]]:
        """Scale and zero point so that they broadcast over a tensor of so many dimensions."""
        if self.axis is None:
            return self.scale, self.zero_point.astype(np.int32)
        shape = [1] * dimensions
        shape[self.axis] = -1
        return self.scale.reshape(shape), self.zero_point.astype(np.int32).reshape(shape)


def activation_grid(low: float, high: float, dialect: Dialect) -> Grid:
    """The grid of an activation over low..high: zero is on it, and nothing within the range is clipped.

    An asymmetric scale is made a little larger until both ends fit beside the rounded zero point; the end that limits
    it, often the most frequent value, is then on the grid and not half a step beside it.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    if dialect.symmetric:
        scale = max(-low, high) / 127
        return Grid(dialect.scales(np.array(scale)), np.array(0, np.int8), -128, 127)  # where QuantizeLinear saturates
    zero_point = round(-low / (high - low) * 255) if high > low else 0
    scale = max(-low / zero_point if zero_point else 0.0, high / (255 - zero_point) if zero_point < 255 else 0.0)
    return Grid(dialect.scales(np.array(scale)), np.array(zero_point, np.uint8), 0, 255)


def weight_grid(reach: Float, axis: int | None, dialect: Dialect) -> Grid:
    """The grid of weights whose channels (or, without an axis, all) reach from -reach to reach: -127..127 in int8."""
    scale = dialect.scales(np.asarray(reach, np.float32) / np.float32(WEIGHT_STEPS))
    return Grid(scale, np.zeros(scale.shape, np.int8), -WEIGHT_STEPS, WEIGHT_STEPS, axis)
