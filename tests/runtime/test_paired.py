"""What is said of two files is true on machines as they are: two speeds, outliers, processes with better places."""

from __future__ import annotations

import numpy as np
import pytest

from edgecv_runtime.paired import MARGIN, Ratio, ratio

ROUNDS, BLOCKS = 8, 8


def machine(rng, truth, *, block_s=0.06, luck=0.004, noise=0.04, outliers=0.03):
    """Block times of two contenders, B taking `truth` times as long, on a machine that takes twice as long in phases.

    Phases of 10 to 60 s start at random; single blocks take up to twice as long by chance; each round's processes have
    luck of their own. Mirrored pairs, a steady drift of 5 % over all. -> (A's, B's), in their order.
    """
    ends, slow, clock = [], [], 0.0
    while clock < 1000:
        clock += rng.uniform(10, 60)
        ends.append(clock)
        slow.append(1.0 if len(slow) % 2 else 2.0)
    at = rng.uniform(0, 200)
    found = ([], [])
    for _ in range(ROUNDS):
        places = np.exp(rng.normal(0, luck, 2))
        for pair in range(BLOCKS):
            for which in (0, 1) if pair % 2 == 0 else (1, 0):
                at += block_s
                phase = slow[int(np.searchsorted(ends, at))] * (1 + 0.05 * at / 60)
                chance = rng.uniform(1, 2) if rng.random() < outliers else 1.0
                ms = (1.0, truth)[which] * places[which] * phase * chance * np.exp(rng.normal(0, noise))
                found[which].append(ms)
        at += 5.0  # new processes start
    return found


def verdicts(truth, runs=200, **how):
    rng = np.random.default_rng(7)
    found = [ratio(b, a, ROUNDS) for a, b in (machine(rng, truth, **how) for _ in range(runs))]
    return [each.verdict for each in found]


def test_of_equals_at_most_one_in_twenty_differs():
    found = verdicts(1.0)
    assert sum(each in ("faster", "slower") for each in found) <= 10
    assert found.count("as fast") >= 150


@pytest.mark.parametrize(("truth", "said"), [(1.05, "slower"), (1 / 1.05, "faster")])
def test_a_difference_of_five_percent_is_found(truth, said):
    assert verdicts(truth).count(said) >= 190


def test_verdicts_on_the_same_files_never_contradict_each_other():
    for truth in (0.9, 0.98, 0.99, 1.0, 1.01, 1.02, 1.1):
        assert not {"faster", "slower"} <= set(verdicts(truth, 100))


def test_two_medians_of_different_moments_would_have_flipped():
    """What was done before: the times of one contender, then those of the other; what the pairs are for."""
    rng = np.random.default_rng(3)
    apart = [np.median(machine(rng, 1.05)[1]) / np.median(machine(rng, 1.05)[0]) for _ in range(50)]
    assert min(apart) < 1 < max(apart)


def test_the_interval_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(1)
    found = [ratio(b, a, ROUNDS) for a, b in (machine(rng, 1.3) for _ in range(300))]
    held = sum(each.low <= 1.3 <= each.high for each in found)
    assert held >= 0.92 * 300
    assert np.median([each.high / each.low for each in found]) < 1.06


def test_exact_ratios_have_no_width():
    found = ratio([3.0] * 16, [2.0] * 16)
    assert (found.value, found.low, found.high) == pytest.approx((1.5, 1.5, 1.5))
    assert found.pairs == 8


def test_a_steady_drift_cancels_in_mirrored_pairs():
    """A B B A while the machine slows down by 1 % a block: unmirrored pairs would say 1 %."""
    speed = 1.01 ** np.arange(64)
    mirrored = speed.reshape(-1, 2)
    a = [pair[number % 2] for number, pair in enumerate(mirrored)]
    b = [pair[1 - number % 2] for number, pair in enumerate(mirrored)]
    assert ratio(b, a).value == pytest.approx(1.0, abs=1e-9)
    assert ratio(mirrored[:, 1], mirrored[:, 0]).value == pytest.approx(1.01)


def test_too_few_pairs_give_no_interval():
    assert ratio([1.0] * 6, [1.0] * 6) is None
    assert ratio([1.0] * 8, [1.0] * 8) is not None
    with pytest.raises(ValueError, match="as many blocks"):
        ratio([1.0], [1.0, 2.0])


@pytest.mark.parametrize(
    ("figures", "verdict"),
    [
        ((1.5, 1.4, 1.6), "slower"),
        ((0.5, 0.4, 0.6), "faster"),
        ((1.0, 0.98, 1.02), "as fast"),
        ((1 + MARGIN / 2, 1.005, 1.015), "as fast"),  # shown, and less than two processes of one file differ
        ((1.3, 0.9, 1.9), "not told"),
        ((1.0, 0.7, 1.4), "not told"),
    ],
)
def test_verdicts(figures, verdict):
    assert Ratio(*figures, pairs=20).verdict == verdict
