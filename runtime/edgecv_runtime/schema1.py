"""Bundles of schema 1, read into the records of today; their files stay as they are until something rewrites them.

What schema 1 stored of what is offered is left out: it follows from the evidence.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from edgecv_runtime import evidence as new
from edgecv_runtime import manifest as manifests
from edgecv_runtime import records
from edgecv_runtime.errors import BundleError
from edgecv_runtime.head import ClassificationHead
from edgecv_runtime.machine import Machine
from edgecv_runtime.preprocess import Normalization, Preprocess
from edgecv_runtime.records import Record


class _Variant(Record, frozen=True):
    name: str
    file: str
    precision: manifests.Precision
    backends: tuple[str, ...] = ()
    withheld: dict[str, str] = {}
    hints: dict[str, tuple[manifests.Precision, ...]] = {}
    calibration: manifests.Calibration | None = None
    islands: manifests.Precision = "float32"


class _Manifest(Record, frozen=True):
    name: str
    task: str
    input: manifests.TensorSpec
    outputs: tuple[manifests.TensorSpec, ...]
    preprocess: Preprocess
    normalization: Normalization
    labels: tuple[str, ...]
    variants: tuple[_Variant, ...]
    budget: manifests.Budget = manifests.Budget()
    judged_on: str = ""
    provenance: dict[str, str] = {}
    files: dict[str, manifests.FileRecord] = {}
    schema: int = 1


class _Agreement(Record, frozen=True):
    reference: str
    top1: new.Interval
    max_abs: float
    mean_abs: float
    kl: float
    largest: float = 0.0


class _Accuracy(Record, frozen=True):
    top1: new.Interval
    reference: new.Interval
    drop_points: float
    drop_low: float
    drop_high: float


class _Entry(Record, frozen=True):
    variant: str
    sha256: str
    backend: str
    hint: str
    executed: str
    layers: dict[str, int]
    versions: dict[str, str]
    machine: Machine
    failed: str = ""
    finding: new.Finding | None = None
    agreement: _Agreement | None = None
    accuracy: _Accuracy | None = None
    latency: new.Latency | None = None


class _Evidence(Record, frozen=True):
    entries: tuple[_Entry, ...] = ()


def manifest(raw: bytes, where: str) -> manifests.Manifest:
    """The manifest; raises BundleError in one line for what schema 1 did not allow."""
    old = records.decode(raw, _Manifest, where, BundleError)
    if old.task != "classification":
        raise BundleError(f"{where}: no task '{old.task}' in schema 1; it had classification only")
    variants = [
        manifests.Variant(each.name, each.file, each.precision, each.calibration, each.islands) for each in old.variants
    ]
    try:
        return manifests.Manifest(
            name=old.name,
            head=ClassificationHead(old.labels),
            input=old.input,
            outputs=old.outputs,
            preprocess=old.preprocess,
            normalization=old.normalization,
            variants=tuple(variants),
            budget=_budget(old.budget),
            provenance=old.provenance,
            files=old.files,
        )
    except ValueError as exc:
        raise BundleError(f"{where}: {exc}") from exc


def evidence(raw: bytes, where: str) -> new.Evidence:
    """The evidence; raises BundleError in one line."""
    old = records.decode(raw, _Evidence, where, BundleError)
    return new.Evidence(tuple(_entry(each) for each in old.entries))


def _entry(old: _Entry) -> new.Entry:
    same = {name: getattr(old, name) for name in old.__struct_fields__ if name not in ("agreement", "accuracy")}
    return new.Entry(**same, agreement=_agreement(old.agreement), score=_score(old.accuracy))


def _agreement(old: _Agreement | None) -> new.Agreement | None:
    if old is None:
        return None
    return new.Agreement(old.reference, new.TOP_1, old.top1, old.kl, old.max_abs, old.mean_abs, old.largest)


def _score(old: _Accuracy | None) -> new.Score | None:
    if old is None:
        return None
    own = msgspec.structs.asdict(old.top1)
    drop = (old.drop_points, old.drop_low, old.drop_high)
    return new.Score(new.TOP_1, own["value"], own["low"], own["high"], own["count"], old.reference.value, *drop)


def golden(arrays: Mapping[str, Any], output: str) -> dict[str, Any]:
    """The arrays of `golden.npz` under the names of today; output: of the network's only output tensor."""
    names = {"logits": f"outputs/{output}", "picture_logits": f"picture_outputs/{output}"}
    return {names.get(name, name): arrays[name] for name in arrays}


def _budget(old: manifests.Budget) -> manifests.Budget:
    """Older bundles wrote the share that counts without labels whether or not it had been asked for."""
    asked = old.min_agreement != manifests.AGREEMENT
    return old if asked else msgspec.structs.replace(old, min_agreement=None)
