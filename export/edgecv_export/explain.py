"""Why a search chose what it chose, and what a variant loses and gains, line by line."""

from __future__ import annotations

from edgecv_export.quantize import Quantized
from edgecv_runtime import machine
from edgecv_runtime.budget import weigh
from edgecv_runtime.evidence import Agreement, Evidence, Score
from edgecv_runtime.manifest import Budget, Manifest
from edgecv_runtime.offers import measured, rivals

MENTIONED = 8


def explain(done: Quantized, budget: Budget) -> list[str]:
    """The choice, and which layers stay in float and why."""
    return [_choice(done, budget), *_floats(done), *_layers(done), *_notes(done)]


def explain_evidence(evidence: Evidence, manifest: Manifest, name: str) -> list[str]:
    """What a variant that was verified and timed here loses on each backend, and its time beside those it has to beat.

    They are what the verdict is made of.
    """
    here = measured(manifest, evidence, machine.this())
    lines = []
    for own in here:
        if own.variant != name or own.agreement is None or own.latency is None:
            continue
        table = f"{name} {own.latency.p50_ms:.2f} ms"
        for each, rival in rivals(own, here, manifest).items():
            ratio = own.latency.beside(rival)
            table += f", {each} {rival.p50_ms:.2f} ms" + (f" ({ratio})" if ratio else "")
        lines.append(f"{name} on {own.backend}: {_lost(own.agreement, own.score, manifest.budget)}; {table}")
    return lines


def _choice(done: Quantized, budget: Budget) -> str:
    trial = done.chosen
    found = weigh(budget, trial.agreement, trial.score)
    doubt = ", as far as so few images can tell" if found.note and not found.broken else ""
    state = "" if done.found.kept else f"NOT within the budget{doubt}, the closest of all tried: "
    said = _lost(trial.agreement, trial.score, budget)
    others = "".join(f"; {name}: {each.plan.name}" for name, each in done.others.items())
    return f"{state}{trial.plan.name}: {said}; {len(done.candidates)} ways tried{others}"


def _lost(agreement: Agreement, score: Score | None, budget: Budget) -> str:
    """What is lost of accuracy, or of agreement where there are no labels, beside the budget."""
    if score is not None:
        said = (
            f"{score.metric} drops by {score.drop:.2f} points ({score.drop_low:.2f} to "
            f"{score.drop_high:.2f}) on {score.count} labelled {score.frames or 'images'}, "
            f"the budget is {budget.max_drop_points:g}"
        )
    else:
        said = f"{agreement.said('float32')}, the budget is {budget.least_agreement:.1%}"
    note = weigh(budget, agreement, score).note
    return f"{said}; divergence {agreement.divergence:.2g} nats" + (f"; {note}" if note else "")


def _floats(done: Quantized) -> list[str]:
    counts = ", ".join(f"{count} {kind}" for kind, count in done.left_in_float.items())
    return [f"left in float: {counts}"] if counts else []


def _layers(done: Quantized) -> list[str]:
    """The islands, and the int8 layers that cost most: measured one by one, or by their outputs in the chosen file."""
    known = done.found.sensitivities
    costs = {name: f"quantized alone it costs {nats:.2g} nats where int8 moves most" for name, nats in known.items()}
    lines = [f"island {name}: {costs.get(name, 'as a rule')}" for name in done.chosen.plan.islands]
    costs = costs or {name: f"its output is off by {100 * error:.3g} %" for name, error in done.errors.items()}
    rest = sorted(costs.keys() - set(done.chosen.plan.islands), key=lambda name: -(known or done.errors)[name])
    lines += [f"int8 {name}: {costs[name]}" for name in rest[:MENTIONED]]
    if done.errors and not known:
        what = "later layers even most of it out; the budget is judged by the file's answers, in the first line"
        lines.insert(len(done.chosen.plan.islands), f"how far each int8 layer is from float32 by itself ({what}):")
    return [*lines, f"int8 {len(rest) - MENTIONED} more layers, which cost less"] if len(rest) > MENTIONED else lines


def _notes(done: Quantized) -> list[str]:
    return ["the time was over before the search was through; start it again to go on"] if done.found.stopped else []
