"""Prove that a file computes what PyTorch computed: agreement, scores and executed precision on real frames.

Everything here compares arrays; where the reference comes from (PyTorch in `edgecv_export`, golden inputs on a device)
is the caller's affair.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgecv_runtime import backends, onnxfile, tasks
from edgecv_runtime.backends import Executed
from edgecv_runtime.bundle import GOLDEN, Bundle
from edgecv_runtime.errors import BadInput, BundleError, EdgecvError, InvalidOutput, ParityError
from edgecv_runtime.evidence import Entry, Finding, Score
from edgecv_runtime.golden import Golden
from edgecv_runtime.manifest import Manifest
from edgecv_runtime.preprocess import Image
from edgecv_runtime.target import Target, failed_entry, new_entry, targets
from edgecv_runtime.verify import blame
from edgecv_runtime.verify.blame import Case, unlike
from edgecv_runtime.verify.score import agreement, score
from edgecv_runtime.verify.sealed import check

BATCH = 8
GOLDEN_FRAMES = "golden inputs"


@dataclass(frozen=True)
class Verified:
    """One target's evidence, and the outputs (N, classes) float32 behind it; None when the backend could not run it."""

    entry: Entry
    outputs: NDArray[np.float32] | None


def verify(
    bundle: Bundle,
    frames: Image | None = None,
    reference: NDArray[np.float32] | None = None,
    *,
    reference_name: str = "golden",
    labels: NDArray[np.int64] | None = None,
    frames_name: str = "",
    only: Callable[[Target], bool] = lambda _: True,
) -> list[Verified]:
    """Run every variant on every backend of this machine and compare with the reference.

    frames: (N, H, W, C) uint8, preprocessed; reference: (N, classes) logits of the same frames. Both default to the
    bundle's golden inputs. labels: (N,) class indices, when there are any: they give a score beside agreement, but for
    a head of which several labels may hold.
    frames_name: which frames they are, for the evidence.
    A target that disagrees gets the name of the fault and the first node that differs; one that cannot run, or gives
    NaN or infinite values, is evidence too. Raises BadInput when arrays do not match.
    """
    if frames is None or reference is None:
        golden = bundle.golden()
        frames, reference, frames_name = golden.images, golden.logits, GOLDEN_FRAMES
    if len(frames) != len(reference) or (labels is not None and len(labels) != len(frames)):
        raise BadInput(f"{len(frames)} frames, {len(reference)} reference outputs: there must be one for each frame")
    compared = _Compared(frames, reference, reference_name, labels, frames_name)
    return [_verified(target, bundle, compared) for target in filter(only, targets(bundle))]


@dataclass(frozen=True)
class _Compared:
    """What every target is compared with: see `verify`."""

    frames: Image
    reference: NDArray[np.float32]
    reference_name: str
    labels: NDArray[np.int64] | None
    frames_name: str


def _verified(target: Target, bundle: Bundle, given: _Compared) -> Verified:
    """One target's evidence; a file that the backend cannot run is evidence too."""
    try:
        found = unlike(onnxfile.read(target.file), bundle.manifest)
        if found:
            failed = failed_entry(target, BundleError(found.detail))
            return Verified(msgspec.structs.replace(failed, finding=found), None)
        opened = target.open()
        try:
            bundle.check_unchanged(target.file.name)
            executed = opened.executed()
            outputs = infer(opened, bundle.manifest, given.frames, target.key)
        finally:
            opened.close()
    except InvalidOutput as exc:
        finding = explain(bundle, target, executed, given.frames, given.reference, None)
        return Verified(msgspec.structs.replace(failed_entry(target, exc), finding=finding), None)
    except EdgecvError as exc:
        return Verified(failed_entry(target, exc), None)
    meaning = tasks.create(bundle.manifest.head, bundle.manifest.outputs).meaning(outputs)
    scored = None
    if given.labels is not None:
        scored = score(given.reference, outputs, given.labels, given.frames_name, meaning)
    entry = msgspec.structs.replace(
        new_entry(target, executed),
        finding=explain(bundle, target, executed, given.frames, given.reference, outputs, scored),
        agreement=agreement(given.reference, outputs, given.reference_name, given.frames_name, meaning),
        score=scored,
    )
    return Verified(entry, outputs)


def explain(
    bundle: Bundle,
    target: Target,
    executed: Executed,
    frames: Image,
    reference: NDArray[np.float32],
    outputs: NDArray[np.float32] | None,
    scored: Score | None = None,
) -> Finding | None:
    """Name the fault when outputs (None: not finite) are not what the reference's are; None when all is well.

    scored: what they lose of the reference's score, where the frames have labels.
    """
    golden = bundle.golden() if GOLDEN in bundle.manifest.files else Golden(frames[:0], {"": reference[:0]})
    float_file = bundle.variant_file("float32")
    return blame.name(Case(target, bundle.manifest, executed, frames, reference, outputs, golden, float_file, scored))


def self_test(bundle: Bundle, target: Target, backend: backends.Backend) -> None:
    """Run the golden inputs through a backend that is loaded already, and the golden pictures through the record.

    Raises ParityError that names the fault, or BundleError when the bundle has no golden inputs.
    """
    golden = bundle.golden()
    findings = check(bundle)
    try:
        outputs = infer(backend, bundle.manifest, golden.images, target.key)
    except InvalidOutput:
        outputs = None
    found = explain(bundle, target, backend.executed(), golden.images, golden.logits, outputs)
    for each in [*findings, *([found] if found else [])]:
        raise ParityError(f"{bundle.path}: {target.key} failed its self-test: {each}")


def float_outputs(bundle: Bundle, frames: Image) -> NDArray[np.float32]:
    """Outputs of the float32 variant on the first backend here: the reference where there is no PyTorch."""
    target = next(each for each in targets(bundle) if each.variant == "float32")
    opened = target.open()
    try:
        return infer(opened, bundle.manifest, frames, target.key)
    finally:
        opened.close()


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
