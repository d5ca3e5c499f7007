"""Static INT8: one calibration on real images, a search for the fastest file that keeps its accuracy, all dialects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgecv_export import fp16, likeness
from edgecv_export.calibrate import check_real
from edgecv_export.dialects import DIALECTS, WeightRanges
from edgecv_export.graph import check_frames
from edgecv_export.passes import PASSES
from edgecv_export.placement import PLACEMENTS
from edgecv_export.plan import Plan, Workshop
from edgecv_export.ranges import ESTIMATORS, Ranges
from edgecv_export.search import Found, Goal, Search
from edgecv_export.trial import Book, Laboratory, Trial, digest
from edgecv_runtime import bundle
from edgecv_runtime.errors import BadInput
from edgecv_runtime.manifest import Budget, Calibration, Variant
from edgecv_runtime.preprocess import Image
from edgecv_runtime.records import Record

DIALECT = "int8-u8s8"
FP16 = "fp16"
MIN_IMAGES = 16
Labels = NDArray[np.int64]


class QuantizeConfig(Record, frozen=True):
    """How to quantize, and what the search may try.

    images: how many calibrate; check_images: how many more choose between the candidates. passes: of PASSES; islands:
    whether sensitive layers may stay in float. goal: what is to be small. budget_s: seconds for the search.
    dialects: of "int8-u8s8", "int8-s8s8" and "fp16", which files go into the bundle.
    """

    images: int = 200
    check_images: int = 100
    placements: tuple[str, ...] = tuple(PLACEMENTS)
    ranges: tuple[Ranges, ...] = ("min-max", "percentile", "mse")
    weight_ranges: tuple[WeightRanges, ...] = ("min-max",)
    passes: tuple[str, ...] = PASSES
    islands: bool = True
    dialects: tuple[str, ...] = (DIALECT,)
    goal: Goal = "p50"
    budget_s: float = 600.0

    def __post_init__(self) -> None:
        if self.images < MIN_IMAGES or self.check_images < MIN_IMAGES:
            raise BadInput(f"images and check_images must be at least {MIN_IMAGES}")
        if not self.budget_s > 0:
            raise BadInput(f"budget_s must be positive, got {self.budget_s}")
        for what, given, known in (
            ("placements", self.placements, PLACEMENTS),
            ("ranges", self.ranges, ESTIMATORS),
            ("weight_ranges", self.weight_ranges, ("min-max", "mse")),
            ("dialects", self.dialects, (*DIALECTS, FP16)),
            ("passes", self.passes, PASSES),
        ):
            if (not given and what != "passes") or not set(given) <= set(known):
                raise BadInput(f"{what} are of {', '.join(known)}; got {', '.join(given) or 'none'}")


@dataclass(frozen=True)
class Quantized:
    """The outcome: what the search found, and milliseconds of float32 and bf16 by backend.

    left_in_float: operators of the chosen file that stay in float, by type. warnings: one line each.
    """

    found: Found
    float_ms: dict[str, float]
    bf16_ms: dict[str, float]
    left_in_float: dict[str, int]
    warnings: tuple[str, ...]

    @property
    def candidates(self) -> tuple[Trial, ...]:
        """Every trial."""
        return self.found.trials

    @property
    def chosen(self) -> Trial:
        """The trial whose file is in the bundle."""
        return self.found.chosen


def quantize(
    path: str | Path,
    images: Image,
    config: QuantizeConfig | None = None,
    progress: Callable[[str], None] = lambda _: None,
    *,
    check: Image | None = None,
    labels: Labels | None = None,
    budget: Budget | None = None,
    book: Path | None = None,
) -> Quantized:
    """Add int8 variants to a bundle, calibrated on real images; the bundle changes only at the end, atomically.

    images: (N, H, W, C) uint8, preprocessed, to calibrate with. check: more of them, that choose between candidates,
    with their `labels` (N,) if there are any; without, they are taken off `images`: config.check_images of them, or a
    third when there are fewer. budget: what may be lost, by default the bundle's. book: a file of trials that lets an
    interrupted search go on.
    The variants are offered nowhere until `verify` and `bench` have judged them.
    Raises BadInput for too few images, images that are no images (random or constant), labels of one class only, or a
    float32 file that is already quantized; ComputationError when calibration meets NaN.
    """
    import onnx

    config = config or QuantizeConfig()
    with bundle.Bundle(path) as opened:
        calibration, check = _divided(images, check, config)
        check_real(calibration)
        if labels is not None and len(np.unique(labels)) < 2:
            raise BadInput("labelled images of one class only cannot tell accuracy; give images of several classes")
        warnings = likeness.warnings(opened, calibration)
        for warning in warnings:
            progress(f"warning: {warning}")
        source = opened.variant_file("float32")
        workshop = Workshop(onnx.load(source), calibration, str(source))
        progress(f"calibrate on {len(calibration)} images")
        workshop.form(())
        laboratory = Laboratory(opened.manifest, source, check, labels)
        budget = budget or opened.manifest.budget
        subject = [opened.sha256("float32"), digest(calibration, check, labels)]
        search = Search(
            workshop,
            laboratory,
            Book(book, *subject),
            budget,
            placements=config.placements,
            ranges=config.ranges,
            weight_ranges=config.weight_ranges,
            passes=config.passes,
            islands=config.islands,
            goal=config.goal,
            budget_s=config.budget_s,
            progress=progress,
        )
        found = search.run()
        _add(opened, workshop, found.chosen.plan, config.dialects, budget)
    return Quantized(
        found, laboratory.float_ms, laboratory.bf16_ms, workshop.floats(found.chosen.plan), tuple(warnings)
    )


def _divided(images: Image, check: Image | None, config: QuantizeConfig) -> tuple[Image, Image]:
    """Calibration and check images; both see all of the data."""
    if check is not None:
        check_frames(images, MIN_IMAGES, "quantization")
        check_frames(check, MIN_IMAGES, "checking a quantized model")
        return images[: config.images], check
    check_frames(images, 2 * MIN_IMAGES, "quantization")
    images = images[np.random.default_rng(0).permutation(len(images))]
    count = min(config.images, len(images) * 2 // 3)
    return images[:count], images[count : count + config.check_images]


def _add(opened: bundle.Bundle, workshop: Workshop, plan: Plan, dialects: tuple[str, ...], budget: Budget) -> None:
    """Put the files of a plan into the bundle, in every dialect asked for."""
    variants: list[Variant] = []
    content: dict[str, bytes] = {}
    golden = opened.golden()
    for name in dialects:
        file = f"model.{name}.onnx"
        if name == FP16:
            content[file] = fp16.converted(opened.variant_file("float32"))
            variants.append(Variant(name=name, file=file, precision="fp16"))
            continue
        content[file] = workshop.make(plan, DIALECTS[name])
        nodes = workshop.setting(plan, DIALECTS[name]).nodes
        calibration = Calibration(
            images=len(workshop.images),
            ranges=plan.ranges,
            operators=tuple(sorted({node.op_type for node in nodes})),
            placement=plan.placement,
            weight_ranges=plan.weight_ranges,
            passes=plan.passes,
            islands=plan.islands,
        )
        variants.append(Variant(name=name, file=file, precision="int8", calibration=calibration))
    for file, made in content.items():
        golden = golden.sealing(file, made)
    others = tuple(each for each in opened.manifest.variants if each.name not in dialects)
    manifest = msgspec.structs.replace(opened.manifest, variants=(*others, *variants), budget=budget)
    bundle.update(opened, manifest=manifest, content={**content, bundle.GOLDEN: golden.to_bytes()})
