"""What int8 costs in accuracy on the CIFAR-10 test set, beside the defaults of onnxruntime and NNCF.

    python benchmarks/quantization/accuracy.py --cifar10 cifar10.zip --nncf SITE NAME:SIZE:WEIGHTS ...

All three get the same weights and the same 300 calibration images; edgecv's search also sees 1,000 labelled training
images. SITE is a folder made with `pip install --target SITE nncf`. Writes benchmarks/results/quantization-accuracy.md.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import common
import onnx

from edgecv_export.export import export
from edgecv_export.quantize import QuantizeConfig, quantize
from edgecv_runtime import Bundle
from edgecv_runtime.manifest import Budget

WAYS = tuple(way for way, _, _ in common.WAYS)


def main() -> None:
    """Quantize every network three ways and score every file on the test set."""
    parser = common.arguments(__doc__)
    parser.add_argument("--nncf", type=Path, help="folder that nncf was installed into; left out, it has no row")
    parser.add_argument("--budget-s", type=float, default=300.0, help="seconds for each search")
    parser.add_argument("--max-drop", type=float, default=0.5)
    parser.add_argument("--time", action="store_true", help="latency too; only on a machine that does nothing else")
    given = parser.parse_args()
    rows = []
    for subject in given.subjects:
        images = common.cifar10(given.cifar10, subject.preprocess, given.test)
        budget = Budget(max_drop_points=given.max_drop)
        rows += study(subject, images, given.nncf, budget, given.budget_s, given.time)
    columns = [
        "network",
        "file",
        "top-1",
        "drop, points (95 %)",
        *([f"{way} ms" for way in WAYS] if given.time else []),
    ]
    common.write(
        "quantization-accuracy",
        "Accuracy of int8 on CIFAR-10",
        [
            f"{given.test:,} test images, scored on OpenVINO; intervals from a paired bootstrap.",
            "",
            f"| {' | '.join(columns)} |",
            f"| --- | --- |{' ---: |' * (len(columns) - 2)}",
            *rows,
        ],
    )


def study(
    subject: common.Subject, images: common.Cifar, site: Path | None, budget: Budget, budget_s: float, timed: bool
) -> list[str]:
    """The rows of one network."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "model.onnx"
        onnx.save(subject.graph(), source)
        ours, name = searched(subject, images, Path(folder) / "bundle", budget, budget_s)
        contents = {"float32": source.read_bytes(), f"edgecv: {name}": ours}
        contents["onnxruntime's default"] = common.onnxruntime_default(source, images.calibration)
        if site is not None:
            contents["NNCF's default"] = common.nncf_default(source, images.calibration, site)
    logits = {each: common.outputs(content, images.test) for each, content in contents.items()}
    times = common.interleaved(contents, images.test) if timed else {}
    rows = []
    for each in contents:
        scored = common.score(logits["float32"], logits[each], images.test_labels)
        drop = f"{scored.drop_points:.2f} ({scored.drop_low:.2f} to {scored.drop_high:.2f})"
        cells = [subject.name, each, f"{scored.top1.value:.2%}", drop]
        cells += [f"{times[each, way]:.2f}" if (each, way) in times else "" for way in WAYS if timed]
        rows.append(f"| {' | '.join(cells)} |")
        print(rows[-1], flush=True)
    return rows


def searched(
    subject: common.Subject, images: common.Cifar, path: Path, budget: Budget, budget_s: float
) -> tuple[bytes, str]:
    """The file of edgecv's own search, and the name of its plan."""
    network = common.models.create(subject.name, classes=10, weights=str(subject.weights), in_channels=3)
    export(
        network,
        path,
        name=subject.name,
        preprocess=subject.preprocess,
        normalization=common.NORMALIZATION,
        labels=[str(label) for label in range(10)],
        images=images.check[:8],
        budget=budget,
    )
    config = QuantizeConfig(images=common.CALIBRATION, check_images=common.CHECK, budget_s=budget_s)
    done = quantize(
        path, images.calibration, config, print, check=images.check, labels=images.check_labels, budget=budget
    )
    with Bundle(path) as opened:
        return opened.variant_file("int8-u8s8").read_bytes(), done.chosen.plan.name


if __name__ == "__main__":
    main()
