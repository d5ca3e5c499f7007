"""What quantization-aware training gives back: plain int8, the same with bias correction, and the trained file.

    python benchmarks/quantization_qat/run.py --cifar10 cifar10.zip --out runs/qat NAME:SIZE:WEIGHTS ...

Placement and ranges are the same in all three, so that they are equally fast; batch norms are live in the first half.
Stopped, the same command goes on. Writes benchmarks/quantization_qat/results.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from benchmarks import plots, study
from benchmarks.quantized import NORMALIZATION, Cifar, Subject, arguments, cifar10, outputs, score
from edgecv import data
from edgecv.train import Augment, QuantizedTraining, TrainConfig, fit
from edgecv_export.calibrate import sample
from edgecv_export.dialects import DIALECTS
from edgecv_export.plan import Plan, Workshop
from edgecv_export.qat import network, norms
from edgecv_export.ranges import Ranges


def main() -> None:
    """Train every subject on the grid and write the table."""
    parser = arguments(__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--train", type=int, default=50_000, help="how many training images")
    parser.add_argument("--placement", default="merged")
    parser.add_argument("--ranges", nargs="+", default=["min-max"], help="estimators: each is a study of its own")
    parser.add_argument("--dialect", default="int8-u8s8", choices=list(DIALECTS))
    given = parser.parse_args()
    rows = [row for subject in given.subjects for ranges in given.ranges for row in of_network(subject, ranges, given)]
    body = [
        f"{given.dialect}, placement {given.placement}; {given.epochs} epoch(s) on {given.train:,} "
        f"training images, peak learning rate {given.lr:g}, of scales {QuantizedTraining().scale_lr:g}. Scores are of "
        f"{given.test:,} test images, drops with their "
        "paired bootstrap interval.",
        "",
        "| network | ranges | file | top-1 % | drop in points | seconds of training |",
        "| --- | --- | --- | --- | --- | --- |",
        *rows,
    ]
    STUDY.record(body)


def of_network(subject: Subject, ranges: Ranges, given: Any) -> list[str]:
    """The table's rows of one network."""
    images = cifar10(given.cifar10, subject.preprocess, given.test)
    model, dialect = subject.graph(), DIALECTS[given.dialect]
    workshop = Workshop(model, sample(images.calibration))
    plain = Plan(placement=given.placement, ranges=ranges, passes=())
    corrected = Plan(placement=given.placement, ranges=ranges)
    contents = {"int8": workshop.make(plain, dialect), "int8, bias corrected": workshop.make(corrected, dialect)}
    contents["int8, trained"], seconds = trained(subject, workshop, plain, images, given)
    reference = outputs(model.SerializeToString(), images.test)
    known = score(reference, reference, images.test_labels).value
    rows = [f"| {subject.name} | | float32 | {100 * known:.2f} | | |"]
    for name, content in contents.items():
        got = score(reference, outputs(content, images.test), images.test_labels)
        drop = f"{got.drop:.2f} ({got.drop_low:.2f} to {got.drop_high:.2f})"
        took = f"{seconds:.0f}" if name == "int8, trained" else ""
        rows.append(f"| {subject.name} | {ranges} | {name} | {100 * got.value:.2f} | {drop} | {took} |")
    print("\n".join(rows), flush=True)
    return rows


def trained(subject: Subject, workshop: Workshop, plan: Plan, images: Cifar, given: Any) -> tuple[bytes, float]:
    """The trained file, and how long that took; the epoch is chosen on training images that are held out."""
    dialect = DIALECTS[given.dialect]
    setting = workshop.setting(plan, dialect)
    original = subject.network()
    normed = norms.find(original, setting.wiring, torch.zeros(2, 3, subject.size, subject.size))
    found = data.load(data.DataConfig(source="cifar10", path=str(given.cifar10)))
    held = len(images.calibration) + len(images.check)
    picked = found.train.take(min(len(found.train), given.train + held), seed=2)
    order = torch.randperm(len(picked), generator=torch.Generator().manual_seed(2)).numpy()
    dataset = data.Dataset(found.classes, picked.pick(order[held:]), picked.pick(order[:held]))
    base = TrainConfig(batch=128, augment=Augment(pad=subject.size // 8, flip=True))
    settings = QuantizedTraining(epochs=given.epochs, lr=given.lr)
    config = settings.applied_to(base)
    live = round(settings.live * config.epochs * (len(dataset.train) // config.batch))
    model = network.FakeQuantized(setting, dialect, normed, live, settings.scale_lr / settings.lr)
    folder = given.out / f"{subject.name}-{dialect.name}-{plan.ranges}"
    done = fit(model, dataset, subject.preprocess, NORMALIZATION, config, folder, progress=False)
    return network.write(model.cpu(), setting, dialect), done.seconds


STUDY = study.Study(
    Path(__file__),
    "Quantization-aware training on CIFAR-10",
    picture=plots.Rows(
        "top-1 on CIFAR-10, %",
        {"top-1 %": ""},
        label=lambda row: ", ".join(filter(None, (row["file"], row["ranges"]))),
        group=lambda row: row["network"],
        bars=True,
    ),
)


if __name__ == "__main__":
    main()
