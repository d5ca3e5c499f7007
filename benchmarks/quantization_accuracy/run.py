"""What int8 costs in accuracy on the CIFAR-10 test set, beside the defaults of onnxruntime and NNCF.

    python benchmarks/quantization_accuracy/run.py --cifar10 cifar10.zip --nncf SITE --out OUT NAME:SIZE:WEIGHTS ...

All three get the same weights and the same 300 calibration images; edgecv's search also sees 2,000 training images,
labelled where the network knows their classes. SITE is a folder made with `pip install --target SITE nncf`. A network
that OUT has figures of is not measured again; benchmarks/quantization_accuracy/results.md is written from all of them.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks import plots, quantized, study
from edgecv_export.export import export
from edgecv_export.quantize import QuantizeConfig, quantize
from edgecv_runtime import Bundle
from edgecv_runtime.errors import ModelFileError
from edgecv_runtime.evidence import Score
from edgecv_runtime.manifest import Budget
from edgecv_runtime.preprocess import Image

# Points of top-1 that int8 may lose.
MAY_LOSE = {
    "resnet18": 0.3,
    "efficientnet_lite0": 0.3,
    "convnext_atto": 0.3,
    "efficientnet_b0": 0.5,
    "mobilenet_v2": 0.5,
    "mobilenet_v3_small": 0.7,
    "mobilenet_v3_large": 0.7,
    "vit_tiny": 0.7,
}


class Row(msgspec.Struct, frozen=True):
    """One file of a network. divergence: from float32, in nats; over_peer: against the peer that lost less."""

    network: str
    size: int
    file: str
    score: Score
    divergence: float
    over_peer: Score | None = None


def main() -> None:
    """Quantize every network three ways and score every file on the test set."""
    parser = quantized.arguments(__doc__)
    parser.add_argument("--nncf", type=Path, required=True, help="folder that nncf was installed into")
    parser.add_argument("--out", type=Path, required=True, help="folder of the figures")
    parser.add_argument("--budget-s", type=float, default=300.0, help="seconds for each search")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for subject in given.subjects:
        known = given.out / f"{subject.name}-{subject.size}{'-imagenet' if subject.published else ''}.json"
        if not known.exists():
            images = quantized.cifar10(given.cifar10, subject.preprocess, given.test)
            known.write_bytes(msgspec.json.encode(of_network(subject, images, given.nncf, given.budget_s)))
    found = [msgspec.json.decode(path.read_bytes(), type=list[Row]) for path in sorted(given.out.glob("*.json"))]
    STUDY.record(found)


def table(found: list[list[Row]]) -> list[str]:
    """The lines of the page."""
    count = found[0][0].score.count
    return [
        f"{count:,} test images, scored on OpenVINO, or on ONNX Runtime what OpenVINO refuses; intervals (95 %) from a",
        "paired bootstrap. The last column is the",
        "drop of edgecv's file from the file of the peer that lost less, on the same images: an interval that holds 0",
        "is no difference. `imagenet`: published weights, which name a picture by the likeliest of ImageNet's classes",
        "that belong to one of CIFAR-10; their search knew no labels.",
        "",
        "| network | input | file | top-1 | drop, points | may lose | divergence, nats | drop from the better peer |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |",
        *(line(row) for rows in found for row in rows),
    ]


def line(row: Row) -> str:
    """One line of the table."""
    may = MAY_LOSE[row.network.split()[0]] if row.over_peer else None
    cells = [
        row.network,
        str(row.size),
        row.file,
        f"{row.score.value:.2%}",
        drop(row.score) if row.file != "float32" else "",
        f"{may}" if may else "",
        f"{row.divergence:.2g}" if row.file != "float32" else "",
        drop(row.over_peer) if row.over_peer else "",
    ]
    return f"| {' | '.join(cells)} |"


def drop(scored: Score) -> str:
    """Points with their interval."""
    return f"{scored.drop:.2f} ({scored.drop_low:.2f} to {scored.drop_high:.2f})"


def of_network(subject: quantized.Subject, images: quantized.Cifar, site: Path, budget_s: float) -> list[Row]:
    """The rows of one network."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "model.onnx"
        onnx.save(subject.graph(), source)
        ours, name = searched(subject, images, Path(folder) / "bundle", budget_s)
        contents = {
            "float32": source.read_bytes(),
            f"edgecv: {name}": ours,
            "onnxruntime's default": quantized.onnxruntime_default(source, images.calibration),
            "NNCF's default": quantized.nncf_default(source, images.calibration, site),
        }
    outputs = dict(computed(content, each, images.test) for each, content in contents.items())
    logits = {each: subject.classes(output) for each, output in outputs.items()}
    scores = {each: quantized.score(logits["float32"], logits[each], images.test_labels) for each in logits}
    _, own, *peers = logits
    better = min(peers, key=lambda each: scores[each].drop)
    rows = [
        Row(
            network=f"{subject.name} imagenet" if subject.published else subject.name,
            size=subject.size,
            file=each,
            score=scores[each],
            divergence=quantized.verify.agreement(outputs["float32"], outputs[each], "float32").divergence,
            over_peer=quantized.score(logits[better], logits[own], images.test_labels) if each == own else None,
        )
        for each in logits
    ]
    print("\n".join(line(row) for row in rows), flush=True)
    return rows


def computed(content: bytes, name: str, frames: Image) -> tuple[str, NDArray[np.float32]]:
    """A file's name and its outputs, on OpenVINO, or where that refuses the file on ONNX Runtime."""
    try:
        return name, quantized.outputs(content, frames)
    except ModelFileError:
        return f"{name} (OpenVINO refuses it)", quantized.outputs(content, frames, "onnxruntime")


def searched(subject: quantized.Subject, images: quantized.Cifar, path: Path, budget_s: float) -> tuple[bytes, str]:
    """The file of edgecv's own search, and the name of its plan."""
    budget = Budget(max_drop_points=MAY_LOSE[subject.name])
    export(
        subject.network(),
        path,
        name=subject.name,
        preprocess=subject.preprocess,
        normalization=subject.normalization,
        labels=subject.labels,
        images=images.check[:8],
        budget=budget,
    )
    config = QuantizeConfig(images=quantized.CALIBRATION, check_images=quantized.CHECK, budget_s=budget_s)
    labels = None if subject.published else images.check_labels
    done = quantize(path, images.calibration, config, print, check=images.check, labels=labels, budget=budget)
    with Bundle(path) as opened:
        return opened.variant_file("int8-u8s8").read_bytes(), done.chosen.plan.name


STUDY = study.Study(
    Path(__file__),
    "Accuracy of int8 on CIFAR-10",
    table,
    kind=list[list[Row]],
    picture=plots.Rows(
        "points of top-1 lost from float32 (95 %)",
        {"drop, points": ""},
        label=lambda row: f"{row['network']}, {row['input']} pixels",
        series=lambda row: "edgecv's search" if row["file"].startswith("edgecv") else row["file"].split(" (")[0],
        linear_to=1,
        line=0,
    ),
)

if __name__ == "__main__":
    main()
