"""Whether ARM64 boards give the labels of x86, under emulation.

    sudo .venv/bin/python benchmarks/arm64/run.py runs/digits/bundle FOLDER runs/imagenet-lite0/bundle FOLDER

BUNDLE FOLDER: a classifier, and pictures for it or a video; of these as many as --frames says, for all bundles or for
each: a network of ImageNet's size takes seconds for each on an emulated board. Seconds are those of an emulator: they
tell what is worth its while there, not how fast a board is.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import plots, study

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "arm64"))
from board import PI4, PI5, prepare  # noqa: E402

import edgecv_runtime as rt  # noqa: E402
from edgecv_runtime import bundle as bundles  # noqa: E402
from edgecv_runtime import stream  # noqa: E402
from edgecv_runtime.evidence import Evidence  # noqa: E402

KEPT = Path.home() / ".cache/edgecv/arm64"
HOW = "Each way to run a bundle on each board: what it answers beside the same way on x86, frame by frame."


def frames(place: Path, count: int) -> np.ndarray:
    """So many pictures of one size, from all over a folder or a video."""
    if place.is_dir():
        files = sorted(path for path in place.rglob("*") if path.suffix in (".png", ".jpg"))
        return np.stack([rt.images.read(path) for path in files[:: max(1, len(files) // count)][:count]])
    with stream.open_source(str(place)) as source:
        found = [frame.image for frame in source]
    return np.stack(found[:: max(1, len(found) // count)][:count])


def rows(name: str, x86: dict[str, Any], board: str, there: dict[str, Any]) -> list[str]:
    """A line of the table for each way to run."""
    lines = []
    float32 = np.array(there["float32 on onnxruntime"]["scores"]).argmax(1)
    for way, found in there.items():
        if way.startswith("auto"):
            continue
        cells = [name, board, way]
        if "error" in found:
            lines.append(f"| {' | '.join([*cells, 'does not load', '', '', ''])} | |")
            continue
        own, other = np.array(found["scores"]), np.array(x86[way]["scores"])
        same, kept = (own.argmax(1) == other.argmax(1)).sum(), (own.argmax(1) == float32).sum()
        layers = ", ".join(f"{count} {kind}" for kind, count in found["layers"].items())
        cells += [_share(same, len(own)), f"{np.abs(own - other).max():.2g}", _share(kept, len(own))]
        lines.append(f"| {' | '.join(cells)} | {found['executed']} ({layers}) | {found['seconds']:.0f} |")
    return lines


def _share(count: int, of: int) -> str:
    return f"{100 * count / of:.0f} % ({count} of {of})"


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("places", metavar="BUNDLE FOLDER", type=Path, nargs="+")
    parser.add_argument("--frames", type=int, nargs="+", default=[32])
    given = parser.parse_args()
    pairs = list(zip(given.places[::2], given.places[1::2], strict=True))
    counts = given.frames * len(pairs) if len(given.frames) == 1 else given.frames
    lines = ["| bundle | board | way | labels of x86 | largest score difference | labels of its float32 "
             "| executed (layers) | seconds, load and frames |",
             "| --- | --- | --- | ---: | ---: | ---: | --- | ---: |"]  # fmt: skip
    autos = []
    with tempfile.TemporaryDirectory() as folder:
        share = Path(folder)
        machine = prepare(KEPT, share)
        subprocess.run(["cp", ROOT / "tests/arm64/guest.py", share], check=True)
        for (bundle, place), count in zip(pairs, counts, strict=True):
            name = rt.Bundle(bundle).manifest.name
            subprocess.run(["cp", "-r", bundle, share / name], check=True)
            with rt.Bundle(share / name) as opened:  # as it comes to a device: judged nowhere
                bundles.update(opened, evidence=Evidence())
            np.save(share / f"{name}.npy", frames(place, count))
            own = [sys.executable, share / "guest.py", share / name, share / f"{name}.npy", "1"]
            x86 = json.loads(subprocess.run(own, check=True, capture_output=True).stdout)
            for board in (PI4, PI5):
                words = ("/data/guest.py", f"/data/{name}", f"/data/{name}.npy", "1")
                found = json.loads(machine.run(board, *words, timeout_s=3600).stdout)
                lines += rows(name, x86, f"{board.model} ({board.cpu})", found)
                took = found["auto int8"]
                autos.append(f'- {name} on {board.name}: `precision="int8"` takes {took["backend"]}')
    STUDY.record([HOW, "", *lines, "", *autos])


STUDY = study.Study(
    Path(__file__),
    "ARM64 boards beside x86",
    picture=plots.Rows(
        "frames with the label that x86 gives, %",
        {"labels of x86": ""},
        label=lambda row: f"{row['bundle']}, {row['way']}",
        group=lambda row: row["board"],
        bars=True,
    ),
)


if __name__ == "__main__":
    main()
