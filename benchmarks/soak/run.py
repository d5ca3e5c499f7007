"""An hour of `edgecv soak`: cameras fail, decoders' processes are killed; what becomes of memory, ages and the account.

    edgecv build recipes/digits.yaml && python benchmarks/soak/run.py [--bundle runs/digits/bundle] [--minutes 60]

Writes benchmarks/soak/results.json and results.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import edgecv_runtime as rt
from benchmarks import pages, plots, study
from edgecv_runtime.stream.soak import Soak, soak


def main() -> None:
    """Run it, and record what it found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=Path("runs/digits/bundle"))
    parser.add_argument("--minutes", type=float, default=60.0)
    given = parser.parse_args()
    with rt.load(given.bundle) as model:
        STUDY.record(soak(model, minutes=given.minutes))


def page(found: Soak) -> list[str]:
    """The account, memory and ages."""
    sources = found.report.sources
    read, inferred, failed = (sum(getattr(each, name) for each in sources) for name in ("read", "inferred", "failed"))
    dropped = sum(sum(each.dropped.values()) for each in sources)
    lines = [
        f"Scripted cameras that freeze, fail, hang up and set their clocks, for {found.minutes:.0f} minutes, and a "
        "decoder's process that is killed every 15 s. It does not show real cameras, nor months.",
        "",
        "| | |",
        "| --- | --- |",
        f"| frames read, with results, dropped as late, failed, unaccounted | {read:,}, {inferred:,}, {dropped:,}, "
        f"{failed:,}, {read - inferred - dropped - failed:,} |",
    ]
    if found.rss_mb is not None and found.rss_mb_per_minute is not None:
        growth = f"{found.rss_mb[1]} MB, {found.rss_mb_per_minute:.2f} MB a minute"
        lines.append(f"| memory, and its growth after the warm-up | {growth} |")
    if found.descriptors is not None:
        (files, files_end), (threads, threads_end) = found.descriptors, found.threads
        counts = f"{files} and {files_end}, {threads} and {threads_end}"
        lines.append(f"| open files and threads, after the warm-up and at the end | {counts} |")
    if found.age_late is not None:
        ages = f"{found.age_late.p99_ms:.1f} ms and {found.age_late.max_ms:.0f} ms in the last half"
        lines.append(f"| ages, 99 % and largest | {ages} |")
    lines.append(f"| decoders killed, errors logged | {found.killed}, {len(found.errors)} |")
    return lines


def drawn(found: Soak) -> dict[str, str]:
    """A picture of how soon each camera came again."""
    faults = {"jump": "sets its clock, changes its size, fails", "freeze": "freezes, fails", "end": "hangs up"}
    rows = []
    for each in found.recoveries:
        name = next((words for sign, words in faults.items() if sign in each.source), "its decoder is killed")
        rows.append((f"{name} ({each.count} times)", pages.cell(f"{each.median_s} ({each.median_s}–{each.worst_s})")))
    table = pages.Table((pages.Column("camera"), pages.Column("s")), tuple(rows))
    picture = plots.Rows("seconds until frames come again, median and longest", {"s": ""}, log=True)
    return {"results.svg": picture.draw([table], "soak-results")}


STUDY = study.Study(Path(__file__), "An hour under faults", page, kind=Soak, plots=drawn)

if __name__ == "__main__":
    main()
