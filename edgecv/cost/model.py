"""The cost model: a network's time is a sum of non-negative costs, found by non-negative least squares.

Each kernel has quantities (its features: one dispatch, MACs, numbers written, ...), each quantity has a cost in
microseconds per unit that the survey finds. All quantities grow with channels and places, and no cost is negative:
so a larger layer of a kind never costs less. Unlike a table of timed layers this adds up: the time of a network is the
sum over its kernels, and every timed small network is one equation.
"""

from __future__ import annotations

import math

from edgecv.cost.kernels import ACTIVATIONS, Kernel

RUN = "run"  # the cost of a run as such
BLOCK, DEEP = 16, 128  # channels that vector code works on together; terms that it adds up before it writes
FAR = 4e6  # bytes of activations beyond which a kernel leaves the near caches


def quantities(kernel: Kernel, weights_far: float) -> dict[str, float]:
    """What a kernel costs by: name of the cost -> how much of it; in millions, except for dispatches.

    weights_far: share of the weights that come from beyond the caches.
    """
    moved = kernel.read_bytes + kernel.write_bytes
    found = {
        f"{kernel.kind}: dispatch": 1.0,
        **{f"{kernel.kind}: {key}": value / 1e6 for key, value in _work(kernel).items()},
    }
    found["beyond the caches: bytes"] = max(0.0, moved - FAR) / 1e6
    found["weights from memory: bytes"] = weights_far * kernel.weight_bytes / 1e6
    found["reordered: bytes"] = kernel.reordered / 1e6
    for name in kernel.fused:
        if name in ACTIVATIONS and name != "relu":
            found[f"fused {name}: numbers"] = kernel.write_bytes / 4e6
    return {key: value for key, value in found.items() if value}


def _up(value: int, block: int = BLOCK) -> int:
    return -(-value // block) * block


def _work(kernel: Kernel) -> dict[str, float]:
    """Quantities of a kind of kernel."""
    inner, outer, places = kernel.inner, kernel.outer, kernel.places * kernel.batch
    if kernel.kind in ("conv", "pointwise", "matrix", "matmul", "stem"):
        wide, deep = _up(outer), inner
        if kernel.kind in ("conv", "pointwise"):
            deep = _up(inner // kernel.taps) * kernel.taps
        return {
            "MACs": places * wide * deep,
            "MACs / width": kernel.rows * wide * deep if kernel.taps > 1 else 0,
            "results": places * wide,
            "partial sums": places * wide * (_up(inner // kernel.taps, DEEP) // DEEP - 1) * kernel.taps,
            "bytes read": kernel.read_bytes,
            "weight bytes": kernel.weight_bytes,
        }
    if kernel.kind == "depthwise":
        wide = _up(outer)
        return {
            "MACs": places * wide * kernel.taps,
            "results": places * wide,
            "bytes read": kernel.read_bytes,
            "rows": kernel.rows * wide * math.sqrt(kernel.taps),
        }
    if kernel.kind in ("vector", "gate"):
        return {"weight bytes": kernel.weight_bytes, "results": outer}
    if kernel.kind == "pool":
        return {"window numbers": kernel.write_bytes / 4 * kernel.taps, "bytes": kernel.read_bytes + kernel.write_bytes}
    if kernel.kind in ("norm", "softmax"):
        return {"rows": places, "bytes": kernel.read_bytes + kernel.write_bytes}
    return {"bytes": kernel.read_bytes + kernel.write_bytes}
