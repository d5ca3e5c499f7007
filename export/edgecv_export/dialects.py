"""Dialects: the grids on which tensors of an int8 file lie, and the same grids in float arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

WeightRanges = Literal["min-max", "mse"]
Float = NDArray[np.float32]
WEIGHT_STEPS = 127
TINY = float(np.finfo(np.float32).tiny)  # smaller scales are zero to some kernels: what they would hold is zero


@dataclass(frozen=True)
class Dialect:
    """What the tensors of an int8 file look like; weights are symmetric int8 per output channel in all of them.

    activations: uint8 with a zero point, or int8 around zero; per tensor, for no backend runs them per channel.
    quantized_bias: as int32 with its own DequantizeLinear, which TensorRT refuses.
    """

    name: str
    activations: Literal["uint8", "int8"]
    quantized_bias: bool

    @property
    def symmetric(self) -> bool:
        """Whether activations have their zero point at 0."""
        return self.activations == "int8"


DIALECTS = {
    "int8-u8s8": Dialect("int8-u8s8", "uint8", quantized_bias=True),
    "int8-s8s8": Dialect("int8-s8s8", "int8", quantized_bias=False),
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
        return Grid(_scalar(scale), np.array(0, np.int8), -128, 127)  # where QuantizeLinear saturates
    zero_point = round(-low / (high - low) * 255) if high > low else 0
    scale = max(-low / zero_point if zero_point else 0.0, high / (255 - zero_point) if zero_point < 255 else 0.0)
    return Grid(_scalar(scale), np.array(zero_point, np.uint8), 0, 255)


def weight_grid(reach: Float, axis: int | None) -> Grid:
    """The grid of weights whose channels (or, without an axis, all) reach from -reach to reach: -127..127 in int8."""
    scale = np.asarray(reach, np.float32) / np.float32(WEIGHT_STEPS)
    scale = np.where(scale < TINY, np.float32(1), scale).astype(np.float32)
    return Grid(scale, np.zeros(scale.shape, np.int8), -WEIGHT_STEPS, WEIGHT_STEPS, axis)


def _scalar(scale: float) -> Float:
    return np.array(scale if scale >= TINY else 1.0, np.float32)
