"""Train the study's networks on CIFAR-10, one after the other; stopped at any moment, the same command goes on.

    python benchmarks/quantization_training/run.py --cifar10 cifar10.zip --out runs/quantization [--only NAME ...]

Writes OUT/NAME/weights.safetensors, with the curves beside it, and benchmarks/quantization_training/results.md.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks import plots, study
from edgecv import data, models
from edgecv.train import Augment, TrainConfig, TrainResult, fit
from edgecv_runtime import machine
from edgecv_runtime.preprocess import Normalization, Preprocess

NORMALIZATION = Normalization(mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))


@dataclass(frozen=True)
class Run:
    """One network of the study. size: pixels of the square input; CIFAR-10's own are 32."""

    model: str
    size: int
    epochs: int
    lr: float


# Sized for two cores; on a GPU give --epochs.
RUNS = (
    Run("mobilenet_v3_small", 64, 10, 3e-3),
    Run("resnet18", 32, 8, 2e-3),
    Run("mobilenet_v2", 32, 8, 3e-3),
    Run("efficientnet_lite0", 48, 4, 3e-3),
    Run("mobilenet_v3_large", 32, 8, 3e-3),
    Run("efficientnet_b0", 48, 4, 3e-3),
    Run("convnext_atto", 64, 6, 2e-3),
    Run("vit_tiny", 64, 4, 1e-3),
)


def main() -> None:
    """Train what is asked for and write the table of what there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", type=Path, required=True, help="the archive, or a folder or .zip of images")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", choices=[run.model for run in RUNS])
    parser.add_argument("--epochs", type=int, help="instead of each row's own")
    given = parser.parse_args()
    dataset = data.load(data.DataConfig(source="cifar10", path=str(given.cifar10)))
    rows = []
    for run in RUNS:
        if given.only and run.model not in given.only:
            continue
        result = train(run, dataset, given.out / run.model, given.epochs or run.epochs)
        print(f"{run.model}: {result.score:.4f} after {result.epochs} epochs, {result.seconds:.0f} s", flush=True)
        rows.append((run, result))
    if not given.only:
        write(rows)


def train(run: Run, dataset: data.Dataset, folder: Path, epochs: int) -> TrainResult:
    """Train one network from fresh, seeded weights."""
    network = models.create(run.model, classes=10, seed=0)
    if torch.cuda.is_available():
        network = network.cuda()
    config = TrainConfig(
        epochs=epochs, batch=128, lr=run.lr, warmup_epochs=1, augment=Augment(pad=run.size // 8, flip=True)
    )
    preprocess = Preprocess(size=(run.size, run.size), mode="stretch", interpolation="linear")
    return fit(network, dataset, preprocess, NORMALIZATION, config, folder, progress=False)


def write(rows: list[tuple[Run, TrainResult]]) -> None:
    """Write the table. The best epoch is chosen on the test images and flatters; the last is chosen by nothing."""
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else machine.this().cpu
    lines = [
        f"On {where} with torch {torch.__version__}, {torch.get_num_threads()} threads. Seconds are of a machine that "
        "did other work too.",
        "",
        "| network | input | epochs | best top-1 % (of epoch) | last top-1 % | seconds |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for run, result in rows:
        lines.append(
            f"| {run.model} | {run.size} | {result.epochs} | {100 * result.score:.2f} ({result.best_epoch}) "
            f"| {100 * result.last_score:.2f} | {result.seconds:.0f} |"
        )
    STUDY.record(lines)


STUDY = study.Study(
    Path(__file__),
    "The networks of the quantization studies, trained on CIFAR-10",
    picture=plots.Rows(
        "top-1 on CIFAR-10 after the last epoch, %",
        {"last top-1 %": ""},
        label=lambda row: f"{row['network']}, {row['input']} pixels, {row['epochs']} epochs",
        bars=True,
    ),
)


if __name__ == "__main__":
    main()
