"""Decide by evidence on which backends a variant is offered, and why not on the others."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from edgecv_runtime import machine
from edgecv_runtime.manifest import Entry, Evidence, Manifest, Variant

# A float32 file is faithful when it keeps nearly every top-1 label and no logit moves by more than this.
FLOAT_TOP1, FLOAT_MAX_ABS = 0.995, 0.01


def is_faithful(entry: Entry, manifest: Manifest) -> bool:
    """Whether what was measured lies within the bundle's budget."""
    variant = manifest.variant(entry.variant)
    return variant is not None and not (entry.hint == "float32" and _unfaithful(entry, variant, manifest))


def judge(manifest: Manifest, evidence: Evidence) -> Manifest:
    """The manifest whose variants say on which backends they are offered, and why not on the others.

    Only what was measured on this machine counts. A variant is offered on a backend when it agrees with the reference
    within the bundle's budget and, unless it is float32, is not slower there than float32.
    """
    here = [entry for entry in evidence.entries if entry.machine.key == machine.this().key and entry.hint == "float32"]
    variants = tuple(_judged(variant, manifest, here) for variant in manifest.variants)
    return msgspec.structs.replace(manifest, variants=variants, judged_on=machine.this().key)


def _judged(variant: Variant, manifest: Manifest, entries: Iterable[Entry]) -> Variant:
    baseline = {entry.backend: entry for entry in entries if entry.variant == "float32"}
    offered, withheld = [], {}
    for entry in entries:
        if entry.variant != variant.name:
            continue
        why_not = _unfaithful(entry, variant, manifest) or _slower(entry, variant, baseline.get(entry.backend))
        if why_not:
            withheld[entry.backend] = why_not
        else:
            offered.append(entry.backend)
    return msgspec.structs.replace(variant, backends=tuple(offered), withheld=withheld)


def _unfaithful(entry: Entry, variant: Variant, manifest: Manifest) -> str:
    if entry.failed:
        return f"{entry.finding}" if entry.finding else f"does not run: {entry.failed}"
    if entry.finding:
        return str(entry.finding)
    if entry.agreement is None:
        return "not verified; run 'edgecv verify'"
    top1 = entry.agreement.top1.value
    if variant.precision == "float32":
        if top1 < FLOAT_TOP1 or entry.agreement.max_abs > FLOAT_MAX_ABS:
            worst = entry.agreement.max_abs
            return f"differs from {entry.agreement.reference}: top-1 agreement {top1:.2%}, logits by {worst:.3g}"
        return ""
    budget = manifest.budget
    if entry.accuracy is not None and entry.accuracy.drop_points > budget.max_drop_points:
        return f"loses {entry.accuracy.drop_points:.2f} points of accuracy, the budget is {budget.max_drop_points:g}"
    if entry.accuracy is None and top1 < budget.min_agreement:
        return f"agrees with float32 on {top1:.1%} of frames, the budget is {budget.min_agreement:.1%}"
    return ""


def _slower(entry: Entry, variant: Variant, baseline: Entry | None) -> str:
    if variant.precision == "float32":
        return ""
    if entry.latency is None or baseline is None or baseline.latency is None:
        return "not measured here; run 'edgecv bench'"
    own, other = entry.latency.p50_ms, baseline.latency.p50_ms
    return f"slower than float32 ({own:.2f} against {other:.2f} ms)" if own > other else ""
