"""What was measured against what may be lost: shown to be lost, shown to be kept, or more than the frames can tell.

One function serves the search, the verdict and what is said of both, so that they cannot contradict each other on the
same frames. It decides by the 95 % intervals, which are paired where there are labels: one frame decides nothing.
"""

from __future__ import annotations

import math

from edgecv_runtime.evidence import Agreement, Score
from edgecv_runtime.manifest import Budget
from edgecv_runtime.records import Record

Z = 1.959964  # of a 95 % interval


class Weighed(Record, frozen=True):
    """How a file stands to its budget.

    broken: what it was shown to lose beyond the budget, in words, or "". met: whether it is within the budget by what
    was found, whatever the intervals. note: why the frames cannot tell, and how many could; "" where they can.
    """

    broken: str
    met: bool
    note: str = ""


def weigh(budget: Budget, agreement: Agreement, score: Score | None) -> Weighed:
    """Weigh a file's score (where there are labels) and its agreement against a budget.

    The score breaks it where a loss is shown, its interval lies above zero, and what was found is beyond the budget.
    Where that is not so and the interval reaches beyond, the frames cannot tell, and agreement counts beside the score;
    without labels it counts alone, and where it was asked for always. It breaks it where its whole interval is beyond.
    """
    kept = _agreement(budget, agreement)
    if score is None:
        return kept
    limit = budget.max_drop_points
    found = f"{score.drop:.2f} points of {score.metric} ({score.drop_low:.1f} to {score.drop_high:.1f})"
    if score.drop > limit and score.drop_low > 0:
        return Weighed(f"loses {found} on {_frames(score)}, the budget is {limit:g}", False)
    told = score.drop_high <= limit
    if told and budget.min_agreement is None:
        return Weighed("", True)
    if told or kept.broken:
        return kept
    note = f"loses {found}: {_frames(score)} cannot resolve a budget of {limit:g}"
    wanted = _wanted(score, limit)
    return Weighed("", score.drop <= limit and kept.met, note + (f", about {wanted:,} could" if wanted else ""))


def _agreement(budget: Budget, agreement: Agreement) -> Weighed:
    share, limit = agreement.share, budget.least_agreement
    found = agreement.said()
    if share.high < limit:
        return Weighed(f"{found}, the budget is {limit:.1%}", False)
    if share.low >= limit:
        return Weighed("", True)
    note = f"{found} ({share.low:.1%} to {share.high:.1%}): so few cannot resolve a budget of {limit:.1%}"
    return Weighed("", share.value >= limit, note)


def _frames(score: Score) -> str:
    return f"{score.count} {score.frames or 'labelled images'}"


def _wanted(score: Score, limit: float) -> int:
    """How many frames that change as often would have an interval as narrow as the budget; 0 where none would.

    The interval of a paired difference narrows with the root of the number of frames.
    """
    half = (score.drop_high - score.drop_low) / 2
    if not limit:
        return 0
    exact = score.count * (half / limit) ** 2
    unit: int = 10 ** max(0, math.floor(math.log10(max(exact, 1))) - 1)  # two digits count
    return max(score.count + 1, math.ceil(exact / unit) * unit)


def paired(lost: int, gained: int, count: int, z: float = Z) -> tuple[float, float]:
    """The 95 % interval of a difference of two shares of the same `count` frames, from those that differ.

    Bonett and Price 2012, "Adjusted Wald confidence interval for a difference of binomial proportions based on paired
    data": a frame is added to each kind of change, so that frames of which none changed still leave a doubt.
    """
    first, second, total = (lost + 1) / (count + 2), (gained + 1) / (count + 2), count + 2
    half = z * math.sqrt(max(0.0, first + second - (first - second) ** 2) / total)
    return max(-1.0, first - second - half), min(1.0, first - second + half)
