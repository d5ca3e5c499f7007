"""Static INT8: one calibration on real images, a search for the fastest file that keeps its accuracy, all dialects."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from edgecv_export import fp16, likeness
from edgecv_export.calibrate import Images, Sample, check_real, sample
from edgecv_export.dialects import DIALECTS
from edgecv_export.interface import INPUT, check_frames
from edgecv_export.plan import Plan, Workshop
from edgecv_export.quantize_config import DIALECT, FP16, MIN_IMAGES, QuantizeConfig
from edgecv_export.search import Found, Search
from edgecv_export.trial import Book, Laboratory, Trial, digest
from edgecv_runtime import backends, bundle
from edgecv_runtime.errors import BadInput
from edgecv_runtime.geometry import View
from edgecv_runtime.manifest import Budget, Calibration, Precision, Variant
from edgecv_runtime.preprocess import Image
from edgecv_runtime.verify import Truths
from edgecv_runtime.verify.compare import check_counts

__all__ = ["DIALECT", "QuantizeConfig", "Quantized", "convert", "quantize"]
Made = tuple[Variant, bytes]
LOOKED_AT = 64  # how many calibration images are looked at as images


@dataclass(frozen=True)
class Quantized:
    """The outcome: what the search found.

    dialect: of the files that the search tried.
    left_in_float: operators of the chosen file that stay in float, by type. errors: of its layers' outputs, see
    `Workshop.errors`, where the search did not measure what each costs. warnings: one line each.
    """

    found: Found
    dialect: str
    left_in_float: dict[str, int]
    errors: dict[str, float]
    warnings: tuple[str, ...]

    @property
    def float_ms(self) -> dict[str, float]:
        """Milliseconds of float32 by backend, timed in turns with the placements."""
        return self.found.floats.p50_ms

    @property
    def bf16_ms(self) -> dict[str, float]:
        """The same of its bf16, where that is faster and keeps the budget."""
        return self.found.floats.bf16_ms

    @property
    def candidates(self) -> tuple[Trial, ...]:
        """Every trial."""
        return self.found.trials

    @property
    def chosen(self) -> Trial:
        """The trial whose file is in the bundle."""
        return self.found.chosen

    @property
    def others(self) -> dict[str, Trial]:
        """Trials whose files are in the bundle too, for one backend each, by the variant's name."""
        return {f"{self.dialect}-{backend}": trial for backend, trial in self.found.others.items()}


def quantize(
    path: str | Path,
    images: Images,
    config: QuantizeConfig | None = None,
    progress: Callable[[str], None] = lambda _: None,
    *,
    check: Image | None = None,
    labels: Truths | None = None,
    views: Sequence[View] | None = None,
    budget: Budget | None = None,
    book: Path | None = None,
) -> Quantized:
    """Add int8 variants to a bundle, calibrated on real images; the bundle changes only at the end, atomically.

    images: to calibrate with, preprocessed: (N, H, W, C) uint8, or read when they are asked for. check: more of them,
    that choose between candidates, with what is known to be right of each if there is anything: `labels` (N,), or masks
    or boxes, and `views`, how the network saw each; without, they are taken off `images`: config.check_images of them,
    or a third when there are fewer. budget: what may be lost, by default the bundle's.
    book: a file of trials that lets an interrupted search go on.
    The variants are offered nowhere until `verify` and `bench` have judged them.
    Raises BadInput for dialects without int8 (see `convert`), too few images, images that are no images (random or
    constant), labels of one class only, or a float32 file that is already quantized or was not exported by edgecv;
    ComputationError when calibration meets NaN, or a constant does not go into half precision where a dialect wants it.
    """
    import onnx

    config = config or QuantizeConfig()
    if check is None and (labels is not None or views is not None):
        raise BadInput("labels and views are of the check images: give those, too (check=)")
    check_counts(0 if check is None else len(check), labels=labels, views=views)
    if not config.int8:
        raise BadInput(f"dialects are {', '.join(config.dialects)}: no int8 to search for; convert(path) adds fp16")
    with bundle.Bundle(path) as opened:
        _check_exported(opened)
        calibration, check = divided(images, check, config)
        sampled = calibration.some(LOOKED_AT)
        check_real(sampled)
        if isinstance(labels, np.ndarray) and len(np.unique(labels)) < 2:
            raise BadInput("labelled images of one class only cannot tell accuracy; give images of several classes")
        warnings = likeness.warnings(opened, sampled)
        for warning in warnings:
            progress(f"warning: {warning}")
        half = [_half(opened)] if FP16 in config.dialects else []  # what does not go is said before the search
        source = opened.variant_file("float32")
        workshop = Workshop(onnx.load(source), calibration, str(source))
        progress(f"calibrate on {len(calibration)} images")
        workshop.check_names(config.keep_float)
        budget = budget or opened.manifest.budget
        head = opened.manifest.head  # what the outputs mean decides what a trial found
        pages = Book(book, opened.sha256("float32"), head, digest(calibration, check, labels, views), config.int8[0])
        manifest = msgspec.structs.replace(opened.manifest, budget=budget)
        laboratory = Laboratory(manifest, source, check, labels, pages.floats(budget), views)
        with contextlib.closing(laboratory):
            found = Search(workshop, laboratory, pages, budget, config, progress).run()
            # what the search measured of each layer says more
            errors = {} if found.sensitivities else workshop.errors(found.chosen.plan, DIALECTS[config.int8[0]])
            left = workshop.floats(found.chosen.plan)
            done = Quantized(found, config.int8[0], left, errors, tuple(warnings))
            made = _int8(workshop, laboratory, done, config.int8)
        _put(opened, [*made, *half], budget)
    return done


def convert(path: str | Path, budget: Budget | None = None) -> None:
    """Add the fp16 variant to a bundle, which needs no images and no search; the bundle changes atomically.

    budget: what may be lost, by default the bundle's. The variant is offered nowhere until `verify` and `bench` have
    judged it. Raises BadInput for a bundle that was not exported by edgecv, ComputationError when the float32 file does
    not go into half precision.
    """
    with bundle.Bundle(path) as opened:
        _check_exported(opened)
        _put(opened, [_half(opened)], budget or opened.manifest.budget)


def _check_exported(opened: bundle.Bundle) -> None:
    """Refuse what cannot be calibrated, or not be sealed in the end, before the search begins."""
    spec = opened.manifest.input
    if (spec.name, spec.dtype) != (INPUT, "uint8") or isinstance(spec.shape[0], int):
        shape = ", ".join(map(str, spec.shape))
        raise BadInput(
            f"{opened.path}: quantization wants one input '{INPUT}', uint8 with a free batch, as 'edgecv export' "
            f"writes it; it has '{spec.name}', {spec.dtype} ({shape})"
        )
    opened.golden()


def divided(images: Images, check: Image | None, config: QuantizeConfig) -> tuple[Sample, Image]:
    """Calibration and check images, the same every time; both see all of the data, and no image is in both."""
    if check is not None:
        check_frames(images, MIN_IMAGES, "quantization")
        check_frames(check, MIN_IMAGES, "checking a quantized model")
        return sample(images, config.images), check
    check_frames(images, 2 * MIN_IMAGES, "quantization")
    order = np.random.default_rng(0).permutation(len(images))
    count = min(config.images, len(images) * 2 // 3)
    rest = Sample(images, order[count : count + config.check_images])
    return Sample(images, order[:count]), rest.some(len(rest))


def _put(opened: bundle.Bundle, made: list[Made], budget: Budget) -> None:
    """Put variants with their files into the bundle, in the place of those of the same names.

    What an earlier search made for one backend goes with them.
    """
    names = {variant.name for variant, _ in made}
    names |= {f"{dialect}-{backend}" for dialect in names & set(DIALECTS) for backend in backends.names()}
    others = [each for each in opened.manifest.variants if each.name not in names]
    variants = (*others, *(variant for variant, _ in made))
    golden = opened.golden()
    for variant, content in made:
        golden = golden.sealing(variant.file, content)
    bundle.update(
        opened,
        manifest=msgspec.structs.replace(opened.manifest, variants=variants, budget=budget),
        content={**{variant.file: content for variant, content in made}, bundle.GOLDEN: golden.to_bytes()},
    )


def _int8(workshop: Workshop, laboratory: Laboratory, done: Quantized, dialects: tuple[str, ...]) -> list[Made]:
    """The chosen trial's variants and files, in every int8 dialect asked for, and those of single backends."""
    p50_ms = done.chosen.p50_ms
    fastest = min(p50_ms, key=lambda each: p50_ms[each])
    contents = {name: workshop.make(done.chosen.plan, DIALECTS[name]) for name in dialects}
    faster = laboratory.islands(done.chosen, contents[DIALECT], fastest) if DIALECT in contents else "float32"
    made = [(_variant(name, name, workshop, done.chosen.plan, faster), content) for name, content in contents.items()]
    for (name, trial), backend in zip(done.others.items(), done.found.others, strict=True):
        content = workshop.make(trial.plan, DIALECTS[done.dialect])
        faster = laboratory.islands(trial, content, backend) if done.dialect == DIALECT else "float32"
        made.append((_variant(name, done.dialect, workshop, trial.plan, faster), content))
    return made


def _half(opened: bundle.Bundle) -> Made:
    import onnx

    content = fp16.converted(onnx.load(opened.variant_file("float32")))
    return Variant(name=FP16, file=f"model.{FP16}.onnx", precision="fp16"), content


def _variant(name: str, dialect: str, workshop: Workshop, plan: Plan, faster: Precision) -> Variant:
    """faster: in which precision what is float32 in the file runs faster."""
    calibration = Calibration(
        images=len(workshop.images),
        ranges=plan.ranges,
        operators=tuple(sorted({node.op_type for node in workshop.setting(plan, DIALECTS[dialect]).nodes})),
        placement=plan.placement,
        weight_ranges=plan.weight_ranges,
        passes=plan.passes,
        islands=plan.islands,
    )
    return Variant(
        name=name,
        file=f"model.{name}.onnx",
        precision="int8",
        calibration=calibration,
        islands=faster if DIALECTS[dialect].islands == "float32" else DIALECTS[dialect].islands,
    )
