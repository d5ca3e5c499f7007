"""The search for the fastest int8 file that keeps its accuracy: a few placements, then what brings each closer."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from edgecv_export.deadline import Deadline, TimeIsOver, unbounded
from edgecv_export.dialects import DIALECTS
from edgecv_export.passes import CORRECTIONS
from edgecv_export.placement import PLACEMENTS, quantized_nodes
from edgecv_export.plan import Plan, Workshop
from edgecv_export.quantize_config import QuantizeConfig
from edgecv_export.trial import TIE, Book, Floats, Laboratory, Times, Trial
from edgecv_export.wiring import Wiring
from edgecv_runtime.budget import weigh
from edgecv_runtime.manifest import Budget

# How many of the most sensitive layers stay in float, one after the other; the first ones are tried in any case.
ISLANDS, ALWAYS = (1, 2, 4, 8, 16), 2
# Placements that are the fastest of ONNX Runtime or OpenVINO on most networks (benchmarks/quantization_placements).
FASTEST = ("all", "merged")
# No ranking of the layers takes more of the time than this: islands out of those that were reached are tried then.
RANKING_SHARE = 0.25
# What seems slower than the fastest by no more than this factor may be as fast: they were timed minutes apart.
LUCK = 1.3
# A float pass shall change nothing: what it moves must be small beside what quantization does, and nothing beside that.
MOVES, MOVES_OF_INT8 = 1e-7, 0.1


@dataclass(frozen=True)
class Found:
    """What a search gave.

    chosen: the fastest trial within the budget, or the most faithful one when none is (then `kept` is False).
    others: by backend, the trial that wins there where `chosen` does not. sensitivities: of each layer of the chosen
    placement, quantized alone, in nats on the images that int8 moves most; empty when none was measured. stopped:
    whether the time ran out before the search was through. floats: what float32 takes.
    """

    trials: tuple[Trial, ...]
    chosen: Trial
    kept: bool
    sensitivities: dict[str, float]
    stopped: bool
    floats: Floats
    others: dict[str, Trial] = field(default_factory=dict)


class Search:
    """On each backend where int8 is worth it: placements in the order of their speed until one is within the budget.

    All placements are timed, in turns with float32. Compared with float32 are those that may be chosen: the fastest on
    each backend, whatever the time, then those that may be as fast; the others when none of these keeps the budget.
    Corrections cost the device nothing and are always made. One and two islands come next and are always tried: they
    may be faster, too, and where they are no slower everything else builds on them. Ranges and float passes do not
    change how fast a file runs: they are tried on one placement at a time, and the closest wins; the next turn, of
    another placement or backend, begins with it. More islands follow as long as the budget is not kept, or the check
    images cannot tell whether it is. The time ends it in the middle of a calibration, too: what is not finished is
    dropped, and begun anew by the next search.
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
        self._clock, self._deadline = clock, Deadline(config.budget_s, clock)
        self._trials: dict[Plan, Trial] = {}
        self._timed: dict[Plan, bytes] = {}  # placements that are not compared with float32 yet, and their files
        self._sensitivities: dict[Plan, dict[str, float]] = {}
        self._moved: dict[str, float] = {}  # by float pass, in nats
        self._closest: Plan | None = None  # whose ranges and passes came out closest in the turn before
        self._stopped = False

    def run(self) -> Found:
        """Search until a placement is within the budget on every backend, all are through, or the time is over."""
        firsts = self._timed_placements()
        names = self._worth(firsts)
        order = {name: sorted(firsts, key=lambda trial: trial.cost(self._speed, name)) for name in names}
        for name in names:
            self._compared(order[name][0], needed=True)
        for name in names:  # on every backend before anything that takes long on one
            self._with_free_islands(self._trials[order[name][0].plan], name)
        for name in names:
            for first in order[name][1:]:
                if first.cost(self._speed, name) <= LUCK * order[name][0].cost(self._speed, name):
                    self._compared(first)
        for name in names:
            for first in order[name]:
                trial = self._compared(first)
                if trial is None:
                    break
                self._bring_closer(trial, name)
                if any(each.placement == first.placement for each in self._kept(name)):
                    break
        best = {name: self._best(name) for name in names if self._kept(name)}
        trials = tuple(self._trials.values())
        closest = min(trials, key=lambda trial: trial.agreement.divergence)
        chosen, others = self._divided(best) if best else (closest, {})
        return Found(trials, chosen, bool(best), self._known(chosen.plan), self._stopped, self._floats, others)

    @property
    def _speed(self) -> str:
        """The goal by which placements are put in order: nothing is known of their divergence before the passes."""
        return "p50" if self._config.goal == "divergence" else self._config.goal

    def _worth(self, firsts: list[Trial]) -> list[str]:
        """The backends on which int8 seems as fast as each float, the fastest first; or the one where it is nearest."""
        least = {name: min(trial.cost("p50", name) for trial in firsts) for trial in firsts for name in trial.p50_ms}
        order = sorted(least, key=lambda name: least[name])
        nearest = min(order, key=lambda name: least[name] / self._float_ms(name))
        return [name for name in order if least[name] <= TIE * self._float_ms(name)] or [nearest]

    @property
    def _floats(self) -> Floats:
        floats = self._laboratory.floats
        assert floats is not None  # they are timed with the placements
        return floats

    def _float_ms(self, name: str) -> float:
        """Milliseconds of the fastest float that keeps the budget."""
        floats = (self._floats.p50_ms, self._floats.bf16_ms)
        return min((times[name] for times in floats if name in times), default=math.inf)

    def _divided(self, best: dict[str, Trial]) -> tuple[Trial, dict[str, Trial]]:
        """One trial for all backends where one is as good as the best of each, or else one for those that want it."""

        def suits(trial: Trial, name: str) -> bool:
            allowed = TIE * best[name].cost(self._config.goal, name)
            return self.keeps(trial, name) and trial.cost(self._config.goal, name) <= allowed

        common = [trial for trial in self._trials.values() if all(suits(trial, name) for name in best)]
        if common:
            return min(common, key=lambda trial: max(trial.divergence(name) for name in best)), {}
        chosen = next(iter(best.values()))
        return chosen, {name: trial for name, trial in best.items() if not suits(chosen, name)}

    def _first_plans(self) -> Iterator[Plan]:
        """Every placement once, those first that are the fastest of some backend most often; placements that give the
        same nodes here are one.
        """
        passes = tuple(name for name in CORRECTIONS if name in self._config.passes)
        seen: set[tuple[tuple[str, ...], tuple[str, ...]]] = set()
        for placement in sorted(self._config.placements, key=lambda each: each not in FASTEST):
            ranges, weights = self._config.ranges[0], self._config.weight_ranges[0]
            plan = Plan(placement, ranges, weights, passes, self._config.keep_float)
            setting = self._workshop.setting(plan)
            shape = (tuple(node.name for node in setting.nodes), tuple(sorted(setting.grids)))
            if shape not in seen:
                seen.add(shape)
                yield plan

    def _timed_placements(self) -> list[Trial]:
        """The placements, timed in turn, or as the book has them: their order decides what is rescued. What a trial is
        compared with is open where it was not compared yet.
        """
        known: list[Trial] = []
        for plan in self._first_plans():
            trial = self._book.trial(plan)
            if trial is not None:
                known.append(trial)
                if trial.is_compared:
                    self._trials[plan] = trial
                continue
            content = self._made(plan, f"try {plan.name}", needed=not known and not self._timed)
            if content is not None:
                self._timed[plan] = content
        contents = list(self._timed.values())
        if self._laboratory.floats is None:
            times = self._laboratory.against_floats(contents)
            self._book.add(self._budget, self._floats)
        elif known:
            times = self._beside(known[0], contents)
        else:
            times = self._laboratory.times(contents)
        for (plan, content), each in zip(self._timed.items(), times, strict=True):
            known.append(Trial(plan, {}, {}, *each, len(content)))
            self._book.add(plan, known[-1])
        return known

    def _compared(self, timed: Trial, needed: bool = False) -> Trial | None:
        """A placement that was timed, compared with float32; None when the time is over, unless it is needed."""
        plan = timed.plan
        if plan not in self._trials:
            if self._deadline.passed and not needed:
                self._stopped = True
                return None
            content = self._timed.pop(plan, None) or self._made(plan, f"compare {plan.name}", needed)
            if content is None:
                return None
            self._trials[plan] = self._laboratory.measure(plan, content, (timed.p50_ms, timed.p99_ms))
            self._book.add(plan, self._trials[plan])
        return self._trials[plan]

    def _bring_closer(self, first: Trial, name: str) -> None:
        """Improve one placement for one backend: islands that are free, what costs the device nothing, more islands."""
        best = self._with_free_islands(first, name)
        if self._closest is not None:  # what is close in one place mostly is in another, and the time may end here
            best = self._closer(best, self._try(_like(best.plan, self._closest), best), name)
        for plan in self._with_ranges(best.plan):
            best = self._closer(best, self._try(plan, best), name)
        unchanged = best
        for plan in self._with_float_passes(unchanged):
            best = self._closer(best, self._try(plan, best), name)
        if best is not unchanged:
            for plan in self._with_ranges(best.plan):
                best = self._closer(best, self._try(plan, best), name)
        self._closest = best.plan
        for count, plan in self._with_islands(best.plan):
            if count > ALWAYS and self._settled(best, name):
                return
            best = self._closer(best, self._try(plan, first, alone=True), name)

    def _with_free_islands(self, first: Trial, name: str) -> Trial:
        """The closest of a placement and the same with one and two islands, of those that are no slower."""
        best = first
        for count, plan in self._with_islands(first.plan):
            if count > ALWAYS:
                break
            trial = self._try(plan, first, alone=True)
            if trial is not None and trial.cost(self._speed, name) <= TIE * first.cost(self._speed, name):
                best = self._closer(best, trial, name)
        return best

    def _settled(self, trial: Trial, name: str) -> bool:
        """Whether a trial is within the budget, and the check images can tell; no divergence is small enough."""
        scored = trial.scores.get(name)
        told = scored is None or scored.drop_high <= self._budget.max_drop_points
        return self.keeps(trial, name) and told and self._config.goal != "divergence"

    def _with_ranges(self, plan: Plan) -> Iterator[Plan]:
        for ranges in self._config.ranges:
            for weights in self._config.weight_ranges:
                if (ranges, weights) != (plan.ranges, plan.weight_ranges):
                    yield msgspec.structs.replace(plan, ranges=ranges, weight_ranges=weights)

    def _with_float_passes(self, best: Trial) -> Iterator[Plan]:
        """Each float pass that leaves the float outputs where they are, then all of them."""
        usable = [name for name in self._workshop.float_forms if name in self._config.passes and self._harmless(name)]
        others = tuple(name for name in best.plan.passes if name not in usable)
        for name in usable:
            yield msgspec.structs.replace(best.plan, passes=(name, *others))
        if len(usable) > 1:
            yield msgspec.structs.replace(best.plan, passes=(*usable, *others))

    def _harmless(self, name: str) -> bool:
        """Whether a float pass keeps its promise on the check images; one that does not is left out, and said to be."""
        if name not in self._moved:
            content = self._workshop.float_forms[name].model.SerializeToString()
            self._moved[name] = self._laboratory.divergence(content)
            closest = min(trial.agreement.divergence for trial in self._trials.values())
            if self._moved[name] > max(MOVES, MOVES_OF_INT8 * closest):
                self._progress(
                    f"pass '{name}' is left out: it moves the float outputs themselves by {self._moved[name]:.2g} "
                    f"nats, where int8 without it moves them by {closest:.2g}"
                )
                self._moved[name] = math.inf
        return self._moved[name] < math.inf

    def _with_islands(self, plan: Plan) -> Iterator[tuple[int, Plan]]:
        """The most sensitive layers in float, more and more of them, with how many there are."""
        if not self._config.islands:
            return
        ranking = self._ranking(plan)
        for count in ISLANDS:
            if count < len(ranking):
                yield count, msgspec.structs.replace(plan, islands=(*self._config.keep_float, *ranking[:count]))

    def _alone(self, plan: Plan) -> Plan:
        """What the order of a plan's layers depends on: the layers and passes, hardly on ranges or what is between."""
        ranges, weights = self._config.ranges[0], self._config.weight_ranges[0]
        own = self._layers(plan.placement, plan)
        alike = next(each for each in self._config.placements if self._layers(each, plan) == own)
        return Plan(alike, ranges, weights, plan.passes, self._config.keep_float)

    def _known(self, plan: Plan) -> dict[str, float]:
        return self._sensitivities.get(self._alone(plan), {}) if self._sensitivities else {}

    def _nodes(self, placement: str, plan: Plan) -> list[str]:
        """What a placement quantizes when no layer is an island, in the graph's order."""
        nodes = quantized_nodes(self._wiring(plan), PLACEMENTS[placement], self._config.keep_float)
        return [node.name for node in nodes]

    def _layers(self, placement: str, plan: Plan) -> list[str]:
        wiring = self._wiring(plan)
        return [name for name in self._nodes(placement, plan) if wiring.layer(wiring.nodes[name]) is not None]

    def _wiring(self, plan: Plan) -> Wiring:
        return self._workshop.form(tuple(name for name in plan.passes if name in self._workshop.float_forms))[0]

    def _ranking(self, plan: Plan) -> list[str]:
        """Layers by what quantizing each alone costs, in nats on the images that all of them move most."""
        alone = self._alone(plan)
        names, layers = self._nodes(alone.placement, alone), self._layers(alone.placement, alone)
        known = self._sensitivities.setdefault(alone, dict(self._book.sensitivities(alone) or {}))
        left = [name for name in layers if name not in known]
        whole = self._made(alone, f"rank {len(left)} layers") if left else None
        images = self._laboratory.hardest(whole) if whole is not None else None
        deadline = Deadline(RANKING_SHARE * self._config.budget_s, self._clock)
        for index, name in enumerate(layers, start=1):
            if name in known:
                continue
            others = tuple(each for each in names if each != name)
            only = msgspec.structs.replace(alone, islands=(*alone.islands, *others))
            content = self._made(only, f"sensitivity of layer {index} of {len(layers)}: {name}")
            if content is None:
                break
            known[name] = self._laboratory.divergence(content, images)
            self._book.add(alone, dict(known))
            if deadline.passed:
                self._stopped = True
                break
        return sorted(known, key=lambda name: -known[name])

    def _try(self, plan: Plan, like: Trial, alone: bool = False) -> Trial | None:
        """Make and measure a plan, or find it in the book; None when the time is over.

        like: of the same operators, whose times are the plan's, too, unless it is timed by itself, beside that one.
        """
        if plan in self._trials:
            return self._trials[plan]
        trial = self._book.trial(plan)
        if trial is None or not trial.is_compared:
            content = self._made(plan, f"try {plan.name}")
            if content is None:
                return None
            if trial is not None:
                times = trial.p50_ms, trial.p99_ms
            else:
                times = self._beside(like, [content])[0] if alone else (like.p50_ms, like.p99_ms)
            trial = self._laboratory.measure(plan, content, times)
            self._book.add(plan, trial)
        self._trials[plan] = trial
        return trial

    def _beside(self, like: Trial, contents: Sequence[bytes]) -> list[Times]:
        """The times of files, as if they had been timed when `like` was: all take turns now, the ratios count."""
        if not contents:
            return []
        known = self._workshop.make(like.plan, dialect=DIALECTS[self._config.int8[0]])
        before, *own = self._laboratory.times([known, *contents])
        return [(_scaled(like.p50_ms, before[0], p50), _scaled(like.p99_ms, before[1], p99)) for p50, p99 in own]

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

    def _closer(self, best: Trial, other: Trial | None, name: str) -> Trial:
        """Of two trials, the one that keeps the budget on a backend, then the one that is closer to float32 there."""
        if other is None:
            return best
        return min(best, other, key=lambda trial: (not self.keeps(trial, name), trial.divergence(name)))

    def keeps(self, trial: Trial, name: str) -> bool:
        """Whether a trial is within the budget on a backend."""
        agreement = trial.agreements.get(name)
        return agreement is not None and weigh(self._budget, agreement, trial.scores.get(name)).met

    def _kept(self, name: str) -> list[Trial]:
        return [trial for trial in self._trials.values() if self.keeps(trial, name)]

    def _best(self, name: str) -> Trial:
        """Of the trials within the budget that are as fast as the fastest, or as the goal asks, the closest.

        One that seems a little slower is timed once more, beside the fastest: of many that are as fast, one had luck.
        """
        kept = self._kept(name)
        fastest = min(kept, key=lambda trial: trial.cost(self._speed, name))
        least = fastest.cost(self._speed, name)
        allowed = TIE * least
        if self._config.goal == "divergence":
            allowed = max(allowed, self._float_ms(name))
        closest, near = (
            min((each for each in kept if each.cost(self._speed, name) <= most), key=lambda each: each.divergence(name))
            for most in (max(allowed, LUCK * least), allowed)
        )
        lucky = closest is not near and self._speed != "size" and self._as_fast(closest, fastest, name)
        return closest if lucky else near

    def _as_fast(self, trial: Trial, other: Trial, name: str) -> bool:
        """Whether a trial's file takes no longer than another's on a backend, both in turns now."""
        contents = [self._workshop.make(each.plan, dialect=DIALECTS[self._config.int8[0]]) for each in (trial, other)]
        own, known = (times[self._speed == "p99"][name] for times in self._laboratory.times(contents))
        return own <= TIE * known


def _like(plan: Plan, other: Plan) -> Plan:
    """The layers of a plan with the ranges and passes of another."""
    return msgspec.structs.replace(plan, ranges=other.ranges, weight_ranges=other.weight_ranges, passes=other.passes)


def _scaled(then: dict[str, float], old: dict[str, float], new: dict[str, float]) -> dict[str, float]:
    """Milliseconds by backend, by what a file took then, and it and another one take now."""
    return {name: then[name] * ms / old[name] for name, ms in new.items() if name in old and name in then}
