"""Quantize a finished bundle: search or convert, then judge what came of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from edgecv.data.given import Given, Source
from edgecv.run import judged, searched
from edgecv.run.folder import beside
from edgecv_export.calibrate import sample
from edgecv_export.explain import explain, explain_evidence
from edgecv_export.quantize import QuantizeConfig, Quantized, convert, divided
from edgecv_export.quantize import quantize as search
from edgecv_runtime import files
from edgecv_runtime.errors import BadInput, Unavailable
from edgecv_runtime.manifest import Budget
from edgecv_runtime.preprocess import Image


@dataclass(frozen=True)
class Outcome:
    """What quantizing gave: the search, or None of a conversion; lines that explain it; what is offered here then.

    unkept: why the evidence is not in the bundle.
    """

    done: Quantized | None
    lines: list[str]
    offered: dict[str, str]
    unkept: Unavailable | None


def asked(known: Budget, max_drop: float | None, min_agreement: float | None) -> Budget:
    """A bundle's budget with what else is asked for; raises BadInput for what no file can promise."""
    if max_drop is not None and max_drop < 0:
        raise BadInput(
            f"--max-drop {max_drop:g}: no file can promise to gain accuracy; ask for one closer to float32 by "
            "--min-agreement 0.99, or for the closest that is as fast as float32 by --goal divergence"
        )
    more = {"max_drop_points": max_drop, "min_agreement": min_agreement}
    return msgspec.structs.replace(known, **{name: value for name, value in more.items() if value is not None})


def quantize(
    bundle: Path,
    config: QuantizeConfig,
    budget: Budget,
    *,
    calibration: Source | None = None,
    check: Given | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Find the fastest int8 file within a budget, or convert to half precision; then prove and time what there is.

    calibration: images for int8; check: images that choose between the ways to quantize, by default the rest of
    `calibration`. The record of the search, and its book of trials, lie beside the bundle.
    Raises what `edgecv_export.quantize` raises, Unavailable where the bundle cannot be written.
    """
    book = beside(bundle, "trials")
    done = None
    try:
        files.check_replaceable(bundle)
        if calibration is not None and config.int8:
            on: dict[str, Any] = {}
            if check is not None:
                on = {"check": check.frames, "labels": check.truths, "views": check.views}
            done = search(bundle, calibration, config, say, budget=budget, book=book, **on)
        else:
            convert(bundle, budget)
    except OSError as exc:
        raise Unavailable(f"{exc.filename or bundle}: {exc.strerror}; the bundle is as it was") from exc
    if done is not None:
        searched.keep(done, budget, bundle)
    if check is None and calibration is not None:
        check = Given(unseen(calibration, config), [], None)
    manifest, evidence, unkept = judged.measured(bundle, check, say)
    lines = [] if done is None else explain(done, budget)
    for name in (*config.dialects, *(done.others if done is not None else ())):
        lines += explain_evidence(evidence, manifest, name)
    return Outcome(done, lines, judged.states(manifest, evidence), unkept)


def unseen(images: Source, config: QuantizeConfig) -> Image:
    """Those of the images that calibrate no int8 file, which looks better on what it was made with."""
    return divided(images, None, config)[1] if config.int8 else sample(images).some(config.check_images)
