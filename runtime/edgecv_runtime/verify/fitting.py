"""Confidences that follow the file: from which on results are shown, fitted to each variant's own outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from edgecv_runtime import backends, bundle, geometry, tasks
from edgecv_runtime.bundle import Bundle
from edgecv_runtime.errors import EdgecvError
from edgecv_runtime.geometry import View
from edgecv_runtime.preprocess import Image
from edgecv_runtime.target import targets
from edgecv_runtime.tasks import Task
from edgecv_runtime.verify.compare import Outputs, Truths
from edgecv_runtime.verify.run import computing


def wants_thresholds(opened: Bundle) -> tuple[str, ...]:
    """Of a task that shows results from a confidence on, the variants that have none of their own."""
    manifest = opened.manifest
    fits = bool(tasks.create(manifest.head, manifest.outputs).fitted(()))
    return tuple(variant.name for variant in manifest.variants if fits and not variant.thresholds)


def fit_thresholds(
    opened: Bundle,
    frames: Image,
    truths: Truths,
    views: Sequence[View] | None,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Fit each variant's confidences to frames (N, H, W, C) that no score is told of, and put them into the bundle.

    Nothing happens for a task that shows all of its results. A variant that does not run on the first backend here, or
    gives NaN, keeps what it has, and `say` is told why.
    """
    manifest = opened.manifest
    task = tasks.create(manifest.head, manifest.outputs)
    if not task.fitted(()):
        return
    name = next(iter(backends.available()))
    fitted = {}
    for target in targets(opened, name):
        if target.hint != "float32":
            continue
        try:
            backend = target.open()
            try:
                tallies = _tallies(task, Outputs(frames, computing(backend, manifest), remembered=0), truths, views)
            finally:
                backend.close()
        except EdgecvError as exc:
            say(f"{target.key}: its thresholds are not fitted: {exc}")
            continue
        fitted[target.variant] = task.fitted(tallies)
    variants = tuple(
        msgspec.structs.replace(each, thresholds=fitted.get(each.name, each.thresholds)) for each in manifest.variants
    )
    bundle.update(opened, manifest=msgspec.structs.replace(manifest, variants=variants))


def _tallies(task: Task[Any], outputs: Outputs, truths: Truths, views: Sequence[View] | None) -> list[Any]:
    ranking, whole = task.ranking(), geometry.whole(outputs.frames.shape[1:3])
    found: list[Any] = []
    for part, got in outputs.batches():
        indices = range(part.start, part.stop)
        results = ranking.decode(got, [whole if views is None else views[index] for index in indices])
        found += [task.tally(each, task.truth(truths[i])) for each, i in zip(results, indices, strict=True)]
    return found
