"""Which small networks are timed: a few hundred, spread evenly over the ranges that networks use.

Their sizes come from a low-discrepancy sequence, not from any network, and no picture side or number of tokens in them
is one that a network of the zoo works on: what is predicted has never been timed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np

from edgecv.cost import blocks
from edgecv.cost.net import Net

T = TypeVar("T")
SIDES = (3, 6, 11, 16, 20, 22, 26, 31, 36, 42, 51, 62, 72, 84, 100, 118, 136, 160, 204, 310)
TOKENS = (40, 90, 150, 260, 420, 700, 1100, 1700, 2600)
_GOLDEN = 0.6180339887498949


@dataclass(frozen=True)
class Micro:
    """A small network to be timed: name, shape and type of its input, and what writes it behind the input."""

    name: str
    shape: tuple[int, ...]
    write: Callable[[Net], None]
    dtype: str = "float32"

    def build(self) -> Net:
        """Write it; pictures end in a global pooling, so that little leaves the network."""
        net = Net(self.shape, self.dtype)
        self.write(net)
        if len(net.shape) == 4 and net.shape[2] * net.shape[3] > 1:
            net.shrink()
        return net


def micro_networks() -> list[Micro]:
    """All of them, in an order that has something of every group at any time, so that it can end early."""
    groups = [
        _pointwise(40), _conv(28), _stem(14), _depthwise(36), _strided(12), _gates(10), _inverted(28), _residual(16),
        _linears(22), _heads(10), _transformers(20), _windows(12), _convnext(20), _activations(30),
        _elementwise(24), _moves(14), _pools(12), _frames(6), _far(7),
    ]  # fmt: skip
    networks = list({micro.name: micro for group in groups for micro in group}.values())
    order = sorted(range(len(networks)), key=lambda index: index * _GOLDEN % 1)
    return [networks[index] for index in order]


def spread(count: int, dimensions: int) -> Iterator[list[float]]:
    """Points in the unit cube that fill it evenly (Roberts 2018, the R_d sequence)."""
    root = 2.0
    for _ in range(50):
        root = (1 + root) ** (1 / (dimensions + 1))
    steps = np.array([root ** -(axis + 1) for axis in range(dimensions)])
    for number in range(1, count + 1):
        yield [float(value) for value in (0.5 + number * steps) % 1]


def between(low: float, high: float, u: float, multiple: int = 8) -> int:
    """A multiple in a range, evenly on a logarithmic scale."""
    return max(multiple, round(float(low * (high / low) ** u) / multiple) * multiple)


def nearest(options: Sequence[int], wanted: float) -> int:
    """The option that is nearest on a logarithmic scale."""
    return min(options, key=lambda option: abs(math.log(option / max(1.0, wanted))))


def side_for(places: float) -> int:
    """The picture side with nearly so many places."""
    return nearest(SIDES, math.sqrt(max(1.0, places)))


def one_of(options: Sequence[T], u: float) -> T:
    """One of several, each equally often."""
    return options[min(len(options) - 1, int(u * len(options)))]


def _pointwise(count: int) -> Iterator[Micro]:
    for u, v, w in spread(count, 3):
        a, b = between(16, 1500, u), between(16, 1500, v)
        side = side_for(2e5 * 200**w / (a * b))
        yield Micro(f"pointwise {a}-{b} {side}", (1, a, side, side), partial(blocks.convs, outputs=(b, a, b)))


def _conv(count: int) -> Iterator[Micro]:
    for u, v, w, z in spread(count, 4):
        a, b = between(16, 600, u, 16), between(16, 600, v, 16)
        kernel = 3 if z < 0.8 else 5
        side = side_for(1.5e6 * 50**w / (a * b * kernel**2))
        write = partial(blocks.convs, outputs=(b, a), kernel=kernel)
        yield Micro(f"conv {a}-{b} k{kernel} {side}", (1, a, side, side), write)


def _stem(count: int) -> Iterator[Micro]:
    windows = ((3, 2), (7, 2), (4, 4), (16, 16), (3, 1), (5, 1), (11, 4), (3, 2))
    for number, (u, v) in enumerate(spread(count, 2)):
        kernel, stride = windows[number % len(windows)]
        outputs = between(16, 96, u) if kernel < 16 else between(150, 800, u)
        side = one_of((96, 128, 160, 192, 304), v)
        write = partial(blocks.convs, outputs=(outputs,), kernel=kernel, stride=stride)
        yield Micro(f"stem {outputs} k{kernel}s{stride} {side}", (1, 3, side, side), write)


def _depthwise(count: int) -> Iterator[Micro]:
    windows = ((3, 1), (5, 1), (7, 1), (3, 2), (5, 2), (3, 1))
    for number, (u, v) in enumerate(spread(count, 2)):
        channels = between(16, 1400, u)
        side = side_for(1.5e4 * 40**v / channels)
        kernel, stride = windows[number % len(windows)]
        write = partial(blocks.depthwise, kernel=kernel, stride=stride, count=4 if stride == 1 else 2)
        yield Micro(f"depthwise {channels} k{kernel}s{stride} {side}", (1, channels, side, side), write)


def _strided(count: int) -> Iterator[Micro]:
    for number, (u, v, w) in enumerate(spread(count, 3)):
        a, b = between(24, 400, u), between(24, 500, v)
        kernel = (3, 1, 2)[number % 3]
        side = max(8, side_for(8e6 * 40**w / (a * b * kernel**2)) // 4 * 4)
        write = partial(blocks.convs, outputs=(b, a), kernel=kernel, stride=2)
        yield Micro(f"strided {a}-{b} k{kernel} {side}", (1, a, side, side), write)


def _gates(count: int) -> Iterator[Micro]:
    for number, (u, v) in enumerate(spread(count, 2)):
        channels = between(24, 2000, u)
        squeezed = between(8, max(8, channels / 4), v)
        act = ("hardswish", "silu")[number % 2]
        write = partial(blocks.gates, squeezed=squeezed, act=act)
        yield Micro(f"gate {channels}-{squeezed} {act}", (1, channels, 6, 6), write)


def _inverted(count: int) -> Iterator[Micro]:
    activations = ("relu6", "hardswish", "silu", "silu", "hardswish", "relu")
    for number, (u, v, w, z) in enumerate(spread(count, 4)):
        channels, ratio, kernel = between(16, 200, u), one_of((3, 4, 6), v), one_of((3, 5), z)
        wide = channels * ratio
        side = side_for(min(4e4 * 20**w / wide, 6e7 / (wide * channels)))
        act = activations[number % len(activations)]
        write = partial(blocks.inverted, ratio=ratio, kernel=kernel, act=act, gated=number % 3 != 0)
        yield Micro(f"inverted {channels}x{ratio} k{kernel} {act} {side}", (1, channels, side, side), write)


def _residual(count: int) -> Iterator[Micro]:
    for number, (u, v) in enumerate(spread(count, 2)):
        narrow = between(32, 500, u)
        wide = narrow * 4 if number % 2 else narrow
        side = side_for(min(1.2e5 * 12**v / narrow, 5e7 / (9 * narrow**2)))
        write = partial(blocks.residual, narrow=narrow)
        yield Micro(f"residual {narrow}-{wide} {side}", (1, wide, side, side), write)


def _linears(count: int) -> Iterator[Micro]:
    for number, (u, v, w) in enumerate(spread(count, 3)):
        a, b = between(48, 2000, u), between(48, 3500, v)
        tokens = nearest(TOKENS, 2e6 * 25**w / (a * b))
        act = ("", "gelu", "")[number % 3]
        yield Micro(f"linear {a}-{b} {tokens} {act}", (1, tokens, a), partial(blocks.linears, outputs=(b, a), act=act))


def _heads(count: int) -> Iterator[Micro]:
    for u, v in spread(count, 2):
        a, b = between(64, 2600, u), between(64, 2600, v)
        yield Micro(f"head {a}-{b}", (1, a), partial(blocks.heads, outputs=(b, a, b)))


def _far(count: int) -> Iterator[Micro]:
    """Linear layers whose weights together are larger and larger, 2 MB to 128 MB: what reading them costs."""
    for number in range(count):
        size = round(math.sqrt(2e6 * 2.0**number / 16) / 8) * 8
        yield Micro(f"far {size}", (1, size), partial(blocks.heads, outputs=(size,) * 4))


def _transformers(count: int) -> Iterator[Micro]:
    for number, (u, v, w) in enumerate(spread(count, 3)):
        heads, size = 2 + int(u * 9), one_of((16, 32, 64, 64), v)
        tokens, width = one_of((40, 90, 150, 260), w), heads * size
        write = partial(blocks.transformer, count=heads, hidden=4 * width if number % 2 else 0)
        yield Micro(f"transformer {heads}x{size} {tokens} {number % 2}", (1, tokens, width), write)


def _windows(count: int) -> Iterator[Micro]:
    for number, (u, v) in enumerate(spread(count, 2)):
        heads, window = 2 + int(u * 14), (6, 8)[number % 2]
        side = window * (one_of((1, 2, 3, 5), v) if heads < 8 else one_of((1, 2), v))
        write = partial(blocks.windows, count=heads, window=window, shifted=number % 3 == 0)
        yield Micro(f"windows {heads}x32 {window} {side}", (1, side, side, heads * 32), write)


def _convnext(count: int) -> Iterator[Micro]:
    for u, v in spread(count, 2):
        channels = between(40, 900, u)
        side = side_for(min(2.5e4 * 16**v / channels, 5e7 / (8 * channels**2)))
        yield Micro(f"convnext {channels} {side}", (1, channels, side, side), blocks.convnext)


def _activations(count: int) -> Iterator[Micro]:
    names = ("hardswish", "silu", "gelu", "hardsigmoid", "sigmoid", "relu")
    for number, (u, v) in enumerate(spread(count, 2)):
        channels, act = one_of((16, 24, 32, 48), u), names[number % len(names)]
        side = side_for(4e4 * 40**v / channels)
        write = partial(blocks.activations, act=act)
        yield Micro(f"activation {act} {channels} {side}", (1, channels, side, side), write)


def _elementwise(count: int) -> Iterator[Micro]:
    for number, (u, v) in enumerate(spread(count, 2)):
        what = ("norm", "softmax", "add")[number % 3]
        width = one_of((40, 90, 150, 260), u) if what == "softmax" else between(40, 1000, u)
        rows = max(1, round(2e4 * 60**v / width))
        yield Micro(f"elementwise {what} {rows}x{width}", (1, rows, width), partial(blocks.elementwise, what=what))


def _moves(count: int) -> Iterator[Micro]:
    for number, (u, v) in enumerate(spread(count, 2)):
        channels = between(24, 600, u)
        side = side_for(2e4 * 40**v / channels)
        what = ("transpose", "concat", "roll")[number % 3]
        yield Micro(f"moves {what} {channels} {side}", (1, channels, side, side), partial(blocks.moves, what=what))


def _pools(count: int) -> Iterator[Micro]:
    for number, (u, v) in enumerate(spread(count, 2)):
        channels = between(16, 500, u)
        side = max(6, side_for(min(2e4 * 40**v, 3e7 / channels) / channels) // 2 * 2)
        kernel, stride = ((2, 2), (3, 2), (3, 1), (0, 0))[number % 4]
        write = partial(blocks.pools, kernel=kernel, stride=stride)
        yield Micro(f"pool {kernel}s{stride} {channels} {side}", (1, channels, side, side), write)


def _frames(count: int) -> Iterator[Micro]:
    for side in (62, 84, 136, 204, 310, 420)[:count]:
        yield Micro(f"frames {side}", (1, side, side, 3), blocks.frames, "uint8")
