"""The search for the fastest int8 file that keeps its accuracy: a few placements, then what rescues the fastest."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import msgspec

from edgecv_export.deadline import Deadline, TimeIsOver, unbounded
from edgecv_export.dialects import DIALECTS
from edgecv_export.passes import CORRECTIONS, FLOAT_PASSES
from edgecv_export.placement import PLACEMENTS, quantized_nodes
from edgecv_export.plan import Plan, Workshop
from edgecv_export.quantize_config import QuantizeConfig
from edgecv_export.trial import TIE, Book, Laboratory, Trial
from edgecv_runtime.manifest import Budget
from edgecv_runtime.offers import broken

# How many of the most sensitive layers stay in float, one after the other.
ISLANDS = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Found:
    """What a search gave.

    chosen: the fastest trial within the budget, or the most faithful one when none is (then `kept` is False).
    sensitivities: of each layer of the chosen placement, quantized alone, in nats; empty when no island was needed.
    stopped: whether the time ran out before the search was through.
    """

    trials: tuple[Trial, ...]
    chosen: Trial
    kept: bool
    sensitivities: dict[str, float]
    stopped: bool


class Search:
    """Placements in the order of their speed; the first that can be brought within the budget wins.

    Ranges and passes do not change how fast a file runs, so they are tried on one placement at a time: cheap ones
    always, since they cost nothing on the device, dear ones (corrections, islands) only until the budget is kept.
    The time ends it in the middle of a pass, too: what is not finished is dropped, and begun anew by the next search.
    """

    def __init__(
        self,
        workshop: Workshop,
        laboratory: Laboratory,
        book: Book,
        budget: Budget,
        config: QuantizeConfig,
        progress: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._workshop, self._laboratory, self._book, self._budget = workshop, laboratory, book, budget
        self._config, self._progress = config, progress
        self._deadline = Deadline(config.budget_s, clock)
        self._trials: dict[Plan, Trial] = {}
        self._sensitivities: dict[str, dict[str, float]] = {}  # by placement
        self._stopped = False

    def run(self) -> Found:
        """Search until a placement is within the budget, all are through, or the time is over."""
        for first in sorted(self._first_trials(), key=lambda trial: trial.cost(self._config.goal)):
            self._rescue(first)
            if any(trial.placement == first.placement for trial in self._kept()):
                break
        kept = self._kept()
        trials = tuple(self._trials.values())
        chosen = self._best(kept) if kept else min(trials, key=lambda trial: trial.agreement.divergence)
        known = self._sensitivities.get(chosen.placement, {}) if chosen.plan.islands else {}
        return Found(trials, chosen, bool(kept), known, self._stopped)

    def _first_plans(self) -> Iterator[Plan]:
        """Every placement once; placements that give the same nodes here are one."""
        passes = tuple(name for name in ("bias",) if name in self._config.passes)
        seen: set[tuple[tuple[str, ...], tuple[str, ...]]] = set()
        for placement in self._config.placements:
            plan = Plan(placement, self._config.ranges[0], self._config.weight_ranges[0], passes)
            setting = self._workshop.setting(plan)
            shape = (tuple(node.name for node in setting.nodes), tuple(sorted(setting.grids)))
            if shape not in seen:
                seen.add(shape)
                yield plan

    def _first_trials(self) -> list[Trial]:
        """The placements, timed in turn: their order decides what is rescued."""
        contents: dict[Plan, bytes] = {}
        for plan in self._first_plans():
            trial = self._book.trial(plan)
            if trial is not None:
                self._trials[plan] = trial
                continue
            content = self._made(plan, f"try {plan.name}", needed=not self._trials and not contents)
            if content is not None:
                contents[plan] = content
        times = self._laboratory.times(list(contents.values()))
        for (plan, content), taken in zip(contents.items(), times, strict=True):
            self._trials[plan] = self._laboratory.measure(plan, content, taken)
            self._book.add(plan, self._trials[plan])
        return list(self._trials.values())

    def _rescue(self, first: Trial) -> None:
        """Improve one placement: cheap steps, then dear ones until the budget is kept."""
        best = first
        for plan in self._cheap(first.plan):
            best = self._closer(best, self._try(plan, first))
        for step in (self._with_float_passes, self._with_corrections, self._with_islands):
            if self.keeps(best):
                return
            for plan in step(best.plan):
                best = self._closer(best, self._try(plan, None if plan.islands else first))
                if self.keeps(best):
                    return

    def _cheap(self, plan: Plan) -> Iterator[Plan]:
        for ranges in self._config.ranges:
            for weights in self._config.weight_ranges:
                if (ranges, weights) != (plan.ranges, plan.weight_ranges):
                    yield msgspec.structs.replace(plan, ranges=ranges, weight_ranges=weights)

    def _with_float_passes(self, plan: Plan) -> Iterator[Plan]:
        usable = [name for name in FLOAT_PASSES if name in self._config.passes and name in self._workshop.float_passes]
        for name in usable:
            yield msgspec.structs.replace(plan, passes=(name, *plan.passes))
        if len(usable) > 1:
            yield msgspec.structs.replace(plan, passes=(*usable, *plan.passes))

    def _with_corrections(self, plan: Plan) -> Iterator[Plan]:
        floats = tuple(name for name in plan.passes if name in FLOAT_PASSES)
        dear = [name for name in CORRECTIONS if name in self._config.passes and name != "bias"]
        if "full-bias" in dear:
            yield msgspec.structs.replace(plan, passes=(*floats, "full-bias"))
        if "adaround" in dear:
            yield msgspec.structs.replace(plan, passes=(*floats, *dear))

    def _with_islands(self, plan: Plan) -> Iterator[Plan]:
        """The most sensitive layers in float, more and more of them."""
        if not self._config.islands:
            return
        ranking = self._ranking(plan)
        for count in ISLANDS:
            if count < len(ranking):
                yield msgspec.structs.replace(plan, islands=tuple(ranking[:count]))

    def _ranking(self, plan: Plan) -> list[str]:
        """Layers by what quantizing each alone costs, in nats on the check images; the dearest first."""
        light = msgspec.structs.replace(plan, passes=tuple(name for name in plan.passes if name in FLOAT_PASSES))
        wiring, _ = self._workshop.form(light.passes)
        names = [node.name for node in quantized_nodes(wiring, PLACEMENTS[plan.placement])]
        layers = [name for name in names if wiring.layer(wiring.nodes[name]) is not None]
        known = self._sensitivities[plan.placement] = dict(self._book.sensitivities(plan) or {})
        for index, name in enumerate(layers, start=1):
            if name in known:
                continue
            alone = msgspec.structs.replace(light, islands=tuple(each for each in names if each != name))
            content = self._made(alone, f"sensitivity of layer {index} of {len(layers)}: {name}")
            if content is None:
                break
            known[name] = self._laboratory.divergence(content)
            self._book.add(plan, dict(known))
        return sorted(known, key=lambda name: -known[name])

    def _try(self, plan: Plan, timed: Trial | None = None) -> Trial | None:
        """Make and measure a plan, or find it in the book; None when the time is over."""
        if plan in self._trials:
            return self._trials[plan]
        trial = self._book.trial(plan)
        if trial is None:
            content = self._made(plan, f"try {plan.name}")
            if content is None:
                return None
            times = (timed.p50_ms, timed.p99_ms) if timed else self._laboratory.times([content])[0]
            trial = self._laboratory.measure(plan, content, times)
            self._book.add(plan, trial)
        self._trials[plan] = trial
        return trial

    def _made(self, plan: Plan, why: str, needed: bool = False) -> bytes | None:
        """A plan's file; None when the time is over before it is finished, unless it is needed whatever it takes."""
        tick = unbounded if needed else self._deadline.check
        try:
            tick()
            self._progress(why)
            return self._workshop.make(plan, dialect=DIALECTS[self._config.int8[0]], tick=tick)
        except TimeIsOver:
            self._stopped = True
            return None

    def _closer(self, best: Trial, other: Trial | None) -> Trial:
        """Of two trials, the one that keeps the budget, then the one that is closer to float32."""
        if other is None or (self.keeps(best) and not self.keeps(other)):
            return best
        return (
            other
            if self.keeps(other) > self.keeps(best) or other.agreement.divergence < best.agreement.divergence
            else best
        )

    def keeps(self, trial: Trial) -> bool:
        """Whether a trial is within the budget: points of accuracy, or agreement where there are no labels."""
        return not broken(self._budget, trial.agreement, trial.score)

    def _kept(self) -> list[Trial]:
        return [trial for trial in self._trials.values() if self.keeps(trial)]

    def _best(self, kept: list[Trial]) -> Trial:
        """Of the trials that are as fast as the fastest, the closest to float32."""
        least = min(trial.cost(self._config.goal) for trial in kept)
        fast = [trial for trial in kept if trial.cost(self._config.goal) <= least * TIE]
        return min(fast, key=lambda trial: trial.agreement.divergence)
