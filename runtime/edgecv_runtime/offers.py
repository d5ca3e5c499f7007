"""What follows from evidence: which ways to run a bundle are offered on a machine, and why not the others.

Nothing of this is stored: it is computed when a bundle is loaded, so that one bundle may carry evidence of many
machines, and who adds some need not judge again.
"""

from __future__ import annotations

from collections.abc import Mapping

from edgecv_runtime import backends
from edgecv_runtime.budget import weigh
from edgecv_runtime.evidence import TOP_1, Agreement, Entry, Evidence, Key, Latency
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
Versions = Mapping[str, Mapping[str, str]]  # of the libraries behind each backend, by its name
NOT_VERIFIED, NOT_TIMED = "not verified; run 'edgecv verify'", "not measured here; run 'edgecv bench'"


class Offers(Record, frozen=True):
    """Why each way to run that was measured on a machine is not offered there; "" where it is.

    machine: its key. why_not: by variant, backend and precision hint. stale: of what was measured under other
    circumstances than there are now, which decides nothing: what changed.
    """

    machine: str
    why_not: dict[Key, str]
    stale: dict[Key, str] = {}

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


def offered(manifest: Manifest, evidence: Evidence, machine: Machine, now: Versions | None = None) -> Offers:
    """What is offered on a machine, by what was measured on that very machine with the bundle's very files.

    now: of the backends that are there now, for the machine that this is: what was measured with others is stale. None
    for another machine, of which that is not known.

    A variant is offered on a backend when it agrees with the reference within the bundle's budget and, unless it is
    float32, is not slower there than any float that does: float32, its bf16 where the backend has that, and fp16. The
    same holds for float32's bf16. Slower is what the ratios of times measured side by side show by their interval, or
    what may be so much slower for all that they can tell; in evidence of older versions, without pairs, the medians.
    """
    here = measured(manifest, evidence, machine)
    changed = {entry.target: stale(entry, machine, now) for entry in here} if now is not None else {}
    old = {target: why for target, why in changed.items() if why}
    fresh = [entry for entry in here if entry.target not in old]
    return Offers(machine.key, {entry.target: _why_not(entry, manifest, fresh) for entry in fresh}, old)


def stale(entry: Entry, machine: Machine, now: Versions) -> str:
    """What is no longer as it was when an entry of this machine was measured, or "".

    A backend that is not there any more changes nothing. What an older version did not write down is not compared.
    """
    then = [*entry.versions.items(), ("driver", entry.machine.driver), ("power mode", entry.machine.power)]
    today = {**now.get(entry.backend, entry.versions), "driver": machine.driver, "power mode": machine.power}
    changed = [
        f"{name} was {old}, is {today[name] or 'not told'}" for name, old in then if old and today.get(name, old) != old
    ]
    if not changed:
        return ""
    return f"stale: {', '.join(changed)}; {CURE}"


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
    return not beyond(entry, manifest)


def beyond(entry: Entry, manifest: Manifest) -> str:
    """What of a measurement lies beyond the bundle's budget, or ""; of whatever file it is."""
    variant = manifest.variant(entry.variant)
    return "not in the bundle" if variant is None else _unfaithful(entry, variant, manifest)


def is_faithful(entry: Entry, manifest: Manifest) -> bool:
    """The same, but for float32 in another precision, which is a hint: where it does not hold, nothing is lost."""
    return is_good(entry, manifest) or (entry.hint != FLOAT and manifest.variant(entry.variant) is not None)


def rivals(entry: Entry, here: list[Entry], manifest: Manifest) -> dict[str, Latency]:
    """Times of the other floats on the same backend that keep what they have to, by precision.

    here: what was measured on this machine.
    """
    found: dict[str, Latency] = {}
    for each in here:
        variant = manifest.variant(each.variant)
        if variant is None or variant.precision == "int8" or each is entry or each.latency is None:
            continue
        if each.backend != entry.backend:
            continue
        if not _unfaithful(each, variant, manifest):
            found[each.hint if variant.precision == FLOAT else variant.precision] = each.latency
    return found


def _why_not(entry: Entry, manifest: Manifest, here: list[Entry]) -> str:
    """Why an entry is not offered, or "" when it is."""
    variant = manifest.variant(entry.variant)
    if variant is None:
        return "not in the bundle"
    if why_not := _unfaithful(entry, variant, manifest):
        return why_not
    plain = next((each for each in here if each.backend == entry.backend and is_float32(each, manifest)), None)
    if plain is entry or entry.machine.server:  # a server runs what it runs: there is nothing faster to choose
        return ""
    if entry.hint != FLOAT and (plain is None or _unfaithful(plain, variant, manifest)):
        return "float32 itself is not offered"
    if entry.latency is None or plain is None or plain.latency is None:
        return NOT_TIMED
    return _slower(entry.latency, rivals(entry, here, manifest))


def is_float32(entry: Entry, manifest: Manifest) -> bool:
    """Whether it is float32 as it is, without a hint."""
    variant = manifest.variant(entry.variant)
    return variant is not None and variant.precision == FLOAT == entry.hint


def _slower(own: Latency, rivals: dict[str, Latency]) -> str:
    """Than which rival, or ""; of several the fastest."""
    for name, rival in sorted(rivals.items(), key=lambda each: each[1].p50_ms):
        ratio = own.beside(rival)
        if ratio is not None and ratio.may_be_slower:
            if ratio.verdict == "slower":
                return f"slower than {name} ({ratio})"
            return f"not told whether it is slower than {name} ({ratio}); run 'edgecv bench' on a quiet machine"
        if ratio is None and own.p50_ms > rival.p50_ms:
            return f"slower than {name} ({own.p50_ms:.2f} against {rival.p50_ms:.2f} ms)"
    return ""


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
