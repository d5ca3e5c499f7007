"""Read a run folder: the bundle, and what each step of a build left beside it."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgecv.run import drawn
from edgecv.run.drawn import Drawn
from edgecv.run.verified import FILE, Frames, read_frames
from edgecv_runtime import records
from edgecv_runtime.bench import table
from edgecv_runtime.bench.table import Row
from edgecv_runtime.bundle import GOLDEN, Bundle
from edgecv_runtime.head import ClassificationHead
from edgecv_runtime.machine import Machine
from edgecv_runtime.manifest import Manifest
from edgecv_runtime.records import Record


class Candidate(Record, frozen=True):
    """One way to quantize that was tried: agreement with float32 (0..1), divergence, ms by backend.

    drop_points: of the task's metric that it lost on check images whose truths are known; None without them.
    """

    placement: str
    ranges: str
    agreement: float
    kl: float
    p50_ms: dict[str, float]
    chosen: bool
    name: str = ""
    drop_points: float | None = None


class Quantization(Record, frozen=True):
    """What `BUNDLE.quantize.json` holds: every candidate, and milliseconds of float32 and its bf16 by backend.

    max_drop_points: of the metric that might be lost.
    """

    float_ms: dict[str, float]
    candidates: tuple[Candidate, ...]
    bf16_ms: dict[str, float] = {}
    max_drop_points: float | None = None


class _Step(msgspec.Struct):
    seconds: float | None = None


class _State(msgspec.Struct):
    """The part of `state.json` that a report shows; the rest is the builder's."""

    steps: dict[str, _Step] = {}


@dataclass(frozen=True)
class Run:
    """All that is known of one run; a part that its folder lacks is None, and `absent` says what and why."""

    path: Path
    manifest: Manifest
    rows: list[Row]
    machines: list[Machine]
    frames: Frames | None
    drawn: Drawn | None
    curves: dict[str, list[float]] | None
    quantization: Quantization | None
    seconds: dict[str, float] | None
    recipe: str | None
    absent: list[str]


def beside(bundle: Path, what: str) -> Path:
    """Where something about a bundle is kept that does not travel with it: `BUNDLE.what.json`."""
    path = bundle.absolute()
    return path.with_name(f"{path.name}.{what}.json")


def read(path: Path) -> Run:
    """Read a run folder; raises BundleError or BadInput when something in it is broken or does not match."""
    with Bundle(path / "bundle") as bundle:
        manifest = bundle.manifest
        rows = table.rows(bundle)
        machines = bundle.evidence().machines()
        golden = bundle.golden() if GOLDEN in manifest.files else None
    absent = []
    names = {each.name for each in manifest.variants}
    shown = drawn.read(path / drawn.FILE, manifest)
    frames = read_frames(path / FILE, manifest) if shown is None else None
    if frames is None and shown is None:
        absent.append("Labels beside pictures, disagreements: no verify.npz; 'edgecv build' writes it.")
    elif frames is not None and (gone := names - {variant for variant, *_ in frames.outputs}):
        absent.append(f"What {', '.join(sorted(gone))} says of the frames: verify.npz is not of the bundle's file.")
    is_classifier = isinstance(manifest.head, ClassificationHead)
    if shown is None and frames is None and golden is not None and is_classifier:
        frames = Frames(golden.images, golden.logits, None, {})
    if frames is None and shown is None:
        absent.append("Pictures: the bundle has no golden inputs, or the files that were drawn are no longer in it.")
    elif frames is not None and frames.labels is None:
        absent.append("Accuracy and confusion matrix: the frames have no labels, so agreement stands in their place.")
    curves = read_curves(path / "train" / "curves.csv")
    if curves is None:
        absent.append("Training curves: no train/curves.csv; a pretrained model is not trained.")
    elif not (path / "train" / "batch-1.png").is_file():
        absent.append("Training batches: no train/batch-1.png; 'edgecv build' writes it when it trains.")
    quantization = _quantization(beside(path / "bundle", "quantize"))
    if quantization is None:
        absent.append("Quantization candidates: no bundle.quantize.json; the model was not quantized in this run.")
    state = _decoded(path / "state.json", _State)
    if state is None:
        absent.append("Durations: no state.json; 'edgecv build' writes it.")
    seconds = {name: step.seconds for name, step in state.steps.items() if step.seconds is not None} if state else None
    recipe = path / "recipe.yaml"
    text = recipe.read_text(encoding="utf-8", errors="replace") if recipe.is_file() else None
    if text is None:
        absent.append("Recipe: no recipe.yaml.")
    if not any(row.latency for row in rows):
        absent.append("Latency: nothing was timed; run 'edgecv bench'.")
    return Run(
        path, manifest, rows, list(machines.values()), frames, shown, curves, quantization, seconds, text, absent
    )


def _quantization(path: Path) -> Quantization | None:
    """What a search left; older ones knew classifiers alone, and named their agreement so."""
    if not path.is_file():
        return None
    return records.decode(path.read_bytes().replace(b'"top1_agreement"', b'"agreement"'), Quantization, str(path))


def _decoded(path: Path, kind: type[records.T]) -> records.T | None:
    return records.decode(path.read_bytes(), kind, str(path)) if path.is_file() else None


def read_curves(path: Path) -> dict[str, list[float]] | None:
    """Columns of figures by their names; empty and non-numeric cells become NaN."""
    if not path.is_file():
        return None
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    if not lines:
        return None
    return {name: [_figure(line[name]) for line in lines] for name in lines[0] if name}


def _figure(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return float("nan")
