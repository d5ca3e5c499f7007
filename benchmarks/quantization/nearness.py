"""How near int8 comes to float32 on photographs that calibration never saw, pass by pass.

    python benchmarks/quantization/nearness.py --archives wheels/*.whl bccd.zip --out FOLDER NAME ...

The networks have their published ImageNet weights; `photographs.py` says where pictures come from. Every file is scored
on both backends; with `--times`, on a machine that does nothing else, they are timed in turns. `--beside "TITLE=FILE"`
adds files of the last network from elsewhere, another version's say. Writes
benchmarks/results/quantization-nearness.md from all networks in FOLDER.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
import msgspec
import numpy as np
import onnx
import photographs
import placements
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, quantize_static

from edgecv import models
from edgecv_export.calibrate import sample
from edgecv_export.export import export
from edgecv_export.plan import Plan, Workshop
from edgecv_export.quantize import QuantizeConfig, quantize
from edgecv_export.ranges import ESTIMATORS
from edgecv_runtime import verify
from edgecv_runtime.bundle import Bundle

BACKENDS = ("onnxruntime", "openvino")
CALIBRATION, CHECK, TEST = 128, 160, 320
ENTROPY_IMAGES = 16  # onnxruntime's histograms hold every activation of all of them in memory
SEARCHED = "edgecv's search"


@dataclass(frozen=True)
class Row:
    """One file on one backend: nats and share of test pictures that keep float32's label; median milliseconds, or 0."""

    network: str
    file: str
    backend: str
    divergence: float
    agreement: float
    ms: float


def main() -> None:
    """Measure the networks named and write the table of all that are known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archives", type=Path, nargs="+", required=True, help="zips (wheels) of pictures and clips")
    parser.add_argument("--out", type=Path, required=True, help="folder of the figures")
    parser.add_argument("--beside", nargs="*", default=[], metavar="TITLE=FILE", help="files of the last network")
    parser.add_argument("--times", action="store_true", help="time the files, too")
    parser.add_argument("--budget-s", type=float, default=600.0, help="seconds of each search")
    parser.add_argument("names", nargs="*", help="none: the page is written again from FOLDER")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for name in given.names:
        beside = dict(each.split("=", 1) for each in given.beside) if name == given.names[-1] else {}
        rows = study(name, given.archives, beside, given.budget_s, given.times)
        (given.out / f"{name}.json").write_bytes(msgspec.json.encode(rows))
    found = [msgspec.json.decode(path.read_bytes(), type=list[Row]) for path in sorted(given.out.glob("*.json"))]
    archives = ", ".join(archive.name.split("-")[0] for archive in given.archives)
    common.write("quantization-nearness", "How near int8 comes to float32", page(found, archives))


def page(found: list[list[Row]], archives: str) -> list[str]:
    """The lines of the page."""
    lines = [
        f"{TEST} pictures that neither calibrated ({CALIBRATION}) nor chose ({CHECK}), in equal shares of {archives};",
        "published ImageNet weights. Divergence from float32 in nats; share of the pictures that keep float32's label;",
        "`onnxruntime:` are files of its own `quantize_static`.",
    ]
    for rows in found:
        lines += ["", f"## {rows[0].network}", ""]
        names = list(dict.fromkeys(row.backend for row in rows))
        columns = ["nats", "kept", *(["ms"] if any(row.ms for row in rows) else [])]
        if "ms" in columns:
            lines += [f"Median milliseconds of {placements.ROUNDS} interleaved rounds at batch 1.", ""]
        lines.append(f"| file | {' | '.join(f'{name}: {each}' for name in names for each in columns)} |")
        lines.append(f"| --- |{' ---: |' * len(names) * len(columns)}")
        for file in dict.fromkeys(row.file for row in rows):
            cells = [cell(row) for name in names for row in rows if (row.file, row.backend) == (file, name)]
            lines.append(f"| {file} | {' | '.join(cells)} |")
    return lines


def cell(row: Row) -> str:
    """The columns of a file on a backend."""
    return f"{row.divergence:.2g} | {row.agreement:.1%}" + (f" | {row.ms:.2f}" if row.ms else "")


def study(name: str, archives: list[Path], beside: dict[str, str], budget_s: float, timed: bool) -> list[Row]:
    """Every file of one network on every backend."""
    source = models.spec(name).weights[0]
    pictures = photographs.read(archives, source.preprocess, (CALIBRATION, CHECK, TEST))
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
        frame = Path(folder) / "frame.npy"
        np.save(frame, pictures.test[:1])
        rows = []
        for backend in BACKENDS:
            times = placements.interleaved(paths, backend, "", frame, bf16=False) if timed else {}
            reference = common.outputs(paths["float32"].read_bytes(), pictures.test, backend)
            for title, path in paths.items():
                found = verify.agreement(
                    reference, common.outputs(path.read_bytes(), pictures.test, backend), "float32"
                )
                rows.append(Row(name, title, backend, found.divergence, found.share.value, float(times.get(title, 0))))
                print(rows[-1], flush=True)
    return rows


def contents(
    source: Path, pictures: photographs.Photographs, bundle: Path, budget_s: float
) -> Iterator[tuple[str, bytes]]:
    """Files by title: onnxruntime's, ours with one thing changed at a time, and what the search gives."""
    for title, options in {
        "per tensor (its default)": {},
        "per channel": {"per_channel": True},
        "per channel, entropy": {"per_channel": True, "calibrate_method": CalibrationMethod.Entropy},
    }.items():
        frames = pictures.calibration[:ENTROPY_IMAGES] if "calibrate_method" in options else pictures.calibration
        target = source.with_name("theirs.onnx")
        quantize_static(source, target, Frames(frames), **options)
        yield f"onnxruntime: {title}", target.read_bytes()
        target.unlink()
    workshop = Workshop(onnx.load(source), sample(pictures.calibration))
    plans = [Plan("all", passes=())]
    plans += [Plan("all", ranges) for ranges in ESTIMATORS]
    plans += [Plan("all", ranges, passes=(*workshop.float_forms, "bias")) for ranges in ESTIMATORS]
    plans += [Plan("all", "mse", "mse", passes=(*workshop.float_forms, "bias"))]
    for plan in plans:
        yield plan.name, workshop.make(plan)
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


if __name__ == "__main__":
    main()
