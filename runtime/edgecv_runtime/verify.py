"""Prove that a file computes what PyTorch computed: agreement, accuracy and executed precision on real frames.

Everything here compares arrays; where the reference comes from (PyTorch in `edgecv_export`, golden inputs on a device)
is the caller's affair.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgecv_runtime import backends, machine
from edgecv_runtime.backends import Executed
from edgecv_runtime.bundle import Bundle
from edgecv_runtime.choose import Target, targets
from edgecv_runtime.errors import BadInput, EdgecvError, InvalidOutput
from edgecv_runtime.manifest import Accuracy, Agreement, Entry, Evidence, Interval, Manifest, Variant
from edgecv_runtime.preprocess import Image
from edgecv_runtime.tasks.classification import softmax

BATCH = 8
# A float32 file is faithful when it keeps nearly every top-1 label and no logit moves by more than this.
FLOAT_TOP1, FLOAT_MAX_ABS = 0.995, 0.01


@dataclass(frozen=True)
class Verified:
    """One target's evidence, and the outputs (N, classes) float32 behind it; None when the backend could not run it."""

    entry: Entry
    outputs: NDArray[np.float32] | None


def new_entry(target: Target, executed: Executed) -> Entry:
    """An entry of this machine with nothing measured yet."""
    return Entry(
        variant=target.variant,
        sha256=target.sha256,
        backend=target.backend,
        hint=target.hint,
        executed=executed.precision,
        layers=executed.layers,
        versions=backends.available()[target.backend],
        machine=machine.this(),
    )


def failed_entry(target: Target, error: EdgecvError) -> Entry:
    """An entry that says why a backend could not run a file."""
    return msgspec.structs.replace(new_entry(target, Executed(precision="", layers={})), failed=str(error))


def verify(
    bundle: Bundle,
    frames: Image | None = None,
    reference: NDArray[np.float32] | None = None,
    *,
    reference_name: str = "golden",
    labels: NDArray[np.int64] | None = None,
    only: Callable[[Target], bool] = lambda _: True,
) -> list[Verified]:
    """Run every variant on every backend of this machine and compare with the reference.

    frames: (N, H, W, C) uint8, preprocessed; reference: (N, classes) logits of the same frames. Both default to the
    bundle's golden inputs. labels: (N,) class indices, when there are any: they give accuracy beside agreement.
    Raises BadInput when arrays do not match, InvalidOutput when a file gives NaN or infinite values.
    """
    if frames is None or reference is None:
        golden = bundle.golden()
        frames, reference = golden.images, golden.logits
    if len(frames) != len(reference) or (labels is not None and len(labels) != len(frames)):
        raise BadInput(f"{len(frames)} frames, {len(reference)} reference outputs: there must be one for each frame")
    return [
        _verified(target, bundle.manifest, frames, reference, reference_name, labels)
        for target in filter(only, targets(bundle))
    ]


def _verified(
    target: Target,
    manifest: Manifest,
    frames: Image,
    reference: NDArray[np.float32],
    reference_name: str,
    labels: NDArray[np.int64] | None,
) -> Verified:
    """One target's evidence; a file that the backend cannot run is evidence too."""
    try:
        opened = target.open()
        try:
            outputs = infer(opened, manifest, frames, target.key)
            executed = opened.executed()
        finally:
            opened.close()
    except EdgecvError as exc:
        return Verified(failed_entry(target, exc), None)
    entry = msgspec.structs.replace(
        new_entry(target, executed),
        agreement=agreement(reference, outputs, reference_name),
        accuracy=accuracy(reference, outputs, labels) if labels is not None else None,
    )
    return Verified(entry, outputs)


def float_outputs(bundle: Bundle, frames: Image) -> NDArray[np.float32]:
    """Outputs of the float32 variant on the first backend here: the reference where there is no PyTorch."""
    target = next(each for each in targets(bundle) if each.variant == "float32")
    opened = target.open()
    try:
        return infer(opened, bundle.manifest, frames, target.key)
    finally:
        opened.close()


def is_faithful(entry: Entry, manifest: Manifest) -> bool:
    """Whether what was measured lies within the bundle's budget."""
    variant = manifest.variant(entry.variant)
    return variant is not None and not (entry.hint == "float32" and _unfaithful(entry, variant, manifest))


def infer(backend: backends.Backend, manifest: Manifest, frames: Image, key: str = "") -> NDArray[np.float32]:
    """Outputs of the first output tensor for all frames, in batches; raises InvalidOutput for NaN or infinity."""
    name = manifest.outputs[0].name
    parts = [
        backend.run({manifest.input.name: np.ascontiguousarray(frames[start : start + BATCH])})[name]
        for start in range(0, len(frames), BATCH)
    ]
    outputs: NDArray[np.float32] = np.concatenate(parts).astype(np.float32, copy=False)
    broken = int((~np.isfinite(outputs).all(axis=1)).sum())
    if broken:
        raise InvalidOutput(f"{key}: {broken} of {len(outputs)} outputs hold NaN or infinite values")
    return outputs


def agreement(reference: NDArray[np.float32], outputs: NDArray[np.float32], name: str) -> Agreement:
    """Compare logits (N, classes) with the reference's: top-1 agreement, differences, Kullback-Leibler divergence."""
    difference = np.abs(outputs - reference)
    wanted, got = softmax(reference), softmax(outputs)
    tiny = np.float32(1e-12)
    divergence = (wanted * (np.log(wanted + tiny) - np.log(got + tiny))).sum(axis=1)
    return Agreement(
        reference=name,
        top1=wilson(int((outputs.argmax(1) == reference.argmax(1)).sum()), len(reference)),
        max_abs=float(difference.max()),
        mean_abs=float(difference.mean()),
        kl=max(0.0, float(divergence.mean())),
    )


def accuracy(reference: NDArray[np.float32], outputs: NDArray[np.float32], labels: NDArray[np.int64]) -> Accuracy:
    """Top-1 of both on the same labelled frames, and the drop in points with a paired bootstrap interval (95 %)."""
    good, known = outputs.argmax(1) == labels, reference.argmax(1) == labels
    drops = known.astype(np.int64) - good.astype(np.int64)  # 1: lost, -1: gained
    picks = np.random.default_rng(0).integers(0, len(drops), (2000, len(drops)))
    low, high = np.percentile(drops[picks].mean(axis=1), [2.5, 97.5])
    return Accuracy(
        top1=wilson(int(good.sum()), len(labels)),
        reference=wilson(int(known.sum()), len(labels)),
        drop_points=100 * float(drops.mean()),
        drop_low=100 * float(low),
        drop_high=100 * float(high),
    )


def wilson(hits: int, count: int, z: float = 1.959964) -> Interval:
    """Share of hits with its Wilson score interval (Wilson 1927), 95 % by default.

    >>> wilson(50, 100)
    Interval(value=0.5, low=0.4038315..., high=0.5961684..., count=100)
    """
    if count < 1:
        raise BadInput("an interval wants at least one frame")
    share = hits / count
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return Interval(
        value=share, low=min(share, max(0.0, centre - half)), high=max(share, min(1.0, centre + half)), count=count
    )


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
        return f"does not run: {entry.failed}"
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
