"""The cost model: found again from a machine whose costs are known, and never cheaper for more work."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from edgecv import xray
from edgecv.cost import design, fit
from edgecv.cost.kernels import Kernel
from edgecv.cost.model import RUN, quantities
from edgecv.cost.record import Limits
from edgecv.cost.survey import micro_kernels
from edgecv.xray.graph import CONVOLUTIONS

GMACS, MEMORY_GB, DISPATCH_US = 80.0, 12.0, 3.0
ROOMY = Limits(GMACS, MEMORY_GB, 100.0, 8_000_000, 32_000_000)


@pytest.fixture(scope="module")
def networks() -> list[list[Kernel]]:
    """The kernels of some small networks, those among them whose weights are too large for caches."""
    chosen = design.micro_networks()
    far = [micro for micro in chosen if micro.name.startswith("far")]
    return micro_kernels("onnxruntime", [*far, *chosen[:110]])


def synthetic_ms(kernels: list[Kernel]) -> float:
    """A machine that takes 3 us for a kernel, 1/80 ns for a MAC, and reads far weights and activations at 12 GB/s."""
    far = min(1.0, max(0.0, (sum(k.weight_bytes for k in kernels) - 8e6) / 24e6))
    moved = sum(kernel.read_bytes + kernel.write_bytes + far * kernel.weight_bytes for kernel in kernels)
    return DISPATCH_US * len(kernels) / 1e3 + sum(k.macs for k in kernels) / GMACS / 1e6 + moved / MEMORY_GB / 1e6


def test_fit_finds_a_known_machine_again(networks):
    times = np.array([synthetic_ms(kernels) for kernels in networks])
    found = fit.fit(networks, list(times))
    assert np.median(np.abs(np.array(found.left_out_ms) / times - 1)) < 0.03
    assert found.costs["pointwise: MACs"] == pytest.approx(1e3 / GMACS, rel=0.1)  # microseconds a million
    assert 4e6 <= found.limits.weights_near <= 16e6 <= found.limits.weights_far <= 64e6  # timed in powers of two
    assert found.limits.gmacs_per_s == pytest.approx(GMACS, rel=0.05)
    assert found.limits.memory_gb_per_s == pytest.approx(MEMORY_GB, rel=0.05)


def test_a_few_disturbed_measurements_do_not_move_the_fit(networks):
    times = [synthetic_ms(kernels) for kernels in networks]
    disturbed = [ms * (3 if number % 20 == 7 else 1) for number, ms in enumerate(times)]
    found = fit.fit(networks, disturbed)
    errors = [
        abs(
            sum(found.costs.get(name, 0) * value for name, value in fit.totals(kernels, found.limits).items())
            / 1e3
            / ms
            - 1
        )
        for kernels, ms in zip(networks, times, strict=True)
    ]
    assert np.median(errors) < 0.05


def test_nonnegative_least_squares_against_all_subsets():
    """The optimum over x >= 0 is the best feasible solution among the least squares on every subset of columns."""
    random = np.random.default_rng(3)
    for _ in range(20):
        a, b = random.standard_normal((12, 5)), random.standard_normal(12)
        best = float(b @ b)
        for count in range(1, 6):
            for columns in itertools.combinations(range(5), count):
                x = np.linalg.lstsq(a[:, columns], b, rcond=None)[0]
                if (x >= 0).all():
                    best = min(best, float(np.sum((a[:, columns] @ x - b) ** 2)))
        found = fit.nonnegative(a, b)
        assert (found >= 0).all()
        assert np.sum((a @ found - b) ** 2) == pytest.approx(best, rel=1e-9, abs=1e-12)


def product(kind: str, inner: int, outer: int, side: int) -> Kernel:
    """A kernel with the bytes that belong to its sizes."""
    taps = {"conv": 9, "depthwise": 9, "stem": 49}.get(kind, 1)
    groups = outer if kind == "depthwise" else 1
    inputs = outer if kind == "depthwise" else inner
    terms = inner * taps if groups == 1 else taps
    places = side * side
    return Kernel(
        kind, ("layer",), macs=places * outer * terms, inner=terms, outer=outer, places=places, rows=side, taps=taps,
        read_bytes=4 * inputs * places, write_bytes=4 * outer * places, weight_bytes=4 * terms * outer,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["conv", "pointwise", "depthwise", "stem", "matrix", "matmul"])
def test_more_channels_or_pixels_never_cost_less(kind):
    """Every quantity grows, so that with costs that are not negative the time does."""
    small = product(kind, 24, 40, 13)
    deeper = [] if kind == "depthwise" else [product(kind, 56, 40, 13)]
    for larger in (*deeper, product(kind, 24, 88, 13), product(kind, 24, 40, 29)):
        before, after = quantities(small, 1.0), quantities(larger, 1.0)
        assert all(after.get(name, 0.0) >= value for name, value in before.items()), kind
        assert sum(after.values()) > sum(before.values())


def test_quantities_of_a_pointwise_convolution_by_hand():
    """64 to 32 channels on 10x10: 204,800 MACs, 25,600 bytes read, 8,192 of weights."""
    found = quantities(product("pointwise", 64, 32, 10), weights_far=0.5)
    assert found["pointwise: MACs"] == pytest.approx(0.2048)  # in millions, as all are
    assert found["pointwise: bytes read"] == pytest.approx(0.0256)
    assert found["weights from memory: bytes"] == pytest.approx(0.004096)
    assert found["pointwise: dispatch"] == 1


def test_a_run_costs_something_itself(networks):
    assert fit.totals(networks[0], ROOMY)[RUN] == 1


def test_far_share():
    assert [ROOMY.far_share(size) for size in (0, 8_000_000, 20_000_000, 32_000_000, 10**9)] == [0, 0, 0.5, 1, 1]


def test_the_small_networks_have_no_size_of_the_zoo():
    """No convolution on a picture side, and no linear layer on a number of tokens, that a network of the zoo has."""
    sides, tokens = set(), set()
    for name in ("alexnet", "mobilenet_v3_small", "efficientnet_b1", "efficientnet_lite2", "convnext_atto", "vit_tiny"):
        graph = xray.zoo(name)
        for layer in graph.layers:
            shape = graph.input_of(layer).shape
            if layer.kind in CONVOLUTIONS:
                sides.add(shape[-1])
            if layer.kind == "linear" and len(shape) == 3:
                tokens.add(shape[1])
    assert len(sides) > 20
    assert not (sides - {1}) & set(design.SIDES)
    assert not tokens & set(design.TOKENS)


def test_small_networks_are_named_once_and_built_alike():
    networks = design.micro_networks()
    assert len({micro.name for micro in networks}) == len(networks)
    first, again = networks[5].build().model(), networks[5].build().model()
    assert first == again


def test_a_limit_is_never_undercut_by_what_was_timed(networks):
    times = np.array([synthetic_ms(kernels) for kernels in networks]) * 1e3
    limits = fit.limits_of(networks, times)
    for kernels, time in zip(networks, times, strict=True):
        assert sum(kernel.macs for kernel in kernels) / limits.gmacs_per_s / 1e3 <= time * 1.0001


def test_a_fused_activation_is_an_extra():
    plain = product("pointwise", 64, 32, 10)
    fused = replace(plain, fused=("hardswish",))
    assert set(quantities(fused, 0.0)) - set(quantities(plain, 0.0)) == {"fused hardswish: numbers"}
