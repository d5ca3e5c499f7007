"""How often a comparison is wrong: false alarms, a slow-down that was put in, repeated verdicts, disturbances.

`python benchmarks/comparison/run.py PART [RUNS]` runs one part (equal, slower, repeated, disturbed) and adds it to
what is recorded. Each takes minutes, on a quiet machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import plots, study
from edgecv_runtime import Bundle
from edgecv_runtime.bench.compare import Compared, Contender, compare
from edgecv_runtime.bench.latency import job
from edgecv_runtime.target import Target, targets

TINY = Path(__file__).parents[2] / "tests" / "assets" / "digits.edgecv"
ROUNDS, SECONDS = 8, 0.08  # short: a tiny network
SLOWER = 1.05
RUNS = {"equal": 200, "slower": 60, "repeated": 20, "disturbed": 10}
QUOTA = Path("/sys/fs/cgroup/cpu/edgecv-study")


def main() -> int:
    """Run a part, or be the worker that is slower."""
    if sys.argv[1:] == ["--slow-worker"]:
        return slow_worker()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=sorted(RUNS))
    parser.add_argument("runs", type=int, nargs="?")
    options = parser.parse_args()
    part, wanted = options.part, options.runs or RUNS[options.part]
    record: dict[str, list[dict[str, Any]]] = STUDY.figures() or {}
    with Bundle(TINY) as bundle:
        for _ in range(wanted):
            record.setdefault(part, []).extend(PARTS[part](bundle))
            STUDY.keep(record)  # what a long part was cut into adds up
    STUDY.write()
    return 0


def slow_worker() -> int:
    """A benchmark process whose calls take 5 % longer than they do."""
    from edgecv_runtime.bench import worker

    real = worker.block_ms

    def block_ms(call: Any, seconds: float) -> list[float]:
        def slowed() -> None:
            start = time.perf_counter()
            call()
            end = start + (time.perf_counter() - start) * SLOWER
            while time.perf_counter() < end:
                pass

        return real(slowed, seconds)

    worker.block_ms = block_ms
    return worker.main()


def equal(bundle: Bundle) -> list[dict[str, Any]]:
    """The same file beside itself."""
    return [against(bundle, _float(bundle))]


def slower(bundle: Bundle) -> list[dict[str, Any]]:
    """The same file beside itself, 5 % slower."""
    command = (sys.executable, str(Path(__file__).resolve()), "--slow-worker")
    return [against(bundle, _float(bundle), command)]


def repeated(bundle: Bundle) -> list[dict[str, Any]]:
    """OpenVINO's bf16 and float32 of a file, of which people ask which is faster, again and again."""
    ways = [each for each in targets(bundle, threads=1) if each.backend == "openvino"]
    return [against(bundle, ways[0], other=ways[-1])]


def disturbed(bundle: Bundle) -> list[dict[str, Any]]:
    """The same file beside itself, while another program takes a core, and while a quota holds everything up."""
    found = []
    for name, disturbance in (("busy core", busy_core), ("quota", quota)):
        with disturbance():
            found.append(against(bundle, _float(bundle)) | {"disturbance": name})
    return found


PARTS = {"equal": equal, "slower": slower, "repeated": repeated, "disturbed": disturbed}


def against(
    bundle: Bundle, target: Target, command: tuple[str, ...] = (), other: Target | None = None
) -> dict[str, Any]:
    """One comparison, as a row of the record."""
    contenders = [Contender("a", job(bundle, target)), Contender("b", job(bundle, other or target), command)]
    start = time.monotonic()
    found: Compared = compare(contenders, rounds=ROUNDS, seconds=SECONDS)
    ratio = found.contenders[1].ratio
    assert ratio is not None
    return {
        "verdict": ratio.verdict,
        "ratio": round(ratio.value, 4),
        "low": round(ratio.low, 4),
        "high": round(ratio.high, 4),
        "p50_ms": round(found.contenders[0].p50_ms, 4),
        "medians": round(found.contenders[1].p50_ms / found.contenders[0].p50_ms, 4),
        "said": found.disturbance.said,
        "seconds": round(time.monotonic() - start, 1),
    }


@contextmanager
def busy_core() -> Iterator[None]:
    """Another program that takes a core."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        try:
            yield
        finally:
            other.kill()


@contextmanager
def quota() -> Iterator[None]:
    """This process and its children get half of one core, by a control group (version 1, as root)."""
    QUOTA.mkdir(exist_ok=True)
    (QUOTA / "cpu.cfs_quota_us").write_text("50000")
    (QUOTA / "cgroup.procs").write_text(str(os.getpid()))
    try:
        yield
    finally:
        (QUOTA.parent / "cgroup.procs").write_text(str(os.getpid()))
        for _ in range(50):  # the workers are ending
            try:
                QUOTA.rmdir()
                break
            except OSError:
                time.sleep(0.1)


def page(record: dict[str, list[dict[str, Any]]]) -> list[str]:
    """The table of all parts, and what else they tell."""
    names = {
        "equal": "a file beside itself",
        "slower": "the same, with 5 % put into the second",
        "repeated": "OpenVINO's bf16 beside its float32",
    }
    lines = [
        "| compared | runs | faster | slower | no difference | not told | ratio | width of interval | medians alone |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for part, name in names.items():
        rows = record.get(part, [])
        if not rows:
            continue
        counts = Counter(each["verdict"] for each in rows)
        told = [counts[each] for each in ("faster", "slower", "as fast", "not told")]
        width = statistics.median(each["high"] / each["low"] - 1 for each in rows)
        ratios, medians = ([each[key] for each in rows] for key in ("ratio", "medians"))
        cells = [name, len(rows), *told, spread(ratios), f"{width:.1%}", spread(medians)]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    lines.append("")
    for name, sign in (("busy core", "other programs"), ("quota", "throttled: a quota")):
        rows = [each for each in record.get("disturbed", []) if each["disturbance"] == name]
        if not rows:
            continue
        noticed = sum(any(line.startswith(sign) for line in each["said"]) for each in rows)
        lines.append(f"- Disturbed by a {name}: noticed in {noticed} of {len(rows)} runs.")
    alike = record.get("equal", [])
    busy = sum(any(line.startswith("other programs") for line in each["said"]) for each in alike)
    lines.append(f"- In {busy} of the {len(alike)} runs of a file beside itself other programs ran, too.")
    every = [each for rows in record.values() for each in rows]
    p50_ms, seconds = (statistics.median(each[key] for each in every) for key in ("p50_ms", "seconds"))
    how = (
        "Which of two is faster, asked again and again: the network of the handwritten digits with one thread "
        f"({p50_ms:.3f} ms a call, the hardest there is to compare), {ROUNDS} rounds of "
        f"{SECONDS} s; one comparison takes {seconds:.0f} s. Ratio: median, and the range of all runs. It does not "
        "show how networks of 100 ms compare, whose blocks hold three calls each."
    )
    return [how, "", *lines]


STUDY = study.Study(
    Path(__file__),
    "Comparisons",
    page,
    picture=plots.Rows(
        "% of the comparisons, by verdict",
        {each: each for each in ("faster", "slower", "no difference", "not told")},
        bars=True,
        stacked=True,
        share_of="runs",
    ),
)


def spread(values: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):.3f} ({min(values):.3f}–{max(values):.3f})"


def _float(bundle: Bundle) -> Target:
    return next(each for each in targets(bundle, threads=1) if each.backend == "onnxruntime")


if __name__ == "__main__":
    sys.exit(main())
