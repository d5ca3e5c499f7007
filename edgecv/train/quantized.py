"""Quantization-aware training: the int8 variant of a bundle is trained on its own grid and takes its place there."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import onnx
import torch
from torch import nn

from edgecv.data import Dataset
from edgecv.recipe_train import QuantizedTraining, TrainConfig
from edgecv.train.fit import TrainResult, fit
from edgecv.train.optimizer import steps_per_epoch
from edgecv_export.calibrate import Sample
from edgecv_export.dialects import DIALECTS
from edgecv_export.plan import Plan, Workshop
from edgecv_export.qat import norms
from edgecv_export.qat.network import FakeQuantized, write
from edgecv_export.trial import Laboratory, Trial
from edgecv_runtime import bundle
from edgecv_runtime.errors import BadInput, ComputationError, DatasetError, EdgecvError, nearest
from edgecv_runtime.geometry import View
from edgecv_runtime.manifest import Variant
from edgecv_runtime.preprocess import Image
from edgecv_runtime.verify import Truths


@dataclass(frozen=True)
class QuantizedResult:
    """What a training gave: the file before and after it on the check images, and whether it is now in the bundle."""

    dialect: str
    before: Trial
    after: Trial
    kept: bool
    training: TrainResult

    def __str__(self) -> str:
        assert self.before.score is not None
        assert self.after.score is not None
        scores = [self.after.score.value, self.before.score.value, self.after.score.reference]
        after, before, wanted = (f"{score:.2%}" for score in scores)
        verdict = "the trained file is in the bundle" if self.kept else "the bundle keeps the file before training"
        told = f"{self.after.score.metric} {after}, before training {before}, float32 {wanted}"
        return f"{self.dialect} trained: {told}; {verdict}"


def train_quantized(
    path: str | Path,
    network: nn.Module,
    dataset: Dataset,
    calibration: Sample,
    check: Image,
    truths: Truths,
    config: TrainConfig,
    quantized: QuantizedTraining,
    folder: str | Path,
    *,
    dialect: str = "int8-u8s8",
    decoded: str | Path | None = None,
    progress: bool = True,
    views: Sequence[View] | None = None,
) -> QuantizedResult:
    """Train a bundle's int8 variant on its grid, and put it into the bundle when it keeps the budget or got better.

    network: what was exported, with its batch norms. calibration: images that the ranges start from; check, truths,
    views: preprocessed images (N, H, W, C) uint8 that decide, what is right of each and how the network saw it. folder,
    decoded: as in `fit`, which goes on there after an interruption.
    Placement and range estimator are the variant's own; training takes the place of its passes and islands. The trained
    file is kept when it lies within the bundle's budget or scores better than the one before. The float32
    variant, which everything is compared with, stays as it was trained.
    Raises what `fit` raises, BadInput for a bundle without that variant or with a float32 file that is quantized, and
    ComputationError when what was trained does not run; the bundle is then as it was.
    """
    if dialect not in DIALECTS:
        raise BadInput(f"dialects to train in are {', '.join(DIALECTS)}; got '{dialect}'{nearest(dialect, DIALECTS)}")
    if dataset.train.truths is None:
        raise DatasetError("quantize.train needs labels, and these images have none; leave quantize.train out")
    with bundle.Bundle(path) as opened:
        manifest = opened.manifest
        variant = manifest.variant(dialect)
        if variant is None or variant.calibration is None:
            raise BadInput(f"{path}: has no variant '{dialect}' to train; run 'edgecv quantize' first")
        source = opened.variant_file("float32")
        plan = Plan(
            placement=variant.calibration.placement,
            ranges=variant.calibration.ranges,  # type: ignore[arg-type]  # a plan's own words, checked on reading
            passes=(),
        )
        setting = Workshop(onnx.load(source), calibration, str(source)).setting(plan, DIALECTS[dialect])
        height, width = manifest.preprocess.size
        example = torch.zeros(2, manifest.preprocess.channels, height, width)
        settings = quantized.applied_to(config)
        steps = settings.epochs * steps_per_epoch(max(1, len(dataset.train)), settings.batch)
        normed = norms.find(network.cpu(), setting.wiring, example)
        model = FakeQuantized(
            setting, DIALECTS[dialect], normed, round(quantized.live * steps), quantized.scale_lr / quantized.lr
        )
        slower = f"scales may want a lower quantize.train.scale_lr (it is {quantized.scale_lr:g})"
        try:
            done = fit(
                model,
                dataset,
                manifest.preprocess,
                manifest.normalization,
                settings,
                folder,
                decoded=decoded,
                progress=progress,
            )
        except ComputationError as exc:
            cure = re.sub(r"train\.(lr|warmup_epochs)", r"quantize.train.\1", str(exc))
            raise ComputationError(f"quantize.train in {dialect}: {cure}; {slower}") from exc
        laboratory = Laboratory(manifest, source, check, truths, views=views)
        known = opened.variant_file(dialect).read_bytes()
        try:
            content = write(model.cpu(), setting, DIALECTS[dialect])
            with contextlib.closing(laboratory):
                times = laboratory.times([known, content])
                before, after = (laboratory.measure(plan, *each) for each in zip((known, content), times, strict=True))
        except EdgecvError as exc:  # scales beyond what float32 or a backend's int8 kernels can hold
            raise ComputationError(
                f"quantize.train in {dialect}: the trained file does not run; "
                f"lower quantize.train.lr (it is {quantized.lr:g}); {slower}: {exc}"
            ) from exc
        assert before.score is not None
        assert after.score is not None
        drops = after.score.drop, before.score.drop
        kept = drops[0] <= manifest.budget.max_drop_points or drops[0] < drops[1]
        if kept:
            record = msgspec.structs.replace(
                variant.calibration,
                images=len(calibration),
                weight_ranges=plan.weight_ranges,
                operators=tuple(sorted({node.op_type for node in setting.nodes})),
                passes=(),
                islands=(),
                trained=True,
            )
            _put(opened, msgspec.structs.replace(variant, calibration=record), content)
    return QuantizedResult(dialect, before, after, kept, done)


def _put(opened: bundle.Bundle, variant: Variant, content: bytes) -> None:
    """Replace a variant's file; it is offered nowhere until it is verified and timed."""
    fresh = msgspec.structs.replace(variant, islands=DIALECTS[variant.name].islands)
    variants = tuple(fresh if each.name == variant.name else each for each in opened.manifest.variants)
    golden = opened.golden().sealing(variant.file, content)
    manifest = msgspec.structs.replace(opened.manifest, variants=variants)
    bundle.update(opened, manifest=manifest, content={variant.file: content, bundle.GOLDEN: golden.to_bytes()})
