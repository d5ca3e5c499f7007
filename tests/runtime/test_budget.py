"""What may be lost, and what so many frames can tell of it: one image never decides."""

import math
from itertools import product

import msgspec
import numpy as np
import pytest

from edgecv_runtime.budget import paired, weigh
from edgecv_runtime.evidence import Agreement
from edgecv_runtime.manifest import Budget
from edgecv_runtime.verify import score, wilson

BUDGET = Budget(max_drop_points=0.5, min_agreement=0.9)


def scored(lost, gained, count):
    """The score of outputs that lose and gain so many of the frames that the reference gets right or wrong."""
    right, wrong = np.array([1, 0], np.float32), np.array([0, 1], np.float32)
    reference = np.array([right] * (count - gained) + [wrong] * gained)
    outputs = np.array([wrong] * lost + [right] * (count - lost))
    return score(reference, outputs, np.zeros(count, np.int64), "photos")


def agreeing(hits, count):
    return Agreement("float32", "top-1", wilson(hits, count), 0.001, 0.1, 0.01, 5.0, "photos")


def weighed(lost, gained, count, agreement=None):
    return weigh(BUDGET, agreement or agreeing(count - lost - gained, count), scored(lost, gained, count))


@pytest.mark.parametrize("count", [8, 40, 153, 400])
def test_one_image_lost_withholds_nothing_on_any_small_set(count):
    found = weighed(1, 0, count)
    assert found.broken == ""
    assert "cannot resolve a budget of 0.5" in found.note
    alone = weigh(BUDGET, agreeing(count - 1, count), None)  # no labels
    assert alone.broken == ""


def test_no_verdict_turns_on_the_first_images_that_change():
    """From no change on, several images in a row have to be lost before a small set says so."""
    for count in (40, 153, 400):
        first = next(lost for lost in range(count) if weighed(lost, 0, count).broken)
        assert first >= 4, count


def test_a_loss_that_is_shown_is_withheld_with_its_interval_and_its_frames():
    found = weighed(12, 3, 153)
    assert found.broken.startswith("loses 5.88 points of top-1 (")
    assert found.broken.endswith("on 153 photos, the budget is 0.5")
    assert not found.met
    assert weighed(60, 0, 10_000).broken  # 0.6 points, which so many can tell


def test_a_set_that_resolves_the_budget_keeps_without_a_note():
    found = weighed(10, 10, 10_000)
    assert (found.broken, found.met, found.note) == ("", True, "")


def test_how_many_photos_could_tell_is_right():
    """As many as it says, changing as often, have an interval no wider than the budget; half as many do not."""
    note = weighed(2, 1, 153).note
    wanted = int(note.split("about ")[1].split()[0].replace(",", ""))
    half = [
        np.diff(paired(round(2 * times), round(times), round(153 * times)))[0] / 2
        for times in (wanted / 153, wanted / 306)
    ]
    assert 100 * half[0] <= 0.5 < 100 * half[1]


def test_agreement_counts_beside_a_score_that_cannot_tell():
    assert "agrees with float32 on 80.0% of 100" in weighed(1, 0, 100, agreeing(80, 100)).broken
    assert weighed(1, 0, 100, agreeing(97, 100)).broken == ""
    boxes = msgspec.structs.replace(agreeing(80, 100), metric="matched boxes")
    assert "agrees with float32 by matched boxes of 80.0% on 100 photos" in weighed(1, 0, 100, boxes).broken


def test_a_budget_of_nothing_names_no_number_of_photos():
    found = weigh(Budget(max_drop_points=0), agreeing(153, 153), scored(0, 0, 153))
    assert found.broken == ""
    assert found.note.endswith("cannot resolve a budget of 0")


def test_more_losses_are_never_judged_better():
    for count, gained in product((20, 153, 1000), (0, 2, 7)):
        states = [weighed(lost, gained, count) for lost in range(min(60, count - gained))]
        broken = [bool(each.broken) for each in states]
        assert broken == sorted(broken), (count, gained)
        met = [each.met for each in states]
        assert met == sorted(met, reverse=True), (count, gained)


def test_the_interval_is_symmetric_and_never_without_a_doubt():
    for lost, gained, count in product(range(6), range(6), (10, 153)):
        low, high = paired(lost, gained, count)
        other = paired(gained, lost, count)
        assert (low, high) == pytest.approx((-other[1], -other[0]))
        assert low < high
        assert low <= (lost - gained) / count <= high
    assert paired(0, 0, 153)[1] > 0.01


@pytest.mark.parametrize(("lost", "gained"), [(0.01, 0.01), (0.03, 0.01), (0.1, 0.05), (0.005, 0.001)])
@pytest.mark.parametrize("count", [50, 153])
def test_the_interval_holds_the_true_drop_as_often_as_it_says(lost, gained, count):
    """Brute force: every outcome of a multinomial with its probability, no simulation and so no chance."""
    covered = total = 0.0
    for ups, downs in product(range(count // 2), range(count // 3)):
        stay = count - ups - downs
        ways = math.comb(count, ups) * math.comb(count - ups, downs)
        chance = ways * lost**ups * gained**downs * (1 - lost - gained) ** stay
        low, high = paired(ups, downs, count)
        total += chance
        covered += chance * (low <= lost - gained <= high)
    assert total == pytest.approx(1, abs=1e-5)
    assert covered > 0.94
