"""What follows from evidence: which ways to run a bundle are offered on a machine, and why not the others.

Nothing of this is stored: it is computed when a bundle is loaded, so that one bundle may carry evidence of many
machines, and who adds some need not judge again.
"""

from __future__ import annotations

from edgecv_runtime import backends
from edgecv_runtime.budget import weigh
from edgecv_runtime.evidence import TOP_1, Agreement, Entry, Evidence, Key
from edgecv_runtime.head import Head
from edgecv_runtime.machine import Machine
from edgecv_runtime.manifest import Manifest, Precision, TensorSpec, Variant
from edgecv_runtime.records import Record

# A float32 file is faithful when it keeps nearly every result and no output moves by more than this, or than this
# share of the largest one: rounding grows with the outputs. Of scores that have bounds only the share counts: among
# many classes all are small. What is smaller than a thousandth of the bound counts as that.
FLOAT_SHARE, FLOAT_MAX_ABS, FLOAT_MAX_SHARE, LEAST_OF_WHOLE = 0.995, 0.01, 1e-3, 1e-3
# Of outputs that are classes no more than this share may change, as in the gate of an export: where two classes are as
# good as equal, rounding decides. The score does not count there: one pixel of a class that is nowhere else halves it.
FLOAT_CHANGED = 1e-3
FLOAT: Precision = "float32"
CURE = "run 'edgecv verify' and 'edgecv bench'"
NOT_VERIFIED, NOT_TIMED = "not verified; run 'edgecv verify'", "not measured here; run 'edgecv bench'"


class Offers(Record, frozen=True):
    """Why each way to run that was measured on a machine is not offered there; "" where it is.

    machine: its key. why_not: by variant, backend and precision hint.
    """

    machine: str
    why_not: dict[Key, str]

    def backends(self, variant: str) -> tuple[str, ...]:
        """The backends on which a variant is offered as it is, without a hint."""
        return tuple(
            name for (each, name, hint), why in self.why_not.items() if (each, hint, why) == (variant, FLOAT, "")
        )

    def withheld(self, variant: str) -> dict[str, str]:
        """Why a variant is not offered, by backend."""
        return {
            name: why for (each, name, hint), why in self.why_not.items() if (each, hint) == (variant, FLOAT) and why
        }

    def hints(self, variant: str) -> dict[str, tuple[str, ...]]:
        """The other float precisions in which a variant is offered, by backend."""
        found: dict[str, tuple[str, ...]] = {}
        for (each, name, hint), why in self.why_not.items():
            if each == variant and hint != FLOAT and not why:
                found[name] = (*found.get(name, ()), hint)
        return found


def offered(manifest: Manifest, evidence: Evidence, machine: Machine) -> Offers:
    """What is offered on a machine, by what was measured on that very machine with the bundle's very files.

    A variant is offered on a backend when it agrees with the reference within the bundle's budget and, unless it is
    float32, is not slower there than any float that does: float32, its bf16 where the backend has that, and fp16. The
    same holds for float32's bf16.
    """
    here = measured(manifest, evidence, machine)
    return Offers(machine.key, {entry.target: _why_not(entry, manifest, here) for entry in here})


def measured(manifest: Manifest, evidence: Evidence, machine: Machine) -> list[Entry]:
    """The entries of a machine that are of the bundle's files."""
    files = {each.name: manifest.files[each.file].sha256 for each in manifest.variants if each.file in manifest.files}
    return [
        entry
        for entry in evidence.entries
        if entry.machine.key == machine.key and files.get(entry.variant, entry.sha256) == entry.sha256
    ]


def is_float32s(agreement: Agreement, head: Head, outputs: tuple[TensorSpec, ...] = ()) -> bool:
    """Whether a network's outputs differ from the reference by no more than float32 rounding does.

    outputs: where it has others than floats.
    """
    if _are_classes(outputs):
        behind = agreement.behind
        near = behind is None or behind.max_abs <= by_rounding(behind.largest, agreement.metric)
        return near and agreement.divergence <= FLOAT_CHANGED
    whole = head.bound
    allowed = by_rounding(agreement.largest, agreement.metric)
    if whole is not None:
        allowed = FLOAT_MAX_SHARE * max(agreement.largest or whole, LEAST_OF_WHOLE * whole)
    # What a metric ranks, rounding reorders where scores are nearly equal: there the outputs alone tell, more strictly.
    keeps = agreement.metric != TOP_1 or agreement.share.value >= FLOAT_SHARE
    return keeps and agreement.max_abs <= allowed


def by_rounding(largest: float, metric: str) -> float:
    """By how much an output without bounds may be off whose largest value is that.

    metric: of the task. Logits of classes move by FLOAT_MAX_ABS unseen; of others, scores in 0..1 among them, no more
    than the gate of an export allows.
    """
    least = FLOAT_MAX_ABS if metric == TOP_1 else FLOAT_MAX_SHARE
    return max(least, FLOAT_MAX_SHARE * largest)


def _are_classes(outputs: tuple[TensorSpec, ...]) -> bool:
    """Whether all outputs are integers: their divergence is the share of those that changed."""
    return bool(outputs) and not any(output.dtype.startswith("float") for output in outputs)


def is_good(entry: Entry, manifest: Manifest) -> bool:
    """Whether what was measured lies within the bundle's budget."""
    variant = manifest.variant(entry.variant)
    return variant is not None and not _unfaithful(entry, variant, manifest)


def is_faithful(entry: Entry, manifest: Manifest) -> bool:
    """The same, but for float32 in another precision, which is a hint: where it does not hold, nothing is lost."""
    return is_good(entry, manifest) or (entry.hint != FLOAT and manifest.variant(entry.variant) is not None)


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


def _why_not(entry: Entry, manifest: Manifest, here: list[Entry]) -> str:
    """Why an entry is not offered, or "" when it is."""
    variant = manifest.variant(entry.variant)
    if variant is None:
        return "not in the bundle"
    if why_not := _unfaithful(entry, variant, manifest):
        return why_not
    plain = next((each for each in here if each.backend == entry.backend and _is_float32(each, manifest)), None)
    if plain is entry or entry.machine.server:  # a server runs what it runs: there is nothing faster to choose
        return ""
    if entry.hint != FLOAT and (plain is None or _unfaithful(plain, variant, manifest)):
        return "float32 itself is not offered"
    if entry.latency is None or plain is None or plain.latency is None:
        return NOT_TIMED
    return _slower(entry.latency.p50_ms, rivals(entry, here, manifest))


def _is_float32(entry: Entry, manifest: Manifest) -> bool:
    variant = manifest.variant(entry.variant)
    return variant is not None and variant.precision == FLOAT == entry.hint


def _slower(own_ms: float, rivals: dict[str, float]) -> str:
    best = min(rivals, key=lambda name: rivals[name], default="")
    return f"slower than {best} ({own_ms:.2f} against {rivals[best]:.2f} ms)" if best and own_ms > rivals[best] else ""


def _unfaithful(entry: Entry, variant: Variant, manifest: Manifest) -> str:
    if entry.failed:
        return f"{entry.finding}" if entry.finding else f"does not run: {entry.failed}"
    if entry.finding:
        return str(entry.finding)
    if variant.precision == "int8" and (mixed := backends.mixed(entry.layers, variant.islands)):
        return mixed
    if entry.agreement is None:
        return NOT_VERIFIED
    if variant.precision != FLOAT or entry.hint != FLOAT:
        return weigh(manifest.budget, entry.agreement, entry.score).broken
    if not is_float32s(entry.agreement, manifest.head, manifest.outputs):
        found = entry.agreement
        changed = f"{found.divergence:.2%} of the outputs"
        by = f"{found.metric} agreement {found.share.value:.2%}, "
        by += changed if _are_classes(manifest.outputs) else f"outputs by {found.max_abs:.3g}"
        by += f", logits by {found.behind.max_abs:.3g}" if found.behind else ""
        return f"differs from {found.reference}: {by}"
    return ""
