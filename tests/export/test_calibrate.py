"""Calibration: streamed statistics and the ranges drawn from them, against oracles over all the data at once."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from edgecv_export import calibrate, likeness, ranges
from edgecv_export.graph import Deployed, to_onnx
from edgecv_export.plan import Plan, Workshop
from edgecv_export.ranges import BINS, Statistics
from edgecv_runtime import Bundle
from edgecv_runtime.errors import ComputationError
from edgecv_runtime.verify import trace
from tests.conftest import NORMALIZATION, PREPROCESS
from tests.export.test_export import damaged


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=200), st.integers(1, 7))
@example([5.5e-43], 1)  # so small that bins per unit are more than float32 holds
@settings(deadline=None)
def test_streamed_statistics_equal_a_two_pass_oracle(values, pieces):
    array = np.array(values, np.float32).reshape(1, 1, -1)
    seen = Statistics()
    for part in np.array_split(array, min(pieces, array.size), axis=2):
        seen.add(part)
    assert seen.range("min-max") == (array.min(), array.max())
    assert seen.counts.sum() == (array.size if array.any() else 0)
    low, high = seen.range("percentile")
    bin_width = 2 * seen.width / BINS
    assert array.min() <= low <= high <= array.max()
    assert low <= np.quantile(array, 5e-5) + bin_width
    assert high >= np.quantile(array, 1 - 5e-5, method="lower") - bin_width


def streamed(values, axis=1):
    seen = Statistics(axis)
    for image in values:
        seen.add(image[None])
    return seen


@pytest.fixture(scope="module")
def skewed():
    """Two-sided values with a long tail, in 20 images of 4 channels, whose reach grows as they come."""
    random = np.random.default_rng(0)
    values = random.laplace(0.3, 1.0, (20, 4, 990)).astype(np.float32)
    return values * np.linspace(0.2, 1.5, 20, dtype=np.float32)[:, None, None]


@pytest.mark.parametrize("symmetric", [False, True])
def test_percentile_ranges_equal_numpys_within_a_bin(skewed, symmetric):
    values = np.abs(skewed) if symmetric else skewed
    seen = streamed(skewed)
    low, high = seen.range("percentile", symmetric)
    bin_width = 2 * seen.width / BINS
    tail = 1e-4 if symmetric else 5e-5
    assert abs(high - np.quantile(values, 1 - tail, method="inverted_cdf")) <= bin_width
    assert abs(low - (-high if symmetric else np.quantile(values, tail, method="inverted_cdf"))) <= bin_width


def test_mean_min_max_ranges_are_the_mean_of_the_images_own():
    values = np.random.default_rng(0).normal(size=(50, 4, 8, 8)).astype(np.float32)
    values[7] *= 1000  # one image far out of the others' range
    seen = Statistics()
    for batch in np.array_split(values, 7):
        seen.add(batch)
    low, high = seen.range("mean-min-max")
    assert low == pytest.approx(values.min((1, 2, 3)).mean(dtype=np.float64))
    assert high == pytest.approx(values.max((1, 2, 3)).mean(dtype=np.float64))
    assert seen.range("mean-min-max", symmetric=True)[1] == max(-low, high)
    assert high < 0.05 * seen.range("min-max")[1]


def rounding_error(values, low, high, levels):
    """The oracle of "mse": every value rounded and clipped, none in a histogram."""
    step = (high - low) / (levels - 1)
    return float(np.mean((np.clip(np.round((values - low) / step), 0, levels - 1) * step + low - values) ** 2))


class Heads(nn.Module):
    """Attention as timm writes it: queries, keys and values come to stand before the images; windows after them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.patch, self.qkv, self.head = nn.Conv2d(3, 8, 8, 8), nn.Linear(8, 24), nn.Linear(8, 10)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)  # (N, 16, 8)
        windows = x.reshape(-1, 4, 8)  # (4 N, 4, 8)
        q, k, v = self.qkv(windows).reshape(-1, 4, 3, 2, 4).permute(2, 0, 3, 1, 4)
        mixed = (q @ k.transpose(-2, -1)).softmax(-1) @ v  # (4 N, 2, 4, 4)
        return self.head(mixed.transpose(1, 2).reshape(-1, 16, 8).mean(1))


def test_ranges_are_of_images_where_attention_turns_the_axes_and_the_last_batch_is_smaller(digits):
    """Oracle: each tensor of the graph for one image after the other."""
    model = to_onnx(Deployed(Heads().eval(), NORMALIZATION), (32, 32), 3, {})
    frames = digits[0][:6]  # a batch of four, and one of two
    seen = calibrate.calibrate(model, calibrate.sample(frames).batches())
    single = [trace.tensors(model.SerializeToString(), {"image": frame[None]}) for frame in frames]
    pair = trace.tensors(model.SerializeToString(), {"image": frames[:2]})
    turned = 0
    for name, each in seen.items():
        values = [tensors[name] for tensors in single]
        assert each.range("min-max") == pytest.approx((min(map(np.min, values)), max(map(np.max, values))), abs=1e-5)
        if len(pair[name]) == 2 * len(values[0]):  # images, or their windows; else the whole batch counts as one
            wanted = [np.mean([end(one) for one in values]) for end in (np.min, np.max)]
            assert each.range("mean-min-max") == pytest.approx(wanted, abs=1e-5)
        turned += len(pair[name]) == 3
    assert turned
    for ranges_ in ranges.ESTIMATORS:
        Workshop(model, calibrate.sample(frames)).make(Plan("all", ranges_, passes=("rounding", "bias")))


@pytest.mark.parametrize("symmetric", [False, True])
def test_mse_ranges_are_the_best_of_brute_force_over_all_values(skewed, symmetric):
    values = np.abs(skewed).ravel() if symmetric else skewed.ravel()
    low, high = streamed(skewed).range("mse", symmetric)
    edge_low, levels = (0.0, 128) if symmetric else (float(values.min()), 256)
    tried = [
        rounding_error(values, left * edge_low, right * float(values.max()), levels)
        for left in ([1.0] if symmetric else np.linspace(0.2, 1, 41))
        for right in np.linspace(0.2, 1, 41)
    ]
    found = rounding_error(values, 0.0 if symmetric else low, high, levels)
    assert found <= 1.02 * min(tried)
    assert found < 0.95 * rounding_error(values, edge_low, float(values.max()), levels)


def test_a_histogram_that_widens_keeps_every_count_in_its_place():
    seen = Statistics()
    seen.add(np.linspace(-1, 1, 1000, dtype=np.float32).reshape(1, 1, -1))
    seen.add(np.full((1, 1, 10), 7.9, np.float32))
    assert seen.width == 8.0
    whole = np.concatenate([np.linspace(-1, 1, 1000), np.full(10, 7.9)]).astype(np.float32)
    wanted = np.histogram(whole, BINS, (-8, 8))[0]
    assert seen.counts.sum() == wanted.sum()
    assert np.abs(np.cumsum(seen.counts) - np.cumsum(wanted)).max() <= 4  # a value on an edge may fall to either side


@pytest.mark.parametrize(("axis", "others"), [(1, (0, 2, 3)), (-1, (0, 1, 2))])
def test_channel_statistics_are_those_of_numpy(axis, others):
    values = np.random.default_rng(0).normal(size=(6, 3, 5, 4)).astype(np.float32)
    seen = Statistics(axis)
    for batch in (values[:4], values[4:]):
        seen.add(batch)
    assert np.abs(seen.channel_means - values.mean(others)).max() < 1e-6
    assert (seen.channel_low == values.min(others)).all()
    assert (seen.channel_high == values.max(others)).all()
    low, high = seen.channel_ranges(symmetric=True)
    assert (high == np.abs(values).max(others)).all()
    assert (low == -high).all()


def test_weight_reach_by_mse_is_the_best_of_brute_force():
    weights = np.random.default_rng(0).standard_t(2, (5, 300)).astype(np.float32)
    found = ranges.weight_reach(weights, "mse")
    for row, reach in zip(weights, found, strict=True):
        steps = np.linspace(0.4, 1, 601) * np.abs(row).max() / 127
        errors = [((np.clip(np.round(row / step), -127, 127) * step - row) ** 2).sum() for step in steps]
        own = ((np.clip(np.round(row / (reach / 127)), -127, 127) * (reach / 127) - row) ** 2).sum()
        assert own <= 1.02 * min(errors)
    assert (ranges.weight_reach(weights, "min-max") == np.abs(weights).max(axis=1)).all()


def test_calibration_memory_does_not_grow_with_the_images(exported, digits, monkeypatch):
    """Python's and numpy's own allocations, after 100 and after 1,000 images, in one thread: two may hold more."""
    import tracemalloc

    monkeypatch.setattr(calibrate, "ThreadPoolExecutor", lambda _: ThreadPoolExecutor(1))
    model = onnx.load(exported / "model.onnx")
    held = {}
    for count in (100, 1000):
        tracemalloc.start()
        statistics = calibrate.calibrate(model, calibrate.sample(digits[0], count).batches())
        held[count] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(statistics) > 10
    assert held[1000] < 1.05 * held[100]


def test_calibration_names_the_node_that_gives_nan(exported, digits):
    def change(values):
        values[0] = np.nan

    model = damaged(exported / "model.onnx", "depthwise", change)
    with pytest.raises(ComputationError, match=r"calibration: node '.*depthwise.*Conv' gives NaN"):
        calibrate.calibrate(model, [digits[0][:4]])


def test_images_like_the_golden_ones_pass_and_others_are_warned_of(exported, digits, photos):
    frames = digits[0]
    with Bundle(exported) as opened:
        assert likeness.warnings(opened, frames[100:200]) == []
        (inverted,) = likeness.warnings(opened, 255 - frames[100:200])
        assert "do not resemble the bundle's own: the mean of channel" in inverted
        crops = np.stack([photos[0][at : at + 32, at : at + 32] for at in range(0, 320, 16)])
        assert "deviations (more than 2)" in likeness.warnings(opened, crops)[0]


def test_noise_that_was_scaled_up_is_warned_of(exported, photos):
    """Neighbouring pixels of it are alike, which is all that `check_real` looks at."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 20, 20, 3)).astype(np.uint8)
    frames = PREPROCESS.batch(list(noise))
    calibrate.check_real(frames)
    crops = PREPROCESS.batch([photo[at : at + 64, at : at + 64] for photo in photos for at in range(0, 320, 20)])
    assert likeness.farthest(frames, crops)[0] == "the smoothness"
    with Bundle(exported) as opened:
        assert "do not resemble" in likeness.warnings(opened, frames)[0]


def test_the_distance_of_two_sets_is_cohens_d():
    random = np.random.default_rng(0)
    first = np.clip(random.normal(100, 12, (400, 1, 1, 1)) + random.normal(0, 20, (400, 16, 16, 1)), 0, 255)
    second = first[::-1] + 36
    what, distance = likeness.farthest(first.astype(np.uint8), second.astype(np.uint8))
    assert what == "the mean of channel 0"
    assert distance == pytest.approx(36 / np.hypot(12.2, 4), rel=0.08)
