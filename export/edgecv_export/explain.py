"""Why a search chose what it chose, line by line."""

from __future__ import annotations

from edgecv_export.quantize import Quantized
from edgecv_runtime.manifest import Budget

MENTIONED = 8


def explain(done: Quantized, budget: Budget) -> list[str]:
    """The choice, what each backend gains or loses by it, and which layers stay in float and why."""
    return [_choice(done, budget), *_speeds(done), *_floats(done), *_layers(done), *_notes(done)]


def _choice(done: Quantized, budget: Budget) -> str:
    trial, agreement = done.chosen, done.chosen.agreement
    if trial.accuracy is not None:
        said = (
            f"top-1 drops by {trial.accuracy.drop_points:.2f} points ({trial.accuracy.drop_low:.2f} to "
            f"{trial.accuracy.drop_high:.2f}) on {trial.accuracy.top1.count} labelled images, "
            f"the budget is {budget.max_drop_points:g}"
        )
    else:
        said = (
            f"agrees with float32 on {agreement.top1.value:.1%} of {agreement.top1.count} images, "
            f"the budget is {budget.min_agreement:.1%}"
        )
    state = "" if done.found.kept else "NOT within the budget, the closest of all tried: "
    return f"{state}{trial.plan.name}: {said}; divergence {agreement.kl:.2g} nats; {len(done.candidates)} ways tried"


def _speeds(done: Quantized) -> list[str]:
    lines = []
    for name, ms in done.chosen.p50_ms.items():
        others = {"float32": done.float_ms.get(name), "bf16": done.bf16_ms.get(name)}
        known = {precision: other for precision, other in others.items() if other is not None}
        best = min(known, key=lambda precision: known[precision])
        table = ", ".join(f"{precision} {other:.2f} ms" for precision, other in known.items())
        faster = "is faster and " if known[best] <= ms else ""
        offered = done.found.kept and not faster
        verdict = "int8 is the fastest" if offered else f"{best} {faster}stays what to run there"
        lines.append(f"{name}: int8 {ms:.2f} ms, {table}: {verdict}")
    return lines


def _floats(done: Quantized) -> list[str]:
    counts = ", ".join(f"{count} {kind}" for kind, count in done.left_in_float.items())
    return [f"left in float: {counts}"] if counts else []


def _layers(done: Quantized) -> list[str]:
    """The islands, and the int8 layers that cost most: measured one by one, or by their outputs in the chosen file."""
    known = done.found.sensitivities
    costs = {name: f"quantized alone it costs {nats:.2g} nats" for name, nats in known.items()}
    lines = [f"island {name}: {costs.get(name, 'as a rule')}" for name in done.chosen.plan.islands]
    costs = costs or {name: f"its output is off by {100 * error:.3g} %" for name, error in done.errors.items()}
    rest = sorted(costs.keys() - set(done.chosen.plan.islands), key=lambda name: -(known or done.errors)[name])
    lines += [f"int8 {name}: {costs[name]}" for name in rest[:MENTIONED]]
    return [*lines, f"int8 {len(rest) - MENTIONED} more layers, which cost less"] if len(rest) > MENTIONED else lines


def _notes(done: Quantized) -> list[str]:
    return ["the time was over before the search was through; start it again to go on"] if done.found.stopped else []
