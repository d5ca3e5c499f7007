"""How long the search takes to rank the layers by what they cost, and whether few images find those that cost most.

    python benchmarks/quantization_ranking/run.py NAME ... --archives foolbox*.whl scikit_image*.whl wallpapers.zip

Each layer is quantized alone, and the file run on many check images and on the few that the search takes, in turn.
Published ImageNet weights; `photographs.py` says where pictures come from. Writes
benchmarks/quantization_ranking/results.md.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import msgspec
import numpy as np
import onnx

from benchmarks import photographs, plots, study
from edgecv import models
from edgecv_export.calibrate import sample
from edgecv_export.export import export
from edgecv_export.placement import PLACEMENTS, quantized_nodes
from edgecv_export.plan import Plan, Workshop
from edgecv_export.trial import RANKING_IMAGES, Laboratory
from edgecv_runtime.bundle import Bundle

CALIBRATION, MANY = 32, 64
PLAN = Plan("all", passes=("rounding", "bias"))
TOPS = (1, 2, 4, 8)


def main() -> None:
    """Rank the layers of each network twice and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archives", type=Path, nargs="+", required=True, help="zips (wheels) of pictures")
    parser.add_argument("names", nargs="+")
    given = parser.parse_args()
    rows = [of_network(name, given.archives) for name in given.names]
    STUDY.record(
        [
            f"Seconds to quantize every layer alone and measure it, on {MANY} check images and on the {RANKING_IMAGES}",
            "that int8 as a whole moves most, each layer with both in turn; the median ratio is of these pairs.",
            f"Found: how many layers that cost most on {MANY} images are among as many first ones of the others.",
            "",
            f"| network | layers | s, {MANY} images | s, {RANKING_IMAGES} images | median ratio "
            f"| {' | '.join(f'found of {top}' for top in TOPS)} |",
            f"| --- | ---: | ---: | ---: | ---: |{' ---: |' * len(TOPS)}",
            *rows,
        ],
    )


def of_network(name: str, archives: list[Path]) -> str:
    """One network: a row."""
    source = models.spec(name).weights[0]
    pictures = photographs.read(archives, source.preprocess, (CALIBRATION, MANY, 1))
    network = models.create(name, classes=1000, weights="imagenet", in_channels=3)
    with tempfile.TemporaryDirectory() as folder:
        export(
            network,
            Path(folder) / "bundle",
            name=name,
            preprocess=source.preprocess,
            normalization=source.normalization,
            labels=models.labels("imagenet"),
            images=pictures.check[:8],
        )
        with Bundle(Path(folder) / "bundle") as opened:
            file = opened.variant_file("float32")
            workshop = Workshop(onnx.load(file), sample(pictures.calibration))
            laboratory = Laboratory(opened.manifest, file, pictures.check, None)
            return ranked(name, workshop, laboratory)


def ranked(name: str, workshop: Workshop, laboratory: Laboratory) -> str:
    """Both ways to rank, layer by layer in turn."""
    wiring, _ = workshop.form(())
    names = [node.name for node in quantized_nodes(wiring, PLACEMENTS[PLAN.placement])]
    layers = [each for each in names if wiring.layer(wiring.nodes[each]) is not None]
    sets = {"many": None, "few": laboratory.hardest(workshop.make(PLAN))}
    costs: dict[str, list[float]] = {way: [] for way in sets}
    seconds: dict[str, list[float]] = {way: [] for way in sets}
    for index, layer in enumerate(layers):
        only = msgspec.structs.replace(PLAN, islands=tuple(each for each in names if each != layer))
        for way in list(sets)[:: 1 if index % 2 == 0 else -1]:
            start = time.perf_counter()
            costs[way].append(laboratory.divergence(workshop.make(only), sets[way]))
            seconds[way].append(time.perf_counter() - start)
        print(layer, {way: f"{costs[way][-1]:.2g}" for way in sets}, flush=True)
    order = {way: list(np.argsort(-np.array(found))) for way, found in costs.items()}

    ratio = np.median(np.array(seconds["many"]) / np.array(seconds["few"]))
    found = " | ".join(str(len(set(order["few"][:top]) & set(order["many"][:top]))) for top in TOPS)
    times = f"{sum(seconds['many']):.0f} | {sum(seconds['few']):.0f} | {ratio:.1f}"
    return f"| {name} | {len(layers)} | {times} | {found} |"


STUDY = study.Study(
    Path(__file__),
    "Ranking the layers by what they cost",
    picture=plots.Rows(
        "seconds to rank the layers",
        {f"s, {count} images": f"on {count} images" for count in (MANY, RANKING_IMAGES)},
        label=lambda row: f"{row['network']}, {row['layers']} layers",
        bars=True,
    ),
)


if __name__ == "__main__":
    main()
