"""Find the costs and limits of a machine from timed networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgecv.cost.kernels import PRODUCTS, Kernel
from edgecv.cost.model import RUN, quantities
from edgecv.cost.record import Limits

Array = NDArray[np.float64]
FOLDS = 8
ROUNDS, TOLERANCE = 6, 0.05  # of the robust fit: residuals beyond the tolerance count by their size, not its square


@dataclass(frozen=True)
class Fit:
    """What was found: microseconds per unit, the limits, and what the networks were predicted when left out."""

    costs: dict[str, float]
    limits: Limits
    error: float
    left_out_ms: tuple[float, ...]


def fit(networks: Sequence[Sequence[Kernel]], ms: Sequence[float]) -> Fit:
    """Fit the cost model to timed networks; ms: of each."""
    times = np.array(ms) * 1e3
    limits = limits_of(networks, times)
    rows = [totals(kernels, limits) for kernels in networks]
    names = sorted({name for row in rows for name in row})
    table = np.array([[row.get(name, 0.0) for name in names] for row in rows])
    found = robust(table, times)
    left_out = np.zeros(len(times))
    fold = np.arange(len(times)) % FOLDS
    for number in range(FOLDS if len(times) > FOLDS else 0):
        rest = fold != number
        left_out[~rest] = table[~rest] @ robust(table[rest], times[rest])
    return Fit(
        costs={name: float(cost) for name, cost in zip(names, found, strict=True) if cost > 0},
        limits=limits,
        error=float(np.mean(np.abs(left_out / times - 1))),
        left_out_ms=tuple(float(value) / 1e3 for value in left_out),
    )


def totals(kernels: Sequence[Kernel], limits: Limits) -> dict[str, float]:
    """All quantities of a network, and the one run."""
    far = limits.far_share(sum(kernel.weight_bytes for kernel in kernels))
    found: dict[str, float] = {RUN: 1.0}
    for kernel in kernels:
        for name, value in quantities(kernel, far).items():
            found[name] = found.get(name, 0.0) + value
    return found


def robust(table: Array, times: Array) -> Array:
    """Costs >= 0 with small relative errors: large ones, of disturbed measurements, count by their size only."""
    relative = table / times[:, None]
    weight = np.ones(len(times))
    found = np.zeros(table.shape[1])
    for _ in range(ROUNDS):
        root = np.sqrt(weight)
        found = nonnegative(relative * root[:, None], root)
        weight = TOLERANCE / np.maximum(np.abs(relative @ found - 1), TOLERANCE)
    return found


def nonnegative(a: Array, b: Array) -> Array:
    """The x >= 0 with the smallest |a x - b|^2: an active-set method (Lawson and Hanson 1974, chapter 23)."""
    free = np.zeros(a.shape[1], bool)
    x = np.zeros(a.shape[1])
    for _ in range(3 * a.shape[1]):
        gradient = np.where(free, -np.inf, a.T @ (b - a @ x))
        enters = int(np.argmax(gradient))
        if gradient[enters] <= 1e-9:
            break
        free[enters] = True
        x = _inside(a, b, x, free)
    return x


def _inside(a: Array, b: Array, x: Array, free: NDArray[np.bool_]) -> Array:
    """Solve for the free columns, and let go of those that would turn negative."""
    while True:
        trial = np.zeros(len(x))
        trial[free] = np.linalg.lstsq(a[:, free], b, rcond=None)[0]
        leaving = free & (trial <= 0)
        if not leaving.any():
            return trial
        step = np.min(x[leaving] / (x[leaving] - trial[leaving]))
        x = x + step * (trial - x)
        free &= x > 1e-15
        x = np.where(free, x, 0.0)


def limits_of(networks: Sequence[Sequence[Kernel]], times: Array) -> Limits:
    """The best rates that any network reached; times in microseconds."""
    macs = [sum(kernel.macs for kernel in kernels if kernel.kind in PRODUCTS) for kernels in networks]
    moved = [sum(kernel.read_bytes + kernel.write_bytes for kernel in kernels) for kernels in networks]
    weights = np.array([sum(kernel.weight_bytes for kernel in kernels) for kernels in networks])
    rates = {}  # bytes of weights of networks that do little but read them -> 10^9 bytes/s
    for kernels, total, time in zip(networks, weights, times, strict=True):
        if {kernel.kind for kernel in kernels} == {"vector"}:
            rates[int(total)] = total / time / 1e3
    near, far = _knee(rates)
    return Limits(
        gmacs_per_s=float(np.max(np.array(macs) / times / 1e3)),
        memory_gb_per_s=float(rates[max(rates)]) if rates else float(np.max(weights / times / 1e3)),
        cache_gb_per_s=float(np.max(np.array(moved) / times / 1e3)),
        weights_near=near,
        weights_far=far,
    )


def _knee(rates: dict[int, float]) -> tuple[int, int]:
    """Between which sizes the rate of reading weights falls: from near the best to near that of the largest."""
    sizes = sorted(rates)
    large = [size for size in sizes if size >= 1_000_000]
    if len(large) < 2:
        return 8_000_000, 40_000_000
    best, last = max(rates[size] for size in large), rates[large[-1]]
    if best < 1.2 * last:  # no cache is seen
        return large[-1], 2 * large[-1]
    near = max(size for size in large if rates[size] > (3 * best + last) / 4)
    far = min(
        size
        for size in large
        if size > near and all(rates[each] < (best + 3 * last) / 4 for each in large if each >= size)
    )
    return near, far
