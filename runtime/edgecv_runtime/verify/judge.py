"""Decide by evidence on which backends a variant is offered, and why not on the others."""

from __future__ import annotations

import msgspec

from edgecv_runtime import machine
from edgecv_runtime.manifest import Agreement, Entry, Evidence, Manifest, Variant

# A float32 file is faithful when it keeps nearly every top-1 label and no logit moves by more than this, or than this
# share of the largest one: rounding grows with the logits.
FLOAT_TOP1, FLOAT_MAX_ABS, FLOAT_MAX_SHARE = 0.995, 0.01, 1e-3
FLOAT = "float32"


def is_float32s(agreement: Agreement) -> bool:
    """Whether outputs differ from the reference by no more than float32 rounding does."""
    allowed = max(FLOAT_MAX_ABS, FLOAT_MAX_SHARE * agreement.largest)
    return agreement.top1.value >= FLOAT_TOP1 and agreement.max_abs <= allowed


def is_faithful(entry: Entry, manifest: Manifest) -> bool:
    """Whether what was measured lies within the bundle's budget."""
    variant = manifest.variant(entry.variant)
    return variant is not None and not (entry.hint == FLOAT and _unfaithful(entry, variant, manifest))


def judge(manifest: Manifest, evidence: Evidence) -> Manifest:
    """The manifest whose variants say on which backends they are offered, and why not on the others.

    Only what was measured on this machine counts. A variant is offered on a backend when it agrees with the reference
    within the bundle's budget and, unless it is float32, is not slower there than any float that does: float32, its
    bf16 where the backend has that, and fp16. The same holds for float32's bf16.
    """
    here = [entry for entry in evidence.entries if entry.machine.key == machine.this().key]
    why_not = {entry.key: _why_not(entry, manifest, here) for entry in here}
    variants = tuple(_judged(variant, here, why_not) for variant in manifest.variants)
    return msgspec.structs.replace(manifest, variants=variants, judged_on=machine.this().key)


def _judged(variant: Variant, here: list[Entry], why_not: dict[tuple[str, str, str, str], str]) -> Variant:
    own = [entry for entry in here if entry.variant == variant.name]
    plain = [entry for entry in own if entry.hint == FLOAT]
    others = [entry for entry in own if entry.hint != FLOAT and not why_not[entry.key]]
    return msgspec.structs.replace(
        variant,
        backends=tuple(entry.backend for entry in plain if not why_not[entry.key]),
        withheld={entry.backend: why_not[entry.key] for entry in plain if why_not[entry.key]},
        hints={each.backend: tuple(entry.hint for entry in others if entry.backend == each.backend) for each in others},
    )


def _why_not(entry: Entry, manifest: Manifest, here: list[Entry]) -> str:
    """Why an entry is not offered, or "" when it is."""
    variant = manifest.variant(entry.variant)
    if variant is None:
        return "not in the bundle"
    if why_not := _unfaithful(entry, variant, manifest):
        return why_not
    plain = next((each for each in here if each.backend == entry.backend and _is_float32(each, manifest)), None)
    if plain is entry:
        return ""
    if entry.hint != FLOAT and (plain is None or _unfaithful(plain, variant, manifest)):
        return "float32 itself is not offered"
    if entry.latency is None or plain is None or plain.latency is None:
        return "not measured here; run 'edgecv bench'"
    return _slower(entry.latency.p50_ms, rivals(entry, here, manifest))


def _is_float32(entry: Entry, manifest: Manifest) -> bool:
    variant = manifest.variant(entry.variant)
    return variant is not None and variant.precision == FLOAT == entry.hint


def rivals(entry: Entry, here: list[Entry], manifest: Manifest) -> dict[str, float]:
    """Milliseconds of the other floats on the same backend that keep what they have to, by precision.

    here: what was measured on this machine.
    """
    found: dict[str, float] = {}
    for each in here:
        variant = manifest.variant(each.variant)
        if variant is None or variant.precision == "int8" or each is entry or each.latency is None:
            continue
        if each.backend != entry.backend:
            continue
        if not _unfaithful(each, variant, manifest):
            found[each.hint if variant.precision == FLOAT else variant.precision] = each.latency.p50_ms
    return found


def _slower(own_ms: float, rivals: dict[str, float]) -> str:
    best = min(rivals, key=lambda name: rivals[name], default="")
    return f"slower than {best} ({own_ms:.2f} against {rivals[best]:.2f} ms)" if best and own_ms > rivals[best] else ""


def _unfaithful(entry: Entry, variant: Variant, manifest: Manifest) -> str:
    if entry.failed:
        return f"{entry.finding}" if entry.finding else f"does not run: {entry.failed}"
    if entry.finding:
        return str(entry.finding)
    if entry.agreement is None:
        return "not verified; run 'edgecv verify'"
    if variant.precision != FLOAT or entry.hint != FLOAT:
        return manifest.budget.broken_by(entry.agreement, entry.accuracy)
    if not is_float32s(entry.agreement):
        top1, worst = entry.agreement.top1.value, entry.agreement.max_abs
        return f"differs from {entry.agreement.reference}: top-1 agreement {top1:.2%}, logits by {worst:.3g}"
    return ""
