"""Detection and segmentation the whole way: what they reach, what int8 loses, and where a frame's time goes.

    python benchmarks/tasks/run.py [--boxes bccd.zip] [--masks membrane.zip] [--runs FOLDER] [--only NAME]

Builds recipes/digit-boxes.yaml and recipes/ink.yaml, whose pictures every machine can make, and with the sets that are
given benchmarks/tasks/bccd.yaml and membrane.yaml; what is built already is taken as it is. Keeps its rows in
benchmarks/tasks/results.json, a set at a time, and writes benchmarks/tasks/results.md.
"""

from __future__ import annotations

import argparse
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np

import edgecv_runtime as rt
from benchmarks import plots, study
from edgecv import recipe
from edgecv.build import build
from edgecv.data import DataConfig, load
from edgecv_runtime import tasks
from edgecv_runtime.bench import table
from edgecv_runtime.evidence import Agreement, Score
from edgecv_runtime.head import SCORES
from edgecv_runtime.preprocess import Image
from edgecv_runtime.target import Target, targets
from edgecv_runtime.verify import chosen

HERE = Path(__file__).parent
RECIPES = {
    "digit-boxes": HERE.parents[1] / "recipes" / "digit-boxes.yaml",
    "ink": HERE.parents[1] / "recipes" / "ink.yaml",
    "bccd": HERE / "bccd.yaml",
    "membrane": HERE / "membrane.yaml",
}
LONGER = {  # than the demo has time for
    "digit-boxes": ["train.epochs=16", "train.warmup_epochs=1", "quantize.budget_s=120"],
    "ink": ["train.epochs=12", "quantize.budget_s=30"],
}
FRAMES, ROUNDS, SECONDS = 16, 7, 0.15
CANDIDATES = 300
STAGES = ("preprocess", "network", "decode", "draw", "frame to result")


class Way(msgspec.Struct, frozen=True):
    """One variant on one backend. ms: by stage, the median of each round; candidates_ms: of decoding CANDIDATES."""

    target: str
    executed: str
    offered: bool
    why_not: str
    score: Score
    agreement: Agreement
    ms: dict[str, list[float]]


class Row(msgspec.Struct, frozen=True):
    """One data set. output, logits: bytes of a frame that leave the network, and that logits would be (0: no classes).

    candidates_ms: of decoding a frame with CANDIDATES boxes above the threshold, by round; [] where there are none.
    load: of the machine when the stages were timed, mean over a minute: what else ran makes networks slower.
    """

    name: str
    network: str
    size: tuple[int, int]
    output: int
    logits: int
    candidates_ms: list[float]
    load: float
    ways: list[Way]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boxes", help="the BCCD set, a .zip or folder of Pascal VOC XML")
    parser.add_argument("--masks", help="the membranes of ISBI 2012, a .zip or folder of images and masks")
    parser.add_argument("--runs", type=Path, default=Path("runs/tasks"), help="folder that the runs are kept in")
    parser.add_argument("--only", choices=RECIPES, action="append", help="these sets alone; may be repeated")
    asked = parser.parse_args()
    paths = {"bccd": asked.boxes, "membrane": asked.masks}
    rows = {row.name: row for row in STUDY.figures() or []}
    for name in asked.only or RECIPES:
        if name in paths and paths[name] is None:
            print(f"{name}: its data are not given; left out")
            continue
        if name == "membrane":
            paths[name] = quarters(paths[name], asked.runs / "membrane-quarters")
        overrides = [f"data.path={paths[name]}"] if name in paths else LONGER[name]
        rows[name] = measure(name, overrides, asked.runs)
        STUDY.record([rows[each] for each in RECIPES if each in rows])


def quarters(sections: str, folder: Path) -> Path:
    """Each section in four, those of one section in one part: 30 are too few to calibrate int8 and to check it."""
    data = load(DataConfig(source="masks", path=sections, val=0.2))
    for part, images in (("train", data.train), ("val", data.val)):
        assert images.truths is not None
        for index in range(len(images)):
            for kind, picture in (("images", images[index]), ("masks", images.truths[index])):
                half = [side // 2 for side in picture.shape[:2]]
                for number, (top, left) in enumerate(itertools.product((0, half[0]), (0, half[1]))):
                    path = folder / part / kind / f"{index:02}-{number}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    cv2.imwrite(str(path), picture[top : top + half[0], left : left + half[1]])
    (folder / "classes.txt").write_text("membrane\ncell\n")
    return folder


def measure(name: str, overrides: list[str], runs: Path) -> Row:
    """Build a set's recipe, and time the stages of each way to run what it gave."""
    asked = recipe.read(RECIPES[name], overrides)
    done = build(asked, runs / name, say=print, progress=False)
    data, busy = load(asked.data), os.getloadavg()[0]
    frames = [(data.test or data.val)[index] for index in range(FRAMES) if index < len(data.test or data.val)]
    with rt.Bundle(done.bundle) as opened:
        manifest = opened.manifest
        known = {each.target: each for each in table.rows(opened)}
        ways = []
        output = logits = 0
        candidates: list[float] = []
        for target in targets(opened):
            row = known[target.key]
            if row.score is None or row.agreement is None:
                continue
            given = np.stack([manifest.preprocess(frames[0])])
            ways.append(
                Way(
                    target.key,
                    row.executed or "",
                    row.offered,
                    row.why_not,
                    row.score,
                    row.agreement,
                    stages(opened, target, frames),
                )
            )
            if not output:
                backend = target.open()
                found = backend.run({manifest.input.name: given})
                backend.close()
                output = sum(found[each.name].nbytes for each in manifest.outputs)
                logits = sum(each.nbytes for each in chosen.logits(target, manifest, given).values())
                candidates = crowded(manifest, found, manifest.preprocess.view(frames[0].shape[:2]))
    size = manifest.preprocess.size
    return Row(name, asked.model.name, size, output, logits, candidates, busy, ways)


def stages(opened: rt.Bundle, target: Target, frames: list[Image]) -> dict[str, list[float]]:
    """Milliseconds of each stage of a frame, by round; the frames take turns."""
    manifest = opened.manifest
    task = tasks.create(manifest.head, manifest.outputs).at(manifest.thresholds(target.variant))
    backend = target.open()
    views = [manifest.preprocess.view(frame.shape[:2]) for frame in frames]
    inputs = [manifest.preprocess(frame)[None] for frame in frames]
    outputs = [backend.run({manifest.input.name: each}) for each in inputs]
    results = [task.decode(found, [view])[0] for found, view in zip(outputs, views, strict=True)]

    def whole(index: int) -> Any:
        found = backend.run({manifest.input.name: manifest.preprocess(frames[index])[None]})
        return task.decode(found, [manifest.preprocess.view(frames[index].shape[:2])])

    of_frame: dict[str, Callable[[int], Any]] = {
        "preprocess": lambda index: manifest.preprocess(frames[index]),
        "network": lambda index: backend.run({manifest.input.name: inputs[index]}),
        "decode": lambda index: task.decode(outputs[index], [views[index]]),
        "draw": lambda index: results[index].draw(frames[index]),
        "frame to result": whole,
    }
    try:
        return study.rounds_ms({name: _in_turn(call, len(frames)) for name, call in of_frame.items()}, ROUNDS, SECONDS)
    finally:
        backend.close()


def crowded(manifest: Any, found: dict[str, Any], view: Any) -> list[float]:
    """Milliseconds of decoding a frame at the threshold that CANDIDATES boxes reach, by round; [] without boxes."""
    if SCORES not in found:
        return []
    least = float(np.sort(found[SCORES].ravel())[-CANDIDATES])
    task = tasks.create(manifest.head, manifest.outputs).at((least,) * len(manifest.labels))
    return study.rounds_ms({"": lambda: task.decode(found, [view])}, ROUNDS, SECONDS)[""]


def _in_turn(call: Callable[[int], Any], count: int) -> Callable[[], Any]:
    order = itertools.cycle(range(count))
    return lambda: call(next(order))


def page(rows: list[Row]) -> list[str]:
    heads = ("set", "network, input", "file and backend", "executed", "metric (95 %)", "n")
    heads += ("drop, points (95 %)", "agreement (95 %)", "offered")
    lines = [f"| {' | '.join(heads)} |", f"| --- | --- | --- | --- |{' ---: |' * 4} --- |"]
    for row, way in _ways(rows):
        score, share = way.score, way.agreement.share
        lines.append(
            f"| {row.name} | {row.network}, {row.size[1]} x {row.size[0]} | {way.target} | {way.executed} | "
            f"{score.metric} {score.value:.1%} ({score.low:.1%}–{score.high:.1%}) | {score.count} | "
            f"{score.drop:.2f} ({score.drop_low:.1f} to {score.drop_high:.1f}) | "
            f"{way.agreement.metric} {share.value:.1%} ({share.low:.1%}–{share.high:.1%}) | "
            f"{'yes' if way.offered else f'no: {way.why_not}'} |"
        )
    lines += ["", "Milliseconds of a frame by stage, median of rounds (10–90 %):", ""]
    lines += [f"| set | file and backend | {' | '.join(STAGES)} |", f"| --- | --- |{' ---: |' * len(STAGES)}"]
    lines += [
        f"| {row.name} | {way.target} | {' | '.join(study.shown(way.ms[stage], 2) for stage in STAGES)} |"
        for row, way in _ways(rows)
    ]
    lines += ["", "What leaves the network, and what decoding a crowd takes:", ""]
    lines += [
        "| set | bytes a frame | logits would be | times less | decode and suppress 300, ms |",
        "| --- |" + " ---: |" * 4,
    ]
    for row in rows:
        less = f"{row.logits / row.output:.0f}" if row.logits else "–"
        crowd = study.shown(row.candidates_ms) if row.candidates_ms else "–"
        lines.append(f"| {row.name} | {row.output:,} | {f'{row.logits:,}' if row.logits else '–'} | {less} | {crowd} |")
    behind = [(row, way) for row, way in _ways(rows) if way.agreement.behind is not None]
    if behind:
        lines += ["", "The logits behind the classes, beside PyTorch's:", ""]
        lines += [
            "| set | file and backend | divergence, nats | largest difference | of |",
            "| --- | --- | ---: | ---: | ---: |",
        ]
        for row, way in behind:
            found = way.agreement.behind
            assert found is not None
            lines.append(
                f"| {row.name} | {way.target} | {found.divergence:.2g} | {found.max_abs:.2g} | {found.largest:.3g} |"
            )
    offered = [way for _, way in _ways(rows) if way.offered and way.executed == "int8"]
    worst = max((way.score.drop for way in offered), default=0.0)
    how = (
        "Accuracy is of held-out images, of the test part where a set has one; drop and agreement are from PyTorch "
        "float32 on the same images. Agreement of detectors is the share of matched boxes (same class, IoU >= 0.9), "
        "of segmenters mIoU with PyTorch's masks as truth. Stages are those of single frames in their own size, "
        f"{ROUNDS} interleaved rounds of {SECONDS} s. Offered int8 loses {worst:.2f} points at most. "
        f"Load of the machine when stages were timed: {', '.join(f'{row.name} {row.load:.1f}' for row in rows)}."
    )
    return [how, "", *lines]


STUDY = study.Study(
    Path(__file__),
    "Detection and segmentation, the whole way",
    page,
    kind=list[Row],
    picture=plots.Rows(
        "milliseconds of a frame by stage, median of rounds",
        {stage: stage for stage in ("preprocess", "network", "decode", "draw")},
        label=lambda row: row["file and backend"],
        group=lambda row: row["set"],
        bars=True,
        stacked=True,
    ),
)


def _ways(rows: list[Row]) -> Iterator[tuple[Row, Way]]:
    return ((row, way) for row in rows for way in row.ways)


if __name__ == "__main__":
    main()
