"""How good the choice of `edgecv tune` is, and how many trials it takes, against measuring the whole grid.

    python benchmarks/auto/run.py [MODEL...]

The grid: backend x variant x threads x streams x batch. One pass over the whole grid finds what may be the best of it;
these few and the choice of the search are then measured head to head in interleaved rounds, which decide. The search's
own measurements count for nothing here. Keeps its rows in benchmarks/auto/results.json, a model at a time, and writes
benchmarks/auto/results.md.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

from benchmarks import plots, study
from edgecv_runtime import Bundle, tuning
from edgecv_runtime.goals import Goal, Trial
from edgecv_runtime.manifest import TensorSpec
from edgecv_runtime.target import Target, targets

MODELS = ("lenet5", "mobilenet_v3_small", "mobilenet_v2", "efficientnet_lite0", "resnet18")
GOALS = tuple(map(Goal, ("latency", "throughput", "p99 <= 20 ms")))
CANDIDATES, HEADS = 3, 6


def quantized(path: Path) -> None:
    """Add int8, calibrated on pieces of one real frame: its speed is what counts here."""
    import numpy as np

    from edgecv_export.quantize import QuantizeConfig, quantize

    frame = study.frame_1080p()[:, :, ::-1]
    with Bundle(path) as opened:
        height, width, _ = opened.manifest.input.shape[1:]
    pieces = [
        frame[top : top + height, left : left + width]
        for top in range(0, frame.shape[0] - height, height)
        for left in range(0, frame.shape[1] - width, width)
    ]
    plain = QuantizeConfig(
        images=16, check_images=16, placements=("layers",), ranges=("min-max",), passes=(), islands=False
    )
    quantize(path, np.stack(pieces), plain)


def head_to_head(some: list[Target], spec: TensorSpec) -> dict[Target, list[Trial]]:
    """Each round opens all of them and measures them in turn, every second round in reverse order."""
    found: dict[Target, list[Trial]] = {target: [] for target in some}
    for number in range(HEADS):
        order = some if number % 2 == 0 else some[::-1]
        for target, trial in zip(order, tuning.measure(order, spec), strict=True):
            found[target].append(trial)
    return found


def study_model(name: str) -> list[dict[str, Any]]:
    with study.exported(name) as path:
        quantized(path)
        with Bundle(path) as bundle:
            spec = bundle.manifest.input
            known = [target for target in targets(bundle) if target.hint == "float32"]
            grid = [each for target in known for each in tuning.settings(target)]
            whole = {target: tuning.measure([target], spec)[0] for target in grid}
            searches, chosen, seconds = {}, {}, {}
            for goal in GOALS:
                begin = time.perf_counter()
                searches[goal] = tuning.Search(known, goal, lambda some: tuning.measure(some, spec))
                chosen[goal] = searches[goal].run()
                seconds[goal] = time.perf_counter() - begin
            near = {goal: sorted(whole, key=lambda each: goal.cost(whole[each]))[:CANDIDATES] for goal in GOALS}
            rivals = {goal: list(dict.fromkeys([chosen[goal], *near[goal]])) for goal in GOALS}
            heads = head_to_head(list(dict.fromkeys(each for goal in GOALS for each in rivals[goal])), spec)
    rows: list[dict[str, Any]] = []
    for goal in GOALS:
        speed = goal if goal.is_latency else Goal("throughput")
        costs = {each: list(map(speed.cost, heads[each])) for each in rivals[goal]}
        kept = {each: sum(map(goal.kept_by, heads[each])) for each in rivals[goal]}
        best = min(costs, key=lambda each: (-kept[each], statistics.median(costs[each])))
        rows.append(
            {
                "model": name,
                "goal": goal.text,
                "chosen": described(chosen[goal]),
                "best": described(best),
                "over_best": study.ratio(costs[chosen[goal]], costs[best]),
                "kept": f"{kept[chosen[goal]]}, {kept[best]} of {HEADS}" if goal.text.startswith("p") else "",
                "trials": len(searches[goal].trials),
                "grid": len(grid),
                "seconds": seconds[goal],
            }
        )
    return rows


def described(target: Target) -> str:
    return f"{target.key} [threads {target.threads}, streams {target.streams}, batch {target.batch}]"


def main() -> None:
    """Measure models, and write the table of all that were measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=MODELS, choices=MODELS)
    for name in parser.parse_args().models:
        rows = [row for row in STUDY.figures() or [] if row["model"] != name] + study_model(name)
        STUDY.record(sorted(rows, key=lambda row: MODELS.index(str(row["model"]))))


def page(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| model | goal | chosen | best of the whole grid | over the best (10–90 %) | bound kept by chosen, best "
        "| trials, of the grid | search |",
        "| --- | --- | --- | --- | ---: | ---: | ---: | ---: |",
    ]
    shown = (
        "| {model} | {goal} | {chosen} | {best} | {0:.3f} ({1:.3f}–{2:.3f}) | {kept} | {trials} of {grid} "
        "| {seconds:.0f} s |"
    )
    lines += [shown.format(*row["over_best"], **row) for row in rows]
    medians = [row["over_best"][0] for row in rows]
    within = sum(each <= 1.03 for each in medians)
    lines += [
        "",
        f"Within 1.03 of the best: {within} of {len(rows)}. Median cost over the best: "
        f"{statistics.median(medians):.3f}, worst {max(medians):.3f}.",
    ]
    how = (
        f"Fresh weights, float32 and int8 (the speed counts here), threads 0: all. Each line is one search of its own. "
        f"One pass over the whole grid ({tuning.ROUNDS} rounds of {tuning.SECONDS_EACH} s for each setting) finds the "
        f"{CANDIDATES} best; settings that lie that close together change places from pass to pass, so these and the "
        f"choice of the search are then measured head to head: {HEADS} times opened anew, {tuning.ROUNDS} interleaved "
        f"rounds each time. The cost over the best is the median of the ratios to the setting that wins there; for a "
        "bound, it has the most frames a second of those that keep it every time."
    )
    return [how, "", *lines]


STUDY = study.Study(
    Path(__file__),
    "The choice of `edgecv tune` against the whole grid",
    page,
    picture=plots.Rows(
        "cost of the choice over the best of the whole grid, median of ratios (10–90 %)",
        {"over the best (10–90 %)": ""},
        label=lambda row: f"{row['model']}, {row['goal']}",
        line=1,
    ),
)


if __name__ == "__main__":
    main()
