"""Prove that a file computes what its reference computes: agreement, scores and executed precision on real frames.

Where the reference comes from (PyTorch in `edgecv_export`, golden inputs on a device) is the caller's affair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgecv_runtime import backends, onnxfile
from edgecv_runtime.backends import Executed, Injected
from edgecv_runtime.bundle import GOLDEN, Bundle
from edgecv_runtime.errors import BadInput, BundleError, EdgecvError, InvalidOutput, ParityError
from edgecv_runtime.evidence import Entry, Finding
from edgecv_runtime.geometry import View
from edgecv_runtime.golden import Golden
from edgecv_runtime.manifest import Manifest
from edgecv_runtime.preprocess import Image
from edgecv_runtime.target import Target, failed_entry, new_entry, targets
from edgecv_runtime.verify import blame, chosen
from edgecv_runtime.verify.blame import Case, unlike
from edgecv_runtime.verify.compare import (
    Arrays,
    Comparison,
    Compute,
    Known,
    Outputs,
    Truths,
    check_counts,
    compare,
    task_of,
)
from edgecv_runtime.verify.sealed import check

GOLDEN_FRAMES = "golden inputs"


@dataclass(frozen=True)
class Verified:
    """One target's evidence, and what is behind it; None when the backend could not run it.

    outputs: by name, of the first frames, as many as fit in some megabytes. comparison: what each frame adds.
    """

    entry: Entry
    outputs: dict[str, NDArray[Any]] | None
    comparison: Comparison | None = None


def verify(
    bundle: Bundle,
    frames: Image | None = None,
    reference: NDArray[np.float32] | Arrays | Compute | Outputs | None = None,
    *,
    reference_name: str = "golden",
    labels: Truths | None = None,
    views: Sequence[View] | None = None,
    frames_name: str = "",
    logits: chosen.Logits | None = None,
    only: Callable[[Target], bool] = lambda _: True,
    backend: str | Injected = "auto",
) -> list[Verified]:
    """Run every variant on every backend of this machine, or on the one that is named or injected, and compare.

    frames: (N, H, W, C) uint8, preprocessed; reference: outputs of the same frames by name, an array of the first one,
    or what computes them batch by batch, so that memory does not grow with the frames (`Outputs` keeps some). Both
    default to the bundle's golden inputs. labels: what is known to be right of each frame (class indices (N,), masks,
    boxes), when it is: that gives a score beside agreement, but for a head of which several labels may hold. views: how
    the network saw each frame; by default the frames are its input. frames_name: which frames they are, for the
    evidence. logits: what the reference chose its outputs from, where these are classes; see `chosen`.
    A target that disagrees gets the name of the fault and the first node that differs; one that cannot run, or gives
    NaN or infinite values, is evidence too. Raises BadInput when arrays do not match, and what the reference or a label
    raises.
    """
    if frames is None or reference is None:
        golden = bundle.golden()
        frames, reference, frames_name = golden.images, golden.outputs, GOLDEN_FRAMES
    if isinstance(reference, np.ndarray):
        names = [each.name for each in bundle.manifest.outputs]
        if len(names) > 1:
            raise BadInput(f"the network gives {', '.join(names)}, and one array as reference: give arrays by name")
        reference = {bundle.manifest.outputs[0].name: reference}
    expected = reference if isinstance(reference, Outputs) else Outputs(frames, reference)
    check_counts(len(frames), labels=labels, views=views)
    task = task_of(bundle.manifest)
    given: dict[str, Any] = {"name": reference_name, "frames": frames_name, "views": views, "truths": labels}
    run = partial(compare, task, expected, **given, known=Known())
    return [_verified(target, bundle, expected, run, logits) for target in filter(only, targets(bundle, backend))]


def _verified(
    target: Target,
    bundle: Bundle,
    expected: Outputs,
    run: Callable[..., tuple[Comparison, dict[str, NDArray[Any]]]],
    logits: chosen.Logits | None,
) -> Verified:
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
            comparison, outputs = run(
                computing(opened, bundle.manifest),
                thresholds=bundle.manifest.thresholds(target.variant),
                key=target.key,
            )
        finally:
            opened.close()
        inside = logits if not target.is_remote else None
        behind = None if inside is None else chosen.compared(target, bundle, expected.frames, inside)
    except InvalidOutput as exc:
        if exc.of_reference:
            raise
        finding = explain(bundle, target, executed, expected, None, exc.frames)
        return Verified(msgspec.structs.replace(failed_entry(target, exc), finding=finding), None)
    except EdgecvError as exc:
        if exc.of_reference:  # it says nothing of this target
            raise
        return Verified(failed_entry(target, exc), None)
    entry = msgspec.structs.replace(
        new_entry(target, executed),
        finding=explain(bundle, target, executed, expected, comparison),
        agreement=msgspec.structs.replace(comparison.agreement, behind=behind),
        score=comparison.score,
    )
    return Verified(entry, outputs, comparison)


def explain(
    bundle: Bundle,
    target: Target,
    executed: Executed,
    expected: Outputs,
    comparison: Comparison | None,
    broken: Sequence[int] = (),
) -> Finding | None:
    """Name the fault when outputs (None: not finite) are not what the reference's are; None when all is well.

    broken: the frames of which they are not finite, by index.
    """
    golden = (
        bundle.golden()
        if GOLDEN in bundle.manifest.files
        else Golden(expected.frames[:0], {"": np.zeros((0, 1), "f4")})
    )
    float_file = bundle.variant_file("float32")
    return blame.name(Case(target, bundle.manifest, executed, expected, comparison, golden, float_file, broken))


def self_test(bundle: Bundle, target: Target, backend: backends.Backend) -> None:
    """Run the golden inputs through a backend that is loaded already, and the golden pictures through the record.

    Raises ParityError that names the fault, or BundleError when the bundle has no golden inputs.
    """
    golden = bundle.golden()
    findings = check(bundle)
    expected = Outputs(golden.images, golden.outputs)
    task = task_of(bundle.manifest)
    comparison, broken = None, tuple[int, ...]()
    try:
        comparison, _ = compare(task, expected, computing(backend, bundle.manifest), name="golden", key=target.key)
    except InvalidOutput as exc:  # which is a finding
        broken = exc.frames
    found = explain(bundle, target, backend.executed(), expected, comparison, broken)
    for each in [*findings, *([found] if found else [])]:
        raise ParityError(f"{bundle.path}: {target.key} failed its self-test: {each}")


@contextmanager
def float_reference(bundle: Bundle) -> Iterator[Compute]:
    """The float32 variant on the first backend here: what to compare with where there is no PyTorch."""
    target = next(each for each in targets(bundle) if each.variant == "float32")
    opened = target.open()
    try:
        yield computing(opened, bundle.manifest)
    finally:
        opened.close()


def computing(backend: backends.Backend, manifest: Manifest, shown: Mapping[str, str] = {}) -> Compute:
    """What a loaded backend makes of a batch of frames: the network's outputs by name, floats as float32.

    shown: the names of tensors that take the place of outputs; see `chosen.revealed`.
    """
    names = [(each.name, shown.get(each.name, each.name)) for each in manifest.outputs]

    def compute(frames: Image) -> Arrays:
        outputs = backend.run({manifest.input.name: frames})
        return {
            name: each.astype(np.float32, copy=False) if (each := outputs[source]).dtype.kind == "f" else each
            for name, source in names
        }

    return compute
