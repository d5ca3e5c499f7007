"""How good the choice of `edgecv tune` is, and how many trials it takes, against measuring the whole grid.

    python benchmarks/auto.py MODEL [GOAL...]

The grid: backend x variant x threads x streams x batch. The exhaustive figures are medians of interleaved passes over
the whole grid; the regret is the chosen setting's cost over the best one's, both taken from there, never from the
search's own measurements. Adds to benchmarks/results/auto.json and writes benchmarks/results/auto.md.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import msgspec
import study

from edgecv_runtime import Bundle, tuning
from edgecv_runtime.choose import Target, targets
from edgecv_runtime.goals import Goal, Trial

PASSES, GOALS, SEARCHES = 2, ("latency", "throughput", "p99 <= 20 ms"), 1
STORE = study.RESULTS / "auto.json"


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


def exhaustive(grid: list[Target], bundle: Bundle) -> dict[Target, list[Trial]]:
    """Every setting measured in each of several passes, every second one in reverse order."""
    found: dict[Target, list[Trial]] = {target: [] for target in grid}
    for number in range(PASSES):
        for target in grid if number % 2 == 0 else reversed(grid):
            found[target] += tuning.measure([target], bundle.manifest.input)
    return found


def study_model(name: str, goals: list[str]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    with study.exported(name) as path:
        quantized(path)
        with Bundle(path) as bundle:
            known = [target for target in targets(bundle) if target.hint == "float32"]
            grid = [each for target in known for each in tuning.settings(target)]
            whole = exhaustive(grid, bundle)
            for text in goals:
                goal = Goal(text)
                cost = {target: statistics.median(map(goal.cost, trials)) for target, trials in whole.items()}
                best = min(cost, key=lambda target: cost[target])
                for _ in range(SEARCHES):
                    search = tuning.Search(known, goal, lambda some: tuning.measure(some, bundle.manifest.input))
                    chosen = search.run()
                    rows.append(
                        {
                            "model": name,
                            "goal": text,
                            "chosen": described(chosen),
                            "best": described(best),
                            "regret": cost[chosen] / cost[best],
                            "trials": len(search.trials),
                            "grid": len(grid),
                        }
                    )
    return rows


def described(target: Target) -> str:
    return f"{target.key} [threads {target.threads}, streams {target.streams}, batch {target.batch}]"


def main() -> None:
    """Measure one model, and write the table of all that were measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("goals", nargs="*", default=list(GOALS))
    given = parser.parse_args()
    old = msgspec.json.decode(STORE.read_bytes()) if STORE.exists() else []
    rows = [row for row in old if row["model"] != given.model] + study_model(given.model, given.goals)
    STORE.write_bytes(msgspec.json.format(msgspec.json.encode(rows)) + b"\n")
    lines = [
        "| model | goal | chosen | best of the whole grid | cost over the best | trials, of the grid |",
        "| --- | --- | --- | --- | ---: | ---: |",
    ]
    lines += [
        f"| {row['model']} | {row['goal']} | {row['chosen']} | {row['best']} | {row['regret']:.3f} | "
        f"{row['trials']} of {row['grid']} |"
        for row in rows
    ]
    regrets = [row["regret"] for row in rows]
    lines += ["", f"Median cost over the best: {statistics.median(regrets):.3f}, worst {max(regrets):.3f}."]
    how = (
        f"Fresh weights, float32 and int8 (the speed counts here), threads 0: all. Each line is one search of its own. "
        f"The grid was measured {PASSES} times over, {tuning.ROUNDS} rounds of {tuning.SECONDS_EACH} s each time."
    )
    study.write("auto", "The choice of `edgecv tune` against the whole grid", how, lines)


if __name__ == "__main__":
    main()
